"""Smooth random fields and shapes, the material of synthesized CTs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

# A coarse grid holds so many voxels per correlation length, and is brought to size linearly.
VOXELS_A_LENGTH = 2


def smooth_field(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    length_mm: float,
    random: np.random.Generator,
) -> np.ndarray:
    """Gaussian noise of mean 0 and SD 1 that keeps its sign over about so many mm.

    Args:
        shape: (z, y, x).
        spacing_mm: of its voxels.
        length_mm: SD of the Gaussian that white noise is smoothed by.
        random: where chance comes from.

    Returns:
        float32.
    """
    steps = [max(length_mm / VOXELS_A_LENGTH / mm, 1.0) for mm in spacing_mm]
    coarse = [int(np.ceil(n / step)) + 2 for n, step in zip(shape, steps, strict=True)]
    sigma = [length_mm / (mm * step) for mm, step in zip(spacing_mm, steps, strict=True)]
    noise = random.standard_normal(coarse, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, sigma, mode="wrap")
    if coarse != list(shape):
        tensor = torch.from_numpy(noise)[None, None]
        noise = F.interpolate(tensor, size=tuple(shape), mode="trilinear").numpy()[0, 0]
    noise -= noise.mean()
    return noise / max(float(noise.std()), 1e-6)


def ellipsoid(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    center_mm: Sequence[float],
    radii_mm: Sequence[float],
    warp: np.ndarray,
    turn_deg: float = 0.0,
) -> np.ndarray:
    """A bool (z, y, x) ellipsoid with a surface that a field pushes in and out.

    Args:
        shape: (z, y, x).
        spacing_mm: of its voxels.
        center_mm: (z, y, x) from the first voxel's center.
        radii_mm: (z, y, x).
        warp: by which share of its radius the surface lies farther out, at each voxel.
        turn_deg: by how much it is turned about z, from y to x.
    """
    z, y, x = (
        np.arange(n, dtype=np.float32) * np.float32(mm) - np.float32(c)
        for n, mm, c in zip(shape, spacing_mm, center_mm, strict=True)
    )
    cos, sin = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    along = (cos * y[:, None] + sin * x[None]) / radii_mm[1]
    across = (cos * x[None] - sin * y[:, None]) / radii_mm[2]
    squared = (z / radii_mm[0])[:, None, None] ** 2 + (along**2 + across**2)[None]
    return squared <= (1 + warp) ** 2
