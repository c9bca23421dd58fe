"""Parting one lesion into several: by its separate components, or at its neck."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from LiverTumorSegLib.components import lesion_boxes, lesion_components
from LiverTumorSegLib.part import Part, part_of

_NECK = 0.75  # a neck is at most this thick, relative to the thinner of the two parts it joins
_LEVELS = 50


def split_lesion(lesion: Part, spacing_mm: tuple[float, float, float]) -> list[Part]:
    """The parts of a lesion, largest first.

    A lesion of several components (26 neighbors) is parted into them. A lesion in one piece is
    parted in two at its neck: it is eroded until two cores are left that reach a third deeper than
    the erosion did, and each voxel goes to the core that the watershed of the depth leads to.
    Depth is the distance to the nearest voxel center outside the lesion.

    Args:
        lesion: one voxel or more.
        spacing_mm: along (z, y, x).

    Returns:
        One part, the lesion itself, where it is in one piece and has no neck.
    """
    components, count = lesion_components(lesion.mask)
    if count == 1:
        components = _halves(lesion.mask, spacing_mm)
    parts = [
        part_of(components == number, lesion.box)
        for number in range(1, len(lesion_boxes(components)) + 1)
    ]
    return sorted(parts, key=lambda part: -part.voxels)


def _halves(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """1 and 2 in the two halves, 0 elsewhere; 1 alone where there is no neck."""
    from skimage.segmentation import watershed  # in Slicer it may not be there before Apply

    padded = np.pad(mask, 1)
    depth = ndimage.distance_transform_edt(padded, sampling=spacing_mm)
    for level in np.linspace(0, depth.max(), _LEVELS, endpoint=False)[1:]:
        cores, count = ndimage.label(depth > level, structure=np.ones((3, 3, 3)))
        if count < 2:
            continue
        deepest = np.asarray(ndimage.maximum(depth, cores, np.arange(1, count + 1)))
        first, second = np.argsort(-deepest)[:2]
        if level <= _NECK * deepest[second]:
            seeds = (cores == first + 1) + 2 * (cores == second + 1)
            halves = watershed(-depth, seeds, mask=padded)  # type: ignore[no-untyped-call]
            return np.asarray(halves[1:-1, 1:-1, 1:-1])
    return mask.astype(np.int32)
