"""What is a fault of a case and what a warning, at the edges of each check."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.volume import Volume
from Training.case_checks import (
    UNKNOWN_SPACING,
    check_spacing,
    grid_faults,
    hu_faults,
    hu_warnings,
    label_faults,
    outside_warnings,
)
from Training.ircadb import GRIDS

PATH = Path("label.nii")
GRID = Geometry((4, 5, 6), (3.0, 1.0, 1.0))
FLIPPED = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
SAGITTAL = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def ct(*hu: float) -> Volume:
    """These HU in a row."""
    return Volume(np.array([[hu]], np.float32), Geometry((1, 1, len(hu)), (1.0, 1.0, 1.0)))


# Grids


def test_a_grid_may_be_off_by_rounding() -> None:
    assert grid_faults(GRID, replace(GRID, origin_mm=(0.009, 0.0, 0.0)), PATH) == []
    assert grid_faults(GRID, replace(GRID, spacing_mm=(3.009, 1.0, 1.0)), PATH) == []


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"origin_mm": (0.02, 0.0, 0.0)}, "found origin [0.02, 0.0, 0.0] instead of [0.0, 0.0, 0"),
        ({"spacing_mm": (3.0, 1.0, 1.1)}, "found spacing [3.0, 1.0, 1.1] instead of [3.0, 1.0, 1"),
        ({"direction": FLIPPED}, "found direction [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0"),
        ({"shape": (4, 6, 5)}, "shape (4, 5, 6) (z, y, x), found (4, 6, 5)"),
    ],
)
def test_a_label_elsewhere_is_a_fault(changed: dict, found: str) -> None:
    (fault,) = grid_faults(GRID, replace(GRID, **changed), PATH)
    assert fault.startswith("label.nii: expected the CT's ")
    assert found in fault


# Labels


@pytest.mark.parametrize(
    ("values", "label_map", "found"),
    [
        ([0, 1, 2], {}, None),
        ([0, 1], {}, None),
        ([0, 2], {}, None),
        ([0, 3], {3: 1}, None),
        ([0, 1, 3], {}, "found [3] too"),
        ([0, 1, -1, 5], {5: 0}, "found [-1] too"),
        ([0], {}, "found an empty label"),
        ([0, 1], {1: 0}, "found an empty label"),
        ([0, 4], {4: 0}, "found an empty label"),
    ],
)
def test_labels(values: list[int], label_map: dict[int, int], found: str | None) -> None:
    faults = label_faults(np.array([[values]]), label_map, PATH)
    assert len(faults) == (found is not None)
    assert all(found in fault for fault in faults)


# HU


@pytest.mark.parametrize(
    ("liver_hu", "lowest", "sound"),
    [
        (100, -1024, True),
        (-100, -1024, True),
        (300, -1, True),
        (-101, -1024, False),
        (301, -1024, False),
        (100, 0, False),
        (1124, 0, False),
    ],
)
def test_hu(liver_hu: float, lowest: float, sound: bool) -> None:
    volume = ct(lowest, liver_hu, liver_hu, 3000)
    assert bool(hu_faults(volume, np.array([[[0, 1, 2, 1]]]), PATH)) is not sound


def test_one_odd_voxel_in_the_liver_is_no_fault() -> None:
    assert hu_faults(ct(-1000, 3000, 80, 90), np.array([[[0, 1, 1, 1]]]), PATH) == []


def test_air_that_was_clipped_is_a_warning() -> None:
    assert hu_warnings(ct(-500, 80)) == []
    (warning,) = hu_warnings(ct(-160, 80, 240))
    assert "from -160 to 240 HU" in warning


def test_tumor_outside_the_liver_is_told_in_ml() -> None:
    assert outside_warnings(0, GRID) == []
    assert outside_warnings(500, GRID)[0].startswith("1.50 mL of tumor")


# Spacing


@pytest.mark.parametrize("number", GRIDS)
@pytest.mark.parametrize("direction", [GRID.direction, FLIPPED])
def test_a_lost_spacing_is_repaired_and_nothing_else(number: int, direction: tuple) -> None:
    slices, gap_mm, pixel_mm = GRIDS[number]
    lost = Geometry((slices, 512, 512), (1.0, 1.0, 1.0), (3.0, 2.0, 1.0), direction)
    checked = check_spacing(lost, f"ircadb-{number:02}")
    assert checked.geometry == replace(lost, spacing_mm=(gap_mm, pixel_mm, pixel_mm))
    assert checked.known
    assert len(checked.repairs) == 1
    assert checked.warnings == ()


@pytest.mark.parametrize(
    ("patient", "shape"),
    [
        ("ircadb-01", (128, 512, 512)),  # a slice is missing
        ("ircadb-01", (512, 129, 512)),  # other axes
        ("ircadb-01", (103, 292, 292)),  # resampled, or not: nothing tells
        ("ircadb-17", (119, 512, 512)),  # not in the table
        ("volume-5", (129, 512, 512)),  # half a meter is no field of view
        ("volume-5", (512, 512, 129)),
    ],
)
def test_a_lost_spacing_that_is_not_known_is_marked(
    patient: str, shape: tuple[int, int, int]
) -> None:
    lost = Geometry(shape, (1.0, 1.0, 1.0))
    checked = check_spacing(lost, patient)
    assert (checked.geometry, checked.known) == (lost, False)
    assert checked.warnings == (UNKNOWN_SPACING,)
    assert checked.repairs == ()


@pytest.mark.parametrize(
    ("patient", "geometry"),
    [
        ("ircadb-01", Geometry((129, 512, 512), (1.6, 0.57, 0.57))),
        ("ircadb-12", Geometry((260, 512, 512), (1.0, 0.679688, 0.679688))),
        ("volume-5", Geometry((300, 300, 200), (1.0, 1.0, 1.0))),  # resampled to 1 mm
    ],
)
def test_a_spacing_that_was_measured_stays(patient: str, geometry: Geometry) -> None:
    checked = check_spacing(geometry, patient)
    assert (checked.geometry, checked.known) == (geometry, True)
    assert (checked.repairs, checked.warnings) == ((), ())


@pytest.mark.parametrize(
    ("spacing_mm", "direction", "unusual"),
    [
        ((10.0, 5.0, 0.3), GRID.direction, False),
        ((10.1, 1.0, 1.0), GRID.direction, True),
        ((5.0, 1.0, 5.1), GRID.direction, True),
        ((5.0, 0.2, 1.0), GRID.direction, True),
        ((1.0, 8.0, 1.0), SAGITTAL, False),  # its slices lie along the second axis
        ((8.0, 1.0, 1.0), SAGITTAL, True),
    ],
)
def test_an_unusual_spacing_is_a_warning(
    spacing_mm: tuple[float, float, float], direction: tuple, unusual: bool
) -> None:
    checked = check_spacing(Geometry((40, 50, 60), spacing_mm, direction=direction), "a")
    assert bool(checked.warnings) is unusual
    assert checked.known
