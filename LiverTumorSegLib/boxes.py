"""Boxes of voxels: around the body, around the liver, and cutting them out."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from LiverTumorSegLib.recipe import BodyCrop, LiverCrop, Preprocessing

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def region(hu: np.ndarray, liver: np.ndarray | None, recipe: Preprocessing) -> Box:
    """The box of the oriented CT that is prepared; may reach one voxel beyond it, to be even."""
    box: Box = tuple((0, size) for size in hu.shape)  # type: ignore[assignment]
    if recipe.body_crop:
        box = body_box(hu, recipe.body_crop)
    if recipe.liver_crop and liver is not None:
        box = liver_box(liver, recipe.liver_crop, anchor=box)
    return (box[0], even(box[1]), even(box[2])) if recipe.halve_in_plane else box


def crop(array: np.ndarray, box: Box, fill: float | bool) -> np.ndarray:
    """Cut a box out; where it reaches beyond the array, add `fill`."""
    inside = tuple(
        slice(max(start, 0), min(stop, size))
        for (start, stop), size in zip(box, array.shape, strict=True)
    )
    beyond = [
        (max(-start, 0), max(stop - size, 0))
        for (start, stop), size in zip(box, array.shape, strict=True)
    ]
    cut = array[inside]
    return np.pad(cut, beyond, constant_values=fill) if any(map(any, beyond)) else cut


def even(interval: tuple[int, int]) -> tuple[int, int]:
    """The interval, one longer at its end if its length is odd."""
    start, stop = interval
    return start, stop + (stop - start) % 2


def body_box(hu: np.ndarray, recipe: BodyCrop) -> Box:
    """Box of the patient's body in the plane, over all slices; everything if there is none.

    HU above the threshold, 3D opening by a ball, largest 26-connected component. Closing the
    slices and filling their holes, as for the paper's body mask, could not move the box.
    """
    whole: Box = tuple((0, size) for size in hu.shape)  # type: ignore[assignment]
    image = sitk.GetImageFromArray((hu > recipe.threshold_hu).astype(np.uint8))
    opened = sitk.BinaryMorphologicalOpening(image, [recipe.opening_voxels] * 3, sitk.sitkBall)
    components = sitk.ConnectedComponent(opened, True)
    mask = sitk.GetArrayViewFromImage(sitk.RelabelComponent(components)) == 1
    if not mask.any():
        return whole
    box = [whole[0]]
    for axis in (1, 2):
        found = np.flatnonzero(mask.any(axis=tuple(i for i in range(3) if i != axis)))
        margin = recipe.margin_voxels
        box.append(
            (max(int(found[0]) - margin, 0), min(int(found[-1]) + 1 + margin, hu.shape[axis]))
        )
    return box[0], box[1], box[2]


def liver_box(liver: np.ndarray, recipe: LiverCrop, anchor: Box) -> Box:
    """The liver's box with margins, inside the anchor box.

    In the plane it starts a whole number of 2x2 blocks after the anchor, so that the blocks of
    both stages are the same. Along an axis where the liver misses the anchor box, as a liver found
    by other weights may miss the body, the anchor's whole length is taken.
    """
    box = []
    for axis, (margin, (low, high)) in enumerate(zip(recipe.margin_voxels, anchor, strict=True)):
        others = tuple(i for i in range(3) if i != axis)
        found = np.flatnonzero(liver.any(axis=others))
        start = max(int(found[0]) - margin, low)
        if axis > 0:
            start -= (start - low) % 2
        stop = min(int(found[-1]) + 1 + margin, high)
        box.append((start, stop) if start < stop else (low, high))
    return box[0], box[1], box[2]
