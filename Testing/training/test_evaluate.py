"""Measuring weights on labeled cases by the command line, on phantoms.

The networks are small and untrained: what they find is arbitrary, but not nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from LiverTumorSegLib.checkpoint import load_model, save_model
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.postprocess import clean_tumor
from LiverTumorSegLib.recipe import Network, Recipe
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.segment import segment
from Testing.phantom import SPACING_MM, make_data_set
from Testing.training.score_cases import score_of
from Training import evaluate, lits, product
from Training.dataset import read_data_set
from Training.metrics import dice
from Training.probabilities import keep_probability, read_probability
from Training.scores import Provenance, Score, read_lesions, read_scores

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

NAMES = ["lesions.csv", "scores.csv", "summary.json", "summary.md"]


@dataclass(frozen=True)
class Made:
    """Three phantoms, and weights that were made for each target and for both.

    case1 is the patient on whose card all weights are trained.
    """

    data: Path
    liver: Path
    tumor: Path
    both: Path


@pytest.fixture(scope="module", autouse=True)
def _torch_alone() -> Iterator[None]:
    """OpenVINO, which is tested elsewhere, takes seconds to convert each network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("LiverTumorSegLib.segment.pick_backend", lambda backend, device: "torch")
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    recipes = {"liver": small("starter-liver"), "tumor": small("starter-tumor"), "both": rmau()}
    for seed, (name, recipe) in enumerate(recipes.items()):
        save(folder / f"{name}.safetensors", recipe, seed)
    paths = (folder / f"{name}.safetensors" for name in recipes)
    return Made(make_data_set(folder, patients=3), *paths)


@pytest.fixture(scope="module")
def measured(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder: case0 by the weights for both targets. Not to be written to."""
    folder = tmp_path_factory.mktemp("measured")
    run(made, folder)
    return folder


@pytest.fixture
def output(measured: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(measured, tmp_path / "out"))


def small(name: str) -> Recipe:
    """A starter recipe for networks of a few channels."""
    changes = {
        "starter-liver": {
            "network.args.channels": "[4,4,4,4]",
            "preprocessing.resampling.shape": "[16,16,16]",
        },
        "starter-tumor": {
            "network.args.width": "4",
            "patch": "[16,16,16]",
            "preprocessing.pad_minimum": "[16,16,16]",
        },
    }
    recipe = RECIPES[name]
    for key, value in changes[name].items():
        recipe = recipe.with_override(key, value)
    return recipe


def rmau() -> Recipe:
    """RMAU-Net's for slices of the phantoms' size."""
    recipe = RECIPES["rmau-net"]
    preprocessing = replace(recipe.preprocessing, resampling=None, pad_minimum=(1, 32, 32))
    return replace(
        recipe,
        network=Network("rmau", {"out_channels": 2, "base_channels": 6}),
        patch=(1, 32, 32),
        preprocessing=preprocessing,
        inference=replace(recipe.inference, flips=(1, 2), prepass=None),
    )


def save(path: Path, recipe: Recipe, seed: int, card: dict[str, Any] | None = None) -> None:
    """Write untrained weights whose outputs lie on either side of one half."""
    torch.manual_seed(seed)
    network = build(recipe.network.name, **recipe.network.args)
    for key, value in network.named_parameters():
        if key.startswith("head") and key.endswith("weight"):
            torch.nn.init.normal_(value, 0, 3)
    network.train()
    with torch.no_grad():  # so that the norms know inputs like these
        shape = recipe.patch or (16, 16, 16)
        for _ in range(20):
            network(torch.rand(2, 1, *shape[-network.dimensions :]))
    save_model(path, network, recipe, card or {"training_cases": [{"patient": "case1"}]})


def run(made: Made, output: Path, *words: str | Path, weights: str = "both") -> list[Score]:
    """Evaluate with weights of these names, on case0 unless told; the scores."""
    options = ["--weights", *(str(getattr(made, name)) for name in weights.split())]
    if "--cases" not in words:
        words = ("--cases", "case0", *words)
    arguments = ["--data", made.data, "-o", output, *options, "--device", "cpu", *words]
    assert evaluate.main([*map(str, arguments)]) == 0
    return read_scores(output / "scores.csv")


def refusal(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The message of a command line that was refused."""
    assert code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


# What is measured


@pytest.mark.parametrize("weights", ["both", "liver tumor"])
def test_scores_are_those_of_the_products_own_result(
    made: Made, tmp_path: Path, weights: str
) -> None:
    scores = {score.target: score for score in run(made, tmp_path, weights=weights)}
    assert [*scores] == ["liver", "tumor"]
    names = weights.split() * 2
    models = [load_model(str(getattr(made, name))) for name in names[:2]]
    data = read_data_set(made.data)
    case = data.cases[0]
    found, labels = segment(data.volume(case), *models, device="cpu").labels, data.labels(case)
    assert (found == 2).any()
    for target, got, true in (
        ("liver", found > 0, labels > 0),
        ("tumor", found == 2, labels == 2),
    ):
        score = scores[target]
        assert score.dice == dice(got, true)
        assert score.predicted_ml == pytest.approx(got.sum() * np.prod(SPACING_MM) / 1000)
        assert score.reference_ml == pytest.approx(true.sum() * np.prod(SPACING_MM) / 1000)
        assert (score.predicted_voxels, score.reference_voxels) == (got.sum(), true.sum())
        assert score.liver_from == "prediction"
        assert score.seconds > 0
    assert scores["tumor"].predicted_burden == (found == 2).sum() / (found > 0).sum()
    assert scores["tumor"].lesions == 2


@pytest.mark.parametrize("weights", ["liver tumor", "tumor", "both"])
def test_the_probabilities_that_are_kept_are_those_of_the_result(
    made: Made, tmp_path: Path, weights: str
) -> None:
    """With the recipe's own threshold and smallest lesion they give the mask that was scored."""
    (score,) = (
        score
        for score in run(made, tmp_path, "--probabilities", tmp_path / "kept", weights=weights)
        if score.target == "tumor"
    )
    kept = read_probability(tmp_path / "kept", "case0")
    assert kept is not None
    assert kept.weights == score.weights
    assert kept.tumor.dtype == np.float16
    assert kept.liver[0].any(), "the box is the liver's"
    assert kept.liver[-1].any()
    assert not kept.tumor[~kept.liver].any()
    inference = load_model(str(getattr(made, weights.split()[-1]))).recipe.inference
    mask = clean_tumor(kept.tumor >= 0.5, inference, float(np.prod(SPACING_MM)))
    case = read_data_set(made.data).cases[0]
    true = read_data_set(made.data).labels(case)[kept.box] == 2
    assert mask.any()
    assert dice(mask, true) == pytest.approx(score.dice, abs=0.002)  # half precision
    assert np.count_nonzero(mask) == pytest.approx(score.predicted_voxels, rel=0.01)
    assert read_probability(tmp_path / "kept", "case1") is None


def test_without_a_liver_nothing_is_kept_but_that(tmp_path: Path) -> None:
    origin = score_of("none", "tumor", 0.0)
    keep_probability(tmp_path, origin, np.zeros((4, 4, 4), np.uint8), None)
    kept = read_probability(tmp_path, "none")
    assert kept is not None
    assert kept.liver.shape == kept.tumor.shape == (0, 0, 0)


def test_damaged_probabilities_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"a\.npz.*Delete the file"):
        read_probability(tmp_path, "a")


def test_every_file_is_written(made: Made, measured: Path) -> None:
    liver, tumor = read_scores(measured / "scores.csv")
    assert sorted(path.name for path in measured.iterdir()) == NAMES
    rows = read_lesions(measured / "lesions.csv")
    reference = [row for row in rows if row.mask == "reference"]
    assert len(reference) == tumor.lesions == 2
    assert sum(row.touched for row in reference) == tumor.lesions_touched
    assert sum(row.detected for row in reference) == tumor.lesions_detected
    assert tumor.predicted_lesions == len(rows) - 2 + tumor.lesions_detected
    summary = json.loads((measured / "summary.json").read_text())
    assert summary["targets"]["liver"]["measures"]["dice"]["mean"] == liver.dice
    assert summary["definitions"] == "product"
    assert summary["data"] == ["prepared"]
    (weights,) = summary["targets"]["tumor"]["weights"]
    assert weights == f"both@{load_model(str(made.both)).sha256[:12]}"
    assert weights in (measured / "summary.md").read_text()


def test_tumor_weights_alone_search_the_true_liver(made: Made, tmp_path: Path) -> None:
    (score,) = run(made, tmp_path, weights="tumor")
    assert (score.target, score.liver_from) == ("tumor", "reference")
    data = read_data_set(made.data)
    liver = (data.labels(data.cases[0]) > 0).sum()
    # Tumors found outside the true liver belong to the liver that their burden is a share of.
    assert score.predicted_burden >= score.predicted_voxels / (liver + score.predicted_voxels)
    assert score.predicted_burden <= score.predicted_voxels / liver


def test_liver_weights_alone_measure_the_liver(made: Made, tmp_path: Path) -> None:
    (score,) = run(made, tmp_path, weights="liver")
    assert (score.target, score.liver_from, score.reference_burden) == ("liver", "prediction", None)
    assert (score.lesions, score.predicted_lesions, score.lesion_recall) == (0, 0, None)
    assert read_lesions(tmp_path / "lesions.csv") == []


def test_lengths_of_an_unknown_spacing_are_warned_of(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(made.data, tmp_path / "data"))
    plain = json.loads((data / "dataset.json").read_text())
    plain["cases"][0]["spacing_known"] = False
    (data / "dataset.json").write_text(json.dumps(plain))
    run(replace(made, data=data), tmp_path / "out", "--cases", "case0", "case1", weights="liver")
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert told == ["warning: case0: its spacing is not known; its mm and mL are wrong"]


def test_synthetic_cases_are_left_out_unless_named(made: Made) -> None:
    data = read_data_set(made.data)
    first, second, third = data.cases
    data = replace(data, cases=(first, replace(second, synthetic=True), third))
    assert evaluate.choose_cases(data, None) == [first, third]
    assert evaluate.choose_cases(data, ["case1", "case2"]) == [data.cases[1], third]
    with pytest.raises(InputError, match="--cases: expected names of cases .* found none"):
        evaluate.choose_cases(replace(data, cases=data.cases[1:2]), None)


def test_mirrored_images_are_averaged(made: Made, measured: Path, tmp_path: Path) -> None:
    data = read_data_set(made.data)
    model, case = load_model(str(made.both)), data.cases[0]
    found = segment(data.volume(case), model, model, device="cpu", flips=True).labels
    plain, mirrored = read_scores(measured / "scores.csv")[1], run(made, tmp_path, "--tta")[1]
    assert (plain.tta, mirrored.tta) == (False, True)
    assert mirrored.predicted_voxels == (found == 2).sum() != plain.predicted_voxels


def test_mirrored_images_are_averaged_for_one_target_too(made: Made, tmp_path: Path) -> None:
    (plain,) = run(made, tmp_path / "plain", weights="tumor")
    (mirrored,) = run(made, tmp_path / "tta", "--tta", weights="tumor")
    assert plain.predicted_voxels != mirrored.predicted_voxels


def test_a_row_tells_whether_its_weights_had_seen_the_patient(made: Made, tmp_path: Path) -> None:
    """Of the liver's rows only the liver's weights matter."""
    save(tmp_path / "liver.safetensors", small("starter-liver"), 0, {"training_cases": []})
    fresh = replace(made, liver=tmp_path / "liver.safetensors")
    cases = ("--cases", "case0", "case1")
    scores = run(fresh, tmp_path / "out", *cases, weights="liver tumor")
    seen = {(score.target, score.case): score.seen for score in scores}
    assert [key for key in seen if seen[key]] == [("tumor", "case1")]
    tumor = scores[-1]
    assert [name.split("@")[0] for name in tumor.weights.split()] == ["liver", "tumor"]
    assert [name.split("@")[0] for name in tumor.recipes.split()] == [
        "starter-liver",
        "starter-tumor",
    ]
    assert scores[0].weights.split("@")[0] == "liver"
    assert (
        "Seen in training, so that they flatter: case1"
        in (tmp_path / "out" / "summary.md").read_text()
    )


@pytest.mark.parametrize("definitions", ["product", "lits"])
def test_definitions_are_those_asked_for(made: Made, tmp_path: Path, definitions: str) -> None:
    scores = run(made, tmp_path, "--definitions", definitions)
    data, model = read_data_set(made.data), load_model(str(made.both))
    case = data.cases[0]
    found, labels = segment(data.volume(case), model, model, device="cpu").labels, data.labels(case)
    scorer = {"product": product, "lits": lits}[definitions]
    for score in scores:
        made_by = Provenance(**{f.name: getattr(score, f.name) for f in fields(Provenance)})
        expected, _ = scorer.score_labels(made_by, found, labels, case.geometry)
        assert score == expected
        assert score.definitions == definitions
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert ("lits" in summary) == (definitions == "lits")


# Several runs into one folder


def test_folds_collect_in_one_folder(made: Made, tmp_path: Path) -> None:
    """Weights of one recipe; a case that is measured again replaces its rows."""
    save(tmp_path / "fold2.safetensors", rmau(), 7)
    other = replace(made, both=tmp_path / "fold2.safetensors")
    output = tmp_path / "out"
    first = run(made, output, "--cases", "case0", "case2")
    lesions = read_lesions(output / "lesions.csv")
    assert {row.case for row in lesions} == {"case0", "case2"}
    second = run(other, output, "--cases", "case2")
    assert [(s.target, s.case) for s in second] == [(s.target, s.case) for s in first]
    assert [s for s in second if s.case == "case0"] == [s for s in first if s.case == "case0"]
    assert {s.weights.split("@")[0] for s in second if s.case == "case2"} == {"fold2"}
    after = read_lesions(output / "lesions.csv")
    kept = [row for row in lesions if row.case == "case0"]
    assert [row for row in after if row.case == "case0"] == kept
    summary = json.loads((output / "summary.json").read_text())
    assert summary["targets"]["tumor"]["cases"] == 2
    names = [name.split("@")[0] for name in summary["targets"]["tumor"]["weights"]]
    assert names == ["both", "fold2"]


def test_each_target_may_be_measured_by_itself(made: Made, tmp_path: Path) -> None:
    run(made, tmp_path, weights="tumor")
    lesions = read_lesions(tmp_path / "lesions.csv")
    scores = run(made, tmp_path, weights="liver")
    assert [score.target for score in scores] == ["liver", "tumor"]
    assert read_lesions(tmp_path / "lesions.csv") == lesions


@pytest.mark.parametrize(
    ("weights", "options"),
    [
        ("both", ["--definitions", "lits"]),
        ("both", ["--tta"]),
        ("liver tumor", []),
        ("tumor", []),
    ],
)
def test_rows_without_a_common_mean_are_refused_before_any_work(
    made: Made,
    output: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    weights: str,
    options: list[str],
) -> None:
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    monkeypatch.setattr(evaluate, "predict", None)
    files = [str(getattr(made, name)) for name in weights.split()]
    arguments = ["--data", str(made.data), "-o", str(output), "--weights", *files, *options]
    message = refusal(capsys, evaluate.main([*arguments, "--cases", "case2"]))
    assert message.startswith(f"{output / 'scores.csv'}: holds the ")
    assert message.endswith("choose another folder.")
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_what_was_measured_before_an_interruption_is_kept(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predict = evaluate.predict

    def interrupted(volume: Any, *rest: Any) -> Any:
        if volume.name == "case1":
            raise KeyboardInterrupt
        return predict(volume, *rest)

    monkeypatch.setattr(evaluate, "predict", interrupted)
    arguments = ["--data", made.data, "-o", tmp_path / "out", "--weights", made.both]
    assert evaluate.main([*map(str, arguments), "--device", "cpu"]) == 3
    assert "are kept" in capsys.readouterr().err
    assert {score.case for score in read_scores(tmp_path / "out" / "scores.csv")} == {"case0"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == NAMES


# What cannot be done


def data_is_missing(m: Made, out: Path) -> list[str]:
    return ["--data", str(out / "none"), "--weights", str(m.liver)]


def case_is_unknown(m: Made, out: Path) -> list[str]:
    return ["--data", str(m.data), "--weights", str(m.liver), "--cases", "case0", "case9"]


def no_case_is_named(m: Made, out: Path) -> list[str]:
    return ["--data", str(m.data), "--weights", str(m.liver), "--cases"]


def weights_are_missing(m: Made, out: Path) -> list[str]:
    return ["--data", str(m.data), "--weights", str(out / "none.safetensors")]


def weights_are_of_one_target(m: Made, out: Path) -> list[str]:
    return ["--data", str(m.data), "--weights", str(m.liver), str(m.liver)]


def weights_are_for_both_and_for_one(m: Made, out: Path) -> list[str]:
    return ["--data", str(m.data), "--weights", str(m.both), str(m.tumor)]


def card_is_empty(m: Made, out: Path) -> list[str]:
    path = out.parent / "bare.safetensors"
    save(path, small("starter-liver"), 0, {"notes": []})
    return ["--data", str(m.data), "--weights", str(path)]


def device_is_unknown(m: Made, out: Path) -> list[str]:
    return ["--data", str(m.data), "--weights", str(m.liver), "--device", "abacus"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (data_is_missing, "expected a folder with dataset.json"),
        (case_is_unknown, "--cases: ['case9'] are not in"),
        (no_case_is_named, "expected names of cases"),
        (weights_are_missing, "no such weights file"),
        (weights_are_of_one_target, "at most one file for the liver"),
        (weights_are_for_both_and_for_one, "found weights for liver, tumor, tumor"),
        (card_is_empty, "Weights bare: expected a card that names the patients"),
        (device_is_unknown, "Device 'abacus'"),
    ],
)
def test_an_impossible_evaluation_is_refused(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: Callable[[Made, Path], list[str]],
    message: str,
) -> None:
    output = tmp_path / "sub" / "out"
    output.parent.mkdir()
    code = evaluate.main([*arguments(made, output), "-o", str(output)])
    assert message in refusal(capsys, code)
    assert not output.exists()


def file_in_the_way(output: Path) -> None:
    output.write_text("in the way")


def folder_for_a_file(output: Path) -> None:
    (output / "summary.md").mkdir(parents=True)


def scores_unreadable(output: Path) -> None:
    output.mkdir()
    (output / "scores.csv").write_text("case,volume\na,3\n")


def lesions_missing(output: Path) -> None:
    output.mkdir()
    (output / "scores.csv").write_text("")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (file_in_the_way, "{output}: expected a folder to write to"),
        (folder_for_a_file, "{output}/summary.md: expected a file or nothing"),
        (scores_unreadable, "{output}/scores.csv: expected the scores.csv of this version"),
        (lesions_missing, "{output}/lesions.csv: expected the lesions.csv of this version"),
    ],
)
def test_an_output_folder_that_cannot_be_used_is_refused(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[Path], None],
    message: str,
) -> None:
    output = tmp_path / "out"
    prepare(output)
    arguments = ["--data", str(made.data), "--weights", str(made.liver), "-o", str(output)]
    code = evaluate.main([*arguments, "--cases", "case0", "--device", "cpu"])
    assert refusal(capsys, code).startswith(message.format(output=output))


def test_a_full_disk_keeps_the_earlier_results(
    made: Made,
    output: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluate, "write_lesions", full)
    arguments = ["--data", made.data, "-o", output, "--weights", made.both, "--cases", "case2"]
    capsys.readouterr()
    assert evaluate.main([*map(str, arguments), "--device", "cpu"]) == 4
    assert "the disk is full" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
