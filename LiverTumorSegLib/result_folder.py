"""A folder that `segment` or `measure` left, read back and checked."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.marked import Marked, read_marked
from LiverTumorSegLib.measure import Lesion, Measurement
from LiverTumorSegLib.report import REPORT, SEGMENTATION


@dataclass(frozen=True)
class Result:
    """What the folder tells.

    Attributes:
        input: the CT's file or folder name, as the report has it.
        version: of the program that made it.
        models: for each target the name and sha256 of its weights.
        labels: uint8 (z, y, x), 0 background, 1 liver, 2 tumor.
        geometry: their grid, that of the CT.
        lesion_map: int32 (z, y, x), each tumor voxel's lesion number.
        measurement: the numbers of the report, rounded as there.
    """

    input: str
    version: str
    models: dict[str, dict[str, str]]
    labels: np.ndarray
    geometry: Geometry
    lesion_map: np.ndarray
    measurement: Measurement


def read_result(folder: Path) -> Result:
    """Read a folder of results.

    Raises:
        InputError: it is none, is damaged, or its segmentation is not the one that was measured.
    """
    for name in (REPORT, SEGMENTATION):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: expected a folder that `segment` or `measure` made, found no {name} in "
                "it. Give the OUTDIR of a run."
            )
    report = _report(folder / REPORT)
    try:
        measurement = Measurement(
            float(report["liver"]["volume_ml"]),
            float(report["tumor_volume_ml"]),
            float(report["tumor_burden_percent"]),
            tuple(_lesion(row) for row in report["lesions"]),
        )
        said = str(report["input"]), str(report["version"]), dict(report["models"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / REPORT}: expected the report of a run with its lesions' numbers, found "
            f"one without usable {error} (made by version {report.get('version', 'unknown')}). "
            "Segment the CT again."
        ) from error
    if measurement.liver_volume_ml == 0:
        raise InputError(
            f"{folder}: expected a result with a liver, found none of {said[0]}, so there is "
            "nothing to compare. Outline the liver and `measure` again."
        )
    marked = read_marked(folder / SEGMENTATION)
    _check_measured(folder, marked, measurement)
    return Result(*said, marked.labels, marked.geometry, marked.lesion_map, measurement)


def _report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected the report of a run, found a file that cannot be read ({error}). "
            "Segment the CT again."
        ) from error
    if not isinstance(report, dict):
        raise InputError(f"{path}: expected the report of a run, found other JSON. Segment again.")
    return report


def _lesion(row: dict[str, Any]) -> Lesion:
    values = {field.name: row[field.name] for field in fields(Lesion)}
    for name in ("long_axis_ends_mm", "short_axis_ends_mm"):
        first, second = values[name]
        values[name] = (tuple(map(float, first)), tuple(map(float, second)))
    for name in ("volume_ml", "long_axis_mm", "short_axis_mm"):
        if not math.isfinite(values[name]):
            raise ValueError(f"'{name}'")
    return Lesion(**values)


def _check_measured(folder: Path, marked: Marked, measurement: Measurement) -> None:
    """Refuse a segmentation that was changed after it was measured."""
    voxel_ml = marked.geometry.voxel_ml
    found = np.bincount(marked.lesion_map.ravel())[1:] * voxel_ml
    told = [lesion.volume_ml for lesion in measurement.lesions]
    liver_ml = np.count_nonzero(marked.labels) * voxel_ml
    pairs = [(liver_ml, measurement.liver_volume_ml), *zip(found, told, strict=False)]
    same = all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-4) for a, b in pairs)
    if len(found) != len(told) or not same:
        raise InputError(
            f"{folder}: expected {REPORT} to tell of what {SEGMENTATION} holds, found "
            f"{len(told)} lesions in a liver of {measurement.liver_volume_ml:.1f} mL in the report "
            f"and {len(found)} in {liver_ml:.1f} mL in the segmentation. It was changed after it "
            "was measured: `measure` it again."
        )
