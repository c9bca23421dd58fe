"""Numbers of a segmentation: volumes, diameters, HU and burden, one record a lesion.

Definitions, the same everywhere in the product:

- Volume: voxel count times the determinant of the index-to-patient matrix. The liver includes its
  tumors (labels 1 and 2 together).
- Burden: a lesion's, or the whole tumor's, volume as a percentage of the liver volume.
- Long axis: the greatest distance between two voxel centers of the lesion within one axial slice,
  over all axial slices. A lesion of one voxel measures 0 mm.
- Short axis: the longest chord perpendicular to the long axis, in the same slice, of the convex
  outline through the lesion's voxel centers. A lesion one voxel wide measures 0 mm.
- Axial slices: the native slices along the array axis closest to the patient's z axis; no
  resampling. Of equally long axes the one with the longest short axis counts, then the first slice.
- HU: mean and population standard deviation over the lesion's voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist, pdist

from LiverTumorSegLib.components import lesion_boxes, lesion_components
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.labels import TUMOR
from LiverTumorSegLib.volume import Volume

_SAME_LENGTH_MM = 1e-6


@dataclass(frozen=True)
class Lesion:
    """One connected tumor component; the fields are the columns of lesions.csv, in order."""

    lesion: int
    volume_ml: float
    long_axis_mm: float
    short_axis_mm: float
    mean_hu: float
    sd_hu: float
    centroid_x_mm: float
    centroid_y_mm: float
    centroid_z_mm: float
    burden_percent: float


@dataclass(frozen=True)
class Measurement:
    """What one labeled CT holds."""

    liver_volume_ml: float
    tumor_volume_ml: float
    tumor_burden_percent: float
    lesions: tuple[Lesion, ...]


Point = tuple[float, float]


@dataclass(frozen=True)
class Diameters:
    """A lesion's long and short axis, and where they lie.

    Attributes:
        long_mm: length of the long axis.
        short_mm: length of the short axis.
        slice_index: position of their slice along the axial axis.
        long_ends: the two ends in voxel indices along the other two array axes, in array order.
        short_ends: the same for the short axis; fractions occur.
    """

    long_mm: float
    short_mm: float
    slice_index: int
    long_ends: tuple[Point, Point]
    short_ends: tuple[Point, Point]


def axial_axis(geometry: Geometry) -> int:
    """Array axis (0, 1 or 2 for z, y, x) closest to the patient's z axis; the lowest of equals.

    >>> axial_axis(Geometry((4, 5, 6), (1.0, 1.0, 1.0)))
    0
    >>> sagittal = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    >>> axial_axis(Geometry((4, 5, 6), (1.0, 1.0, 1.0), direction=sagittal))
    1
    """
    along_z = np.abs(np.array(geometry.direction)[2, ::-1])
    return int(np.argmax(np.round(along_z, 6)))


def measure(volume: Volume, labels: np.ndarray) -> tuple[Measurement, np.ndarray]:
    """Measure liver and lesions by the definitions at the top of this file.

    Without a tumor there are no lesions and the burden is 0. Without any label the liver volume
    and the burden are 0.

    Args:
        volume: the CT.
        labels: integer (z, y, x) on the CT's grid: 0 background, 1 liver, 2 tumor.

    Returns:
        The numbers, and int32 (z, y, x) with each tumor voxel's lesion number, 1 the largest.

    Raises:
        ValueError: labels and CT differ in shape.
    """
    if labels.shape != volume.hu.shape:
        raise ValueError(
            f"labels have the shape {labels.shape} (z, y, x), the CT has {volume.hu.shape}; "
            "give labels on the CT's own grid"
        )
    lesion_map, _ = lesion_components(labels == TUMOR)
    voxel_ml = volume.geometry.voxel_ml
    liver_ml = int(np.count_nonzero(labels)) * voxel_ml
    lesions = tuple(
        _measure_lesion(number, box, lesion_map, volume, liver_ml)
        for number, box in enumerate(lesion_boxes(lesion_map), start=1)
    )
    tumor_ml = sum(lesion.volume_ml for lesion in lesions)
    burden = 100.0 * tumor_ml / liver_ml if liver_ml else 0.0
    return Measurement(liver_ml, tumor_ml, burden, lesions), lesion_map


def _measure_lesion(
    number: int,
    box: tuple[slice, ...],
    lesion_map: np.ndarray,
    volume: Volume,
    liver_ml: float,
) -> Lesion:
    mask = lesion_map[box] == number
    voxels = np.argwhere(mask)
    centroid = voxels.mean(axis=0) + [edge.start for edge in box]
    x_mm, y_mm, z_mm = volume.geometry.lps_of(centroid)
    hu = volume.hu[box][mask].astype(np.float64)
    size = diameters(mask, volume.geometry)
    volume_ml = len(voxels) * volume.geometry.voxel_ml
    return Lesion(
        lesion=number,
        volume_ml=volume_ml,
        long_axis_mm=size.long_mm,
        short_axis_mm=size.short_mm,
        mean_hu=float(hu.mean()),
        sd_hu=float(hu.std()),
        centroid_x_mm=float(x_mm),
        centroid_y_mm=float(y_mm),
        centroid_z_mm=float(z_mm),
        burden_percent=100.0 * volume_ml / liver_ml,
    )


def diameters(mask: np.ndarray, geometry: Geometry) -> Diameters:
    """Long and short axis of one lesion, center to center in an axial slice.

    Args:
        mask: bool (z, y, x) with at least one true voxel; any box cut from the CT's grid.
        geometry: the grid's spacing and direction.

    Returns:
        The axes; positions are indices into `mask`.

    Raises:
        ValueError: the mask is empty.

    >>> row = np.ones((1, 1, 4), dtype=bool)
    >>> diameters(row, Geometry((1, 1, 4), (5.0, 0.7, 0.5))).long_mm
    1.5
    """
    if not mask.any():
        raise ValueError("an empty mask has no diameter; expected at least one voxel")
    axis = axial_axis(geometry)
    spacing = np.delete(np.array(geometry.spacing_mm), axis)
    slices = np.moveaxis(mask, axis, 0)
    ends = {int(i): _row_ends(slices[i]) for i in np.flatnonzero(slices.any(axis=(1, 2)))}
    long_mm = _longest_by_slice(ends, spacing)
    longest = max(long_mm.values())
    tied = sorted(i for i in long_mm if long_mm[i] >= longest - _SAME_LENGTH_MM)
    best = _cross(ends[tied[0]], spacing, tied[0])
    for index in tied[1:]:
        other = _cross(ends[index], spacing, index)
        if other.short_mm > best.short_mm + _SAME_LENGTH_MM:
            best = other
    return best


def _longest_by_slice(ends: dict[int, np.ndarray], spacing: np.ndarray) -> dict[int, float]:
    """Longest distance in each slice that could hold the longest of all.

    None is longer than its slice's bounding rectangle's diagonal: the largest rectangles go first
    and the rest are left out once they cannot win.
    """
    reach = {i: float(np.linalg.norm(np.ptp(ends[i], axis=0) * spacing)) for i in ends}
    found: dict[int, float] = {}
    for index in sorted(reach, key=lambda i: -reach[i]):
        if found and reach[index] < max(found.values()) - _SAME_LENGTH_MM:
            break
        found[index] = float(pdist(ends[index] * spacing).max())
    return found


def _row_ends(plane: np.ndarray) -> np.ndarray:
    """First and last true pixel of every row, (n, 2): enough for any distance or convex outline."""
    rows = np.flatnonzero(plane.any(axis=1))
    first = plane[rows].argmax(axis=1)
    last = plane.shape[1] - 1 - plane[rows, ::-1].argmax(axis=1)
    return np.concatenate([np.stack([rows, first], 1), np.stack([rows, last], 1)])


def _cross(pixels: np.ndarray, spacing: np.ndarray, slice_index: int) -> Diameters:
    """Long and short axis within one slice, from its row ends (n, 2) in pixels."""
    points_mm = pixels * spacing
    distance = cdist(points_mm, points_mm)
    long_mm = float(distance.max())
    pairs = np.argwhere(np.triu(distance, 1) >= max(long_mm - _SAME_LENGTH_MM, _SAME_LENGTH_MM))
    if len(pairs) == 0:
        here = (float(pixels[0, 0]), float(pixels[0, 1]))
        return Diameters(0.0, 0.0, slice_index, (here, here), (here, here))
    best_mm, best_ends, best_pair = -1.0, points_mm[:2], pairs[0]
    for pair in pairs:
        short_mm, ends = _perpendicular_chord(points_mm, *points_mm[pair])
        if short_mm > best_mm + _SAME_LENGTH_MM:
            best_mm, best_ends, best_pair = short_mm, ends, pair
    (a, b), (c, d) = pixels[best_pair].astype(float), best_ends / spacing
    return Diameters(
        long_mm,
        best_mm,
        slice_index,
        ((float(a[0]), float(a[1])), (float(b[0]), float(b[1]))),
        ((float(c[0]), float(c[1])), (float(d[0]), float(d[1]))),
    )


def _perpendicular_chord(
    points_mm: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[float, np.ndarray]:
    """Longest chord of the points' convex outline perpendicular to its longest, start to end.

    Between the two ends the outline has one upper and one lower border; the chord between them is
    a concave, piecewise linear function of the position along the long axis, so its greatest value
    lies at a corner of the outline.
    """
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]])
    s, t = (points_mm - start) @ along, (points_mm - start) @ across
    if np.abs(t).max() < _SAME_LENGTH_MM:
        return 0.0, np.stack([start, start])
    corners = ConvexHull(np.stack([s, t], axis=1)).vertices
    corners = corners[np.argsort(s[corners])]
    tip = (0.0, float(np.linalg.norm(end - start)))

    def border(side: int) -> np.ndarray:
        inner = corners[side * t[corners] > _SAME_LENGTH_MM]
        return np.interp(s[corners], [tip[0], *s[inner], tip[1]], [0.0, *t[inner], 0.0])

    upper, lower = border(1), border(-1)
    widest = int(np.argmax(upper - lower))
    foot = start + s[corners][widest] * along
    ends = np.stack([foot + lower[widest] * across, foot + upper[widest] * across])
    return float(upper[widest] - lower[widest]), ends
