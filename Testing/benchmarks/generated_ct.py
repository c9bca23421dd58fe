"""A generated CT of any length with known labels, for measurements of time and memory.

    python -m Testing.benchmarks.generated_ct SLICES OUTPUT.nii.gz [LABELS.nii.gz]

A torso on a couch in air, a liver in it, tumors in the liver, all with noise. The same number of
slices gives the same bytes. Slices are made in slabs, and the noise is one slab's, shifted, so that
making a CT costs little more than writing it.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.volume import Volume

SIDE = 512
PIXEL_MM = 0.78
LENGTH_MM = 600.0  # of long CTs; short ones have slices of the greatest distance
SLICE_MM = (0.4, 2.5)
SLAB = 16

AIR_HU, COUCH_HU, FAT_HU, BODY_HU, LIVER_HU, TUMOR_HU = -1000, -300, -100, 10, 60, 20
# In air and in the body. As high as in thin slices: the file is half as large as its voxels.
NOISE_HU = (6.0, 14.0)

# Center from the CT's, then radii, in mm along (z, y, x). The body and the couch run through.
FAT_MM = ((0.0, -10.0, 0.0), (np.inf, 115.0, 165.0))
BODY_MM = ((0.0, -10.0, 0.0), (np.inf, 98.0, 148.0))
LIVER_MM = ((0.0, -20.0, -55.0), (80.0, 65.0, 75.0))
TUMORS_MM = (
    ((-20.0, -30.0, -70.0), (22.0, 18.0, 20.0)),
    ((25.0, 0.0, -40.0), (12.0, 12.0, 12.0)),
    ((40.0, -35.0, -60.0), (7.0, 9.0, 8.0)),
    ((0.0, -45.0, -20.0), (4.0, 4.0, 4.0)),
)
COUCH_MM = (120.0, 135.0)  # from the center to the back


def geometry_of(slices: int) -> Geometry:
    """The grid of a generated CT."""
    slice_mm = float(np.clip(LENGTH_MM / slices, *SLICE_MM))
    return Geometry((slices, SIDE, SIDE), (slice_mm, PIXEL_MM, PIXEL_MM))


def slabs(slices: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield the slices' range, HU (int16) and labels (uint8: 0, 1 liver, 2 tumor), (z, y, x)."""
    geometry = geometry_of(slices)
    middle = [(size - 1) / 2 for size in geometry.shape]
    noise = np.random.default_rng(6).standard_normal((SLAB, SIDE, SIDE), np.float32)
    for first in range(0, slices, SLAB):
        part = slice(first, min(first + SLAB, slices))
        z, y, x = (
            (index - center) * mm
            for index, center, mm in zip(
                np.ogrid[part, :SIDE, :SIDE], middle, geometry.spacing_mm, strict=True
            )
        )

        def inside(
            ellipsoid: tuple[tuple[float, ...], tuple[float, ...]],
            axes: tuple[np.ndarray, ...] = (z, y, x),
        ) -> np.ndarray:
            terms = [((a - c) / r) ** 2 for a, c, r in zip(axes, *ellipsoid, strict=True)]
            return terms[0] + terms[1] + terms[2] <= 1

        labels = inside(LIVER_MM).astype(np.uint8)
        for tumor in TUMORS_MM:
            labels[inside(tumor)] = 2
        fat = inside(FAT_MM)[0]
        couch = ((y > COUCH_MM[0]) & (y < COUCH_MM[1]) & (x == x))[0]
        plane = np.select([inside(BODY_MM)[0], fat, couch], [BODY_HU, FAT_HU, COUCH_HU], AIR_HU)
        hu = np.roll(noise[: len(labels)], first * 7 + first // SLAB, axis=(1, 2))
        hu = hu * np.where(fat, *NOISE_HU[::-1]).astype(np.float32)
        hu += np.select([labels == 1, labels == 2], [LIVER_HU, TUMOR_HU], plane)
        yield part, np.rint(np.maximum(hu, -1024)).astype(np.int16), labels


def generated(slices: int) -> tuple[Volume, np.ndarray]:
    """The CT as it is read from its file, and its labels, uint8 (z, y, x)."""
    geometry = geometry_of(slices)
    hu, labels = np.empty(geometry.shape, np.float32), np.empty(geometry.shape, np.uint8)
    for part, slab_hu, slab_labels in slabs(slices):
        hu[part], labels[part] = slab_hu, slab_labels
    return Volume(hu, geometry, f"generated, {slices} slices"), labels


def write(slices: int, ct: Path, labels: Path | None = None) -> None:
    """Write the CT, and its labels if asked for, as compressed NIfTI, slab by slab."""
    geometry = geometry_of(slices)
    _, one_slab, its_labels = next(slabs(min(slices, SLAB)))
    files = [(ct, one_slab.dtype)] + ([(labels, its_labels.dtype)] if labels else [])
    streams = [gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) for path, _ in files]
    for stream, (_, kind) in zip(streams, files, strict=True):
        stream.write(_header(geometry, kind))
    for _, *arrays in slabs(slices):
        for stream, array in zip(streams, arrays, strict=False):
            stream.write(array.tobytes())
    for stream in streams:
        stream.close()


def _header(geometry: Geometry, kind: np.dtype) -> bytes:
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(kind)
    header.set_data_shape(geometry.shape[::-1])
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.index_to_lps()
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header.binaryblock + b"\0\0\0\0"


if __name__ == "__main__":
    write(int(sys.argv[1]), *map(Path, sys.argv[2:4]))
