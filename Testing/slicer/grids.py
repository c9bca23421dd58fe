"""Voxel grids as a volume node may have them, and transforms it may be under."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import vtk_to_numpy


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


def rigid_transform(add_node):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(2, 35) @ rotation(0, 10)
    matrix[:3, 3] = (30, -20, 10)
    node = add_node("vtkMRMLLinearTransformNode", "Patient moved")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def stretching_transform(add_node):
    node = add_node("vtkMRMLLinearTransformNode", "Stretch")
    matrix = np.diag([1.5, 0.8, 1.0, 1.0])
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def grid_transform(add_node):
    """What Slicer puts above a CT with uneven slice spacing, but stronger."""
    grid = vtk.vtkImageData()
    grid.SetDimensions(12, 12, 12)
    grid.SetSpacing(40, 40, 40)
    grid.SetOrigin(-250, -250, -600)
    grid.AllocateScalars(vtk.VTK_DOUBLE, 3)
    k, j, i = np.mgrid[0:12, 0:12, 0:12]
    shift_mm = np.stack([8 * np.sin(j / 2), 6 * np.cos(i / 2), 4 * np.sin(k)], axis=-1)
    vtk_to_numpy(grid.GetPointData().GetScalars())[:] = shift_mm.reshape(-1, 3)
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(grid)
    node = add_node("vtkMRMLGridTransformNode", "Acquisition")
    node.SetAndObserveTransformToParent(transform)
    return node


TRANSFORMS = {
    "rigid": rigid_transform,
    "stretching": stretching_transform,
    "grid": grid_transform,
}
