"""Read a case's CT and labels from its files, whatever the layout."""

from __future__ import annotations

import bz2
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from LiverTumorSegLib.dicom import read_dicom_series
from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.geometry import Geometry, same_grid
from LiverTumorSegLib.labels import LIVER, TUMOR
from LiverTumorSegLib.staging import FULL
from LiverTumorSegLib.volume import Volume, read_labels, read_volume
from Training.layouts import Masks

T = TypeVar("T")


@dataclass(frozen=True)
class Reference:
    """What was drawn on a CT.

    Attributes:
        path: what to name in messages.
        labels: whole numbers (z, y, x) as the file has them; of masks 0, 1 and 2.
        geometry: their grid.
        outside_liver: voxels of tumor masks that no liver mask covers; 0 for a label map.
    """

    path: Path
    labels: np.ndarray
    geometry: Geometry
    outside_liver: int


def read_ct(path: Path) -> Volume:
    """The CT in a file, which may be packed as .bz2, or in the folder of a DICOM series.

    Raises:
        InputError: it cannot be read to its last byte.
    """
    return read_unpacked(path, read_volume)


def read_reference(label: Path | Masks) -> Reference:
    """The labels of a case.

    Raises:
        InputError: they cannot be read, or masks of one case lie on different grids.
    """
    if isinstance(label, Masks):
        return unite(label)
    labels, geometry = read_unpacked(label, read_labels)
    return Reference(label, labels, geometry, outside_liver=0)


def unite(masks: Masks) -> Reference:
    """One label map of a case's masks: tumor where one is drawn, liver elsewhere in any mask.

    Raises:
        InputError: a mask cannot be read or lies on another grid than the first.
    """
    first = masks.liver[0]
    liver, geometry = read_mask(first)
    for path in masks.liver[1:]:
        liver |= on_grid(path, geometry, first)
    tumor = np.zeros_like(liver)
    for path in masks.tumor:
        tumor |= on_grid(path, geometry, first)
    labels = np.where(tumor, TUMOR, np.where(liver, LIVER, 0)).astype(np.uint8)
    return Reference(first, labels, geometry, int(np.count_nonzero(tumor & ~liver)))


def on_grid(path: Path, geometry: Geometry, first: Path) -> np.ndarray:
    """A mask that has to lie on the grid of the first.

    Raises:
        InputError: it does not.
    """
    mask, its_geometry = read_mask(path)
    if not same_grid(its_geometry, geometry):
        raise InputError(
            f"{path}: expected the grid of {first}, found another number or position of slices. "
            "Copy the masks again."
        )
    return mask


def read_mask(folder: Path) -> tuple[np.ndarray, Geometry]:
    """Bool (z, y, x), true above the lowest value, as masks come as 0 and 255 or 0 and 1; its grid.

    Its files need not call themselves a CT.

    Raises:
        InputError: no sound DICOM series.
    """
    try:
        voxels, geometry, _ = read_dicom_series(folder, ct_only=False)
    except OSError as error:
        raise InputError(
            f"{folder}: expected DICOM files that can be read, found: {error.strerror}. Copy them "
            "again."
        ) from error
    return voxels > voxels.min(), geometry


def label_values(labels: np.ndarray) -> list[int]:
    """The values in a label map (z, y, x), looked for slice by slice, which is quicker."""
    return sorted({int(value) for plane in labels for value in np.unique(plane)})


def read_unpacked(path: Path, read: Callable[[Path], T]) -> T:
    """Call `read` on a file, through an unpacked copy if it is a .bz2.

    Raises:
        InputError: naming the file, not the copy.
        ResourceError: no room to unpack.
    """
    if path.suffix.lower() != ".bz2":
        return read(path)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.stem
        try:
            with bz2.open(path) as source, plain.open("wb") as target:
                shutil.copyfileobj(source, target)
        except (OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise ResourceError(
                    f"{folder}: no room to unpack {path.name}. Free some space on that disk, or "
                    "unpack the file yourself."
                ) from error
            raise InputError(
                f"{path}: expected a whole .bz2 file, found one that cannot be decompressed "
                f"({error}). Copy it again."
            ) from error
        try:
            return read(plain)
        except InputError as error:
            raise InputError(str(error).replace(str(plain), str(path))) from error
