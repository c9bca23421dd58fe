"""Shapes of lesions: closed forms, brute force and SimpleITK as oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from LiverTumorSegLib.shape import (
    equivalent_sphere_mm,
    feret_mm,
    sphericity,
    surface_mm2,
    volume_uncertainty_percent,
)

SPACINGS = [(1.0, 0.75, 0.75), (2.5, 0.6, 0.9), (5.0, 0.75, 0.75), (0.7, 3.0, 0.7)]
Spacing = tuple[float, float, float]


def ellipsoid(
    radii_mm: np.ndarray,
    spacing_mm: Spacing,
    center: np.ndarray | None = None,
    turn: Rotation | None = None,
) -> np.ndarray:
    """Voxels whose centers lie in it; the center is off a voxel's by this many voxels."""
    shape = [int(2 * max(radii_mm) / step) + 5 for step in spacing_mm]
    middle = (np.array(shape) - 1) / 2 + (0 if center is None else center)
    place_mm = (np.moveaxis(np.indices(shape), 0, -1) - middle) * spacing_mm
    if turn is not None:
        place_mm = place_mm @ turn.as_matrix()
    return np.linalg.norm(place_mm / radii_mm, axis=-1) <= 1


@given(
    hnp.arrays(bool, st.tuples(*[st.integers(1, 6)] * 3)).filter(np.any),
    st.sampled_from(SPACINGS),
)
@settings(max_examples=150, deadline=None)
def test_the_feret_diameter_is_the_largest_of_all_distances(
    mask: np.ndarray, spacing: Spacing
) -> None:
    """Also of points, lines and planes, which have no convex hull in three dimensions."""
    points_mm = np.argwhere(mask) * spacing
    expected = pdist(points_mm).max() if len(points_mm) > 1 else 0.0
    assert feret_mm(mask, spacing) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_feret_diameter_and_surface_are_those_of_simpleitk(spacing: Spacing) -> None:
    mask = ellipsoid(np.array([6.0, 14.0, 9.0]), spacing, turn=Rotation.from_rotvec([0.4, 0.9, 0]))
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.ComputeFeretDiameterOn()
    shapes.ComputePerimeterOn()
    shapes.Execute(image)
    assert feret_mm(mask, spacing) == pytest.approx(shapes.GetFeretDiameter(1), abs=1e-6)
    area = surface_mm2(mask, spacing)
    assert area == pytest.approx(shapes.GetPerimeter(1))
    volume_ml = shapes.GetPhysicalSize(1) / 1000
    assert equivalent_sphere_mm(volume_ml) == pytest.approx(
        2 * shapes.GetEquivalentSphericalRadius(1)
    )
    assert sphericity(volume_ml, area) == pytest.approx(shapes.GetRoundness(1), rel=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("radius", [8.0, 20.0])
def test_a_ball_has_its_surface_and_is_round(radius: float, spacing: Spacing) -> None:
    mask = ellipsoid(np.full(3, radius), spacing)
    area = surface_mm2(mask, spacing)
    assert area == pytest.approx(4 * math.pi * radius**2, rel=0.05)
    volume_ml = 4 / 3 * math.pi * radius**3 / 1000
    assert equivalent_sphere_mm(volume_ml) == pytest.approx(2 * radius)
    assert sphericity(volume_ml, area) == pytest.approx(1, rel=0.05)
    assert 2 * radius - math.hypot(*spacing) <= feret_mm(mask, spacing) <= 2 * radius


def test_a_surface_at_the_arrays_end_counts() -> None:
    """A lesion is cut out by its bounding box, at whose faces it ends."""
    mask = ellipsoid(np.full(3, 8.0), (1.0, 1.0, 1.0))
    box = tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(mask))
    assert surface_mm2(mask[box], (1.0, 1.0, 1.0)) == pytest.approx(
        surface_mm2(mask, (1.0, 1.0, 1.0))
    )


def test_a_disk_is_as_round_as_the_formula_of_an_oblate_spheroid_says() -> None:
    a, c, e = 20.0, 2.0, math.sqrt(1 - (2.0 / 20.0) ** 2)
    area = 2 * math.pi * a**2 * (1 + (1 - e**2) / e * math.atanh(e))
    expected = 4 * math.pi * (a * a * c) ** (2 / 3) / area
    mask = ellipsoid(np.array([c, a, a]), (0.5, 0.5, 0.5))
    volume_ml = np.count_nonzero(mask) * 0.5**3 / 1000
    found = sphericity(volume_ml, surface_mm2(mask, (0.5, 0.5, 0.5)))
    assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("radius", [3.0, 5.0, 12.0])
def test_nineteen_of_twenty_balls_have_their_volume_within_the_uncertainty(
    radius: float, spacing: Spacing
) -> None:
    random = np.random.default_rng(0)
    true_ml = 4 / 3 * math.pi * radius**3 / 1000
    inside = 0
    for _ in range(60):
        mask = ellipsoid(np.full(3, radius), spacing, random.uniform(-0.5, 0.5, 3))
        volume_ml = np.count_nonzero(mask) * math.prod(spacing) / 1000
        off = volume_uncertainty_percent(volume_ml, spacing) / 100 * volume_ml
        inside += abs(volume_ml - true_ml) <= off
    assert inside >= 57
