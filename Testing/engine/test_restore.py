"""The way back: grids worked out by hand, torch's interpolation of whole arrays as oracle."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.preprocess import Grid, Prepared, network_input, prepare, prepare_labels
from LiverTumorSegLib.recipe import FixedShape, LiverCrop, Preprocessing, Recipe, Spacing, Window
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.resample import apply_weights
from LiverTumorSegLib.restore import (
    axis_weights,
    decide,
    likelihoods,
    restore,
    restored_slices,
)
from LiverTumorSegLib.volume import Volume
from Testing.recipe_cases import PLAIN

Shape = tuple[int, int, int]

HALVED = replace(PLAIN, halve_in_plane=True, pad_multiple=(4, 4, 4), pad_minimum=(4, 8, 8))
LIVER_CROP = LiverCrop(
    margin_voxels=(1, 2, 2), mask_mm=3.0, training_mask_mm=(0.0, 6.0), median_hu=None
)
ONE = RECIPES["unet3d-liver"]  # a sigmoid for the liver
TWO = RECIPES["rmau-net"]  # a sigmoid for the liver and one for the tumor
THREE = RECIPES["dpc-net"]  # a softmax over background, liver and tumor

ORIENTATIONS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product([False, True], repeat=3))
)
SMALL_SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
SPACINGS = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 2.5, 5.0])] * 3)
RESAMPLINGS = st.sampled_from(
    [None, Spacing((1.0, None, None)), Spacing((3.0, 1.9, 0.6)), FixedShape((4, 8, 12))]
)
SCALES = st.sampled_from([(1, 1, 1), (1, 2, 2), (2, 1, 3)])


def volume_of(hu: np.ndarray, spacing: tuple[float, float, float] = (2.5, 0.8, 0.7)) -> Volume:
    return Volume(hu.astype(np.float32), Geometry(hu.shape, spacing))


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).uniform(-300, 300, shape).astype(np.float32)


def grid_of(recipe: Preprocessing, shape: Shape, spacing: tuple = (2.5, 0.8, 0.7)) -> Grid:
    return prepare(volume_of(noise(shape), spacing), recipe).grid


def output_on(grid: Grid, scale: Shape, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Random probabilities (C, z, y, x) on the padded grid times the scale."""
    shape = [
        (length + sum(padding)) * factor
        for length, padding, factor in zip(grid.shape, grid.padding, scale, strict=True)
    ]
    return np.random.default_rng(seed).random((channels, *shape), np.float32)


def sliced(output: np.ndarray) -> Iterator[np.ndarray]:
    return (output[:, z] for z in range(output.shape[1]))


def restored_mask(
    output: np.ndarray, grid: Grid, shape: Shape, scale: Shape = (1, 1, 1), threshold: float = 0.5
) -> np.ndarray:
    """The liver's mask of an output (z, y, x)."""
    recipe = replace(ONE, inference=replace(ONE.inference, threshold=threshold))
    slices = sliced(output[None])
    masks, kept = restore(slices, grid, scale, shape, recipe, ("liver",), probabilities=False)
    assert kept == {}
    return masks["liver"]


def restored_probability(
    output: np.ndarray, grid: Grid, shape: Shape, scale: Shape = (1, 1, 1)
) -> np.ndarray:
    slices = sliced(output[None])
    return restore(slices, grid, scale, shape, ONE, ("liver",), probabilities=True)[1]["liver"]


# Whole arrays as oracle


@settings(max_examples=60, deadline=None)
@given(
    shape=SMALL_SHAPES,
    spacing=SPACINGS,
    halve=st.booleans(),
    resampling=RESAMPLINGS,
    scale=SCALES,
    channels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_slices_are_those_of_the_whole_array_interpolated_at_once(
    shape: Shape,
    spacing: tuple[float, float, float],
    halve: bool,
    resampling: Spacing | FixedShape | None,
    scale: Shape,
    channels: int,
    seed: int,
) -> None:
    recipe = replace(
        PLAIN,
        halve_in_plane=halve,
        resampling=resampling,
        pad_multiple=(2, 4, 4),
        pad_minimum=(6, 4, 8),
    )
    grid = grid_of(recipe, shape, spacing)
    output = output_on(grid, scale, channels, seed)
    inner = output[
        (
            slice(None),
            *(
                slice(before * factor, (before + length) * factor)
                for (before, _), length, factor in zip(grid.padding, grid.shape, scale, strict=True)
            ),
        )
    ]
    expected = F.interpolate(
        torch.from_numpy(inner)[None],
        size=[stop - start for start, stop in grid.box],
        mode="trilinear",
        align_corners=isinstance(resampling, FixedShape),
    )[0].numpy()
    got = np.stack([*restored_slices(sliced(output), grid, scale)], axis=1)
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)
    weights = [
        axis_weights(before, after, grid)
        for before, after in zip(inner.shape[1:], expected.shape[1:], strict=True)
    ]
    at_once = np.stack([apply_weights(channel, weights) for channel in inner])
    assert np.array_equal(got, at_once)  # to the bit, as a part of the CT is brought back


def test_few_slices_are_held_at_a_time() -> None:
    """However many there are: two to interpolate between, one on its way in and one out."""
    grid = grid_of(replace(PLAIN, resampling=Spacing((1.0, None, None))), (40, 6, 6))
    alive, most = 0, 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal alive, most

        def gone() -> None:
            nonlocal alive
            alive -= 1

        for values in sliced(output_on(grid, (1, 1, 1))):
            mine = values.copy()
            weakref.finalize(mine, gone)
            alive += 1
            most = max(most, alive)
            yield mine
            del mine

    slices = sum(1 for _ in restored_slices(counted(), grid, (1, 1, 1)))
    assert slices == 40
    assert grid.shape[0] == 100
    assert 2 <= most <= 4
    assert alive == 0


@pytest.mark.parametrize("resampling", [None, Spacing((0.3, None, None))])
def test_every_slice_is_taken_whether_needed_or_not(resampling: Spacing | None) -> None:
    """Padding behind the image, and slices that a coarser CT skips, may still count progress."""
    recipe = replace(PLAIN, resampling=resampling, pad_minimum=(60, 1, 1))
    grid = grid_of(recipe, (4, 5, 6))
    rest = sliced(output_on(grid, (1, 1, 1)))
    assert sum(1 for _ in restored_slices(rest, grid, (1, 1, 1))) == 4
    assert next(rest, None) is None


# Decisions


def test_channels_are_compared_with_the_threshold_each_for_itself() -> None:
    recipe = replace(TWO, inference=replace(TWO.inference, threshold=0.3))
    values = np.array([[0.2, 0.3, 0.9], [0.5, 0.1, 0.31]], np.float32)
    found = decide(values, recipe)
    assert {target: mask.tolist() for target, mask in found.items()} == {
        "liver": [False, True, True],
        "tumor": [True, False, True],
    }
    likely = likelihoods(values, recipe)
    assert np.array_equal(likely["liver"], values[0])
    assert np.array_equal(likely["tumor"], values[1])


def test_the_largest_of_three_classes_wins_and_a_tumor_is_liver() -> None:
    """In the last column no class reaches one half, and liver and tumor together do."""
    values = np.array(
        [[0.6, 0.2, 0.1, 0.40], [0.3, 0.5, 0.2, 0.35], [0.1, 0.3, 0.7, 0.25]], np.float32
    )
    found = decide(values, THREE)
    assert {target: mask.tolist() for target, mask in found.items()} == {
        "liver": [False, True, True, False],
        "tumor": [False, False, True, False],
    }
    likely = likelihoods(values, THREE)
    np.testing.assert_allclose(likely["liver"], [0.4, 0.8, 0.9, 0.6], rtol=1e-6)
    np.testing.assert_allclose(likely["tumor"], [0.1, 0.3, 0.7, 0.25], rtol=1e-6)


def test_classes_are_decided_after_the_interpolation() -> None:
    """Between sure background and a tumor that barely wins there is liver, which neither has."""
    grid = grid_of(replace(PLAIN, resampling=FixedShape((1, 1, 2))), (1, 1, 3))
    ends = np.array([[0.45, 0.05], [0.44, 0.45], [0.11, 0.50]], np.float32).reshape(3, 1, 1, 2)
    masks, kept = restore(
        sliced(ends), grid, (1, 1, 1), (1, 1, 3), THREE, ("liver", "tumor"), probabilities=True
    )
    assert masks["liver"].tolist() == [[[False, True, True]]]
    assert masks["tumor"].tolist() == [[[False, False, True]]]
    np.testing.assert_allclose(kept["liver"], [[[0.55, 0.75, 0.95]]], atol=1e-3)
    np.testing.assert_allclose(kept["tumor"], [[[0.11, 0.305, 0.5]]], atol=1e-3)


@pytest.mark.parametrize("recipe", [TWO, THREE], ids=["sigmoid", "softmax"])
def test_only_the_targets_asked_for_are_made(recipe: Recipe) -> None:
    grid = grid_of(PLAIN, (2, 3, 4))
    channels = 2 if recipe is TWO else 3
    output = output_on(grid, (1, 1, 1), channels)
    results = {
        targets: restore(
            sliced(output), grid, (1, 1, 1), (2, 3, 4), recipe, targets, probabilities=True
        )
        for targets in (("tumor",), ("liver", "tumor"))
    }
    masks, kept = results["tumor",]
    assert list(masks) == list(kept) == ["tumor"]
    assert masks["tumor"].any()
    assert np.array_equal(masks["tumor"], results["liver", "tumor"][0]["tumor"])
    assert np.array_equal(kept["tumor"], results["liver", "tumor"][1]["tumor"])


def test_the_threshold_itself_is_foreground() -> None:
    grid = grid_of(PLAIN, (1, 1, 2))
    output = np.array([[[0.5, 0.4999]]], np.float32)
    assert restored_mask(output, grid, (1, 1, 2)).tolist() == [[[True, False]]]


# On the CT


@settings(max_examples=40, deadline=None)
@given(shape=SMALL_SHAPES, spacing=SPACINGS, seed=st.integers(0, 99))
def test_a_mask_on_the_halved_grid_lands_on_the_voxels_it_came_from(
    shape: Shape, spacing: tuple[float, float, float], seed: int
) -> None:
    """Painted on the halved grid and expanded 2x, as the network's head does; odd sizes too."""
    grid = grid_of(HALVED, shape, spacing)
    painted = np.random.default_rng(seed).random(grid.shape) < 0.5
    padded = np.pad(painted, grid.padding).astype(np.float32)
    output = padded.repeat(2, axis=1).repeat(2, axis=2)
    restored = restored_mask(output, grid, shape, (1, 2, 2))
    rows, columns = (np.arange(size) // 2 for size in shape[1:])
    assert np.array_equal(restored, painted[:, rows][:, :, columns])


@settings(max_examples=40, deadline=None)
@given(shape=SMALL_SHAPES, seed=st.integers(0, 99))
def test_labels_survive_the_way_to_the_output_grid_and_back(shape: Shape, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, shape).astype(np.uint8)
    grid = grid_of(HALVED, shape)
    target = prepare_labels(labels, grid, (1, 2, 2), "nearest")
    scaled_padding = [
        (before * factor, after * factor)
        for (before, after), factor in zip(grid.padding, (1, 2, 2), strict=True)
    ]
    output = np.pad(target, scaled_padding).astype(np.float32)
    assert np.array_equal(restored_mask(output, grid, shape, (1, 2, 2)), labels == 1)


@settings(max_examples=40, deadline=None)
@given(shape=SMALL_SHAPES, spacing=SPACINGS, halve=st.booleans(), resampling=RESAMPLINGS)
def test_any_grid_has_a_way_back(
    shape: Shape,
    spacing: tuple[float, float, float],
    halve: bool,
    resampling: Spacing | FixedShape | None,
) -> None:
    """Everything found covers everything, and nothing found nothing."""
    recipe = replace(
        PLAIN,
        halve_in_plane=halve,
        resampling=resampling,
        pad_multiple=(4, 4, 4),
        pad_minimum=(8, 4, 4),
    )
    prepared = prepare(volume_of(noise(shape), spacing), recipe)
    ones = np.ones(network_input(prepared, None).shape, np.float32)
    assert restored_mask(ones, prepared.grid, shape, threshold=0.999).all()
    assert not restored_mask(0 * ones, prepared.grid, shape, threshold=0.001).any()
    probability = restored_probability(ones, prepared.grid, shape)
    assert probability.dtype == np.float16
    assert probability.shape == shape


@pytest.mark.parametrize(("order", "back"), ORIENTATIONS)
def test_a_result_lies_as_the_ct_was_scanned(
    order: tuple[int, ...], back: tuple[bool, ...]
) -> None:
    """The same patient in an array with other axes gets the same result in that array."""
    shape = (5, 32, 35)
    hu, liver = noise(shape), np.zeros(shape, dtype=bool)
    liver[1:4, 8:20, 10:22] = True
    mirrored = tuple(slice(None, None, -1 if b else 1) for b in back)
    columns = np.eye(3)[:, ::-1][:, list(order)] * np.where(back, -1, 1)
    spacing = (2.5, 0.8, 0.7)

    def turned(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.transpose(order)[mirrored])

    geometry = Geometry(
        turned(hu).shape,
        tuple(spacing[axis] for axis in order),
        direction=tuple(map(tuple, columns[:, ::-1].tolist())),
    )
    recipe = replace(HALVED, liver_crop=LIVER_CROP, resampling=Spacing((2.0, None, None)))
    reference = prepare(volume_of(hu, spacing), recipe, liver).grid
    other = prepare(Volume(turned(hu), geometry), recipe, turned(liver)).grid
    output = output_on(reference, (1, 2, 2))[0]
    for restored in (restored_mask, restored_probability):
        expected = restored(output, reference, shape, (1, 2, 2))
        assert 0 < np.count_nonzero(expected) < expected.size
        got = restored(output, other, turned(hu).shape, (1, 2, 2))
        assert np.array_equal(got, turned(expected))


def test_outside_the_crop_nothing_is_found() -> None:
    shape = (6, 20, 24)
    liver = np.zeros(shape, dtype=bool)
    liver[2:4, 7:12, 9:15] = True
    grid = prepare(volume_of(noise(shape)), replace(HALVED, liver_crop=LIVER_CROP), liver).grid
    everything = np.ones_like(output_on(grid, (1, 2, 2)))[0]
    expected = np.zeros(shape, dtype=bool)
    expected[tuple(slice(*interval) for interval in grid.box)] = True
    assert not expected.all()
    assert np.array_equal(restored_mask(everything, grid, shape, (1, 2, 2)), expected)
    probability = restored_probability(everything, grid, shape, (1, 2, 2))
    assert np.array_equal(probability, expected.astype(np.float16))


def test_a_box_may_reach_beyond_the_ct_on_every_side() -> None:
    shape = (3, 4, 5)
    box = tuple((-1, size + 2) for size in shape)
    padding = ((0, 0), (1, 0), (0, 2))
    size = tuple(stop - start for start, stop in box)
    grid = Grid((0, 1, 2), (), shape, box, size, padding, align_corners=False)
    output = output_on(grid, (1, 1, 1))[0]
    expected = output[1:4, 2:6, 1:6]
    assert np.array_equal(restored_mask(output, grid, shape), expected >= 0.5)
    assert np.array_equal(restored_probability(output, grid, shape), expected.astype(np.float16))


def test_probabilities_come_back_as_they_are_where_grids_coincide() -> None:
    """3 slices, padded to 4; 2x3 voxels of the halved plane, padded to 8x8, twice as fine."""
    shape = (3, 4, 6)
    grid = grid_of(HALVED, shape)
    assert grid.padding == ((0, 1), (3, 3), (2, 3))
    output = output_on(grid, (1, 2, 2))[0]
    expected = output[:3, 6:10, 4:10].astype(np.float16)
    assert np.array_equal(restored_probability(output, grid, shape, (1, 2, 2)), expected)


@pytest.mark.parametrize("orientation", ["LPS", "RAS"])
@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (1.0, 1.5, 0.8)])
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("resampling", [FixedShape((16, 24, 16)), Spacing((2.47, 1.9, 1.9))])
def test_a_smooth_blob_survives_the_way_there_and_back_within_one_voxel(
    resampling: FixedShape | Spacing,
    interpolation: str,
    spacing: tuple[float, float, float],
    orientation: str,
) -> None:
    shape = (30, 50, 40)
    index = np.moveaxis(np.indices(shape), 0, -1) * spacing
    distance_mm = np.linalg.norm(index - np.array([14, 28, 17]) * spacing, axis=-1)
    blob = distance_mm <= 10
    hu = 200 - 20 * (distance_mm - 10)  # 200 HU at the surface, a ramp across it
    recipe = replace(
        PLAIN,
        orientation=orientation,
        resampling=resampling,
        interpolation=interpolation,
        intensity=Window((0.0, 400.0), (0.0, 1.0)),
    )
    prepared: Prepared = prepare(volume_of(hu, spacing), recipe)
    restored = restored_mask(network_input(prepared, None), prepared.grid, shape)
    voxel_mm = max(prepared.spacing_mm)
    assert np.abs(distance_mm - 10)[restored != blob].max(initial=0) <= voxel_mm
    # No systematic shift: the centers agree far better than the voxels are large.
    centers = [index[mask].mean(axis=0) for mask in (blob, restored)]
    assert np.abs(centers[0] - centers[1]).max() <= 0.1 * voxel_mm
