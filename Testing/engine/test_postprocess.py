"""Post-processing of masks, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from LiverTumorSegLib.postprocess import clean_liver, clean_tumor, touches_border
from LiverTumorSegLib.recipe import Inference
from LiverTumorSegLib.recipes import RECIPES


def post(**options: object) -> Inference:
    off = {"largest_component": False, "fill_holes": False, "min_lesion_mm3": 0.0}
    return replace(RECIPES["elanres-msca-liver"].inference, **{**off, **options})


def test_parts_that_share_a_corner_are_one_liver() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    kept = clean_liver(mask, post(largest_component=True))
    assert np.argwhere(kept).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_cavity_open_to_the_outside_is_not_filled() -> None:
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask[1:4, 1:4, 1:4] = True
    mask[2, 2, 2] = False
    assert clean_liver(mask.copy(), post(fill_holes=True)).sum() == 27
    mask[2, 2, 3] = False
    assert np.array_equal(clean_liver(mask.copy(), post(fill_holes=True)), mask)
    mask[2, 2, 3] = True
    assert np.array_equal(clean_liver(mask.copy(), post()), mask)


def test_a_lesion_of_exactly_the_smallest_volume_is_kept() -> None:
    mask = np.zeros((1, 3, 9), dtype=bool)
    mask[0, 0, 0:4] = mask[0, 2, 6:9] = True
    kept = clean_tumor(mask.copy(), post(min_lesion_mm3=2.0), 0.5)
    assert np.argwhere(kept).tolist() == [[0, 0, x] for x in range(4)]


def test_lesions_of_any_size_are_kept_without_a_smallest_volume() -> None:
    mask = np.random.default_rng(0).random((4, 5, 6)) < 0.1
    assert mask.any()
    assert np.array_equal(clean_tumor(mask.copy(), post(min_lesion_mm3=0.0), 1.0), mask)


@pytest.mark.parametrize(
    "options",
    [{}, {"largest_component": True}, {"fill_holes": True}, {"min_lesion_mm3": 5.0}],
)
def test_an_empty_mask_stays_empty(options: dict[str, object]) -> None:
    empty = np.zeros((3, 4, 5), dtype=bool)
    assert not clean_liver(empty.copy(), post(**options)).any()
    assert not clean_tumor(empty, post(**options), 1.0).any()


def test_a_mask_near_the_border_does_not_touch_it() -> None:
    mask = np.zeros((4, 5, 6), dtype=bool)
    assert not touches_border(mask)
    mask[1:-1, 1:-1, 1:-1] = True
    assert not touches_border(mask)
    mask[1, 4, 2] = True
    assert touches_border(mask)
