"""Small labeled CTs for tests of the trainer: a body in air, a liver in it, tumors in the liver."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import SimpleITK as sitk
from PIL import Image

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.volume import Volume
from Training import prepare, prepare_case

SHAPE = (32, 32, 32)
SPACING_MM = (3.0, 2.5, 2.5)
AIR_HU, BODY_HU, LIVER_HU, TUMOR_HU = -1000, 20, 110, 200
NOISE_HU = 5
RAS = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))


def ball(
    center: tuple[float, float, float], radii: tuple[float, float, float], shape: tuple = SHAPE
) -> np.ndarray:
    """A bool (z, y, x) ellipsoid, center and radii in voxels."""
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    terms = [((a - c) / r) ** 2 for a, c, r in zip(axes, center, radii, strict=True)]
    return sum(terms) <= 1


def phantom(patient: int = 0, tumors: int = 2) -> tuple[Volume, np.ndarray]:
    """The CT of a patient, whole HU, and its labels (0 background, 1 liver, 2 tumor).

    Patients differ by the liver's place and by noise; odd ones are stored right to left and back
    to front, so that a forgotten orientation shows.
    """
    random = np.random.default_rng(patient)
    z, y, x = np.array([16, 15, 13]) + random.integers(-2, 3, 3)
    labels = np.zeros(SHAPE, np.uint8)
    labels[ball((z, y, x), (8, 8, 8))] = 1
    for center, radius in (((z - 3, y, x + 2), 3), ((z + 4, y + 2, x - 2), 2))[:tumors]:
        labels[ball(center, (radius,) * 3)] = 2
    hu = np.where(ball((16, 16, 16), (100, 13, 14)), BODY_HU, AIR_HU)
    hu[labels == 1] = LIVER_HU
    hu[labels == 2] = TUMOR_HU
    hu = np.maximum(hu + np.rint(random.normal(0, NOISE_HU, SHAPE)), -1024)
    geometry = Geometry(SHAPE, SPACING_MM, origin_mm=(-40.0, -30.0, 12.5))
    if patient % 2:
        hu, labels = hu[:, ::-1, ::-1].copy(), labels[:, ::-1, ::-1].copy()
        geometry = Geometry(SHAPE, SPACING_MM, origin_mm=(37.5, 47.5, 12.5), direction=RAS)
    return Volume(hu.astype(np.float32), geometry, f"case{patient}"), labels


def write_image(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write an array of any type; the format follows the file's ending."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(np.array(geometry.direction).ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def write_case(folder: Path, volume: Volume, labels: np.ndarray, ending: str = ".nii.gz") -> None:
    """Write a case folder as `Training.prepare` reads it."""
    write_image(folder / f"ct{ending}", volume.hu.astype(np.int16), volume.geometry)
    write_image(folder / f"label{ending}", labels, volume.geometry)


def make_data_set(folder: Path, patients: int, tumors: int = 2) -> Path:
    """Write and prepare the cases of some patients; returns the prepared folder.

    Their pictures, which take longest, are blank.
    """
    for patient in range(patients):
        write_case(folder / "cases" / f"case{patient}", *phantom(patient, tumors))
    arguments = [str(folder / "cases"), "-o", str(folder / "prepared"), "--workers", "1"]
    with mock.patch.object(prepare_case, "render_preview", return_value=Image.new("RGB", (8, 8))):
        assert prepare.main(arguments) == 0
    return folder / "prepared"
