"""Lesions as connected components of the tumor mask."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Smallest box that holds every true voxel; None for an empty mask.

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
    lesions = np.zeros(tumor.shape, dtype=np.int32)
    box = bounding_box(tumor)
    if box is None:
        return lesions, 0
    found, count = ndimage.label(tumor[box], structure=np.ones((3, 3, 3)))
    flat = found.ravel()
    tumor_voxels = np.flatnonzero(flat)
    sizes = np.bincount(flat[tumor_voxels], minlength=count + 1)[1:]
    first_voxel = np.zeros(count + 1, dtype=np.int64)
    first_voxel[flat[tumor_voxels[::-1]]] = tumor_voxels[::-1]  # the last assignment wins
    by_size = np.lexsort((first_voxel[1:], -sizes))
    number_of = np.zeros(count + 1, dtype=np.int32)
    number_of[by_size + 1] = np.arange(1, count + 1)
    lesions[box] = number_of[found]
    return lesions, int(count)


def lesion_boxes(lesion_map: np.ndarray) -> list[tuple[slice, ...]]:
    """Bounding box of each lesion, in the order of their numbers.

    Args:
        lesion_map: int (z, y, x) as `lesion_components` returns it.

    Returns:
        One box a lesion; empty without lesions.
    """
    whole = bounding_box(lesion_map > 0)
    if whole is None:
        return []
    return [
        tuple(slice(o.start + b.start, o.start + b.stop) for o, b in zip(whole, box, strict=True))
        for box in ndimage.find_objects(lesion_map[whole])
    ]
