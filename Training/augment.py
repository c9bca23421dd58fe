"""Random training windows: one resampling for crop, rotation, scale and elastic change, then HU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from LiverTumorSegLib.preprocess import padded_shape
from LiverTumorSegLib.recipe import Augmentation, Recipe, Triple
from Training.dataset import PreparedCase, output_scale

FAR_MM = 20.0


@dataclass(frozen=True)
class Source:
    """A prepared case as tensors, with the places from which windows are drawn.

    Attributes:
        image: (1, 2, z, y, x) the image, and closeness to the liver: FAR_MM minus the distance, at
            least 0; all FAR_MM without a liver crop.
        labels: (1, 1, z, y, x) float labels on the output grid.
        spacing_mm: of the image, (z, y, x).
        lesions: for each lesion, its voxels as shares (0 to 1) of each axis, (n, 3).
        liver: the same for the liver.
    """

    image: Tensor
    labels: Tensor
    spacing_mm: tuple[float, float, float]
    lesions: tuple[np.ndarray, ...]
    liver: np.ndarray


def make_source(case: PreparedCase) -> Source:
    """Convert a prepared case."""
    closeness = np.full_like(case.image, FAR_MM)
    if case.liver_distance_mm is not None:
        closeness = np.maximum(FAR_MM - case.liver_distance_mm, 0).astype(np.float32)
    shape = np.array(case.labels.shape)
    components, count = ndimage.label(case.labels == 2, np.ones((3, 3, 3)))
    boxes = ndimage.find_objects(components)
    lesions = []
    for number, box in enumerate(boxes, start=1):
        offset = np.array([piece.start for piece in box])
        lesions.append((np.argwhere(components[box] == number) + offset + 0.5) / shape)
    assert len(lesions) == count
    liver = (np.argwhere(case.labels > 0)[::50] + 0.5) / shape
    return Source(
        image=torch.from_numpy(np.stack([case.image, closeness]))[None],
        labels=torch.from_numpy(case.labels.astype(np.float32))[None, None],
        spacing_mm=case.spacing_mm,
        lesions=tuple(lesions),
        liver=liver,
    )


def draw_sample(
    source: Source, recipe: Recipe, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One augmented window.

    Args:
        source: the case.
        recipe: its patch, sampling, augmentation and target.
        random: the only source of randomness.

    Returns:
        image (1, *patch) as the network sees it, and its 0/1 target (1, *patch * output scale).
    """
    augmentation = recipe.training.augmentation
    size: Triple = tuple(source.image.shape[2:])  # type: ignore[assignment]
    patch = recipe.patch or padded_shape(size, recipe.preprocessing)
    scale = output_scale(recipe)
    center = draw_center(source, recipe, random)
    matrix = draw_matrix(augmentation, source.spacing_mm, random)
    center = center + random.uniform(-1, 1, 3) * augmentation.shift
    field = draw_field(augmentation.elastic_voxels, random)
    start = np.ceil(center * size - np.array(patch) / 2).astype(int)

    def sample(volume: Tensor, factor: Triple, mode: str) -> Tensor:
        if field is None and np.allclose(matrix, np.eye(3), rtol=0, atol=1e-12):
            return exact_window(volume, start * factor, np.multiply(patch, factor))
        grid = window_grid(patch, factor, size, start, matrix, field)
        return F.grid_sample(volume, grid, mode=mode, align_corners=False)[0]

    image, closeness = sample(source.image, (1, 1, 1), "bilinear").split(1)
    labels = sample(source.labels, scale, "nearest")
    coarse_labels = labels[:, :: scale[0], :: scale[1], :: scale[2]]
    image = change_hu(image, coarse_labels, recipe, random)
    crop = recipe.preprocessing.liver_crop
    if crop:
        image = torch.where(
            closeness >= FAR_MM - random.uniform(*crop.training_mask_mm), image, 0.0
        )
    target = labels == 2 if recipe.target == "tumor" else labels > 0
    return image, target.float()


def draw_center(source: Source, recipe: Recipe, random: np.random.Generator) -> np.ndarray:
    """Center of the window as shares (z, y, x): on the target, in the liver, or anywhere.

    Without a patch the window is the whole grid. With a liver crop the image is the liver's box, so
    windows that need no target are centered on a voxel of the liver.
    """
    if recipe.patch is None:
        return np.full(3, 0.5)
    sampling = recipe.training.sampling
    if source.lesions and random.random() < sampling.target_share:
        lesion = source.lesions[random.integers(len(source.lesions))]
        jitter = random.uniform(-0.3, 0.3, 3) * recipe.patch / source.image.shape[2:]
        return lesion[random.integers(len(lesion))] + jitter
    if recipe.preprocessing.liver_crop:
        return source.liver[random.integers(len(source.liver))]
    slices = source.image.shape[2]
    margin = sampling.liver_margin_slices / slices
    low, high = 0.0, 1.0
    if random.random() < sampling.liver_share:
        low = max(0.0, source.liver[:, 0].min() - margin)
        high = min(1.0, source.liver[:, 0].max() + margin)
    return np.array([random.uniform(low, high), 0.5, 0.5])


def draw_matrix(
    augmentation: Augmentation, spacing_mm: tuple[float, float, float], random: np.random.Generator
) -> np.ndarray:
    """3x3 matrix from window voxels to image voxels, (z, y, x): rotation in mm, scale and flips."""
    angle_z = np.radians(random.uniform(-1, 1) * augmentation.rotation_degrees)
    angle_y, angle_x = np.radians(random.uniform(-0.5, 0.5, 2) * augmentation.rotation_degrees)
    rotation = rotate(1, 2, angle_z) @ rotate(0, 2, angle_y) @ rotate(0, 1, angle_x)
    stretch = np.exp(random.uniform(*np.log(augmentation.stretch), 3))
    zoom = np.exp(random.uniform(*np.log(augmentation.scale)))
    mirror = np.ones(3)
    for axis in augmentation.flips:
        mirror[axis] = random.choice([-1.0, 1.0])
    spacing = np.array(spacing_mm)
    return np.diag(1 / spacing) @ rotation @ np.diag(spacing * mirror / (stretch * zoom))


def rotate(a: int, b: int, angle: float) -> np.ndarray:
    """Rotation by an angle in the plane of axes a and b."""
    matrix = np.eye(3)
    matrix[[a, b], [a, b]] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def draw_field(elastic_voxels: float, random: np.random.Generator) -> Tensor | None:
    """Smooth random displacement in voxels, (1, 3, 5, 5, 5), zero with probability one half."""
    if elastic_voxels == 0 or random.random() < 0.5:
        return None
    field = random.uniform(-elastic_voxels, elastic_voxels, (1, 3, 5, 5, 5))
    return torch.from_numpy(field.astype(np.float32))


def exact_window(volume: Tensor, start: np.ndarray, shape: np.ndarray) -> Tensor:
    """The window (C, *shape) at a start voxel of a (1, C, z, y, x) volume, 0 beyond its edge."""
    window = torch.zeros(volume.shape[1], *shape.tolist())
    target, inside = [slice(None)], [slice(None)]
    for first, length, size in zip(start.tolist(), shape.tolist(), volume.shape[2:], strict=True):
        low = max(first, 0)
        high = max(low, min(first + length, size))
        inside.append(slice(low, high))
        target.append(slice(low - first, high - first))
    window[tuple(target)] = volume[0][tuple(inside)]
    return window


def window_grid(
    patch: Triple,
    factor: Triple,
    size: Triple,
    start: np.ndarray,
    matrix: np.ndarray,
    field: Tensor | None,
) -> Tensor:
    """Sampling positions for `grid_sample`, (1, *patch * factor, 3) in its (x, y, z) units.

    Args:
        patch: window in image voxels.
        factor: finer sampling of the window, for labels on a finer grid.
        size: of the image, in voxels.
        start: first voxel of the unrotated window.
        matrix: window voxels to image voxels.
        field: displacement in image voxels over the window, or None.
    """
    lines = [
        (torch.arange(p * f, dtype=torch.float32) + 0.5) / f - p / 2
        for p, f in zip(patch, factor, strict=True)
    ]
    voxels = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)
    voxels = voxels @ torch.from_numpy(matrix.T.astype(np.float32))
    if field is not None:
        smooth = F.interpolate(field, voxels.shape[:3], mode="trilinear", align_corners=True)
        voxels = voxels + smooth[0].permute(1, 2, 3, 0)
    size_voxels = torch.tensor(size, dtype=torch.float32)
    center = torch.from_numpy(start.astype(np.float32)) + torch.tensor(patch) / 2
    shares = (voxels + center) / size_voxels
    return (2 * shares - 1).flip(-1)[None]


def change_hu(image: Tensor, labels: Tensor, recipe: Recipe, random: np.random.Generator) -> Tensor:
    """Random contrast, brightness, liver contrast, blur and noise of an image scaled to 0..1."""
    augmentation = recipe.training.augmentation
    low, high = recipe.preprocessing.clip_hu
    one_hu = 1.0 / (high - low)
    factor = random.uniform(*augmentation.contrast)
    shift = random.uniform(-1, 1) * augmentation.brightness_hu * one_hu
    enhancement = random.uniform(-1, 1) * augmentation.liver_contrast_hu * one_hu
    blur = random.uniform(0, 1) * augmentation.blur_voxels
    noise = random.uniform(0, 1) * augmentation.noise_hu * one_hu
    seed = int(random.integers(2**31))

    if factor != 1 or shift or enhancement:
        image = (image - 0.5) * factor + 0.5 + shift + enhancement * (labels > 0)
    if blur > 0.2:
        image = torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, 0, blur, blur)))
    if noise:
        generator = torch.Generator().manual_seed(seed)
        image = image + noise * torch.randn(image.shape, generator=generator)
    return image.clamp(0, 1)
