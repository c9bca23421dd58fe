"""A liver of formulas that can be seen through any scan, turned, moved and stretched."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from LiverTumorSegLib.geometry import Geometry

# Center and half axes in LPS mm: a large right lobe, a flat left one, a tip below.
_LOBES = (
    ((-30.0, 0.0, 0.0), (55.0, 50.0, 65.0)),
    ((35.0, -25.0, 25.0), (60.0, 30.0, 25.0)),
    ((-45.0, 20.0, -50.0), (28.0, 25.0, 40.0)),
)


def in_liver(places_mm: np.ndarray) -> np.ndarray:
    """Which places (..., 3) in LPS mm lie in the liver."""
    inside = np.zeros(places_mm.shape[:-1], dtype=bool)
    for center, half_axes in _LOBES:
        inside |= (((places_mm - center) / half_axes) ** 2).sum(axis=-1) <= 1
    return inside


def in_ball(center: tuple[float, ...], radius_mm: float, places_mm: np.ndarray) -> np.ndarray:
    """Which places (..., 3) lie in a ball."""
    return ((places_mm - np.array(center)) ** 2).sum(axis=-1) <= radius_mm**2


def affine(
    turn_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
    move_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> np.ndarray:
    """4x4 matrix that stretches along the patient's axes, turns about them, and moves."""
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", turn_degrees, degrees=True).as_matrix()
    matrix[:3, :3] = turn @ np.diag(stretch)
    matrix[:3, 3] = move_mm
    return matrix


def through(matrix: np.ndarray, places_mm: np.ndarray) -> np.ndarray:
    """Places (..., 3) through a 4x4 matrix."""
    return places_mm @ matrix[:3, :3].T + matrix[:3, 3]


def grid_around(
    center_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    size_mm: tuple[float, float, float] = (220.0, 170.0, 230.0),
    spacing_mm: tuple[float, float, float] = (4.0, 2.5, 2.5),
    turn_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
    mirrored: bool = False,
) -> Geometry:
    """A scan whose middle lies at a place; size and spacing along (z, y, x)."""
    direction = Rotation.from_euler("xyz", turn_degrees, degrees=True).as_matrix()
    if mirrored:
        direction[:, 0] *= -1
    shape = tuple(int(np.ceil(s / mm)) for s, mm in zip(size_mm, spacing_mm, strict=True))
    half = (np.array(shape[::-1]) - 1) / 2 * spacing_mm[::-1]
    origin = np.array(center_mm) - direction @ half
    rows = tuple(map(tuple, direction.tolist()))
    return Geometry(shape, spacing_mm, tuple(origin.tolist()), rows)


def places_of(geometry: Geometry) -> np.ndarray:
    """LPS mm (z, y, x, 3) of all voxel centers."""
    return geometry.lps_of(np.moveaxis(np.indices(geometry.shape), 0, -1))
