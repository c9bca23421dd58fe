"""Resampling: by hand, and against scipy's zoom, torch's interpolate and scikit-image's resize."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import transform
from torch.nn import functional as F

from LiverTumorSegLib.resample import (
    Interpolation,
    apply_weights,
    cubic_weights,
    halve_in_plane,
    largest_share,
    linear_weights,
    nearest,
    resample,
)

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

SIZES = st.integers(1, 12)
SHAPES = st.tuples(SIZES, SIZES, SIZES)
INTERPOLATIONS = pytest.mark.parametrize("interpolation", ["linear", "area", "cubic"])
CONVENTIONS = pytest.mark.parametrize("align_corners", [True, False])


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


# By hand


def test_corner_voxels_stay_in_place() -> None:
    line = np.array([[[0.0, 10.0, 40.0]]], np.float32)
    result = resample(line, (1, 1, 5), "linear", align_corners=True)
    assert result.tolist() == [[[0, 5, 10, 25, 40]]]


def test_voxel_edges_stay_in_place() -> None:
    """Centers at 0.25, 0.75, 1.25 ... voxels from the edge; beyond the outer centers flat."""
    line = np.array([[[0.0, 10.0]]], np.float32)
    assert resample(line, (1, 1, 4), "linear", align_corners=False).tolist() == [
        [[0, 2.5, 7.5, 10]]
    ]
    line = np.array([[[1.0, 3, 5, 9]]], np.float32)
    assert resample(line, (1, 1, 2), "linear", align_corners=False).tolist() == [[[2, 7]]]


def test_antialias_widens_the_triangle_to_the_coarser_voxel() -> None:
    """Factor 3, center on voxel 4 of 9: weights 1, 2, 3, 2, 1 over five voxels."""
    weights = linear_weights(9, 3, align_corners=False, antialias=True)
    np.testing.assert_allclose(weights[1], np.array([0, 0, 1, 2, 3, 2, 1, 0, 0]) / 9, rtol=1e-6)
    np.testing.assert_allclose(
        weights[0], np.array([2, 3, 2, 1, 0, 0, 0, 0, 0]) / 8, rtol=1e-6, atol=1e-7
    )


def test_without_antialias_every_third_voxel_is_taken() -> None:
    line = np.arange(9, dtype=np.float32).reshape(1, 1, 9) ** 2
    assert resample(line, (1, 1, 3), "linear", align_corners=False).tolist() == [[[1, 16, 49]]]


def test_antialias_removes_what_the_coarser_grid_cannot_show() -> None:
    """An alternating line has mean 0; sampled at every fourth voxel it would look like a wave."""
    line = np.tile(np.array([1, -1], np.float32), 32).reshape(1, 1, 64)
    aliased = resample(line, (1, 1, 22), "linear", align_corners=True)
    smooth = resample(line, (1, 1, 22), "area", align_corners=True)
    assert np.abs(aliased[..., 1:-1]).max() > 0.9
    assert np.abs(smooth[..., 1:-1]).max() < 0.15


@CONVENTIONS
def test_antialias_changes_nothing_where_samples_get_more(align_corners: bool) -> None:
    plain = linear_weights(5, 9, align_corners=align_corners)
    smooth = linear_weights(5, 9, align_corners=align_corners, antialias=True)
    assert np.array_equal(plain, smooth)


@INTERPOLATIONS
@CONVENTIONS
def test_one_voxel_fills_any_size(align_corners: bool, interpolation: Interpolation) -> None:
    one = np.full((1, 1, 1), 7, np.float32)
    result = resample(one, (3, 2, 4), interpolation, align_corners=align_corners)
    assert result.shape == (3, 2, 4)
    assert (result == 7).all()


def test_the_same_shape_is_the_same_volume() -> None:
    volume = noise((3, 4, 5))
    for align_corners in (True, False):
        for interpolation in ("linear", "area", "cubic"):
            same = resample(volume, (3, 4, 5), interpolation, align_corners=align_corners)
            assert same is volume


# Oracles


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, target=SHAPES)
def test_aligned_corners_are_scipy_s_zoom(
    shape: tuple[int, int, int], target: tuple[int, int, int]
) -> None:
    volume = noise(shape)
    zoomed = ndimage.zoom(volume.astype(float), np.divide(target, shape), order=1, mode="nearest")
    if zoomed.shape != target:  # scipy rounds the product of size and factor
        return
    result = resample(volume, target, "linear", align_corners=True)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, zoomed, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, target=SHAPES, align_corners=st.booleans())
def test_both_conventions_are_torch_s(
    shape: tuple[int, int, int], target: tuple[int, int, int], align_corners: bool
) -> None:
    volume = noise(shape)
    expected = F.interpolate(
        torch.from_numpy(volume)[None, None].double(),
        target,
        mode="trilinear",
        align_corners=align_corners,
    )
    result = resample(volume, target, "linear", align_corners=align_corners)
    np.testing.assert_allclose(result, expected[0, 0], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(SIZES, SIZES), target=st.tuples(SIZES, st.integers(2, 12)))
def test_antialias_is_torch_s(shape: tuple[int, int], target: tuple[int, int]) -> None:
    """torch smooths in two dimensions only, and repeats one row where the width becomes 1."""
    image = noise((1, *shape))
    expected = F.interpolate(
        torch.from_numpy(image)[None], target, mode="bilinear", align_corners=False, antialias=True
    )
    result = resample(image, (1, *target), "area", align_corners=False)
    np.testing.assert_allclose(result, expected[0], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, target=SHAPES, align_corners=st.booleans())
def test_cubic_is_scipy_s_spline_cut_to_the_range(
    shape: tuple[int, int, int], target: tuple[int, int, int], align_corners: bool
) -> None:
    """All axes at once there, one after the other here."""
    volume = noise(shape)
    zoomed = ndimage.zoom(
        volume.astype(float),
        np.divide(target, shape),
        order=3,
        mode="nearest",
        grid_mode=not align_corners,
    )
    assert zoomed.shape == target
    result = resample(volume, target, "cubic", align_corners=align_corners)
    assert result.dtype == np.float32
    expected = volume if shape == target else np.clip(zoomed, volume.min(), volume.max())
    np.testing.assert_allclose(result, expected, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, target=SHAPES)
def test_cubic_is_scikit_image_s_resize(
    shape: tuple[int, int, int], target: tuple[int, int, int]
) -> None:
    """Which nnU-Net uses, with these settings."""
    volume = noise(shape)
    expected = transform.resize(volume, target, order=3, mode="edge", anti_aliasing=False)
    result = resample(volume, target, "cubic", align_corners=False)
    np.testing.assert_allclose(result, expected, atol=1e-4)


# Splines of order 3


@CONVENTIONS
def test_a_spline_goes_through_its_samples(align_corners: bool) -> None:
    """An odd factor keeps the old centers; with aligned corners, one less than a multiple."""
    line = noise((1, 1, 9))
    size = 8 * 3 + 1 if align_corners else 9 * 3
    result = resample(line, (1, 1, size), "cubic", align_corners=align_corners)
    kept = result[..., ::3] if align_corners else result[..., 1::3]
    np.testing.assert_allclose(kept, line, atol=1e-5)


def test_a_spline_is_exact_for_a_parabola_far_from_the_ends() -> None:
    x = np.arange(60.0)
    weights = cubic_weights(60, 150, align_corners=False)
    centers = (np.arange(150) + 0.5) / 2.5 - 0.5
    inner = slice(40, 110)
    np.testing.assert_allclose(
        weights[inner] @ (x - 30) ** 2, (centers[inner] - 30) ** 2, atol=2e-3
    )


@CONVENTIONS
@pytest.mark.parametrize(("size_in", "size_out"), [(9, 4), (9, 31), (40, 16), (2, 7)])
def test_a_spline_does_not_ring_where_the_image_ends(
    size_in: int, size_out: int, align_corners: bool
) -> None:
    """Tissue up to the image's face stays tissue: no border of zeros is looked at."""
    tissue = np.full((size_in, 1, 1), 100, np.float32)
    flat = resample(tissue, (size_out, 1, 1), "cubic", align_corners=align_corners)
    np.testing.assert_allclose(flat, 100, rtol=1e-5)
    weights = cubic_weights(size_in, size_out, align_corners=align_corners)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)
    assert weights.min() > -0.3
    assert weights.max() < 1.3


def test_a_step_overshoots_no_value_of_the_image() -> None:
    step = np.repeat(np.array([-1000, 100], np.float32), 8).reshape(16, 1, 1)
    line = (cubic_weights(16, 40, align_corners=False) @ step[:, :, 0])[:, 0]
    assert line.min() < -1030
    assert line.max() > 130
    result = resample(step, (40, 1, 1), "cubic", align_corners=False)
    assert (result.min(), result.max()) == (-1000, 100)


# Properties


@INTERPOLATIONS
@CONVENTIONS
def test_mirroring_and_turning_change_no_bit(
    align_corners: bool, interpolation: Interpolation
) -> None:
    """Axes may come in any order in memory, as CTs are stored in any orientation."""
    volume = noise((13, 21, 18))
    plain = resample(volume, (9, 30, 11), interpolation, align_corners=align_corners)
    for order in ((0, 2, 1), (2, 1, 0), (1, 2, 0)):
        stored = np.ascontiguousarray(np.flip(volume.transpose(order), (0, 2)))
        view = np.flip(stored, (0, 2)).transpose(np.argsort(order))
        assert np.array_equal(view, volume)
        again = resample(view, (9, 30, 11), interpolation, align_corners=align_corners)
        assert np.array_equal(again, plain)
        assert again.flags.c_contiguous


@settings(max_examples=50, deadline=None)
@given(
    sizes_in=st.tuples(*[st.integers(1, 40)] * 3),
    sizes_out=st.tuples(*[st.integers(1, 40)] * 3),
    align_corners=st.booleans(),
    cubic=st.booleans(),
)
def test_sums_of_few_weights_are_the_whole_products(
    sizes_in: tuple[int, ...], sizes_out: tuple[int, ...], align_corners: bool, cubic: bool
) -> None:
    """A spline has few weights at a sample and many between two: rows need earlier slices again."""
    make = cubic_weights if cubic else linear_weights
    weights = [
        make(before, after, align_corners=align_corners) if before != after else None
        for before, after in zip(sizes_in, sizes_out, strict=True)
    ]
    expected = volume = noise(sizes_in)
    for axis, matrix in enumerate(weights):
        if matrix is not None:
            product = np.tensordot(matrix.astype(float), expected, axes=(1, axis))
            expected = np.moveaxis(product, 0, axis)
    np.testing.assert_allclose(apply_weights(volume, weights), expected, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.booleans(), st.booleans())
def test_rows_are_averages(
    size_in: int, size_out: int, align_corners: bool, antialias: bool
) -> None:
    """So constants are kept and no value leaves the range of its neighbors."""
    weights = linear_weights(size_in, size_out, align_corners=align_corners, antialias=antialias)
    assert weights.shape == (size_out, size_in)
    assert weights.dtype == np.float32
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.booleans(), st.booleans())
def test_neither_end_is_preferred(
    size_in: int, size_out: int, align_corners: bool, antialias: bool
) -> None:
    weights = linear_weights(size_in, size_out, align_corners=align_corners, antialias=antialias)
    if align_corners and size_out == 1:  # a single sample is the first
        assert weights[0, 0] == 1
        return
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)


@CONVENTIONS
def test_a_ramp_stays_a_ramp_inside(align_corners: bool) -> None:
    ramp = np.arange(8, dtype=np.float32).reshape(8, 1, 1)
    line = resample(ramp, (21, 1, 1), "linear", align_corners=align_corners)
    steps = np.diff(line[:, 0, 0])
    inner = steps if align_corners else steps[1:-1]
    np.testing.assert_allclose(inner, 7 / 20 if align_corners else 8 / 21, atol=1e-5)


# Labels


def test_labels_take_the_nearest_voxel() -> None:
    labels = np.array([[[0, 1, 2]]], np.uint8)
    doubled = nearest(labels, (2, 1, 6), align_corners=False)
    assert doubled.tolist() == [[[0, 0, 1, 1, 2, 2]]] * 2
    assert doubled.dtype == np.uint8
    corners = nearest(labels, (1, 1, 7), align_corners=True)
    assert corners[0, 0].tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_reduced_labels_are_those_at_the_voxel_centers() -> None:
    labels = np.arange(9, dtype=np.int16).reshape(9, 1, 1)
    assert nearest(labels, (3, 1, 1), align_corners=False)[:, 0, 0].tolist() == [1, 4, 7]
    assert nearest(labels, (3, 1, 1), align_corners=True)[:, 0, 0].tolist() == [0, 4, 8]


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, target=SHAPES, align_corners=st.booleans())
def test_labels_are_never_mixed(
    shape: tuple[int, int, int], target: tuple[int, int, int], align_corners: bool
) -> None:
    labels = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8) * 100
    result = nearest(labels, target, align_corners=align_corners)
    assert result.shape == target
    assert set(np.unique(result)) <= set(np.unique(labels))


@given(st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_whole_factors_repeat_labels(size: int, factor: int) -> None:
    """The network's finer output grid: a 2x2 block of labels belongs to one input voxel."""
    labels = np.arange(size, dtype=np.uint8).reshape(1, 1, size)
    result = nearest(labels, (1, 1, size * factor), align_corners=False)
    assert result[0, 0].tolist() == np.repeat(np.arange(size), factor).tolist()


# Classes by their largest share


def test_the_largest_of_three_shares_wins() -> None:
    """At a factor of 2.5 each new center lies at a quarter, or in the middle, of old ones."""
    labels = np.array([0, 1, 2, 2, 2, 1, 1, 0, 0, 2], np.uint8).reshape(10, 1, 1)
    reduced = largest_share(labels, (4, 1, 1), align_corners=False)
    # centers 0.75, 3.25, 5.75, 8.25
    assert reduced[:, 0, 0].tolist() == [1, 2, 1, 0]
    assert reduced.dtype == np.uint8


def test_one_voxel_gives_way_where_its_neighbors_hold_more() -> None:
    """The center is at 0.75 along each axis: the nearest voxel has 27 of 64 shares, two have 36."""
    labels = np.ones((5, 5, 5), np.uint8)
    labels[1, 1, 1] = 2
    assert nearest(labels, (2, 2, 2), align_corners=False)[0, 0, 0] == 2
    assert largest_share(labels, (2, 2, 2), align_corners=False)[0, 0, 0] == 1
    labels[0, 1, 1] = 2
    assert largest_share(labels, (2, 2, 2), align_corners=False)[0, 0, 0] == 2


def test_a_tie_goes_to_the_higher_class() -> None:
    labels = np.array([0, 1, 2, 1, 1, 0], np.uint8).reshape(6, 1, 1)
    assert largest_share(labels, (3, 1, 1), align_corners=False)[:, 0, 0].tolist() == [1, 2, 1]
    mask = np.array([True, False, False, False]).reshape(4, 1, 1)
    assert largest_share(mask, (2, 1, 1), align_corners=False)[:, 0, 0].tolist() == [True, False]


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, target=SHAPES, align_corners=st.booleans(), seed=st.integers(0, 99))
def test_the_class_taken_has_at_least_the_share_of_any_other(
    shape: tuple[int, int, int], target: tuple[int, int, int], align_corners: bool, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
    classes = torch.from_numpy(np.stack([labels == label for label in range(3)]))
    shares = F.interpolate(
        classes[None].double(), target, mode="trilinear", align_corners=align_corners
    )[0].numpy()
    taken = largest_share(labels, target, align_corners=align_corners)
    share = np.take_along_axis(shares, taken[None].astype(int), axis=0)[0]
    assert (share >= shares.max(axis=0) - 1e-5).all()


def kept_balls(diameter: float) -> list[float]:
    """Of balls at all places of the coarse grid, the share that a factor of 2.5 leaves a voxel of.

    By the nearest voxel, by the largest share, and by averages of half and more.
    """
    target, kept = (8, 8, 8), []
    for place in itertools.product(np.arange(5) + 7.3, repeat=3):
        squared = sum((axis - c) ** 2 for axis, c in zip(np.indices((20,) * 3), place, strict=True))
        ball = squared <= (diameter / 2) ** 2
        averages = resample(ball.astype(np.float32), target, "area", align_corners=False)
        by_nearest = nearest(ball, target, align_corners=False)
        by_share = largest_share(ball, target, align_corners=False)
        kept.append([by_nearest.any(), by_share.any(), (averages >= 0.5).any()])
    return np.mean(kept, axis=0).tolist()


def test_small_lesions_survive_a_coarser_grid_as_with_the_nearest_voxel() -> None:
    """From 4 voxels (3 mm of a CT of 0.75 mm) on all do. Averaged classes would lose many."""
    assert kept_balls(4.0) == [0.992, 1.0, 0.696]
    assert kept_balls(3.0) == [0.608, 0.552, 0.0]


# Halving


def test_halving_is_the_mean_of_2x2_voxels() -> None:
    slices = np.array([[[1, 2, 10, 0], [3, 6, 0, 2]], [[4, 4, 0, 1], [4, 4, 0, 0]]], np.float32)
    assert halve_in_plane(slices).tolist() == [[[3, 3]], [[4, 0.25]]]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_halving_is_linear_resampling_to_half_the_size(z: int, y: int, x: int) -> None:
    slices = noise((z, 2 * y, 2 * x))
    expected = resample(slices, (z, y, x), "linear", align_corners=False)
    np.testing.assert_allclose(halve_in_plane(slices), expected, atol=1e-6)
