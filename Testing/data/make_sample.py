"""Make the sample CT from the folder of its DICOM series: python make_sample.py FOLDER [OUTPUT].

Air and table around the body become -1024 HU; the margins around the body and slices far from the
liver are cut off, which keeps the file under 15 MB. The body's HU and the spacing stay as they are.
The series and its license: README.md beside this file.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from LiverTumorSegLib.volume import AIR_HU, Volume, read_volume

LIVER_SLICES = slice(33, 107)  # liver in 43 to 100 of the 109 slices, counted from the feet
MARGIN_VOXELS = 8
SKIN_HU = -250
TABLE_THICKNESS_VOXELS = 5


def body_mask(hu: np.ndarray) -> np.ndarray:
    """The patient without table and clothes: bool (z, y, x)."""
    disk = ndimage.iterate_structure(
        ndimage.generate_binary_structure(2, 1), TABLE_THICKNESS_VOXELS
    )
    opened = np.stack([ndimage.binary_opening(s, disk) for s in hu > SKIN_HU])
    pieces, count = ndimage.label(opened)
    sizes = ndimage.sum_labels(opened, pieces, range(1, count + 1))
    body = pieces == 1 + int(np.argmax(sizes))
    return np.stack([ndimage.binary_fill_holes(ndimage.binary_dilation(s, disk)) for s in body])


def crop_to_body(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """HU as int16 (z, y, x) cropped to body and liver range, and the RAS affine of the crop."""
    body = body_mask(volume.hu)
    hu = np.where(body, volume.hu, AIR_HU).round().astype(np.int16)
    box = [LIVER_SLICES]
    for axis in (1, 2):
        inside = np.flatnonzero(body[LIVER_SLICES].any(axis=(0, 3 - axis)))
        low = max(0, int(inside[0]) - MARGIN_VOXELS)
        box.append(slice(low, min(hu.shape[axis], int(inside[-1]) + 1 + MARGIN_VOXELS)))
    affine = volume.geometry.index_to_lps()
    affine[:3, 3] = volume.geometry.lps_of(np.array([s.start for s in box]))
    return hu[tuple(box)], np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def main(folder: Path, output: Path) -> None:
    """Write the sample; the same input gives the same bytes."""
    hu, affine = crop_to_body(read_volume(folder))
    image = nib.Nifti1Image(hu.transpose(2, 1, 0), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    output.write_bytes(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    target = sys.argv[2:] or [Path(__file__).with_name("hcc006_arterial.nii.gz")]
    main(Path(sys.argv[1]), Path(target[0]))
