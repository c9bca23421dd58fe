"""preview.png: the CT with its contours on one sheet, as a radiologist hangs it.

A row below the slices shows the largest lesions closer, with their long and short axis.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from LiverTumorSegLib import __version__
from LiverTumorSegLib.measure import Lesion, Measurement
from LiverTumorSegLib.pictures import Closeup, Pictures, draw_pictures
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
    captioned,
)
from LiverTumorSegLib.volume import Volume

COLUMNS = 4


def render_preview(
    volume: Volume, labels: np.ndarray, lesion_map: np.ndarray, measurement: Measurement
) -> Image.Image:
    """The sheet as an RGB image, for those who need no other picture; see `sheet_of`.

    Args:
        volume: the CT.
        labels: integer (z, y, x): 0 background, 1 liver, 2 tumor.
        lesion_map: int (z, y, x) as `measure` returns it.
        measurement: the numbers to print.
    """
    pictures = draw_pictures(volume, labels, lesion_map, measurement.lesions, most=COLUMNS)
    return sheet_of(pictures, volume.name, measurement)


def sheet_of(pictures: Pictures, name: str, measurement: Measurement) -> Image.Image:
    """The slices of the overview and the largest lesions, four at most, as an RGB image.

    Args:
        pictures: what to show.
        name: of the CT.
        measurement: the numbers to print.
    """
    overview = [captioned(picture.tile, [picture.place]) for picture in pictures.overview]
    closeups = [_told(closeup) for closeup in pictures.closeups[:COLUMNS]]
    rows = [overview[start : start + COLUMNS] for start in range(0, len(overview), COLUMNS)]
    return _sheet([*rows, closeups], name, measurement)


def _told(closeup: Closeup) -> Image.Image:
    lesion = closeup.lesion
    return captioned(closeup.tile, [_size(lesion), f"{_hu(lesion)}, {closeup.place}"])


def _size(lesion: Lesion) -> str:
    axes = f"{lesion.long_axis_mm:.1f} x {lesion.short_axis_mm:.1f} mm"
    return f"Tumor {lesion.lesion}: {axes}, {lesion.volume_ml:.1f} mL"


def _hu(lesion: Lesion) -> str:
    return f"{lesion.mean_hu:.0f} \u00b1 {lesion.sd_hu:.0f} HU"


def _sheet(rows: list[list[Image.Image]], name: str, measurement: Measurement) -> Image.Image:
    """Tiles in rows between a headline and a legend."""
    head, foot = 34, 30
    heights = [max(tile.height for tile in row) + GAP if row else 0 for row in rows]
    width = COLUMNS * (TILE_SIZE[0] + GAP) + GAP
    sheet = Image.new("RGB", (width, head + sum(heights) + foot))
    top = head
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (GAP + column * (TILE_SIZE[0] + GAP), top))
        top += height
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(17), ImageFont.load_default(13)
    draw.text((GAP, head / 2), _headline(name, measurement), TEXT_RGB, large, "lm")
    draw.text((width - GAP, head / 2), "Not for clinical use", ALERT_RGB, large, "rm")
    middle = sheet.height - foot / 2 - GAP / 2
    x: float = GAP
    legend = (
        ("liver", LIVER_RGB),
        ("tumor, with its row in lesions.csv", TUMOR_RGB),
        ("long and short axis", AXIS_RGB),
    )
    for text, color in legend:
        draw.line([(x, middle), (x + 24, middle)], color, 3)
        draw.text((x + 30, middle), text, TEXT_RGB, small, "lm")
        x += 30 + small.getlength(text) + 24
    notes = (
        f"W {WINDOW_HU} L {LEVEL_HU} HU    R: the patient's right    bar: {BAR_MM:.0f} mm    "
        f"LiverTumorSeg {__version__}"
    )
    draw.text((width - GAP, middle), notes, DIM_RGB, small, "rm")
    return sheet


def _headline(name: str, measurement: Measurement) -> str:
    name = name if len(name) <= 40 else f"{name[:37]}..."
    if measurement.liver_volume_ml == 0:
        return f"{name}    No liver found."
    liver = f"{name}    Liver with tumors {measurement.liver_volume_ml:.0f} mL"
    count = len(measurement.lesions)
    if count == 0:
        return f"{name}    Liver {measurement.liver_volume_ml:.0f} mL    No tumor found."
    return (
        f"{liver}    {count} tumor{'s' if count > 1 else ''} {measurement.tumor_volume_ml:.1f} mL"
        f"    burden {measurement.tumor_burden_percent:.1f} %"
    )
