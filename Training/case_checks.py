"""What can be wrong with one labeled CT: faults forbid its use, warnings do not.

Every check returns messages; those of a fault name the file, what was expected, what was found and
what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from LiverTumorSegLib.geometry import Geometry, same_grid
from LiverTumorSegLib.labels import BACKGROUND, LIVER, TUMOR
from LiverTumorSegLib.measure import axial_axis
from LiverTumorSegLib.volume import Volume
from Training.ircadb import lost_spacing, true_spacing_mm
from Training.read_source import label_values

# Of the liver's median: wide enough for any fat, iron and contrast, not for values off by 1024.
LIVER_HU = (-100.0, 300.0)
AIR_HU = -500.0
PIXEL_MM, GAP_MM = (0.3, 5.0), (0.3, 10.0)
UNKNOWN_SPACING = (
    "the true spacing is not known (the file says 1 mm along every axis): volumes and distances in "
    "mm are wrong"
)
KNOWN_LABELS = (BACKGROUND, LIVER, TUMOR)


@dataclass(frozen=True)
class Spacing:
    """A CT's grid after the check of its spacing.

    Attributes:
        geometry: with the true spacing where that is known.
        known: whether lengths and volumes in mm and mL can be believed.
        repairs: what was mended.
        warnings: what could not be.
    """

    geometry: Geometry
    known: bool
    repairs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def grid_faults(ct: Geometry, label: Geometry, path: Path) -> list[str]:
    """A label on another grid than its CT."""
    if same_grid(ct, label):
        return []
    if ct.shape != label.shape:
        return [
            f"{path}: expected the CT's shape {ct.shape} (z, y, x), found {label.shape}. Choose "
            "the label that was drawn on this CT."
        ]
    differing = [
        f"{name} {ours} instead of {theirs}"
        for (name, ours), (_, theirs) in zip(placed(label), placed(ct), strict=True)
        if ours != theirs
    ]
    return [
        f"{path}: expected the CT's position, spacing and orientation, found "
        f"{', '.join(differing)}. Resample the label to the CT's grid; or, if only its header is "
        "wrong, copy the CT's header."
    ]


def placed(grid: Geometry) -> list[tuple[str, list[float]]]:
    """What places a grid, rounded for a message."""
    parts = (
        ("spacing", grid.spacing_mm),
        ("origin", grid.origin_mm),
        ("direction", np.ravel(grid.direction)),
    )
    return [(name, np.round(values, 3).tolist()) for name, values in parts]


def label_faults(labels: np.ndarray, label_map: dict[int, int], path: Path) -> list[str]:
    """Values that no mapping covers, or no liver."""
    values = label_values(labels)
    unknown = [value for value in values if value not in (*KNOWN_LABELS, *label_map)]
    if unknown:
        return [
            f"{path}: expected label values 0, 1 and 2, found {unknown} too; say what they mean, "
            f"as in --label-map {unknown[0]}=1."
        ]
    if all(label_map.get(value, value) == BACKGROUND for value in values):
        return [
            f"{path}: expected a labeled liver, found an empty label. Label it, or move the case "
            "out of the folder."
        ]
    return []


def hu_faults(volume: Volume, labels: np.ndarray, path: Path) -> list[str]:
    """Intensities that are no HU of a CT with its liver where the label says."""
    lowest, median = float(volume.hu.min()), float(np.median(volume.hu[labels != BACKGROUND]))
    if lowest >= 0:
        return [
            f"{path}: expected HU, in which air and fat lie below 0, found a lowest value of "
            f"{lowest:.0f}. Convert the gray values to HU (often by adding -1024)."
        ]
    if not LIVER_HU[0] <= median <= LIVER_HU[1]:
        return [
            f"{path}: expected HU with a liver of {LIVER_HU[0]:.0f} to {LIVER_HU[1]:.0f}, found a "
            f"median of {median:.0f} in the labeled liver. Convert the gray values to HU, or check "
            "that the label belongs to this CT."
        ]
    return []


def hu_warnings(volume: Volume) -> list[str]:
    """A CT without air: clipped to a window."""
    lowest, highest = float(volume.hu.min()), float(volume.hu.max())
    if lowest <= AIR_HU:
        return []
    return [
        f"no air: values run from {lowest:.0f} to {highest:.0f} HU, as in a copy clipped to a "
        "window"
    ]


def outside_warnings(outside_voxels: int, geometry: Geometry) -> list[str]:
    """Tumor that was drawn outside the liver; it makes the liver larger."""
    if not outside_voxels:
        return []
    volume_ml = outside_voxels * geometry.voxel_ml
    return [f"{volume_ml:.2f} mL of tumor lie outside the liver's mask: counted as liver too"]


def check_spacing(geometry: Geometry, patient: str) -> Spacing:
    """Repair a spacing that was lost where the true one is known, else mark it.

    Only the spacing changes: origin and direction stay as the file has them.
    """
    if not lost_spacing(patient, geometry):
        return Spacing(geometry, known=True, warnings=spacing_warnings(geometry))
    spacing_mm = true_spacing_mm(patient, geometry)
    if spacing_mm is None:
        return Spacing(geometry, known=False, warnings=(UNKNOWN_SPACING,))
    found = " x ".join(f"{s:g}" for s in spacing_mm)
    repair = f"spacing of 1 mm along every axis: set to {found} mm (z, y, x) of 3D-IRCADb-01"
    return Spacing(replace(geometry, spacing_mm=spacing_mm), known=True, repairs=(repair,))


def spacing_warnings(geometry: Geometry) -> tuple[str, ...]:
    """A spacing that CTs of the abdomen do not have."""
    axial = axial_axis(geometry)
    limits = [GAP_MM if axis == axial else PIXEL_MM for axis in range(3)]
    if all(low <= s <= high for s, (low, high) in zip(geometry.spacing_mm, limits, strict=True)):
        return ()
    found = " x ".join(f"{s:g}" for s in geometry.spacing_mm)
    return (f"unusual spacing: {found} mm (z, y, x)",)
