"""NIfTI-1 files, read to the last byte or refused, and written slice by slice.

SimpleITK loads a file that was cut off and fills the rest with 0 HU, turns NaN into 0 HU and a
spacing of 0 into 1 mm, and says nothing. This reader chooses the same grid as SimpleITK and Slicer
where the file is sound.
"""

from __future__ import annotations

import gzip
import math
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import (
    RIGHT_ANGLE_TOLERANCE,
    SNAP_TOLERANCE,
    Geometry,
    checked_grid,
    off_right_angle,
)

_FIELDS = {
    "sizeof_hdr": ("<i4", 0),
    "dim": ("<8i2", 40),
    "datatype": ("<i2", 70),
    "bitpix": ("<i2", 72),
    "pixdim": ("<8f4", 76),
    "vox_offset": ("<f4", 108),
    "scl_slope": ("<f4", 112),
    "scl_inter": ("<f4", 116),
    "xyzt_units": ("u1", 123),
    "qform_code": ("<i2", 252),
    "sform_code": ("<i2", 254),
    "quatern": ("<3f4", 256),
    "qoffset": ("<3f4", 268),
    "srow": ("<(3,4)f4", 280),
    "magic": ("S4", 344),
}
_HEADER = np.dtype(
    {
        "names": list(_FIELDS),
        "formats": [field for field, _ in _FIELDS.values()],
        "offsets": [offset for _, offset in _FIELDS.values()],
        "itemsize": 348,
    }
)
_DATATYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4",
    1024: "i8", 1280: "u8",
}  # fmt: skip
_COLOR_DATATYPES = (128, 2304)
_NIFTI2_HEADER_SIZE = 540
_MILLIMETERS = 2
_NOT_MILLIMETERS = {1: "meters", 3: "micrometers"}
_GZIP_MAX_RATIO = 1100
_GZIP_LEVEL = 4  # the first that finds what labels have in common; half the time of the usual 6
_CHUNK = 1 << 22
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def read_nifti(path: Path) -> tuple[np.ndarray, Geometry, tuple[str, ...]]:
    """Voxels (z, y, x) with the file's scaling applied, their grid, and notes about the header.

    NaN and infinite voxels come back as such. Integer files without scaling stay integer.

    Raises:
        InputError: Not a sound NIfTI-1 file with one 3D image.
    """
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if zipped else path.open("rb") as stream:
            header = _read_header(stream, path)
            shape = _shape(header, path)
            geometry, notes = _grid(header, shape, path)
            voxels = _read_voxels(stream, header, shape, path, zipped)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: expected a whole gzip file, found one that is cut off or damaged ({error}). "
            "Copy or download it again."
        ) from error
    return voxels, geometry, notes


def write_nifti(path: Path, voxels: np.ndarray, kind: type[np.generic], geometry: Geometry) -> None:
    """Write an image, gzip-compressed where the name ends in .gz; a slice more is held, no volume.

    Args:
        path: the file; an existing one is overwritten in place.
        voxels: (z, y, x).
        kind: the type of the file's voxels, uint8 or float32.
        geometry: their grid.

    Raises:
        OSError: the file could not be written whole.
    """
    zipped = path.name.lower().endswith(".gz")
    with gzip.GzipFile(path, "wb", _GZIP_LEVEL, mtime=0) if zipped else path.open("wb") as stream:
        stream.write(_header(kind, geometry).tobytes() + bytes(4))  # 4: no extensions follow
        for plane in voxels:
            stream.write(np.ascontiguousarray(plane, np.dtype(kind).newbyteorder("<")).data)


def _header(kind: type[np.generic], geometry: Geometry) -> np.ndarray:
    """A header whose sform and qform both give the grid, in scanner coordinates."""
    affine = _RAS_TO_LPS @ geometry.index_to_lps()[:3]
    rotation = _unit_columns(affine)
    handedness = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    rotation[:, 2] *= handedness
    quaternion = Rotation.from_matrix(rotation).as_quat(canonical=True)
    header = np.zeros((), _HEADER)
    header["sizeof_hdr"], header["magic"] = _HEADER.itemsize, b"n+1"
    header["dim"] = (3, *geometry.shape[::-1], 1, 1, 1, 1)
    codes = {np.dtype(name): code for code, name in _DATATYPES.items()}
    header["datatype"], header["bitpix"] = codes[np.dtype(kind)], np.dtype(kind).itemsize * 8
    header["vox_offset"] = _HEADER.itemsize + 4
    header["scl_slope"], header["xyzt_units"] = 1, _MILLIMETERS
    header["pixdim"][:4] = (handedness, *geometry.spacing_mm[::-1])
    header["qform_code"] = header["sform_code"] = 1
    header["quatern"] = quaternion[:3]
    header["qoffset"] = affine[:, 3]
    header["srow"] = affine
    return header


def _read_header(stream: BufferedIOBase, path: Path) -> np.void:
    block = stream.read(_HEADER.itemsize)
    if len(block) == _HEADER.itemsize:
        for header in (np.frombuffer(block, kind)[0] for kind in (_HEADER, _HEADER.newbyteorder())):
            if header["sizeof_hdr"] == _HEADER.itemsize and header["magic"] == b"n+1":
                return header
            if header["sizeof_hdr"] == _NIFTI2_HEADER_SIZE:
                raise InputError(
                    f"{path}: expected NIfTI-1, found NIfTI-2. Save it as NIfTI-1, NRRD or MHA."
                )
    raise InputError(
        f"{path}: expected a NIfTI image, found a file without a NIfTI header. "
        "Choose a CT as NIfTI, NRRD, MHA or a DICOM folder."
    )


def _shape(header: np.void, path: Path) -> tuple[int, int, int]:
    count = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : count + 1]]
    if not 1 <= count <= 7 or min(sizes) < 1:
        raise _damaged(path, f"axes {header['dim'].tolist()}")
    if int(header["datatype"]) in _COLOR_DATATYPES:
        raise InputError(
            f"{path}: expected one HU value a voxel, found a color (RGB) image. Choose the CT."
        )
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3:
        raise InputError(
            f"{path}: expected one 3D image, found {len(sizes)}D of {'x'.join(map(str, sizes))} "
            "voxels. Save the one frame that is the CT as a 3D image."
        )
    return sizes[2], sizes[1], sizes[0]


def _grid(
    header: np.void, shape: tuple[int, int, int], path: Path
) -> tuple[Geometry, tuple[str, ...]]:
    spacing_xyz = header["pixdim"][1:4].astype(float)
    if not ((spacing_xyz > 0) & np.isfinite(spacing_xyz)).all():
        raise InputError(
            f"{path}: expected a voxel spacing above 0 mm, found pixdim {spacing_xyz.tolist()}. "
            "Convert the CT again from its source."
        )
    units = int(header["xyzt_units"]) & 7
    if units in _NOT_MILLIMETERS:
        raise InputError(
            f"{path}: expected millimeters, found {_NOT_MILLIMETERS[units]}. Convert the units."
        )
    affine, notes = _choose_affine(header, spacing_xyz, shape, path)
    grid, mended = checked_grid(
        path,
        shape,
        tuple(float(s) for s in spacing_xyz[::-1]),
        tuple(float(o) for o in affine[:, 3]),
        _unit_columns(affine),
    )
    return grid, notes + mended


def _choose_affine(
    header: np.void, spacing_xyz: np.ndarray, shape: tuple[int, int, int], path: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The (3, 4) matrix from (x, y, z) index to LPS mm that SimpleITK and Slicer would take."""
    forms = {}
    if header["sform_code"] > 0:
        forms["sform"] = _sform(header, spacing_xyz, path)
    if header["qform_code"] > 0:
        forms["qform"] = _qform(header, spacing_xyz, path)
    if not forms:
        note = "the header says nothing of orientation: axes taken as right to left, front to back"
        return np.column_stack([np.diag(spacing_xyz), np.zeros(3)]), (f"{note}, feet to head",)
    if len(forms) == 1:
        return next(iter(forms.values())), ()
    shear = off_right_angle(_unit_columns(forms["sform"]))
    slightly_sheared = RIGHT_ANGLE_TOLERANCE < shear <= SNAP_TOLERANCE
    chosen = "qform" if header["sform_code"] != 1 or slightly_sheared else "sform"
    apart_mm = _farthest_corner_mm(forms["sform"] - forms["qform"], shape)
    if apart_mm <= 0.5 * spacing_xyz.min():
        return forms[chosen], ()
    note = f"sform and qform place voxels up to {apart_mm:.1f} mm apart: took the {chosen}"
    return forms[chosen], (note,)


def _sform(header: np.void, spacing_xyz: np.ndarray, path: Path) -> np.ndarray:
    affine = _RAS_TO_LPS @ header["srow"].astype(float)
    lengths = np.linalg.norm(affine[:, :3], axis=0)
    if not np.isfinite(affine).all() or not (abs(lengths / spacing_xyz - 1) <= 0.01).all():
        raise InputError(
            f"{path}: expected pixdim and sform to name the same spacing, found "
            f"{_mm(spacing_xyz)} mm in pixdim and {_mm(lengths)} mm in the sform. "
            "Convert the CT again from its source, or correct the header."
        )
    return affine


def _qform(header: np.void, spacing_xyz: np.ndarray, path: Path) -> np.ndarray:
    quaternion = header["quatern"].astype(float)
    squared = float(quaternion @ quaternion)
    if not squared <= 1.01 or not np.isfinite(header["qoffset"]).all():
        raise _damaged(path, f"quaternion {quaternion.tolist()} at {header['qoffset'].tolist()}")
    b, c, d = quaternion / max(1.0, squared**0.5)
    a = max(0.0, 1.0 - b * b - c * c - d * d) ** 0.5
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    flip = np.array([1.0, 1.0, -1.0 if header["pixdim"][0] < 0 else 1.0])
    affine = np.column_stack([rotation * spacing_xyz * flip, header["qoffset"].astype(float)])
    return _RAS_TO_LPS @ affine


def _unit_columns(affine: np.ndarray) -> np.ndarray:
    return affine[:, :3] / np.linalg.norm(affine[:, :3], axis=0)


def _farthest_corner_mm(difference: np.ndarray, shape: tuple[int, int, int]) -> float:
    last = np.array(shape[::-1]) - 1
    corners = np.array(list(np.ndindex(2, 2, 2))) * last
    return float(np.linalg.norm(corners @ difference[:, :3].T + difference[:, 3], axis=1).max())


def _read_voxels(
    stream: BufferedIOBase, header: np.void, shape: tuple[int, int, int], path: Path, zipped: bool
) -> np.ndarray:
    if int(header["datatype"]) not in _DATATYPES:
        raise InputError(
            f"{path}: expected integer or float voxels, found NIfTI datatype "
            f"{int(header['datatype'])}. Save the CT as 16-bit integers."
        )
    offset = float(header["vox_offset"])
    if not _HEADER.itemsize <= offset < 2**31:
        raise _damaged(path, f"voxels at byte {offset}")
    kind = np.dtype(_DATATYPES[int(header["datatype"])])
    kind = kind.newbyteorder(header.dtype["datatype"].byteorder)
    stream.seek(int(offset))
    block = _read_bytes(stream, kind.itemsize * math.prod(shape), path, zipped)
    voxels = block.view(kind).reshape(shape)
    if not kind.isnative:
        voxels = voxels.byteswap(inplace=True).view(kind.newbyteorder("="))
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0 or (slope == 1 and inter == 0):
        return voxels
    if not math.isfinite(inter):
        raise _damaged(path, f"intensity scaling {slope} with offset {inter}")
    voxels = voxels.astype(np.float32, copy=False)
    voxels *= np.float32(slope)
    voxels += np.float32(inter)
    return voxels


def _read_bytes(stream: BufferedIOBase, size: int, path: Path, zipped: bool) -> np.ndarray:
    found = path.stat().st_size * (_GZIP_MAX_RATIO if zipped else 1)
    filled = 0
    if found >= size:
        block = np.empty(size, np.uint8)
        while filled < size and (count := stream.readinto(block.data[filled : filled + _CHUNK])):
            filled += count
    if filled < size:
        raise InputError(
            f"{path}: expected {size} bytes of voxels, found {filled or 'far less'}: the file was "
            "cut off. Copy or download it again."
        )
    while zipped and stream.read(_CHUNK):
        pass
    return block


def _damaged(path: Path, found: str) -> InputError:
    return InputError(
        f"{path}: expected a sound NIfTI header, found {found}. Copy or convert the file again."
    )


def _mm(values: np.ndarray) -> str:
    return " x ".join(f"{v:.4g}" for v in values)
