"""preview.png: the CT with its contours on one sheet, as a radiologist hangs it.

Axial slices, head first, with the patient's right on the left of the picture and front on top,
whatever the order and direction of the array's axes. Pixels are square in mm. A row below shows the
largest lesions closer, with their long and short axis.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage.measure import find_contours

from LiverTumorSegLib import __version__
from LiverTumorSegLib.components import bounding_box, lesion_boxes
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import Lesion, Measurement, axial_axis, diameters
from LiverTumorSegLib.seg_nrrd import LIVER_RGB, TUMOR_RGB
from LiverTumorSegLib.volume import Volume

WINDOW_HU, LEVEL_HU = 400, 40
COLUMNS, ROWS = 4, 2
TILE_SIZE = (340, 272)
GAP = 6
CLOSEUP_MM = 90.0
SKIN_HU = -150  # above the air of CTs that were clipped to a soft-tissue window
BAR_MM = 50.0
AXIS_RGB = (120, 220, 255)
TEXT_RGB, DIM_RGB, ALERT_RGB = (235, 235, 235), (165, 165, 165), (255, 200, 60)

Rgb = tuple[int, int, int]
Box = tuple[slice, ...]


@dataclass(frozen=True)
class DisplayAxes:
    """How array axes become slices (head first), rows (front first) and columns (right first)."""

    order: tuple[int, int, int]
    backward: tuple[bool, bool, bool]

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A view of a (z, y, x) array as (slice, row, column)."""
        steps = tuple(slice(None, None, -1 if back else 1) for back in self.backward)
        return array.transpose(self.order)[steps]

    def place(self, index: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Where (..., 3) voxel indices of an array of that shape lie in its view."""
        index = np.asarray(index, dtype=float)[..., self.order]
        last = np.array(shape)[list(self.order)] - 1
        return np.where(self.backward, last - index, index)


@dataclass(frozen=True)
class Frame:
    """A rectangle of one displayed plane and the picture it fills.

    Attributes:
        top: first row, in pixels of the plane; fractions allowed.
        left: first column.
        spacing_mm: size of the plane's pixels (row, column).
        scale: picture pixels per mm.
    """

    top: float
    left: float
    spacing_mm: tuple[float, float]
    scale: float

    def place(self, points: np.ndarray) -> np.ndarray:
        """Picture (x, y) of pixel centers (n, 2) given as (row, column)."""
        corner = np.array([self.top, self.left])
        return ((points + 0.5 - corner) * self.spacing_mm * self.scale)[:, ::-1]


def display_axes(geometry: Geometry) -> DisplayAxes:
    """The array axes closest to the patient's, turned the radiological way.

    >>> display_axes(Geometry((4, 5, 6), (1.0, 1.0, 1.0)))
    DisplayAxes(order=(0, 1, 2), backward=(True, False, False))
    """
    lps = np.array(geometry.direction)[:, ::-1]  # columns are the array axes z, y, x
    axial = axial_axis(geometry)
    a, b = (axis for axis in range(3) if axis != axial)
    upright = abs(lps[1, a]) + abs(lps[0, b]) >= abs(lps[1, b]) + abs(lps[0, a])
    row, column = (a, b) if upright else (b, a)
    return DisplayAxes(
        order=(axial, row, column),
        backward=(bool(lps[2, axial] > 0), bool(lps[1, row] < 0), bool(lps[0, column] < 0)),
    )


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
    frame = _fit(_body_box(hu[shown]), pixel_mm)
    overview, closeups = [], []
    for index in shown:
        tile = _tile(hu[index], labeled[index] > 0, lesions[index], frame)
        overview.append(_captioned(tile, [_slice_name(index, axes, volume.geometry)]))

    largest = zip(measurement.lesions[:COLUMNS], lesion_boxes(lesion_map), strict=False)
    for lesion, box in largest:
        cross = _cross(lesion_map, lesion.lesion, box, axes, volume.geometry)
        index = round(cross[0, 0])
        frame = _fit(_around(cross[:, 1:], lesion.long_axis_mm, pixel_mm), pixel_mm)
        tile = _tile(hu[index], labeled[index] > 0, lesions[index], frame)
        for axis in (cross[:2, 1:], cross[2:, 1:]):
            _draw_lines(tile, frame, [axis], AXIS_RGB, 1.2)
        caption = [_size(lesion), f"{_hu(lesion)}, {_slice_name(index, axes, volume.geometry)}"]
        closeups.append(_captioned(tile, caption))
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


def _around(points: np.ndarray, long_axis_mm: float, pixel_mm: tuple[float, float]) -> Box:
    """Rows and columns of a square around the points (n, 2), in whole pixels."""
    half_mm = max(CLOSEUP_MM, 1.5 * long_axis_mm) / 2
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return tuple(
        slice(round(c - half_mm / mm), round(c + half_mm / mm) + 1)
        for c, mm in zip(middle, pixel_mm, strict=True)
    )


def _fit(box: Box, pixel_mm: tuple[float, float]) -> Frame:
    """A tile's frame with the box in its middle, as large as fits."""
    height, width = ((b.stop - b.start) * mm for b, mm in zip(box, pixel_mm, strict=True))
    scale = min(TILE_SIZE[0] / width, TILE_SIZE[1] / height)
    top = box[0].start - (TILE_SIZE[1] / scale - height) / 2 / pixel_mm[0]
    left = box[1].start - (TILE_SIZE[0] / scale - width) / 2 / pixel_mm[1]
    return Frame(top, left, pixel_mm, scale)


def _cross(
    lesion_map: np.ndarray, number: int, box: Box, axes: DisplayAxes, geometry: Geometry
) -> np.ndarray:
    """Ends of a lesion's long and short axis, (4, 3) as (slice, row, column) of the display."""
    found = diameters(lesion_map[box] == number, geometry)
    inplane = np.array([*found.long_ends, *found.short_ends])
    index = np.insert(inplane, axes.order[0], found.slice_index, axis=1)
    return axes.place(index + [edge.start for edge in box], geometry.shape)


def _tile(hu: np.ndarray, liver: np.ndarray, lesions: np.ndarray, frame: Frame) -> Image.Image:
    """One plane with its contours, each lesion's number beside it, and the sides of the patient."""
    tile = _gray(hu, frame)
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(12)
    numbers = np.unique(lesions[lesions > 0]).tolist()
    outlines = {number: _contours(lesions == number) for number in numbers}
    _draw_lines(tile, frame, _contours(liver), LIVER_RGB, 1.2)
    _draw_lines(tile, frame, chain.from_iterable(outlines.values()), TUMOR_RGB, 1.6)
    for number, lines in outlines.items():
        points = frame.place(np.concatenate(lines))
        x, y = points[np.argmax(points[:, 0] - points[:, 1])]  # the upper right
        draw.text(
            (x + 3, y), str(number), TUMOR_RGB, font, "ls", stroke_width=2, stroke_fill="black"
        )
    width, height = TILE_SIZE
    for text, x in (("R", 4), ("L", width - 12)):
        draw.text((x, height / 2), text, TEXT_RGB, font, "lm", stroke_width=2, stroke_fill="black")
    bar = BAR_MM * frame.scale
    draw.rectangle([width - 9 - bar, height - 10, width - 7, height - 6], "black")
    draw.rectangle([width - 8 - bar, height - 9, width - 8, height - 7], TEXT_RGB)
    return tile


def _gray(hu: np.ndarray, frame: Frame) -> Image.Image:
    """The plane through the soft-tissue window, resampled into the frame; black outside."""
    low = LEVEL_HU - WINDOW_HU / 2
    window = np.clip((hu - low) * (255.0 / WINDOW_HU), 0, 255).astype(np.uint8)
    height, width = np.array(TILE_SIZE[::-1]) / frame.scale / frame.spacing_mm
    corner = (frame.top, frame.left)
    before = [max(0, int(np.ceil(-edge))) for edge in corner]
    after = [
        max(0, int(np.ceil(edge + size - n)))
        for edge, size, n in zip(corner, (height, width), hu.shape, strict=True)
    ]
    padded = np.pad(window, list(zip(before, after, strict=True)))
    left, top = frame.left + before[1], frame.top + before[0]
    cut = (left, top, min(left + width, padded.shape[1]), min(top + height, padded.shape[0]))
    return (
        Image.fromarray(padded).resize(TILE_SIZE, Image.Resampling.BICUBIC, box=cut).convert("RGB")
    )


def _contours(mask: np.ndarray) -> list[np.ndarray]:
    """Closed outlines (n, 2) of a plane's mask in (row, column)."""
    box = bounding_box(mask)
    if box is None:
        return []
    outlines = find_contours(np.pad(mask[box], 1).astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    return [outline - 1 + [edge.start for edge in box] for outline in outlines]


def _draw_lines(
    tile: Image.Image, frame: Frame, lines: Iterable[np.ndarray], color: Rgb, width: float
) -> None:
    """Draw smooth lines through (row, column) points onto the tile."""
    finer = 4
    ink = Image.new("L", (tile.width * finer, tile.height * finer))
    draw = ImageDraw.Draw(ink)
    for line in lines:
        points = [(x, y) for x, y in (frame.place(line) * finer).tolist()]
        draw.line(points, 255, round(width * finer), joint="curve")
    tile.paste(color, (0, 0), ink.resize(tile.size, Image.Resampling.BOX))


def _captioned(tile: Image.Image, lines: list[str]) -> Image.Image:
    """The tile under lines of text."""
    step, font = 16, ImageFont.load_default(13)
    whole = Image.new("RGB", (tile.width, tile.height + step * len(lines) + 4))
    whole.paste(tile, (0, whole.height - tile.height))
    draw = ImageDraw.Draw(whole)
    for row, line in enumerate(lines):
        draw.text((2, 1 + step * row), line, TEXT_RGB, font)
    return whole


def _slice_name(index: int, axes: DisplayAxes, geometry: Geometry) -> str:
    axial = axes.order[0]
    native = geometry.shape[axial] - 1 - index if axes.backward[0] else index
    middle = (np.array(geometry.shape) - 1) / 2
    middle[axial] = native
    return f"slice {native}, z {geometry.lps_of(middle)[2]:.1f} mm"


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
