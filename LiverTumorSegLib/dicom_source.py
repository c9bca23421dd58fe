"""The CT series that DICOM results refer to: the headers of its slices, checked and completed."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.valuerep import DA, TM, DSfloat

from LiverTumorSegLib.dicom import series_files
from LiverTumorSegLib.dicom_extra import without_their_warnings
from LiverTumorSegLib.errors import InputError

_REFERRED_TO = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# Of patient and study; the standard wants them in every object but lets them be empty (type 2).
_MAY_BE_EMPTY = {
    "PatientID": str,
    "PatientName": str,
    "PatientBirthDate": DA,
    "PatientSex": hd.PatientSexValues,
    "AccessionNumber": str,
    "StudyID": str,
    "StudyDate": DA,
    "StudyTime": TM,
    "ReferringPhysicianName": str,
}
_NAMESPACE = uuid.UUID("5f0c7d52-3a0e-4d0b-9c55-6b0f2f1f7c11")


@dataclass(frozen=True)
class SourceSeries:
    """A CT series as DICOM results refer to it.

    Attributes:
        headers: one a slice, without pixels, in the order of the slices of `read_volume`.
        warnings: what they lacked and what stands in its place; they tell no values.
    """

    headers: tuple[Dataset, ...]
    warnings: tuple[str, ...]

    @property
    def series_uid(self) -> str:
        """The Series Instance UID."""
        return str(self.headers[0].SeriesInstanceUID)

    @property
    def frame_of_reference_uid(self) -> str:
        """The Frame of Reference UID."""
        return str(self.headers[0].FrameOfReferenceUID)


def derived_uid(*parts: str) -> str:
    """A UID that is the same whenever it is made of the same texts (UUID version 5, under 2.25)."""
    return str(hd.UID.from_uuid(str(uuid.uuid5(_NAMESPACE, "\n".join(parts)))))


@without_their_warnings()
def read_source(folder: Path) -> SourceSeries:
    """The headers of the folder's CT series.

    Without a frame of reference the series gets one that is made from its own UID, the same each
    time. What is not known of patient and study stays empty.

    Args:
        folder: as `read_volume` takes it.

    Raises:
        InputError: No folder of one CT series, or slices that nothing can refer to.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected the folder of a DICOM series, found another input. DICOM results "
            "refer to the slices of a series; give its folder, or leave out --seg dicom."
        )
    headers = tuple(_header(path) for path in series_files(folder))
    _check_references(headers, folder)
    warnings = [_with_frame_of_reference(headers, folder), *_with_patient_and_study(headers[0])]
    _agree_on_the_grid(headers)
    return SourceSeries(headers, tuple(text for text in warnings if text))


def _header(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)
    except (InvalidDicomError, OSError, EOFError) as error:
        raise InputError(
            f"{path}: expected a CT slice, found a DICOM file that is damaged or cut off. Export "
            "the series again."
        ) from error


def _check_references(headers: tuple[Dataset, ...], folder: Path) -> None:
    for keyword in _REFERRED_TO:
        lacking = sum(not header.get(keyword) for header in headers)
        if lacking:
            raise InputError(
                f"{folder}: expected a {keyword} in every slice, for DICOM results to refer to, "
                f"found {lacking} of {len(headers)} slices without. Export the series again; "
                "only DICOM SEG and SR need this."
            )
    studies = len({header.StudyInstanceUID for header in headers})
    instances = len({header.SOPInstanceUID for header in headers})
    if studies > 1 or instances < len(headers):
        raise InputError(
            f"{folder}: expected slices of one study, each with a SOPInstanceUID of its own, found "
            f"{studies} studies and {instances} different UIDs in {len(headers)} slices (a faulty "
            "anonymization?). Export the series again; only DICOM SEG and SR need this."
        )


def _with_frame_of_reference(headers: tuple[Dataset, ...], folder: Path) -> str:
    frames = {str(header.get("FrameOfReferenceUID") or "") for header in headers}
    if len(frames) > 1:
        raise InputError(
            f"{folder}: expected slices of one frame of reference, found {len(frames)}. Export the "
            "series again; only DICOM SEG and SR need this."
        )
    if frames != {""}:
        return ""
    for header in headers:
        header.FrameOfReferenceUID = derived_uid("frame of reference", header.SeriesInstanceUID)
    return (
        "The series has no FrameOfReferenceUID: the DICOM results name one made from its "
        "SeriesInstanceUID, and some viewers may not show them over the CT."
    )


def _agree_on_the_grid(headers: tuple[Dataset, ...]) -> None:
    """One orientation for all, and slices as thick as they are apart, as lesions are measured."""
    first, last = (np.array(headers[k].ImagePositionPatient, float) for k in (0, -1))
    gap_mm = float(np.linalg.norm(last - first)) / (len(headers) - 1)
    for header in headers:
        header.ImageOrientationPatient = headers[0].ImageOrientationPatient
        header.SliceThickness = header.SpacingBetweenSlices = DSfloat(gap_mm, auto_format=True)


def _with_patient_and_study(header: Dataset) -> list[str]:
    """Leave empty what is missing or not to be understood; highdicom takes all from one slice."""
    missing, faulty = [], []
    for keyword, kind in _MAY_BE_EMPTY.items():
        value = header.get(keyword)
        if keyword not in header:
            missing.append(keyword)
        try:
            if value:
                kind(value)
                continue
        except ValueError:
            faulty.append(keyword)
        setattr(header, keyword, None)
    found = (("has no", missing), ("has a faulty", faulty))
    return [
        f"The series {what} {', '.join(names)}: left empty in the DICOM results."
        for what, names in found
        if names
    ]
