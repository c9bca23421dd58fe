"""Which part of a scan a network of slices is shown; what it finds there is tested with stages."""

from __future__ import annotations

import doctest
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from LiverTumorSegLib import shown_part
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.preprocess import Grid, prepare
from LiverTumorSegLib.recipe import LiverCrop, Preprocessing, Spacing
from LiverTumorSegLib.restore import restored_slices
from LiverTumorSegLib.shown_part import part_of, widened
from LiverTumorSegLib.volume import Volume
from Testing.recipe_cases import PLAIN

LIVER_CROP = LiverCrop(
    margin_voxels=(1, 2, 2), mask_mm=3.0, training_mask_mm=(0.0, 6.0), median_hu=None
)


def volume_of(shape: tuple[int, int, int], spacing: tuple = (2.5, 0.8, 0.7)) -> Volume:
    hu = np.random.default_rng(0).uniform(-300, 300, shape).astype(np.float32)
    return Volume(hu, Geometry(shape, spacing))


def grid_of(recipe: Preprocessing, shape: tuple, spacing: tuple = (2.5, 0.8, 0.7)) -> Grid:
    return prepare(volume_of(shape, spacing), recipe).grid


def test_doctests() -> None:
    result = doctest.testmod(shown_part)
    assert result.attempted > 0
    assert result.failed == 0


@given(data=st.data(), margin=st.integers(0, 9), least=st.integers(1, 30))
def test_a_widened_range_holds_what_it_should_and_no_more(
    data: st.DataObject, margin: int, least: int
) -> None:
    size = data.draw(st.integers(least, 40), "size")
    start = data.draw(st.integers(0, size - 1), "start")
    stop = data.draw(st.integers(start + 1, size), "stop")
    wide = widened(range(start, stop), margin, least, size)
    assert 0 <= wide.start <= max(start - margin, 0)
    assert min(stop + margin, size) <= wide.stop <= size
    assert least <= len(wide) <= max(least, stop - start + 2 * margin)


# Which part matters


@settings(max_examples=90, deadline=None)
@given(
    axis=st.integers(0, 2),
    size=st.integers(1, 9),
    mm=st.sampled_from([0.5, 1.0, 2.5]),
    wanted_mm=st.sampled_from([None, 1.0, 4.0]),
    pad=st.integers(1, 14),
    data=st.data(),
)
def test_the_part_of_a_mask_is_what_its_voxels_depend_on(
    axis: int, size: int, mm: float, wanted_mm: float | None, pad: int, data: st.DataObject
) -> None:
    """Found, along one axis, by changing one plane of the output after the other."""

    def along(value: Any, others: Any) -> tuple:
        return tuple(value if i == axis else others for i in range(3))

    start = data.draw(st.integers(0, size - 1), "start")
    stop = data.draw(st.integers(start + 1, size), "stop")
    shape = along(size, 3)
    mask = np.zeros(shape, dtype=bool)
    mask[along(slice(start, stop), 1)] = True
    resampling = Spacing(along(wanted_mm, None)) if wanted_mm else None
    recipe = replace(PLAIN, resampling=resampling, pad_minimum=along(pad, 1))
    grid = grid_of(recipe, shape, along(mm, 1.0))
    padded = [n + sum(around) for n, around in zip(grid.shape, grid.padding, strict=True)]

    matters = []
    for index in range(padded[axis]):
        changed = np.zeros((1, *padded), np.float32)
        changed[(0, *along(index, slice(None)))] = 1
        slices = (changed[:, z] for z in range(padded[0]))
        rows = np.stack([*restored_slices(slices, grid, (1, 1, 1))], axis=1)
        if rows[(0, *along(slice(start, stop), slice(None)))].any():
            matters.append(index)
    part = part_of(mask, grid)
    assert part is not None
    assert part[axis] == range(matters[0], matters[-1] + 1)
    assert [*part[:axis], *part[axis + 1 :]] == [range(1, 2)] * 2


def test_a_mask_of_nothing_or_outside_the_box_has_no_part() -> None:
    shape = (8, 6, 6)
    mask = np.zeros(shape, dtype=bool)
    assert part_of(mask, grid_of(PLAIN, shape)) is None
    liver = mask.copy()
    liver[2:4] = True
    grid = prepare(volume_of(shape), replace(PLAIN, liver_crop=LIVER_CROP), liver).grid
    mask[6:] = True
    assert part_of(mask, grid) is None
    part = part_of(liver, grid)
    assert part is not None
    assert part[0] == range(1, 3)


def test_the_part_of_a_mask_follows_the_scan_s_direction() -> None:
    """A CT scanned from head to foot: the first slices are the last of the prepared grid."""
    down = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    shape = (8, 3, 4)
    mask = np.zeros(shape, dtype=bool)
    mask[0:2, 1:] = True
    hu = np.zeros(shape, np.float32)
    volume = Volume(hu, Geometry(shape, (2.5, 0.8, 0.7), direction=down))
    part = part_of(mask, prepare(volume, PLAIN).grid)
    assert part == (range(6, 8), range(1, 3), range(4))
