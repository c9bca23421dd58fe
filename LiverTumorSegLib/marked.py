"""Liver and tumors as somebody has marked them in a file, and on which grid they are measured.

Read are label maps (0 background, 1 liver, 2 tumor) and Slicer's .seg.nrrd. Of the segments of the
latter the liver is the one called "Liver" or coded so; tumors are those coded as a mass or a
neoplasm, or whose name begins with tumor, tumour, lesion or metastasis. A tumor segment with a
number at its end, as in "Tumor 2", is one lesion, whatever parts it has; of others, each connected
part is one. A DICOM SEG is read by the rules of `dicom_labels.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.couinaud import NAMES
from LiverTumorSegLib.dicom_extra import dicom_packages
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.labels import LIVER, TUMOR
from LiverTumorSegLib.volume import (
    AIR_HU,
    FileSegment,
    Volume,
    image_on_grid,
    read_labels,
    read_segments,
)

_LIVER_CODE = "10200004"
_TUMOR_CODES = ("4147007", "108369006", "86049000")  # mass; neoplasm; malignant neoplasm, primary
_TUMOR_NAMES = ("tumor", "tumour", "lesion", "metastasis")
_SAME_PLACE_VOXELS = 1e-2
_MOST_OUTSIDE = 0.01


@dataclass(frozen=True)
class Marked:
    """What a file marks.

    Attributes:
        labels: uint8 (z, y, x); 0 background, 1 liver, 2 tumor.
        lesion_map: int32 (z, y, x), 1 the largest lesion.
        geometry: their grid.
        warnings: sentences that a user should read.
    """

    labels: np.ndarray
    lesion_map: np.ndarray
    geometry: Geometry
    warnings: tuple[str, ...] = ()


def read_marked(path: Path) -> Marked:
    """Read a segmentation of liver and tumors.

    Raises:
        InputError: not a sound file, other label values, no segment of a liver, or nothing marked.
    """
    return _checked(
        _of_segments(path) if path.name.endswith(".seg.nrrd") else _of_labels(path), path
    )


def read_marked_dicom(path: Path, ct: Path, geometry: Geometry) -> Marked:
    """Read a DICOM SEG of liver and tumors, by the rules of `dicom_labels`, on the CT's grid.

    Args:
        path: the SEG.
        ct: the CT; where it is the folder of a series, the SEG must refer to that.
        geometry: the CT's grid.

    Raises:
        InputError: as `read_marked` and `read_segmentation_dcm`.
    """
    with dicom_packages():
        from LiverTumorSegLib.dicom_labels import read_segmentation_dcm
        from LiverTumorSegLib.dicom_source import read_source
    found = read_segmentation_dcm(path, geometry, read_source(ct) if ct.is_dir() else None)
    tumors = [
        FileSegment(name, "", found.tumor_segments, number) for number, name in found.names.items()
    ]
    lesion_map = _numbered(tumors, geometry)
    return _checked(Marked(found.labels, lesion_map, geometry, found.warnings), path)


def _checked(marked: Marked, path: Path) -> Marked:
    if not marked.labels.any():
        raise InputError(
            f"{path}: expected a segmentation with voxels of the liver, found an empty one. Choose "
            "the one that was corrected, or save it again."
        )
    if not (marked.labels == LIVER).any():
        raise InputError(
            f"{path}: expected a liver and tumors in it, found tumors alone, of which no burden "
            "and no distance to the surface can be told. Add the liver (label 1, or a segment "
            "called Liver)."
        )
    return marked


def _of_labels(path: Path) -> Marked:
    voxels, geometry = read_labels(path)
    values = np.unique(voxels)
    others = sorted({int(value) for value in values} - {0, LIVER, TUMOR})
    if others:
        raise InputError(
            f"{path}: expected the labels 0 background, 1 liver and 2 tumor, found also "
            f"{', '.join(map(str, others[:8]))}. Relabel them first, or save a .seg.nrrd whose "
            "segments have names."
        )
    labels = voxels.astype(np.uint8)
    return Marked(labels, lesion_components(labels == TUMOR)[0], geometry)


def _of_segments(path: Path) -> Marked:
    segments, geometry = read_segments(path)
    livers = [segment for segment in segments if _is_liver(segment)]
    if len(livers) != 1:
        found = ", ".join(segment.name for segment in livers or segments)
        raise InputError(
            f"{path}: expected one segment called Liver, found {found}. Rename the liver's segment "
            "in 3D Slicer and save the segmentation again."
        )
    others = [segment for segment in segments if segment not in livers]
    tumors = [segment for segment in others if _is_tumor(segment)]
    left_out = [segment.name for segment in others if segment not in tumors]
    lesion_map = _numbered(tumors, geometry)
    labels = livers[0].mask * np.uint8(LIVER)
    labels[lesion_map > 0] = TUMOR
    warning = f"Segments left out, neither liver nor tumor: {', '.join(left_out)}."
    return Marked(labels, lesion_map, geometry, (warning,) if left_out else ())


def _is_liver(segment: FileSegment) -> bool:
    return _type_code(segment.tags) == _LIVER_CODE or segment.name.strip().lower() == "liver"


def _is_tumor(segment: FileSegment) -> bool:
    named = segment.name.strip().lower().startswith(_TUMOR_NAMES)
    return named or _type_code(segment.tags) in _TUMOR_CODES


def _type_code(tags: str) -> str | None:
    """The code of a segment's type: the third part of its terminology, scheme^code^meaning."""
    entry = re.search(r"TerminologyEntry:[^~|]*~[^~|]*~([^~|]*)~", tags)
    code = entry and entry.group(1).split("^")
    return code[1] if code and len(code) > 1 else None


def _numbered(tumors: list[FileSegment], geometry: Geometry) -> np.ndarray:
    """The lesions as numbers, the largest first; where two segments overlap, the smaller counts."""
    numbers, count = np.zeros(geometry.shape, np.int32), 0
    for segment in sorted(tumors, key=lambda segment: -np.count_nonzero(segment.mask)):
        mask = segment.mask
        if re.search(r"\d\s*$", segment.name):
            count += 1
            numbers[mask] = count
        else:
            parts, found = lesion_components(mask)
            numbers[mask] = parts[mask] + count
            count += found
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    by_size = [number for number in np.argsort(-sizes, kind="stable") + 1 if sizes[number - 1]]
    new = np.zeros(count + 1, np.int32)
    new[by_size] = np.arange(1, len(by_size) + 1)
    return new[numbers]


# The grid


def on_one_grid(marked: Marked, volume: Volume, path: Path) -> tuple[Marked, Volume]:
    """Bring mask and CT onto one grid, without changing the mask.

    A mask on a part of the CT's grid, as Slicer saves it, is put in its place. A mask on another
    grid is measured there, and the CT is interpolated.

    Args:
        marked: the mask.
        volume: the CT.
        path: of the mask, for messages.

    Raises:
        InputError: the mask does not lie in the CT.
    """
    first = _place_in(volume.geometry, marked.geometry)
    if first is not None and _inside(marked.labels, first, volume.geometry):
        return _pasted(marked, first, volume.geometry), volume
    outside = _share_outside(marked, volume.geometry)
    if outside > _MOST_OUTSIDE:
        raise InputError(
            f"{path}: expected a mask inside of the CT, found {outside:.0%} of it outside. It "
            "seems to be of another scan or patient; choose the CT that it was drawn on."
        )
    image = image_on_grid(volume.hu, volume.geometry)
    blank = image_on_grid(np.zeros(marked.geometry.shape, np.uint8), marked.geometry)
    moved = sitk.Resample(image, blank, sitk.Transform(), sitk.sitkLinear, AIR_HU, sitk.sitkFloat32)
    warning = (
        "The segmentation's grid is not that of the CT: it was measured on its own grid, and the "
        "CT interpolated there."
    )
    hu = sitk.GetArrayFromImage(moved)
    same = Marked(marked.labels, marked.lesion_map, marked.geometry, (*marked.warnings, warning))
    return same, Volume(hu, marked.geometry, volume.name, volume.repairs)


def _place_in(outer: Geometry, inner: Geometry) -> np.ndarray | None:
    """Voxel (z, y, x) of `outer` on which the first one of `inner` lies, if all coincide."""
    to_outer = np.linalg.inv(outer.index_to_lps()) @ inner.index_to_lps()
    first = np.rint(to_outer[:3, 3])
    corners = np.array(np.meshgrid(*([0, n - 1] for n in inner.shape[::-1]))).reshape(3, -1)
    off = (to_outer[:3, :3] - np.eye(3)) @ corners + (to_outer[:3, 3] - first)[:, None]
    return first[::-1].astype(int) if np.abs(off).max() < _SAME_PLACE_VOXELS else None


def _inside(labels: np.ndarray, first: np.ndarray, outer: Geometry) -> bool:
    """Whether all that is marked lies in the outer grid."""
    places = np.argwhere(labels)
    lowest, highest = places.min(axis=0) + first, places.max(axis=0) + first
    return bool((lowest >= 0).all() and (highest < outer.shape).all())


def _pasted(marked: Marked, first: np.ndarray, outer: Geometry) -> Marked:
    target, source = [], []
    for start, size, whole in zip(first.tolist(), marked.labels.shape, outer.shape, strict=True):
        low, high = max(start, 0), min(start + size, whole)
        target.append(slice(low, high))
        source.append(slice(low - start, high - start))
    labels, lesion_map = np.zeros(outer.shape, np.uint8), np.zeros(outer.shape, np.int32)
    labels[tuple(target)] = marked.labels[tuple(source)]
    lesion_map[tuple(target)] = marked.lesion_map[tuple(source)]
    return Marked(labels, lesion_map, outer, marked.warnings)


def _share_outside(marked: Marked, outer: Geometry) -> float:
    """Share of the marked voxels whose centers lie beyond the outermost voxels of a grid."""
    points = marked.geometry.lps_of(np.argwhere(marked.labels))
    back = np.linalg.inv(outer.index_to_lps())
    index = (points @ back[:3, :3].T + back[:3, 3])[:, ::-1]
    inside = ((index >= -0.5) & (index <= np.array(outer.shape) - 0.5)).all(axis=1)
    return 1.0 - float(inside.mean())


# Liver segments


def read_couinaud(path: Path, geometry: Geometry, labels: np.ndarray) -> np.ndarray:
    """A map of Couinaud's liver segments, on the grid of the labels.

    Args:
        path: a label map of 1 to 8, or a .seg.nrrd whose segments' names end in 1 to 8 or I to
            VIII, as in liver_segment_4.
        geometry: the wanted grid; the map's nearest voxels are taken.
        labels: uint8 (z, y, x) on that grid, to check that the map is of this liver.

    Returns:
        uint8 (z, y, x), 0 where there is no segment.

    Raises:
        InputError: not such a file, or less than half of the liver lies in segments.
    """
    found, grid = _couinaud_of(path)
    blank = image_on_grid(labels, geometry)
    moved = sitk.Resample(
        image_on_grid(found, grid), blank, sitk.Transform(), sitk.sitkNearestNeighbor, 0
    )
    couinaud = sitk.GetArrayFromImage(moved)
    covered = float((couinaud[labels > 0] > 0).mean())
    if covered < 0.5:
        raise InputError(
            f"{path}: expected segments of this liver, found {covered:.0%} of it in segments. "
            "Choose the map that was made from the same CT."
        )
    return couinaud


def _couinaud_of(path: Path) -> tuple[np.ndarray, Geometry]:
    if path.name.endswith(".seg.nrrd"):
        segments, grid = read_segments(path)
        found = np.zeros(grid.shape, np.uint8)
        for segment in segments:
            number = _couinaud_number(segment.name)
            if number is None:
                raise InputError(
                    f"{path}: expected segments whose names end in 1 to 8 or I to VIII, found "
                    f"{segment.name!r}. Rename it, or remove it."
                )
            found[segment.mask] = number
        return found, grid
    values, grid = read_labels(path)
    if values.min() < 0 or values.max() > 8:
        raise InputError(
            f"{path}: expected the labels 1 to 8 for liver segments I to VIII, found "
            f"{int(values.min())} to {int(values.max())}. Choose the map of liver segments."
        )
    return values.astype(np.uint8), grid


def _couinaud_number(name: str) -> int | None:
    """Of a segment's name.

    >>> [_couinaud_number(n) for n in ("liver_segment_4", "Segment IVa", "VIII", "spleen")]
    [4, 4, 8, None]
    """
    end = re.search(r"(?:^|[\s_-])([1-8]|I{1,3}|IV[ab]?|VI{0,3})$", name.strip(), re.IGNORECASE)
    if end is None:
        return None
    text = end.group(1).upper().rstrip("AB")
    return int(text) if text.isdigit() else NAMES.index(text) + 1
