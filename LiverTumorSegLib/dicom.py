"""One CT series from a DICOM folder, its slices sorted and checked by their positions."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry, checked_grid

_GAP_TOLERANCE_MM = 0.05
_GAP_TOLERANCE = 0.01
_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_CT_CLASSES = (_CT_STORAGE, f"{_CT_STORAGE}.1", f"{_CT_STORAGE}.2")  # plain, enhanced, converted
_CT_FILE_MARK = b"\2\0\2\0UI\x1a\0" + _CT_STORAGE.encode()  # storage class in the file's preface


@dataclass(frozen=True)
class _Slice:
    """One file's header. `spacing_yx_mm` is distance between rows, then between columns."""

    path: Path
    series: str
    description: str
    modality: str
    is_ct_slice: bool
    frames: int
    size_yx: tuple[int, int]
    spacing_yx_mm: tuple[float, ...]
    position: tuple[float, ...]
    orientation: tuple[float, ...]


def read_dicom_series(
    folder: Path, ct_only: bool = True
) -> tuple[np.ndarray, Geometry, tuple[str, ...]]:
    """The HU (z, y, x) of the folder's only CT series, their grid, and notes about it.

    Slices run along the normal of the image plane, whatever the files' names and numbers. Other
    modalities, localizers and screen captures beside the CT are left out; subfolders are not
    searched.

    Args:
        folder: the files' own.
        ct_only: False to take images of any class, such as masks; the values are theirs then.

    Raises:
        InputError: No CT series or several, slices missing, doubled, tilted or of differing grids.
    """
    slices, axes, gap_mm = _sorted_series(folder, ct_only)
    hu = _read_slices(slices, folder)
    spacing_mm = (gap_mm, *slices[0].spacing_yx_mm)
    geometry, notes = checked_grid(folder, hu.shape, spacing_mm, slices[0].position, axes)
    return hu, geometry, notes


def is_dicom(path: Path) -> bool:
    """Whether this is a file that says so of itself, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def series_files(folder: Path) -> list[Path]:
    """The files of the folder's only CT series, in the order in which their slices are read.

    Raises:
        InputError: As `read_dicom_series`.
    """
    return [s.path for s in _sorted_series(folder, ct_only=True)[0]]


def _sorted_series(folder: Path, ct_only: bool) -> tuple[list[_Slice], np.ndarray, float]:
    """The slices along their normal, the (3, 3) axes of their grid, one a column, and their gap."""
    slices = _only_series(folder, ct_only)
    _check_alike(slices, folder)
    row, column = np.array(slices[0].orientation).reshape(2, 3)
    axes = np.column_stack([row, column, np.cross(row, column)])
    slices.sort(key=lambda s: float(axes[:, 2] @ s.position))
    return slices, axes, _checked_gap_mm(slices, axes, folder)


def _read_slices(slices: list[_Slice], folder: Path) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileNames([str(s.path) for s in slices])
    try:
        return sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise InputError(
            f"{folder}: expected readable CT slices, found pixel data that GDCM cannot decode. "
            "Export the series again, uncompressed if possible."
        ) from error


def _only_series(folder: Path, ct_only: bool) -> list[_Slice]:
    headers = [h for p in sorted(folder.iterdir()) if p.is_file() and (h := _header(p))]
    if not headers:
        raise InputError(
            f"{folder}: expected a folder with the DICOM files of one CT series, found no DICOM "
            "image. Choose the folder that holds the slices themselves."
        )
    slices = [h for h in headers if h.is_ct_slice or not ct_only]
    if not slices:
        found = ", ".join(sorted({h.modality or "unknown" for h in headers}))
        raise InputError(
            f"{folder}: expected a CT series, found images of modality {found} only (localizers "
            "and screen captures do not count). Choose the CT."
        )
    series = Counter(s.series for s in slices)
    if len(series) > 1:
        names = {s.series: s.description or "no description" for s in slices}
        listed = "; ".join(f"{count} slices '{names[uid]}'" for uid, count in series.items())
        raise InputError(
            f"{folder}: expected one CT series, found {len(series)}: {listed}. Put the one to "
            "segment into a folder of its own."
        )
    return slices


def _header(path: Path) -> _Slice | None:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        if _claims_ct(path):
            raise InputError(
                f"{path}: expected a CT slice, found a DICOM file that is damaged or cut off. "
                "Export the series again."
            ) from None
        return None

    def text(tag: str) -> str:
        return reader.GetMetaData(tag).strip(" \0") if reader.HasMetaDataKey(tag) else ""

    columns, rows, *_ = reader.GetSize()
    return _Slice(
        path=path,
        series=text("0020|000e"),
        description=text("0008|103e"),
        modality=text("0008|0060"),
        is_ct_slice=text("0008|0016") in _CT_CLASSES
        and "LOCALIZER" not in text("0008|0008").upper(),
        frames=int((_numbers(text("0028|0008")) or (1,))[0]),
        size_yx=(rows, columns),
        spacing_yx_mm=_numbers(text("0028|0030")),
        position=_numbers(text("0020|0032")),
        orientation=_numbers(text("0020|0037")),
    )


def _claims_ct(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(1024)
    return start[128:132] == b"DICM" and _CT_FILE_MARK in start


def _numbers(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return ()
    return values if all(map(math.isfinite, values)) else ()


def _check_alike(slices: list[_Slice], folder: Path) -> None:
    first = slices[0]
    for s in slices:
        if s.frames > 1:
            raise InputError(
                f"{s.path}: expected one slice a file, found {s.frames} frames. Convert the "
                "series to NIfTI or to single-frame DICOM."
            )
        if (len(s.position), len(s.orientation), len(s.spacing_yx_mm)) != (3, 6, 2):
            raise InputError(
                f"{s.path}: expected position, orientation and pixel spacing of the slice, found "
                "no usable values. Export the original series again."
            )
        alike = np.allclose(s.orientation, first.orientation, atol=1e-3)
        alike &= np.allclose(s.spacing_yx_mm, first.spacing_yx_mm, rtol=1e-3)
        if not alike or s.size_yx != first.size_yx:
            raise InputError(
                f"{folder}: expected slices of one orientation, pixel spacing and size, found "
                f"'{s.path.name}' to differ from '{first.path.name}'. Remove what does not belong "
                "to the series."
            )


def _checked_gap_mm(slices: list[_Slice], axes: np.ndarray, folder: Path) -> float:
    """Distance of neighboring slices in mm, refused unless it is one and the same."""
    if len(slices) < 2:
        raise InputError(
            f"{folder}: expected a CT of several slices, found one. Choose the whole series."
        )
    positions = (np.array([s.position for s in slices]) - slices[0].position) @ axes
    gaps = np.diff(positions[:, 2])
    usual = float(np.median(gaps))
    worst = int(np.abs(gaps - usual).argmax())
    doubled = int((gaps < 1e-3).sum())
    if doubled:
        raise InputError(
            f"{folder}: expected one slice at each position, found {doubled} at the position of "
            "another (several phases in one series?). Keep one phase in the folder."
        )
    if abs(gaps[worst] - usual) > max(_GAP_TOLERANCE_MM, _GAP_TOLERANCE * usual):
        raise InputError(
            f"{folder}: expected slices {usual:.4g} mm apart, found a gap of {gaps[worst]:.4g} mm "
            f"between slices {worst + 1} and {worst + 2} of {len(slices)} (slices missing?). "
            "Export the whole series again, or resample it to an even spacing."
        )
    aside_mm = float(np.abs(positions[:, :2]).max())
    if aside_mm > 0.5 * min(slices[0].spacing_yx_mm):
        raise InputError(
            f"{folder}: expected slices straight above each other, found them shifted by up to "
            f"{aside_mm:.4g} mm (tilted gantry?). Resample the series to a right-angled grid "
            "first, for example in 3D Slicer."
        )
    return float(positions[-1, 2] / (len(slices) - 1))
