"""Resampling: by hand, and against scipy.ndimage.zoom and torch's interpolate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import functional as F

from LiverTumorSegLib.resample import linear_weights, nearest, resample

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

SIZES = st.integers(1, 12)
SHAPES = st.tuples(SIZES, SIZES, SIZES)
CONVENTIONS = pytest.mark.parametrize("align_corners", [True, False])


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


# By hand


def test_corner_voxels_stay_in_place() -> None:
    line = np.array([[[0.0, 10.0, 40.0]]], np.float32)
    result = resample(line, (1, 1, 5), align_corners=True)
    assert result.tolist() == [[[0, 5, 10, 25, 40]]]


def test_voxel_edges_stay_in_place() -> None:
    """Centers at 0.25, 0.75, 1.25 ... voxels from the edge; beyond the outer centers flat."""
    line = np.array([[[0.0, 10.0]]], np.float32)
    assert resample(line, (1, 1, 4), align_corners=False).tolist() == [[[0, 2.5, 7.5, 10]]]
    assert resample(np.array([[[1.0, 3, 5, 9]]], np.float32), (1, 1, 2), align_corners=False)[
        0, 0
    ].tolist() == [2, 7]


def test_antialias_widens_the_triangle_to_the_coarser_voxel() -> None:
    """Factor 3, center on voxel 4 of 9: weights 1, 2, 3, 2, 1 over five voxels."""
    weights = linear_weights(9, 3, align_corners=False, antialias=True)
    np.testing.assert_allclose(weights[1], np.array([0, 0, 1, 2, 3, 2, 1, 0, 0]) / 9, rtol=1e-6)
    np.testing.assert_allclose(
        weights[0], np.array([2, 3, 2, 1, 0, 0, 0, 0, 0]) / 8, rtol=1e-6, atol=1e-7
    )


def test_without_antialias_every_third_voxel_is_taken() -> None:
    line = np.arange(9, dtype=np.float32).reshape(1, 1, 9) ** 2
    assert resample(line, (1, 1, 3), align_corners=False).tolist() == [[[1, 16, 49]]]


def test_antialias_removes_what_the_coarser_grid_cannot_show() -> None:
    """An alternating line has mean 0; sampled at every fourth voxel it would look like a wave."""
    line = np.tile(np.array([1, -1], np.float32), 32).reshape(1, 1, 64)
    aliased = resample(line, (1, 1, 22), align_corners=True)
    smooth = resample(line, (1, 1, 22), align_corners=True, antialias=True)
    assert np.abs(aliased[..., 1:-1]).max() > 0.9
    assert np.abs(smooth[..., 1:-1]).max() < 0.15


@CONVENTIONS
def test_antialias_changes_nothing_where_samples_get_more(align_corners: bool) -> None:
    plain = linear_weights(5, 9, align_corners=align_corners)
    smooth = linear_weights(5, 9, align_corners=align_corners, antialias=True)
    assert np.array_equal(plain, smooth)


@CONVENTIONS
def test_one_voxel_fills_any_size(align_corners: bool) -> None:
    one = np.full((1, 1, 1), 7, np.float32)
    result = resample(one, (3, 2, 4), align_corners=align_corners, antialias=True)
    assert result.shape == (3, 2, 4)
    assert (result == 7).all()


def test_the_same_shape_is_the_same_volume() -> None:
    volume = noise((3, 4, 5))
    for align_corners in (True, False):
        assert np.array_equal(resample(volume, (3, 4, 5), align_corners=align_corners), volume)


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
    result = resample(volume, target, align_corners=True)
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
    result = resample(volume, target, align_corners=align_corners)
    np.testing.assert_allclose(result, expected[0, 0], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(SIZES, SIZES), target=st.tuples(SIZES, st.integers(2, 12)))
def test_antialias_is_torch_s(shape: tuple[int, int], target: tuple[int, int]) -> None:
    """torch smooths in two dimensions only, and repeats one row where the width becomes 1."""
    image = noise((1, *shape))
    expected = F.interpolate(
        torch.from_numpy(image)[None], target, mode="bilinear", align_corners=False, antialias=True
    )
    result = resample(image, (1, *target), align_corners=False, antialias=True)
    np.testing.assert_allclose(result, expected[0], atol=1e-5)


# Properties


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
    steps = np.diff(resample(ramp, (21, 1, 1), align_corners=align_corners)[:, 0, 0])
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
