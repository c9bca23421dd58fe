"""3D-IRCADb-01 as published, in DICOM, and its patients, whom LiTS has too."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.recipe import Split
from Testing.phantom import phantom, write_case
from Training import prepare, prepare_case
from Training.dataset import read_data_set
from Training.evaluate import trained_on
from Training.folds import divide

SHAPE, SPACING_MM = (6, 5, 4), (1.6, 0.57, 0.57)
GRID = Geometry(SHAPE, SPACING_MM, origin_mm=(10.0, -20.0, 30.0))
VOXEL_ML = 1.6 * 0.57 * 0.57 / 1000
LITS = Split("LiTS", test_numbers=(28, 28), test_share=0.0, validation_share=0.5, folds=None)


@pytest.fixture(autouse=True)
def _blank_pictures():
    with mock.patch.object(prepare_case, "render_preview", return_value=Image.new("RGB", (8, 8))):
        yield


def write_series(
    folder: Path, voxels: np.ndarray, intercept: int, kind: str = "CT", shift_mm: float = 0.0
) -> None:
    """A series of slices, named so that the names tell of no order; `kind` is the modality."""
    storage = CTImageStorage if kind == "CT" else SecondaryCaptureImageStorage
    folder.mkdir(parents=True)
    series = generate_uid()
    for k, plane in enumerate(voxels):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = storage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.Modality, data.ImageType = kind, ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.SeriesInstanceUID = series
        x, y, z = GRID.origin_mm
        data.ImagePositionPatient = [x, y, z + SPACING_MM[0] * k + shift_mm]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing = list(SPACING_MM[1:])
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 1
        data.RescaleSlope, data.RescaleIntercept = 1, intercept
        data.PixelData = (plane - intercept).astype(np.int16).tobytes()
        data.save_as(folder / f"image_{(5 * k + 3) % 6}", enforce_file_format=True)


def boxes() -> dict[str, np.ndarray]:
    """Masks of structures, by name; the first tumor reaches out of the liver by four voxels."""
    masks = {
        name: np.zeros(SHAPE, bool)
        for name in ("bone", "liver", "livercyst", "livertumor01", "livertumor02", "tumor")
    }
    masks["liver"][1:5, 1:4, :3] = True
    masks["livercyst"][5, 1, 1] = True
    masks["livertumor01"][1:3, 1:3, 2:4] = True
    masks["livertumor02"][4, 3, 0] = True
    masks["tumor"][0, 0, 0] = masks["bone"][0, 4, 3] = True
    return masks


def write_ircadb(folder: Path, kind: str = "CT", **shifts_mm: float) -> np.ndarray:
    """A patient as published; gives the HU. Some masks may be moved along z.

    Whether masks call themselves CT is not known for certain, so both kinds have to do.
    """
    masks = boxes()
    hu = np.arange(np.prod(SHAPE)).reshape(SHAPE) - 40
    hu[~masks["liver"] & ~masks["livertumor01"]] = -1000
    write_series(folder / "PATIENT_DICOM", hu, intercept=-1024)
    for name, mask in masks.items():
        shift_mm = shifts_mm.get(name, 0.0)
        write_series(folder / "MASKS_DICOM" / name, mask * 255, 0, kind, shift_mm)
    return hu


def prepare_folder(folder: Path) -> int:
    return prepare.main([str(folder), "-o", str(folder.parent / "prepared"), "--workers", "1"])


@pytest.mark.parametrize("kind", ["CT", "OT"])
def test_the_liver_is_the_union_with_its_tumors_and_cysts(tmp_path: Path, kind: str) -> None:
    hu, masks = write_ircadb(tmp_path / "data" / "3Dircadb1.1", kind), boxes()
    assert prepare_folder(tmp_path / "data") == 0
    data = read_data_set(tmp_path / "prepared")
    (case,) = data.cases
    tumor = masks["livertumor01"] | masks["livertumor02"]
    liver = masks["liver"] | masks["livercyst"] | tumor
    assert np.array_equal(data.labels(case), liver.astype(int) + tumor)
    assert np.array_equal(data.volume(case).hu, hu)
    assert case.geometry == GRID
    assert (case.name, case.patient, case.lesions) == ("3Dircadb1.1", "ircadb-01", 2)
    assert case.liver_ml == pytest.approx(liver.sum() * VOXEL_ML)
    origin = json.loads((tmp_path / "prepared" / "dataset.json").read_text())["origins"][case.name]
    assert origin["warnings"] == [
        f"{4 * VOXEL_ML:.2f} mL of tumor lie outside the liver's mask: counted as liver too"
    ]
    assert origin["files"] == [
        "3Dircadb1.1/PATIENT_DICOM",
        *(f"3Dircadb1.1/MASKS_DICOM/{n}" for n in ("liver", "livercyst")),
        *(f"3Dircadb1.1/MASKS_DICOM/{n}" for n in ("livertumor01", "livertumor02")),
    ]


@pytest.mark.parametrize(
    ("moved", "message"),
    [
        (["livertumor02"], "livertumor02: expected the grid of"),
        (["liver", "livercyst", "livertumor01", "livertumor02"], "liver: expected the CT's posit"),
    ],
)
def test_masks_elsewhere_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], moved: list[str], message: str
) -> None:
    folder = tmp_path / "data" / "3Dircadb1.1"
    write_ircadb(folder, **dict.fromkeys(moved, 1.6))
    assert prepare_folder(tmp_path / "data") == 2
    assert f"{folder / 'MASKS_DICOM'}/{message}" in capsys.readouterr().err


def test_a_missing_slice_of_a_mask_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "3Dircadb1.1"
    write_ircadb(folder)
    (folder / "MASKS_DICOM" / "livercyst" / "image_0").unlink()
    assert prepare_folder(tmp_path / "data") == 2
    assert f"{folder / 'MASKS_DICOM' / 'livercyst'}: expected" in capsys.readouterr().err


# No split and no evaluation parts the copies of a patient


@pytest.fixture
def both(tmp_path: Path):
    """Patient 1 from LiTS and from 3D-IRCADb-01, with others of each."""
    names = ["volume-28", "volume-3", "volume-47", "ircad01", "ircad20", "case7"]
    for number, name in enumerate(names):
        write_case(tmp_path / "data" / name, *phantom(number))
    assert prepare_folder(tmp_path / "data") == 0
    return read_data_set(tmp_path / "prepared")


@pytest.mark.parametrize("fold", ["1/2", "2/2", "1/4", "2/4", "3/4", "4/4", "paper"])
def test_no_split_parts_them(both, fold: str) -> None:
    division = divide(both.cases, fold, LITS, seed=0)
    for copies in ({"volume-28", "ircad01"}, {"volume-47", "ircad20"}):
        lists = (division.training, division.held_out, division.test)
        sides = [copies & {case.name for case in side} for side in lists]
        assert copies in sides
    assert len(division.training + division.held_out + division.test) == 6


def test_the_papers_numbers_mean_the_patient_wherever_he_comes_from(both) -> None:
    division = divide(both.cases, "paper", LITS, seed=0)
    assert {case.name for case in division.test} == {"volume-28", "ircad01"}


@pytest.mark.parametrize("name", ["volume-28", "ircad01", "ircadb-01"])
def test_weights_trained_on_one_have_seen_the_other(both, name: str) -> None:
    """Cards from before the patients were named alike too."""
    model = SimpleNamespace(name="w", card={"training_cases": [{"patient": name}]})
    seen = {case.name for case in both.cases if case.patient in trained_on(model)}
    assert seen == {"volume-28", "ircad01"}
