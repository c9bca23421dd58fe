"""Volume: a CT in HU on a checked geometry, and label maps on the same grid.

Engine arrays are (z, y, x), spacing is (z, y, x) in mm, intensities are HU, patient space is LPS.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from LiverTumorSegLib.dicom import read_dicom_series
from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.geometry import Geometry, checked_grid
from LiverTumorSegLib.nifti import read_nifti, write_nifti
from LiverTumorSegLib.zipped import check_zipped

AIR_HU = -1024.0
_NIFTI = (".nii", ".nii.gz")
_READABLE = (*_NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd")
_WRITABLE = (*_NIFTI, ".nrrd", ".mha")


@dataclass(frozen=True)
class Volume:
    """A CT. `hu` is float32 (z, y, x); `repairs` names what was mended while reading."""

    hu: np.ndarray
    geometry: Geometry
    name: str = "CT"
    repairs: tuple[str, ...] = ()


def read_volume(path: Path) -> Volume:
    """Read a CT from NIfTI, NRRD, MHA, or a folder holding the slices of one DICOM CT series.

    NaN and infinite voxels and those below -1024 HU (padding outside the field of view) become
    -1024 HU; `repairs` says how many.

    Raises:
        InputError: Not one sound 3D image on a regular, right-angled grid.

    >>> ct = read_volume(Path("Testing/data/hcc006_arterial.nii.gz"))
    >>> ct.hu.shape, ct.geometry.spacing_mm
    ((74, 391, 509), (2.5, 0.78125, 0.78125))
    """
    path = Path(path)
    voxels, geometry, notes = _read(path)
    if min(geometry.shape) < 2:
        sizes = "x".join(map(str, geometry.shape[::-1]))
        raise InputError(
            f"{path}: expected a 3D image, found a single slice of {sizes} voxels. "
            "Choose the whole CT."
        )
    name = "DICOM series" if path.is_dir() else path.name[: -len(_ending(path, _READABLE))]
    hu, repairs = clean_hu(voxels)
    return Volume(hu, geometry, name, notes + repairs)


def read_labels(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a label map (z, y, x) of integers from NIfTI, NRRD or MHA, and its grid.

    Raises:
        InputError: Not one sound 3D image, or voxels that are no whole numbers.
    """
    path = Path(path)
    voxels, geometry, _ = _read(path)
    if np.issubdtype(voxels.dtype, np.integer):
        return voxels, geometry
    if not (np.isfinite(voxels).all() and (voxels == np.rint(voxels)).all()):
        raise InputError(
            f"{path}: expected a label map of whole numbers, found fractions or NaN. "
            "Choose the segmentation, not an image or a probability map."
        )
    return voxels.astype(np.int32), geometry


@dataclass(frozen=True)
class FileSegment:
    """A segment of a .seg.nrrd: its name and tags, and where its voxels are."""

    name: str
    tags: str
    layer: np.ndarray
    value: int

    @property
    def mask(self) -> np.ndarray:
        """Bool (z, y, x); made anew each time, since a file may have many segments."""
        return self.layer == self.value


def read_segments(path: Path) -> tuple[list[FileSegment], Geometry]:
    """The segments of a .seg.nrrd and their grid.

    Raises:
        InputError: not a sound segmentation of 3D Slicer.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        check_zipped(path)
        image = reader.Execute()
    except OSError as error:
        raise InputError(
            f"{path}: expected a segmentation that can be read, found: {error.strerror or error}. "
            "Check the path and its permissions."
        ) from error
    except RuntimeError as error:
        raise InputError(
            f"{path}: expected a segmentation of 3D Slicer (.seg.nrrd), found a file that cannot "
            f"be read: {_reason(error)}. Save it again."
        ) from error
    numbers = [key.split("_")[0] for key in image.GetMetaDataKeys() if key.endswith("_LabelValue")]
    voxels = sitk.GetArrayFromImage(image)
    if not numbers or image.GetDimension() != 3:
        raise InputError(
            f"{path}: expected a segmentation of 3D Slicer with at least one segment, found none. "
            "Save it as .seg.nrrd from 3D Slicer, or give a label map."
        )
    layers = voxels if voxels.ndim == 4 else voxels[..., None]
    direction = np.array(image.GetDirection()).reshape(3, 3)
    geometry, _ = checked_grid(
        path, layers.shape[:3], image.GetSpacing()[::-1], image.GetOrigin(), direction
    )
    segments = []
    for number in sorted(numbers, key=lambda text: int(text.removeprefix("Segment"))):
        told = {
            field: image.GetMetaData(f"{number}_{field}")
            for field in ("Name", "Tags", "Layer", "LabelValue")
            if image.HasMetaDataKey(f"{number}_{field}")
        }
        layer, value = int(told.get("Layer", "0")), int(told["LabelValue"])
        if layer >= layers.shape[3]:
            raise InputError(
                f"{path}: expected {layer + 1} layers of segments, found {layers.shape[3]}. Save "
                "it again."
            )
        name, tags = told.get("Name", number), told.get("Tags", "")
        segments.append(FileSegment(name, tags, layers[..., layer], value))
    return segments, geometry


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write a label map, whole or not at all; the format follows the file's ending.

    Args:
        path: ends in .nii, .nii.gz, .nrrd or .mha; its folder exists. Replaced if it exists.
        labels: uint8 (z, y, x).
        geometry: the grid, kept to the precision of the format (NIfTI: 32-bit floats).

    Raises:
        InputError: Another ending, or a folder that cannot be written to.
        ResourceError: The file could not be written whole.
    """
    path = Path(path)
    ending = _ending(path, _WRITABLE)
    if labels.dtype != np.uint8 or labels.shape != geometry.shape:
        raise ValueError(
            f"expected uint8 labels of shape {geometry.shape}, got {labels.dtype} {labels.shape}"
        )
    try:
        folder = tempfile.TemporaryDirectory(
            prefix=f"{path.name}.", suffix=".partial", dir=path.parent
        )
    except OSError as error:
        raise InputError(
            f"{path}: expected a folder that can be written to, found: {error.strerror or error}. "
            "Choose another folder."
        ) from error
    with folder:
        partial = Path(folder.name) / f"labels{ending}"
        try:
            if ending in _NIFTI:
                write_nifti(partial, labels, np.uint8, geometry)
            else:
                _write_with_simpleitk(partial, labels, geometry)
        except (OSError, RuntimeError, InputError) as error:
            raise ResourceError(f"{path}: could not be written whole. Is the disk full?") from error
        try:
            partial.replace(path)
        except OSError as error:
            raise InputError(
                f"{path}: expected a file that can be written, found: {error.strerror or error}. "
                "Choose another name."
            ) from error


def _write_with_simpleitk(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """Write labels and read them back: on a full disk SimpleITK cuts the file off silently."""
    sitk.WriteImage(image_on_grid(labels, geometry), str(path), useCompression=True)
    if not np.array_equal(read_labels(path)[0], labels):
        raise OSError("the labels read back differ from those written")


def image_on_grid(voxels: np.ndarray, geometry: Geometry) -> sitk.Image:
    """The SimpleITK image of an array (z, y, x) on a grid."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(np.array(geometry.direction).ravel().tolist())
    return image


def _read(path: Path) -> tuple[np.ndarray, Geometry, tuple[str, ...]]:
    try:
        if path.is_dir():
            return read_dicom_series(path)
        size = path.stat().st_size
        ending = _ending(path, _READABLE)
        if size == 0:
            raise InputError(f"{path}: expected an image, found an empty file. Copy it again.")
        if ending in _NIFTI:
            return read_nifti(path)
        check_zipped(path)
        return _read_with_simpleitk(path)
    except OSError as error:
        raise InputError(
            f"{path}: expected an image that can be read, found: {error.strerror or error}. "
            "Check the path and its permissions."
        ) from error


def _read_with_simpleitk(path: Path) -> tuple[np.ndarray, Geometry, tuple[str, ...]]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_one_frame(reader, path)
        if reader.GetPixelID() == sitk.sitkFloat64:
            reader.SetOutputPixelType(sitk.sitkFloat32)  # what HU become, and half the memory
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            f"{path}: expected a sound 3D image, found one that cannot be read: "
            f"{_reason(error)}. Copy or convert it again."
        ) from error
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    voxels = sitk.GetArrayFromImage(image)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    geometry, notes = checked_grid(
        path, voxels.shape, image.GetSpacing()[::-1], image.GetOrigin(), direction
    )
    return voxels, geometry, notes


def _check_one_frame(reader: sitk.ImageFileReader, path: Path) -> None:
    size = reader.GetSize()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() > 1 or "complex" in kind:
        raise InputError(
            f"{path}: expected one value a voxel, found {kind} (color or vectors). "
            "Choose the image itself."
        )
    if len(size) < 3 or any(n > 1 for n in size[3:]):
        raise InputError(
            f"{path}: expected one 3D image, found {len(size)}D of {'x'.join(map(str, size))} "
            "voxels. Save the one frame that is the CT as a 3D image."
        )


def _reason(error: RuntimeError) -> str:
    text = str(error)
    if "Unable to determine ImageIO" in text:
        return "no image of a known format"
    if "pacing" in text:
        return "a voxel spacing of 0 mm"
    return "the data are damaged or cut off"


def name_of(path: Path) -> str | None:
    """What a CT is called by its file, without the ending, or folder; None for other files.

    >>> name_of(Path("case 7.nii.gz")), name_of(Path("notes.txt"))
    ('case 7', None)
    """
    if path.is_dir():
        return path.name
    try:
        return path.name[: -len(_ending(path, _READABLE))]
    except InputError:
        return None


def _ending(path: Path, known: tuple[str, ...]) -> str:
    for ending in sorted(known, key=len, reverse=True):
        if path.name.lower().endswith(ending):
            return ending
    raise InputError(
        f"{path}: expected a file ending in {', '.join(known)}, found "
        f"'{path.suffix or path.name}'. Convert it, or give the folder of a DICOM series."
    )


def clean_hu(voxels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Float32 HU with what is no HU of a CT set to air, and a note of how many voxels that were.

    Args:
        voxels: (z, y, x) of any number type; a float32 array is changed in place.
    """
    hu = voxels if voxels.dtype == np.float32 else np.empty(voxels.shape, np.float32)
    no_number = below = 0
    for piece, plane in zip(voxels, hu, strict=True):  # slices stay in the processor's cache
        if hu is not voxels:
            with np.errstate(over="ignore"):
                plane[...] = piece
        if plane.size and plane.min() >= AIR_HU and plane.max() < np.inf:
            continue
        bad = ~np.isfinite(plane)
        no_number += int(np.count_nonzero(bad))
        plane[bad] = AIR_HU
        bad = plane < AIR_HU
        below += int(np.count_nonzero(bad))
        plane[bad] = AIR_HU
    found = ((no_number, "NaN or infinite"), (below, "below -1024 HU"))
    return hu, tuple(f"{n} voxels {what}: set to -1024 HU" for n, what in found if n)
