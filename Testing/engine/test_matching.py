"""Matching: planted lesions under known maps, the rules at their limits, and what is symmetric."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.matching import NEAR_MM, Finding, Lesions, match_lesions
from LiverTumorSegLib.register import Registration
from Testing.engine.liver_phantom import affine, grid_around, in_ball, places_of, through

UNIT = Geometry((6, 30, 30), (1.0, 1.0, 1.0))
MIRRORED = {"one": "one", "none": "none", "split": "merged", "merged": "split"}
MIRRORED["regrouped"] = "regrouped"


def by(matrix: np.ndarray) -> Registration:
    """A registration that maps like this."""
    return Registration(matrix, 1.0, 0.0, (1.0, 1.0, 1.0), 0.0)


STILL = by(np.eye(4))


def boxes(*corners: tuple[int, int, int, int]) -> Lesions:
    """Flat lesions in slices 1 to 3: rows from, to, columns from, to; numbered as given."""
    numbers = np.zeros(UNIT.shape, np.int32)
    for number, (top, bottom, left, right) in enumerate(corners, start=1):
        numbers[1:4, top:bottom, left:right] = number
    return numbers, UNIT


def links(*findings: Finding) -> list[tuple[tuple[int | None, int | None], ...]]:
    return [finding.links for finding in findings]


def test_each_kind_of_match_by_hand() -> None:
    before = boxes((0, 4, 0, 4), (0, 4, 10, 20), (8, 12, 0, 4), (8, 12, 6, 10), (20, 24, 0, 4))
    after = boxes((0, 5, 0, 5), (0, 4, 10, 14), (0, 4, 16, 20), (8, 12, 0, 10), (20, 24, 20, 24))
    found = match_lesions(before, after, STILL)
    assert links(*found) == [
        ((1, 1),),
        ((2, 2), (2, 3)),
        ((3, 4), (4, 4)),
        ((5, None),),
        ((None, 5),),
    ]
    assert [f.match for f in found] == ["one", "split", "merged", "none", "none"]
    assert [f.baseline for f in found] == [(1,), (2,), (3, 4), (5,), ()]
    assert [f.followup for f in found] == [(1,), (2, 3), (4,), (), (5,)]
    assert all(f.shown for f in found)


def test_several_that_became_several_are_one_finding() -> None:
    before = boxes((0, 4, 0, 10), (0, 4, 12, 22))
    after = boxes((0, 4, 0, 4), (0, 4, 6, 16), (0, 4, 18, 22))
    (found,) = match_lesions(before, after, STILL)
    assert found.match == "regrouped"
    assert (found.baseline, found.followup) == ((1, 2), (1, 2, 3))


@pytest.mark.parametrize(("overlap", "match"), [(3, "split"), (2, "one")])
def test_a_third_of_either_lesion_links(overlap: int, match: str) -> None:
    """Of nine columns three or two are shared with a lesion that has another partner for sure."""
    before = boxes((0, 4, 0, 9))
    after = boxes((0, 4, 0, 9 - overlap), (0, 4, 9 - overlap, 18 - overlap))
    first, *rest = match_lesions(before, after, STILL)
    assert first.match == match
    assert links(*rest) == ([] if match == "split" else [((None, 2),)])


@pytest.mark.parametrize(("columns", "match"), [(5, "one"), (6, "none")])
def test_a_gap_of_up_to_five_millimeters_is_bridged(columns: int, match: str) -> None:
    assert NEAR_MM == 5.0
    before, after = boxes((0, 4, 0, 4)), boxes((0, 4, 3 + columns, 7 + columns))
    found = match_lesions(before, after, STILL)
    assert {f.match for f in found} == {match}
    assert len(found) == (1 if match == "one" else 2)


def test_near_lesions_are_paired_for_the_smallest_sum_not_the_nearest_first() -> None:
    """Columns 0, 7 before and 5, 11 after: nearest first would pair 7 with 5 and lose the rest."""
    before = boxes((0, 2, 0, 2), (0, 2, 7, 9))
    after = boxes((0, 2, 5, 7), (0, 2, 11, 13))
    assert links(*match_lesions(before, after, STILL)) == [((1, 1),), ((2, 2),)]


def test_an_overlap_comes_before_a_near_neighbor() -> None:
    before, after = boxes((0, 4, 0, 4)), boxes((0, 4, 0, 4), (0, 4, 6, 10))
    assert links(*match_lesions(before, after, STILL)) == [((1, 1),), ((None, 2),)]


def test_what_the_other_scan_does_not_reach_is_not_gone() -> None:
    before = boxes((0, 4, 0, 4), (20, 24, 20, 24))
    after = np.zeros((6, 10, 10), np.int32), Geometry((6, 10, 10), (1.0, 1.0, 1.0))
    found = match_lesions(before, after, STILL)
    assert [(f.links, f.shown) for f in found] == [(((1, None),), True), (((2, None),), False)]
    back = match_lesions(after, before, STILL)
    assert [(f.links, f.shown) for f in back] == [(((None, 1),), True), (((None, 2),), False)]


def test_no_lesions_are_no_findings() -> None:
    assert match_lesions(boxes(), boxes(), STILL) == ()
    assert links(*match_lesions(boxes((0, 2, 0, 2)), boxes(), STILL)) == [((1, None),)]
    assert links(*match_lesions(boxes(), boxes((0, 2, 0, 2)), STILL)) == [((None, 1),)]


@pytest.mark.parametrize(
    "grid",
    [
        grid_around(size_mm=(90, 90, 90), spacing_mm=(5.0, 1.5, 1.5)),
        grid_around(size_mm=(110, 110, 110), spacing_mm=(2.0, 2.0, 2.0), turn_degrees=(20, 30, 40)),
        grid_around(size_mm=(90, 90, 90), spacing_mm=(3.0, 2.0, 2.0), mirrored=True),
    ],
    ids=["thick", "oblique", "left-handed"],
)
def test_planted_lesions_are_found_again_under_a_known_map(grid: Geometry) -> None:
    before = [((-25, -20, 10), 8), ((20, -15, -12), 6), ((0, 25, 20), 7), ((25, 25, -20), 5)]
    after = [((-25, -20, 10), 11), ((20, -15, -12), 4), ((-28, 20, -22), 6), ((25, 25, -20), 5)]
    true = affine((6, -4, 9), (4, -3, 5), (1.04, 0.97, 1.0))
    plain = grid_around(size_mm=(90, 90, 90), spacing_mm=(2.5, 1.5, 1.5))

    def seen(balls: list, geometry: Geometry, matrix: np.ndarray) -> Lesions:
        places = through(np.linalg.inv(matrix), places_of(geometry))
        numbers = np.zeros(geometry.shape, np.int32)
        for number, (center, radius) in enumerate(balls, start=1):
            numbers[in_ball(center, radius, places)] = number
        return numbers, geometry

    found = match_lesions(seen(before, plain, np.eye(4)), seen(after, grid, true), by(true))
    assert links(*found) == [((1, 1),), ((2, 2),), ((3, None),), ((4, 4),), ((None, 3),)]
    assert all(f.shown for f in found)


MASKS = st.lists(
    st.tuples(*[st.integers(0, high) for high in (4, 26, 26)], *[st.integers(1, 5)] * 3),
    max_size=7,
)


def planted(cuboids: list[tuple[int, ...]]) -> Lesions:
    tumor = np.zeros(UNIT.shape, dtype=bool)
    for z, y, x, *size in cuboids:
        tumor[tuple(slice(a, a + n) for a, n in zip((z, y, x), size, strict=True))] = True
    return lesion_components(tumor)[0], UNIT


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_a_date_compared_with_itself_matches_one_to_one(cuboids: list[tuple[int, ...]]) -> None:
    lesions = planted(cuboids)
    count = int(lesions[0].max())
    found = match_lesions(lesions, lesions, STILL)
    assert links(*found) == [((n, n),) for n in range(1, count + 1)]


@settings(max_examples=60, deadline=None)
@given(MASKS, MASKS, st.sampled_from([0.0, 1.3, 4.0]))
def test_exchanged_dates_mirror_every_match(
    one: list[tuple[int, ...]], other: list[tuple[int, ...]], moved_mm: float
) -> None:
    """Equal distances may pair differently; how many pairs there are may not."""
    before, after = planted(one), planted(other)
    registration = by(affine(move_mm=(moved_mm, 0, 0), stretch=(1.05, 1.0, 1.0)))
    inverse = by(np.linalg.inv(registration.matrix))
    forth = match_lesions(before, after, registration)
    back = match_lesions(after, before, inverse)
    assert Counter(MIRRORED[f.match] for f in forth) == Counter(f.match for f in back)
    for lesions, side in ((before, "baseline"), (after, "followup")):
        named = [n for f in forth for n in getattr(f, side)]
        assert sorted(named) == list(range(1, int(lesions[0].max()) + 1)), "every lesion, once"


@settings(max_examples=40, deadline=None)
@given(MASKS, st.tuples(*[st.integers(-3, 3)] * 2))
def test_lesions_that_moved_as_the_livers_did_match_one_to_one(
    cuboids: list[tuple[int, ...]], shift: tuple[int, int]
) -> None:
    numbers, geometry = planted(cuboids)
    wide = np.pad(numbers, [(0, 0), (5, 5), (5, 5)])
    moved = np.roll(wide, shift, axis=(1, 2))
    own = Geometry(wide.shape, geometry.spacing_mm)
    registration = by(affine(move_mm=(shift[1], shift[0], 0)))
    found = match_lesions((wide, own), (moved, own), registration)
    assert links(*found) == [((n, n),) for n in range(1, int(numbers.max()) + 1)]
