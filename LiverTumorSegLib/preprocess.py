"""From a CT to the grid and the values of the network: the one path of training and inference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from LiverTumorSegLib.boxes import Box, crop, region
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.intensity import Scale, equalize_slices, to_network_values
from LiverTumorSegLib.recipe import FixedShape, PixelRange, Preprocessing, Triple
from LiverTumorSegLib.resample import halve_in_plane, largest_share, nearest, resample
from LiverTumorSegLib.volume import AIR_HU, Volume


@dataclass(frozen=True)
class Grid:
    """How a prepared array lies on the CT it came from.

    Attributes:
        axes: engine axis of the CT behind each axis of the oriented array.
        flips: oriented axes that run against the CT's.
        oriented_shape: shape of the oriented CT.
        box: (start, stop) along the oriented axes; may reach beyond the CT, where air is added.
        shape: shape of the prepared array, before padding.
        padding: voxels added (before, after) along each axis for the network.
        align_corners: which voxels coincide where box and shape differ.
    """

    axes: Triple
    flips: tuple[int, ...]
    oriented_shape: Triple
    box: Box
    shape: Triple
    padding: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    align_corners: bool


@dataclass(frozen=True)
class Prepared:
    """A CT on the network's grid.

    Attributes:
        padded: float32 (z, y, x), network values, with the grid's padding of `scale.low`. The CT
            is brought into it and not copied once more: it may be the largest array of a run.
        liver_distance_mm: distance to the liver, 0 inside; None without a liver crop.
        spacing_mm: distance of the prepared voxels along (z, y, x).
        grid: the way back.
        scale: what the network values mean.
    """

    padded: np.ndarray
    liver_distance_mm: np.ndarray | None
    spacing_mm: tuple[float, float, float]
    grid: Grid
    scale: Scale

    @property
    def image(self) -> np.ndarray:
        """The part of `padded` without the padding."""
        return within_padding(self.padded, self.grid.padding)


def prepare(volume: Volume, recipe: Preprocessing, liver: np.ndarray | None = None) -> Prepared:
    """Do the recipe's preprocessing up to, and without, blanking.

    Args:
        volume: the CT.
        recipe: what to do.
        liver: bool (z, y, x) on the CT's grid; needed where the recipe has a liver crop.

    Raises:
        ValueError: a liver crop without a liver, or CLAHE of values that are not 0 to 1.
    """
    if recipe.liver_crop and (liver is None or not liver.any()):
        raise ValueError("This recipe crops to the liver and needs a liver mask with voxels.")
    axes, flips = orient_axes(volume.geometry, recipe.orientation)
    hu = orient(volume.hu, axes, flips)
    if liver is not None:
        liver = orient(liver, axes, flips)
    z_mm, y_mm, x_mm = (volume.geometry.spacing_mm[axis] for axis in axes)
    spacing_mm = z_mm, y_mm, x_mm

    box = region(hu, liver, recipe)
    image = crop(hu, box, fill=AIR_HU).astype(np.float32, copy=False)
    if liver is not None and recipe.liver_crop and recipe.liver_crop.median_hu is not None:
        image = image + np.float32(recipe.liver_crop.median_hu - np.median(hu[liver]))
    if recipe.halve_in_plane:
        image = halve_in_plane(image)
        y_mm, x_mm = 2 * y_mm, 2 * x_mm
    shape = network_shape(image.shape, recipe, (z_mm, y_mm, x_mm))
    grid = Grid(
        axes=axes,
        flips=flips,
        oriented_shape=hu.shape,
        box=box,
        shape=shape,
        padding=network_padding(shape, recipe),
        align_corners=isinstance(recipe.resampling, FixedShape),
    )

    padded = np.empty(padded_shape(shape, recipe), np.float32)
    inner = within_padding(padded, grid.padding)
    if recipe.resample_hu:
        image = resample(image, shape, recipe.interpolation, align_corners=grid.align_corners)
    if image.shape == shape:
        scale = to_network_values(image, recipe.intensity, out=inner)[1]
    else:
        image, scale = to_network_values(image, recipe.intensity)
        inner[...] = resample(image, shape, recipe.interpolation, align_corners=grid.align_corners)
    if recipe.clahe:
        equalize_slices(inner, recipe.clahe, out=inner)
    fill_padding(padded, grid.padding, scale.low)

    spacing_mm = prepared_spacing(spacing_mm, grid)
    distance = None
    if liver is not None and recipe.liver_crop:
        mask = reduce_mask(crop(liver, box, fill=False), grid, halved=recipe.halve_in_plane)
        distance = distance_mm(mask, spacing_mm)
    return Prepared(padded, distance, spacing_mm, grid, scale)


def network_input(prepared: Prepared, mask_mm: float | None) -> np.ndarray:
    """The array that the network sees: far voxels blanked, with `scale.low` as in the padding.

    Args:
        prepared: from `prepare`.
        mask_mm: voxels farther than this from the liver are blanked; None to keep all.

    Returns:
        float32 (z, y, x); the prepared array itself where there is nothing to blank.
    """
    if prepared.liver_distance_mm is None or mask_mm is None:
        return prepared.padded
    padded = prepared.padded.copy()
    image = within_padding(padded, prepared.grid.padding)
    image[...] = blank_far(image, prepared.liver_distance_mm, mask_mm, prepared.scale.low)
    return padded


def blank_far(
    image: np.ndarray, liver_distance_mm: np.ndarray | None, mask_mm: float | None, low: float
) -> np.ndarray:
    """A copy with voxels farther than `mask_mm` from the liver set to `low`, if both are given."""
    if liver_distance_mm is None or mask_mm is None:
        return image
    return np.where(liver_distance_mm <= mask_mm, image, np.float32(low))


def distance_mm(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Distance of each voxel's center to the nearest one of a mask, float32; 0 inside.

    The distances are worked out slice by slice: SciPy's own hold a fivefold of its indices.

    Args:
        mask: bool (z, y, x).
        spacing_mm: of its grid.
    """
    nearest_voxels = ndimage.distance_transform_edt(
        ~mask, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    distance = np.empty(mask.shape, np.float32)
    rows, columns = np.indices(mask.shape[1:], dtype=np.int32)
    for z, plane in enumerate(distance):
        offsets = nearest_voxels[:, z] - np.stack([np.full_like(rows, z), rows, columns])
        squares = np.square(offsets * np.array(spacing_mm)[:, None, None])
        plane[...] = np.sqrt(squares.sum(axis=0))
    return distance


def within_padding(
    padded: np.ndarray, padding: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
) -> np.ndarray:
    """A view of what lies inside the padding (before, after) of each axis."""
    return padded[
        tuple(
            slice(before, size - after)
            for (before, after), size in zip(padding, padded.shape, strict=True)
        )
    ]


def fill_padding(
    padded: np.ndarray,
    padding: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    value: float,
) -> None:
    """Set the padding (before, after) of each axis."""
    for axis, (before, after) in enumerate(padding):
        slices = np.moveaxis(padded, axis, 0)
        slices[:before] = slices[len(slices) - after :] = value


def prepare_labels(
    labels: np.ndarray,
    grid: Grid,
    output_scale: Triple,
    interpolation: Literal["nearest", "linear"],
) -> np.ndarray:
    """Labels of the CT on the grid of the network's output, before padding.

    Args:
        labels: unsigned integer or bool (z, y, x) on the CT's grid.
        grid: of the prepared CT.
        output_scale: upsampling (z, y, x) of the network's output over its input.
        interpolation: the nearest voxel's label, or the class with the largest linear share.
    """
    cropped = crop(orient(labels, grid.axes, grid.flips), grid.box, fill=0)
    shape = [size * scale for size, scale in zip(grid.shape, output_scale, strict=True)]
    reduce = nearest if interpolation == "nearest" else largest_share
    return reduce(cropped, shape, align_corners=grid.align_corners)


def orient_axes(geometry: Geometry, orientation: str) -> tuple[Triple, tuple[int, ...]]:
    """Which axes of the CT to take, and which to flip, so that it runs in given directions.

    Args:
        geometry: of the CT.
        orientation: patient directions of growing x, y and z index, such as "LPS" or "RAS".

    Returns:
        Engine axes of the CT in the order (z, y, x) wanted, and the wanted axes to flip.
    """
    column_of_engine_axis = np.array(geometry.direction)[:, ::-1]
    wanted = []
    for letter in reversed(orientation):
        axis = "LPSRAI".index(letter)
        unit = np.zeros(3)
        unit[axis % 3] = 1.0 if axis < 3 else -1.0
        wanted.append(unit)
    cosines = np.array(wanted) @ column_of_engine_axis
    z, y, x = max(
        itertools.permutations(range(3)),
        key=lambda order: sum(abs(cosines[i, axis]) for i, axis in enumerate(order)),
    )
    flips = tuple(i for i, axis in enumerate((z, y, x)) if cosines[i, axis] < 0)
    return (z, y, x), flips


def orient(array: np.ndarray, axes: Triple, flips: tuple[int, ...]) -> np.ndarray:
    """A view of (z, y, x) `array` with its axes permuted and flipped."""
    return np.flip(array.transpose(axes), flips)


def network_shape(
    shape: Sequence[int], recipe: Preprocessing, spacing_mm: tuple[float, float, float]
) -> Triple:
    """Shape of the prepared array, before padding.

    Args:
        shape: (z, y, x) before resampling, after crops and halving.
        recipe: what to do.
        spacing_mm: of that grid, along (z, y, x).
    """
    resampling = recipe.resampling
    if isinstance(resampling, FixedShape):
        return resampling.shape
    wanted_mm: tuple[float | None, ...] = (None, None, None)
    if isinstance(resampling, PixelRange):
        # Rounded, since a NIfTI file keeps 1.1 mm as 1.10000002.
        smallest, largest = resampling.smallest_mm, resampling.largest_mm
        if not all(smallest <= round(mm, 4) <= largest for mm in spacing_mm[1:]):
            wanted_mm = (None, resampling.target_mm, resampling.target_mm)
    elif resampling is not None:
        wanted_mm = resampling.spacing_mm
    z, y, x = (
        size if wanted is None else max(1, round(size * mm / wanted))
        for size, mm, wanted in zip(shape, spacing_mm, wanted_mm, strict=True)
    )
    return z, y, x


def prepared_spacing(
    spacing_mm: tuple[float, float, float], grid: Grid
) -> tuple[float, float, float]:
    """Distance of the prepared voxels along (z, y, x), from that of the oriented CT's."""
    corners = int(grid.align_corners)
    z, y, x = (
        mm * (stop - start - corners) / max(size - corners, 1)
        for mm, (start, stop), size in zip(spacing_mm, grid.box, grid.shape, strict=True)
    )
    return z, y, x


def network_padding(
    shape: Triple, recipe: Preprocessing
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Voxels to add on both sides, so that the network's sizes are met."""
    result = []
    for size, padded in zip(shape, padded_shape(shape, recipe), strict=True):
        total = padded - size
        result.append((total // 2, total - total // 2))
    return tuple(result)  # type: ignore[return-value]


def padded_shape(shape: Triple, recipe: Preprocessing) -> Triple:
    """The smallest sizes from `shape` on that the network takes."""
    z, y, x = (
        -(-max(size, minimum) // multiple) * multiple
        for size, minimum, multiple in zip(
            shape, recipe.pad_minimum, recipe.pad_multiple, strict=True
        )
    )
    return z, y, x


def reduce_mask(mask: np.ndarray, grid: Grid, *, halved: bool) -> np.ndarray:
    """A bool mask of the crop box on the prepared grid; a 2x2 block counts from half on.

    A liver too small to leave a voxel gives a full mask: nothing is then blanked.
    """
    if halved:
        mask = halve_in_plane(mask.astype(np.float32)) >= 0.5
    reduced = nearest(mask, grid.shape, align_corners=grid.align_corners)
    return reduced if reduced.any() else np.ones_like(reduced)
