"""Segment here: the tumor stage on a small box around a point, for a lesion that was missed.

The CT is prepared as for the whole liver, and of the windows of a whole run those are predicted
that touch the surroundings of the point. So the probabilities there are those of a whole run; only
the threshold is another. A lesion that reaches the edge of these surroundings makes them grow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.components import bounding_box, lesion_components
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.preprocess import Grid, network_input, orient, prepare
from LiverTumorSegLib.protocol import Found
from LiverTumorSegLib.recipe import Triple
from LiverTumorSegLib.resample import apply_weights
from LiverTumorSegLib.restore import axis_weights, likelihoods
from LiverTumorSegLib.sliding_window import window_starts, window_within
from LiverTumorSegLib.stage import (
    Way,
    output_of,
    slice_predictor,
    with_less_and_less_memory,
)
from LiverTumorSegLib.volume import Volume

NEAR_MM = 5.0
"""A lesion may be this far from the point."""
STEP, FLOOR = 0.1, 0.1
"""The threshold is lowered by this, down to this, until a lesion is there."""
Report = Callable[[float], None]
Intervals = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Search:
    """A CT prepared for the tumor stage.

    Attributes:
        model: weights of the tumor stage.
        geometry: of the CT.
        liver: bool (z, y, x) on the CT's grid; lesions lie inside.
        image: float32 (z, y, x), what the network sees.
        low: the image's value of air.
        spacing_mm: of the image's voxels.
        grid: how the image lies on the CT.
    """

    model: Model
    geometry: Geometry
    liver: np.ndarray
    image: np.ndarray
    low: float
    spacing_mm: tuple[float, float, float]
    grid: Grid


def prepare_search(volume: Volume, model: Model, liver: np.ndarray) -> Search:
    """Do once for a CT and its liver what all points have in common.

    Args:
        volume: the CT.
        model: weights with target "tumor" or "both".
        liver: bool (z, y, x) on the CT's grid.

    Raises:
        InputError: the liver is empty or lies on another grid, or the model finds no tumors.
    """
    if "tumor" not in model.recipe.targets:
        raise InputError(
            f"Model {model.name}: expected weights for the tumor, found weights for the "
            f"{model.recipe.target}. Choose another model for the tumors."
        )
    if liver.shape != volume.hu.shape or not liver.any():
        raise InputError(
            f"{volume.name}: expected a liver on the grid of the CT, found "
            + (f"shape {liver.shape}" if liver.any() else "none")
            + ". Tumors are searched for inside the liver: segment or draw it first."
        )
    recipe = model.recipe.preprocessing
    prepared = prepare(volume, recipe, liver)
    image = network_input(prepared, recipe.liver_crop.mask_mm if recipe.liver_crop else None)
    return Search(
        model,
        volume.geometry,
        liver,
        image,
        prepared.scale.low,
        prepared.spacing_mm,
        prepared.grid,
    )


def find_at(
    search: Search,
    point_lps_mm: Sequence[float],
    device: torch.device,
    backend: str,
    *,
    flips: bool = False,
    on_progress: Report = lambda fraction: None,
) -> Found | None:
    """The lesion at a point.

    It is the connected part of the voxels in the liver with a tumor probability from the recipe's
    threshold on that holds the point or comes within 5 mm of it. Where there is none, or none as
    large as the recipe's smallest lesion, the threshold is lowered by 0.1 again and again, down to
    0.1.

    Args:
        search: from `prepare_search`.
        point_lps_mm: (x, y, z) in patient space.
        device: where to run.
        backend: as `pick_backend` gives it.
        flips: average mirrored predictions.
        on_progress: told the share done, anew for each larger part; cancels by raising.

    Returns:
        None: no tumor found here.

    Raises:
        InputError: the point lies outside of the CT.
    """
    grid, recipe = search.grid, search.model.recipe
    point = _oriented_point(search, point_lps_mm)
    liver = orient(search.liver, grid.axes, grid.flips)
    axis_mm = np.array(search.geometry.spacing_mm)[list(grid.axes)]
    on_progress(0.0)
    if not len(_near(liver, point, axis_mm)):
        on_progress(1.0)
        return None

    depth, height, width = window_within(recipe.patch, _three(search.image.shape))
    window = (1 if search.model.network.dimensions == 2 else depth, height, width)
    voxel_mm3 = search.geometry.voxel_ml * 1000.0
    wanted = _around(search, point)
    while True:
        cut, whole = _windows_over(wanted, search.image.shape, window, recipe.inference.overlap)
        part = search.image[tuple(slice(*edges) for edges in cut)]
        tumor = _tumor_in(search, part, device, backend, flips, on_progress)
        scale = output_of(search.model).scale
        box, probability = _on_ct(search, tumor, cut, whole, scale)
        probability[~liver[box]] = 0.0
        offset = np.array([edges.start for edges in box])

        def large_enough(lesion: np.ndarray, seen: Intervals = whole) -> bool:
            volume_mm3 = np.count_nonzero(lesion) * voxel_mm3
            goes_on = _grown(seen, lesion, search.image.shape) != seen
            return volume_mm3 >= recipe.inference.min_lesion_mm3 or goes_on

        threshold, lesion = _lesion_at(
            probability, point - offset, axis_mm, recipe.inference.threshold, large_enough
        )
        if lesion is None:
            return None
        larger = _grown(whole, lesion, search.image.shape)
        if larger == whole:
            return _found(lesion, offset, grid, threshold, float(probability[lesion].mean()))
        wanted = larger


def _tumor_in(
    search: Search,
    part: np.ndarray,
    device: torch.device,
    backend: str,
    flips: bool,
    on_progress: Report,
) -> np.ndarray:
    """Tumor probabilities of a part of the image, on the grid of the network's output."""
    model, output, shape = search.model, output_of(search.model), _three(part.shape)

    def attempt(way: Way) -> np.ndarray:
        predict = slice_predictor(model, shape, output, search.low, way, backend, flips)
        return np.stack(list(predict(part, on_progress)), axis=1)

    values = with_less_and_less_memory(attempt, model, device)
    return likelihoods(values, model.recipe)["tumor"]


def _oriented_point(search: Search, point_lps_mm: Sequence[float]) -> np.ndarray:
    """Voxel (z, y, x), with fractions, of a point on the oriented CT."""
    geometry, grid = search.geometry, search.grid
    homogeneous = np.linalg.solve(geometry.index_to_lps(), [*point_lps_mm, 1.0])
    index = homogeneous[2::-1]
    if not all(-0.5 <= i <= size - 0.5 for i, size in zip(index, geometry.shape, strict=True)):
        x, y, z = point_lps_mm
        raise InputError(
            f"Point ({x:.1f}, {y:.1f}, {z:.1f}) mm: it lies outside of the CT. Place it on the "
            "lesion."
        )
    oriented = index[list(grid.axes)]
    for axis in grid.flips:
        oriented[axis] = grid.oriented_shape[axis] - 1 - oriented[axis]
    return oriented


def _near(mask: np.ndarray, point: np.ndarray, axis_mm: np.ndarray) -> np.ndarray:
    """Indices (n, 3) of the voxels of a mask within `NEAR_MM` of a point, the nearest first."""
    reach = np.ceil(NEAR_MM / axis_mm)
    first = np.clip(np.floor(point - reach), 0, mask.shape).astype(int)
    stop = np.clip(np.ceil(point + reach) + 1, 0, mask.shape).astype(int)
    around = mask[tuple(slice(a, b) for a, b in zip(first, stop, strict=True))]
    indices = np.argwhere(around) + first
    # The voxel that holds the point counts as the point.
    off = np.maximum(np.abs(indices - point) - 0.5, 0.0) * axis_mm
    distance_mm = np.linalg.norm(off, axis=1)
    order = np.argsort(distance_mm, kind="stable")
    return indices[order[distance_mm[order] <= NEAR_MM]]


def _around(search: Search, point: np.ndarray) -> Intervals:
    """The image's voxels within `NEAR_MM` of a point of the oriented CT, along each axis."""
    grid = search.grid
    around = []
    for axis, ((start, stop), size) in enumerate(zip(grid.box, search.image.shape, strict=True)):
        length, voxels = stop - start, grid.shape[axis]
        if grid.align_corners:
            center = (point[axis] - start) * (voxels - 1) / max(length - 1, 1)
        else:
            center = (point[axis] - start + 0.5) * voxels / length - 0.5
        center += grid.padding[axis][0]
        reach = NEAR_MM / search.spacing_mm[axis]
        first = min(max(math.floor(center - reach), 0), size - 1)
        around.append((first, min(max(math.ceil(center + reach) + 1, first + 1), size)))
    return tuple(around)


def _windows_over(
    wanted: Intervals, shape: Sequence[int], window: Triple, overlap: float
) -> tuple[Intervals, Intervals]:
    """The part of an image under all those windows of a whole run that touch some voxels.

    Returns:
        The part, and what of it no other window touches.

    >>> _windows_over(((30, 40),), (100,), (48,), 0.5)
    (((0, 72),), ((0, 48),))
    """
    cut, whole = [], []
    for (first, stop), size, width in zip(wanted, shape, window, strict=True):
        starts = window_starts(size, width, overlap)
        touching = [i for i, start in enumerate(starts) if start < stop and start + width > first]
        before, after = touching[0] - 1, touching[-1] + 1
        cut.append((starts[touching[0]], starts[touching[-1]] + width))
        low = starts[before] + width if before >= 0 else 0
        whole.append((low, starts[after] if after < len(starts) else size))
    return tuple(cut), tuple(whole)


def _on_ct(
    search: Search, tumor: np.ndarray, cut: Intervals, whole: Intervals, scale: Sequence[int]
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Bring the probabilities of a part of the image to the oriented CT, as `restore` does.

    Args:
        search: what the part is cut from.
        tumor: (z, y, x) probabilities of the part times `scale`.
        cut: where the part lies in the image.
        whole: what of it may be used; CT voxels that need more are left out.
        scale: how much finer the probabilities are than the image.

    Returns:
        Where on the oriented CT, and the probabilities there.
    """
    grid = search.grid
    box, columns, weights = [], [], []
    for axis, (first, stop) in enumerate(whole):
        before, voxels, factor = grid.padding[axis][0], grid.shape[axis], scale[axis]
        used = slice(max(first - before, 0) * factor, min(stop - before, voxels) * factor)
        start, end = grid.box[axis]
        matrix = axis_weights(voxels * factor, end - start, grid)
        if matrix is None:
            matrix = np.eye(end - start, dtype=np.float32)
        enough = ~np.delete(matrix, used, axis=1).any(axis=1)
        on_ct = np.arange(start, end)
        rows = np.flatnonzero(enough & (on_ct >= 0) & (on_ct < grid.oriented_shape[axis]))
        box.append(slice(start + int(rows[0]), start + int(rows[-1]) + 1))
        weights.append(matrix[rows, used])
        shift = (before - cut[axis][0]) * factor
        columns.append(slice(used.start + shift, used.stop + shift))
    return tuple(box), apply_weights(tumor[tuple(columns)], weights)


def _lesion_at(
    probability: np.ndarray,
    point: np.ndarray,
    axis_mm: np.ndarray,
    threshold: float,
    large_enough: Callable[[np.ndarray], bool],
) -> tuple[float, np.ndarray | None]:
    """The highest threshold, from the given one down, at which a lesion is near the point.

    Returns:
        The threshold and the lesion, bool (z, y, x); or the floor and None.
    """
    for step in range(max(round((threshold - FLOOR) / STEP), 0) + 1):
        level = round(threshold - step * STEP, 6)
        lesions, _ = lesion_components(probability >= level)
        for index in _near(lesions > 0, point, axis_mm):
            lesion = lesions == lesions[tuple(index)]
            if large_enough(lesion):
                return level, lesion
    return FLOOR, None


def _grown(whole: Intervals, lesion: np.ndarray, shape: Sequence[int]) -> Intervals:
    """The intervals, one voxel longer on each side where a lesion touches an edge of its part."""
    grown = []
    for axis, (first, stop) in enumerate(whole):
        low, high = (lesion.take(end, axis=axis).any() for end in (0, -1))
        grown.append((max(first - int(low), 0), min(stop + int(high), shape[axis])))
    return tuple(grown)


def _found(
    lesion: np.ndarray, offset: np.ndarray, grid: Grid, threshold: float, mean: float
) -> Found:
    """A lesion of the oriented CT on the CT's own axes."""
    box = bounding_box(lesion)
    assert box is not None
    corner = offset + [edges.start for edges in box]
    for axis in grid.flips:
        corner[axis] = grid.oriented_shape[axis] - corner[axis] - lesion[box].shape[axis]
    back = np.argsort(grid.axes)
    mask = np.ascontiguousarray(np.flip(lesion[box], grid.flips).transpose(back))
    return Found(_three(corner[back].tolist()), mask, threshold, mean)


def _three(values: Sequence[int]) -> Triple:
    first, second, third = values
    return first, second, third
