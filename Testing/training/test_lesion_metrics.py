"""Matching of lesions, by hand-drawn lesions and by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.geometry import Geometry
from Testing.phantom import ball
from Training.lesion_metrics import common_voxels, compare_lesions, size_of
from Training.metrics import surface_distances
from Training.scores import LesionScore

GRID = Geometry((4, 4, 24), (5.0, 2.0, 1.0))


def row_of(*spans: tuple[int, int]) -> np.ndarray:
    """Lesions of 4 voxels in cross-section, from one x to before another."""
    mask = np.zeros(GRID.shape, dtype=bool)
    for start, stop in spans:
        mask[1:3, 1:3, start:stop] = True
    return mask


def compared(found: list[tuple[int, int]], true: list[tuple[int, int]]) -> list[LesionScore]:
    return compare_lesions("a", row_of(*found), row_of(*true), GRID)


@pytest.mark.parametrize(
    ("found", "true", "matches", "left"),
    [
        ([], [], [], []),
        ([], [(0, 4)], [(None, False)], []),
        ([(0, 4)], [], [], [(1, False)]),
        ([(0, 4)], [(0, 4)], [(1, True)], []),
        ([(0, 4)], [(4, 8)], [(None, False)], [(1, False)]),  # side by side, no voxel in common
        ([(0, 4)], [(1, 5)], [(1, True)], []),  # 3 of 5
        ([(0, 4)], [(0, 2)], [(1, False)], [(1, True)]),  # one half is not more than half
        ([(0, 5)], [(0, 3)], [(1, True)], []),  # 3 of 5
        # One over two: it detects the larger, of which it overlaps more than half.
        ([(0, 9)], [(0, 6), (7, 9)], [(1, True), (1, False)], []),
        ([(0, 8)], [(0, 3), (5, 8)], [(1, False), (1, False)], [(1, True)]),
        # Two in one: the larger part detects it, the other is one too many.
        ([(0, 6), (7, 9)], [(0, 9)], [(1, True)], [(2, True)]),
        ([(0, 3), (5, 8)], [(0, 8)], [(1, False)], [(1, True), (2, True)]),
        # Numbered by size in each mask; one false.
        ([(0, 3), (10, 16)], [(0, 4)], [(2, True)], [(1, False)]),
    ],
)
def test_lesions_are_matched(
    found: list[tuple[int, int]],
    true: list[tuple[int, int]],
    matches: list[tuple[int | None, bool]],
    left: list[tuple[int, bool]],
) -> None:
    rows = compared(found, true)
    assert [(r.match, r.detected) for r in rows if r.mask == "reference"] == matches
    assert [(r.lesion, r.touched) for r in rows if r.mask == "prediction"] == left
    assert not any(r.detected for r in rows if r.mask == "prediction")
    assert all(r.touched == (r.match is not None) for r in rows)


def test_a_row_measures_the_lesion_and_its_match() -> None:
    (row,) = compared([(1, 7)], [(0, 6)])
    assert row.volume_ml == pytest.approx(24 * 10 / 1000)
    assert row.match_volume_ml == pytest.approx(24 * 10 / 1000)
    assert row.long_axis_mm == row.match_long_axis_mm == pytest.approx(math.hypot(5, 2))
    assert row.iou == pytest.approx(5 / 7)
    assert row.dice == pytest.approx(10 / 12)
    assert row.rvd == 0
    pair = surface_distances(row_of((1, 7)), row_of((0, 6)), GRID.spacing_mm)
    assert (row.assd_mm, row.rmsd_mm, row.hd_mm) == (pair.assd_mm, pair.rmsd_mm, pair.hd_mm)
    assert row.hd_mm == 1


def test_a_prediction_too_large_is_positive_in_either_kind_of_row() -> None:
    true, left = compared([(0, 8)], [(0, 4)])
    assert (true.mask, left.mask) == ("reference", "prediction")
    assert true.rvd == left.rvd == 1
    assert true.iou == left.iou == 0.5


def test_a_missed_lesion_has_no_measures() -> None:
    (row,) = compared([], [(0, 4)])
    assert (row.iou, row.dice, row.rvd, row.assd_mm, row.match_volume_ml) == (None,) * 5
    assert row.volume_ml > 0


def test_a_lesion_of_one_voxel() -> None:
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    (row,) = compare_lesions("a", mask, mask, Geometry((3, 3, 3), (1.0, 1.0, 1.0)))
    assert (row.long_axis_mm, row.major_axis_mm, row.iou, row.hd_mm) == (0, 0, 1, 0)


def test_axes_of_a_long_ellipsoid() -> None:
    """Of a solid ellipsoid of half axis a the variance along it is a^2 / 5."""
    mask = ball((20, 10, 10), (20, 6, 6), (41, 21, 21))
    size = size_of(mask, Geometry(mask.shape, (1.5, 1.0, 1.0)))
    assert size.major_axis_mm == pytest.approx(4 * 30 / math.sqrt(5), rel=0.01)
    assert size.long_axis_mm == pytest.approx(12)
    assert size.volume_ml == pytest.approx(mask.sum() * 1.5 / 1000)


def test_the_major_axis_of_a_row_of_voxels() -> None:
    """Positions 0 to 9 have the variance (10^2 - 1) / 12."""
    size = size_of(np.ones((1, 1, 10), bool), Geometry((1, 1, 10), (1.0, 1.0, 0.5)))
    assert size.major_axis_mm == pytest.approx(4 * 0.5 * math.sqrt(99 / 12))


def test_common_voxels_of_nothing() -> None:
    assert common_voxels(np.zeros(4, int), np.array([0, 1, 2, 2])).shape == (0, 2)
    assert common_voxels(np.zeros(4, int), np.zeros(4, int)).shape == (0, 0)


TUMORS = hnp.arrays(bool, (3, 4, 6), elements=st.sampled_from([False, False, True]))


@settings(max_examples=80, deadline=None)
@given(TUMORS, TUMORS)
def test_rows_are_those_of_a_search_over_all_pairs(found: np.ndarray, true: np.ndarray) -> None:
    geometry = Geometry(found.shape, (5.0, 2.0, 1.0))
    rows = compare_lesions("a", found, true, geometry)
    ours, n = lesion_components(found)
    theirs, m = lesion_components(true)
    assert m == ndimage.label(true, np.ones((3, 3, 3)))[1]
    iou = np.array(
        [
            [((theirs == i) & (ours == j)).sum() / ((theirs == i) | (ours == j)).sum() for j in of]
            for i, of in ((i, range(1, n + 1)) for i in range(1, m + 1))
        ]
    ).reshape(m, n)
    reference = [row for row in rows if row.mask == "reference"]
    rest = [row for row in rows if row.mask == "prediction"]
    assert [row.lesion for row in reference] == [*range(1, m + 1)]
    assert [row.iou or 0.0 for row in reference] == pytest.approx([max([0, *r]) for r in iou])
    assert [row.detected for row in reference] == [(r > 0.5).any() for r in iou]
    left = [j + 1 for j in range(n) if not (iou[:, j] > 0.5).any()]
    assert [row.lesion for row in rest] == left
    # As many predicted lesions detect as lesions are detected.
    assert n == len(rest) + sum(row.detected for row in reference)
    for row in (*reference, *rest):
        if row.iou is not None:
            assert row.dice == pytest.approx(2 * row.iou / (1 + row.iou))


@settings(max_examples=40, deadline=None)
@given(TUMORS, TUMORS)
def test_detection_knows_no_order_of_the_masks(a: np.ndarray, b: np.ndarray) -> None:
    geometry = Geometry(a.shape, (5.0, 2.0, 1.0))
    there, back = (
        sorted(row.iou for row in compare_lesions("a", *masks, geometry) if row.detected)
        for masks in ((a, b), (b, a))
    )
    assert there == back
