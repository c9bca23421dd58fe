"""Boxes of voxels: around the body, around the liver, and cutting them out."""

from __future__ import annotations

import numpy as np

from LiverTumorSegLib.components import bounding_box, components_by_size
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
    ball = digital_ball(recipe.opening_voxels)
    body = bounding_box(components_by_size(opened(hu > recipe.threshold_hu, ball))[0] == 1)
    if body is None:
        return tuple((0, size) for size in hu.shape)  # type: ignore[return-value]
    margin = recipe.margin_voxels
    y, x = (
        (max(edge.start - margin, 0), min(edge.stop + margin, size))
        for edge, size in zip(body[1:], hu.shape[1:], strict=True)
    )
    return (0, hu.shape[0]), y, x


def digital_ball(radius: int) -> np.ndarray:
    """The voxels (z, y, x) whose centers lie within radius + 1/2 of the middle one's, bool."""
    squares = np.arange(-radius, radius + 1) ** 2
    return squares[:, None, None] + squares[:, None] + squares <= (radius + 0.5) ** 2


def opened(mask: np.ndarray, ball: np.ndarray) -> np.ndarray:
    """Morphological opening; beyond the array the erosion finds no edge.

    Args:
        mask: bool (z, y, x).
        ball: bool, odd sides of equal length; its own mirror image.
    """
    return ~_eroded(~_eroded(mask, ball), ball)


def _eroded(mask: np.ndarray, ball: np.ndarray) -> np.ndarray:
    """Erosion, as if everything beyond the array belonged to the mask.

    Each slice is eroded once by each disk that the ball consists of, not by each of its planes.
    """
    radius = len(ball) // 2
    height, width = mask.shape[1:]
    disks = [
        (np.argwhere(disk), np.flatnonzero((ball == disk).all(axis=(1, 2))) - radius)
        for disk in np.unique(ball, axis=0)
    ]
    result = np.ones(mask.shape, dtype=bool)
    for z, plane in enumerate(mask):
        padded = np.pad(plane, radius, constant_values=True)
        for pixels, planes in disks:
            kept = np.ones((height, width), dtype=bool)
            for y, x in pixels:
                kept &= padded[y : y + height, x : x + width]
            for dz in planes:
                if 0 <= z + dz < len(mask):
                    result[z + dz] &= kept
    return result


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
