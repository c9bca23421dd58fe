"""A slice of a CT as a picture: gray values, outlines, diameters, the patient's sides and a scale.

Axial slices, head first, with the patient's right on the left of the picture and front on top,
whatever the order and direction of the array's axes. Pixels are square in mm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours

from LiverTumorSegLib.components import bounding_box
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import Lesion, axial_axis
from LiverTumorSegLib.seg_nrrd import LIVER_RGB, TUMOR_RGB

WINDOW_HU, LEVEL_HU = 400, 40
TILE_SIZE = (340, 272)
GAP = 6
CLOSEUP_MM = 90.0
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

    def index(self, place: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """The (..., 3) voxel indices of places in a view, the inverse of `place`."""
        last = np.array(shape)[list(self.order)] - 1
        ordered = np.where(self.backward, last - place, place)
        return np.asarray(ordered[..., np.argsort(self.order)])


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


def around(points: np.ndarray, long_axis_mm: float, pixel_mm: tuple[float, float]) -> Box:
    """Rows and columns of a square around the points (n, 2), in whole pixels."""
    half_mm = max(CLOSEUP_MM, 1.5 * long_axis_mm) / 2
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return tuple(
        slice(round(c - half_mm / mm), round(c + half_mm / mm) + 1)
        for c, mm in zip(middle, pixel_mm, strict=True)
    )


def fit(box: Box, pixel_mm: tuple[float, float]) -> Frame:
    """A tile's frame with the box in its middle, as large as fits."""
    height, width = ((b.stop - b.start) * mm for b, mm in zip(box, pixel_mm, strict=True))
    scale = min(TILE_SIZE[0] / width, TILE_SIZE[1] / height)
    top = box[0].start - (TILE_SIZE[1] / scale - height) / 2 / pixel_mm[0]
    left = box[1].start - (TILE_SIZE[0] / scale - width) / 2 / pixel_mm[1]
    return Frame(top, left, pixel_mm, scale)


def cross_of(lesion: Lesion, axes: DisplayAxes, geometry: Geometry) -> np.ndarray:
    """Ends of a lesion's long and short axis, (4, 3) as (slice, row, column) of the display."""
    ends_mm = np.array([*lesion.long_axis_ends_mm, *lesion.short_axis_ends_mm])
    return axes.place(geometry.index_of(ends_mm), geometry.shape)


def draw_cross(tile: Image.Image, frame: Frame, cross: np.ndarray) -> None:
    """Draw both axes, as `cross_of` gives them, onto the tile of their slice."""
    draw_lines(tile, frame, [cross[:2, 1:], cross[2:, 1:]], AXIS_RGB, 1.2)


def draw_tile(hu: np.ndarray, liver: np.ndarray, lesions: np.ndarray, frame: Frame) -> Image.Image:
    """One plane with its contours, each lesion's number beside it, and the sides of the patient."""
    tile = _gray(hu, frame)
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(12)
    numbers = np.unique(lesions[lesions > 0]).tolist()
    outlines = {number: contours_of(lesions == number) for number in numbers}
    draw_lines(tile, frame, contours_of(liver), LIVER_RGB, 1.2)
    draw_lines(tile, frame, chain.from_iterable(outlines.values()), TUMOR_RGB, 1.6)
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


def contours_of(mask: np.ndarray) -> list[np.ndarray]:
    """Closed outlines (n, 2) of a plane's mask in (row, column)."""
    box = bounding_box(mask)
    if box is None:
        return []
    outlines = find_contours(np.pad(mask[box], 1).astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    return [outline - 1 + [edge.start for edge in box] for outline in outlines]


def draw_lines(
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


def captioned(tile: Image.Image, lines: list[str]) -> Image.Image:
    """The tile under lines of text."""
    step, font = 16, ImageFont.load_default(13)
    whole = Image.new("RGB", (tile.width, tile.height + step * len(lines) + 4))
    whole.paste(tile, (0, whole.height - tile.height))
    draw = ImageDraw.Draw(whole)
    for row, line in enumerate(lines):
        draw.text((2, 1 + step * row), line, TEXT_RGB, font)
    return whole


def slice_name(index: int, axes: DisplayAxes, geometry: Geometry) -> str:
    """What a slice of the display is called: its index in the file and its middle's place."""
    axial = axes.order[0]
    native = geometry.shape[axial] - 1 - index if axes.backward[0] else index
    middle = (np.array(geometry.shape) - 1) / 2
    middle[axial] = native
    return f"slice {native}, z {geometry.lps_of(middle)[2]:.1f} mm"
