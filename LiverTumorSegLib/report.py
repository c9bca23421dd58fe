"""What a run leaves in its output folder: label map, segmentation, table, report and pictures."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from LiverTumorSegLib import __version__
from LiverTumorSegLib.measure import COLUMNS, Lesion, Measurement
from LiverTumorSegLib.nifti import write_nifti
from LiverTumorSegLib.page import CLOSEUPS, render_page
from LiverTumorSegLib.pictures import draw_pictures
from LiverTumorSegLib.preview import sheet_of
from LiverTumorSegLib.seg_nrrd import write_segmentation
from LiverTumorSegLib.timing import timed
from LiverTumorSegLib.volume import Volume, write_labels

if TYPE_CHECKING:
    from LiverTumorSegLib.segmentation import Segmentation

LABELS, SEGMENTATION = "labels.nii.gz", "segmentation.seg.nrrd"
TABLE, REPORT, PAGE, PREVIEW = "lesions.csv", "report.json", "report.html", "preview.png"
PROBABILITIES = ("liver_probability.nii.gz", "tumor_probability.nii.gz")
DICOM_SEG, DICOM_REPORT = "segmentation.dcm", "report.dcm"
FILE_NAMES = (
    *(LABELS, SEGMENTATION, TABLE, REPORT, PAGE, PREVIEW),
    *PROBABILITIES,
    *(DICOM_SEG, DICOM_REPORT),
)
SCHEMA = 1  # of report.json, told by report.schema.json; another one reads otherwise

DEFINITIONS = {
    "liver": "liver with its tumors",
    "volume_ml": "voxel count times voxel volume",
    "long_axis_mm": "greatest distance of two voxel centers of the lesion in one axial slice",
    "short_axis_mm": (
        "longest chord perpendicular to the long axis, in its slice, of the convex outline through "
        "the lesion's voxel centers"
    ),
    "long_axis_ends_mm": "LPS patient space, as short_axis_ends_mm",
    "sd_hu": "population standard deviation",
    "p5_hu": "5th percentile over the lesion's voxels, as p95_hu the 95th",
    "liver.mean_hu": "over the liver's voxels outside of tumors, as liver.sd_hu",
    "feret_mm": "greatest distance of two voxel centers of the lesion in any direction",
    "equivalent_sphere_mm": "diameter of the ball of the same volume",
    "surface_mm2": "area by Crofton's formula, as SimpleITK estimates it",
    "sphericity": "surface of the ball of the same volume / surface",
    "volume_uncertainty_percent": (
        "100 times the sum over the axes of (voxel spacing / equivalent sphere)^2: two standard "
        "deviations, for balls, of the error that counting voxels makes; that of the outline comes "
        "on top"
    ),
    "couinaud": "shares of the lesion's voxels in the given map of liver segments; empty without",
    "mean_probability": "of the tumor network, over the lesion's voxels; empty without its map",
    "confidence": (
        "how likely the lesion touches a true one, from mean_probability and volume, fitted on "
        "cases not seen in training; empty without a map, or where the weights cannot tell"
    ),
    "surface_distance_mm": (
        "smallest distance between the centers of a voxel of the lesion and an outermost voxel of "
        "the liver; 0: the lesion reaches the surface"
    ),
    "touches_edge": "whether a voxel of the lesion lies on a face of the CT",
    "centroid": "LPS patient space",
    "burden_percent": "volume as a percentage of the liver volume",
    "lesion": "connected by faces, edges or corners (26 neighbors), numbered by volume",
}
_ROWS_SHOWN = 20
_DECIMALS = {
    "ml": 4,
    "mm": 2,
    "mm2": 1,
    "hu": 2,
    "percent": 4,
    "probability": 3,
    "confidence": 3,
    "sphericity": 3,
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What a report says of how its numbers were made.

    Attributes:
        input: the CT's file or folder name, without the path, which may tell of the patient.
        models: for each target ("liver", "tumor") its `checkpoint.identity`; none where somebody
            else marked liver and tumors.
        device: where the networks ran, or None.
        segmentation: the name of the file in which somebody marked them, or None.
    """

    input: str
    models: dict[str, dict[str, Any]]
    device: str | None
    segmentation: str | None


def write_outputs(
    folder: Path,
    run: Run,
    volume: Volume,
    segmentation: Segmentation,
    measurement: Measurement,
    lesion_map: np.ndarray,
) -> dict[str, float]:
    """Write every output of a run.

    Args:
        folder: an existing one; `staging.staged` makes the files appear at once.
        run: how the numbers were made.
        volume: the CT.
        segmentation: labels, warnings and timings; probabilities are written if it has them.
        measurement: the numbers of these labels.
        lesion_map: int (z, y, x) as `measure` returns it.

    Returns:
        Seconds by stage: the segmentation's, then those of the files.

    Raises:
        OSError: a file could not be written whole; `staged` says so to the user.
        ResourceError: the same, of the labels.
    """
    labels, geometry = segmentation.labels, volume.geometry
    timings_s = dict(segmentation.timings_s)
    with timed(timings_s, "write_labels"):
        write_labels(folder / LABELS, labels, geometry)
    with timed(timings_s, "write_segmentation"):
        write_segmentation(folder / SEGMENTATION, labels, lesion_map, geometry)
    with timed(timings_s, "write_table"):
        write_table(folder / TABLE, measurement.lesions)
    with timed(timings_s, "draw"):
        pictures = draw_pictures(volume, labels, lesion_map, measurement.lesions, CLOSEUPS)
    with timed(timings_s, "write_preview"):
        sheet_of(pictures, volume.name, measurement).save(folder / PREVIEW)
    probabilities = (segmentation.liver_probability, segmentation.tumor_probability)
    for name, probability in zip(PROBABILITIES, probabilities, strict=True):
        if probability is not None:
            with timed(timings_s, f"write_{name.partition('.')[0]}"):
                write_nifti(folder / name, probability, np.float32, geometry)
    with timed(timings_s, "write_page"):
        report = report_of(run, volume, segmentation, measurement, timings_s)
        page = render_page(report, geometry, measurement, pictures)
        # Names of files may hold bytes that are no letters.
        (folder / PAGE).write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    # Last, because it tells how long the others took.
    report = report_of(run, volume, segmentation, measurement, timings_s)
    text = json.dumps(report, indent=2, allow_nan=False)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")
    return timings_s


def write_table(path: Path, lesions: tuple[Lesion, ...]) -> None:
    """Write lesions.csv: one row a lesion, largest first; only the column names without lesions.

    A cell without a number is empty, yes and no are 1 and 0.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(map(table_row, lesions))


def table_row(lesion: Lesion) -> dict[str, Any]:
    """A lesion's cells in a table by column, and further fields."""
    return {**row_of(lesion), "touches_edge": int(lesion.touches_edge)}


def row_of(lesion: Lesion) -> dict[str, Any]:
    """A lesion's fields by name, rounded: 0.0001 mL and %, 0.01 mm and HU, 0.001 of probability."""
    return {name: _rounded(name, value) for name, value in dataclasses.asdict(lesion).items()}


def report_of(
    run: Run,
    volume: Volume,
    segmentation: Segmentation,
    measurement: Measurement,
    timings_s: dict[str, float],
) -> dict[str, Any]:
    """The content of report.json."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        "not_for_clinical_use": True,
        "input": run.input,
        "segmentation": run.segmentation,
        "shape_zyx": list(volume.geometry.shape),
        "spacing_zyx_mm": list(volume.geometry.spacing_mm),
        "models": run.models,
        "device": run.device,
        "computed_by": segmentation.computed_by,
        "liver": {
            "volume_ml": _rounded("volume_ml", measurement.liver_volume_ml),
            "mean_hu": _rounded("mean_hu", measurement.liver_mean_hu),
            "sd_hu": _rounded("sd_hu", measurement.liver_sd_hu),
        },
        "tumor_volume_ml": _rounded("volume_ml", measurement.tumor_volume_ml),
        "tumor_burden_percent": _rounded("burden_percent", measurement.tumor_burden_percent),
        "lesions": [row_of(lesion) for lesion in measurement.lesions],
        "warnings": list(segmentation.warnings),
        "repairs": list(volume.repairs),
        "timings_s": {stage: round(s, 3) for stage, s in timings_s.items()},
        "definitions": DEFINITIONS,
    }


def summary_of(measurement: Measurement) -> str:
    """The result in one line.

    >>> summary_of(Measurement(1500.0, 0.0, 0.0, ()))
    'Liver 1500.0 mL. No tumor found.'
    """
    if measurement.liver_volume_ml == 0:
        return "No liver found."
    liver = f"Liver {measurement.liver_volume_ml:.1f} mL"
    count = len(measurement.lesions)
    if count == 0:
        return f"{liver}. No tumor found."
    tumors = f"{count} tumor{'s' if count > 1 else ''}, {measurement.tumor_volume_ml:.1f} mL"
    return f"{liver}. {tumors}, burden {measurement.tumor_burden_percent:.1f} %."


def table_text(measurement: Measurement) -> str:
    """The result for a terminal, in ASCII: the summary and a table of the largest lesions."""
    if not measurement.lesions:
        return summary_of(measurement)
    head = ("tumor", "volume mL", "long x short axis mm", "HU mean +/- SD", "burden %")
    rows = [
        (
            str(lesion.lesion),
            f"{lesion.volume_ml:.2f}",
            f"{lesion.long_axis_mm:.1f} x {lesion.short_axis_mm:.1f}",
            f"{lesion.mean_hu:.0f} +/- {lesion.sd_hu:.0f}",
            f"{lesion.burden_percent:.2f}",
        )
        for lesion in measurement.lesions[:_ROWS_SHOWN]
    ]
    rest = len(measurement.lesions) - len(rows)
    more = [f"... and {rest} smaller, in {TABLE}"] if rest else []
    return "\n".join([summary_of(measurement), "", *aligned([head, *rows]), *more])


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines of columns, the last cell of each column flush right.

    >>> aligned([("a", "long"), ("12", "x")])
    [' a  long', '12     x']
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def _rounded(name: str, value: Any) -> Any:
    """A value, or the values in nested tuples, to the decimals of the name's unit."""
    if isinstance(value, tuple):
        return [_rounded(name, item) for item in value]
    if isinstance(value, float):
        return round(value, _DECIMALS[name.rsplit("_", 1)[-1]])
    return value
