"""How much memory the path around the networks takes, in bytes a voxel of the CT.

NumPy tells tracemalloc of every array. Constant parts, such as buffers of files, are small beside
these volumes.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from LiverTumorSegLib.boxes import digital_ball, opened
from LiverTumorSegLib.components import components_by_size, lesion_boxes
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.nifti import write_nifti
from LiverTumorSegLib.postprocess import clean_liver, clean_tumor
from LiverTumorSegLib.preprocess import distance_mm, network_input, prepare
from LiverTumorSegLib.recipe import Clahe, FixedShape
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.restore import restore
from LiverTumorSegLib.volume import Volume, image_on_grid, read_volume
from Testing.recipe_cases import PLAIN

SHAPE = (80, 96, 96)
GRID = Geometry(SHAPE, (1.0, 0.8, 0.8))


def peak_bytes(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function gives, and the most that it held at a time, in bytes a voxel of SHAPE."""
    tracemalloc.start()
    try:
        result = function(*arguments)
        return result, tracemalloc.get_traced_memory()[1] / np.prod(SHAPE)
    finally:
        tracemalloc.stop()


def ct() -> Volume:
    hu = np.random.default_rng(0).uniform(-300, 300, SHAPE).astype(np.float32)
    return Volume(np.rint(hu), GRID)


def scattered() -> np.ndarray:
    """A mask whose box is the whole volume: a block, and specks as networks find them anywhere."""
    mask = np.zeros(SHAPE, bool)
    mask[30:50, 30:60, 30:60] = True
    mask[40, 40, 40] = False
    mask[::9, ::19, ::19] = True
    mask[-1, -1, -1] = True
    return mask


@pytest.mark.parametrize(("kind", "limit"), [(np.int16, 6), (np.float32, 4), (np.float64, 12)])
def test_reading_holds_the_file_and_the_hu(kind: type, limit: float, tmp_path: Path) -> None:
    volume = ct()
    path = tmp_path / "ct.nii"
    sitk.WriteImage(image_on_grid(volume.hu.astype(kind), GRID), str(path))
    read, peak = peak_bytes(read_volume, path)
    assert np.array_equal(read.hu, volume.hu)
    assert peak < limit + 0.3


def test_padding_and_equalization_copy_no_volume() -> None:
    recipe = replace(
        PLAIN,
        clahe=Clahe(tile_pixels=32, clip_limit=0.01, bins=256),
        pad_minimum=(96, 112, 112),
        pad_multiple=(8, 16, 16),
    )
    volume = ct()
    image, peak = peak_bytes(lambda: network_input(prepare(volume, recipe), None))
    assert image.shape == (96, 112, 112)
    assert peak < 1.3 * 4 * image.size / volume.hu.size


@pytest.mark.parametrize("interpolation", ["linear", "area", "cubic"])
def test_resampling_holds_the_values_and_the_result(interpolation: str) -> None:
    recipe = replace(PLAIN, resampling=FixedShape((40, 48, 48)), interpolation=interpolation)
    _, peak = peak_bytes(prepare, ct(), recipe)
    assert peak < 4 + 2 * 4 / 8 + 1  # the result is brought into its padding


def test_distances_hold_scipy_s_indices_and_the_result() -> None:
    _, peak = peak_bytes(distance_mm, scattered(), (1.0, 0.8, 0.8))
    assert peak < 12 + 4 + 2 + 1


def test_numbering_parts_holds_their_numbers() -> None:
    (numbers, sizes), peak = peak_bytes(components_by_size, scattered())
    assert len(sizes) > 300
    assert peak < 4 + 0.3
    assert peak_bytes(lesion_boxes, numbers)[1] < 0.3


def test_the_opening_holds_masks() -> None:
    assert peak_bytes(opened, scattered(), digital_ball(2))[1] < 3 + 0.3


def test_cleaning_holds_the_numbers_of_parts_and_masks() -> None:
    cleaning = replace(
        RECIPES["starter-liver"].inference,
        largest_component=True,
        fill_holes=True,
        min_lesion_mm3=30.0,
    )
    liver, peak = peak_bytes(clean_liver, scattered(), cleaning)
    assert liver.sum() == 20 * 30 * 30
    assert peak < 4 + 2 + 0.3
    assert peak_bytes(clean_tumor, scattered(), cleaning, 1.0)[1] < 4 + 2 + 0.3


@pytest.mark.parametrize("name", ["rmau-net", "dpc-net"])
def test_the_way_back_holds_masks_and_a_few_slices(name: str) -> None:
    grid = prepare(ct(), replace(PLAIN, resampling=FixedShape((40, 48, 48)))).grid
    recipe, channels = RECIPES[name], {"rmau-net": 2, "dpc-net": 3}[name]
    plane = np.full((channels, 48, 48), 0.5, np.float32)
    arguments = (grid, (1, 1, 1), SHAPE, recipe, ("liver", "tumor"))
    few_slices = 4 * 8 * channels / SHAPE[0]
    found, peak = peak_bytes(
        lambda: restore((plane for _ in range(40)), *arguments, probabilities=False)
    )
    assert set(found[0]) == {"liver", "tumor"}
    assert peak < 2 + few_slices
    _, peak = peak_bytes(
        lambda: restore((plane for _ in range(40)), *arguments, probabilities=True)
    )
    assert peak < 2 + 2 * 2 + few_slices


def test_writing_holds_a_slice(tmp_path: Path) -> None:
    probability = np.zeros(SHAPE, np.float16)
    _, peak = peak_bytes(write_nifti, tmp_path / "p.nii.gz", probability, np.float32, GRID)
    assert peak < 0.8  # deflate's own memory is most of it
