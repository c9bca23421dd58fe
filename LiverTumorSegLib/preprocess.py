"""From a CT to the network's grid and exactly back: the one path of training and inference."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from LiverTumorSegLib.boxes import Box, body_box, crop, even, liver_box
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.recipe import Preprocessing, Triple
from LiverTumorSegLib.resample import linear_weights, nearest, resample
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
    """A CT on the network's grid, not padded yet.

    Attributes:
        image: float32 (z, y, x), the HU window as 0 to 1.
        liver_distance_mm: distance to the liver, 0 inside; None without a liver crop.
        spacing_mm: distance of the prepared voxels along (z, y, x).
        grid: the way back.
    """

    image: np.ndarray
    liver_distance_mm: np.ndarray | None
    spacing_mm: tuple[float, float, float]
    grid: Grid


def prepare(volume: Volume, recipe: Preprocessing, liver: np.ndarray | None = None) -> Prepared:
    """Do the recipe's preprocessing up to, and without, blanking and padding.

    Args:
        volume: the CT.
        recipe: what to do.
        liver: bool (z, y, x) on the CT's grid; needed where the recipe has a liver crop.

    Raises:
        ValueError: a liver crop without a liver.
    """
    axes, flips = orient_axes(volume.geometry, recipe.orientation)
    oriented = orient(volume.hu, axes, flips)
    spacing = [volume.geometry.spacing_mm[axis] for axis in axes]
    box: Box = tuple((0, size) for size in oriented.shape)  # type: ignore[assignment]
    if recipe.body_crop:
        box = body_box(oriented, recipe.body_crop)
    oriented_liver = None
    if recipe.liver_crop:
        if liver is None or not liver.any():
            raise ValueError("This recipe crops to the liver and needs a liver mask with voxels.")
        oriented_liver = orient(liver, axes, flips)
        box = liver_box(oriented_liver, recipe.liver_crop, anchor=box)
    if recipe.halve_in_plane:
        box = (box[0], even(box[1]), even(box[2]))

    image = crop(oriented, box, fill=AIR_HU).astype(np.float32, copy=False)
    cropped_shape = image.shape
    if recipe.halve_in_plane:
        image = halve_in_plane(image)
    shape = network_shape(image.shape, recipe, spacing[0])
    low, high = recipe.clip_hu
    if recipe.shape is None:
        image = resample(image, shape, align_corners=False, antialias=recipe.antialias)
    image = (np.clip(image, low, high) - np.float32(low)) / np.float32(high - low)
    if recipe.shape is not None:
        image = resample(image, shape, align_corners=True, antialias=recipe.antialias)

    corners = 0 if recipe.shape is None else 1
    spacing_mm = tuple(
        mm * (before - corners) / max(after - corners, 1)
        for mm, before, after in zip(spacing, cropped_shape, shape, strict=True)
    )
    distance = None
    if oriented_liver is not None:
        mask = reduce_mask(crop(oriented_liver, box, fill=False), shape, recipe)
        distance = ndimage.distance_transform_edt(~mask, sampling=spacing_mm).astype(np.float32)
    grid = Grid(
        axes=axes,
        flips=flips,
        oriented_shape=oriented.shape,
        box=box,
        shape=shape,
        padding=network_padding(shape, recipe),
        align_corners=recipe.shape is not None,
    )
    return Prepared(image, distance, spacing_mm, grid)


def network_input(prepared: Prepared, mask_mm: float | None) -> np.ndarray:
    """The array that the network sees: far voxels blanked, then padded, all with 0.

    Args:
        prepared: from `prepare`.
        mask_mm: voxels farther than this from the liver become 0; None to keep all.
    """
    image = blank_far(prepared.image, prepared.liver_distance_mm, mask_mm)
    return np.pad(image, prepared.grid.padding)


def blank_far(
    image: np.ndarray, liver_distance_mm: np.ndarray | None, mask_mm: float | None
) -> np.ndarray:
    """A copy with voxels farther than `mask_mm` from the liver set to 0, if both are given."""
    if liver_distance_mm is None or mask_mm is None:
        return image
    return np.where(liver_distance_mm <= mask_mm, image, np.float32(0))


def prepare_labels(labels: np.ndarray, grid: Grid, output_scale: Triple) -> np.ndarray:
    """Labels of the CT on the grid of the network's output, before padding.

    Args:
        labels: integer or bool (z, y, x) on the CT's grid.
        grid: of the prepared CT.
        output_scale: upsampling (z, y, x) of the network's output over its input.
    """
    cropped = crop(orient(labels, grid.axes, grid.flips), grid.box, fill=0)
    shape = [size * scale for size, scale in zip(grid.shape, output_scale, strict=True)]
    return nearest(cropped, shape, align_corners=grid.align_corners)


def restore_mask(
    probability: np.ndarray, grid: Grid, threshold: float, image_shape: Triple
) -> np.ndarray:
    """Bring a network output back to the CT's grid and apply the threshold.

    Probabilities are interpolated slice by slice, so that memory stays near the mask's size.

    Args:
        probability: float32 (z, y, x) on the padded grid or a whole multiple of it.
        grid: of the prepared CT.
        threshold: probability from which a voxel is foreground.
        image_shape: shape of the CT.

    Returns:
        bool (z, y, x) of `image_shape`.
    """
    slices = restored_slices(probability, grid)
    box_shape = [stop - start for start, stop in grid.box]
    inside = np.empty(box_shape, dtype=bool)
    for z, values in enumerate(slices):
        inside[z] = values >= threshold
    return paste(inside, grid, image_shape)


def restore_probability(probability: np.ndarray, grid: Grid, image_shape: Triple) -> np.ndarray:
    """Bring a network output back to the CT's grid as float16 probabilities."""
    slices = [values.astype(np.float16) for values in restored_slices(probability, grid)]
    return paste(np.stack(slices), grid, image_shape)


def restored_slices(probability: np.ndarray, grid: Grid) -> Iterator[np.ndarray]:
    """Yield, for each slice of the crop box, the interpolated float32 (y, x) probabilities."""
    inner = unpad(probability, grid)
    box_shape = [stop - start for start, stop in grid.box]
    z_weights, y_weights, x_weights = (
        None if before == after else linear_weights(before, after, align_corners=grid.align_corners)
        for before, after in zip(inner.shape, box_shape, strict=True)
    )
    for z in range(box_shape[0]):
        if z_weights is None:
            values = inner[z]
        else:
            used = np.flatnonzero(z_weights[z])
            values = np.tensordot(z_weights[z, used], inner[used], axes=1)
        if y_weights is not None:
            values = y_weights @ values
        if x_weights is not None:
            values = values @ x_weights.T
        yield values


def unpad(output: np.ndarray, grid: Grid) -> np.ndarray:
    """Cut the padding off a network output on the padded grid or a whole multiple of it."""
    window = []
    for size, padding, length in zip(output.shape, grid.padding, grid.shape, strict=True):
        scale = size // (length + sum(padding))
        window.append(slice(padding[0] * scale, (padding[0] + length) * scale))
    return output[tuple(window)]


def paste(inside: np.ndarray, grid: Grid, image_shape: Triple) -> np.ndarray:
    """Put the values of the crop box into zeros of the CT's shape, in the CT's orientation."""
    result = np.zeros(image_shape, dtype=inside.dtype)
    oriented = orient(result, grid.axes, grid.flips)
    target, source = [], []
    for (start, stop), size in zip(grid.box, grid.oriented_shape, strict=True):
        low, high = max(start, 0), min(stop, size)
        target.append(slice(low, high))
        source.append(slice(low - start, high - start))
    oriented[tuple(target)] = inside[tuple(source)]
    return result


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


def halve_in_plane(image: np.ndarray) -> np.ndarray:
    """Mean over 2x2 voxels of each slice of a (z, y, x) array with even y and x sizes."""
    quarter = image[:, 0::2, 0::2] + image[:, 0::2, 1::2]
    quarter += image[:, 1::2, 0::2]
    quarter += image[:, 1::2, 1::2]
    return quarter * np.float32(0.25)


def network_shape(shape: Sequence[int], recipe: Preprocessing, z_spacing_mm: float) -> Triple:
    """Shape of the prepared array, before padding."""
    if recipe.shape is not None:
        return recipe.shape
    z, y, x = shape
    if recipe.z_spacing_mm is not None:
        z = max(1, round(z * z_spacing_mm / recipe.z_spacing_mm))
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
        -(-max(size, minimum) // recipe.pad_multiple) * recipe.pad_multiple
        for size, minimum in zip(shape, recipe.pad_minimum, strict=True)
    )
    return z, y, x


def reduce_mask(mask: np.ndarray, shape: Triple, recipe: Preprocessing) -> np.ndarray:
    """A bool mask of the crop box on the prepared grid; a 2x2 block counts from half on.

    A liver too small to leave a voxel gives a full mask: nothing is then blanked.
    """
    if recipe.halve_in_plane:
        mask = halve_in_plane(mask.astype(np.float32)) >= 0.5
    reduced = nearest(mask, shape, align_corners=recipe.shape is not None)
    return reduced if reduced.any() else np.ones_like(reduced)
