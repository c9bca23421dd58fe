"""Numbers of a segmentation: volumes, diameters, HU, depth and burden, one record a lesion.

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
- HU: mean, population standard deviation, median and the 5th and 95th percentile over the lesion's
  voxels; of the liver, mean and standard deviation over its voxels outside of tumors.
- Feret diameter, equivalent sphere, surface, sphericity, uncertainty of the volume: see `shape`.
- Couinaud segments: the shares of the lesion's voxels in a map that the user gives; never guessed.
- Mean probability: mean of the network's tumor probability over the lesion's voxels.
- Confidence: how likely the lesion touches a true one, from its mean probability and volume, as
  `recipe.LesionConfidence` says.
- Distance to the liver's surface: the smallest distance between the centers of a voxel of the
  lesion and of an outermost voxel of the liver, which is one with a face neighbor outside the
  liver. A lesion that reaches the surface measures 0 mm. Where the scan ends there is no surface.
- Touches the scan's edge: a voxel of the lesion lies on a face of the CT, so the lesion may be cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial import ConvexHull, KDTree
from scipy.spatial.distance import cdist, pdist

from LiverTumorSegLib.components import bounding_box, lesion_boxes, lesion_components
from LiverTumorSegLib.couinaud import segments_text
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.labels import LIVER, TUMOR
from LiverTumorSegLib.part import Box
from LiverTumorSegLib.recipe import LesionConfidence
from LiverTumorSegLib.shape import (
    equivalent_sphere_mm,
    feret_mm,
    sphericity,
    surface_mm2,
    volume_uncertainty_percent,
)
from LiverTumorSegLib.volume import Volume, clean_hu

_SAME_LENGTH_MM = 1e-6
_PORTION = 64

Place = tuple[float, float, float]


@dataclass(frozen=True)
class Lesion:
    """The numbers of one lesion, by the definitions at the top of this file.

    All fields but the ends are the columns of lesions.csv, in order (`COLUMNS`).

    Attributes:
        lesion: its number, from 1.
        volume_ml: its volume.
        long_axis_mm: length of the long axis.
        short_axis_mm: length of the short axis.
        mean_hu: mean intensity.
        sd_hu: standard deviation of the intensity.
        centroid_x_mm: mean of its voxel centers, in LPS.
        centroid_y_mm: see centroid_x_mm.
        centroid_z_mm: see centroid_x_mm.
        burden_percent: its share of the liver.
        mean_probability: 0 to 1; None without a probability map.
        confidence: 0 to 1; None without a probability map, or where the recipe cannot tell.
        surface_distance_mm: distance to the liver's surface; None where the liver has none.
        touches_edge: whether it touches the scan's edge.
        feret_mm: greatest distance of two voxel centers, in any direction.
        equivalent_sphere_mm: diameter of the ball of the same volume.
        surface_mm2: area of its surface.
        sphericity: surface of that ball / its surface; 1 for a ball, for a few voxels more.
        p5_hu: 5th percentile of the intensity, between voxels as NumPy interpolates.
        median_hu: its median.
        p95_hu: its 95th percentile.
        volume_uncertainty_percent: how far the volume may be off because voxels were counted.
        couinaud: the liver segments that hold it, as in "VIII 80 %, VII 20 %"; None without a map.
        long_axis_ends_mm: the two ends of the long axis, in LPS.
        short_axis_ends_mm: the two ends of the short axis, in LPS.
    """

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
    mean_probability: float | None
    confidence: float | None
    surface_distance_mm: float | None
    touches_edge: bool
    feret_mm: float
    equivalent_sphere_mm: float
    surface_mm2: float
    sphericity: float
    p5_hu: float
    median_hu: float
    p95_hu: float
    volume_uncertainty_percent: float
    couinaud: str | None
    long_axis_ends_mm: tuple[Place, Place]
    short_axis_ends_mm: tuple[Place, Place]


COLUMNS = tuple(field.name for field in fields(Lesion) if not field.name.endswith("_ends_mm"))


@dataclass(frozen=True)
class Measurement:
    """What one labeled CT holds.

    Attributes:
        liver_volume_ml: of the liver with its tumors.
        tumor_volume_ml: of all tumors.
        tumor_burden_percent: their share of the liver.
        lesions: the largest first, or as a given map numbers them.
        liver_mean_hu: of the liver outside of its tumors; None where there is none, or before it
            was asked for.
        liver_sd_hu: the same.
    """

    liver_volume_ml: float
    tumor_volume_ml: float
    tumor_burden_percent: float
    lesions: tuple[Lesion, ...]
    liver_mean_hu: float | None = None
    liver_sd_hu: float | None = None


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


@dataclass(frozen=True)
class Scan:
    """What a lesion is measured in.

    Attributes:
        volume: the CT.
        surface_mm: the liver's surface as `outermost` returns it.
        liver_ml: volume of the liver, tumors included.
        tumor_probability: float (z, y, x) on the CT's grid, or None.
        confidence: what makes a lesion's, or None.
        couinaud: integer (z, y, x) on the CT's grid, 1 to 8 for segments I to VIII, or None.
    """

    volume: Volume
    surface_mm: np.ndarray
    liver_ml: float
    tumor_probability: np.ndarray | None = None
    confidence: LesionConfidence | None = None
    couinaud: np.ndarray | None = None


def measure(
    volume: Volume,
    labels: np.ndarray,
    tumor_probability: np.ndarray | None = None,
    confidence: LesionConfidence | None = None,
    couinaud: np.ndarray | None = None,
    lesion_map: np.ndarray | None = None,
) -> tuple[Measurement, np.ndarray]:
    """Measure liver and lesions by the definitions at the top of this file.

    Without a tumor there are no lesions and the burden is 0. Without any label the liver volume
    and the burden are 0.

    Args:
        volume: the CT.
        labels: integer (z, y, x) on the CT's grid: 0 background, 1 liver, 2 tumor.
        tumor_probability: float (z, y, x) on the same grid, for the mean probabilities.
        confidence: of the tumor's recipe, which makes confidences of these.
        couinaud: integer (z, y, x) on the same grid, 1 to 8 for liver segments I to VIII.
        lesion_map: integer (z, y, x) on the same grid, lesion n of the tumor where a reader has
            said so; without it the connected parts are numbered by size.

    Returns:
        The numbers, and int (z, y, x) with each tumor voxel's lesion number.

    Raises:
        ValueError: an array and the CT differ in shape.
    """
    for array in (labels, tumor_probability, couinaud, lesion_map):
        if array is not None and array.shape != volume.hu.shape:
            raise ValueError(
                f"labels, probabilities or a map have the shape {array.shape} (z, y, x), the CT "
                f"has {volume.hu.shape}; give them on the CT's own grid"
            )
    if lesion_map is None:
        lesion_map, _ = lesion_components(labels == TUMOR)
    liver_box = bounding_box(labels) or (slice(0),) * 3
    liver = labels[liver_box] > 0
    liver_ml = int(np.count_nonzero(liver)) * volume.geometry.voxel_ml
    boxes = lesion_boxes(lesion_map)
    surface_mm = outermost(liver, liver_box, volume.geometry) if boxes else np.empty((0, 3))
    scan = Scan(volume, surface_mm, liver_ml, tumor_probability, confidence, couinaud)
    lesions = tuple(
        measure_lesion(number, lesion_map[box] == number, box, scan)
        for number, box in enumerate(boxes, start=1)
    )
    tumor_ml = sum(lesion.volume_ml for lesion in lesions)
    burden = burden_percent(tumor_ml, liver_ml)
    intensity = liver_intensity(volume, labels)
    return Measurement(liver_ml, tumor_ml, burden, lesions, *intensity), lesion_map


def liver_intensity(volume: Volume, labels: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """Mean and standard deviation of the HU of the liver outside of its tumors, if there is any.

    Args:
        volume: the CT.
        labels: integer (z, y, x) on the CT's grid: 0 background, 1 liver, 2 tumor.
    """
    box = bounding_box(labels) or (slice(0),) * 3
    hu = clean_hu(volume.hu[box][labels[box] == LIVER][None])[0]
    if not hu.size:
        return None, None
    return float(hu.mean(dtype=np.float64)), float(hu.std(dtype=np.float64))


def burden_percent(tumor_ml: float, liver_ml: float) -> float:
    """A tumor volume as a percentage of the liver's; 0 without a liver."""
    return 100.0 * tumor_ml / liver_ml if liver_ml else 0.0


def measure_lesion(number: int, mask: np.ndarray, box: Box, scan: Scan) -> Lesion:
    """Measure one lesion; the work grows with the lesion and the liver's surface, not with the CT.

    Args:
        number: for the field `lesion`.
        mask: bool (z, y, x), the lesion cut out by `box`.
        box: its bounding box in the CT's grid, without empty borders.
        scan: what it lies in.

    Raises:
        ValueError: the mask is empty.
    """
    geometry, start = scan.volume.geometry, np.array([edge.start for edge in box])
    size = diameters(mask, geometry)
    voxels = np.argwhere(mask) + start
    x_mm, y_mm, z_mm = geometry.lps_of(voxels.mean(axis=0)).tolist()
    hu = clean_hu(scan.volume.hu[box][mask][None])[0].astype(np.float64)
    volume_ml = len(voxels) * geometry.voxel_ml
    probability = mean_probability(mask, box, scan.tumor_probability)
    p5_hu, median_hu, p95_hu = np.percentile(hu, (5, 50, 95)).tolist()
    area_mm2 = surface_mm2(mask, geometry.spacing_mm)
    couinaud = scan.couinaud
    edges = zip(box, geometry.shape, strict=True)
    return Lesion(
        lesion=number,
        volume_ml=volume_ml,
        long_axis_mm=size.long_mm,
        short_axis_mm=size.short_mm,
        mean_hu=float(hu.mean()),
        sd_hu=float(hu.std()),
        centroid_x_mm=x_mm,
        centroid_y_mm=y_mm,
        centroid_z_mm=z_mm,
        burden_percent=burden_percent(volume_ml, scan.liver_ml),
        mean_probability=probability,
        confidence=confidence_of(scan.confidence, probability, 1000.0 * volume_ml),
        surface_distance_mm=_smallest_distance(outermost(mask, box, geometry), scan.surface_mm),
        touches_edge=any(edge.start == 0 or edge.stop == length for edge, length in edges),
        feret_mm=feret_mm(mask, geometry.spacing_mm),
        equivalent_sphere_mm=equivalent_sphere_mm(volume_ml),
        surface_mm2=area_mm2,
        sphericity=sphericity(volume_ml, area_mm2),
        p5_hu=p5_hu,
        median_hu=median_hu,
        p95_hu=p95_hu,
        volume_uncertainty_percent=volume_uncertainty_percent(volume_ml, geometry.spacing_mm),
        couinaud=None if couinaud is None else segments_text(couinaud[box][mask]),
        long_axis_ends_mm=_places(size.long_ends, size.slice_index, start, geometry),
        short_axis_ends_mm=_places(size.short_ends, size.slice_index, start, geometry),
    )


def mean_probability(mask: np.ndarray, box: Box, probability: np.ndarray | None) -> float | None:
    """Mean of a map (z, y, x) over a lesion, as `measure_lesion` takes it; None without a map."""
    return None if probability is None else float(probability[box][mask].mean(dtype=np.float64))


def confidence_of(
    confidence: LesionConfidence | None, probability: float | None, volume_mm3: float
) -> float | None:
    """How likely a lesion is real, 0 to 1; None where it is not known.

    >>> confidence_of(LesionConfidence(-2.0, 4.0, 0.0), 0.5, 30.0)
    0.5
    """
    if confidence is None or probability is None:
        return None
    logit = (
        confidence.intercept
        + confidence.probability * probability
        + confidence.log_volume * math.log(volume_mm3)
    )
    return 0.5 * (1.0 + math.tanh(0.5 * logit))  # the logistic function, without an overflow


def _places(
    ends: tuple[Point, Point], slice_index: int, start: np.ndarray, geometry: Geometry
) -> tuple[Place, Place]:
    """LPS mm of two points of one axial slice, given as in Diameters."""
    index = np.insert(np.array(ends), axial_axis(geometry), slice_index, axis=1) + start
    first, second = geometry.lps_of(index).tolist()
    return (first[0], first[1], first[2]), (second[0], second[1], second[2])


def outermost(mask: np.ndarray, box: Box, geometry: Geometry) -> np.ndarray:
    """The surface of a liver or lesion: its voxels with a face neighbor outside it.

    Args:
        mask: bool (z, y, x), what is cut out by `box`.
        box: its bounding box in the CT's grid. What lies beyond it does not belong to the mask;
            what lies beyond the scan is unknown and makes no surface.
        geometry: the CT's grid.

    Returns:
        (n, 3) positions of their centers along the CT's axes (z, y, x), in mm from its first voxel.
    """
    beyond = [
        (int(edge.start > 0), int(edge.stop < length))
        for edge, length in zip(box, geometry.shape, strict=True)
    ]
    core = np.pad(mask, beyond)
    padded = core.copy()
    for axis in range(3):
        along, inner = np.moveaxis(padded, axis, 0), np.moveaxis(core, axis, 0)
        inner[1:] &= along[:-1]
        inner[:-1] &= along[1:]
    start = [edge.start - before for edge, (before, _) in zip(box, beyond, strict=True)]
    return np.asarray((np.argwhere(padded & ~core) + start) * geometry.spacing_mm)


def _smallest_distance(cluster: np.ndarray, others: np.ndarray) -> float | None:
    """Smallest distance between a point of a cluster (n, 3) and one of the others (m, 3), if any.

    None of the others is nearer to the cluster than to a sphere around it: those farther from the
    sphere than one distance that was found are left out, the rest go nearest first and in portions
    until no further one can win.
    """
    if len(others) == 0:
        return None
    tree, center = KDTree(cluster), cluster.mean(axis=0)
    at_least = np.linalg.norm(others - center, axis=1)
    at_least -= np.linalg.norm(cluster - center, axis=1).max()
    nearest = float(tree.query(others[at_least.argmin()])[0])
    left = np.flatnonzero(at_least < nearest)
    left = left[np.argsort(at_least[left])]
    for first in range(0, len(left), _PORTION):
        portion = left[first : first + _PORTION]
        if at_least[portion[0]] >= nearest:
            break
        found, _ = tree.query(others[portion], distance_upper_bound=nearest)
        nearest = min(nearest, float(found.min()))
    return nearest


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
