"""Resampling along each axis, as matrix products: fast, exact, the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import ndimage

Interpolation = Literal["linear", "area", "cubic"]


def linear_weights(
    size_in: int, size_out: int, *, align_corners: bool, antialias: bool = False
) -> np.ndarray:
    """The matrix that resamples one axis linearly.

    Args:
        size_in: samples given.
        size_out: samples wanted.
        align_corners: the first and last samples coincide (as in scipy.ndimage.zoom); otherwise
            the outer edges of the first and last voxels do.
        antialias: where samples get fewer, widen the triangle to the coarser distance.

    Returns:
        (size_out, size_in) float32, each row summing to 1.

    >>> linear_weights(3, 5, align_corners=True).tolist()[1]
    [0.5, 0.5, 0.0]
    """
    if align_corners:
        step = (size_in - 1) / (size_out - 1) if size_out > 1 else 0.0
        positions = np.arange(size_out) * step
    else:
        step = size_in / size_out
        positions = (np.arange(size_out) + 0.5) * step - 0.5
    positions = np.clip(positions, 0, size_in - 1)
    reach = max(1.0, step) if antialias else 1.0
    weights = np.maximum(0.0, 1.0 - np.abs(positions[:, None] - np.arange(size_in)) / reach)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def cubic_weights(size_in: int, size_out: int, *, align_corners: bool) -> np.ndarray:
    """The matrix of a spline of order 3 along one axis; arguments as for `linear_weights`.

    A spline is linear in its samples: the columns are what becomes of single samples. Beyond its
    ends the axis goes on with its outer values (scipy's "nearest"; nnU-Net's "edge"). So a volume
    that ends in tissue does not ring there, as it would against zeros, and constants stay.

    Returns:
        (size_out, size_in) float32; rows sum to 1, but have negative weights.
    """
    columns = ndimage.zoom(
        np.eye(size_in),
        (size_out / size_in, 1),
        order=3,
        mode="nearest",
        grid_mode=not align_corners,
    )
    return columns.astype(np.float32)


def apply_weights(volume: np.ndarray, weights: Sequence[np.ndarray | None]) -> np.ndarray:
    """Resample each axis of a (z, y, x) volume by its matrix; None leaves an axis alone."""
    for axis, matrix in enumerate(weights):
        if matrix is not None:
            moved = np.moveaxis(volume, axis, -2)
            volume = np.moveaxis(matrix @ moved, -2, axis)
    return volume


def resample(
    volume: np.ndarray, shape: Sequence[int], interpolation: Interpolation, *, align_corners: bool
) -> np.ndarray:
    """Resample a volume to a shape; the volume itself if it has that shape.

    Args:
        volume: float32 (z, y, x).
        shape: wanted (z, y, x).
        interpolation: "linear"; "area", which is linear but averages over the coarser voxel where
            an axis gets fewer; or "cubic", cut to the range of the volume's values.
        align_corners: see `linear_weights`.

    Returns:
        float32 (z, y, x) of that shape.
    """
    if volume.shape == tuple(shape):
        return volume
    # Mirrored axes would keep the products from the fast library.
    volume = np.ascontiguousarray(volume)
    weights: list[np.ndarray | None] = []
    for size_in, size_out in zip(volume.shape, shape, strict=True):
        if size_in == size_out:
            weights.append(None)
        elif interpolation == "cubic":
            weights.append(cubic_weights(size_in, size_out, align_corners=align_corners))
        else:
            antialias = interpolation == "area"
            weights.append(
                linear_weights(size_in, size_out, align_corners=align_corners, antialias=antialias)
            )
    result = np.ascontiguousarray(apply_weights(volume, weights))
    if interpolation == "cubic":
        np.clip(result, volume.min(), volume.max(), out=result)
    return result


def halve_in_plane(image: np.ndarray) -> np.ndarray:
    """Mean over 2x2 voxels of each slice of a (z, y, x) array with even y and x sizes."""
    quarter = image[:, 0::2, 0::2] + image[:, 0::2, 1::2]
    quarter += image[:, 1::2, 0::2]
    quarter += image[:, 1::2, 1::2]
    quarter *= np.float32(0.25)
    return quarter


def nearest(labels: np.ndarray, shape: Sequence[int], *, align_corners: bool) -> np.ndarray:
    """Resample labels (z, y, x) to a shape by the nearest voxel, on the grids of `resample`."""
    for axis, (size_in, size_out) in enumerate(zip(labels.shape, shape, strict=True)):
        if size_in != size_out:
            weights = linear_weights(size_in, size_out, align_corners=align_corners)
            labels = labels.take(weights.argmax(axis=1), axis=axis)
    return np.ascontiguousarray(labels)


def largest_share(labels: np.ndarray, shape: Sequence[int], *, align_corners: bool) -> np.ndarray:
    """Resample labels (z, y, x) by interpolating each class linearly and taking the largest.

    Where two are equal, as halfway between voxels, the higher class is taken: the tumor.

    Args:
        labels: unsigned integers or bool (z, y, x), few classes.
        shape: wanted (z, y, x).
        align_corners: see `linear_weights`.
    """
    result = np.zeros(shape, labels.dtype)
    largest = np.zeros(shape, np.float32)
    for label in range(int(labels.max()) + 1):
        mask = (labels == label).astype(np.float32)
        share = resample(mask, shape, "linear", align_corners=align_corners)
        result[share >= largest] = label
        np.maximum(largest, share, out=largest)
    return result
