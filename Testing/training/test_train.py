"""The trainer: runs that learn, of volumes and of slices, and runs resumed to the bit."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from LiverTumorSegLib.intensity import foreground_statistics
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.recipes import RECIPES
from Testing.phantom import make_data_set
from Training import train
from Training.dataset import read_data_set
from Training.export import trained_network
from Training.schedule import learning_rate
from Training.train import bf16_is_usable, laid_out, main, overridden, total_loss
from Training.validation import held_out_dice

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
TINY = {
    "starter-liver": (
        "network.args.channels=[4,4,4,4]",
        "preprocessing.resampling.shape=[16,16,16]",
        "training.sampling.samples=1",
        "training.validate_every_epochs=2",
    ),
    "starter-tumor": (
        "network.args.width=4",
        'network.args.block="double"',
        "network.args.msca_levels=[]",
        "patch=[16,16,16]",
        "preprocessing.pad_minimum=[16,16,16]",
        "training.sampling.samples=1",
        "training.validate_every_epochs=2",
    ),
}
TINY["rmau-net"] = (
    "network.args.base_channels=6",
    "network.args.mab=false",
    "patch=[1,32,32]",
    "preprocessing.pad_minimum=[1,32,32]",
    "preprocessing.resampling=null",
    "training.learning_rate=0.01",
)
TOLD = (
    "epoch",
    "loss",
    "learning_rate",
    "held_out_loss",
    "held_out_liver_dice",
    "held_out_tumor_dice",
)
COLUMNS = [*TOLD[:3], "seconds", "seconds_waiting_for_data", *TOLD[3:]]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Sums in one order, so that two runs can agree to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_set(tmp_path_factory.mktemp("train"), patients=3)


def command(name: str, data: Path, run: Path, *options: str, epochs: int = 2) -> list[str]:
    changes = (*TINY[name], f"training.epochs={epochs}")
    changes_ = [word for change in changes for word in ("--set", change)]
    return [name, "--data", str(data), "-o", str(run), "--device", "cpu", *changes_, *options]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def state(run: Path) -> dict[str, Any]:
    return torch.load(run / "last.pt", weights_only=True)


def tensors_of(value: Any, where: str = "") -> dict[str, Any]:
    """Every leaf of nested dicts and lists, by its path."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {where: value}
    return {k: v for key, part in items for k, v in tensors_of(part, f"{where}/{key}").items()}


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, average, optimizer, generator and log, to the bit; times may differ."""
    left, right = tensors_of(state(one)), tensors_of(state(other))
    assert left.keys() == right.keys()
    assert any(key.startswith("/optimizer/state/") for key in left)
    for key, value in left.items():
        same = torch.equal(value, right[key]) if isinstance(value, Tensor) else value == right[key]
        assert same, key
    assert [[row[k] for k in TOLD] for row in rows(one)] == [
        [row[k] for k in TOLD] for row in rows(other)
    ]


# Precision


def on_depth(depth: int) -> Recipe:
    return replace(RECIPES["starter-tumor"], patch=(depth, 64, 64))


def test_bf16_is_right_for_slices_of_every_size() -> None:
    """What the rule for volumes guards against does not happen in 2D: gradients agree."""
    recipe = replace(RECIPES["rmau-net"], patch=(1, 32, 32))  # four poolings leave two pixels
    assert bf16_is_usable(CPU, recipe) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    generator = torch.Generator().manual_seed(0)
    for side in (1, 2, 3, 4, 16):
        image = torch.randn(2, 8, side, side, generator=generator)
        weight = torch.randn(8, 8, 3, 3, generator=generator)
        gradients = []
        for bf16 in (False, True):
            leaf = weight.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                output = torch.conv2d(image, leaf, padding=1)
            output.backward(image.to(output.dtype))
            gradients.append(leaf.grad)
        assert (gradients[0] - gradients[1]).norm() < 0.03 * gradients[0].norm()


@pytest.mark.parametrize("depth", [2, 4, 8, 16, 32])
def test_bf16_is_not_used_where_pooling_leaves_two_slices(depth: int) -> None:
    assert not bf16_is_usable(CPU, on_depth(depth))


@pytest.mark.parametrize("depth", [48, 80, 96])
def test_bf16_is_used_elsewhere_if_the_processor_has_it(depth: int) -> None:
    assert bf16_is_usable(CPU, on_depth(depth)) == torch.ops.mkldnn._is_mkldnn_bf16_supported()


def test_bf16_goes_by_the_padded_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 slices are padded to 32, of which pooling leaves two; 42 to 48, of which it leaves 3."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    recipe = RECIPES["unet3d-liver"].with_override("preprocessing.pad_multiple", "[16, 16, 16]")
    shallow = recipe.with_override("preprocessing.resampling.shape", "[30, 96, 96]")
    deep = recipe.with_override("preprocessing.resampling.shape", "[42, 96, 96]")
    assert not bf16_is_usable(CPU, shallow)
    assert bf16_is_usable(CPU, deep)


@pytest.mark.parametrize(
    ("name", "args", "layout"),
    [
        ("unet3d", {"channels": [2, 2, 2, 2]}, torch.channels_last_3d),
        ("rmau", {"base_channels": 6}, torch.channels_last),
        ("dpc", {"encoder": "baseline"}, torch.channels_last_3d),
        ("dpc", {"encoder": "pfe"}, torch.contiguous_format),
    ],
)
def test_the_layout_in_memory_follows_dimensions_and_norm(
    name: str, args: dict[str, Any], layout: torch.memory_format
) -> None:
    with torch.device("meta"):
        network, found = laid_out(build(name, out_channels=2, **args))
    assert found == layout
    weight = next(parameter for parameter in network.parameters() if parameter.ndim > 3)
    assert weight.is_contiguous(memory_format=layout)


# A run


def test_a_run_learns_and_says_what_it_did(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    changes = (
        "network.args.channels=[8,8,8,8]",
        "network.args.dropout=0.0",
        "training.learning_rate=0.01",
        "training.sampling.samples=40",
        "training.ema_decay=0.9",
    )
    options = ["--fold", "1/3", "--seed", "7"]
    options += [word for change in changes for word in ("--set", change)]
    assert main(command("starter-liver", data, run, *options)) == 0
    assert sorted(path.name for path in run.iterdir()) == [
        "best.pt",
        "last.pt",
        "log.csv",
        "run.json",
    ]

    first, second = rows(run)
    assert list(first) == COLUMNS
    assert [first["epoch"], second["epoch"]] == ["1", "2"]
    assert float(second["loss"]) < 0.8 * float(first["loss"])
    assert first["held_out_liver_dice"] == ""  # validated every second epoch only
    assert 0.6 < float(second["held_out_liver_dice"]) <= 1
    assert float(first["seconds"]) >= float(first["seconds_waiting_for_data"]) > 0

    stored = json.loads((run / "run.json").read_text())
    recipe = Recipe.from_json(json.dumps(stored["recipe"]))
    assert recipe.training.epochs == 2
    assert recipe.training.sampling.samples == 40
    assert recipe.network.args["channels"] == [8, 8, 8, 8]
    assert stored["fold"] == "1/3"
    assert stored["seed"] == 7
    assert [case["name"] for case in stored["training_cases"]] == ["case1", "case2"]
    assert [case["name"] for case in stored["held_out_cases"]] == ["case0"]
    assert stored["torch"] == torch.__version__

    last = state(run)
    assert last["epoch"] == 2
    assert last["history"] == [{"epoch": 2, "value": float(second["held_out_liver_dice"])}]
    rates = [learning_rate(recipe.training, epoch + 39 / 40, []) for epoch in (0, 1)]  # of 40 steps
    assert [float(row["learning_rate"]) for row in (first, second)] == rates
    assert last["optimizer"]["param_groups"][0]["lr"] == rates[1]
    prepared = read_data_set(data)
    dices = []
    for weights in (trained_network(recipe, last).state_dict(), last["network"]):
        network = build(recipe.network.name, **recipe.network.args)
        network.load_state_dict(weights)
        network.eval()
        dices.append(held_out_dice(recipe, network, prepared, [prepared.cases[0]], CPU)["liver"])
    assert (
        float(second["held_out_liver_dice"]) == dices[0] != dices[1]
    )  # the averaged weights predict


def test_a_run_without_average_and_with_validation_after_every_epoch(
    data: Path, tmp_path: Path
) -> None:
    """On 24 slices, so in bfloat16 where the processor has it."""
    options = ["--fold", "1/3", "--set", "training.ema_decay=null"]
    options += ["--set", "training.validate_every_epochs=1"]
    options += ["--set", "preprocessing.resampling.shape=[24,16,16]"]
    arguments = command("starter-liver", data, tmp_path, *options)
    assert main(arguments) == 0
    assert all(row["held_out_liver_dice"] for row in rows(tmp_path))
    assert all(0 < float(row["loss"]) < 10 for row in rows(tmp_path))
    assert state(tmp_path)["average"] == {}
    assert main([*arguments, "--resume"]) == 0


def test_the_last_epoch_is_validated_whatever_the_period(data: Path, tmp_path: Path) -> None:
    options = ["--fold", "1/3", "--set", "training.validate_every_epochs=5"]
    assert main(command("starter-liver", data, tmp_path, *options)) == 0
    assert [bool(row["held_out_liver_dice"]) for row in rows(tmp_path)] == [False, True]


def test_a_seed_is_all_that_chance_depends_on(data: Path, tmp_path: Path) -> None:
    losses = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        options = ["--seed", seed]
        assert main(command("starter-liver", data, tmp_path / name, *options, epochs=1)) == 0
        losses.append(rows(tmp_path / name)[0]["loss"])
    assert losses[0] == losses[1] != losses[2]
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_slices_are_learned_and_the_smallest_held_out_loss_chooses(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert main(command("rmau-net", data, run, "--fold", "1/3", epochs=4)) == 0
    told = rows(run)
    assert float(told[-1]["loss"]) < 0.9 * float(told[0]["loss"])
    losses = [float(row["held_out_loss"]) for row in told]
    assert losses[-1] < losses[0]
    assert not any(row["held_out_liver_dice"] or row["held_out_tumor_dice"] for row in told)
    best = torch.load(run / "best.pt", weights_only=True)
    assert best["epoch"] == 1 + losses.index(min(losses))


def test_of_two_targets_the_tumor_decides(data: Path, tmp_path: Path) -> None:
    options = ["--fold", "1/3", "--set", "target=both", "--set", "network.args.out_channels=2"]
    options += ["--set", "training.validate_every_epochs=1"]
    options += ["--set", "inference.threshold=0.0"]  # everything is liver and tumor
    assert main(command("starter-liver", data, tmp_path, *options)) == 0
    told = rows(tmp_path)
    for row in told:
        assert 0 < float(row["held_out_tumor_dice"]) < float(row["held_out_liver_dice"]) < 1
        assert row["held_out_loss"] == ""
    decisive = [held_out["value"] for held_out in state(tmp_path)["history"]]
    assert decisive == [float(row["held_out_tumor_dice"]) for row in told]


def test_the_papers_division_leaves_its_test_cases_out(data: Path, tmp_path: Path) -> None:
    options = ["--fold", "paper", "--seed", "1"]
    options += ["--set", "training.split.test_numbers=[1,1]"]
    options += ["--set", "training.split.validation_share=0.5", "--set", "training.batch_size=1"]
    assert main(command("starter-liver", data, tmp_path, *options)) == 0
    stored = json.loads((tmp_path / "run.json").read_text())
    sides = [
        [case["name"] for case in stored[f"{side}_cases"]]
        for side in ("test", "training", "held_out")
    ]
    assert sides[0] == ["case1"]
    assert sorted(map(len, sides)) == [1, 1, 1]
    assert stored["fold"] == "paper"
    assert rows(tmp_path)[-1]["held_out_liver_dice"]


Z_SCORE = {
    "percentiles": [0.5, 99.5],
    "statistics": {"low_hu": -17.0, "high_hu": 201.0, "mean_hu": 99.4, "sd_hu": 39.36},
}


def test_statistics_are_measured_on_the_training_cases_and_told(data: Path, tmp_path: Path) -> None:
    options = ["--fold", "1/3", "--set", f"preprocessing.intensity={json.dumps(Z_SCORE)}"]
    arguments = command("starter-liver", data, tmp_path, *options)
    assert main(arguments) == 0
    stored = json.loads((tmp_path / "run.json").read_text())
    prepared = read_data_set(data)
    cases = [case for case in prepared.cases if case.name != "case0"]
    hu = [prepared.volume(case).hu[prepared.labels(case) > 0][::10] for case in cases]
    measured = foreground_statistics(np.concatenate(hu), (0.5, 99.5))
    assert stored["recipe"]["preprocessing"]["intensity"]["statistics"] == asdict(measured)
    assert main([*arguments, "--resume"]) == 0


# Interrupted and resumed

KILLED_IN_EPOCH_2 = """
import os, signal, sys, torch
from Training import train
torch.set_num_threads(1)
steps, compute = 0, train.total_loss
def total_loss(*arguments):
    global steps
    steps += 1
    if steps == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(*arguments)
train.total_loss = total_loss
sys.exit(train.main(sys.argv[2:]))
"""


def test_a_run_stops_when_the_held_out_dice_no_longer_improves(data: Path, tmp_path: Path) -> None:
    """Weights that do not move score the same after every epoch: the first is the best."""
    options = ["--fold", "1/3"]
    for change in (
        "training.learning_rate=0.0",
        "training.ema_decay=null",
        "training.validate_every_epochs=1",
        "training.early_stop_epochs=2",
        "network.args.dropout=0.0",
    ):
        options += ["--set", change]
    words = command("starter-liver", data, tmp_path / "run", *options, epochs=9)
    assert main(words) == 0
    dices = [float(row["held_out_liver_dice"]) for row in rows(tmp_path / "run")]
    best = 1 + dices.index(max(dices))
    assert len(dices) == best + 2 < 9
    stored = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert stored["epoch"] == best
    assert stored["history"][-1] == {"epoch": best, "value": max(dices)}

    assert main([*words, "--resume"]) == 0
    assert len(rows(tmp_path / "run")) == len(dices)


def test_a_killed_run_resumes_to_the_bit(data: Path, tmp_path: Path) -> None:
    """Killed as the system kills, in the second of three steps of the second of three epochs."""
    options = ["--fold", "1/3", "--set", "training.sampling.samples=3"]
    whole = command("starter-liver", data, tmp_path / "whole", *options, epochs=3)
    broken = command("starter-liver", data, tmp_path / "broken", *options, epochs=3)
    code = [sys.executable, "-c", KILLED_IN_EPOCH_2, "5", *broken]
    killed = subprocess.run(code, cwd=ROOT, stderr=subprocess.DEVNULL, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert state(tmp_path / "broken")["epoch"] == 1
    assert len(rows(tmp_path / "broken")) == 1
    assert main(whole) == 0
    assert main([*broken, "--resume"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_stopped_run_says_how_to_go_on_and_resumes_to_the_bit(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = command("starter-tumor", data, tmp_path / "whole")
    broken = command("starter-tumor", data, tmp_path / "broken")
    assert main(whole) == 0

    def interrupt(*arguments: Any) -> Tensor:
        if arguments[-1] == 1:  # the epoch
            raise KeyboardInterrupt
        return total_loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train, "total_loss", interrupt)
        assert main(broken) == 3
    assert "--resume continues" in capsys.readouterr().err
    assert state(tmp_path / "broken")["epoch"] == 1
    assert main([*broken, "--resume"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_run_of_slices_on_a_plateau_resumes_to_the_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate of 0 after the first epoch without improvement is known from before."""
    options = ["--fold", "1/3", "--set", 'training.schedule={"patience_epochs":1,"factor":0.5}']
    options += ["--set", "training.learning_rate=0.0"]
    whole = command("rmau-net", data, tmp_path / "whole", *options, epochs=3)
    broken = command("rmau-net", data, tmp_path / "broken", *options, epochs=3)
    assert main(whole) == 0

    def interrupt(*arguments: Any) -> Tensor:
        if arguments[-1] == 2:
            raise KeyboardInterrupt
        return total_loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train, "total_loss", interrupt)
        assert main(broken) == 3
    assert main([*broken, "--resume"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_log_row_without_its_state_is_not_told_twice(data: Path, tmp_path: Path) -> None:
    """As a run leaves it that is killed between writing the one and the other."""
    arguments = command("starter-liver", data, tmp_path)
    assert main(arguments) == 0
    whole = [row["epoch"] for row in rows(tmp_path)]
    (tmp_path / "last.pt").unlink()
    assert main([*arguments, "--resume"]) == 0
    assert [row["epoch"] for row in rows(tmp_path)] == whole == ["1", "2"]


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    assert main(command("starter-liver", data, run, "--fold", "1/3", epochs=1)) == 0
    return run


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The message of a command line that is refused."""
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_a_finished_run_resumed_stays_as_it_is(data: Path, finished: Path) -> None:
    before = contents(finished)
    again = command("starter-liver", data, finished, "--fold", "1/3", "--resume", epochs=1)
    assert main(again) == 0
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fold", "1/3"], "holds a run already. Add --resume, or choose another folder"),
        (["--fold", "2/3", "--resume"], "another fold, training_cases, held_out_cases"),
        (["--resume"], "another fold"),
        (["--fold", "1/3", "--seed", "1", "--resume"], "another seed"),
        (["--fold", "1/3", "--set", "training.learning_rate=1", "--resume"], "another recipe"),
    ],
)
def test_the_folder_of_another_run_is_refused(
    data: Path,
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    before = contents(finished)
    line = refusal(capsys, command("starter-liver", data, finished, *options, epochs=1))
    assert line.startswith(f"{finished}: ")
    assert message in line
    assert contents(finished) == before


@pytest.mark.parametrize("name", ["run.json", "last.pt"])
def test_a_damaged_run_is_refused(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for path in finished.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes((finished / name).read_bytes()[:100])
    again = command("starter-liver", data, tmp_path, "--fold", "1/3", "--resume", epochs=1)
    assert refusal(capsys, again).startswith(f"{tmp_path / name}: ")


# What cannot be run


SHAPE_OF_17 = ("--set", "preprocessing.resampling.shape=[17,16,16]")
NO_ARGS = ("--set", 'network.args={"in_channels":1,"out_channels":1}')
SLICE_BY_SLICE = '{"liver_only":true,"other_share":0.0,"class_ratios":null}'
ALPHA = '{"alpha":0.4,"decay":0.8,"period_epochs":30}'
PLATEAU = '{"patience_epochs":1,"factor":0.5}'
NOBODY_TRAINS = ("--set", "training.split.test_numbers=[0,9]")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "training.epoch=3"], "--set training.epoch=3: A recipe has no field"),
        (["--set", "training.epochs=many"], "--set training.epochs=many: recipe.training.epochs"),
        (["--set", "training.epochs"], "--set training.epochs: "),
        (["--set", "training.loss.focus=1"], "Unknown losses ['focus']"),
        (["--set", "network.args.depth=3"], "depth"),
        (["--set", "network.name=unet4d"], "unet4d"),
        (["--set", "training.batch_size=4"], "3 samples an epoch"),
        (["--set", "training.sampling.samples=0"], "0 samples an epoch do not fill one batch of 2"),
        (["--set", "target=both"], "network's output (2, 1, 16, 16, 16)"),
        (["--set", "network.args.out_channels=2"], "network's output (2, 2, 16, 16, 16)"),
        (["--set", "inference.activation=softmax"], "do not fit inference.activation softmax"),
        (["--set", "preprocessing.pad_multiple=[1,1,1]", *SHAPE_OF_17], "multiple of 8"),
        (["--set", "patch=[16,16,20]"], "multiple of 8"),
        (["--set", 'preprocessing.resampling={"spacing_mm":[3,3,3]}'], "form no batch"),
        (["--set", f"training.sampling={SLICE_BY_SLICE}"], "needs a patch of [1, y, x], got None"),
        (["--set", "network.name=ra_unet", *NO_ARGS], "needs a patch of [1, y, x], got None"),
        (["--set", f"training.deep_supervision={ALPHA}"], "this network has one"),
        (["--set", f"training.schedule={PLATEAU}"], "hold some out with --fold"),
        (["--fold", "4/3"], "--fold 4/3: expected K/N"),
        (["--fold", "paper", *NOBODY_TRAINS], "of 3 patients 3 are tested on"),
        (["--device", "abacus"], "Device 'abacus'"),
    ],
)
def test_an_impossible_run_is_refused_before_it_starts(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    run = tmp_path / "run"
    assert message in refusal(capsys, command("starter-liver", data, run, *options))
    assert not run.exists()


def test_a_fold_without_a_tumor_to_learn_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data_set(tmp_path, patients=2, tumors=0)
    message = refusal(capsys, command("starter-tumor", data, tmp_path / "run", "--fold", "1/2"))
    assert "no training case has a tumor; choose another --fold" in message
    assert not (tmp_path / "run").exists()


def test_a_folder_without_data_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, command("starter-liver", tmp_path / "nowhere", tmp_path / "run"))
    assert line.startswith(f"{tmp_path / 'nowhere'}: expected a folder with dataset.json")


def test_a_run_folder_that_is_a_file_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("in the way")
    line = refusal(capsys, command("starter-liver", data, tmp_path / "run"))
    assert line.startswith(f"{tmp_path / 'run'}: expected a folder")


def test_overrides_apply_in_order() -> None:
    recipe = overridden(RECIPES["starter-liver"], ["training.epochs=3", "training.epochs=4"])
    assert recipe == RECIPES["starter-liver"].with_override("training.epochs", "4")
