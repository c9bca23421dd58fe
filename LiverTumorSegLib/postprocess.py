"""What is done to masks after the network: parts dropped, cavities filled, the border watched."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from LiverTumorSegLib.components import bounding_box, components_by_size
from LiverTumorSegLib.recipe import Inference


def clean_liver(mask: np.ndarray, inference: Inference) -> np.ndarray:
    """Keep the largest component and fill cavities, as the recipe says.

    Args:
        mask: bool (z, y, x); it may be changed in place.
        inference: what to do.
    """
    if inference.largest_component:
        mask = components_by_size(mask)[0] == 1
    box = bounding_box(mask)
    if inference.fill_holes and box is not None:
        mask[box] = ndimage.binary_fill_holes(mask[box])
    return mask


def clean_tumor(mask: np.ndarray, inference: Inference, voxel_mm3: float) -> np.ndarray:
    """Drop components below the smallest volume, as the recipe says.

    Args:
        mask: bool (z, y, x).
        inference: what to do.
        voxel_mm3: volume of a voxel.
    """
    if inference.min_lesion_mm3 <= 0:
        return mask
    components, sizes = components_by_size(mask)
    kept = np.count_nonzero(sizes * voxel_mm3 >= inference.min_lesion_mm3)
    return mask & (components <= kept)


def touches_border(mask: np.ndarray) -> bool:
    """Whether a voxel of the mask lies on a face of its array, whichever way it was scanned."""
    faces = (mask.take(end, axis=axis) for axis in range(mask.ndim) for end in (0, -1))
    return any(face.any() for face in faces)
