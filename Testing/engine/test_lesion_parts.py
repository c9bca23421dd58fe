"""Parts of a grid, splitting a lesion at its neck, and lesions at another threshold."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from LiverTumorSegLib import part as part_module
from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.part import Part, part_of, union
from LiverTumorSegLib.relabel import Relabeler
from LiverTumorSegLib.split import split_lesion

SHAPE = (5, 6, 7)
MASKS = hnp.arrays(bool, SHAPE)
STEP = 1 / 16


def whole(part: Part, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return part.within(tuple(slice(0, n) for n in shape))


def ball(center: tuple[float, ...], radius: float, shape: tuple[int, ...]) -> np.ndarray:
    index = np.moveaxis(np.indices(shape), 0, -1)
    return np.linalg.norm(index - center, axis=-1) <= radius


# Parts


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(part_module)
    assert (result.attempted > 0, result.failed) == (True, 0)


@given(MASKS, MASKS)
def test_parts_are_sets_of_voxels(a: np.ndarray, b: np.ndarray) -> None:
    one, two = part_of(a), part_of(b)
    np.testing.assert_array_equal(whole(one), a)
    np.testing.assert_array_equal(whole(union([one, two])), a | b)
    np.testing.assert_array_equal(whole(one.without([two])), a & ~b)
    assert one.voxels == a.sum()
    assert one.same(two) == np.array_equal(a, b)


@given(MASKS, st.data())
def test_a_box_of_a_part_is_cut_out_of_it(mask: np.ndarray, data: st.DataObject) -> None:
    edges = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in SHAPE]
    box = tuple(slice(*edge) for edge in edges)
    np.testing.assert_array_equal(part_of(mask).within(box), mask[box])
    np.testing.assert_array_equal(
        whole(part_of(mask[box], box)) & mask, whole(part_of(mask[box], box))
    )


# Split


def two_balls(apart: float, radii: tuple[float, float] = (8, 6)) -> np.ndarray:
    shape = (21, 21, 50)
    return ball((10, 10, 12), radii[0], shape) | ball((10, 10, 12 + apart), radii[1], shape)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.7)])
def test_two_balls_that_overlap_part_at_the_plane_between_them(
    spacing: tuple[float, float, float],
) -> None:
    """Where balls of radius 8 and 6 intersect, 12 apart, is 49 / 6 from the first center."""
    mask = two_balls(12)
    one, other = split_lesion(part_of(mask), spacing)
    np.testing.assert_array_equal(whole(one, mask.shape) ^ whole(other, mask.shape), mask)
    plane = 12 + (12**2 + 8**2 - 6**2) / (2 * 12)
    assert np.argwhere(whole(one, mask.shape))[:, 2].max() == pytest.approx(plane, abs=2)
    assert np.argwhere(whole(other, mask.shape))[:, 2].min() == pytest.approx(plane, abs=2)
    assert one.voxels > other.voxels


@pytest.mark.parametrize(
    "mask",
    [
        ball((10, 10, 10), 9, (21, 21, 21)),
        np.ones((3, 4, 20), bool),
        np.ones((1, 1, 1), bool),
        np.moveaxis(np.indices((31, 31, 31)), 0, -1) @ [1, 1, 1] < 30,
        two_balls(3),
    ],
    ids=["ball", "bar", "voxel", "pyramid", "one ball in the other"],
)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.8)])
def test_without_a_neck_there_is_one_part(
    mask: np.ndarray, spacing: tuple[float, float, float]
) -> None:
    lesion = part_of(mask)
    (only,) = split_lesion(lesion, spacing)
    assert only.same(lesion)


def test_separate_components_are_the_parts() -> None:
    mask = two_balls(12) & ~two_balls(0)
    mask |= two_balls(30, (3, 2))
    expected, count = lesion_components(mask)
    parts = split_lesion(part_of(mask), (1.0, 1.0, 1.0))
    assert len(parts) == count == 3
    for number, part in enumerate(parts, start=1):
        np.testing.assert_array_equal(whole(part, mask.shape), expected == number)


# Relabel


def relabeler(probability: np.ndarray, smallest: float = 0.0) -> Relabeler:
    """In a liver that is everywhere."""
    return Relabeler(probability, part_of(np.ones(probability.shape, bool)), smallest)


MAPS = hnp.arrays(
    np.float16, SHAPE, elements=st.integers(0, 15).map(lambda n: float(n * STEP)), fill=st.just(0.0)
)


@settings(max_examples=100, deadline=None)
@given(MAPS, MASKS, st.lists(st.integers(1, 15), min_size=1, max_size=4))
def test_lesions_are_the_components_of_the_thresholded_map(
    probability: np.ndarray, liver: np.ndarray, steps: list[int]
) -> None:
    assume(liver.any())
    maker = Relabeler(probability, part_of(liver))
    for step in steps:
        mask = (probability >= step * STEP) & liver
        expected, count = lesion_components(mask)
        found = maker.lesions(step * STEP, {})
        assert len(found) == count
        masks = {whole(lesion).tobytes() for lesion in found.values()}
        assert masks == {(expected == number).tobytes() for number in range(1, count + 1)}


@settings(max_examples=60, deadline=None)
@given(MAPS, MASKS, st.integers(1, 15))
def test_kept_lesions_lose_no_voxel_and_get_no_shell(
    probability: np.ndarray, kept: np.ndarray, step: int
) -> None:
    maker = relabeler(probability)
    maker.remember(1, part_of(kept))
    found = maker.lesions(step * STEP, {1: part_of(kept)})
    components, _ = lesion_components(probability >= step * STEP)
    touched = np.isin(components, components[kept & (components > 0)])
    for number, lesion in found.items():
        assert number > 1
        assert not (whole(lesion) & (kept | (touched & (components > 0)))).any()


def test_numbers_stay_with_their_place_also_through_an_absence() -> None:
    probability = np.zeros((1, 1, 20), np.float16)
    probability[..., 2:6], probability[..., 3] = 0.5, 0.9
    probability[..., 10:14] = 0.5
    probability[..., 17] = 0.3
    maker = relabeler(probability)
    for number, edges in ((1, (10, 14)), (2, (2, 6))):
        mask = np.zeros(probability.shape, bool)
        mask[..., slice(*edges)] = True
        maker.remember(number, part_of(mask))
    assert {n: p.voxels for n, p in maker.lesions(0.7, {}).items()} == {2: 1}
    assert {n: p.voxels for n, p in maker.lesions(0.2, {}).items()} == {1: 4, 2: 4, 3: 1}
    assert {n: p.voxels for n, p in maker.lesions(0.5, {}).items()} == {1: 4, 2: 4}
    assert {n: p.voxels for n, p in maker.lesions(0.2, {}).items()} == {1: 4, 2: 4, 3: 1}


def test_where_two_lesions_join_the_larger_overlap_names_the_whole() -> None:
    probability = np.full((1, 1, 12), 0.4, np.float16)
    probability[..., 1:3] = probability[..., 5:11] = 0.8
    maker = relabeler(probability)
    assert {n: p.voxels for n, p in maker.lesions(0.5, {}).items()} == {1: 6, 2: 2}
    assert {n: p.voxels for n, p in maker.lesions(0.3, {}).items()} == {1: 12}


def test_an_automatic_lesion_that_joins_a_kept_one_keeps_what_it_had() -> None:
    probability = np.full((1, 1, 12), 0.4, np.float16)
    probability[..., 1:3] = probability[..., 5:11] = 0.8
    maker = relabeler(probability)
    lesions = maker.lesions(0.5, {})
    joined = maker.lesions(0.3, {1: lesions[1]})
    assert list(joined) == [2]
    assert joined[2].same(lesions[2])


def test_smaller_lesions_are_dropped() -> None:
    probability = np.zeros((1, 1, 12), np.float16)
    probability[..., 1:3] = probability[..., 5:8] = 0.8
    assert [p.voxels for p in relabeler(probability, 3).lesions(0.5, {}).values()] == [3]


@pytest.mark.parametrize("value", [0.0, 0.04, 0.96, 1.0, float("nan")])
def test_a_threshold_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"from 0\.05 to 0\.95"):
        relabeler(np.zeros(SHAPE, np.float16)).lesions(value, {})
