"""What `compare` leaves in its output folder: report, table and picture of two dates."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from LiverTumorSegLib import __version__
from LiverTumorSegLib.acquisition import acquisition_date
from LiverTumorSegLib.comparison import (
    Comparison,
    burden_line,
    compare,
    listed,
    recist_line,
)
from LiverTumorSegLib.comparison_sheet import render_comparison
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import same_grid
from LiverTumorSegLib.growth import Growth
from LiverTumorSegLib.recist import MEANINGS
from LiverTumorSegLib.report import SEGMENTATION, aligned
from LiverTumorSegLib.result_folder import Result, read_result
from LiverTumorSegLib.staging import staged
from LiverTumorSegLib.timing import timed
from LiverTumorSegLib.volume import read_volume

REPORT, TABLE, PICTURE = "comparison.json", "comparison.csv", "comparison.png"
FILE_NAMES = (REPORT, TABLE, PICTURE)

LESION_COLUMNS = ("volume_ml", "long_axis_mm", "short_axis_mm", "mean_hu")
COLUMNS = (
    "finding",
    "match",
    "change",
    "baseline_lesion",
    "followup_lesion",
    "target",
    *(f"{date}_{name}" for name in LESION_COLUMNS for date in ("baseline", "followup")),
    "finding_baseline_volume_ml",
    "finding_followup_volume_ml",
    "volume_change_ml",
    "volume_change_percent",
    "volume_uncertainty_ml",
    "long_axis_change_mm",
    "long_axis_change_percent",
    "product_change_percent",
)

LIVER_ONLY = (
    "This is of the liver alone; lesions elsewhere and non-target lesions are the reader's to "
    "judge. With two dates the baseline stands for the smallest sum so far (nadir), which another "
    "date may have had."
)
DEFINITIONS = {
    "finding": "what is one over time: a lesion at each date, or several that split or merged",
    "match": (
        "by the livers' registration: a third or more of either lesion lies in the other, else the "
        "nearest with a gap of at most 5 mm, one to one"
    ),
    "change": (
        "of the finding: grown or shrunk beyond volume_uncertainty_ml, else stable; new, gone; "
        "not shown: the other scan does not reach it"
    ),
    "volume_uncertainty_ml": (
        "root of the summed squares of the lesions' own uncertainties (volume_uncertainty_percent "
        "in their reports) at both dates: two standard deviations, for the voxels' size alone"
    ),
    "finding_volume_ml": "sum over the finding's lesions at a date, as are the changes",
    "sum_mm": "RECIST 1.1: sum of the longest axial diameters of the targets",
    "product_mm2": "WHO: sum over the targets of long times short axis",
    "target": (
        "10 mm or longer in slices of at most 5 mm, else twice the slice distance; the longest "
        "two in the liver"
    ),
    "response": (
        "RECIST 1.1: PD from +20 % and +5 mm of the sum or by a new lesion of measurable size, PR "
        "from -30 %, CR without any lesion, else SD"
    ),
    "dice": "overlap of the two livers after registration, where both scans show",
    "surface_distance_mm": "mean distance of the livers' surfaces after registration",
    "matrix": "LPS mm at the baseline to LPS mm at the follow-up",
}
_DECIMALS = {"ml": 4, "mm": 2, "mm2": 2, "percent": 2, "hu": 2}
_ROWS_SHOWN = 20


def run_comparison(
    baseline: Path,
    followup: Path,
    outdir: Path,
    targets: tuple[int, ...] | None = None,
    baseline_ct: Path | None = None,
    followup_ct: Path | None = None,
) -> Comparison:
    """Compare two folders of results; `outdir` gets all of FILE_NAMES at once or none.

    Args:
        baseline: OUTDIR of the earlier CT.
        followup: that of the later one.
        outdir: made if it does not exist.
        targets: the reader's target lesions of the baseline; None: propose.
        baseline_ct: the CT itself, for the picture; without it only outlines are drawn.
        followup_ct: the same of the other date.

    Raises:
        InputError: a folder, a CT or the targets cannot be used, or the livers do not fit.
        ResourceError: a file could not be written whole.
    """
    if baseline.resolve() == followup.resolve():
        raise InputError(
            f"{baseline}: expected two folders of results, found one given twice. Give the "
            "baseline's first and the follow-up's second."
        )
    timings_s: dict[str, float] = {}
    with timed(timings_s, "read"):
        results = read_result(baseline), read_result(followup)
        cts = [
            None if path is None else _hu(path, result)
            for path, result in zip((baseline_ct, followup_ct), results, strict=True)
        ]
    with staged(outdir, FILE_NAMES) as folder:
        with timed(timings_s, "compare"):
            comparison = compare(*results, targets)
            late = _wrong_order(baseline_ct, followup_ct)
            comparison = replace(comparison, warnings=(*late, *comparison.warnings))
        with timed(timings_s, "write_table"):
            write_table(folder / TABLE, comparison)
        with timed(timings_s, "write_picture"):
            render_comparison(comparison, cts[0], cts[1]).save(folder / PICTURE)
        text = json.dumps(report_of(comparison, timings_s), indent=2, allow_nan=False)
        (folder / REPORT).write_text(text + "\n", encoding="utf-8")
    return comparison


def _hu(path: Path, result: Result) -> np.ndarray:
    """The CT's HU, if it is the one that the result is of."""
    volume = read_volume(path)
    if not same_grid(volume.geometry, result.geometry):
        raise InputError(
            f"{path}: expected the CT of {result.input}, on the grid of its {SEGMENTATION}, found "
            f"another grid of {'x'.join(map(str, volume.geometry.shape[::-1]))} voxels. Choose the "
            "CT that was segmented."
        )
    return volume.hu


def _wrong_order(baseline_ct: Path | None, followup_ct: Path | None) -> tuple[str, ...]:
    """A warning if both CTs tell their dates and the follow-up is the earlier one."""
    dates = [path and acquisition_date(path) for path in (baseline_ct, followup_ct)]
    if dates[0] and dates[1] and dates[0] > dates[1]:
        return (
            "By their DICOM dates the follow-up was acquired before the baseline: were the two "
            "exchanged?",
        )
    return ()


def report_of(comparison: Comparison, timings_s: dict[str, float]) -> dict[str, Any]:
    """The content of comparison.json."""
    registration, response = comparison.registration, comparison.response
    return {
        "version": __version__,
        "not_for_clinical_use": True,
        "baseline": _result_report(comparison.baseline),
        "followup": _result_report(comparison.followup),
        "burden_change_percent_points": round(
            comparison.followup.measurement.tumor_burden_percent
            - comparison.baseline.measurement.tumor_burden_percent,
            4,
        ),
        "registration": {
            "dice": round(registration.dice, 4),
            "surface_distance_mm": round(registration.surface_distance_mm, 2),
            "stretches": [round(value, 4) for value in registration.stretches],
            "rotation_degrees": round(registration.rotation_degrees, 2),
            "matrix": registration.matrix.tolist(),
        },
        "findings": [
            _finding_report(number, growth, comparison)
            for number, growth in enumerate(comparison.growths, start=1)
        ],
        "recist_1_1": {
            "response": response.response,
            "meaning": MEANINGS[response.response],
            "target_response": response.target_response,
            "targets": list(response.targets),
            "targets_chosen_by": "proposal" if response.proposed else "reader",
            "baseline_sum_mm": _rounded("mm", response.baseline_sum_mm),
            "followup_sum_mm": _rounded("mm", response.followup_sum_mm),
            **_changes("sum", response.baseline_sum_mm, response.followup_sum_mm, "mm"),
            "remarks": [*response.remarks, LIVER_ONLY],
        },
        "who": {
            "baseline_product_mm2": _rounded("mm2", response.baseline_product_mm2),
            "followup_product_mm2": _rounded("mm2", response.followup_product_mm2),
            **_changes(
                "product", response.baseline_product_mm2, response.followup_product_mm2, "mm2"
            ),
        },
        "warnings": list(comparison.warnings),
        "timings_s": {stage: round(s, 3) for stage, s in timings_s.items()},
        "definitions": DEFINITIONS,
    }


def _result_report(result: Result) -> dict[str, Any]:
    return {
        "input": result.input,
        "version": result.version,
        "models": result.models,
        "spacing_zyx_mm": list(result.geometry.spacing_mm),
        "liver_volume_ml": result.measurement.liver_volume_ml,
        "tumor_volume_ml": result.measurement.tumor_volume_ml,
        "tumor_burden_percent": result.measurement.tumor_burden_percent,
        "lesions": len(result.measurement.lesions),
    }


def _finding_report(number: int, growth: Growth, comparison: Comparison) -> dict[str, Any]:
    before, after, finding = growth.baseline, growth.followup, growth.finding
    return {
        "finding": number,
        "match": finding.match,
        "change": growth.change,
        "baseline_lesions": list(finding.baseline),
        "followup_lesions": list(finding.followup),
        "target": bool(set(finding.baseline) & set(comparison.response.targets)),
        "baseline_volume_ml": _rounded("ml", before.volume_ml),
        "followup_volume_ml": _rounded("ml", after.volume_ml),
        **_changes("volume", before.volume_ml, after.volume_ml, "ml"),
        "volume_uncertainty_ml": _rounded("ml", growth.uncertainty_ml),
        "baseline_long_axis_mm": _rounded("mm", before.long_axis_mm),
        "followup_long_axis_mm": _rounded("mm", after.long_axis_mm),
        **_changes("long_axis", before.long_axis_mm, after.long_axis_mm, "mm"),
        "baseline_product_mm2": _rounded("mm2", before.product_mm2),
        "followup_product_mm2": _rounded("mm2", after.product_mm2),
        **_changes("product", before.product_mm2, after.product_mm2, "mm2"),
    }


def _changes(name: str, before: float | None, after: float | None, unit: str) -> dict[str, Any]:
    """NAME_change_UNIT and NAME_change_percent; None where there is none to tell."""
    change = None if before is None or after is None else after - before
    return {
        f"{name}_change_{unit}": _rounded(unit, change),
        f"{name}_change_percent": percent_of(before, after),
    }


def percent_of(before: float | None, after: float | None) -> float | None:
    """A change in percent of what was before; None without a number or from 0.

    >>> percent_of(20.0, 25.0), percent_of(0.0, 25.0)
    (25.0, None)
    """
    if not before or after is None:
        return None
    return _rounded("percent", 100 * (after - before) / before)


def _rounded(unit: str, value: float | None) -> float | None:
    return None if value is None else round(value, _DECIMALS[unit])


def write_table(path: Path, comparison: Comparison) -> None:
    """Write comparison.csv: one row a pair of lesions, or a lesion without a partner.

    The columns up to the lesions' mean HU are of the pair, the rest of the finding that it belongs
    to. What a lesion without a partner lacks is empty; yes and no are 1 and 0.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for number, growth in enumerate(comparison.growths, start=1):
            table.writerows(_rows(number, growth, comparison))


def _rows(number: int, growth: Growth, comparison: Comparison) -> Iterator[dict[str, Any]]:
    told = _finding_report(number, growth, comparison)
    told["finding_baseline_volume_ml"] = told.pop("baseline_volume_ml")
    told["finding_followup_volume_ml"] = told.pop("followup_volume_ml")
    of_finding = {name: told[name] for name in COLUMNS if name in told}
    for one, other in growth.finding.links:
        yield {
            **of_finding,
            "target": int(one in comparison.response.targets),
            **_lesion_cells("baseline", comparison.baseline, one),
            **_lesion_cells("followup", comparison.followup, other),
        }


def _lesion_cells(date: str, result: Result, number: int | None) -> dict[str, Any]:
    """The cells of a row that tell of one lesion, if there is one."""
    if number is None:
        return {}
    lesion = result.measurement.lesions[number - 1]
    sizes = {f"{date}_{name}": getattr(lesion, name) for name in LESION_COLUMNS}
    return {f"{date}_lesion": number, **sizes}


def comparison_text(comparison: Comparison) -> str:
    """The result for a terminal, in ASCII: RECIST, burden and a table of the findings."""
    lines = [recist_line(comparison), burden_line(comparison)]
    head = ("finding", "lesions", "change", "volume mL", "long axis mm")
    rows = [
        (
            str(number),
            f"{listed(growth.finding.baseline)} -> {listed(growth.finding.followup)}",
            growth.change,
            f"{growth.baseline.volume_ml:.2f} -> {growth.followup.volume_ml:.2f}",
            f"{growth.baseline.long_axis_mm:.1f} -> {growth.followup.long_axis_mm:.1f}",
        )
        for number, growth in enumerate(comparison.growths[:_ROWS_SHOWN], start=1)
    ]
    rest = len(comparison.growths) - len(rows)
    more = [f"... and {rest} more, in {TABLE}"] if rest > 0 else []
    table = ["", *aligned([head, *rows]), *more] if rows else []
    return "\n".join([*lines, *table, "", *comparison.response.remarks, LIVER_ONLY])
