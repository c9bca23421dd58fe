"""What pictures show of a labeled CT: slices through the liver, and the largest lesions closer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from LiverTumorSegLib.components import bounding_box
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import Lesion
from LiverTumorSegLib.tiles import (
    Box,
    DisplayAxes,
    Frame,
    around,
    cross_of,
    display_axes,
    draw_cross,
    draw_tile,
    fit,
    slice_name,
)
from LiverTumorSegLib.volume import Volume

OVERVIEW = 8
SKIN_HU = -150  # above the air of CTs that were clipped to a soft-tissue window


@dataclass(frozen=True)
class Picture:
    """A slice with outlines: an RGB image of TILE_SIZE, and where it is ("slice 3, z 1.5 mm")."""

    tile: Image.Image
    place: str


@dataclass(frozen=True)
class Closeup(Picture):
    """The slice of a lesion's long axis, around the lesion, with both axes."""

    lesion: Lesion


@dataclass(frozen=True)
class Pictures:
    """The slices, head first, and the lesions, the largest first."""

    overview: tuple[Picture, ...]
    closeups: tuple[Closeup, ...]


@dataclass(frozen=True)
class _Display:
    """A labeled CT as it is shown: arrays (slice, row, column)."""

    axes: DisplayAxes
    geometry: Geometry
    hu: np.ndarray
    labels: np.ndarray
    lesions: np.ndarray

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Size of a pixel (row, column)."""
        row, column = self.axes.order[1:]
        return self.geometry.spacing_mm[row], self.geometry.spacing_mm[column]

    def draw(self, index: int, frame: Frame) -> tuple[Image.Image, str]:
        """A slice and where it is."""
        tile = draw_tile(self.hu[index], self.labels[index] > 0, self.lesions[index], frame)
        return tile, slice_name(index, self.axes, self.geometry)


def draw_pictures(
    volume: Volume,
    labels: np.ndarray,
    lesion_map: np.ndarray,
    lesions: Iterable[Lesion],
    most: int,
) -> Pictures:
    """Draw a labeled CT.

    Args:
        volume: the CT.
        labels: integer (z, y, x): 0 background, 1 liver, 2 tumor.
        lesion_map: int (z, y, x) as `measure` returns it.
        lesions: their numbers.
        most: how many lesions to draw at most.

    Returns:
        Eight slices, evenly through the liver (through the whole CT without one), and the largest
        lesions.
    """
    axes = display_axes(volume.geometry)
    arrays = (axes.apply(array) for array in (volume.hu, labels, lesion_map))
    display = _Display(axes, volume.geometry, *arrays)
    largest = sorted(lesions, key=lambda lesion: -lesion.volume_ml)[:most]
    return Pictures(_overview(display), tuple(_closeup(display, lesion) for lesion in largest))


def _overview(display: _Display) -> tuple[Picture, ...]:
    shown = _overview_slices(display.labels)
    frame = fit(_body_box(display.hu[shown]), display.pixel_mm)
    return tuple(Picture(*display.draw(index, frame)) for index in shown)


def _overview_slices(labels: np.ndarray) -> list[int]:
    """Positions of the overview's slices, in order, without repeats."""
    box = bounding_box(labels)
    extent = box[0] if box else slice(0, labels.shape[0])
    step = (extent.stop - extent.start) / OVERVIEW
    return sorted({extent.start + int((i + 0.5) * step) for i in range(OVERVIEW)})


def _body_box(planes: np.ndarray) -> Box:
    """Rows and columns of the patient in (n, row, column), without the table."""
    body = np.zeros(planes.shape[1:], dtype=bool)
    for plane in planes:
        parts, count = ndimage.label(ndimage.binary_opening(plane > SKIN_HU, iterations=3))
        if count:
            body |= parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return bounding_box(body) or tuple(slice(0, n) for n in planes.shape[1:])


def _closeup(display: _Display, lesion: Lesion) -> Closeup:
    cross = cross_of(lesion, display.axes, display.geometry)
    box = around(cross[:, 1:], lesion.long_axis_mm, display.pixel_mm)
    frame = fit(box, display.pixel_mm)
    tile, place = display.draw(round(cross[0, 0]), frame)
    draw_cross(tile, frame, cross)
    return Closeup(tile, place, lesion)
