"""The trainer: runs that learn, of volumes and of slices, and runs that are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from LiverTumorSegLib.intensity import foreground_statistics
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.recipes import RECIPES
from Testing.phantom import make_data_set
from Testing.training.tiny_runs import TOLD, assert_same_run, command, rows, state
from Training import train
from Training.dataset import read_data_set
from Training.export import trained_network
from Training.schedule import learning_rate
from Training.train import bf16_is_usable, laid_out, main, overridden
from Training.validation import held_out_dice

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
COLUMNS = [
    *TOLD[:3],
    "seconds",
    "seconds_waiting_for_data",
    *TOLD[3:],
    "seconds_validating",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_set(tmp_path_factory.mktemp("train"), patients=3)


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


def test_a_run_learns_and_says_what_it_did(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
        "curve.png",
        "last.pt",
        "log.csv",
        "run.json",
        "tensorboard",
    ]
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("2 epochs in ")

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
    best = f"best held-out liver Dice {float(second['held_out_liver_dice']):.4f} after epoch 2"
    assert said.endswith(best)
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


def test_gradients_are_clipped_as_the_recipe_says(data: Path, tmp_path: Path) -> None:
    """Adam divides by the gradient plus 1e-8, so it stands still once all are much smaller."""
    torch.manual_seed(0)
    fresh = dict(build("unet3d", channels=[4, 4, 4, 4], dropout=0.1).named_parameters())
    for clip, moves in (("1e-13", False), ("null", True)):
        run = tmp_path / clip
        options = ("--set", f"training.gradient_clip={clip}")
        assert main(command("starter-liver", data, run, *options, epochs=1)) == 0
        trained = state(run)["network"]
        assert fresh.keys() <= trained.keys()
        largest = max((trained[key] - value).abs().max() for key, value in fresh.items())
        assert (largest > 1e-4) == moves
        assert largest > 1e-4 or largest < 1e-7


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
    log = rows(run)
    assert float(log[-1]["loss"]) < 0.9 * float(log[0]["loss"])
    losses = [float(row["held_out_loss"]) for row in log]
    assert losses[-1] < losses[0]
    assert not any(row["held_out_liver_dice"] or row["held_out_tumor_dice"] for row in log)
    best = torch.load(run / "best.pt", weights_only=True)
    assert best["epoch"] == 1 + losses.index(min(losses))


def test_of_two_targets_the_tumor_decides(data: Path, tmp_path: Path) -> None:
    options = ["--fold", "1/3", "--set", "target=both", "--set", "network.args.out_channels=2"]
    options += ["--set", "training.validate_every_epochs=1"]
    options += ["--set", "inference.threshold=0.0"]  # everything is liver and tumor
    assert main(command("starter-liver", data, tmp_path, *options)) == 0
    log = rows(tmp_path)
    for row in log:
        assert 0 < float(row["held_out_tumor_dice"]) < float(row["held_out_liver_dice"]) < 1
        assert row["held_out_loss"] == ""
    dices = [float(row["held_out_tumor_dice"]) for row in log]
    assert state(tmp_path, "best.pt")["epoch"] == 1 + dices.index(max(dices))


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
    assert stored["rows"][-1]["held_out_liver_dice"] == max(dices)

    assert main([*words, "--resume"]) == 0
    assert len(rows(tmp_path / "run")) == len(dices)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    assert main(command("starter-liver", data, run, "--fold", "1/3", epochs=1)) == 0
    return run


def contents(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


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
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
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
        (["--set", "training.sampling.synthetic_share=0.5"], 'needs sampling.per "epoch"'),
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


def test_a_damaged_prepared_case_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data_set(tmp_path, patients=2)
    assert main(command("starter-liver", data, tmp_path / "run", epochs=1)) == 0
    image = next((data / "cache").glob("*/image.npy"))
    image.write_bytes(image.read_bytes()[:-100])
    line = refusal(capsys, command("starter-liver", data, tmp_path / "again", epochs=1))
    assert line.startswith(f"{image.parent}: cannot be read")
    assert line.endswith("Delete this folder; it is made again.")
    assert not (tmp_path / "again").exists()


def test_memory_that_runs_out_is_told_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large(*given: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr(train, "total_loss", too_large)
    assert main(command("starter-liver", data, tmp_path)) == 4
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: memory ran out (tried to allocate 20 GiB)")
    assert "training.batch_size" in line


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
