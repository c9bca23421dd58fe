"""Our numbers against the filter behind Slicer's Segment Statistics, on the same voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import slicer
import vtk
from scipy.spatial.transform import Rotation
from vtk.util import numpy_support

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import measure
from LiverTumorSegLib.volume import Volume

SPACING_MM = (3.0, 0.7, 0.8)


def slicers_statistics(mask: np.ndarray, geometry: Geometry) -> dict[str, tuple[float, ...]]:
    """What the filter says of a mask, by its names; positions as the grid's directions say."""
    image = vtk.vtkImageData()
    image.SetDimensions(*mask.shape[::-1])
    image.SetSpacing(*geometry.spacing_mm[::-1])
    image.SetOrigin(*geometry.origin_mm)
    scalars = mask.astype(np.uint8).ravel()
    image.GetPointData().SetScalars(
        numpy_support.numpy_to_vtk(scalars, deep=True, array_type=vtk.VTK_UNSIGNED_CHAR)
    )
    directions = vtk.vtkMatrix4x4()
    for row in range(3):
        for column in range(3):
            directions.SetElement(row, column, geometry.direction[row][column])
    statistics = slicer.vtkITKLabelShapeStatistics()
    statistics.SetInputData(image)
    statistics.SetDirections(directions)
    for name in ("FeretDiameter", "Perimeter", "Roundness", "Centroid"):
        statistics.SetComputeShapeStatistic(name, True)
    statistics.Update()
    table = statistics.GetOutput()
    return {
        table.GetColumnName(index): table.GetColumn(index).GetTuple(0)
        for index in range(table.GetNumberOfColumns())
    }


@pytest.mark.parametrize("degrees", [(0, 0, 0), (15, -25, 40)])
def test_shape_and_place_are_those_of_slicers_filter(degrees: tuple[int, ...]) -> None:
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    geometry = Geometry(
        (14, 40, 44), SPACING_MM, (12.0, -30.0, 200.0), tuple(map(tuple, turn.tolist()))
    )
    z, y, x = np.indices(geometry.shape)
    lesion = ((z - 6) / 4) ** 2 + ((y - 19) / 14) ** 2 + ((x - 21 - 0.3 * (y - 19)) / 11) ** 2 <= 1
    labels = np.ones(geometry.shape, np.uint8)
    labels[lesion] = 2
    volume = Volume(np.zeros(geometry.shape, np.float32), geometry)
    (found,) = measure(volume, labels)[0].lesions
    expected = slicers_statistics(lesion, geometry)
    assert found.feret_mm == pytest.approx(expected["FeretDiameter"][0], rel=1e-6)
    assert found.surface_mm2 == pytest.approx(expected["Perimeter"][0], rel=1e-6)
    assert found.sphericity == pytest.approx(expected["Roundness"][0], rel=1e-6)
    centroid = (found.centroid_x_mm, found.centroid_y_mm, found.centroid_z_mm)
    assert centroid == pytest.approx(expected["Centroid"], abs=1e-6)
    voxels_mm3 = np.count_nonzero(lesion) * math.prod(SPACING_MM)
    assert found.volume_ml == pytest.approx(voxels_mm3 / 1000, rel=1e-9)
