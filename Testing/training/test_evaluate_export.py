"""From labeled CTs to a weights file with its scores, by the command lines, on phantoms."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from LiverTumorSegLib.checkpoint import load_model, read_info, save_model
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.recipe import Network, Recipe
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.segment import segment
from Testing.phantom import SPACING_MM, make_data_set
from Training import evaluate, export, train
from Training.dataset import Case, read_data_set
from Training.evaluate import Score, evaluate_case, merge_scores, read_scores, score_mask
from Training.export import card_page, make_card, trained_network
from Training.metrics import dice
from Training.run_folder import load_state, read_run

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

LIVER = (
    "training.epochs=2",
    "training.learning_rate=0.01",
    "training.ema_decay=0.9",
    "network.args.channels=[8,8,8,8]",
    "network.args.dropout=0.0",
    "preprocessing.resampling.shape=[16,16,16]",
    "training.sampling.samples=40",
)
# Hardly trained in so few steps, so a low threshold is what makes it find tumors at all.
TUMOR = (
    "training.epochs=2",
    "training.learning_rate=0.03",
    "training.ema_decay=0.5",
    "inference.threshold=0.1",
    "network.args.width=4",
    "patch=[16,16,16]",
    "preprocessing.pad_minimum=[16,16,16]",
    "training.sampling.samples=12",
)
HELD_OUT = ["case0", "case2"]
NOTES = ["Phantoms know no disease.", "Nor do they move."]


@dataclass(frozen=True)
class Trained:
    """A data set of four phantoms, and both stages trained on two of them, exported and measured.

    `alone` is what the tumor weights score in the true liver.
    """

    data: Path
    liver_run: Path
    tumor_run: Path
    liver: Path
    tumor: Path
    together: Path
    alone: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The whole way, by the command lines."""
    folder = tmp_path_factory.mktemp("trained")
    data = make_data_set(folder, patients=4)
    for name, changes in (("liver", LIVER), ("tumor", TUMOR)):
        run = [f"starter-{name}", "--data", str(data), "-o", str(folder / name), "--fold", "1/2"]
        sets = [word for change in changes for word in ("--set", change)]
        assert train.main([*run, "--device", "cpu", "--seed", "3", *sets]) == 0
        assert export.main([str(folder / name), "-o", str(folder / f"{name}.safetensors")]) == 0
    liver, tumor = folder / "liver.safetensors", folder / "tumor.safetensors"
    for weights, output in (([liver, tumor], "together"), ([tumor], "alone")):
        options = ["--weights", *map(str, weights), "-o", str(folder / output)]
        options += ["--cases", *HELD_OUT, "--device", "cpu"]
        assert evaluate.main(["--data", str(data), *options]) == 0
    together, alone = folder / "together" / "scores.csv", folder / "alone" / "scores.csv"
    return Trained(data, folder / "liver", folder / "tumor", liver, tumor, together, alone)


def refusal(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The message of a command line that was refused."""
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


# The whole way


def test_scores_are_those_of_the_products_own_result(trained: Trained) -> None:
    scores = {(s.target, s.case): s for s in read_scores(trained.together)}
    assert sorted(scores) == [(t, c) for t in ("liver", "tumor") for c in HELD_OUT]
    data = read_data_set(trained.data)
    liver, tumor = load_model(str(trained.liver)), load_model(str(trained.tumor))
    case = data.cases[0]
    found = segment(data.volume(case), liver, tumor, device="cpu").labels
    labels = data.labels(case)
    for target, got, true in (
        ("liver", found > 0, labels > 0),
        ("tumor", found == 2, labels == 2),
    ):
        score = scores[target, case.name]
        assert score.dice == dice(got, true)
        assert score.predicted_ml == pytest.approx(got.sum() * case.geometry.voxel_ml)
        assert score.reference_ml == pytest.approx(true.sum() * case.geometry.voxel_ml)
        assert score.liver_from == "prediction"
        assert score.seconds > 0
    assert min(s.dice for (target, _), s in scores.items() if target == "liver") > 0.5


def test_tumor_weights_alone_search_the_true_liver(trained: Trained) -> None:
    scores = read_scores(trained.alone)
    assert [(s.target, s.case, s.liver_from) for s in scores] == [
        ("tumor", name, "reference") for name in HELD_OUT
    ]
    assert {s.lesions for s in scores} == {2}


def test_the_trainers_own_validation_agrees(trained: Trained) -> None:
    """It sees the weights in full precision and not deployed; the file has them in half."""
    liver = [s.dice for s in read_scores(trained.together) if s.target == "liver"]
    tumor = [s.dice for s in read_scores(trained.alone)]
    for run, target, dices in (
        (trained.liver_run, "liver", liver),
        (trained.tumor_run, "tumor", tumor),
    ):
        with (run / "log.csv").open(newline="") as file:
            logged = float([*csv.DictReader(file)][-1][f"held_out_{target}_dice"])
        assert logged == pytest.approx(np.mean(dices), abs=0.02)
        assert logged > 0


def test_the_file_tells_its_recipe_and_its_making(trained: Trained) -> None:
    for path, name, changes in ((trained.liver, "liver", LIVER), (trained.tumor, "tumor", TUMOR)):
        info = read_info(path)
        recipe = RECIPES[f"starter-{name}"]
        for change in changes:
            recipe = recipe.with_override(*change.split("="))
        assert info.recipe == recipe
        assert info.target == info.card["target"] == name
        assert [case["name"] for case in info.card["training_cases"]] == ["case1", "case3"]
        assert info.card["fold"] == "1/2"
        assert info.card["seed"] == 3
        assert info.card["epochs"] == 2
        assert info.card["torch"] == torch.__version__
        assert "Not for clinical use" in info.card["disclaimer"]
        assert "scores" not in info.card
        assert info.deployed == (name == "tumor")


def test_scores_notes_and_licence_reach_the_card_and_its_page(
    trained: Trained, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "named.safetensors"
    options = ["--scores", str(trained.together), "--license", "CC0", "--note", NOTES[0]]
    assert (
        export.main([str(trained.tumor_run), "-o", str(output), *options, "--note", NOTES[1]]) == 0
    )
    assert sorted(path.name for path in output.parent.iterdir()) == ["named.md", output.name]

    model = load_model(str(output))
    assert model.name == "named"
    assert model.card["license"] == "CC0"
    assert model.card["notes"] == NOTES
    scores = model.card["scores"]
    measured = [s for s in read_scores(trained.together) if s.target == "tumor"]
    assert [row["case"] for row in scores["cases"]] == HELD_OUT
    assert [row["dice"] for row in scores["cases"]] == [s.dice for s in measured]
    assert scores["mean_dice"] == pytest.approx(np.mean([s.dice for s in measured]))
    assert scores["sd_dice"] == pytest.approx(np.std([s.dice for s in measured]))

    page = output.with_suffix(".md").read_text()
    assert page.startswith("# named\n")
    lines = page.splitlines()
    for score in measured:
        (line,) = [line for line in lines if line.startswith(f"| {score.case} | {score.dice:.3f} ")]
        assert f"| {score.lesions_touched} of {score.lesions} | {score.false_lesions} |" in line
    assert f"| mean (SD) | {scores['mean_dice']:.3f} ({scores['sd_dice']:.3f}) | | | | |" in lines
    for case in model.card["training_cases"]:
        row = f"| {case['name']} | {case['liver_ml']:.0f} | {case['tumor_ml']:.1f} | 2 |"
        assert row in lines
    for text in (*NOTES, "CC0", model.sha256, "Not for clinical use", "2 epochs, seed 3"):
        assert text in page


def test_the_exported_network_computes_what_the_averaged_one_did(trained: Trained) -> None:
    """Deployed, in half precision, against the training form in evaluation mode."""
    model = load_model(str(trained.tumor))
    recipe = model.recipe
    state = load_state(trained.tumor_run / "last.pt", torch.device("cpu"))
    plain = build(recipe.network.name, **recipe.network.args)
    average = {k.removeprefix("module."): v for k, v in state["average"].items()}
    average.pop("n_averaged")
    plain.load_state_dict(average)
    plain.eval()
    image = torch.rand((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = plain(image), model.network(image)
        last = {k: v.clone() for k, v in state["network"].items()}
        plain.load_state_dict(last)
        not_averaged = plain(image)
    assert got.shape == expected.shape == (1, 1, 16, 32, 32)
    assert (got.sigmoid() - expected.sigmoid()).abs().max() <= 1e-2
    assert (got - expected).abs().max() <= 1e-2 * expected.abs().max()
    assert (not_averaged - expected).abs().max() > 2e-2 * expected.abs().max()
    names = [name for name, _ in model.network.named_parameters()]
    assert len(names) < len([*plain.named_parameters()])


def test_without_an_average_the_last_weights_are_taken(trained: Trained) -> None:
    description = read_run(trained.liver_run)
    recipe = Recipe.from_json(json.dumps(description["recipe"]))
    recipe = recipe.with_override("training.ema_decay", "null")
    state = load_state(trained.liver_run / "last.pt", torch.device("cpu"))
    network = trained_network(recipe, state)
    assert not network.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, state["network"][key])


def test_exporting_twice_gives_the_same_tensors(trained: Trained, tmp_path: Path) -> None:
    output = tmp_path / "again.safetensors"
    assert export.main([str(trained.liver_run), "-o", str(output)]) == 0
    assert read_info(output).sha256 == read_info(trained.liver).sha256


# Scores


GRID = Geometry((6, 8, 8), (5.0, 2.0, 1.0))
CASE = Case("a", "p", GRID, liver_ml=0.0, tumor_ml=0.0, lesions=0, sha256="")


def lesions_at(*boxes: tuple[int, int, int]) -> np.ndarray:
    """Cubes of 2 voxels at the given corners."""
    mask = np.zeros(GRID.shape, dtype=bool)
    for z, y, x in boxes:
        mask[z : z + 2, y : y + 2, x : x + 2] = True
    return mask


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [
        ([], [], (1.0, 0, 0, 0)),
        ([], [(0, 0, 0)], (0.0, 1, 0, 0)),
        ([(0, 0, 0)], [], (0.0, 0, 0, 1)),
        ([(0, 0, 0)], [(0, 0, 0)], (1.0, 1, 1, 0)),
        ([(0, 0, 0)], [(1, 1, 1)], (1 / 8, 1, 1, 0)),  # one common voxel touches
        ([(0, 0, 0)], [(2, 0, 0)], (0.0, 1, 0, 1)),  # face to face, none in common
        ([(0, 0, 0), (4, 6, 6)], [(0, 0, 0), (0, 6, 0)], (0.5, 2, 1, 1)),
        # One found lesion over two true ones; two found lesions on one true one.
        ([(0, 0, 0), (0, 0, 2), (0, 0, 4)], [(0, 0, 0), (0, 0, 4)], (0.8, 2, 2, 0)),
        ([(0, 0, 0), (0, 0, 4)], [(0, 0, 0), (0, 0, 2), (0, 0, 4)], (0.8, 1, 1, 0)),
    ],
)
def test_lesions_are_counted(
    found: list[tuple[int, int, int]],
    true: list[tuple[int, int, int]],
    expected: tuple[float, int, int, int],
) -> None:
    mask, reference = lesions_at(*found), lesions_at(*true)
    score = score_mask(CASE, "tumor", "prediction", False, mask, reference, 1.5)
    got = (score.dice, score.lesions, score.lesions_touched, score.false_lesions)
    assert got == pytest.approx(expected)
    assert score.predicted_ml == pytest.approx(len(found) * 8 * 10 / 1000)
    assert score.reference_ml == pytest.approx(len(true) * 8 * 10 / 1000)


def test_a_liver_has_no_lesions() -> None:
    mask = lesions_at((0, 0, 0), (3, 3, 3))
    score = score_mask(CASE, "liver", "prediction", False, mask, mask, 0.0)
    assert (score.dice, score.lesions, score.lesions_touched, score.false_lesions) == (1, 0, 0, 0)


def score_of(case: str, target: str, value: float) -> Score:
    mask = lesions_at((0, 0, 0))
    score = score_mask(CASE, target, "prediction", False, mask, mask, 0.1)
    return replace(score, case=case, dice=value)


def test_folds_collect_in_one_file_and_measured_anew_replace(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    merge_scores(path, [score_of("b", "tumor", 0.1), score_of("b", "liver", 0.2)])
    merge_scores(path, [score_of("a", "tumor", 1 / 3)])
    merge_scores(path, [score_of("b", "tumor", 0.4)])
    expected = [
        score_of("b", "liver", 0.2),
        score_of("a", "tumor", 1 / 3),
        score_of("b", "tumor", 0.4),
    ]
    assert read_scores(path) == expected  # every number to its last digit
    assert [p.name for p in tmp_path.iterdir()] == ["scores.csv"]


def cut_off(text: str) -> str:
    return text[: text.rindex(",")]


def another_table(text: str) -> str:
    return "case,volume\na,3\n"


def no_number(text: str) -> str:
    return text.replace("0.25", "much")


@pytest.mark.parametrize("damage", [cut_off, another_table, no_number])
def test_scores_that_cannot_be_read_are_refused(
    tmp_path: Path, damage: Callable[[str], str]
) -> None:
    path = tmp_path / "scores.csv"
    merge_scores(path, [score_of("a", "liver", 0.25)])
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=rf"{path}: expected the scores.csv"):
        read_scores(path)


def test_a_card_counts_only_scores_of_its_target(trained: Trained, tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    merge_scores(scores, [score_of("a", "tumor", 0.3), score_of("a", "liver", 0.9)])
    output = tmp_path / "liver.safetensors"
    options = ["-o", str(output), "--scores", str(scores)]
    assert export.main([str(trained.liver_run), *options]) == 0
    card = read_info(output).card
    assert [row["dice"] for row in card["scores"]["cases"]] == [0.9]
    assert card["scores"]["mean_dice"] == 0.9


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [replace(score_of("a", "liver", 0.9), seen=True), score_of("b", "liver", 0.8)],
        [score_of("a", "liver", 0.9), replace(score_of("b", "liver", 0.8), liver_from="reference")],
    ],
    ids=["none", "of a patient seen", "of two kinds"],
)
def test_a_card_takes_no_scores_that_are_not_comparable_and_unseen(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Score]
) -> None:
    scores = tmp_path / "scores.csv"
    merge_scores(scores, rows)
    output = tmp_path / "liver.safetensors"
    options = ["-o", str(output), "--scores", str(scores)]
    code = export.main([str(trained.liver_run), *options])
    assert f"{scores}: expected liver scores" in refusal(capsys, code)
    assert not output.exists()


def test_a_row_tells_whether_the_weights_had_seen_the_patient(trained: Trained) -> None:
    assert not any(score.seen for score in read_scores(trained.together))
    data = read_data_set(trained.data)
    models = {"liver": load_model(str(trained.liver))}
    seen = {c.name: evaluate_case(data, c, models, "cpu", False)[0].seen for c in data.cases}
    assert seen == {"case0": False, "case1": True, "case2": False, "case3": True}


# Weights for both targets


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RMAU-Net, small and untrained, for slices of the phantoms' size."""
    recipe = RECIPES["rmau-net"]
    preprocessing = replace(recipe.preprocessing, resampling=None, pad_minimum=(1, 32, 32))
    recipe = replace(
        recipe,
        network=Network("rmau", {"out_channels": 2, "base_channels": 6}),
        patch=(1, 32, 32),
        preprocessing=preprocessing,
        inference=replace(recipe.inference, flips=(1, 2), prepass=None),
    )
    torch.manual_seed(0)
    network = build("rmau", **recipe.network.args)
    torch.nn.init.normal_(network.head.weight, 0, 3)  # far from one half, on either side
    path = tmp_path_factory.mktemp("both") / "both.safetensors"
    save_model(path, network, recipe, {"training_cases": [{"patient": "case1"}]})
    return path


def evaluated(weights: Path, data: Path, output: Path, *options: str) -> dict[str, Score]:
    """The scores of the first phantom by target."""
    arguments = ["--data", str(data), "--weights", str(weights), "-o", str(output)]
    assert evaluate.main([*arguments, "--cases", "case0", "--device", "cpu", *options]) == 0
    return {score.target: score for score in read_scores(output / "scores.csv")}


def test_weights_for_both_targets_are_measured_on_both(
    trained: Trained, both: Path, tmp_path: Path
) -> None:
    """As the product finds them, with --tta averaged over mirrored images."""
    model, data = load_model(str(both)), read_data_set(trained.data)
    volume, labels = data.volume(data.cases[0]), data.labels(data.cases[0])
    found = segment(volume, model, model, device="cpu", flips=True).labels
    plain = evaluated(both, trained.data, tmp_path / "plain")
    mirrored = evaluated(both, trained.data, tmp_path / "tta", "--tta")
    for target, got, true in (
        ("liver", found > 0, labels > 0),
        ("tumor", found == 2, labels == 2),
    ):
        assert got.any()
        score = mirrored[target]
        assert score.dice == dice(got, true)
        assert score.predicted_ml == pytest.approx(got.sum() * np.prod(SPACING_MM) / 1000)
        assert score.predicted_ml != plain[target].predicted_ml
        assert plain[target].liver_from == score.liver_from == "prediction"
        assert not score.seen


def test_mirrored_images_are_averaged_for_one_target_too(trained: Trained, tmp_path: Path) -> None:
    plain = evaluated(trained.tumor, trained.data, tmp_path / "plain")["tumor"]
    mirrored = evaluated(trained.tumor, trained.data, tmp_path / "tta", "--tta")["tumor"]
    assert plain.predicted_ml != mirrored.predicted_ml


# What cannot be done


def data_is_missing(t: Trained, out: Path) -> list[str]:
    return ["--data", str(out / "none"), "--weights", str(t.liver)]


def case_is_unknown(t: Trained, out: Path) -> list[str]:
    return ["--data", str(t.data), "--weights", str(t.liver), "--cases", "case0", "case9"]


def weights_are_missing(t: Trained, out: Path) -> list[str]:
    return ["--data", str(t.data), "--weights", str(out / "none.safetensors")]


def weights_are_of_one_target(t: Trained, out: Path) -> list[str]:
    return ["--data", str(t.data), "--weights", str(t.liver), str(t.liver)]


def weights_are_for_both_and_for_one(t: Trained, out: Path) -> list[str]:
    joint = out.parent / "joint.safetensors"
    recipe = replace(load_model(str(t.liver)).recipe, target="both")
    save_model(joint, load_model(str(t.liver)).network, recipe, {})
    return ["--data", str(t.data), "--weights", str(joint), str(t.tumor)]


def device_is_unknown(t: Trained, out: Path) -> list[str]:
    return ["--data", str(t.data), "--weights", str(t.liver), "--device", "abacus"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (data_is_missing, "expected a folder with dataset.json"),
        (case_is_unknown, "--cases: ['case9'] are not in"),
        (weights_are_missing, "no such weights file"),
        (weights_are_of_one_target, "at most one file for the liver"),
        (weights_are_for_both_and_for_one, "found weights for liver, tumor, tumor"),
        (device_is_unknown, "Device 'abacus'"),
    ],
)
def test_an_impossible_evaluation_is_refused(
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: Callable[[Trained, Path], list[str]],
    message: str,
) -> None:
    output = tmp_path / "out"
    code = evaluate.main([*arguments(trained, tmp_path), "-o", str(output)])
    assert message in refusal(capsys, code)
    assert not output.exists()


def test_an_evaluation_into_a_file_is_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.write_text("in the way")
    options = ["--data", str(trained.data), "--weights", str(trained.liver), "-o", str(output)]
    assert refusal(capsys, evaluate.main(options)).startswith(f"{output}: expected a folder")


def no_run(run: Path) -> None:
    for path in run.iterdir():
        path.unlink()


def no_state(run: Path) -> None:
    (run / "last.pt").unlink()


def state_cut_off(run: Path) -> None:
    (run / "last.pt").write_bytes((run / "last.pt").read_bytes()[:1000])


def state_of_another_run(run: Path) -> None:
    torch.save({"epoch": 1, "network": {}, "average": {}}, run / "last.pt")


def description_cut_off(run: Path) -> None:
    (run / "run.json").write_text((run / "run.json").read_text()[:1000])


def description_without_recipe(run: Path) -> None:
    (run / "run.json").write_text("{}")


def description_of_another_version(run: Path) -> None:
    description = json.loads((run / "run.json").read_text())
    del description["recipe"]["patch"]
    (run / "run.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (no_run, ""),
        (no_state, ""),
        (state_cut_off, "last.pt"),
        (state_of_another_run, "last.pt"),
        (description_cut_off, "run.json"),
        (description_without_recipe, "run.json"),
        (description_of_another_version, "run.json"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], Any],
    name: str,
) -> None:
    run, output = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    for path in trained.liver_run.iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    damage(run)
    code = export.main([str(run), "-o", str(output / "x.safetensors")])
    assert refusal(capsys, code).startswith(f"{run / name}: expected")
    assert not output.exists()


@pytest.mark.parametrize(
    ("name", "scores", "message"),
    [
        ("weights.pt", None, "expected a name that ends in .safetensors"),
        ("x.safetensors", "none.csv", "expected the scores.csv"),
    ],
)
def test_an_impossible_export_is_refused(
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    scores: str | None,
    message: str,
) -> None:
    options = ["--scores", str(tmp_path / scores)] if scores else []
    code = export.main([str(trained.liver_run), "-o", str(tmp_path / "out" / name), *options])
    assert message in refusal(capsys, code)
    assert [*tmp_path.iterdir()] == []


def test_diverged_weights_leave_an_earlier_export_as_it_was(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.safetensors"
    assert export.main([str(trained.liver_run), "-o", str(output)]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run = tmp_path / "run"
    run.mkdir()
    for path in trained.liver_run.iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    state = load_state(run / "last.pt", torch.device("cpu"))
    state["average"]["module.head.weight"].fill_(float("nan"))
    torch.save(state, run / "last.pt")
    capsys.readouterr()
    code = export.main([str(run), "-o", str(output), "--license", "another"])
    assert "diverged" in refusal(capsys, code)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after == before


DESCRIPTION = {"training_cases": [], "fold": None, "seed": 0, "torch": "", "version": ""}


def test_a_card_says_where_the_tumors_were_searched() -> None:
    recipe = RECIPES["starter-tumor"]
    for place, words in (("prediction", "liver that was predicted"), ("reference", "true liver")):
        rows = [replace(score_of("a", "tumor", 0.5), liver_from=place)]
        card = make_card(recipe, DESCRIPTION, 1, {"tumor": rows}, [], "")
        assert f"tumors searched in the {words}" in card["scores"]["definition"]


def test_weights_for_both_targets_tell_the_scores_of_both() -> None:
    recipe = RECIPES["rmau-net"]
    rows = {
        "liver": [score_of("a", "liver", 0.9), score_of("b", "liver", 0.8)],
        "tumor": [score_of("a", "tumor", 0.4), score_of("b", "tumor", 0.2)],
    }
    card = make_card(recipe, DESCRIPTION, 1, rows, [], "")
    assert card["target"] == "both"
    assert card["liver_scores"]["mean_dice"] == pytest.approx(0.85)
    assert card["scores"]["mean_dice"] == pytest.approx(0.3)
    assert "tumors" not in card["liver_scores"]["definition"]
    page = card_page("x", recipe, card, "")
    assert "Weights for the liver and the tumor." in page
    liver, tumor = page.index("Scores of the liver on cases"), page.index("## Scores on cases")
    assert liver < page.index("| mean (SD) | 0.850 (0.050) |") < tumor
    assert tumor < page.index("| mean (SD) | 0.300 (0.100) |")
