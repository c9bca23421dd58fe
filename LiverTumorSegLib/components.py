"""Lesions as connected components of the tumor mask."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Smallest box that holds every voxel of a mask, or of labels, that is not 0; None without.

    >>> bounding_box(np.array([[0, 0, 0], [0, 1, 1]], dtype=bool))
    (slice(1, 2, None), slice(1, 3, None))
    """
    box: list[slice] = []
    rest = mask
    for _ in range(mask.ndim):
        along_first = np.flatnonzero(rest.any(axis=tuple(range(1, rest.ndim))))
        if along_first.size == 0:
            return None
        found = slice(int(along_first[0]), int(along_first[-1]) + 1)
        box.append(found)
        rest = np.moveaxis(rest[found], 0, -1)
    return tuple(box)


def lesion_components(tumor: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the connected parts of a tumor mask by size.

    Voxels that share a face, an edge or a corner (26 neighbors) belong to one lesion. Equal sizes
    are ordered by their first voxel in (z, y, x) order. The official LiTS scorer counts with 6
    neighbors instead and so may split one of these lesions into several.

    Args:
        tumor: bool (z, y, x).

    Returns:
        int32 (z, y, x), 0 outside and 1 in the largest lesion, and the number of lesions
        (0 for an empty mask).

    >>> line = np.array([[[1, 0, 1, 1, 0]]], dtype=bool)
    >>> lesions, count = lesion_components(line)
    >>> lesions.tolist(), count
    ([[[2, 0, 1, 1, 0]]], 2)
    """
    lesions, sizes = components_by_size(tumor)
    return lesions, len(sizes)


def components_by_size(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `lesion_components`, with the number of voxels of each part in place of their number.

    Beside the numbers little is held at a time, and theirs is the memory of where they lie only.
    """
    numbers = np.zeros(mask.shape, dtype=np.int32)
    box = bounding_box(mask)
    if box is None:
        return numbers, np.zeros(0, np.int64)
    if 2 * mask[box].size > mask.size:
        box = tuple(slice(0, size) for size in mask.shape)  # SciPy copies an output that is a part
    inside = numbers[box]
    # Of an array in this order SciPy numbers the parts by their first voxels.
    ordered = np.ascontiguousarray(mask[box])
    count = ndimage.label(ordered, structure=np.ones((3, 3, 3)), output=inside)
    sizes = np.zeros(count + 1, np.int64)
    slices = 1 + count // inside[0].size
    for first in range(0, len(inside), slices):
        sizes += np.bincount(inside[first : first + slices].ravel(), minlength=count + 1)
    by_size = np.argsort(-sizes[1:], kind="stable")
    number_of = np.zeros(count + 1, dtype=np.int32)
    number_of[by_size + 1] = np.arange(1, count + 1)
    for plane in inside:
        plane[...] = number_of[plane]
    return numbers, sizes[1:][by_size]


def lesion_boxes(lesion_map: np.ndarray) -> list[tuple[slice, ...]]:
    """Bounding box of each lesion, in the order of their numbers.

    Args:
        lesion_map: int (z, y, x) as `lesion_components` returns it.

    Returns:
        One box a lesion; empty without lesions.
    """
    whole = bounding_box(lesion_map)
    if whole is None:
        return []
    return [
        tuple(slice(o.start + b.start, o.start + b.stop) for o, b in zip(whole, box, strict=True))
        for box in ndimage.find_objects(lesion_map[whole])
    ]
