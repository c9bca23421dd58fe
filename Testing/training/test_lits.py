"""The LiTS scorer's numbers, as it gave them for masks made by a recipe, and its conventions.

`SETS` and `CASES` were printed by the scorer itself (its files of 2017-09-03, changed only to run
on Python 3 and to print more digits), fed with NIfTI files of `labels_of(seed)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from LiverTumorSegLib.geometry import Geometry
from Training import lits, product
from Training.scores import LesionScore, Provenance, Score

Pair = tuple[np.ndarray, np.ndarray, Geometry]


def labels_of(seed: int) -> Pair:
    """Predicted and true labels of one case: boxes of tumor in a box of liver.

    Of the true boxes some are missed and the others moved and resized; more are added. So lesions
    are bridged, split, cut and invented. From 40 on every fifth prediction marks no liver.
    """
    random = np.random.default_rng(seed)
    shape = tuple(int(n) for n in random.integers(16, 26, 3))
    spacing_mm = tuple(float(n) / 4 for n in random.integers(2, 20, 3))  # exact in 32 bits
    truth, predicted = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    truth[2:-2, 2:-2, 2:-2] = 1
    predicted[2:-3, 1:-2, 3:-2] = not (seed >= 40 and seed % 5 == 0)
    spread = int(random.integers(0, 3))
    for _ in range(random.integers(1, 12)):
        corner, size = random.integers(2, np.array(shape) - 7), random.integers(2, 7, 3)
        fill(truth, corner, size)
        if random.random() < 0.75:
            moved = corner + random.integers(-spread, spread + 1, 3)
            fill(predicted, moved, size + random.integers(-1, 2, 3))
    for _ in range(random.integers(0, 4)):
        corner = random.integers(2, np.array(shape) - 7)
        fill(predicted, corner, random.integers(1, 5, 3))
    return predicted, truth, Geometry(shape, spacing_mm)


def fill(labels: np.ndarray, corner: np.ndarray, size: np.ndarray) -> None:
    """Mark a box as tumor."""
    low = np.maximum(corner, 0)
    labels[tuple(slice(a, a + b) for a, b in zip(low, size, strict=True))] = 2


# Results of the scorer: one column a set of ten cases, of the seeds 0-9, 10-19 and so on.
SETS = {
    "lesion_precision": (0.108108108, 0.111111111, 0.257142857, 0.171428571, 0.305555556),
    "lesion_recall": (0.142857143, 0.125, 0.36, 0.206896552, 0.366666667),
    "lesion_precision_greater_zero": (
        0.621621622,
        0.481481481,
        0.542857143,
        0.657142857,
        0.611111111,
    ),
    "lesion_recall_greater_zero": (0.821428571, 0.541666667, 0.76, 0.793103448, 0.733333333),
    "lesion_dice": (0.717630215, 0.67458679, 0.786049431, 0.722141509, 0.76800696),
    "lesion_jaccard": (0.598235776, 0.523523852, 0.652138324, 0.573705082, 0.629442213),
    "lesion_voe": (0.401764224, 0.476476148, 0.347861676, 0.426294918, 0.370557787),
    "lesion_rvd": (-0.065615079, -0.019107643, 0.138346372, -0.113347997, 0.09547984),
    "lesion_assd": (1.119026412, 1.556194552, 0.791601204, 1.110871099, 0.92396134),
    "lesion_rmsd": (1.790613707, 2.502011627, 1.587231809, 1.979736759, 1.705829482),
    "lesion_msd": (4.441659513, 5.802879178, 4.474371064, 7.502574259, 5.576738317),
    "lesion_dice_per_case": (0.436422176, 0.342727298, 0.487530177, 0.586391496, 0.572061094),
    "lesion_dice_global": (0.398006751, 0.348558999, 0.610193571, 0.579155853, 0.611750155),
    "liver_dice": (0.913846784, 0.914375675, 0.909864692, 0.907414751, 0.727821535),
    "liver_jaccard": (0.841450035, 0.84234427, 0.834708063, 0.830636261, 0.667656972),
    "liver_voe": (0.158549965, 0.15765573, 0.165291937, 0.169363739, 0.332343028),
    "liver_rvd": (0.058990394, 0.062378999, 0.065294452, 0.065566488, 1800.258288583),
    "liver_assd": (1.197382505, 1.178596485, 1.099927845, 1.190186464, 1801.063673544),
    "liver_rmsd": (1.881352701, 1.889491213, 1.726453457, 1.862776967, 1801.551441396),
    "liver_msd": (4.725473413, 4.509059925, 3.906711918, 4.054425138, 1803.201653393),
    "liver_dice_per_case": (0.913846784, 0.914375675, 0.909864692, 0.907414751, 0.727821535),
    "liver_dice_global": (0.915838044, 0.916178086, 0.910958986, 0.909673755, 0.793007403),
    "RMSE_Tumorburden": (0.023906523, 0.016005871, 0.020693787, 0.020309615, 4025.342178624),
    "MAXERROR_Tumorburden": (0.057847481, 0.031936012, 0.042148263, 0.042430914, 0.042234672),
}

# Of each case: true and predicted lesions, and those it counts as detected above 0 and 0.5.
CASES = (
    (1, 3, 1, 1),
    (3, 5, 3, 1),
    (1, 2, 1, 1),
    (3, 4, 2, 0),
    (1, 1, 1, 0),
    (3, 3, 2, 1),
    (4, 3, 3, 0),
    (3, 4, 2, 0),
    (3, 5, 3, 0),
    (6, 7, 5, 0),
    (2, 1, 1, 1),
    (1, 1, 0, 0),
    (2, 2, 2, 1),
    (3, 3, 1, 0),
    (6, 4, 4, -1),
    (1, 3, 1, 1),
    (4, 4, 1, 0),
    (3, 3, 1, 0),
    (1, 3, 1, 1),
    (1, 3, 1, 0),
    (3, 5, 3, 2),
    (1, 4, 1, 0),
    (6, 6, 5, 3),
    (2, 2, 2, 0),
    (2, 3, 2, 2),
    (3, 2, 1, 0),
    (2, 6, 2, 0),
    (3, 3, 2, 1),
    (1, 1, 0, 0),
    (2, 3, 1, 1),
    (3, 5, 3, 0),
    (3, 1, 1, 1),
    (2, 3, 2, 1),
    (2, 4, 2, 1),
    (2, 2, 1, 1),
    (3, 3, 2, 1),
    (2, 2, 2, 0),
    (4, 5, 3, -1),
    (5, 6, 4, 1),
    (3, 4, 3, 1),
    (1, 3, 1, 1),
    (5, 4, 3, 2),
    (1, 2, 1, 0),
    (3, 4, 3, 2),
    (2, 2, 2, 1),
    (3, 4, 2, 1),
    (2, 6, 2, 0),
    (2, 3, 0, 0),
    (6, 5, 5, 3),
    (5, 3, 3, 1),
)


def scored(predicted: np.ndarray, true: np.ndarray, geometry: Geometry, target: str) -> Any:
    """What the LiTS definitions give for one case."""
    return lits.score_labels(origin(target), predicted, true, geometry)


def origin(target: str) -> Provenance:
    return Provenance("a", "", "", target, "prediction", False, "lits", False, "", "", 0.0)


def by_lits(seeds: range) -> tuple[list[Score], list[LesionScore]]:
    """The rows of some cases."""
    scores, lesions = [], []
    for seed in seeds:
        for target in ("liver", "tumor"):
            score, rows = scored(*labels_of(seed), target)
            scores.append(score)
            lesions += rows
    return scores, lesions


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_totals_are_the_scorers(first: int) -> None:
    totals = lits.totals(*by_lits(range(first, first + 10)))
    assert totals == pytest.approx({k: v[first // 10] for k, v in SETS.items()}, rel=1e-8, abs=1e-8)


def test_lesions_of_every_case_are_counted_as_by_the_scorer() -> None:
    scores, _ = by_lits(range(50))
    tumors = [score for score in scores if score.target == "tumor"]
    got = tuple(
        (s.lesions, s.predicted_lesions, s.lesions_touched, s.lesions_detected) for s in tumors
    )
    assert got == CASES
    assert min(s.lesions_detected for s in tumors) < 0  # the recipe reaches that convention too
    assert [s.false_lesions for s in tumors] == [row[1] - row[2] for row in CASES]


# Its conventions, by hand

GRID = Geometry((4, 4, 20), (1.0, 1.0, 1.0))


def row_of(liver: int, *tumors: tuple[int, int]) -> np.ndarray:
    """A liver of some label with tumors from one x to before another, 4 voxels in cross-section."""
    labels = np.full(GRID.shape, liver, np.uint8)
    for start, stop in tumors:
        labels[1:3, 1:3, start:stop] = 2
    return labels


@pytest.mark.parametrize(
    ("found", "true", "lesions", "touched", "detected"),
    [
        ([(1, 5)], [(1, 5)], 1, 1, 1),
        ([(1, 5)], [(3, 7)], 1, 1, 0),  # a third in common
        ([(1, 8)], [(1, 4), (5, 8)], 2, 1, 1),  # one over two that it fills: one is missed
        ([(1, 14)], [(1, 3), (5, 7)], 2, 1, -1),  # one over two, too large: each is taken away
        ([(1, 4), (5, 8)], [(1, 8)], 1, 1, 1),  # two in one that they fill
        ([(1, 5)], [], 0, 0, 0),  # where the scorer ends in an error
        ([], [(1, 5)], 1, 0, 0),
        ([], [], 0, 0, 0),
    ],
)
def test_lesions_are_merged(
    found: list[tuple[int, int]],
    true: list[tuple[int, int]],
    lesions: int,
    touched: int,
    detected: int,
) -> None:
    score, rows = scored(row_of(1, *found), row_of(1, *true), GRID, "tumor")
    assert (score.lesions, score.lesions_touched, score.lesions_detected) == (
        lesions,
        touched,
        detected,
    )
    assert score.predicted_lesions == len(found)
    assert score.false_lesions == len(found) - touched
    assert sum(row.dice is not None for row in rows) == max(detected, 0)
    assert all(row.mask == "reference" for row in rows)


def test_the_union_is_looked_up_by_the_wrong_number() -> None:
    """A lesion of 4 voxels' length in a prediction of 12 is no half; that another is missed helps.

    The scorer's own functions gave 0 and 1.
    """
    large, alone, second = row_of(1, (6, 18)), row_of(1, (10, 14)), row_of(1, (1, 4), (10, 14))
    assert scored(large, alone, GRID, "tumor")[0].lesions_detected == 0
    assert scored(large, second, GRID, "tumor")[0].lesions_detected == 1
    by_product, _ = product.score_labels(origin("tumor"), large, second, GRID)
    assert by_product.lesions_detected == 0


def test_edges_and_corners_do_not_connect() -> None:
    labels = row_of(1)
    for i in range(3):
        labels[i, i, i] = 2
    score, _ = scored(labels, labels, GRID, "tumor")
    assert score.lesions == score.predicted_lesions == score.lesions_detected == 3


def test_a_prediction_of_tumor_alone_has_no_liver() -> None:
    found, true = row_of(0, (1, 5)), row_of(1, (1, 5))
    liver, _ = scored(found, true, GRID, "liver")
    tumor, _ = scored(found, true, GRID, "tumor")
    assert (liver.dice, liver.iou, liver.voe) == (0, 0, 1)
    assert (liver.rvd, liver.assd_mm, liver.rmsd_mm, liver.hd_mm) == (9001,) * 4
    assert (liver.predicted_voxels, liver.common_voxels) == (0, 0)
    assert liver.predicted_ml > 0
    assert tumor.dice == 1
    assert tumor.burden_error == pytest.approx(16 / 320 - 9001)


def test_without_a_true_liver_there_is_no_burden() -> None:
    scores = [scored(row_of(1, (1, 5)), row_of(0), GRID, name)[0] for name in ("liver", "tumor")]
    assert scores[1].burden_error is None
    assert scores[0].dice == 0
    totals = lits.totals(scores, [])
    assert "RMSE_Tumorburden" not in totals
    assert totals["lesion_precision"] == totals["lesion_recall"] == 0
    assert (totals["lesion_dice"], totals["lesion_voe"], totals["lesion_rvd"]) == (0, 1, 9001)


def test_global_dice_of_nothing_is_not_defined() -> None:
    score, rows = scored(row_of(1), row_of(1), GRID, "tumor")
    assert score.dice == 1
    totals = lits.totals([score], rows)
    assert totals["lesion_dice_per_case"] == 1
    assert totals["lesion_dice_global"] is None
    assert not [name for name in totals if name.startswith("liver")]


def test_the_sign_of_rvd_is_turned() -> None:
    larger, smaller = row_of(1, (1, 9)), row_of(1, (1, 7))
    score, (row,) = scored(larger, smaller, GRID, "tumor")
    assert row.rvd == score.rvd == pytest.approx(-0.25)
    score, (row,) = scored(smaller, larger, GRID, "tumor")
    assert row.rvd == score.rvd == pytest.approx(1 / 3)
