"""nnU-Net v2 cross-validated on our folds, as a row of the table that `Training.compare` makes.

    python -m Testing.benchmarks.nnunet_cross_validation PREPARED -o OUT --minutes M [--folds N]
                        [--only K ...] [--seed S] [--device auto|cpu|cuda] [--memory-gb GB] [--tta]
                        [--nnunet-env ENV]

The cases are written in its raw layout, background, liver and tumor as labels; it plans and
prepares them once, for `3d_fullres`, and trains on each fold of `Training.cross_validate` for about
M minutes (`nnunet_fold`). A system of two stages that got M minutes for each got 2 M in all. It
then predicts the held-out cases with its own inference, and our scorer measures them. Without --tta
mirrored images are not averaged, as ours are not. --memory-gb is what its planner fits windows and
batches to, 8 unless told; on a CPU a smaller one gives more steps.

OUT is as `Training.cross_validate` leaves it, and the same command goes on; a fold that was
interrupted starts anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from LiverTumorSegLib.backends import pick_device
from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.nifti import write_nifti
from LiverTumorSegLib.recipe import from_plain
from LiverTumorSegLib.staging import staged
from Testing.benchmarks.measured_process import ROOT
from Testing.benchmarks.nnunet_env import (
    FOLDERS,
    add_environment_option,
    nnunet_environment,
    nnunet_python,
)
from Training import product
from Training.budget import SCORED, Budget, Done, Speed
from Training.cross_validation import (
    SUMMARY,
    Plan,
    fold_words,
    in_words,
    open_plan,
    read_speed,
    run_folder,
    speed_file,
    write_json,
    write_pages,
)
from Training.dataset import Case, DataSet, make_folder, read_data_set
from Training.evaluate import FILE_NAMES, read_results, write_results
from Training.folds import fold_division, patients_of
from Training.machine import machine
from Training.scores import Provenance, merged
from Training.speed import MEASURING_SHARE, TIMED_STEPS, WARM_UP_STEPS

NAME, DATASET, CONFIGURATION, PLANS = "nnunet", "Dataset001_Liver", "3d_fullres", "nnUNetPlans"
ENDING, DONE = ".nii.gz", "done.json"
EPOCHS = 100  # at most: its learning rate falls from epoch to epoch
LABELS = {"background": 0, "liver": 1, "tumor": 2}
LAST_LINES = 15


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of Training.prepare")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, required=True, help="of training a fold")
    parser.add_argument("--folds", type=int, help="how many (default: one a patient)")
    parser.add_argument("--only", type=int, nargs="+", metavar="K", help="only these folds, from 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory-gb", type=float, default=8.0, help="that its planner fits")
    parser.add_argument("--tta", action="store_true", help="average over mirrored images")
    add_environment_option(parser)
    arguments = parser.parse_args(argv)
    try:
        device = pick_device(arguments.device)
        data = read_data_set(arguments.data)
        told = [f"memory_gb={arguments.memory_gb:g}", f"tta={arguments.tta}"]
        plan = Plan(
            recipes=(NAME,),
            changes={NAME: tuple(told)},
            folds=arguments.folds or len(patients_of(data.cases)),
            minutes=arguments.minutes,
            seed=arguments.seed,
            data=str(arguments.data.resolve()),
            cases={case.name: case.sha256 for case in data.cases},
        )
        folds = arguments.only or range(1, plan.folds + 1)
        for fold in folds:
            fold_division(data.cases, fold_words(plan, fold))
        python = nnunet_python(arguments.nnunet_env)
        open_plan(arguments.output, plan)
        plan_and_prepare(arguments.output, plan, data, python, arguments.memory_gb)
        for fold in folds:
            run_fold(arguments.output, plan, data, fold, python, device, arguments.tta)
    except (InputError, ResourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(arguments.output / SUMMARY)
    return 0


# Its raw data, plans and prepared cases


def plan_and_prepare(
    output: Path, plan: Plan, data: DataSet, python: Path, memory_gb: float
) -> None:
    """Write the cases as it reads them, and have it plan and prepare them, unless that is done.

    Raises:
        InputError: a case or a folder cannot be used.
        ResourceError: it failed.
    """
    done = folders(output)["nnUNet_preprocessed"] / DATASET / "splits_final.json"
    if done.exists():
        return
    raw = folders(output)["nnUNet_raw"] / DATASET
    for name in ("imagesTr", "labelsTr"):
        make_folder(raw / name)
    for case in data.cases:
        hu = data.volume(case).hu
        write_nifti(ct_file(output, case), hu, np.float32, case.geometry)
        path = raw / "labelsTr" / f"{case.name}{ENDING}"
        write_nifti(path, data.labels(case), np.uint8, case.geometry)
    description = {
        "channel_names": {"0": "CT"},
        "labels": LABELS,
        "numTraining": len(data.cases),
        "file_ending": ENDING,
    }
    write_json(raw / "dataset.json", description)
    print("nnU-Net plans and prepares", flush=True)
    entry = "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints"
    code = f"from {entry} import plan_and_preprocess_entry as run; run()"
    one = ["-d", "1", "-c", CONFIGURATION, "-np", "1", "-npfp", "1"]
    memory = ["-gpu_memory_target", str(memory_gb), "-overwrite_plans_name", PLANS]
    run(
        [python, "-c", code, *one, *memory],
        output,
    )
    splits = [fold_division(data.cases, fold_words(plan, k + 1)) for k in range(plan.folds)]
    told = [{"train": names(s.training), "val": names(s.held_out)} for s in splits]
    write_json(done, told)


def names(cases: list[Case]) -> list[str]:
    """Of some cases."""
    return [case.name for case in cases]


def folders(output: Path) -> dict[str, Path]:
    """Its three folders, by the variables that name them."""
    return {name: (output / NAME / name).resolve() for name in FOLDERS}


def ct_file(output: Path, case: Case) -> Path:
    """A CT as it reads it."""
    return folders(output)["nnUNet_raw"] / DATASET / "imagesTr" / f"{case.name}_0000{ENDING}"


# A fold


def run_fold(
    output: Path,
    plan: Plan,
    data: DataSet,
    fold: int,
    python: Path,
    device: torch.device,
    tta: bool,
) -> None:
    """Train, predict and measure one fold, unless that is done.

    Raises:
        InputError: a file cannot be read or written.
        ResourceError: nnU-Net failed.
    """
    done = run_folder(output, NAME, fold) / DONE
    cases = fold_division(data.cases, fold_words(plan, fold)).held_out
    if not done.exists():
        make_folder(done.parent)
        speed = speed_of(output, plan, python, device)
        predictions = {case.name: done.parent / f"{case.name}{ENDING}" for case in cases}
        print(f"fold {fold_words(plan, fold)}: nnU-Net", flush=True)
        epochs = min(steps_of(plan, speed), EPOCHS)
        results = fold_results(
            output,
            python,
            job_of(plan, fold, device)
            | {
                "epochs": epochs,
                "steps_an_epoch": speed.steps,
                "tta": tta,
                "cases": {
                    case.name: {
                        "ct": str(ct_file(output, case)),
                        "labels": str(predictions[case.name].resolve()),
                    }
                    for case in cases
                },
            },
        )
        for case in cases:
            labels = sitk.GetArrayFromImage(sitk.ReadImage(str(predictions[case.name])))
            keep_scores(output, data, case, fold, labels, results["seconds"][case.name], tta)
        training = Done(
            recipe=NAME,
            fold=fold,
            held_out=tuple(names(cases)),
            epochs=epochs,
            training_minutes=results["training_s"] / 60,
            validation_minutes=0.0,
            machine=in_words(machine(device)),
        )
        write_json(done, asdict(training))
    write_pages(output, plan, budget_of(output, plan))


def speed_of(output: Path, plan: Plan, python: Path, device: torch.device) -> Speed:
    """How fast it trains, measured once for all folds.

    Raises:
        InputError: what was measured cannot be read.
        ResourceError: nnU-Net failed.
    """
    path = speed_file(output, NAME)
    if not path.exists():
        print("nnU-Net: measuring its speed", flush=True)
        assert plan.minutes is not None
        limits = {
            "warm_up_steps": WARM_UP_STEPS,
            "timed_steps": TIMED_STEPS,
            "seconds": MEASURING_SHARE * plan.minutes * 60,
        }
        step_s = fold_results(output, python, job_of(plan, 1, device) | limits)["step_s"]
        steps = steps_of(plan, Speed(step_s, 1, None))
        make_folder(path.parent)
        write_json(path, asdict(Speed(step_s, round(steps / min(steps, EPOCHS)), None)))
    return read_speed(path)


def steps_of(plan: Plan, speed: Speed) -> int:
    """How many steps fill the minutes; at least one."""
    assert plan.minutes is not None
    return max(1, round(plan.minutes * 60 / speed.step_s))


def job_of(plan: Plan, fold: int, device: torch.device) -> dict[str, Any]:
    """What the other half is told of a fold, which it counts from 0."""
    return {
        "dataset": DATASET,
        "configuration": CONFIGURATION,
        "plans": PLANS,
        "fold": fold - 1,
        "seed": plan.seed,
        "device": device.type,
    }


def fold_results(output: Path, python: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Run the other half; what it has written.

    Raises:
        ResourceError: it failed.
    """
    path = (output / NAME / "results.json").resolve()
    job_file = path.with_name("job.json")
    write_json(job_file, job | {"output": str(path)})
    run([python, "-m", "Testing.benchmarks.nnunet_fold", job_file], output)
    return json.loads(path.read_text())


def run(command: list[Any], output: Path) -> None:
    """Run a command of its environment; what it says goes into a log.

    Raises:
        ResourceError: it failed.
    """
    log = output / NAME / "log.txt"
    own = {name: str(folder) for name, folder in folders(output).items()}
    env = {**os.environ, **nnunet_environment(output), **own}
    with log.open("a") as file:
        command = [str(word) for word in command]
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        raise ResourceError(f"nnU-Net failed with code {done.returncode}; {log} ends:\n{last}")


# What it leaves


def keep_scores(
    output: Path,
    data: DataSet,
    case: Case,
    fold: int,
    labels: np.ndarray,
    seconds: float,
    tta: bool,
) -> None:
    """Measure a prediction as `Training.evaluate` does, and add its rows to the others.

    Raises:
        InputError: the rows that are there cannot be read.
        ResourceError: the disk is full.
    """
    scores, lesions = read_results(output / SCORED)
    plans = folders(output)["nnUNet_preprocessed"] / DATASET / f"{PLANS}.json"
    results = folders(output)["nnUNet_results"] / DATASET
    (weights,) = results.glob(f"*/fold_{fold - 1}/checkpoint_final.pth")
    for target in ("liver", "tumor"):
        origin = Provenance(
            case=case.name,
            ct=case.sha256[:12],
            data=data.folder.resolve().name,
            target=target,
            liver_from="prediction",
            seen=False,
            definitions="product",
            tta=tta,
            recipes=f"{NAME}@{digest(plans)}",
            weights=f"{NAME}-{fold}@{digest(weights)}",
            seconds=seconds,
        )
        score, rows = product.score_labels(origin, labels, data.labels(case), case.geometry)
        scores = merged(scores, [score])
        if target == "tumor":
            lesions = [row for row in lesions if row.case != case.name] + rows
        print(f"{case.name:12} {target:6} Dice {score.dice:.3f}", flush=True)
    with staged(output / SCORED, FILE_NAMES) as folder:
        write_results(folder, scores, lesions)


def digest(path: Path) -> str:
    """The first 12 digits of a file's sha256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def budget_of(output: Path, plan: Plan) -> Budget:
    """What was measured and trained so far."""
    files = (run_folder(output, NAME, fold) / DONE for fold in range(1, plan.folds + 1))
    done = [json.loads(path.read_text()) for path in files if path.exists()]
    return Budget(
        minutes=plan.minutes,
        speeds={NAME: read_speed(speed_file(output, NAME))},
        settings={},
        trainings=tuple(from_plain(Done, plain, "done") for plain in done),
    )


if __name__ == "__main__":
    sys.exit(main())
