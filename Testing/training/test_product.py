"""The product's scores of a case, on a few cubes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.labels import LIVER, TUMOR
from Training.product import burden, score_labels
from Training.scores import LesionScore, Provenance, Score

GRID = Geometry((6, 8, 8), (5.0, 2.0, 1.0))
Corner = tuple[int, int, int]


def cubes(*corners: Corner, inside: int = LIVER) -> np.ndarray:
    """Tumors of 2x2x2 voxels at the given corners, inside some other label."""
    labels = np.full(GRID.shape, inside, np.uint8)
    for z, y, x in corners:
        labels[z : z + 2, y : y + 2, x : x + 2] = TUMOR
    return labels


def score(
    predicted: np.ndarray, reference: np.ndarray, target: str = "tumor"
) -> tuple[Score, list[LesionScore]]:
    made = Provenance("a", "", "", target, "prediction", False, "product", False, "", "", 1.5)
    return score_labels(made, predicted, reference, GRID)


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
    found: list[Corner], true: list[Corner], expected: tuple[float, int, int, int]
) -> None:
    got, _ = score(cubes(*found), cubes(*true))
    assert (got.dice, got.lesions, got.lesions_touched, got.false_lesions) == pytest.approx(
        expected
    )
    assert got.predicted_ml == pytest.approx(len(found) * 8 * 10 / 1000)
    assert got.reference_ml == pytest.approx(len(true) * 8 * 10 / 1000)


def test_detection_is_by_more_than_half() -> None:
    """One lesion is found, one by half, one missed; two of those predicted are too many."""
    true = cubes((0, 0, 0), (0, 4, 0), (0, 0, 5))
    found = cubes((0, 0, 0), (1, 4, 0), (4, 6, 6))
    got, rows = score(found, true)
    assert (got.lesions, got.lesions_touched, got.lesions_detected) == (3, 2, 1)
    assert (got.predicted_lesions, got.false_lesions) == (3, 1)
    assert got.lesion_precision == got.lesion_recall == pytest.approx(1 / 3)
    assert len(rows) == 3 + 2


@pytest.mark.parametrize(
    ("found", "true", "undefined"),
    [
        ([(0, 0, 0)], [(0, 0, 1)], set()),
        ([], [(0, 0, 1)], {"precision", "lesion_precision"}),
        ([(0, 0, 0)], [], {"rvd", "recall", "lesion_recall"}),
        ([], [], {"rvd", "precision", "recall", "lesion_precision", "lesion_recall"}),
    ],
)
def test_what_is_not_defined_is_none(
    found: list[Corner], true: list[Corner], undefined: set[str]
) -> None:
    got, _ = score(cubes(*found), cubes(*true))
    distances = {"assd_mm", "rmsd_mm", "hd_mm", "hd95_mm"}
    expected = undefined | (distances if undefined else set())
    assert {name for name, value in vars(got).items() if value is None} == expected
    assert not any(isinstance(v, float) and math.isnan(v) for v in vars(got).values())


def test_a_liver_includes_its_tumors_and_has_no_lesions() -> None:
    predicted, reference = cubes((0, 0, 0)), cubes((3, 3, 3))
    got, rows = score(predicted, reference, "liver")
    assert got.dice == got.accuracy == 1
    assert rows == []
    counts = (got.lesions, got.lesions_touched, got.false_lesions, got.predicted_lesions)
    assert counts == (0, 0, 0, 0)
    assert (got.predicted_burden, got.burden_error, got.lesion_recall) == (None, None, None)


def test_burdens_are_shares_of_the_own_liver() -> None:
    predicted, reference = cubes((0, 0, 0), (0, 4, 4)), cubes((0, 0, 0))
    predicted[3:] = 0  # half of the liver
    got, _ = score(predicted, reference)
    assert got.predicted_burden == pytest.approx(16 / 192)
    assert got.reference_burden == pytest.approx(8 / 384)
    assert got.burden_error == pytest.approx(16 / 192 - 8 / 384)
    assert burden(np.zeros(3)) is None
    none, _ = score(cubes(inside=0), reference)
    assert (none.predicted_burden, none.burden_error) == (None, None)


def test_a_prediction_of_tumor_alone_is_a_liver_too() -> None:
    """Unlike for the LiTS scorer."""
    got, _ = score(cubes((0, 0, 0), inside=0), cubes((0, 0, 0), inside=0), "liver")
    assert got.dice == 1
