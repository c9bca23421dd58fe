"""Resampling along each axis: slice by slice, and the same to the bit everywhere.

Sums go over the few weights of a row that are not 0. The sums of a dense product would depend on
the machine and its number of threads, and those threads would wait for each other at every slice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from scipy import ndimage, sparse

Interpolation = Literal["linear", "area", "cubic"]
Weights = Sequence[np.ndarray | None]  # along (z, y, x), (after, before); None changes nothing

# Of a spline's weights those that a sum in single precision does not notice.
_SMALLEST_WEIGHT = 1e-8


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
        (size_out, size_in) float32; rows sum to 1, but have negative weights. Those of samples
        farther than 15 or so are 0.
    """
    columns = ndimage.zoom(
        np.eye(size_in),
        (size_out / size_in, 1),
        order=3,
        mode="nearest",
        grid_mode=not align_corners,
    )
    columns[np.abs(columns) < _SMALLEST_WEIGHT] = 0
    return columns.astype(np.float32)


def resampled_slices(slices: Iterable[np.ndarray], weights: Weights) -> Iterator[np.ndarray]:
    """Resample an array that is given, and comes back, slice by slice.

    Args:
        slices: float32 (C, y, x), in order of z; taken as they are needed.
        weights: matrices along z, y and x. Rows of the first must not move backward.

    Yields:
        float32 (C, y, x).
    """
    along_z, along_y, along_x = weights
    y, x = (None if matrix is None else sparse.csr_array(matrix) for matrix in (along_y, along_x))
    for channels in slices if along_z is None else _mixed(iter(slices), along_z):
        if x is not None:
            channels = np.stack([(x @ plane.T).T for plane in channels])
        if y is not None:
            channels = np.stack([y @ plane for plane in channels])
        yield channels


def _mixed(slices: Iterator[np.ndarray], weights: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the weighted sum of slices for each row of a matrix, holding those still needed."""
    used = [np.flatnonzero(row) for row in weights]
    needed = np.minimum.accumulate([indices[0] for indices in used[::-1]])[::-1]
    held: deque[np.ndarray] = deque()
    first = 0  # index of the first slice held
    for row, indices, oldest in zip(weights, used, needed, strict=True):
        for _ in range(first, oldest):
            if held:
                held.popleft()
            else:
                next(slices)
            first += 1
        while first + len(held) <= indices[-1]:
            held.append(next(slices))
        total = held[indices[0] - first] * row[indices[0]]
        for index in indices[1:]:
            total += held[index - first] * row[index]
        yield total


def apply_weights(volume: np.ndarray, weights: Weights) -> np.ndarray:
    """Resample each axis of a float32 (z, y, x) volume by its matrix; None leaves an axis alone."""
    shape = [
        size if matrix is None else len(matrix)
        for size, matrix in zip(volume.shape, weights, strict=True)
    ]
    result = np.empty(shape, np.float32)
    planes = resampled_slices((plane[None] for plane in volume), weights)
    for plane, (resampled,) in zip(result, planes, strict=True):
        plane[...] = resampled
    return result


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
    result = apply_weights(volume, weights)
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
