"""Preprocessing: hand-made grids, all orientations, and the papers' steps written out again."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from skimage import exposure, transform
from torch.nn import functional as F

from LiverTumorSegLib.boxes import body_box, crop, digital_ball, even, liver_box, opened
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.intensity import equalize_slices, to_network_values
from LiverTumorSegLib.preprocess import (
    Grid,
    distance_mm,
    fill_padding,
    network_input,
    network_padding,
    network_shape,
    orient,
    orient_axes,
    padded_shape,
    prepare,
    prepare_labels,
)
from LiverTumorSegLib.recipe import (
    BodyCrop,
    Clahe,
    FixedShape,
    LiverCrop,
    PixelRange,
    Spacing,
    Statistics,
    Window,
    ZScore,
)
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.resample import halve_in_plane
from LiverTumorSegLib.restore import restored_slices
from LiverTumorSegLib.volume import Volume
from Testing.recipe_cases import PLAIN

BODY = BodyCrop(threshold_hu=-500.0, opening_voxels=2, margin_voxels=4)
LIVER = LiverCrop(margin_voxels=(1, 2, 2), mask_mm=3.0, training_mask_mm=(0.0, 6.0), median_hu=None)
HALVED = replace(PLAIN, halve_in_plane=True, pad_multiple=(4, 4, 4), pad_minimum=(4, 8, 8))
PAPER_LIVER = RECIPES["elanres-msca-liver"].preprocessing
PAPER_TUMOR = RECIPES["elanres-msca-tumor"].preprocessing

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

# One of each kind of recipe, for phantoms of 5 x 32 x 35 voxels of 2.5 x 0.8 x 0.7 mm.
CONFIGURATIONS = {
    "window": PLAIN,
    "halved body": replace(HALVED, body_crop=BODY),
    "halved liver": replace(HALVED, body_crop=BODY, liver_crop=LIVER),
    "fixed shape": replace(
        PLAIN, orientation="RAS", resampling=FixedShape((7, 20, 24)), resample_hu=False
    ),
    "averaged fixed shape": replace(
        PLAIN, resampling=FixedShape((3, 13, 15)), interpolation="area", resample_hu=False
    ),
    "averaged slices of the liver": replace(
        HALVED,
        liver_crop=LIVER,
        resampling=Spacing((3.0, None, None)),
        interpolation="area",
    ),
    "pixel range": replace(
        PLAIN,
        resampling=PixelRange(smallest_mm=0.9, largest_mm=1.1, target_mm=1.0),
        intensity=Window(clip_hu=(-200.0, 200.0), output=(-1.0, 1.0)),
        pad_minimum=(1, 32, 32),
    ),
    "equalized": replace(
        PLAIN, clahe=Clahe(tile_pixels=8, clip_limit=0.02, bins=128), pad_minimum=(1, 40, 40)
    ),
    "z-score, cubic": replace(
        PLAIN,
        resampling=Spacing((2.0, 1.5, 1.5)),
        interpolation="cubic",
        label_interpolation="linear",
        resample_hu=False,
        intensity=ZScore((0.5, 99.5), Statistics(-17.0, 201.0, 99.4, 39.36)),
        pad_minimum=(8, 8, 8),
    ),
    "z-score of the volume": replace(PLAIN, intensity=ZScore((0.5, 99.5), None)),
}
EACH_CONFIGURATION = pytest.mark.parametrize("name", CONFIGURATIONS)

ORIENTATIONS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product([False, True], repeat=3))
)


def volume_of(
    hu: np.ndarray,
    spacing: tuple[float, float, float] = (2.5, 0.8, 0.7),
    direction: np.ndarray | None = None,
) -> Volume:
    direction = np.eye(3) if direction is None else direction
    rows = tuple(map(tuple, direction.tolist()))
    return Volume(hu.astype(np.float32), Geometry(hu.shape, spacing, direction=rows))


def noise(shape: tuple[int, ...], low: float = -300, high: float = 300) -> np.ndarray:
    return np.random.default_rng(sum(shape)).uniform(low, high, shape).astype(np.float32)


def turned(array: np.ndarray, order: tuple[int, ...], back: tuple[bool, ...]) -> np.ndarray:
    """The array with its axes permuted, then mirrored where `back`."""
    signs = tuple(slice(None, None, -1 if mirrored else 1) for mirrored in back)
    return np.ascontiguousarray(array.transpose(order)[signs])


def turned_volume(volume: Volume, order: tuple[int, ...], back: tuple[bool, ...]) -> Volume:
    """The same patient scanned into an array with other axes."""
    geometry = volume.geometry
    columns = np.array(geometry.direction)[:, ::-1][:, list(order)] * np.where(back, -1, 1)
    first = np.zeros(3)
    for axis, mirrored in zip(order, back, strict=True):
        first[axis] = geometry.shape[axis] - 1 if mirrored else 0
    hu = turned(volume.hu, order, back)
    spacing = tuple(geometry.spacing_mm[axis] for axis in order)
    rows = tuple(map(tuple, columns[:, ::-1].tolist()))
    return Volume(hu, Geometry(hu.shape, spacing, tuple(geometry.lps_of(first)), rows))


def slab(shape: tuple[int, ...], *ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def phantom(shape: tuple[int, int, int] = (12, 64, 70)) -> tuple[np.ndarray, np.ndarray]:
    """HU and liver of an elliptic body on a table in air, with a dent and a bright spot."""
    z, y, x = np.indices(shape)
    hu = np.full(shape, -1000.0)
    hu[((y - 28) / 20) ** 2 + ((x - 33) / 27) ** 2 <= 1] = 20
    hu[:, 52:54, 5:65] = 150
    liver = ((z - 6) / 4) ** 2 + ((y - 26) / 9) ** 2 + ((x - 24) / 12) ** 2 <= 1
    hu[liver] = 110
    hu += np.random.default_rng(1).uniform(-60, 60, shape)
    return hu.astype(np.float32), liver


# By hand


def test_a_halved_window_by_hand() -> None:
    """3 columns: one of air is added at the end; means of 2x2, then the window, then padding."""
    hu = np.array([[[-300, 100, 200], [100, 300, 500]]])
    prepared = prepare(volume_of(hu, (3.0, 1.0, 1.5)), replace(HALVED, pad_minimum=(1, 1, 1)))
    assert prepared.grid.box == ((0, 1), (0, 2), (0, 4))
    # means 50 and (200 - 1024 + 500 - 1024) / 4 = -337
    assert prepared.image.tolist() == [[[0.625, 0.0]]]
    assert prepared.image.dtype == np.float32
    assert prepared.spacing_mm == (3.0, 2.0, 3.0)
    padded = network_input(prepared, None)
    assert padded.shape == (4, 4, 4)
    assert prepared.grid.padding == ((1, 2), (1, 2), (1, 1))
    assert np.argwhere(padded).tolist() == [[1, 1, 1]]


def test_slices_are_resampled_between_their_outer_edges() -> None:
    """Three slices of 2 mm become six of 1 mm; the rows stay as they are."""
    hu = np.array([0.0, 100.0, -100.0]).reshape(3, 1, 1)
    recipe = replace(
        PLAIN,
        resampling=Spacing((1.0, None, None)),
        intensity=Window(clip_hu=(0.0, 100.0), output=(0.0, 1.0)),
    )
    prepared = prepare(volume_of(hu, (2.0, 0.8, 0.7)), recipe)
    assert prepared.image[:, 0, 0].tolist() == [0, 0.25, 0.75, 0.5, 0, 0]
    assert prepared.spacing_mm == (1.0, 0.8, 0.7)
    assert prepared.image.shape == (6, 1, 1)


def test_the_number_of_slices_is_never_zero() -> None:
    recipe = replace(PLAIN, resampling=Spacing((5.0, None, None)))
    prepared = prepare(volume_of(np.zeros((1, 2, 2)), (1.0, 1, 1)), recipe)
    assert prepared.image.shape == (1, 2, 2)
    assert prepared.spacing_mm == (1.0, 1.0, 1.0)


def test_a_target_spacing_gives_the_nearest_whole_number_of_voxels() -> None:
    """The median LiTS volume on DPC-Net's grid: 195.1 x 207.0 x 207.0 voxels."""
    recipe = replace(PLAIN, resampling=Spacing((2.47, 1.90, 1.90)))
    assert network_shape((482, 512, 512), recipe, (1.0, 0.768, 0.768)) == (195, 207, 207)


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ((7.0, 0.75, 0.75), (3, 10, 12)),
        ((7.0, 0.5, 0.5), (3, 10, 12)),
        ((0.3, 1.1, 1.1), (3, 10, 12)),
        ((5.0, float(np.float32(1.1)), float(np.float32(1.1))), (3, 10, 12)),
        ((5.0, 0.49, 0.49), (3, 7, 8)),  # 6.5 and 7.8
        ((0.3, 1.5, 1.5), (3, 20, 24)),
        ((5.0, 0.8, 0.4), (3, 11, 6)),  # 10.7 and 6.4: one side out of range is enough
    ],
)
def test_pixels_in_the_range_stay_and_others_take_the_target(
    spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    recipe = replace(PLAIN, resampling=PixelRange(0.5, 1.1, 0.75))
    volume = volume_of(noise((3, 10, 12)), spacing)
    prepared = prepare(volume, recipe)
    assert prepared.image.shape == prepared.grid.shape == shape
    expected = np.multiply(spacing, (3, 10, 12)) / shape
    np.testing.assert_allclose(prepared.spacing_mm, expected, rtol=1e-12)
    if shape == volume.hu.shape:
        assert np.array_equal(prepared.image, prepare(volume, PLAIN).image)


def test_the_pixels_judged_are_those_after_halving() -> None:
    recipe = replace(PLAIN, halve_in_plane=True)
    volume = volume_of(noise((2, 8, 8)), (5.0, 0.75, 0.75))
    for resampling, side in ((PixelRange(0.5, 1.1, 0.75), 8), (PixelRange(1.0, 2.2, 1.5), 4)):
        prepared = prepare(volume, replace(recipe, resampling=resampling))
        assert prepared.image.shape == (2, side, side)


def test_a_halved_ct_is_not_brought_back_to_its_old_grid() -> None:
    """A usual CT, through each recipe that halves: no resampling may undo it."""
    halving = {n: r.preprocessing for n, r in RECIPES.items() if r.preprocessing.halve_in_plane}
    assert len(halving) > 4
    shapes = {n: network_shape((9, 256, 256), r, (3.0, 1.5, 1.5)) for n, r in halving.items()}
    assert [name for name, shape in shapes.items() if shape[1:] != (256, 256)] == []


@pytest.mark.parametrize(
    ("resampling", "before", "after"),
    [
        (FixedShape((5, 1, 1)), [0, 0.375, 1, 0.375, 0], [0, 0.5, 1, 0.5, 0]),
        (
            Spacing((1.0, None, None)),
            [0, 0.0625, 0.6875, 0.6875, 0.0625, 0],
            [0, 0.25, 0.75, 0.75, 0.25, 0],
        ),
    ],
)
def test_the_window_comes_after_or_before_the_resampling(
    resampling: FixedShape | Spacing, before: list[float], after: list[float]
) -> None:
    """Of HU, -300 counts in full; of network values, it is the window's lower end."""
    hu = np.array([-300.0, 200.0, -300.0]).reshape(3, 1, 1)
    for resample_hu, expected in ((True, before), (False, after)):
        recipe = replace(PLAIN, resampling=resampling, resample_hu=resample_hu)
        image = prepare(volume_of(hu, (2.0, 1, 1)), recipe).image
        np.testing.assert_allclose(image[:, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("resample_hu", [True, False])
def test_equalization_comes_last(resample_hu: bool) -> None:
    """On the network's pixels, so that a tile covers the same number of them in every CT."""
    clahe = Clahe(tile_pixels=8, clip_limit=0.05, bins=64)
    recipe = replace(
        PLAIN, resampling=PixelRange(0.5, 1.1, 0.75), clahe=None, resample_hu=resample_hu
    )
    volume = volume_of(noise((2, 21, 17)), (5.0, 1.5, 1.5))
    plain = prepare(volume, recipe).image
    equalized = prepare(volume, replace(recipe, clahe=clahe)).image
    assert equalized.shape == (2, 42, 34)
    assert np.array_equal(equalized, equalize_slices(plain, clahe))
    assert np.abs(equalized - plain).max() > 0.05


def test_equalization_of_another_range_is_refused() -> None:
    recipe = replace(
        PLAIN,
        intensity=Window(clip_hu=(-200.0, 200.0), output=(-1.0, 1.0)),
        clahe=Clahe(tile_pixels=64, clip_limit=0.01, bins=256),
    )
    with pytest.raises(ValueError, match="0 to 1"):
        prepare(volume_of(noise((1, 9, 9))), recipe)


def test_preparing_leaves_the_ct_alone() -> None:
    hu, liver = phantom()
    volume, before = volume_of(hu), hu.copy()
    prepared = prepare(volume, replace(HALVED, liver_crop=LIVER, body_crop=BODY), liver)
    image = prepared.image.copy()
    network_input(prepared, 3.0)
    assert np.array_equal(volume.hu, before)
    assert np.array_equal(prepared.image, image)
    network_input(prepare(volume, PLAIN), None)[:] = 9
    assert np.array_equal(volume.hu, before)


@pytest.mark.parametrize(
    ("interval", "result"), [((0, 4), (0, 4)), ((0, 5), (0, 6)), ((3, 6), (3, 7)), ((3, 7), (3, 7))]
)
def test_an_odd_interval_grows_at_its_end(
    interval: tuple[int, int], result: tuple[int, int]
) -> None:
    assert even(interval) == result


@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    padding=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 3),
)
def test_padding_is_numpy_s(shape: tuple[int, ...], padding: tuple[tuple[int, int], ...]) -> None:
    expected = np.pad(noise(shape), padding, constant_values=7)
    padded = expected.copy()
    padded[tuple(np.argwhere(expected == 7).T)] = -1
    fill_padding(padded, padding, 7)
    assert np.array_equal(padded, expected)


@settings(deadline=None)
@given(
    mask=hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7)),
    spacing=st.tuples(*[st.sampled_from([0.7, 0.78125, 1.0, 2.5])] * 3),
)
def test_distances_are_scipy_s_to_the_bit(
    mask: np.ndarray, spacing: tuple[float, float, float]
) -> None:
    mask[0, 0, 0] = True
    expected = ndimage.distance_transform_edt(~mask, sampling=spacing).astype(np.float32)
    assert np.array_equal(distance_mm(mask, spacing), expected)


@pytest.mark.parametrize(("order", "back"), [ORIENTATIONS[i] for i in (0, 3, 7, -1)])
@pytest.mark.parametrize(
    ("intensity", "volumes"),
    [(PLAIN.intensity, 1.1), (ZScore(percentiles=(0.5, 99.5), statistics=None), 2.1)],
)
def test_a_volume_is_copied_no_more_than_needed(
    intensity: Window | ZScore, volumes: float, order: tuple[int, ...], back: tuple[bool, ...]
) -> None:
    """512x512x400 float voxels take 400 MiB: one copy is the result, one sorts percentiles."""
    volume = turned_volume(volume_of(noise((60, 64, 64))), order, back)
    tracemalloc.start()
    prepared = prepare(volume, replace(PLAIN, intensity=intensity))
    image = network_input(prepared, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert image is prepared.padded
    assert image.flags.c_contiguous
    assert peak < volumes * volume.hu.nbytes


def test_a_crop_beyond_the_array_is_filled() -> None:
    array = np.arange(6).reshape(1, 2, 3)
    assert crop(array, ((0, 1), (-1, 2), (1, 4)), fill=-9).tolist() == [
        [[-9, -9, -9], [1, 2, -9], [4, 5, -9]]
    ]


# Orientation


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        ("LPS", ((0, 1, 2), ())),
        ("RAS", ((0, 1, 2), (1, 2))),
        ("LPI", ((0, 1, 2), (0,))),
        ("PLS", ((0, 2, 1), ())),
        ("SPL", ((2, 1, 0), ())),
        ("ASR", ((2, 0, 1), (0, 2))),
    ],
)
def test_axes_of_an_lps_grid(orientation: str, expected: tuple) -> None:
    """Expected: engine axes for (z, y, x), and those of them to flip."""
    assert orient_axes(Geometry((4, 5, 6), (1, 1, 1)), orientation) == expected


@EACH_CONFIGURATION
def test_any_scan_orientation_gives_the_same_input_to_the_bit(name: str) -> None:
    """48 ways to store the same patient: the same image, labels and distances."""
    hu, liver = phantom((5, 32, 35))
    labels = liver.astype(np.uint8) + (liver & (hu > 130))
    volume, recipe = volume_of(hu), CONFIGURATIONS[name]
    reference = prepare(volume, recipe, liver)
    image = network_input(reference, 3.0)
    small = prepare_labels(labels, reference.grid, (1, 2, 2), recipe.label_interpolation)
    assert set(np.unique(small)) == {0, 1, 2}
    assert image.std() > 0.1 * (reference.scale.high - reference.scale.low)
    for order, back in ORIENTATIONS:
        other = prepare(turned_volume(volume, order, back), recipe, turned(liver, order, back))
        assert np.array_equal(network_input(other, 3.0), image)
        assert other.spacing_mm == reference.spacing_mm
        assert other.scale == reference.scale
        again = turned(labels, order, back)
        again = prepare_labels(again, other.grid, (1, 2, 2), recipe.label_interpolation)
        assert np.array_equal(again, small)


def centers(grid: Grid) -> np.ndarray:
    """(z, y, x, 3) places of the prepared voxels, as indices of the CT, from the grid alone."""
    lines = []
    for axis, (start, stop) in enumerate(grid.box):
        size, length = grid.shape[axis], stop - start
        if grid.align_corners:
            line = start + np.linspace(0, length - 1, size)
        else:
            line = start + (np.arange(size) + 0.5) * length / size - 0.5
        lines.append(grid.oriented_shape[axis] - 1 - line if axis in grid.flips else line)
    oriented = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
    index = np.empty_like(oriented)
    for axis, source in enumerate(grid.axes):
        index[..., source] = oriented[..., axis]
    return index


@pytest.mark.parametrize("degrees", [(0, 0, 0), (-15, 10, 30)])
@pytest.mark.parametrize("shape", [(31, 40, 42), (30, 41, 37)])
@EACH_CONFIGURATION
def test_the_grid_says_where_each_voxel_lies_in_the_patient(
    name: str, shape: tuple[int, int, int], degrees: tuple[int, int, int]
) -> None:
    """A CT that is a ramp in patient space: a prepared voxel has the ramp's value at its place."""
    recipe = replace(CONFIGURATIONS[name], clahe=None, body_crop=None)
    wide: Window | ZScore = ZScore((0, 100), Statistics(-999.0, 999.0, mean_hu=50.0, sd_hu=30.0))
    if isinstance(recipe.intensity, Window):
        wide = replace(recipe.intensity, clip_hu=(-999.0, 999.0))
    recipe = replace(recipe, intensity=wide)
    zero = to_network_values(np.zeros((1, 1, 1)), wide)[0]
    tilt = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    liver = slab(shape, (3, 28), (4, 36), (5, 33))
    slope = np.array([1.5, -2.0, 0.7])  # HU per mm
    for order, back in ORIENTATIONS[::11]:
        scan = turned_volume(volume_of(np.zeros(shape), (2.5, 0.8, 0.7), tilt), order, back)
        everywhere = np.moveaxis(np.indices(scan.hu.shape), 0, -1)
        hu = scan.geometry.lps_of(everywhere) @ slope
        volume = Volume(hu.astype(np.float32), scan.geometry)
        prepared = prepare(volume, recipe, turned(liver, order, back))
        expected = scan.geometry.lps_of(centers(prepared.grid)) @ slope
        # Near the faces air was added, averages are cut, or a spline turns flat.
        margins = [min(6, max(1, size // 4)) for size in prepared.image.shape]
        inner = tuple(slice(margin, -margin) for margin in margins)
        error = ((prepared.image - zero) / prepared.scale.units_per_hu - expected)[inner]
        assert np.ptp(expected[inner]) > 20
        corners = scan.geometry.lps_of(centers(prepared.grid)[:2, :2, :2])
        steps = [corners[1, 0, 0], corners[0, 1, 0], corners[0, 0, 1]] - corners[0, 0, 0]
        np.testing.assert_allclose(np.linalg.norm(steps, axis=1), prepared.spacing_mm, rtol=1e-9)
        # A row of averages leans to one side or the other, by less than a tenth of a voxel.
        assert np.abs(error).max() < (0.3 if recipe.interpolation == "area" else 0.01)
        assert abs(error.mean()) < 0.01


@pytest.mark.parametrize("shape", [(31, 40, 42), (30, 41, 37)])
@EACH_CONFIGURATION
def test_each_label_is_that_of_the_nearest_voxel_of_the_ct(
    name: str, shape: tuple[int, int, int]
) -> None:
    """Of the grid of the output, twice as fine in the plane; what lies beyond the CT is 0."""
    labels = np.random.default_rng(0).integers(1, 3, shape).astype(np.uint8)
    liver = slab(shape, (3, 28), (4, 36), (5, 33))
    for order, back in ORIENTATIONS[::11]:
        scan = turned_volume(volume_of(noise(shape)), order, back)
        stored = turned(labels, order, back)
        grid = prepare(scan, CONFIGURATIONS[name], turned(liver, order, back)).grid
        small = prepare_labels(stored, grid, (1, 2, 2), "nearest")
        z, y, x = grid.shape
        places = centers(replace(grid, shape=(z, 2 * y, 2 * x)))
        expected = np.pad(stored, 1)[tuple(np.moveaxis(np.rint(places).astype(int) + 1, -1, 0))]
        between = (np.abs(places - np.floor(places) - 0.5) < 1e-6).any(axis=-1)
        assert np.array_equal(small[~between], expected[~between])
        assert (~between).sum() > 100


@pytest.mark.parametrize("shape", [(31, 40, 42), (30, 41, 37)])
@EACH_CONFIGURATION
def test_the_way_there_and_back_leaves_a_ball_in_its_place(
    name: str, shape: tuple[int, int, int]
) -> None:
    """Labels on the output's grid, taken for the output, come back as they were drawn."""
    z, y, x = np.indices(shape)
    squared_mm = ((z - 14.3) * 2.5) ** 2 + ((y - 19.6) * 0.8) ** 2 + ((x - 18.2) * 0.7) ** 2
    ball = (squared_mm <= 11**2).astype(np.uint8)
    recipe = CONFIGURATIONS[name]
    if isinstance(recipe.resampling, FixedShape):
        recipe = replace(recipe, resampling=FixedShape((24, 37, 33)))
    scale = (1, 2, 2) if recipe.halve_in_plane else (1, 1, 1)
    for order, back in ORIENTATIONS[::11]:
        scan = turned_volume(volume_of(noise(shape)), order, back)
        stored = turned(ball, order, back)
        prepared = prepare(scan, recipe, stored > 0)
        grid = prepared.grid
        output = prepare_labels(stored, grid, scale, recipe.label_interpolation)
        around = np.multiply(grid.padding, np.transpose([scale]))
        padded = np.pad(output, around).astype(np.float32)
        assert padded.shape == tuple(np.multiply(network_input(prepared, None).shape, scale))
        slices = restored_slices((piece[None] for piece in padded), grid, scale)
        restored = np.concatenate([piece >= 0.5 for piece in slices])
        expected = crop(orient(stored, grid.axes, grid.flips), grid.box, fill=0) > 0
        assert expected.sum() == ball.sum()
        assert 2 * (restored & expected).sum() > 0.93 * (restored.sum() + expected.sum())
        middles = [np.mean(np.nonzero(mask), axis=1) for mask in (restored, expected)]
        coarser = np.maximum(1, np.divide(expected.shape, output.shape))
        assert (np.abs(middles[0] - middles[1]) < 0.25 * coarser).all()


@pytest.mark.parametrize("degrees", [(0, 0, 20), (-15, 10, 30), (40, 0, 0)])
def test_an_oblique_scan_is_taken_along_its_nearest_axes(degrees: tuple[int, int, int]) -> None:
    volume = volume_of(noise((3, 4, 5)))
    tilt = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    reference = prepare(volume, HALVED)
    for order, back in ORIENTATIONS[::5]:
        scan = turned_volume(volume, order, back)
        oblique = volume_of(scan.hu, scan.geometry.spacing_mm, tilt @ scan.geometry.direction)
        assert np.array_equal(prepare(oblique, HALVED).image, reference.image)


def test_orienting_is_a_view() -> None:
    array = np.zeros((2, 3, 4))
    assert np.shares_memory(orient(array, (2, 0, 1), (0, 2)), array)


# Padding


@pytest.mark.parametrize(
    ("shape", "padded"),
    [
        ((1, 1, 1), (16, 176, 176)),
        ((16, 176, 176), (16, 176, 176)),
        ((17, 177, 200), (32, 192, 208)),
        ((50, 100, 256), (64, 176, 256)),
    ],
)
def test_sizes_are_padded_to_the_minimum_and_the_multiple(
    shape: tuple[int, int, int], padded: tuple[int, int, int]
) -> None:
    assert padded_shape(shape, PAPER_LIVER) == padded
    padding = network_padding(shape, PAPER_LIVER)
    for size, (before, after), wanted in zip(shape, padding, padded, strict=True):
        assert before + size + after == wanted
        assert after - before in (0, 1)


def test_each_axis_has_its_multiple_and_a_minimum_that_is_none_is_rounded_up() -> None:
    recipe = replace(PLAIN, pad_multiple=(16, 8, 1), pad_minimum=(20, 1, 1))
    assert padded_shape((3, 3, 33), recipe) == (32, 8, 33)


@pytest.mark.parametrize(
    ("intensity", "low"),
    [
        (Window(clip_hu=(-200.0, 200.0), output=(-1.0, 1.0)), -1.0),
        (Window(clip_hu=(-200.0, 250.0), output=(0.25, 0.75)), 0.25),
        (ZScore((0.5, 99.5), Statistics(-20.0, 200.0, mean_hu=100.0, sd_hu=40.0)), -3.0),
        (ZScore((25.0, 75.0), None), 0.0),  # nearly all is 200 HU: there is no deviation
    ],
)
def test_padding_blanks_and_added_air_have_the_lower_end_s_value(
    intensity: Window | ZScore, low: float
) -> None:
    whole = LiverCrop(
        margin_voxels=(9, 9, 9), mask_mm=3.0, training_mask_mm=(0.0, 6.0), median_hu=None
    )
    recipe = replace(
        PLAIN, intensity=intensity, liver_crop=whole, pad_multiple=(3, 4, 16), pad_minimum=(2, 9, 3)
    )
    volume = volume_of(np.full((2, 8, 7), 200.0), (1.0, 1.0, 1.0))
    volume.hu[0, 0, 0] = -1024
    prepared = prepare(volume, recipe, slab((2, 8, 7), (0, 2), (0, 1), (0, 1)))
    image = network_input(prepared, 3.0)
    assert prepared.scale.low == low
    assert prepared.image[0, 0, 0] == low
    assert image.shape == (3, 12, 16)
    z, y, x = np.indices((2, 8, 7))
    near = (y**2 + x**2 <= 9) & (z + y + x > 0)
    expected = np.full(image.shape, low)
    expected[:2, 2:10, 4:11][near] = prepared.image[1, 7, 6]
    assert np.array_equal(image, expected)
    assert (prepared.image[1, 7, 6] > low) == (prepared.scale.high > low)


def test_padding_and_air_are_0_the_window_s_lower_end() -> None:
    prepared = prepare(volume_of(np.full((2, 3, 3), 500.0)), HALVED)
    image = network_input(prepared, None)
    inside = np.zeros(image.shape, dtype=bool)
    inside[1:3, 3:5, 3:5] = True
    assert (image[~inside] == 0).all()
    # The last row and column mix with the air that made the sizes even.
    assert image[1, 3, 3] == 1
    assert image[1, 4, 4] == 0


# The body


def test_the_body_is_found_without_table_and_air() -> None:
    hu, _ = phantom()
    # The ellipse spans rows 8 to 48 and columns 6 to 60; the opening takes single-voxel tips.
    (z, y, x) = body_box(hu, BODY)
    assert z == (0, 12)
    assert 8 - 4 <= y[0] <= 9 - 4
    assert 48 + 4 <= y[1] <= 49 + 4
    assert 6 - 4 <= x[0] <= 7 - 4
    assert 60 + 4 <= x[1] <= 61 + 4


def test_a_block_body_by_hand() -> None:
    hu = np.full((6, 50, 60), -1000.0)
    hu[:, 10:30, 12:40] = 0
    hu[:, 36:48, 2:8] = 0  # an arm, smaller than the trunk
    hu[:, 32, :] = 0  # a table top of one voxel
    assert body_box(hu, BODY) == ((0, 6), (6, 34), (8, 44))


def test_the_body_s_margin_ends_at_the_image() -> None:
    hu = np.full((3, 20, 20), -1000.0)
    hu[:, 0:12, 3:18] = 0
    assert body_box(hu, BODY) == ((0, 3), (0, 16), (0, 20))


def test_the_body_lies_above_the_threshold() -> None:
    hu = np.full((3, 20, 20), -500.0)
    hu[:, 4:16, 5:15] = -499
    assert body_box(hu, replace(BODY, margin_voxels=0)) == ((0, 3), (4, 16), (5, 15))


def test_parts_of_the_body_may_share_a_corner_only() -> None:
    hu = np.full((4, 20, 20), -1000.0)
    hu[:2, 4:8, 5:9] = hu[2:, 8:12, 9:13] = 0
    recipe = BodyCrop(threshold_hu=-500, opening_voxels=0, margin_voxels=0)
    assert body_box(hu, recipe) == ((0, 4), (4, 12), (5, 13))


@pytest.mark.parametrize("value", [-1000.0, -500.0])
def test_without_a_body_the_whole_image_is_kept(value: float) -> None:
    assert body_box(np.full((3, 10, 12), value), BODY) == ((0, 3), (0, 10), (0, 12))


def test_a_body_as_large_as_those_of_cts() -> None:
    """Memory that is given back is read without an error in small images, and not in large ones."""
    hu = np.full((40, 512, 512), -1000, np.float32)
    hu[:, 100:400, 60:450] = 0
    assert body_box(hu, BODY) == ((0, 40), (96, 404), (56, 454))


@settings(max_examples=60, deadline=None)
@given(
    mask=hnp.arrays(
        bool,
        hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9),
        elements=st.sampled_from([True, True, True, False]),
    ),
    radius=st.integers(0, 3),
)
def test_the_opening_is_simpleitk_s(mask: np.ndarray, radius: int) -> None:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    oracle = sitk.BinaryMorphologicalOpening(image, [radius] * 3, sitk.sitkBall)
    assert np.array_equal(opened(mask, digital_ball(radius)), sitk.GetArrayFromImage(oracle) > 0)


def test_specks_are_no_body() -> None:
    hu = np.full((5, 20, 20), -1000.0)
    hu[::2, ::3, ::3] = 0
    assert body_box(hu, BODY) == ((0, 5), (0, 20), (0, 20))


# The liver


WHOLE = ((0, 20), (0, 40), (0, 50))


def test_the_liver_box_starts_a_whole_number_of_blocks_after_its_anchor() -> None:
    recipe = LiverCrop(
        margin_voxels=(4, 16, 16), mask_mm=3, training_mask_mm=(0, 6), median_hu=None
    )
    liver = slab((20, 40, 50), (6, 11), (18, 21), (21, 30))
    assert liver_box(liver, recipe, WHOLE) == ((2, 15), (2, 37), (4, 46))
    # An odd anchor: odd starts, so that the 2x2 blocks are those of the body box.
    anchor = ((0, 20), (1, 40), (3, 50))
    assert liver_box(liver, recipe, anchor) == ((2, 15), (1, 37), (5, 46))


def test_the_liver_s_margin_ends_at_the_anchor() -> None:
    liver = slab((20, 40, 50), (0, 20), (0, 3), (45, 50))
    assert liver_box(liver, LIVER, WHOLE) == ((0, 20), (0, 5), (42, 50))
    assert liver_box(liver, LIVER, ((0, 20), (2, 38), (0, 46))) == ((0, 20), (2, 5), (42, 46))


def test_a_liver_that_misses_the_body_box_takes_its_whole_length() -> None:
    liver = slab((20, 40, 50), (5, 8), (0, 3), (20, 30))
    assert liver_box(liver, LIVER, ((0, 20), (10, 38), (0, 50))) == ((4, 9), (10, 38), (18, 32))


@settings(max_examples=60, deadline=None)
@given(
    first=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    length=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    anchor=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_both_stages_see_the_same_2x2_blocks(
    first: tuple[int, int, int], length: tuple[int, int, int], anchor: tuple[int, int]
) -> None:
    """Cropping before halving, as we do, and after it, as the paper does, is the same."""
    shape = (16, 16, 16)
    hu = noise(shape)
    body = ((0, 16), (anchor[0], 16), (anchor[1], 16))
    liver = slab(shape, *[(f, f + n) for f, n in zip(first, length, strict=True)])
    z, y, x = liver_box(liver, LIVER, body)
    halved_body = halve_in_plane(crop(hu, (body[0], even(body[1]), even(body[2])), fill=-1024))
    halved_liver = halve_in_plane(crop(hu, (z, even(y), even(x)), fill=-1024))
    top, left = (y[0] - anchor[0]) // 2, (x[0] - anchor[1]) // 2
    rows, columns = halved_liver.shape[1:]
    same = halved_body[z[0] : z[1], top : top + rows, left : left + columns]
    assert np.array_equal(halved_liver, same)


def test_what_is_far_from_the_liver_is_blanked_by_true_distance() -> None:
    """Slices of 2.5 mm, rows of 1 mm, columns of 0.5 mm; a distance of exactly 3 mm is kept."""
    shape = (7, 11, 17)
    liver = slab(shape, (3, 4), (5, 6), (8, 9))
    whole = LiverCrop(
        margin_voxels=(9, 9, 9), mask_mm=3.0, training_mask_mm=(0.0, 6.0), median_hu=None
    )
    volume = volume_of(np.full(shape, 200.0), (2.5, 1.0, 0.5))
    prepared = prepare(volume, replace(PLAIN, liver_crop=whole), liver)
    z, y, x = np.indices(shape)
    squared = ((z - 3) * 2.5) ** 2 + (y - 5) ** 2 + ((x - 8) * 0.5) ** 2
    np.testing.assert_allclose(prepared.liver_distance_mm, np.sqrt(squared), rtol=1e-6)
    assert np.array_equal(network_input(prepared, 3.0) > 0, squared <= 9)
    assert network_input(prepared, 3.0)[3, 5, 14] == 1
    assert network_input(prepared, 3.0)[3, 5, 15] == 0
    assert np.array_equal(network_input(prepared, 0.0) > 0, liver)
    assert (network_input(prepared, None) == 1).all()


def test_a_halved_block_is_liver_from_half_on() -> None:
    liver = np.zeros((1, 2, 6), dtype=bool)
    liver[0, 0, 0] = True  # one of four
    liver[0, :, 2] = True  # two of four
    recipe = replace(PLAIN, halve_in_plane=True, liver_crop=replace(LIVER, margin_voxels=(9, 9, 9)))
    prepared = prepare(volume_of(np.zeros((1, 2, 6)), (1, 1, 1)), recipe, liver)
    assert prepared.liver_distance_mm.tolist() == [[[2, 0, 2]]]


def test_a_liver_too_small_for_the_halved_grid_blanks_nothing() -> None:
    liver = slab((1, 8, 8), (0, 1), (2, 3), (2, 3))
    recipe = replace(HALVED, liver_crop=LIVER)
    prepared = prepare(volume_of(np.full((1, 8, 8), 200.0)), recipe, liver)
    assert (prepared.liver_distance_mm == 0).all()
    assert network_input(prepared, 0.0).sum() == prepared.image.size


def test_hu_are_shifted_so_that_the_livers_median_is_the_recipes() -> None:
    """Whatever the phase: the same CT some HU brighter gives the same network values."""
    liver = slab((3, 8, 8), (0, 3), (2, 6), (2, 6))
    hu = np.where(liver, np.arange(64, dtype=np.float32).reshape(8, 8), 10.0)
    recipe = replace(
        PLAIN,
        intensity=Window(clip_hu=(-200.0, 200.0), output=(-200.0, 200.0)),
        liver_crop=replace(LIVER, median_hu=100.0),
    )
    seen = [prepare(volume_of(hu + shift), recipe, liver) for shift in (0.0, 35.0, -60.0)]
    cut = seen[0].image.shape
    assert np.median(seen[0].image[:, 2:6, 2:6]) == 100.0
    assert seen[0].image[0, 0, 0] == pytest.approx(10.0 + 100.0 - np.median(hu[liver]))
    for other in seen[1:]:
        assert other.image.shape == cut
        np.testing.assert_allclose(other.image, seen[0].image, atol=1e-4)


@pytest.mark.parametrize("liver", [None, np.zeros((2, 2, 2), dtype=bool)])
def test_a_liver_crop_needs_a_liver(liver: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="liver mask"):
        prepare(volume_of(np.zeros((2, 2, 2))), replace(PLAIN, liver_crop=LIVER), liver)


def test_without_a_liver_crop_a_liver_changes_nothing() -> None:
    hu, liver = phantom()
    with_liver = prepare(volume_of(hu), HALVED, liver)
    assert with_liver.liver_distance_mm is None
    assert np.array_equal(with_liver.image, prepare(volume_of(hu), HALVED).image)
    assert np.array_equal(network_input(with_liver, 3.0), network_input(with_liver, None))


# The papers' preprocessing, written out again


def test_unet3d_is_the_paper_s_preprocessing() -> None:
    """nibabel's closest canonical axes, clip to -100..400 HU, scale, zoom to 160x160x80.

    Not with zoom's default mode: where rounding puts the last sample past the end it gives 0.
    """
    hu, spacing = noise((13, 31, 27), -400, 700), (4.0, 1.25, 1.5)
    flips = np.diag([-1.0, 1.0, 1.0])  # x runs to the right, as in many LiTS files
    volume = volume_of(hu, spacing, flips)
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    nifti = nibabel.Nifti1Image(hu.transpose(2, 1, 0), lps_to_ras @ volume.geometry.index_to_lps())
    canonical = nibabel.as_closest_canonical(nifti).get_fdata()
    scaled = (np.clip(canonical, -100, 400) + 100) / 500
    zoomed = ndimage.zoom(scaled, np.divide((160, 160, 80), scaled.shape), order=1, mode="nearest")
    assert zoomed.shape == (160, 160, 80)

    image = network_input(prepare(volume, RECIPES["unet3d-liver"].preprocessing), None)
    np.testing.assert_allclose(image, zoomed.transpose(2, 1, 0), atol=1e-5)


def straightforward_body(hu: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the body as nets3d.md 1.2 tells it, with scipy."""
    z, y, x = np.indices((5, 5, 5)) - 2
    ball = z**2 + y**2 + x**2 <= 2.5**2
    # scipy takes what lies outside the image as background and would erode the outer slices.
    thick = np.pad(hu > -500, ((5, 5), (0, 0), (0, 0)), mode="edge")
    opened = ndimage.binary_opening(thick, ball)[5:-5]
    components, _ = ndimage.label(opened, np.ones((3, 3, 3)))
    body = components == 1 + np.argmax(np.bincount(components.ravel())[1:])
    filled = np.stack([ndimage.binary_fill_holes(piece) for piece in body])
    ranges = []
    for axis, size in ((1, hu.shape[1]), (2, hu.shape[2])):
        found = np.flatnonzero(filled.any(axis=(0, 3 - axis)))
        start, stop = max(found[0] - 4, 0), min(found[-1] + 5, size)
        ranges.append(slice(start, stop + (stop - start) % 2))
    return ranges[0], ranges[1]


def straightforward_halving(hu: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    cropped = np.full((len(hu), rows.stop - rows.start, columns.stop - columns.start), -1024.0)
    inside = hu[:, rows, columns]
    cropped[:, : inside.shape[1], : inside.shape[2]] = inside
    depth, height, width = cropped.shape
    halved = cropped.reshape(depth, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    return (np.clip(halved, -200, 200) / 200 + 1) / 2


def center_padded(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    padded = np.zeros(shape)
    place = tuple(
        slice((wanted - size) // 2, (wanted - size) // 2 + size)
        for size, wanted in zip(image.shape, shape, strict=True)
    )
    padded[place] = image
    return padded


@pytest.mark.parametrize("shape", [(12, 64, 70), (7, 51, 61)])
def test_elanres_stage_1_is_the_paper_s_preprocessing(shape: tuple[int, int, int]) -> None:
    hu, _ = phantom(shape)
    rows, columns = straightforward_body(hu)
    expected = center_padded(straightforward_halving(hu, rows, columns), (16, 176, 176))
    image = network_input(prepare(volume_of(hu), PAPER_LIVER), None)
    assert image.shape == expected.shape
    np.testing.assert_allclose(image, expected, atol=1e-6)


@pytest.mark.parametrize("spacing", [(2.5, 0.8, 0.7), (1.0, 0.9, 0.9)])
def test_elanres_stage_2_is_the_paper_s_preprocessing(
    spacing: tuple[float, float, float],
) -> None:
    """Crop to the liver's box after halving; blank what lies farther than 3 mm from the liver."""
    hu, liver = phantom((14, 64, 70))
    rows, columns = straightforward_body(hu)
    halved = straightforward_halving(hu, rows, columns)
    kept = straightforward_halving(np.where(liver, 200.0, -200.0), rows, columns) >= 0.5
    points_mm = np.array(spacing) * (1, 2, 2)
    distance, _ = cKDTree(np.argwhere(kept) * points_mm).query(
        np.argwhere(np.ones(halved.shape)) * points_mm
    )
    blanked = np.where(distance.reshape(halved.shape) <= 3, halved, 0)

    found = [np.flatnonzero(liver.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    z = slice(max(found[0][0] - 4, 0), found[0][-1] + 5)
    top, left = (
        (max(f[0] - 16, r.start) - r.start) // 2
        for f, r in zip(found[1:], (rows, columns), strict=True)
    )
    pieces = []
    for first, f, r in zip((top, left), found[1:], (rows, columns), strict=True):
        start = r.start + 2 * first
        stop = min(f[-1] + 17, r.stop)
        pieces.append(slice(first, first + -(-(stop - start) // 2)))
    cropped = blanked[z, pieces[0], pieces[1]]
    assert cropped.size < blanked.size
    expected = center_padded(cropped, (16, 176, 176))

    prepared = prepare(volume_of(hu, spacing), PAPER_TUMOR, liver)
    image = network_input(prepared, PAPER_TUMOR.liver_crop.mask_mm)
    np.testing.assert_allclose(image, expected, atol=1e-6)
    assert (image > 0).sum() > 500


@pytest.mark.parametrize(
    ("spacing", "shape"), [((5.0, 0.7, 0.7), (2, 40, 300)), ((5.0, 1.5, 1.5), (2, 80, 600))]
)
def test_rmau_is_the_paper_s_preprocessing(
    spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    """Slices at their own pixels, unless these are too large; HU / 200, clipped; air around."""
    recipe = RECIPES["rmau-net"].preprocessing
    hu = noise((2, 40, 300), -400, 400)
    slices = torch.from_numpy(hu)[:, None]
    pixels = F.interpolate(slices, shape[1:], mode="bilinear", align_corners=False)[:, 0]
    expected = np.full((2, max(256, shape[1]), max(256, shape[2])), -1.0)
    top = (expected.shape[1] - shape[1]) // 2
    expected[:, top : top + shape[1]] = np.clip(pixels.numpy(), -200, 200) / 200
    image = network_input(prepare(volume_of(hu, spacing), recipe), None)
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_msa_is_the_paper_s_preprocessing() -> None:
    """The window as 0 to 1, equalized in tiles of 64 pixels, in the middle of 512x512 zeros."""
    recipe = RECIPES["msa-unet"].preprocessing
    hu = noise((3, 130, 90), -300, 350)
    hu[1] = -1000
    scaled = (np.clip(hu, -200, 250) + 200) / 450
    expected = np.zeros((3, 512, 512))
    for z in (0, 2):
        equalized = exposure.equalize_adapthist(scaled[z], (64, 64), clip_limit=0.01, nbins=256)
        expected[z, 191:321, 211:301] = equalized
    image = network_input(prepare(volume_of(hu, (5.0, 0.8, 0.8)), recipe), None)
    np.testing.assert_allclose(image, expected, atol=1e-4)


def test_dpc_net_is_the_paper_s_preprocessing() -> None:
    """Clip, z-score, then splines of order 3 to 2.47 x 1.9 x 1.9 mm, as nnU-Net resizes."""
    recipe = RECIPES["dpc-net"].preprocessing
    hu = ndimage.gaussian_filter(noise((31, 60, 53), -2000, 2400), 1.0)
    scaled = (np.clip(hu, -17, 201) - 99.40) / 39.36
    shape = (13, 25, 20)  # 12.55, 24.63 and 19.53
    resized = transform.resize(scaled, shape, order=3, mode="edge", anti_aliasing=False)
    expected = np.full((128, 128, 128), (-17 - 99.40) / 39.36)
    expected[57:70, 51:76, 54:74] = resized
    prepared = prepare(volume_of(hu, (1.0, 0.78, 0.70)), recipe)
    assert prepared.image.shape == shape
    np.testing.assert_allclose(network_input(prepared, None), expected, atol=1e-4)
    np.testing.assert_allclose(prepared.spacing_mm, (31 / 13, 46.8 / 25, 37.1 / 20), rtol=1e-6)
    assert prepared.image.min() >= prepared.scale.low
    assert prepared.image.max() <= prepared.scale.high
