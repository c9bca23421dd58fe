"""A DICOM segmentation (SEG) of any producer, read as liver and tumor labels on a CT's grid.

Which segment is what: the SNOMED code of its type decides, in SCT or the older SRT form. A mass,
lesion or neoplasm is a tumor of the liver unless its anatomic region names another place. Where the
code says no more than "tissue" or "organ", or is of another scheme, the label decides: "Liver", or
a word for tumor, alone or after "liver" or "hepatic", with or without a number. Segments of another
code are left out; one that neither code nor label tells is a reason to refuse.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pydicom
import SimpleITK as sitk
from highdicom.seg import Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes

from LiverTumorSegLib.dicom_extra import without_their_warnings
from LiverTumorSegLib.dicom_identity import LIVER, MASS
from LiverTumorSegLib.dicom_source import SourceSeries
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.labels import LIVER as LIVER_LABEL
from LiverTumorSegLib.labels import TUMOR as TUMOR_LABEL
from LiverTumorSegLib.volume import image_on_grid

_SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_TUMORS = (
    MASS,
    codes.SCT.Lesion,
    codes.SCT.Neoplasm,
    codes.SCT.NeoplasmPrimary,
    codes.SCT.NeoplasmSecondary,
    codes.SCT.MalignantNeoplasmPrimary,
    codes.SCT.Metastasis,
)
_SAYS_LITTLE = (codes.SCT.Tissue, codes.SCT.BodyOrganStructure, codes.SCT.BodyStructure)
_LIVER_LABEL = re.compile(r"(whole )?liver( parenchyma)?")
_TUMOR_LABEL = re.compile(
    r"((liver|hepatic) )?"
    r"(tumou?rs?|lesions?|mass(es)?|neoplasms?|metastas[ei]s|cancer|hcc|crlm)( ?\d+)?"
)
_SAME_GRID = 0.1  # of a voxel, at any corner of the CT
_T = TypeVar("_T")


@dataclass(frozen=True)
class DicomLabels:
    """What a SEG marks, on the CT's grid.

    Attributes:
        labels: uint8 (z, y, x); 0 background, 1 liver, 2 tumor.
        tumor_segments: uint16 (z, y, x), the segment number of each tumor voxel, 0 elsewhere; where
            segments overlap, the highest.
        names: the label of each tumor segment, by its number.
        warnings: sentences that a user should read.
    """

    labels: np.ndarray
    tumor_segments: np.ndarray
    names: dict[int, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Roles:
    """Segment numbers by what they are, the tumors' labels, and what is left out."""

    liver: list[int]
    tumors: dict[int, str]
    left_out: list[str]


@without_their_warnings()
def read_segmentation_dcm(
    path: Path, geometry: Geometry, source: SourceSeries | None
) -> DicomLabels:
    """Read a DICOM SEG as labels on the grid of a CT.

    A fractional SEG is cut at one half. One on another grid in the same frame of reference is
    resampled (nearest neighbor). Both are told.

    Args:
        path: the file.
        geometry: the CT's grid.
        source: the CT's series, which the SEG must refer to; None where the CT is no DICOM series,
            and then only a SEG on the CT's own grid is taken.

    Raises:
        InputError: No sound SEG, of another series, frame of reference or place, without a liver,
            or with segments that are not to be understood.
    """
    segmentation = _opened(path)
    if source is not None:
        _check_refers_to(segmentation, source, path)
    roles = _roles(segmentation, path)
    warnings = []
    if roles.left_out:
        warnings.append(f"{path.name}: segments left out: {', '.join(roles.left_out)}.")
    if segmentation.segmentation_type is SegmentationTypeValues.FRACTIONAL:
        warnings.append(f"{path.name}: a fractional segmentation, cut at one half.")
    segments, grid = _segments_of(segmentation, roles, path)
    on_ct = _resampled(segments, grid, geometry)
    if not on_ct.any():
        raise InputError(
            f"{path}: expected a liver inside the CT, found none there. Choose the segmentation of "
            "this CT."
        )
    lost = np.count_nonzero(segments) - np.count_nonzero(on_ct)
    if not _same_grid(grid, geometry):
        if source is None:
            raise InputError(
                f"{path}: expected a segmentation on the CT's grid, found another grid, and the CT "
                "is no DICOM series that would tell where it lies. Give the CT's DICOM folder."
            )
        warnings.append(f"{path.name}: on another grid, resampled to the CT's (nearest neighbor).")
    elif lost:
        warnings.append(f"{path.name}: {lost} voxels lie outside the CT and are left out.")
    tumor = np.isin(on_ct, list(roles.tumors))
    labels = np.where(on_ct > 0, np.uint8(LIVER_LABEL), np.uint8(0))
    labels[tumor] = TUMOR_LABEL
    on_ct[~tumor] = 0
    return DicomLabels(labels, on_ct, roles.tumors, tuple(warnings))


def _opened(path: Path) -> Segmentation:
    try:
        dataset = pydicom.dcmread(path)
    except (InvalidDicomError, EOFError) as error:
        raise InputError(
            f"{path}: expected a DICOM SEG, found no sound DICOM file. Export it again."
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: expected a DICOM SEG that can be read, found: {error.strerror or error}. "
            "Check the path and its permissions."
        ) from error
    found = dataset.get("SOPClassUID")
    if found not in _SEG_CLASSES:
        raise InputError(
            f"{path}: expected a DICOM SEG, found {found.name if found else 'another object'}. "
            "Choose the segmentation."
        )
    return _understood(path, lambda: Segmentation.from_dataset(dataset, copy=False))


def _understood(path: Path, read: Callable[[], _T]) -> _T:
    """What highdicom reads of a file, or a refusal where it stumbles over what is there.

    Its own words are not passed on: they may quote the patient's data.
    """
    try:
        return read()
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected a sound DICOM SEG of evenly spaced slices, found one that cannot be "
            "read as such. Export it again."
        ) from error


def _check_refers_to(segmentation: Segmentation, source: SourceSeries, path: Path) -> None:
    series = {
        str(item.SeriesInstanceUID) for item in segmentation.get("ReferencedSeriesSequence", [])
    }
    if series and source.series_uid not in series:
        raise InputError(
            f"{path}: expected a segmentation of this CT series, found one that refers to another "
            f"series ({', '.join(sorted(series))}; the CT is {source.series_uid}). Choose the CT "
            "that it was made on."
        )
    if segmentation.get("FrameOfReferenceUID") != source.frame_of_reference_uid:
        raise InputError(
            f"{path}: expected a segmentation in the CT's frame of reference, found another. "
            "Choose the CT that it was made on."
        )


def _roles(segmentation: Segmentation, path: Path) -> _Roles:
    roles, unknown = _Roles([], {}, []), []
    for segment in segmentation.SegmentSequence:
        number = int(segment.SegmentNumber)
        if number not in segmentation.segment_numbers:  # the background of a label map
            continue
        label = str(segment.get("SegmentLabel", ""))
        name = f"{number} '{label}'"
        role = _role(segment)
        if role is None:
            unknown.append(name)
        elif role == LIVER_LABEL:
            roles.liver.append(number)
        elif role == TUMOR_LABEL:
            roles.tumors[number] = label
        else:
            roles.left_out.append(name)
    if unknown:
        raise InputError(
            f"{path}: expected segments that code or label tell as liver, tumor or something else, "
            f"found {', '.join(unknown)}. Name them 'Liver' and 'Tumor 1', 'Tumor 2', ... or "
            "delete them."
        )
    if not roles.liver:
        found = ", ".join(roles.left_out) or "tumors only"
        raise InputError(
            f"{path}: expected a segment of the liver, found none ({found}). Add one, named "
            "'Liver'; without it there is no burden."
        )
    return roles


def _role(segment: SegmentDescription) -> int | None:
    """Label of the segment's voxels, 0 for another structure, None if nothing tells."""
    kind = segment.segmented_property_type
    if kind == LIVER:
        return LIVER_LABEL
    if kind in _TUMORS:
        return TUMOR_LABEL if all(map(_in_liver, segment.anatomic_regions)) else 0
    if kind.scheme_designator in ("SCT", "SRT", "SNM3") and kind not in _SAYS_LITTLE:
        return 0
    label = re.sub(r"[\s_\-]+", " ", str(segment.get("SegmentLabel", ""))).strip().lower()
    if _LIVER_LABEL.fullmatch(label):
        return LIVER_LABEL
    return TUMOR_LABEL if _TUMOR_LABEL.fullmatch(label) else None


def _in_liver(region: CodedConcept) -> bool:
    return region == LIVER or bool(re.search("liver|hepat", region.meaning, re.IGNORECASE))


def _segments_of(
    segmentation: Segmentation, roles: _Roles, path: Path
) -> tuple[np.ndarray, Geometry]:
    """The number of each voxel's segment, uint16 (slice, row, column), tumors over the liver."""
    segments, affine = _understood(path, lambda: _numbers(segmentation, roles.liver))
    if roles.tumors:
        tumors, _ = _understood(path, lambda: _numbers(segmentation, list(roles.tumors)))
        np.copyto(segments, tumors, where=tumors > 0)
    return segments, _understood(path, lambda: _grid(segments.shape, affine))


def _numbers(segmentation: Segmentation, wanted: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The highest of these segments at each voxel, uint16, and the (4, 4) way from index to LPS."""
    if segmentation.segmentation_type is not SegmentationTypeValues.FRACTIONAL:
        volume = segmentation.get_volume(
            segment_numbers=wanted, combine_segments=True, skip_overlap_checks=True
        )
        numbers = volume.array.astype(np.uint16)
        numbers[~np.isin(numbers, wanted)] = 0  # a label map comes back whole
        return numbers, volume.affine
    first, *rest = wanted
    volume = segmentation.get_volume(segment_numbers=[first])
    numbers = (volume.array[..., 0] >= 0.5) * np.uint16(first)
    for number in rest:  # one at a time, because each is a float32 array of the whole grid
        part = segmentation.get_volume(segment_numbers=[number])
        numbers[part.array[..., 0] >= 0.5] = number
    return numbers, volume.affine


def _grid(shape: tuple[int, ...], affine: np.ndarray) -> Geometry:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    rows = (affine[:3, :3] / spacing)[:, ::-1].tolist()
    slices, height, width = shape
    z, y, x = spacing.tolist()
    return Geometry(
        (slices, height, width),
        (z, y, x),
        origin_mm=(float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3])),
        direction=tuple((row[0], row[1], row[2]) for row in rows),
    )


def _same_grid(grid: Geometry, ct: Geometry) -> bool:
    """Whether the CT's voxels lie on voxels of the other grid, continued in all directions."""
    to_index = np.linalg.inv(grid.index_to_lps()) @ ct.index_to_lps()
    far = np.array([n - 1 for n in ct.shape[::-1]])
    corners = [np.array(corner) * far for corner in itertools.product((0, 1), repeat=3)]
    places = np.array([to_index[:3, :3] @ corner + to_index[:3, 3] for corner in corners])
    steps = to_index[:3, :3]
    return bool(
        np.abs(places - np.rint(places)).max() < _SAME_GRID
        and np.abs(steps - np.rint(steps)).max() < _SAME_GRID
        and np.allclose(np.abs(np.rint(steps)).sum(axis=0), 1)
    )


def _resampled(segments: np.ndarray, grid: Geometry, ct: Geometry) -> np.ndarray:
    """The segment of the nearest voxel, 0 beyond the grid."""
    reference = sitk.Image(ct.shape[::-1], sitk.sitkUInt16)
    reference.SetSpacing(ct.spacing_mm[::-1])
    reference.SetOrigin(ct.origin_mm)
    reference.SetDirection(np.array(ct.direction).ravel().tolist())
    nearest = sitk.sitkNearestNeighbor
    image = sitk.Resample(image_on_grid(segments, grid), reference, sitk.Transform(), nearest, 0)
    return sitk.GetArrayFromImage(image)
