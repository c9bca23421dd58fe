"""report.html: what was found and how, on one page for a radiologist to read and print.

The page holds its pictures and its style, runs no script and asks for nothing from elsewhere; its
own policy forbids both. Every text that is not ours is escaped by the template.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import Lesion, Measurement
from LiverTumorSegLib.pictures import Closeup, Picture, Pictures
from LiverTumorSegLib.seg_nrrd import LIVER_RGB, TUMOR_RGB
from LiverTumorSegLib.tiles import (
    AXIS_RGB,
    BAR_MM,
    LEVEL_HU,
    TILE_SIZE,
    WINDOW_HU,
    Rgb,
    display_axes,
)

TEMPLATE = Path(__file__).with_name("report.html.jinja")
CLOSEUPS = 20
UNCERTAIN_PERCENT = 5
JPEG_QUALITY = 88
SHORT_HASH = 12


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        head: its name.
        unit: of its numbers, or nothing.
        cell: the text of a lesion.
        number: whether it is flush right.
        if_given: a field of lesions; if none has a value there, there is no such column.
        unless: another field; if one has a value there, the column gives way.
    """

    head: str
    unit: str
    cell: Callable[[Lesion], str]
    number: bool = True
    if_given: str = "lesion"
    unless: str | None = None


COLUMNS = (
    Column("Tumor", "", lambda lesion: str(lesion.lesion)),
    Column("Volume", "mL", lambda lesion: _hundredths(lesion.volume_ml)),
    Column("\u00b1", "%", lambda lesion: _if_uncertain(lesion.volume_uncertainty_percent)),
    Column("Long \u00d7 short axis", "mm", lambda lesion: _axes(lesion)),
    Column("Feret", "mm", lambda lesion: f"{lesion.feret_mm:.1f}"),
    Column("Mean \u00b1 SD", "HU", lambda lesion: _spread(lesion.mean_hu, lesion.sd_hu)),
    Column("Median", "HU", lambda lesion: f"{lesion.median_hu:.0f}"),
    Column(
        "Probability",
        "0 to 1",
        lambda lesion: _or_dash(lesion.mean_probability, ".2f"),
        if_given="mean_probability",
        unless="confidence",
    ),
    Column(
        "Real",
        "0 to 1",
        lambda lesion: _or_dash(lesion.confidence, ".2f"),
        if_given="confidence",
    ),
    Column("To surface", "mm", lambda lesion: _or_dash(lesion.surface_distance_mm, ".1f")),
    Column("Burden", "%", lambda lesion: _hundredths(lesion.burden_percent)),
    Column("Couinaud", "", lambda lesion: _couinaud(lesion), False, "couinaud"),
    Column("At the CT's edge", "", lambda lesion: "yes" if lesion.touches_edge else "no", False),
)


def given(lesions: Sequence[Lesion], field: str) -> bool:
    """Whether any lesion has a number there."""
    return any(getattr(lesion, field) is not None for lesion in lesions)


def render_page(
    report: dict[str, Any], geometry: Geometry, measurement: Measurement, pictures: Pictures
) -> str:
    """The page as HTML.

    Args:
        report: the content of report.json; its seconds are those known so far.
        geometry: of the CT.
        measurement: the numbers of the report, not rounded, so that they are rounded only once.
        pictures: the overview and up to CLOSEUPS lesions.
    """
    lesions = measurement.lesions
    columns = [
        column
        for column in COLUMNS
        if given(lesions, column.if_given) and not (column.unless and given(lesions, column.unless))
    ]
    totals = {
        "Tumor": "all",
        "Volume": _hundredths(measurement.tumor_volume_ml),
        "Burden": _hundredths(measurement.tumor_burden_percent),
    }
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        grid=_grid(geometry),
        figures=_figures(measurement),
        columns=columns,
        rows=[[column.cell(lesion) for column in columns] for lesion in lesions],
        total=[totals.get(column.head, "") for column in columns],
        uncertain_percent=UNCERTAIN_PERCENT,
        closeups=[_shown_closeup(closeup) for closeup in pictures.closeups],
        overview=[_shown(picture) for picture in pictures.overview],
        has_liver=measurement.liver_volume_ml > 0,
        size=TILE_SIZE,
        legend=[
            ("liver", _css(LIVER_RGB)),
            ("tumor with its number", _css(TUMOR_RGB)),
            ("long and short axis", _css(AXIS_RGB)),
        ],
        window=(WINDOW_HU, LEVEL_HU),
        bar_mm=f"{BAR_MM:.0f}",
        method=_method(report),
    )


def _grid(geometry: Geometry) -> str:
    order = display_axes(geometry).order
    slices, rows, columns = (geometry.shape[axis] for axis in order)
    apart, high, wide = (geometry.spacing_mm[axis] for axis in order)
    return (
        f"{slices} axial slices {apart:.3g} mm apart, {columns} \u00d7 {rows} pixels of "
        f"{wide:.3g} \u00d7 {high:.3g} mm"
    )


def _figures(found: Measurement) -> list[tuple[str, str]]:
    """What was found, by name."""
    if found.liver_volume_ml == 0:
        return [("Liver", "No liver found")]
    figures = [("Liver with its tumors", f"{found.liver_volume_ml:.1f} mL")]
    if found.liver_mean_hu is not None and found.liver_sd_hu is not None:
        intensity = _spread(found.liver_mean_hu, found.liver_sd_hu)
        figures.append(("Liver without them", f"{intensity} HU"))
    if not found.lesions:
        return [*figures, ("Tumors", "No tumor found")]
    return [
        *figures,
        ("Tumors", str(len(found.lesions))),
        ("All tumors", f"{_hundredths(found.tumor_volume_ml)} mL"),
        ("Burden", f"{_hundredths(found.tumor_burden_percent)} %"),
    ]


def _method(report: dict[str, Any]) -> list[tuple[str, str]]:
    """How the numbers were made, by name."""
    lines = [
        (f"{target.capitalize()} model", _model(model))
        for target, model in report["models"].items()
    ]
    if report["segmentation"] is not None:
        lines.append(("Outlines", f"as marked in {report['segmentation']}; no network ran"))
    elif not report["models"]:
        lines.append(("Outlines", "of a scene in 3D Slicer, which does not tell who made them"))
    by = [f"{stage.replace('_', ' ')} {by}" for stage, by in report["computed_by"].items()]
    if report["device"] is not None:
        lines.append(("Computed", ", ".join([*by, f"on {report['device']}"])))
    seconds = report["timings_s"]
    steps = ", ".join(f"{step.replace('_', ' ')} {s:.2f}" for step, s in seconds.items())
    lines.append(("Seconds", f"{steps}; {sum(seconds.values()):.1f} in all, without this page"))
    version = f"LiverTumorSeg {report['version']}; report.json has schema {report['schema']}"
    return [*lines, ("Version", version)]


def _model(model: dict[str, Any]) -> str:
    facts = [f"{model['name']} (sha256 {model['sha256'][:SHORT_HASH]}\u2026)"]
    if model["training_cases"] is not None:
        facts.append(f"trained on {model['training_cases']} cases")
    if model["mean_dice"] is not None:
        facts.append(f"mean Dice {model['mean_dice']:.3f} on cases that it had not seen")
    text = ", ".join(facts) + "."
    return f"{text} License: {model['license']}" if model["license"] is not None else text


def _shown_closeup(closeup: Closeup) -> dict[str, Any]:
    lesion = closeup.lesion
    intensity = f"{_spread(lesion.mean_hu, lesion.sd_hu)} HU"
    lines = [f"{_hundredths(lesion.volume_ml)} mL, {intensity}", closeup.place]
    if lesion.couinaud is not None:
        lines.append(_couinaud(lesion))
    return {**_shown(closeup), "number": lesion.lesion, "axes": _axes(lesion), "lines": lines}


def _shown(picture: Picture) -> dict[str, Any]:
    return {"place": picture.place, "source": _data_uri(picture.tile)}


def _data_uri(image: Image.Image) -> str:
    # At this quality outlines and letters are sharp, and a CT takes a third of its PNG.
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _css(rgb: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _hundredths(value: float) -> str:
    """Two decimals; what they would show as none at all is said to be less.

    >>> _hundredths(1.234), _hundredths(0.0), _hundredths(0.004)
    ('1.23', '0.00', '< 0.01')
    """
    return "< 0.01" if 0 < value < 0.005 else f"{value:.2f}"


def _if_uncertain(percent: float) -> str:
    return f"{percent:.0f}" if percent >= UNCERTAIN_PERCENT else ""


def _axes(lesion: Lesion) -> str:
    return f"{lesion.long_axis_mm:.1f} \u00d7 {lesion.short_axis_mm:.1f}"


def _couinaud(lesion: Lesion) -> str:
    """The segments, each of which stays with its share when the line is full."""
    shares = (lesion.couinaud or "\u2013").split(", ")
    return ", ".join(share.replace(" ", "\u00a0") for share in shares)


def _spread(mean: float, sd: float) -> str:
    return f"{mean:.0f} \u00b1 {sd:.0f}"


def _or_dash(value: float | None, form: str) -> str:
    return "\u2013" if value is None else format(value, form)
