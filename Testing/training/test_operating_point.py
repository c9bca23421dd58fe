"""The operating point: lesions at every threshold, the choice, its nesting, and the export."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from LiverTumorSegLib.checkpoint import load_model, read_info
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import confidence_of
from LiverTumorSegLib.postprocess import clean_tumor
from LiverTumorSegLib.recipe import LesionConfidence
from LiverTumorSegLib.recipes import RECIPES
from Testing.phantom import make_data_set
from Testing.training.score_cases import score_of
from Testing.training.tiny_runs import TINY
from Training import cross_validate, export, operating_point, product, train
from Training.calibration import Bin, MarkedLesion, brier, fit, reliability
from Training.dataset import read_data_set
from Training.operating_point_choice import chosen, marked_lesions
from Training.probabilities import TumorProbability, keep_probability
from Training.scores import Provenance, read_scores, recipe_label
from Training.thresholds import (
    POINTS,
    CaseLesions,
    Point,
    Row,
    at_point,
    choose,
    kept_at,
    lesions_of_case,
    outcome_of,
    row_of,
)

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower
SHAPE = (6, 10, 20)
GEOMETRY = Geometry(SHAPE, (2.0, 1.0, 1.0))
BOX = (slice(1, 6), slice(0, 10), slice(2, 20))


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random smooth probabilities, a liver that is not all of its box, and labels beyond it."""
    random = np.random.default_rng(seed)
    probability = random.random(SHAPE).astype(np.float16)
    for axis in (1, 2):
        probability = ((probability + np.roll(probability, 1, axis)) / 2).astype(np.float16)
    liver = np.zeros(SHAPE, bool)
    liver[BOX] = random.random((5, 10, 18)) < 0.9
    labels = (random.random(SHAPE) < 0.9).astype(np.uint8)
    labels[random.random(SHAPE) < 0.06] = 2
    return probability, liver, labels


def case_of(seed: int, patient: str = "p") -> CaseLesions:
    probability, liver, labels = drawn(seed)
    inside = np.where(liver, probability, np.float16(0))[BOX]
    kept = TumorProbability("w", BOX, liver[BOX], inside)
    return lesions_of_case(f"case{seed}", patient, 2.0, labels, kept)


# What a point gives


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([p for p in POINTS if p.min_lesion_mm3 < 60]))
def test_a_point_gives_what_evaluate_measures(seed: int, point: Point) -> None:
    """The same lesions, detection and Dice as the product's scorer finds in the mask."""
    probability, liver, labels = drawn(seed)
    inference = at_point(RECIPES["starter-tumor"], point).inference
    mask = clean_tumor(liver & (probability.astype(np.float32) >= point.threshold), inference, 2.0)
    predicted = liver.astype(np.uint8)
    predicted[mask] = 2
    told = {name: getattr(score_of("c", "tumor", 0.0), name) for name in Provenance.__annotations__}
    score, _ = product.score_labels(Provenance(**told), predicted, labels, GEOMETRY)
    outcome = outcome_of(case_of(seed), point)
    assert outcome.dice == pytest.approx(score.dice)
    assert (outcome.lesions, outcome.detected) == (score.lesions, score.lesions_detected)
    assert (outcome.predicted, outcome.false_lesions) == (
        score.predicted_lesions,
        score.false_lesions,
    )


def test_a_lesion_has_the_mean_probability_of_its_voxels() -> None:
    probability, liver, _ = drawn(7)
    left = kept_at(case_of(7), Point(0.3, 0.0))
    mask = liver & (probability.astype(np.float32) >= 0.3)
    total = probability[mask].astype(float).sum()
    assert left.probability @ left.voxels == pytest.approx(total, rel=1e-6)
    assert list(left.voxels) == sorted(left.voxels, reverse=True)


def empty(labels: np.ndarray) -> CaseLesions:
    nothing = np.zeros((0, 0, 0))
    kept = TumorProbability("w", (slice(0, 0),) * 3, nothing.astype(bool), nothing)
    return lesions_of_case("none", "q", 2.0, labels, kept)


def test_where_no_liver_was_found_nothing_is_marked() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    assert outcome_of(empty(labels), POINTS[0]).dice == 1.0
    labels[2, 2, 2] = 2
    outcome = outcome_of(empty(labels), POINTS[0])
    assert (outcome.dice, outcome.lesions, outcome.detected, outcome.predicted) == (0, 1, 0, 0)


def test_a_row_pools_lesions_and_counts_clean_cases() -> None:
    healthy = empty(np.zeros(SHAPE, np.uint8))
    case = case_of(1)
    point = Point(0.3, 0.0)
    outcome = outcome_of(case, point)
    row = row_of([case, healthy], point)
    assert row.dice == pytest.approx((outcome.dice + 1) / 2)
    assert row.recall == pytest.approx(outcome.detected / outcome.lesions)
    assert row.precision == pytest.approx(outcome.detected / outcome.predicted)
    assert row.false_lesions == outcome.false_lesions / 2
    assert row.clean == 1.0
    assert row_of([case], point).clean is None
    assert row_of([healthy], point).recall is None


# The choice


def made(threshold: float, smallest: float, dice: float, false: float) -> Row:
    return Row(threshold, smallest, dice, None, None, false, None)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(0.3, 0, 0.5, 9), (0.9, 0, 0.51, 99)], (0.9, 0)),
        ([(0.3, 0, 0.5001, 9), (0.9, 0, 0.5, 8)], (0.9, 0)),
        ([(0.3, 0, 0.5, 9), (0.6, 0, 0.5, 9), (0.8, 0, 0.5, 9)], (0.6, 0)),
        ([(0.5, 100, 0.5, 9), (0.5, 10, 0.5, 9)], (0.5, 10)),
    ],
)
def test_dice_decides_then_false_lesions(
    rows: list[tuple[float, float, float, float]], expected: tuple[float, float]
) -> None:
    assert choose([made(*row) for row in rows]) == Point(*expected)


def separable(name: str, patient: str, best: float) -> CaseLesions:
    """A case whose tumor is all that is above one threshold and nothing below."""
    probability = np.full(SHAPE, 0.2, np.float16)
    probability[1:4, 1:9, 1:9] = best - 0.02
    probability[2:4, 3:7, 3:7] = 0.97
    labels = np.ones(SHAPE, np.uint8)
    labels[2:4, 3:7, 3:7] = 2
    whole = tuple(slice(0, size) for size in SHAPE)
    kept = TumorProbability("w", whole, np.ones(SHAPE, bool), probability)
    return lesions_of_case(name, patient, 2.0, labels, kept)


def test_each_patient_is_scored_at_what_the_others_choose() -> None:
    """0.8 is right for all, for one patient 0.6 too; nobody's own case has a say."""
    cases = [
        separable("a", "low", 0.6),
        separable("b", "low", 0.6),
        separable("c", "high", 0.8),
        separable("d", "higher", 0.8),
    ]
    choice = chosen(cases)
    assert choice.point.threshold == 0.8
    assert {patient: nested.point.threshold for patient, nested in choice.nested.items()} == {
        "low": 0.8,
        "high": 0.8,
        "higher": 0.8,
    }
    alone = chosen([cases[0], cases[2]])
    assert alone.nested["high"].point.threshold == 0.6, "what the low one needs, nearest to 0.5"
    assert alone.nested["low"].point.threshold == 0.8
    assert [lesion.case for lesion in alone.lesions] == ["a", "c"]


# The confidence


def lesions(count: int, seed: int) -> list[MarkedLesion]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        probability, volume = random.uniform(0.5, 1.0), math.exp(random.uniform(3, 9))
        logit = -9.0 + 8.0 * probability + 0.7 * math.log(volume)
        real = random.random() < 1 / (1 + math.exp(-logit))
        made.append(MarkedLesion("a", probability, volume, bool(real)))
    return made


def test_many_lesions_give_the_coefficients_that_made_them() -> None:
    found = fit(lesions(20_000, 0))
    assert found.probability == pytest.approx(8.0, rel=0.1)
    assert found.log_volume == pytest.approx(0.7, rel=0.1)
    assert found.intercept == pytest.approx(-9.0, rel=0.1)


def test_the_fit_is_the_least_of_what_is_stated() -> None:
    """By plain gradient steps on the loss that the docstring states."""
    rows = lesions(60, 1)
    found = fit(rows)
    features = np.array([(row.probability, math.log(row.volume_mm3)) for row in rows])
    mean, sd = features.mean(0), features.std(0)
    real = np.array([row.real for row in rows])
    high, low = (real.sum() + 1) / (real.sum() + 2), 1 / ((~real).sum() + 2)
    targets = np.where(real, high, low)
    columns = np.column_stack([np.ones(60), (features - mean) / sd])
    weights = np.zeros(3)
    for _ in range(20_000):
        expected = 1 / (1 + np.exp(-columns @ weights))
        weights -= 0.02 * (columns.T @ (expected - targets) + np.array([0, 1, 1]) * weights)
    slopes = weights[1:] / sd
    assert [found.probability, found.log_volume] == pytest.approx(slopes, rel=1e-3)
    assert found.intercept == pytest.approx(weights[0] - slopes @ mean, rel=1e-3)


@pytest.mark.parametrize("real", [True, False])
def test_few_lesions_make_none_certain(real: bool) -> None:
    rows = [MarkedLesion("a", 0.9, 100.0, real)] * 3
    confidence = confidence_of(fit(rows), 0.9, 100.0)
    assert confidence == pytest.approx(0.8 if real else 0.2, abs=1e-4), "Platt's 4 of 5"


def test_without_lesions_nothing_is_known() -> None:
    assert fit([]) == LesionConfidence(0.0, 0.0, 0.0)


def test_reliability_counts_every_lesion_once() -> None:
    bins = reliability([0.05, 0.15, 0.2, 0.99, 1.0], [False, True, True, True, False])
    assert bins == [
        Bin(2, pytest.approx(0.1), 0.5),
        Bin(1, pytest.approx(0.2), 1.0),
        Bin(2, pytest.approx(0.995), 0.5),
    ]
    assert reliability([], []) == []
    assert brier([0.0, 1.0, 0.5], [False, False, True]) == pytest.approx(1.25 / 3)


def test_a_confidence_that_knows_is_better_than_the_share() -> None:
    """Large lesions are real and small ones are not, in every patient."""
    cases = []
    for number, patient in enumerate("abcd"):
        probability = np.full(SHAPE, 0.1, np.float16)
        probability[1:5, 1:9, 1:9] = 0.9
        for place in range(12, 20, 2):
            probability[2, 2, place] = 0.6 + 0.01 * number
        labels = np.ones(SHAPE, np.uint8)
        labels[1:5, 1:9, 1:9] = 2
        whole = tuple(slice(0, size) for size in SHAPE)
        kept = TumorProbability("w", whole, np.ones(SHAPE, bool), probability)
        cases.append(lesions_of_case(patient, patient, 20.0, labels, kept))
    case = cases[0]
    point = Point(0.3, 0.0)
    marked = marked_lesions(cases, point)
    assert [lesion.real for lesion in marked[:5]] == [True, False, False, False, False]
    assert marked[0].volume_mm3 == 4 * 64 * case.voxel_mm3
    confidence = fit(marked)
    large, small = (
        confidence_of(confidence, row.probability, row.volume_mm3) for row in marked[:2]
    )
    assert large > 0.7
    assert small < 0.2


# The command


@pytest.fixture(scope="module", autouse=True)
def _inline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("LiverTumorSegLib.segment.pick_backend", lambda backend, device: "torch")
        patch.setattr("Training.loading.worker_count", lambda: 0)
        patch.setattr(cross_validate, "run_alone", lambda function, *rest: function(*rest))
        yield


CHANGES = [
    word for change in (*TINY["starter-tumor"], "training.epochs=1") for word in ("--set", change)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_set(tmp_path_factory.mktemp("point"), patients=3)


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-validation of two of three folds, whose probabilities are painted over the tumors.

    The networks are hardly trained; what they would find is put in the place of what they found.
    """
    output = tmp_path_factory.mktemp("done") / "out"
    options = ["--data", str(data), "-o", str(output), "--only", "1", "3", "--device", "cpu"]
    assert cross_validate.main(["starter-tumor", *options, *CHANGES]) == 0
    data_set = read_data_set(data)
    for score in read_scores(output / "scores" / "scores.csv"):
        (case,) = (case for case in data_set.cases if case.name == score.case)
        labels = data_set.labels(case)
        random = np.random.default_rng(0)
        probability = np.where(labels == 2, 0.75, 0.0) + np.where(labels == 1, 0.45, 0.0)
        probability += random.uniform(-0.02, 0.02, labels.shape)
        keep_probability(
            output / "probabilities", score, np.minimum(labels, 1), probability.astype(np.float16)
        )
    assert operating_point.main([str(output)]) == 0
    return output


def test_the_point_and_everything_about_it_is_written(done: Path) -> None:
    folder = done / "operating_point"
    assert sorted(path.name for path in folder.iterdir()) == [
        "confidence.png",
        "grid.csv",
        "lesions.csv",
        "operating_point.json",
        "operating_point.md",
        "operating_point.png",
        "scores.csv",
        "summary.json",
        "summary.md",
    ]
    plain = json.loads((folder / "operating_point.json").read_text())
    assert plain["threshold"] == 0.5, "above the liver, below the tumors, and nearest to one half"
    assert plain["min_lesion_mm3"] == 0.0
    assert [*plain["nested"]] == ["case0", "case2"]
    assert len(plain["lesions"]) == 4, "two in each phantom"
    assert all(lesion["real"] for lesion in plain["lesions"])
    assert plain["recipe"] == recipe_label(read_info(weights(done)).recipe)
    page = (folder / "operating_point.md").read_text()
    assert "chosen on 2 held-out cases of 2 patients" in page
    assert "| case0 | 0.5 | 0 | 1.000 | 2 of 2 | 0 |" in page
    assert len((folder / "grid.csv").read_text().splitlines()) == len(POINTS) + 1


def weights(output: Path) -> Path:
    return output / "weights" / "starter-tumor-1.safetensors"


def test_nested_scores_are_labeled_as_of_the_point_that_was_chosen(done: Path) -> None:
    folder = done / "operating_point"
    scores = read_scores(folder / "scores.csv")
    assert [(score.case, score.dice) for score in scores] == [("case0", 1.0), ("case2", 1.0)]
    before = {score.case: score for score in read_scores(done / "scores" / "scores.csv")}
    plain = json.loads((folder / "operating_point.json").read_text())
    recipe = read_info(weights(done)).recipe
    point = Point(plain["threshold"], plain["min_lesion_mm3"])
    label = recipe_label(at_point(recipe, point, LesionConfidence(**plain["confidence"])))
    for score in scores:
        assert score.recipes == label != before[score.case].recipes
        assert score.weights == before[score.case].weights
        assert not score.seen


def exported(run: Path, output: Path, *options: str | Path) -> int:
    return export.main([str(run), "-o", str(output), *map(str, options)])


@pytest.fixture(scope="module")
def final(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on all cases."""
    run = tmp_path_factory.mktemp("final") / "run"
    options = ["--data", str(data), "-o", str(run), "--device", "cpu", *CHANGES]
    assert train.main(["starter-tumor", *options]) == 0
    return run


def test_exported_weights_have_the_point_and_its_nested_scores(
    done: Path, final: Path, tmp_path: Path
) -> None:
    folder = done / "operating_point"
    point = folder / "operating_point.json"
    file = tmp_path / "tumor.safetensors"
    options = ("--operating-point", point, "--scores", folder / "scores.csv")
    assert exported(final, file, *options) == 0
    inference = load_model(str(file)).recipe.inference
    assert (inference.threshold, inference.min_lesion_mm3) == (0.5, 0.0)
    assert inference.confidence is not None
    card = read_info(file).card
    assert card["scores"]["mean_dice"] == 1.0
    assert "chosen by cross-validation" in card["notes"][-1]
    assert "chosen on the other patients" in file.with_suffix(".md").read_text()


@pytest.mark.parametrize("nested", [True, False])
def test_scores_and_point_go_together_only(
    done: Path, final: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], nested: bool
) -> None:
    """Nested scores are of other numbers than the recipe's own, and the other way round."""
    point = ("--operating-point", done / "operating_point" / "operating_point.json")
    scores = done / ("operating_point" if nested else "scores") / "scores.csv"
    options = ("--scores", scores) if nested else ("--scores", scores, *point)
    assert exported(final, tmp_path / "tumor.safetensors", *options) == 2
    assert "of the run's own recipe" in capsys.readouterr().err


def test_a_point_of_another_recipe_is_refused(
    data: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--data", str(data), "-o", str(run), "--device", "cpu", *CHANGES]
    assert train.main(["starter-tumor", *options, "--set", "training.learning_rate=0.001"]) == 0
    point = ("--operating-point", done / "operating_point" / "operating_point.json")
    assert exported(run, tmp_path / "tumor.safetensors", "--unevaluated", *point) == 2
    assert "expected an operating point for starter-tumor@" in capsys.readouterr().err
    other = tmp_path / "operating_point.json"
    other.write_text('{"threshold": 2}')
    options_ = ("--unevaluated", "--operating-point", other)
    assert exported(run, tmp_path / "tumor.safetensors", *options_) == 2
    assert "expected operating_point.json" in capsys.readouterr().err


def test_lost_probabilities_are_predicted_again(done: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(done, tmp_path / "out"))
    (output / "probabilities" / "case2.npz").unlink()
    assert operating_point.main([str(output)]) == 0
    assert (output / "probabilities" / "case2.npz").exists()


def test_what_cannot_be_chosen_is_refused(
    data: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert operating_point.main([str(tmp_path)]) == 2
    assert "expected the plan" in capsys.readouterr().err
    output = Path(shutil.copytree(done, tmp_path / "out"))
    (output / "weights" / "starter-tumor-3.safetensors").unlink()
    assert operating_point.main([str(output)]) == 2
    assert "two patients or more" in capsys.readouterr().err
    weights(output).unlink()
    assert operating_point.main([str(output)]) == 2
    assert "of a network for tumors alone" in capsys.readouterr().err
    plan = json.loads((output / "cross_validation.json").read_text())
    plan["cases"]["case0"] = "0"
    (output / "cross_validation.json").write_text(json.dumps(plan))
    assert operating_point.main([str(output)]) == 2
    assert "expected the cases that were cross-validated" in capsys.readouterr().err
