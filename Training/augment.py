"""Random training samples: one resampling for crop, rotation, scale and elastic change, then HU.

Every change of place is one map from the window's voxels to those of the case, so that image and
labels are interpolated once, whatever the recipe combines. Flips and whole-voxel shifts need no
interpolation, and a sample without any other change is, bit for bit, a part of what inference feeds
the network.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from LiverTumorSegLib.intensity import Scale
from LiverTumorSegLib.labels import BACKGROUND
from LiverTumorSegLib.preprocess import blank_far
from LiverTumorSegLib.recipe import (
    Augmentation,
    ControlPoints,
    Recipe,
    SliceSampling,
    SmoothedNoise,
    Triple,
)
from Training.cache import PreparedCase, output_scale
from Training.sampling import centered, draw_class_window, draw_window, window_shape
from Training.synthetic_tumors import draw_tumors

BEYOND_MM = 1e3  # distance to the liver beyond the image: farther than any that is kept
SMALLEST_BLUR = 0.2  # a Gaussian of this deviation moves less than 1e-5 to the next voxel
NODES_PER_SIGMA = 3


@dataclass(frozen=True)
class Place:
    """Where a window's voxels are looked up in a case; all in voxels of the image, (z, y, x).

    Attributes:
        start: first voxel of the window.
        shape: of the window.
        pivot: the point of the window's frame that the matrix turns about ...
        origin: ... and where it is looked up; positions count from the voxels' outer edges.
        matrix: 3x3, from the window's frame to the case; None if nothing is moved.
        displacement: float32 (1, 3, *shape) added to each voxel's position, or None.
    """

    start: np.ndarray
    shape: Triple
    pivot: np.ndarray
    origin: np.ndarray
    matrix: np.ndarray | None
    displacement: Tensor | None


def draw_sample(
    case: PreparedCase, recipe: Recipe, random: np.random.Generator, z: int | None = None
) -> tuple[Tensor, Tensor]:
    """One augmented window.

    Where a recipe draws windows of slices by class, the class is looked for in the labels of the
    whole slice after it has been rotated, scaled and deformed, and the window is cut from that. The
    image is then interpolated at the window's pixels only, at the very positions that it would have
    been in the whole slice. The flips follow the cut: a pixel of a class is drawn as often, and the
    window clamped alike, in a slice and in its mirror image.

    Args:
        case: the case.
        recipe: its patch, sampling and augmentation.
        random: the only source of randomness.
        z: the slice, for recipes that sample slices.

    Returns:
        float32 image (1, *patch) as the network sees it, and its uint8 labels
        (1, *patch * output scale).
    """
    sampling, augmentation = recipe.training.sampling, recipe.training.augmentation
    patch, scale = window_shape(case, recipe), output_scale(recipe)
    by_class = isinstance(sampling, SliceSampling) and sampling.class_ratios is not None
    shape = whole_slice(case, patch) if by_class else patch
    if z is None:
        start = draw_window(case, recipe, random)
    else:
        start = np.array([z, *map(centered, case.image.shape[1:], shape[1:])])
    place = draw_place(augmentation, start, shape, case.spacing_mm, random)
    labels = look_up(case.labels, place, scale, BACKGROUND, "nearest")
    if by_class:
        first = draw_class_window(
            labels[0, :: scale[1], :: scale[2]], patch[1:], sampling.class_ratios, random
        )
        place = part_of(place, np.array([0, *first]), patch)
        labels = plain_window(labels, np.array([0, *first]) * scale, np.multiply(patch, scale), 0)
    image = look_up(case.image, place, (1, 1, 1), case.scale.low, "bilinear")
    if augmentation.synthetic_tumors is not None:
        tumors = augmentation.synthetic_tumors
        draw_tumors(image, labels, tumors, case.spacing_mm, case.scale, random)
    liver = labels[:: scale[0], :: scale[1], :: scale[2]] != BACKGROUND
    image = change_hu(image, liver, augmentation, case.scale, random)
    crop = recipe.preprocessing.liver_crop
    if crop is not None and case.liver_distance_mm is not None:
        distance = look_up(case.liver_distance_mm, place, (1, 1, 1), BEYOND_MM, "bilinear")
        image = blank_far(image, distance, random.uniform(*crop.training_mask_mm), case.scale.low)
    flips = [a for a in augmentation.flips if random.random() < augmentation.flip_probability]
    image, labels = (np.flip(array, flips).copy() for array in (image, labels))
    return torch.from_numpy(image)[None], torch.from_numpy(labels)[None]


def whole_slice(case: PreparedCase, patch: Triple) -> Triple:
    """A slice of the image, in the plane at least as large as the patch."""
    _, y, x = np.maximum(case.image.shape, patch).tolist()
    return 1, y, x


# Changes of place


def draw_place(
    augmentation: Augmentation,
    start: np.ndarray,
    shape: Triple,
    spacing_mm: tuple[float, float, float],
    random: np.random.Generator,
) -> Place:
    """A window, moved as the augmentation says; a window of one slice stays in its slice.

    The window is shifted by whole voxels; then what it shows is rotated in mm, scaled, stretched
    and enlarged about its middle, and deformed.
    """
    flat = np.array(shape) == 1
    largest_shift = np.where(flat, 0, augmentation.shift * np.array(shape))
    start = start + np.rint(random.uniform(-1, 1, 3) * largest_shift).astype(int)
    turn = draw_matrix(augmentation, spacing_mm, flat[0], random)
    kept = np.array([1.0, *random.uniform(*augmentation.crop, 2)])
    off_middle = random.uniform(-1, 1, 3) * (1 - kept) * shape / 2
    displacement = draw_displacement(augmentation.elastic, shape, random)
    pivot = start + np.array(shape) / 2
    matrix = turn @ np.diag(kept)
    still = displacement is None and np.allclose(matrix, np.eye(3), rtol=0, atol=1e-12)
    return Place(
        start=start,
        shape=shape,
        pivot=pivot,
        origin=pivot + turn @ off_middle,
        matrix=None if still else matrix,
        displacement=displacement,
    )


def draw_matrix(
    augmentation: Augmentation,
    spacing_mm: tuple[float, float, float],
    flat: bool,
    random: np.random.Generator,
) -> np.ndarray:
    """3x3 matrix from the window's voxels to those of the case, (z, y, x).

    A rotation in mm about the z, the y and the x axis, of which a slice has the first alone, after
    division by the factors of size.
    """
    angles = np.radians(random.uniform(-1, 1, 3) * augmentation.rotation_degrees)
    if random.random() >= augmentation.rotation_probability:
        angles = np.zeros(3)
    if flat:
        angles[1:] = 0
    zoom = random.uniform(*augmentation.scale)
    if random.random() >= augmentation.scale_probability:
        zoom = 1.0
    size = zoom * random.uniform(*augmentation.stretch, 3)
    rotation = rotate(1, 2, angles[0]) @ rotate(0, 2, angles[1]) @ rotate(0, 1, angles[2])
    spacing = np.array(spacing_mm)
    return np.diag(1 / spacing) @ rotation @ np.diag(spacing / size)


def rotate(a: int, b: int, angle: float) -> np.ndarray:
    """Rotation by an angle in the plane of axes a and b."""
    matrix = np.eye(3)
    matrix[[a, b], [a, b]] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def draw_displacement(
    elastic: ControlPoints | SmoothedNoise | None, shape: Triple, random: np.random.Generator
) -> Tensor | None:
    """Smooth random displacement in voxels, float32 (1, 3, *shape), 0 along z in a slice."""
    if elastic is None or random.random() >= elastic.probability:
        return None
    if isinstance(elastic, ControlPoints):
        nodes = random.uniform(-elastic.voxels, elastic.voxels, (3, 5, 5, 5))
    else:
        nodes = draw_smoothed_noise(elastic, shape, random)
    if shape[0] == 1:
        nodes[0] = 0
    field = torch.from_numpy(nodes.astype(np.float32))[None]
    return F.interpolate(field, shape, mode="trilinear", align_corners=True)


def draw_smoothed_noise(
    elastic: SmoothedNoise, shape: Triple, random: np.random.Generator
) -> np.ndarray:
    """The noise on nodes sigma / 3 apart, (3, nodes along z, y, x).

    It varies over sigma voxels, so that interpolating between the nodes gives what smoothing noise
    of every voxel gives, hundreds of times as fast. Fewer nodes in the Gaussian's reach average to
    larger values, which is made up for.
    """
    sigma, alpha = random.uniform(*elastic.sigma_voxels), random.uniform(*elastic.alpha)
    counts = [min(n, max(round((n - 1) * NODES_PER_SIGMA / sigma), 1) + 1) for n in shape]
    apart = [(n - 1) / (count - 1) for n, count in zip(shape, counts, strict=True) if n > 1]
    sigmas = [0.0] * (3 - len(apart)) + [sigma / step for step in apart]
    noise = random.uniform(-1, 1, (3, *counts))
    smoothed = ndimage.gaussian_filter(noise, (0, *sigmas), mode="constant")
    return smoothed * alpha / math.prod(apart) ** 0.5


def part_of(place: Place, first: np.ndarray, shape: Triple) -> Place:
    """A smaller window in the frame of another, looked up at the same positions."""
    displacement = place.displacement
    if displacement is not None:
        part = tuple(slice(a, a + n) for a, n in zip(first.tolist(), shape, strict=True))
        displacement = displacement[(..., *part)]
    return replace(place, start=place.start + first, shape=shape, displacement=displacement)


# Looking up


def look_up(array: np.ndarray, place: Place, scale: Triple, fill: float, mode: str) -> np.ndarray:
    """A window of a case's array, interpolated where it is moved.

    Args:
        array: (z, y, x), the image or what lies on a finer grid over it.
        place: the window.
        scale: how much finer.
        fill: the value beyond the array.
        mode: "bilinear" or "nearest".

    Returns:
        (*place.shape * scale), of the array's type.
    """
    if place.matrix is None:
        start, shape = place.start * scale, np.multiply(place.shape, scale)
        return plain_window(array, start, shape, fill)
    # Only the part that is needed is read, with one voxel of fill where it reaches beyond.
    lowest, highest = (reach * scale for reach in reach_of(place))
    size = np.array(array.shape)
    low = np.clip(np.floor(lowest - 0.5).astype(int), -1, size - 1)
    high = np.clip(np.ceil(highest + 0.5).astype(int), 1, size + 1)
    part = plain_window(array, low, high - low, fill).astype(np.float32)
    found = F.grid_sample(
        torch.from_numpy(part)[None, None],
        sampling_grid(place, scale, low / scale, high / scale),
        mode=mode,
        padding_mode="border",
        align_corners=False,
    )
    return found[0, 0].numpy().astype(array.dtype, copy=False)


def reach_of(place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest position of a moved window's edges in the case, each (z, y, x)."""
    ends = np.stack([place.start - place.pivot, place.start + place.shape - place.pivot], axis=1)
    corners = np.array([*itertools.product(*ends)]) @ place.matrix.T + place.origin
    lowest, highest = corners.min(axis=0), corners.max(axis=0)
    if place.displacement is not None:
        lowest = lowest + place.displacement.amin((0, 2, 3, 4)).numpy()
        highest = highest + place.displacement.amax((0, 2, 3, 4)).numpy()
    return lowest, highest


def sampling_grid(place: Place, scale: Triple, low: np.ndarray, high: np.ndarray) -> Tensor:
    """Where a moved window's voxels lie in a box, as `grid_sample` wants it.

    Args:
        place: the window.
        scale: how much finer it is sampled.
        low: of the box, in voxels of the image from its outer edge, (z, y, x).
        high: the same.

    Returns:
        float32 (1, *place.shape * scale, 3): (x, y, z), -1 to 1 from edge to edge of the box.
    """
    matrix, origin = place.matrix * (2 / (high - low))[:, None], 2 * (place.origin - low)
    origin = origin / (high - low) - 1
    grid = torch.zeros(3)
    for axis, (n, s) in enumerate(zip(place.shape, scale, strict=True)):
        offsets = (np.arange(n * s) + 0.5) / s + place.start[axis] - place.pivot[axis]
        line = offsets[:, None] * matrix[:, axis] + origin / 3
        across = [1, 1, 1, 3]
        across[axis] = n * s
        grid = grid + torch.from_numpy(line[:, ::-1].astype(np.float32)).reshape(across)
    if place.displacement is not None:
        field = place.displacement
        if scale != (1, 1, 1):
            field = F.interpolate(field, grid.shape[:3], mode="trilinear", align_corners=False)
        for axis, to_share in enumerate((2 / (high - low)).tolist()):
            grid[..., 2 - axis].add_(field[0, axis], alpha=to_share)
    return grid[None]


def plain_window(
    array: np.ndarray, start: np.ndarray, shape: np.ndarray | Triple, fill: float
) -> np.ndarray:
    """A copy of the window of (z, y, x) `array` from a start voxel on, `fill` beyond its edge."""
    window = np.full(tuple(shape), fill, dtype=array.dtype)
    target, inside = [], []
    for first, length, size in zip(start, shape, array.shape, strict=True):
        low = min(max(first, 0), size)
        high = max(low, min(first + length, size))
        inside.append(slice(low, high))
        target.append(slice(low - first, high - first))
    window[tuple(target)] = array[tuple(inside)]
    return window


# Changes of HU


def change_hu(
    image: np.ndarray,
    liver: np.ndarray,
    augmentation: Augmentation,
    scale: Scale,
    random: np.random.Generator,
) -> np.ndarray:
    """Random contrast, brightness, liver contrast, blur and noise.

    Args:
        image: float32 (z, y, x), network values.
        liver: bool (z, y, x), with its tumors.
        augmentation: the ranges.
        scale: network values of the HU window; what is changed is clamped to its ends.
        random: the only source of randomness.

    Returns:
        The image itself if nothing changes.
    """
    factor = random.uniform(*augmentation.contrast)
    shift = random.uniform(-1, 1) * augmentation.brightness_hu * scale.units_per_hu
    enhancement = random.uniform(-1, 1) * augmentation.liver_contrast_hu * scale.units_per_hu
    blur = random.uniform(0, 1) * augmentation.blur_voxels
    noise = random.uniform(0, 1) * augmentation.noise_hu * scale.units_per_hu
    if factor == 1 and not (shift or enhancement or noise) and blur <= SMALLEST_BLUR:
        return image
    middle = (scale.low + scale.high) / 2
    image = (image - middle) * factor + (middle + shift) + enhancement * liver
    if blur > SMALLEST_BLUR:
        image = ndimage.gaussian_filter(image, (0, blur, blur))
    if noise:
        image = image + noise * random.standard_normal(image.shape, dtype=np.float32)
    return image.clip(scale.low, scale.high).astype(np.float32)
