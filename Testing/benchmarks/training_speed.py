"""Samples a second of the whole trainer, loading and augmentation included, against nnU-Net's.

    python -m Testing.benchmarks.training_speed PREPARED [--recipe starter-tumor] [--steps 40]
                                                [--rounds 3] [--nnunet-env ENV]

Both train the same network, whose finest output alone is supervised and as fine as its input, on
windows of the same size in batches of the same number, cut from the same prepared arrays; all else
is each trainer's own: sampling, augmentation, loading processes, precision, loss, optimizer,
average. nnU-Net lives in an environment of its own (`nnunet_env`). The two take turns; each round
times steps after a warm-up, which is longer than the batches that either keeps in stock.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from LiverTumorSegLib.backends import pick_device
from LiverTumorSegLib.labels import masks_of
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.recipes import RECIPES
from Testing.benchmarks.measured_process import ROOT
from Testing.benchmarks.nnunet_env import (
    add_environment_option,
    nnunet_environment,
    nnunet_python,
)
from Training.cache import prepared_folder, read_prepared
from Training.checks import windows
from Training.dataset import read_data_set
from Training.loading import load
from Training.train import Samples, overridden, shares_of_batches, start, train_epoch

WARM_UP = 12


def main() -> None:
    """Run both in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of Training.prepare")
    add_environment_option(parser)
    parser.add_argument("--recipe", choices=RECIPES, metavar="RECIPE", default="starter-tumor")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    recipe = overridden(RECIPES[arguments.recipe], arguments.set)
    recipe = comparable(recipe)
    python = nnunet_python(arguments.nnunet_env)
    data, device = read_data_set(arguments.data), pick_device(arguments.device)
    folders = [prepared_folder(data, case, recipe) for case in data.cases]
    print(
        f"{recipe.name}: {len(folders)} CTs, windows of {windows(recipe)[0]}, batches of "
        f"{recipe.training.batch_size}, {device}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"
    )
    speeds: dict[str, list[float]] = {"nnU-Net": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(Path(folder), recipe, folders, arguments.steps, device)
        for number in range(1, arguments.rounds + 1):
            speeds["nnU-Net"].append(theirs(job, python))
            speeds["ours"].append(ours(recipe, folders, arguments.steps, device))
            told = ", ".join(f"{name} {values[-1]:.2f}" for name, values in speeds.items())
            print(f"round {number}: {told} samples/s, load {os.getloadavg()[0]:.1f}")
    reference = statistics.median(speeds["nnU-Net"])
    print(f"\n{'trainer':12}{'samples/s':>12}{'ratio':>8}")
    for name, values in speeds.items():
        median = statistics.median(values)
        print(f"{name:12}{median:12.2f}{median / reference:8.2f}")


def comparable(recipe: Recipe) -> Recipe:
    """The recipe without what nnU-Net has not: our supervision, and outputs finer than inputs."""
    if "head_scale" in recipe.network.args:
        recipe = recipe.with_override("network.args.head_scale", "[1, 1, 1]")
    return replace(recipe, training=replace(recipe.training, deep_supervision=None))


def ours(recipe: Recipe, folders: list[Path], steps: int, device: torch.device) -> float:
    """Samples a second of the trainer's own epoch."""
    learner, samples = start(recipe, 0, device), Samples(folders, recipe, 0)
    shares = itertools.chain.from_iterable(
        shares_of_batches(samples, epoch) for epoch in itertools.count()
    )
    batches = load(samples, shares, device)
    with tqdm(disable=True) as bar:
        train_epoch(learner, batches, WARM_UP, bar)
        row = train_epoch(learner, batches, steps, bar)
    return steps * recipe.training.batch_size / row["seconds"]


def theirs(job: Path, python: Path) -> float:
    """Samples a second of nnU-Net's trainer, in its own environment."""
    done = subprocess.run(
        [python, "-m", "Testing.benchmarks.nnunet_training", job],
        cwd=ROOT,
        env={**os.environ, **nnunet_environment(job.parent)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def write_job(
    folder: Path, recipe: Recipe, folders: list[Path], steps: int, device: torch.device
) -> Path:
    """What the other environment needs: the arrays as .npz, and a description."""
    for number, path in enumerate(folders):
        case = read_prepared(path)
        masks = masks_of(case.labels)
        labels = sum(masks[target].astype(np.int8) for target in recipe.targets)
        np.savez(folder / f"case{number}.npz", image=case.image, labels=labels)
    job = {
        "network": asdict(recipe.network),
        "targets": recipe.targets,
        "patch": [size for size in windows(recipe)[0] if size > 1],
        "batch_size": recipe.training.batch_size,
        "device": device.type,
        "warm_up": WARM_UP,
        "steps": steps,
    }
    (folder / "job.json").write_text(json.dumps(job))
    return folder / "job.json"


if __name__ == "__main__":
    main()
