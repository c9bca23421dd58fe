"""What an epoch shows, and where the windows lie."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from LiverTumorSegLib.recipe import Recipe, SliceSampling
from LiverTumorSegLib.recipes import RECIPES
from Testing.training.prepared_cases import prepared_case
from Training.cache import PreparedCase, output_scale
from Training.sampling import (
    around,
    centered,
    deal,
    draw_between,
    draw_class_window,
    draw_window,
    liver_range,
)

LIVER = replace(RECIPES["elanres-msca-liver"], patch=(8, 16, 16))
TUMOR = replace(RECIPES["starter-tumor"], patch=(8, 8, 8))
BOTH = replace(RECIPES["dpc-net"], patch=(8, 8, 8))
SLICES = RECIPES["rmau-net"]


def sampling(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with windows anywhere, but for these changes."""
    plain = {
        "liver_share": 0.0,
        "liver_margin_slices": 0,
        "in_plane": "center",
        "target_share": 0.0,
        "jitter": 0.0,
    }
    chosen = replace(recipe.training.sampling, **{**plain, **changes})
    return replace(recipe, training=replace(recipe.training, sampling=chosen))


def dealt(
    recipe: Recipe,
    slice_voxels: list[np.ndarray],
    seed: int = 0,
    synthetic: tuple[bool, ...] | None = None,
) -> list[tuple[int, int]]:
    kinds = synthetic or (False,) * len(slice_voxels)
    found = deal(slice_voxels, kinds, recipe, np.random.default_rng(seed))
    return [tuple(row) for row in found.tolist()]


# What an epoch shows

EMPTY, LIVER_SLICE, TUMOR_SLICE = (9, 0, 0), (6, 3, 0), (5, 0, 4)
CASES = [
    np.array([EMPTY, LIVER_SLICE, TUMOR_SLICE, EMPTY]),
    np.array([LIVER_SLICE, EMPTY, EMPTY]),
    np.array([EMPTY] * 6),
]
SELECTED = [(0, 1), (0, 2), (1, 0)]
EVERY = [(case, z) for case, voxels in enumerate(CASES) for z in range(len(voxels))]


def test_so_many_windows_of_each_case() -> None:
    found = dealt(sampling(LIVER, samples=5, per="case"), CASES)
    assert Counter(found) == {(case, -1): 5 for case in range(3)}
    assert found != sorted(found)
    assert found != dealt(sampling(LIVER, samples=5, per="case"), CASES, seed=1)


def test_so_many_windows_of_an_epoch_are_dealt_evenly() -> None:
    """11 over 3 cases: 3 each and 2 drawn, not always to the same cases."""
    recipe = sampling(LIVER, samples=11, per="epoch")
    counts = [Counter(case for case, _ in dealt(recipe, CASES, seed)) for seed in range(20)]
    assert {tuple(sorted(count.values())) for count in counts} == {(3, 4, 4)}
    assert len({case for count in counts for case in count if count[case] == 3}) == 3
    fewer = dealt(sampling(LIVER, samples=2, per="epoch"), CASES)
    assert len(fewer) == len(set(fewer)) == 2


@pytest.mark.parametrize(
    ("synthetic", "expected"),
    [
        ((False, True, False), {1: 6, (0, 2): 2}),
        ((True, True, False), {2: 2, (0, 1): 6}),
        ((False, False, False), {(0, 1, 2): 8}),
        ((True, True, True), {(0, 1, 2): 8}),
    ],
)
def test_synthetic_cases_give_their_share_whatever_their_number(
    synthetic: tuple[bool, ...], expected: dict[Any, int]
) -> None:
    recipe = sampling(LIVER, samples=8, per="epoch", synthetic_share=0.75)
    counts = Counter(case for case, _ in dealt(recipe, CASES, 3, synthetic))
    for cases, count in expected.items():
        of_each = [counts[case] for case in (cases if isinstance(cases, tuple) else (cases,))]
        assert sum(of_each) == count
        assert max(of_each) - min(of_each) <= 1


def with_slices(**changes: Any) -> Recipe:
    chosen = {"liver_only": True, "other_share": 0.0, "class_ratios": None, **changes}
    return replace(SLICES, training=replace(SLICES.training, sampling=SliceSampling(**chosen)))


def test_every_slice_once() -> None:
    found = dealt(with_slices(liver_only=False), CASES)
    assert sorted(found) == EVERY
    assert found != EVERY


def test_every_slice_that_shows_the_liver_once() -> None:
    """A slice of nothing but tumor shows the liver too."""
    assert sorted(dealt(with_slices(), CASES)) == SELECTED


def test_a_share_of_the_other_slices_is_drawn_anew_each_epoch() -> None:
    others = sorted(set(EVERY) - set(SELECTED))
    assert len(others) == 10
    drawn = Counter()
    for seed in range(100):
        found = dealt(with_slices(other_share=0.3), CASES, seed)
        assert len(found) == len(set(found)) == 3 + 3
        assert set(SELECTED) <= set(found)
        drawn.update(set(found) - set(SELECTED))
    assert sorted(drawn) == others
    assert min(drawn.values()) > 15  # 30 each, standard deviation 4.6


def test_without_other_slices_none_are_drawn() -> None:
    cases = [np.array([LIVER_SLICE, LIVER_SLICE])]
    assert sorted(dealt(with_slices(other_share=0.5), cases)) == [(0, 0), (0, 1)]


# Where the windows lie


def case_with(
    recipe: Recipe, shape: tuple[int, int, int], **boxes: tuple[int, ...]
) -> PreparedCase:
    """A case whose liver and tumors are boxes (z0, z1, y0, y1, x0, x1) of the image."""
    labels = np.zeros(shape, np.uint8)
    for name, (z0, z1, y0, y1, x0, x1) in boxes.items():
        labels[z0:z1, y0:y1, x0:x1] = 1 if name.startswith("liver") else 2
    for axis, times in enumerate(output_scale(recipe)):
        labels = labels.repeat(times, axis)
    return prepared_case(np.zeros(shape, np.float32), labels, recipe)


def windows(case: PreparedCase, recipe: Recipe, count: int = 1000) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.array([draw_window(case, recipe, random) for _ in range(count)])


def middles(case: PreparedCase, recipe: Recipe, count: int = 1000) -> np.ndarray:
    """The voxels in the middle of windows of an even size: those that were drawn."""
    return windows(case, recipe, count) + np.array(recipe.patch) // 2 - 1


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_the_middle_of_an_axis(size: int, length: int) -> None:
    """Inference pads half of what lacks before, rounded down; and a window is cut alike."""
    start = centered(size, length)
    if length >= size:
        assert -start == (length - size) // 2
    else:
        assert start - (size - length - start) in (0, 1)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_window_is_within_the_range_or_around_it_and_in_the_volume(data: st.DataObject) -> None:
    size, length = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    low = data.draw(st.integers(0, size - 1))
    high = data.draw(st.integers(low + 1, size))
    start = draw_between(
        low, high, length, size, np.random.default_rng(data.draw(st.integers(0, 9)))
    )
    if length >= size:
        assert start == centered(size, length)
        return
    assert 0 <= start <= size - length
    if length <= high - low:
        assert low <= start
        assert start + length <= high
    else:
        assert start <= low
        assert high <= start + length


def test_every_place_within_the_range_is_drawn_as_often() -> None:
    random = np.random.default_rng(0)
    counts = Counter(draw_between(3, 12, 5, 20, random) for _ in range(2000))
    assert sorted(counts) == [3, 4, 5, 6, 7]
    assert min(counts.values()) > 330  # 400 each, standard deviation 18


def test_without_a_patch_the_window_is_the_whole_padded_grid() -> None:
    recipe = RECIPES["unet3d-liver"]
    case = case_with(recipe, (10, 30, 33), liver=(0, 9, 0, 9, 0, 9))
    assert windows(case, recipe, 3).tolist() == [[-3, -1, -3]] * 3  # of 16 x 32 x 40


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_windows_in_the_range_of_the_liver(share: float) -> None:
    """Slices 30 to 49 and 5 on each side; 23 of the 93 places of a window lie within."""
    recipe = sampling(LIVER, liver_share=share, liver_margin_slices=5)
    case = case_with(recipe, (100, 40, 41), liver=(30, 40, 2, 9, 2, 9), tumor=(40, 50, 2, 9, 2, 9))
    assert liver_range(case, 5) == (25, 55)
    found = windows(case, recipe)
    assert (found[:, 1:] == [12, 13]).all()
    within = (found[:, 0] >= 25) & (found[:, 0] + 8 <= 55)
    assert within.mean() == pytest.approx(share + (1 - share) * 23 / 93, abs=0.06)
    assert np.ptp(found[within, 0]) == 22
    if share < 1:
        assert found[:, 0].min() < 3
        assert found[:, 0].max() > 89


def test_the_range_of_the_liver_ends_with_the_volume() -> None:
    case = case_with(LIVER, (20, 9, 9), liver=(2, 19, 2, 9, 2, 9))
    assert liver_range(case, 20) == (0, 20)
    assert liver_range(case_with(LIVER, (20, 9, 9)), 1) == (0, 20)  # the grid has lost the liver


def test_windows_anywhere_in_the_plane_stay_inside() -> None:
    recipe = sampling(LIVER, in_plane="random")
    case = case_with(recipe, (20, 30, 10), liver=(2, 9, 2, 9, 2, 9))
    found = windows(case, recipe)
    assert found.min(axis=0).tolist() == [0, 0, -3]  # x is shorter than the window: its middle
    assert found.max(axis=0).tolist() == [12, 14, -3]


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_the_share_of_windows_on_a_target(share: float) -> None:
    recipe = sampling(TUMOR, target_share=share, jitter=0.25)
    boxes = {"liver": (2, 10, 2, 10, 2, 10), "tumor": (30, 31, 30, 31, 30, 31)}
    case = case_with(recipe, (40, 40, 40), **boxes)
    found = middles(case, recipe)
    on_target = found[:, 0] > 20
    assert on_target.mean() == pytest.approx(share, abs=0.05)  # standard deviation 0.015
    assert np.abs(found[on_target] - 30).max(initial=0) <= 0.25 * 8
    if share:
        assert (found[on_target].min(axis=0) < 30).all()
        assert (found[on_target].max(axis=0) > 30).all()
    if share < 1:  # with a liver crop the others lie on the liver, tumors included
        others = found[~on_target]
        assert others.min(axis=0).tolist() == [2, 2, 2]
        assert others.max(axis=0).tolist() == [9, 9, 9]


@pytest.mark.parametrize(("by", "small"), [("lesion", 0.5), ("voxel", 1 / 65)])
def test_lesions_are_drawn_as_often_or_by_their_voxels(by: str, small: float) -> None:
    recipe = sampling(TUMOR, target_share=1.0, target_by=by)
    boxes = {"tumor1": (2, 6, 2, 6, 2, 6), "tumor2": (30, 31, 30, 31, 30, 31)}
    case = case_with(recipe, (40, 40, 40), liver=(0, 9, 0, 9, 0, 9), **boxes)
    found = middles(case, recipe)
    assert (found[:, 0] > 20).mean() == pytest.approx(small, abs=0.05)
    large = found[found[:, 0] < 20]
    assert large.min(axis=0).tolist() == [2, 2, 2]
    assert large.max(axis=0).tolist() == [5, 5, 5]
    assert len(np.unique(large, axis=0)) == 64


@pytest.mark.parametrize(
    ("boxes", "on_tumor"),
    [
        ({"liver": (0, 8, 0, 8, 0, 8), "tumor": (30, 31, 30, 31, 30, 31)}, 0.5),
        ({"liver": (0, 8, 0, 8, 0, 8)}, 0.0),
        ({"tumor": (30, 31, 30, 31, 30, 31)}, 1.0),
    ],
)
def test_of_two_targets_one_that_is_there_is_drawn_first(
    boxes: dict[str, tuple[int, ...]], on_tumor: float
) -> None:
    recipe = sampling(BOTH, target_share=1.0)
    case = case_with(recipe, (40, 40, 40), **boxes)
    found = middles(case, recipe)
    assert (found[:, 0] > 20).mean() == pytest.approx(on_tumor, abs=0.06)
    liver = found[found[:, 0] < 20]
    assert ((liver >= 0) & (liver < 8)).all()


def test_the_liver_as_target_has_its_tumors() -> None:
    recipe = sampling(LIVER, target_share=1.0)
    boxes = {"liver": (0, 8, 0, 8, 0, 8), "tumor": (30, 38, 30, 38, 30, 38)}
    found = middles(case_with(recipe, (40, 40, 40), **boxes), recipe)
    assert (found[:, 0] > 20).mean() == pytest.approx(0.5, abs=0.06)


def test_without_a_target_the_window_lies_as_others_do() -> None:
    case = case_with(TUMOR, (40, 40, 40), liver=(9, 10, 9, 10, 9, 10))
    assert (middles(case, sampling(TUMOR, target_share=1.0), 5) == 9).all()
    empty = case_with(BOTH, (40, 8, 8))
    found = windows(empty, sampling(BOTH, target_share=1.0))
    assert (found[:, 0].min(), found[:, 0].max()) == (0, 32)


def test_a_liver_that_the_grid_has_lost_leaves_the_middle() -> None:
    case = case_with(TUMOR, (40, 40, 40))
    assert (windows(case, sampling(TUMOR), 3) == 16).all()


def test_a_window_around_a_place() -> None:
    assert around(np.array([10.5, 8.0, 8.0]), (1, 4, 5)).tolist() == [10, 6, 6]


# Windows of slices by class


def class_windows(
    labels: np.ndarray, shape: tuple[int, int], ratios: tuple[float, float, float]
) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.array([draw_class_window(labels, shape, ratios, random) for _ in range(2000)])


def test_classes_are_drawn_by_their_ratios() -> None:
    """One pixel of liver and one of tumor, so far apart that the window tells which it was."""
    labels = np.zeros((40, 60), np.uint8)
    labels[20, 20], labels[20, 40] = 1, 2
    found = class_windows(labels, (4, 6), (1.0, 2.0, 1.0))
    on_liver, on_tumor = ((found == start).all(axis=1) for start in ((18, 17), (18, 37)))
    assert on_liver.mean() == pytest.approx(0.5, abs=0.04)
    assert on_tumor.mean() == pytest.approx(0.25, abs=0.04)
    assert len(np.unique(found[~on_liver & ~on_tumor], axis=0)) > 300


@pytest.mark.parametrize(
    ("present", "shares"),
    [((0, 1), {0: 1 / 3, 1: 2 / 3}), ((0, 2), {0: 0.5, 2: 0.5}), ((1, 2), {1: 2 / 3, 2: 1 / 3})],
)
def test_only_classes_of_the_slice_are_drawn(
    present: tuple[int, int], shares: dict[int, float]
) -> None:
    labels = np.full((20, 40), present[0], np.uint8)
    labels[:, 20:] = present[1]
    found = class_windows(labels, (1, 1), (1.0, 2.0, 1.0))
    values = Counter(labels[y, x] for y, x in found)
    for value, share in shares.items():
        assert values[value] / 2000 == pytest.approx(share, abs=0.04)


def test_a_slice_of_none_of_the_wanted_classes_shows_what_it_has() -> None:
    assert class_windows(np.zeros((9, 9), np.uint8), (3, 3), (0.0, 1.0, 1.0)).shape == (2000, 2)


def test_a_window_on_a_class_holds_its_pixel_and_stays_inside() -> None:
    labels = np.zeros((30, 50), np.uint8)
    labels[0, 49] = 2
    assert (class_windows(labels, (8, 8), (0.0, 0.0, 1.0)) == (0, 42)).all()
    found = class_windows(labels, (8, 8), (1.0, 0.0, 0.0))
    assert found.min(axis=0).tolist() == [0, 0]
    assert found.max(axis=0).tolist() == [22, 42]
