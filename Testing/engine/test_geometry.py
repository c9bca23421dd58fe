"""Geometry: where voxels lie in the patient, by hand, and what is refused as no grid."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from LiverTumorSegLib import geometry
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry, checked_grid, off_right_angle

TURNED = ((0.6, 0.0, 0.8), (0.0, 1.0, 0.0), (-0.8, 0.0, 0.6))
MIRRORED = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
SOURCE = Path("ct.nii")


def sheared(ratio: float) -> np.ndarray:
    """The z axis leans toward y by `ratio` of its length, at unit length."""
    direction = np.eye(3)
    direction[:, 2] = np.array([0.0, ratio, 1.0]) / np.hypot(ratio, 1.0)
    return direction


def test_doctests() -> None:
    result = doctest.testmod(geometry)
    assert result.attempted > 0
    assert result.failed == 0


def test_voxel_positions_on_a_turned_grid_by_hand() -> None:
    grid = Geometry((2, 3, 4), (10.0, 5.0, 2.0), (100.0, -50.0, 7.0), TURNED)
    assert grid.lps_of(np.array([0, 0, 0])).tolist() == [100.0, -50.0, 7.0]
    np.testing.assert_allclose(grid.lps_of(np.array([0, 0, 1])), [101.2, -50.0, 5.4])
    np.testing.assert_allclose(grid.lps_of(np.array([0, 1, 0])), [100.0, -45.0, 7.0])
    np.testing.assert_allclose(grid.lps_of(np.array([1, 0, 0])), [108.0, -50.0, 13.0])
    assert grid.lps_of(np.zeros((4, 5, 3))).shape == (4, 5, 3)


@pytest.mark.parametrize("direction", [TURNED, MIRRORED])
@given(spacing=st.tuples(*[st.floats(0.1, 10)] * 3))
def test_voxel_volume_is_the_product_of_the_spacing(
    direction: tuple, spacing: tuple[float, float, float]
) -> None:
    grid = Geometry((2, 2, 2), spacing, direction=direction)
    assert grid.voxel_ml == pytest.approx(np.prod(spacing) / 1000)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"shape": (0, 2, 2)}, "(0, 2, 2)"),
        ({"shape": (2, 2)}, "(2, 2)"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "(1.0, 0.0, 1.0)"),
        ({"spacing_mm": (1.0, float("nan"), 1.0)}, "nan"),
        ({"spacing_mm": (1.0, -1.0, 1.0)}, "-1.0"),
        ({"spacing_mm": (1.0, float("inf"), 1.0)}, "inf"),
        ({"origin_mm": (0.0, float("nan"), 0.0)}, "nan"),
        ({"direction": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.1), (0.0, 0.0, 1.0))}, "0.1"),
        ({"direction": ((2.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))}, "2.0"),
        ({"direction": ((float("nan"), 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))}, "nan"),
        ({"direction": ((1.0, 0.0), (0.0, 1.0))}, "(2, 2)"),
    ],
)
def test_what_is_no_grid_is_refused(change: dict, finding: str) -> None:
    sound = {"shape": (2, 2, 2), "spacing_mm": (1.0, 1.0, 1.0)}
    with pytest.raises(ValueError, match="expected") as caught:
        Geometry(**(sound | change))
    assert finding in str(caught.value)


@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.2])
def test_off_right_angle_is_the_cosine_of_the_sheared_angle(ratio: float) -> None:
    assert off_right_angle(sheared(ratio)) == pytest.approx(ratio / np.hypot(ratio, 1), abs=1e-12)


def test_sound_axes_stay_as_they_are() -> None:
    grid, notes = checked_grid(SOURCE, (2, 3, 4), (3.0, 2.0, 1.0), (1.0, 2.0, 3.0), sheared(5e-5))
    assert grid.direction == tuple(map(tuple, sheared(5e-5)))
    assert (grid.shape, grid.spacing_mm, grid.origin_mm) == ((2, 3, 4), (3, 2, 1), (1, 2, 3))
    assert notes == ()


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_slight_shear_is_turned_to_the_nearest_right_angles_and_told(mirror: float) -> None:
    lean = 0.008
    direction = sheared(lean) * [mirror, 1, 1]
    grid, notes = checked_grid(SOURCE, (2, 2, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), direction)
    half = np.arctan(lean) / 2
    expected = [[mirror, 0, 0], [0, np.cos(half), np.sin(half)], [0, -np.sin(half), np.cos(half)]]
    np.testing.assert_allclose(grid.direction, expected, atol=1e-9)
    assert notes == ("voxel axes were 0.80% off a right angle: turned to right angles",)


@pytest.mark.parametrize(
    ("direction", "finding"),
    [
        (sheared(np.tan(np.radians(15))), "25.9%"),
        (np.diag([1.0, 1.0, 2.0]), "300.0%"),
        (np.full((3, 3), np.nan), "nan"),
    ],
)
def test_sheared_axes_are_refused(direction: np.ndarray, finding: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_grid(SOURCE, (2, 2, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), direction)
    assert str(caught.value).startswith("ct.nii: expected voxel axes")
    assert finding in str(caught.value)


def test_zero_spacing_is_refused_with_the_file_named() -> None:
    with pytest.raises(InputError, match=r"^ct\.nii: expected three spacings above 0 mm"):
        checked_grid(SOURCE, (2, 2, 2), (0.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
