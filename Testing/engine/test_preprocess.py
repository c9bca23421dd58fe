"""Preprocessing: hand-made grids, all orientations, and both papers' steps written out again."""

from __future__ import annotations

import itertools
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from LiverTumorSegLib.boxes import body_box, crop, even, liver_box
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.preprocess import (
    Prepared,
    halve_in_plane,
    network_input,
    network_padding,
    orient,
    orient_axes,
    padded_shape,
    prepare,
    prepare_labels,
    restore_mask,
    restore_probability,
    unpad,
)
from LiverTumorSegLib.recipe import BodyCrop, LiverCrop, Preprocessing
from LiverTumorSegLib.recipes import RECIPES, UNET3D
from LiverTumorSegLib.volume import Volume

PLAIN = Preprocessing(
    orientation="LPS",
    body_crop=None,
    liver_crop=None,
    halve_in_plane=False,
    z_spacing_mm=None,
    clip_hu=(-200.0, 200.0),
    shape=None,
    antialias=False,
    pad_multiple=1,
    pad_minimum=(1, 1, 1),
)
BODY = BodyCrop(threshold_hu=-500.0, opening_voxels=2, margin_voxels=4)
LIVER = LiverCrop(margin_voxels=(1, 2, 2), mask_mm=3.0, training_mask_mm=(0.0, 6.0))
HALVED = replace(PLAIN, halve_in_plane=True, pad_multiple=4, pad_minimum=(4, 8, 8))
PAPER_LIVER = RECIPES["elanres-msca-liver"].preprocessing
PAPER_TUMOR = RECIPES["elanres-msca-tumor"].preprocessing

ORIENTATIONS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product([False, True], repeat=3))
)
SMALL_SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
SPACINGS = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 2.5, 5.0])] * 3)


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


def blank_output(prepared: Prepared, scale: tuple[int, int, int] = (1, 1, 1)) -> np.ndarray:
    """A network output of 0 on the padded grid."""
    padded = network_input(prepared, None).shape
    return np.zeros([p * s for p, s in zip(padded, scale, strict=True)], np.float32)


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


def test_the_window_s_ends_become_0_and_1() -> None:
    hu = np.array([[[-1024, -100, 70, 240, 3000]]])
    image = prepare(volume_of(hu), replace(PLAIN, clip_hu=(-100.0, 240.0))).image
    assert image.tolist() == [[[0, 0, 0.5, 1, 1]]]


def test_slices_are_resampled_between_their_outer_edges() -> None:
    """Three slices of 2 mm become six of 1 mm; the rows stay as they are."""
    hu = np.array([0.0, 100.0, -100.0]).reshape(3, 1, 1)
    recipe = replace(PLAIN, z_spacing_mm=1.0, clip_hu=(0.0, 100.0))
    prepared = prepare(volume_of(hu, (2.0, 0.8, 0.7)), recipe)
    assert prepared.image[:, 0, 0].tolist() == [0, 0.25, 0.75, 0.5, 0, 0]
    assert prepared.spacing_mm == (1.0, 0.8, 0.7)
    assert prepared.image.shape == (6, 1, 1)


def test_the_number_of_slices_is_never_zero() -> None:
    prepared = prepare(volume_of(np.zeros((1, 2, 2)), (1.0, 1, 1)), replace(PLAIN, z_spacing_mm=5))
    assert prepared.image.shape == (1, 2, 2)
    assert prepared.spacing_mm == (1.0, 1.0, 1.0)


def test_the_window_comes_before_a_fixed_shape_and_after_new_slices() -> None:
    """The liver paper clips, then resamples; slices are resampled in HU as the halving is."""
    hu = np.array([-1000.0, 200.0, -1000.0]).reshape(3, 1, 1)
    fixed = prepare(volume_of(hu), replace(PLAIN, shape=(5, 1, 1))).image
    assert fixed[:, 0, 0].tolist() == [0, 0.5, 1, 0.5, 0]
    slices = prepare(volume_of(hu, (2.0, 1, 1)), replace(PLAIN, z_spacing_mm=1.0)).image
    np.testing.assert_allclose(slices[:, 0, 0], [0, 0, 0.25, 0.25, 0, 0], atol=1e-6)


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


@pytest.mark.parametrize("orientation", ["LPS", "RAS"])
@pytest.mark.parametrize(("order", "back"), ORIENTATIONS)
def test_any_scan_orientation_gives_the_same_input_and_comes_back(
    order: tuple[int, ...], back: tuple[bool, ...], orientation: str
) -> None:
    hu, liver = phantom((5, 32, 35))
    volume = volume_of(hu)
    recipe = replace(HALVED, orientation=orientation, body_crop=BODY, liver_crop=LIVER)
    reference = prepare(volume, recipe, liver)
    other = prepare(turned_volume(volume, order, back), recipe, turned(liver, order, back))
    assert np.array_equal(network_input(other, 3.0), network_input(reference, 3.0))
    assert other.spacing_mm == reference.spacing_mm

    output = np.random.default_rng(0).random(blank_output(reference, (1, 2, 2)).shape)
    restored = restore_mask(output, reference.grid, 0.5, volume.hu.shape)
    again = restore_mask(output, other.grid, 0.5, turned(hu, order, back).shape)
    assert restored.any()
    assert np.array_equal(again, turned(restored, order, back))


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


# The way back


@settings(max_examples=40, deadline=None)
@given(shape=SMALL_SHAPES, spacing=SPACINGS, seed=st.integers(0, 99))
def test_a_mask_on_the_halved_grid_lands_on_the_voxels_it_came_from(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], seed: int
) -> None:
    """Painted on the halved grid and expanded 2x, as the network's head does; odd sizes too."""
    prepared = prepare(volume_of(noise(shape), spacing), HALVED)
    painted = np.random.default_rng(seed).random(prepared.image.shape) < 0.5
    padded = np.pad(painted, prepared.grid.padding).astype(np.float32)
    output = padded.repeat(2, axis=1).repeat(2, axis=2)
    restored = restore_mask(output, prepared.grid, 0.5, shape)
    rows, columns = (np.arange(size) // 2 for size in shape[1:])
    assert np.array_equal(restored, painted[:, rows][:, :, columns])


@settings(max_examples=40, deadline=None)
@given(shape=SMALL_SHAPES, seed=st.integers(0, 99))
def test_labels_survive_the_way_to_the_output_grid_and_back(
    shape: tuple[int, int, int], seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, shape).astype(np.uint8)
    prepared = prepare(volume_of(noise(shape)), HALVED)
    target = prepare_labels(labels, prepared.grid, (1, 2, 2))
    assert target.dtype == np.uint8
    scaled_padding = [
        (b * s, a * s) for (b, a), s in zip(prepared.grid.padding, (1, 2, 2), strict=True)
    ]
    output = np.pad(target, scaled_padding).astype(np.float32)
    assert np.array_equal(restore_mask(output, prepared.grid, 0.5, shape), labels == 1)


@settings(max_examples=40, deadline=None)
@given(
    shape=SMALL_SHAPES,
    spacing=SPACINGS,
    halve=st.booleans(),
    z_spacing_mm=st.sampled_from([None, 1.0, 3.0]),
    fixed=st.sampled_from([None, (4, 8, 12)]),
    antialias=st.booleans(),
)
def test_any_grid_has_a_way_back(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    halve: bool,
    z_spacing_mm: float | None,
    fixed: tuple[int, int, int] | None,
    antialias: bool,
) -> None:
    """The network's sizes are met, values stay in range, and everything found covers everything."""
    recipe = replace(
        PLAIN,
        halve_in_plane=halve,
        z_spacing_mm=z_spacing_mm,
        shape=fixed,
        antialias=antialias,
        pad_multiple=4,
        pad_minimum=(8, 4, 4),
    )
    prepared = prepare(volume_of(noise(shape), spacing), recipe)
    assert prepared.image.shape == prepared.grid.shape
    if fixed:
        assert prepared.image.shape == fixed
    image = network_input(prepared, None)
    assert image.dtype == np.float32
    assert all(size % 4 == 0 for size in image.shape)
    assert image.shape[0] >= 8
    assert image.min() >= 0
    assert image.max() <= 1 + 1e-6
    ones = np.ones(image.shape, np.float32)
    assert restore_mask(ones, prepared.grid, 0.999, shape).all()
    assert not restore_mask(0 * ones, prepared.grid, 0.001, shape).any()
    probability = restore_probability(ones, prepared.grid, shape)
    assert probability.dtype == np.float16
    assert probability.shape == shape


def test_the_threshold_itself_is_foreground() -> None:
    prepared = prepare(volume_of(np.zeros((1, 1, 2))), PLAIN)
    output = np.array([[[0.5, 0.4999]]], np.float32)
    assert restore_mask(output, prepared.grid, 0.5, (1, 1, 2)).tolist() == [[[True, False]]]


def test_outside_the_crop_nothing_is_found() -> None:
    hu, liver = phantom()
    prepared = prepare(volume_of(hu), replace(HALVED, liver_crop=LIVER), liver)
    everything = blank_output(prepared, (1, 2, 2)) + 1
    (z0, z1), (y0, y1), (x0, x1) = prepared.grid.box
    expected = slab(hu.shape, (z0, z1), (y0, y1), (x0, x1))
    assert not expected.all()
    assert np.array_equal(restore_mask(everything, prepared.grid, 0.5, hu.shape), expected)
    probability = restore_probability(everything, prepared.grid, hu.shape)
    assert np.array_equal(probability, expected.astype(np.float16))


def test_probabilities_come_back_as_they_are_where_grids_coincide() -> None:
    shape = (3, 4, 6)
    prepared = prepare(volume_of(noise(shape)), HALVED)
    output = np.random.default_rng(0).random(blank_output(prepared, (1, 2, 2)).shape)
    inner = unpad(output, prepared.grid)
    assert inner.shape == shape
    restored = restore_probability(output.astype(np.float32), prepared.grid, shape)
    assert np.array_equal(restored, inner.astype(np.float16))


def test_padding_is_cut_off_the_scaled_output() -> None:
    prepared = prepare(volume_of(np.zeros((3, 4, 6))), HALVED)
    assert prepared.grid.padding == ((0, 1), (3, 3), (2, 3))
    marked = np.pad(np.ones((3, 4, 6), np.float32), [(0, 1), (6, 6), (4, 6)], constant_values=5)
    assert (unpad(marked, prepared.grid) == 1).all()


@pytest.mark.parametrize("orientation", ["LPS", "RAS"])
@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (1.0, 1.5, 0.8)])
def test_a_smooth_blob_survives_a_fixed_shape_within_one_target_voxel(
    spacing: tuple[float, float, float], orientation: str
) -> None:
    shape, target = (30, 50, 40), (16, 24, 16)
    index = np.moveaxis(np.indices(shape), 0, -1) * spacing
    center = np.array([14, 28, 17]) * spacing
    distance_mm = np.linalg.norm(index - center, axis=-1)
    blob = distance_mm <= 10
    hu = 200 - 20 * (distance_mm - 10)  # 200 HU at the surface, a ramp across it
    recipe = replace(PLAIN, orientation=orientation, shape=target, clip_hu=(0.0, 400.0))
    prepared = prepare(volume_of(hu, spacing), recipe)
    assert network_input(prepared, None).shape == target
    restored = restore_mask(network_input(prepared, None), prepared.grid, 0.5, shape)
    voxel_mm = max(np.array(spacing) * shape / target)
    assert np.abs(distance_mm - 10)[restored != blob].max(initial=0) <= voxel_mm
    # No systematic shift: the centers agree far better than the voxels are large.
    centers = [index[mask].mean(axis=0) for mask in (blob, restored)]
    assert np.abs(centers[0] - centers[1]).max() <= 0.1 * voxel_mm


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


def test_a_minimum_that_is_no_multiple_is_rounded_up() -> None:
    recipe = replace(PLAIN, pad_multiple=16, pad_minimum=(20, 1, 1))
    assert padded_shape((3, 3, 33), recipe) == (32, 16, 48)


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


def test_specks_are_no_body() -> None:
    hu = np.full((5, 20, 20), -1000.0)
    hu[::2, ::3, ::3] = 0
    assert body_box(hu, BODY) == ((0, 5), (0, 20), (0, 20))


# The liver


WHOLE = ((0, 20), (0, 40), (0, 50))


def test_the_liver_box_starts_a_whole_number_of_blocks_after_its_anchor() -> None:
    recipe = LiverCrop(margin_voxels=(4, 16, 16), mask_mm=3, training_mask_mm=(0, 6))
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
    whole = LiverCrop(margin_voxels=(9, 9, 9), mask_mm=3.0, training_mask_mm=(0.0, 6.0))
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

    image = network_input(prepare(volume, UNET3D.preprocessing), None)
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
