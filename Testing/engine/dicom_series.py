"""CT series as scanners leave them, in all directions, and the DICOM results of known labels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.sr import Comprehensive3DSR
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from LiverTumorSegLib.dicom_results import source_of_results, write_dicom
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import measure
from LiverTumorSegLib.report import DICOM_REPORT, DICOM_SEG
from LiverTumorSegLib.volume import Volume, read_volume

HU_SHIFT = -1024
SHAPE = (11, 24, 30)
MODELS = {
    "liver": {"name": "my-liver", "sha256": "abc"},
    "tumor": {"name": "my-tumor", "sha256": "def"},
}
STUDY, SERIES, FRAME = "1.2.826.0.1.1", "1.2.826.0.1.2", "1.2.826.0.1.3"


def _turned(degrees: float, axis: int) -> np.ndarray:
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]])
    return np.roll(rotation, (axis - 2, axis - 2), (0, 1))


# Direction in LPS in which columns follow each other along a row, and rows down a column.
ORIENTATIONS = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "axial, upside down": ((1, 0, 0), (0, -1, 0)),
    "axial, mirrored": ((-1, 0, 0), (0, 1, 0)),
    "prone": ((-1, 0, 0), (0, -1, 0)),
    "on the side": ((0, 1, 0), (-1, 0, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "sagittal, reversed": ((0, -1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "coronal, reversed": ((-1, 0, 0), (0, 0, -1)),
    "oblique": tuple(map(tuple, _turned(20, 0)[:, :2].T.tolist())),
    "double oblique": tuple(map(tuple, (_turned(20, 0) @ _turned(-35, 2))[:, :2].T.tolist())),
}


def grid_of(orientation: str, shape: tuple[int, int, int]) -> Geometry:
    """The grid that the series of this orientation must be read on."""
    row, column = np.array(ORIENTATIONS[orientation], float)
    axes = np.column_stack([row, column, np.cross(row, column)])
    return Geometry(shape, (2.5, 0.8, 0.7), (-31.5, 12.25, -407.5), tuple(map(tuple, axes)))


def write_series(folder: Path, volume: Volume, **changes: object) -> Path:
    """One file a slice, named so that neither names nor instance numbers tell the order.

    Args:
        folder: made.
        volume: what the series holds; rounded to whole HU.
        changes: attributes by keyword, to set in every slice; None deletes one.
    """
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0).permutation(len(volume.hu))
    for k, (plane, number) in enumerate(zip(volume.hu, numbers, strict=True)):
        data = _slice(plane, volume.geometry, k)
        data.InstanceNumber = int(number) + 1
        for keyword, value in changes.items():
            if value is None:
                delattr(data, keyword)
            else:
                setattr(data, keyword, value)
        data.save_as(folder / f"{number:03}.dcm", enforce_file_format=True)
    return folder


def _slice(plane: np.ndarray, geometry: Geometry, k: int) -> pydicom.Dataset:
    z_mm, y_mm, x_mm = geometry.spacing_mm
    direction = np.array(geometry.direction)
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.PatientName, data.PatientID = "Secret^Name", "SECRET-ID"
    data.PatientBirthDate, data.PatientSex = "19501231", "F"
    data.StudyInstanceUID, data.SeriesInstanceUID = STUDY, SERIES
    data.StudyDate, data.StudyTime, data.StudyID = "20250102", "101112", "7"
    data.AccessionNumber, data.ReferringPhysicianName = "A1", ""
    data.Modality, data.SeriesNumber = "CT", 3
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = FRAME, ""
    data.ImagePositionPatient = (geometry.origin_mm + direction[:, 2] * k * z_mm).round(6).tolist()
    data.ImageOrientationPatient = direction[:, :2].T.ravel().round(10).tolist()
    data.PixelSpacing, data.SliceThickness = [y_mm, x_mm], z_mm
    data.Rows, data.Columns = plane.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.RescaleSlope, data.RescaleIntercept = 1, HU_SHIFT
    data.PixelData = (np.rint(plane) - HU_SHIFT).astype("<u2").tobytes()
    return data


def marked() -> np.ndarray:
    """A liver with three lesions; one fills its last slice, one is a single voxel."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:9, 4:20, 5:26] = 1
    labels[3:6, 6:10, 7:15] = 2
    labels[8, 4:20, 5:26] = 2
    labels[4, 17, 23] = 2
    return labels


class Written:
    """A series on disk, and the SEG and SR of its labels."""

    def __init__(self, folder: Path, orientation: str, labels: np.ndarray, **changes: object):
        hu = np.random.default_rng(1).integers(-50, 150, labels.shape).astype(np.float32)
        self.labels = labels
        self.folder = write_series(
            folder / "ct", Volume(hu, grid_of(orientation, labels.shape)), **changes
        )
        self.volume = read_volume(self.folder)
        self.source = source_of_results(self.folder)
        self.measurement, self.lesion_map = measure(self.volume, labels)
        self.out = folder / "out"
        self.out.mkdir()
        self.warnings = self.write(self.out)

    def write(self, out: Path) -> tuple[str, ...]:
        return write_dicom(out, self.source, MODELS, self.labels, self.measurement, self.lesion_map)

    def masks(self) -> list[np.ndarray]:
        lesions = range(1, len(self.measurement.lesions) + 1)
        return [self.labels > 0, *(self.lesion_map == n for n in lesions)]

    def seg(self) -> pydicom.Dataset:
        return pydicom.dcmread(self.out / DICOM_SEG)

    def report(self) -> Comprehensive3DSR:
        return hd.sr.srread(self.out / DICOM_REPORT)


def voxels_mm(seg: pydicom.Dataset) -> dict[int, list[np.ndarray]]:
    """LPS of every voxel of each segment, by the standard's own words (PS3.3 C.7.6.2.1.1)."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    rows_mm, columns_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    along_row, down_column = cosines.reshape(2, 3)
    found: dict[int, list[np.ndarray]] = {}
    for frame, item in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        corner = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.argwhere(frame):
            place = corner + column * columns_mm * along_row + row * rows_mm * down_column
            found.setdefault(number, []).append(place)
    return found


def dcmqi(name: str, *arguments: str | Path) -> str:
    beside = str(Path(sys.executable).parent)
    program = shutil.which(name, path=os.pathsep.join([beside, os.environ["PATH"]]))
    if program is None:
        pytest.skip("dcmqi is not installed")
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout
