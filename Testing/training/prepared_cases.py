"""Prepared cases made by hand, for tests of sampling and augmentation."""

from __future__ import annotations

import numpy as np

from LiverTumorSegLib.intensity import Scale
from LiverTumorSegLib.recipe import Recipe
from Training.cache import PreparedCase, count_voxels, find_lesions, output_scale

ZERO_TO_ONE = Scale(0.0, 1.0, 0.0025)


def prepared_case(
    image: np.ndarray,
    labels: np.ndarray,
    recipe: Recipe,
    distance: np.ndarray | None = None,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    scale: Scale = ZERO_TO_ONE,
) -> PreparedCase:
    """A case of these arrays, its voxels counted and its lesions found."""
    tumor_voxels, lesion_ends = find_lesions(labels)
    return PreparedCase(
        image=image,
        liver_distance_mm=distance,
        labels=labels,
        slice_voxels=count_voxels(labels, output_scale(recipe)[0]),
        tumor_voxels=tumor_voxels,
        lesion_ends=lesion_ends,
        spacing_mm=spacing_mm,
        scale=scale,
        synthetic=False,
    )
