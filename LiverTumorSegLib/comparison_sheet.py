"""comparison.png: what became of every finding, both dates side by side at one scale.

One row a finding: its numbers, the slice with the longest diameter of its largest lesion at the
baseline, and that at the follow-up. Where a date has no lesion, the slice that the registration
leads to. The outline that a lesion had at the other date is drawn where the registration puts it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from LiverTumorSegLib import __version__
from LiverTumorSegLib.comparison import DATES, Comparison, burden_line, listed, recist_line
from LiverTumorSegLib.growth import Growth
from LiverTumorSegLib.result_folder import Result
from LiverTumorSegLib.seg_nrrd import LIVER_RGB, TUMOR_RGB
from LiverTumorSegLib.tiles import (
    ALERT_RGB,
    AXIS_RGB,
    BAR_MM,
    DIM_RGB,
    GAP,
    LEVEL_HU,
    TEXT_RGB,
    TILE_SIZE,
    WINDOW_HU,
    DisplayAxes,
    Frame,
    around,
    captioned,
    contours_of,
    cross_of,
    display_axes,
    draw_cross,
    draw_lines,
    draw_tile,
    fit,
    slice_name,
)

ROWS = 8
TEXT_WIDTH = 300
CARRIED_RGB = (196, 140, 255)
CHANGE_RGB = {
    "new": (255, 110, 110),
    "grown": (255, 110, 110),
    "stable": TEXT_RGB,
    "shrunk": (130, 220, 130),
    "gone": (130, 220, 130),
    "not shown": DIM_RGB,
}
PLAIN_HU = np.array([-160.0, 60.0, 20.0], dtype=np.float32)
"""What stands for the CT where it is not given, by label."""


@dataclass(frozen=True)
class _Side:
    """One date, ready to be shown.

    Attributes:
        result: its labels and numbers.
        axes: how its array is displayed.
        hu: the CT, or None.
    """

    result: Result
    axes: DisplayAxes
    hu: np.ndarray | None


def render_comparison(
    comparison: Comparison, baseline_hu: np.ndarray | None, followup_hu: np.ndarray | None
) -> Image.Image:
    """The sheet as an RGB image.

    Args:
        comparison: what to show; the targets come first, then the largest, ROWS at most.
        baseline_hu: the CT's HU (z, y, x) on its labels' grid; None: outlines only.
        followup_hu: the same of the other date.
    """
    results = comparison.baseline, comparison.followup
    sides = [
        _Side(result, display_axes(result.geometry), hu)
        for result, hu in zip(results, (baseline_hu, followup_hu), strict=True)
    ]
    targets = set(comparison.response.targets)

    def first(item: tuple[int, Growth]) -> tuple[bool, float]:
        growth = item[1]
        largest = max(growth.baseline.volume_ml, growth.followup.volume_ml)
        return not targets & set(growth.finding.baseline), -largest

    shown = sorted(enumerate(comparison.growths, start=1), key=first)[:ROWS]
    rows = [
        [_told(number, growth, targets), *_tiles(growth, sides, comparison)]
        for number, growth in shown
    ]
    both = baseline_hu is not None and followup_hu is not None
    gray = f"W {WINDOW_HU} L {LEVEL_HU} HU" if both else "no CT given: outlines only"
    return _sheet(rows, comparison, gray)


def _tiles(growth: Growth, sides: list[_Side], comparison: Comparison) -> list[Image.Image]:
    """The finding at both dates, in frames of one scale."""
    numbers = growth.finding.baseline, growth.finding.followup
    lesions = [
        [side.result.measurement.lesions[n - 1] for n in found]
        for side, found in zip(sides, numbers, strict=True)
    ]
    longest_mm = max(lesion.long_axis_mm for date in lesions for lesion in date)
    ways = comparison.registration.to_baseline, comparison.registration.to_followup
    tiles = []
    for date, (side, other) in enumerate([(sides[0], sides[1]), (sides[1], sides[0])]):
        geometry, axes = side.result.geometry, side.axes
        if numbers[date]:
            cross = cross_of(lesions[date][0], axes, geometry)
        else:
            lesion = lesions[1 - date][0]
            center = np.array([lesion.centroid_x_mm, lesion.centroid_y_mm, lesion.centroid_z_mm])
            place = axes.place(geometry.index_of(ways[date](center)), geometry.shape)
            cross = np.tile(place, (4, 1))
        index = round(float(np.clip(cross[0, 0], 0, geometry.shape[axes.order[0]] - 1)))
        pixel_mm = (geometry.spacing_mm[axes.order[1]], geometry.spacing_mm[axes.order[2]])
        frame = fit(around(cross[:, 1:], longest_mm, pixel_mm), pixel_mm)
        tile = _plane(side, index, frame)
        if numbers[date]:
            draw_cross(tile, frame, cross)
        if date == 1 or not numbers[date]:
            carried = _carried(side, index, frame, other, numbers[1 - date], ways[1 - date])
            draw_lines(tile, frame, carried, CARRIED_RGB, 1.4)
        caption = f"{DATES[date].capitalize()}, {slice_name(index, axes, geometry)}"
        tiles.append(captioned(tile, [caption]))
    return tiles


def _plane(side: _Side, index: int, frame: Frame) -> Image.Image:
    """One slice of a date with its outlines."""
    labels = side.axes.apply(side.result.labels)[index]
    lesions = side.axes.apply(side.result.lesion_map)[index]
    hu = PLAIN_HU[labels] if side.hu is None else side.axes.apply(side.hu)[index]
    return draw_tile(hu, labels > 0, lesions, frame)


def _carried(
    side: _Side,
    index: int,
    frame: Frame,
    other: _Side,
    numbers: tuple[int, ...],
    to_other: Callable[[np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """Outlines (n, 2) in a slice of one date of lesions of the other, where they would lie now."""
    size = np.array(TILE_SIZE[::-1]) / frame.scale / frame.spacing_mm
    rows, columns = (
        np.arange(int(np.floor(start)), int(np.ceil(start + length)) + 1)
        for start, length in zip((frame.top, frame.left), size, strict=True)
    )
    places = np.stack(np.broadcast_arrays(index, rows[:, None], columns), axis=-1)
    geometry, there = side.result.geometry, other.result.geometry
    at = to_other(geometry.lps_of(side.axes.index(places, geometry.shape)))
    voxels = np.rint(there.index_of(at)).astype(int)
    inside = ((voxels >= 0) & (voxels < there.shape)).all(axis=-1)
    found = np.zeros(inside.shape, dtype=bool)
    found[inside] = np.isin(other.result.lesion_map[tuple(voxels[inside].T)], numbers)
    return [line + (rows[0], columns[0]) for line in contours_of(found)]


def _told(number: int, growth: Growth, targets: set[int]) -> Image.Image:
    """What became of the finding and its numbers, as tall as a tile."""
    finding, before, after = growth.finding, growth.baseline, growth.followup
    image = Image.new("RGB", (TEXT_WIDTH, TILE_SIZE[1]))
    draw = ImageDraw.Draw(image)
    large, usual = ImageFont.load_default(22), ImageFont.load_default(14)
    draw.text((4, 14), growth.change, CHANGE_RGB[growth.change], large)
    if targets & set(finding.baseline):
        draw.text((TEXT_WIDTH - 8, 18), "target", AXIS_RGB, usual, "ra")
    kind = "" if finding.match in ("one", "none") else f", {finding.match}"
    draw.text((4, 44), f"finding {number}{kind}", DIM_RGB, usual)
    table = [
        ("", *DATES, "change"),
        ("lesion", listed(finding.baseline), listed(finding.followup), ""),
        ("volume mL", *_change(before.volume_ml, after.volume_ml, 2)),
        ("long axis mm", *_change(before.long_axis_mm, after.long_axis_mm, 1)),
        ("long x short", *_change(before.product_mm2, after.product_mm2, 0)),
    ]
    for row, cells in enumerate(table):
        y = 78 + 24 * row
        draw.text((4, y), cells[0], DIM_RGB, usual)
        for cell, right in zip(cells[1:], (162, 234, TEXT_WIDTH - 8), strict=True):
            draw.text((right, y), cell, TEXT_RGB if row else DIM_RGB, usual, "ra")
    if finding.match != "none":
        limit = f"stable up to \u00b1{growth.uncertainty_ml:.2f} mL"
        draw.text((4, 78 + 24 * len(table)), limit, DIM_RGB, usual)
    return image


def _change(before: float, after: float, digits: int) -> tuple[str, ...]:
    """Both values and the change in percent, where both dates have one."""
    change = f"{round(100 * (after - before) / before):+d} %" if before and after else ""
    return tuple(f"{x:.{digits}f}" if x else "-" for x in (before, after)) + (change,)


def _sheet(rows: list[list[Image.Image]], comparison: Comparison, gray: str) -> Image.Image:
    """Rows between a headline and a legend."""
    head, foot = 86, 52
    width = TEXT_WIDTH + 2 * TILE_SIZE[0] + 4 * GAP
    heights = [max(image.height for image in row) + GAP for row in rows] or [40]
    sheet = Image.new("RGB", (width, head + sum(heights) + foot))
    draw = ImageDraw.Draw(sheet)
    large, middle = ImageFont.load_default(17), ImageFont.load_default(14)
    names = [_short(r.input) for r in (comparison.baseline, comparison.followup)]
    draw.text((GAP, 17), f"{names[0]}, then {names[1]}", TEXT_RGB, large, "lm")
    draw.text((width - GAP, 17), "Not for clinical use", ALERT_RGB, large, "rm")
    for line, y in ((recist_line(comparison), 42), (burden_line(comparison), 64)):
        draw.text((GAP, y), line, TEXT_RGB, middle, "lm")
    top = head
    if not rows:
        draw.text((GAP, head + 20), "No lesion at either date.", TEXT_RGB, middle, "lm")
    for row, height in zip(rows, heights, strict=False):
        left = GAP
        for image in row:
            sheet.paste(image, (left, top + height - GAP - image.height))
            left += image.width + GAP
        top += height
    hidden = len(comparison.growths) - len(rows)
    _legend(draw, sheet.height - foot + 14, width, hidden, comparison, gray)
    return sheet


def _legend(
    draw: ImageDraw.ImageDraw,
    y: float,
    width: int,
    hidden: int,
    comparison: Comparison,
    gray: str,
) -> None:
    small = ImageFont.load_default(12)
    x: float = GAP
    for text, color in (
        ("liver", LIVER_RGB),
        ("tumor, with its number", TUMOR_RGB),
        ("long and short axis", AXIS_RGB),
        ("outline of the other date, as registered", CARRIED_RGB),
    ):
        draw.line([(x, y), (x + 20, y)], color, 3)
        draw.text((x + 26, y), text, TEXT_RGB, small, "lm")
        x += 26 + small.getlength(text) + 18
    if hidden > 0:
        draw.text((width - GAP, y), f"and {hidden} smaller, in the table", TEXT_RGB, small, "rm")
    fit_of = comparison.registration
    notes = (
        f"Livers after registration: Dice {fit_of.dice:.2f}, surfaces "
        f"{fit_of.surface_distance_mm:.1f} mm apart    {gray}    "
        f"R: the patient's right    bar: {BAR_MM:.0f} mm    LiverTumorSeg {__version__}"
    )
    draw.text((GAP, y + 22), notes, DIM_RGB, small, "lm")


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:31]}..."
