"""preview.png: the CT with its contours on one sheet, as a radiologist hangs it.

A row below the slices shows the largest lesions closer, with their long and short axis.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from LiverTumorSegLib import __version__
from LiverTumorSegLib.components import bounding_box, lesion_boxes
from LiverTumorSegLib.measure import Lesion, Measurement
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
    Box,
    around,
    captioned,
    cross_of,
    display_axes,
    draw_lines,
    draw_tile,
    fit,
    slice_name,
)
from LiverTumorSegLib.volume import Volume

COLUMNS, ROWS = 4, 2
SKIN_HU = -150  # above the air of CTs that were clipped to a soft-tissue window


def render_preview(
    volume: Volume, labels: np.ndarray, lesion_map: np.ndarray, measurement: Measurement
) -> Image.Image:
    """The sheet as an RGB image.

    Args:
        volume: the CT.
        labels: integer (z, y, x): 0 background, 1 liver, 2 tumor.
        lesion_map: int (z, y, x) as `measure` returns it.
        measurement: the numbers to print.

    Returns:
        Eight slices, evenly through the liver (through the whole CT without one), and the largest
        lesions, four at most.
    """
    axes = display_axes(volume.geometry)
    hu, labeled, lesions = (axes.apply(a) for a in (volume.hu, labels, lesion_map))
    sizes_mm = [volume.geometry.spacing_mm[axis] for axis in axes.order]
    pixel_mm = (sizes_mm[1], sizes_mm[2])

    shown = _overview_slices(labeled)
    frame = fit(_body_box(hu[shown]), pixel_mm)
    overview, closeups = [], []
    for index in shown:
        tile = draw_tile(hu[index], labeled[index] > 0, lesions[index], frame)
        overview.append(captioned(tile, [slice_name(index, axes, volume.geometry)]))

    largest = zip(measurement.lesions[:COLUMNS], lesion_boxes(lesion_map), strict=False)
    for lesion, box in largest:
        cross = cross_of(lesion_map, lesion.lesion, box, axes, volume.geometry)
        index = round(cross[0, 0])
        frame = fit(around(cross[:, 1:], lesion.long_axis_mm, pixel_mm), pixel_mm)
        tile = draw_tile(hu[index], labeled[index] > 0, lesions[index], frame)
        for axis in (cross[:2, 1:], cross[2:, 1:]):
            draw_lines(tile, frame, [axis], AXIS_RGB, 1.2)
        caption = [_size(lesion), f"{_hu(lesion)}, {slice_name(index, axes, volume.geometry)}"]
        closeups.append(captioned(tile, caption))
    rows = [overview[start : start + COLUMNS] for start in range(0, len(overview), COLUMNS)]
    return _sheet([*rows, closeups], volume.name, measurement)


def _overview_slices(labels: np.ndarray) -> list[int]:
    """Positions of the overview's slices, in order, without repeats."""
    box = bounding_box(labels)
    extent = box[0] if box else slice(0, labels.shape[0])
    step = (extent.stop - extent.start) / (COLUMNS * ROWS)
    return sorted({extent.start + int((i + 0.5) * step) for i in range(COLUMNS * ROWS)})


def _body_box(planes: np.ndarray) -> Box:
    """Rows and columns of the patient in (n, row, column), without the table."""
    body = np.zeros(planes.shape[1:], dtype=bool)
    for plane in planes:
        parts, count = ndimage.label(ndimage.binary_opening(plane > SKIN_HU, iterations=3))
        if count:
            body |= parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return bounding_box(body) or tuple(slice(0, n) for n in planes.shape[1:])


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
