"""Voxel grids as a volume node may have them, as 4x4 IJK to RAS matrices."""

from __future__ import annotations

import numpy as np


def rotation(axis: int, degrees: float) -> np.ndarray:
    """Right-handed rotation about coordinate axis 0, 1 or 2."""
    angle = np.deg2rad(degrees)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[second, first] = np.sin(angle)
    matrix[first, second] = -np.sin(angle)
    return matrix


OBLIQUE = rotation(2, 23) @ rotation(0, -11) @ rotation(1, 7)

# RAS directions of the axes i, j, k as columns. In a usual CT i runs to the left, j to the back
# and k to the head of the patient.
DIRECTIONS = {
    "usual": np.diag([-1.0, -1.0, 1.0]),
    "flipped": np.diag([1.0, 1.0, 1.0]),
    "left-handed": np.diag([-1.0, -1.0, -1.0]),
    "permuted": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "oblique": OBLIQUE,
    "oblique left-handed": OBLIQUE @ np.diag([1.0, -1.0, 1.0]),
}


def ijk_to_ras(direction: np.ndarray, spacing=(0.8, 0.7, 3.0), origin=(-91.0, 33.0, -412.0)):
    """4x4 matrix of a volume node; spacing along i, j, k."""
    matrix = np.eye(4)
    matrix[:3, :3] = direction * np.array(spacing)
    matrix[:3, 3] = origin
    return matrix
