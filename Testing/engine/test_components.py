"""Connected lesions: hand-drawn masks, SimpleITK as oracle, and what must hold for any mask."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from LiverTumorSegLib.components import (
    bounding_box,
    components_by_size,
    lesion_boxes,
    lesion_components,
)

MASKS = hnp.arrays(
    bool,
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7),
    elements=st.sampled_from([True, False, False]),
)


def mask_of(*voxels: tuple[int, int, int], shape: tuple[int, int, int] = (4, 4, 4)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(np.array(voxels).T)] = True
    return mask


def test_voxels_that_share_only_a_corner_are_one_lesion() -> None:
    lesions, count = lesion_components(mask_of((0, 0, 0), (1, 1, 1), (2, 0, 2)))
    assert count == 1
    assert lesions[0, 0, 0] == lesions[1, 1, 1] == lesions[2, 0, 2] == 1


def test_a_gap_of_one_voxel_separates() -> None:
    assert lesion_components(mask_of((0, 0, 0), (0, 0, 2)))[1] == 2


def test_the_largest_is_number_one() -> None:
    lesions, count = lesion_components(mask_of((0, 0, 0), (2, 2, 2), (2, 2, 3), (3, 0, 0)))
    assert count == 3
    assert (lesions[2, 2, 2], lesions[0, 0, 0], lesions[3, 0, 0]) == (1, 2, 3)


def test_equal_sizes_go_by_their_first_voxel_in_zyx_order() -> None:
    """The lesion that starts first ends last here, so any other rule would swap the two."""
    early = [(0, 0, 3), (1, 0, 3), (2, 0, 3)]
    late = [(0, 2, 0), (0, 3, 0), (0, 3, 1)]
    lesions, _ = lesion_components(mask_of(*early, *late))
    assert lesions[0, 0, 3] == 1
    assert lesions[0, 2, 0] == 2


def test_an_empty_mask_has_no_lesions() -> None:
    lesions, count = lesion_components(np.zeros((2, 3, 4), dtype=bool))
    assert (count, lesions.shape, lesions.dtype) == (0, (2, 3, 4), np.int32)
    assert not lesions.any()
    assert lesion_boxes(lesions) == []
    assert bounding_box(lesions > 0) is None


@settings(deadline=None)
@given(MASKS)
def test_any_mask_is_parted_into_lesions_in_order_of_size(mask: np.ndarray) -> None:
    lesions, count = lesion_components(mask)
    np.testing.assert_array_equal(lesions > 0, mask)
    sizes = np.bincount(lesions.ravel(), minlength=count + 1)[1:]
    assert sizes.tolist() == components_by_size(mask)[1].tolist()
    assert len(sizes) == count
    assert (sizes > 0).all()
    first = [np.flatnonzero(lesions == n)[0] for n in range(1, count + 1)]
    assert sorted(zip(-sizes, first, strict=True)) == list(zip(-sizes, first, strict=True))


@settings(deadline=None)
@given(MASKS)
def test_any_mask_is_parted_as_simpleitk_parts_it(mask: np.ndarray) -> None:
    lesions, count = lesion_components(mask)
    oracle = sitk.GetArrayFromImage(
        sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True)
    )
    pairs = set(zip(lesions[mask].tolist(), oracle[mask].tolist(), strict=True))
    assert len(pairs) == count == oracle.max()


@settings(deadline=None)
@given(MASKS, st.permutations(range(3)), st.tuples(*[st.sampled_from([1, -1])] * 3))
def test_the_order_in_memory_changes_nothing(
    mask: np.ndarray, order: list[int], steps: tuple[int, int, int]
) -> None:
    turn = tuple(slice(None, None, step) for step in steps)
    stored = np.ascontiguousarray(mask[turn].transpose(order))
    view = stored.transpose(np.argsort(order))[turn]
    np.testing.assert_array_equal(view, mask)
    np.testing.assert_array_equal(lesion_components(view)[0], lesion_components(mask)[0])


@settings(deadline=None)
@given(MASKS, st.tuples(*[st.integers(0, 3)] * 3))
def test_empty_space_around_a_mask_changes_nothing(
    mask: np.ndarray, margin: tuple[int, int, int]
) -> None:
    padded = np.pad(mask, [(m, 3 - m) for m in margin])
    inside = tuple(slice(m, m + n) for m, n in zip(margin, mask.shape, strict=True))
    np.testing.assert_array_equal(lesion_components(padded)[0][inside], lesion_components(mask)[0])


@settings(deadline=None)
@given(MASKS)
def test_boxes_fit_their_lesions_tightly(mask: np.ndarray) -> None:
    lesions, count = lesion_components(mask)
    boxes = lesion_boxes(lesions)
    assert len(boxes) == count
    for number, box in enumerate(boxes, start=1):
        voxels = np.argwhere(lesions == number)
        assert [b.start for b in box] == voxels.min(axis=0).tolist()
        assert [b.stop - 1 for b in box] == voxels.max(axis=0).tolist()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 1), (3, 3, 3)])
def test_a_full_mask_is_one_lesion(shape: tuple[int, int, int]) -> None:
    lesions, count = lesion_components(np.ones(shape, dtype=bool))
    assert count == 1
    assert (lesions == 1).all()
