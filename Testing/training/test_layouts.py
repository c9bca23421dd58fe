"""Finding labeled CTs: every published layout, and what is said of files that make no case."""

from __future__ import annotations

from pathlib import Path

import pytest

from LiverTumorSegLib.errors import InputError
from Training.ircadb import lits_number, patient_of
from Training.layouts import Found, Masks, find_cases


def touch(folder: Path, *names: str) -> Path:
    """Empty files: only names are looked at."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def found_in(folder: Path, *names: str) -> Found:
    return find_cases(touch(folder, *names))


def pairs(found: Found) -> dict[str, list[str]]:
    """File names of each case, in order."""
    return {s.name: [part.name for part in s.parts()] for s in found.sources}


# The layouts


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_lits_in_one_folder_or_several(tmp_path: Path, ending: str) -> None:
    found = found_in(
        tmp_path,
        f"Training Batch 1/volume-2.{ending}",
        f"Training Batch 1/segmentation-2.{ending}",
        f"Training Batch 2/volume-10.{ending}",
        f"segmentations/segmentation-10.{ending}",
        f"test/test-volume-0.{ending}",
        "volume-notes.txt",
    )
    assert not found.faults
    assert pairs(found) == {
        "volume-2": [f"volume-2.{ending}", f"segmentation-2.{ending}"],
        "volume-10": [f"volume-10.{ending}", f"segmentation-10.{ending}"],
    }
    assert list(pairs(found)) == ["volume-2", "volume-10"]
    assert {source.layout for source in found.sources} == {"LiTS"}


def test_msd_without_its_hidden_files(tmp_path: Path) -> None:
    found = found_in(
        tmp_path,
        "imagesTr/liver_0.nii.gz",
        "labelsTr/liver_0.nii.gz",
        "imagesTr/._liver_0.nii.gz",
        "imagesTs/liver_1.nii.gz",
        "dataset.json",
    )
    assert not found.faults
    assert pairs(found) == {"liver_0": ["liver_0.nii.gz", "liver_0.nii.gz"]}
    assert found.sources[0].ct.parent.name == "imagesTr"


def test_nnunet_images_end_in_their_channel(tmp_path: Path) -> None:
    found = found_in(
        tmp_path,
        "imagesTr/case_001_0000.nii.gz",
        "labelsTr/case_001.nii.gz",
        "imagesTr/scan_0002.mha",
        "labelsTr/scan_0002.mha",
    )
    assert not found.faults
    assert pairs(found) == {
        "case_001": ["case_001_0000.nii.gz", "case_001.nii.gz"],
        "scan_0002": ["scan_0002.mha", "scan_0002.mha"],
    }


STRUCTURES = (
    *("bone", "liver", "liverkyste", "livercyst01", "livertumor01", "livertumor02"),
    *("livertumors", "tumor", "portalvein1", "leftsurretumor"),
)


@pytest.mark.parametrize("again", ["", "/{}"])
def test_ircadb_takes_what_belongs_to_the_liver(tmp_path: Path, again: str) -> None:
    ct, masks = (f"x/3Dircadb1.9/{n}{again.format(n)}" for n in ("PATIENT_DICOM", "MASKS_DICOM"))
    found = found_in(
        tmp_path, f"{ct}/image_0", *(f"{masks}/{structure}/image_0" for structure in STRUCTURES)
    )
    assert not found.faults
    (source,) = found.sources
    assert (source.name, source.patient) == ("3Dircadb1.9", "ircadb-09")
    assert source.ct == tmp_path / ct
    assert isinstance(source.label, Masks)
    assert [path.name for path in source.label.liver] == ["liver", "livercyst01", "liverkyste"]
    assert [path.name for path in source.label.tumor] == [
        "livertumor01",
        "livertumor02",
        "livertumors",
    ]


def test_ircadb_without_tumor(tmp_path: Path) -> None:
    case = "3Dircadb1.5/"
    found = found_in(tmp_path, f"{case}PATIENT_DICOM/image_0", f"{case}MASKS_DICOM/liver/image_0")
    assert found.sources[0].label == Masks((tmp_path / case / "MASKS_DICOM" / "liver",), ())


def test_plain_folders_with_what_lies_beside_an_image(tmp_path: Path) -> None:
    found = found_in(
        tmp_path,
        "b/ct.mhd",
        "b/ct.raw",
        "b/label.nrrd",
        "a/ct.nii.bz2",
        "a/ct.json",
        "a/label.nii.gz",
        "a/vessels.nii.gz",
        "notes.txt",
    )
    assert not found.faults
    assert pairs(found) == {"a": ["ct.nii.bz2", "label.nii.gz"], "b": ["ct.mhd", "label.nrrd"]}


def test_a_plain_ct_without_label_is_left_out(tmp_path: Path) -> None:
    found = found_in(tmp_path, "a/ct.nii", "b/ct.nii", "b/label.nii")
    assert (list(pairs(found)), found.faults) == (["b"], [])
    assert found.left_out == [tmp_path / "a" / "ct.nii"]


# Files that make no case: the file to look at, and what stands in the message

FAULTS = {
    "LiTS image": (["volume-1.nii", "volume-2.nii", "segmentation-2.nii"], "volume-1.nii: a CT wi"),
    "LiTS label": (["segmentation-1.nii"], "segmentation-1.nii: a label without a CT"),
    "LiTS twice": (
        ["a/volume-1.nii", "b/volume-1.nii.gz", "segmentation-1.nii"],
        "a/volume-1.nii: expected one file of case volume-1, found",
    ),
    "MSD image": (["imagesTr/a.nii", "labelsTr/notes.txt"], "imagesTr/a.nii: a CT without a label"),
    "MSD label": (["labelsTr/a.nii", "imagesTr/notes.txt"], "labelsTr/a.nii: a label without a CT"),
    "two channels": (
        ["imagesTr/a_0000.nii", "imagesTr/a_0001.nii", "labelsTr/a.nii"],
        "imagesTr/a_0000.nii: expected one file of case a, found",
    ),
    "plain label": (["a/label.nii"], "a/label.nii: a label without a CT"),
    "plain twice": (["a/ct.nii", "a/ct.nrrd", "a/label.nii"], "a/ct.nii: expected one file of"),
    "IRCADb image": (["p/PATIENT_DICOM/image_0"], "p/PATIENT_DICOM: a CT without MASKS_DICOM"),
    "IRCADb masks": (["p/MASKS_DICOM/liver/image_0"], "p/MASKS_DICOM: masks without PATIENT_DICOM"),
    "IRCADb no liver": (
        ["p/PATIENT_DICOM/image_0", "p/MASKS_DICOM/livertumor/image_0"],
        "p/MASKS_DICOM: expected a folder named liver",
    ),
    "IRCADb packed": (
        ["p/PATIENT_DICOM.zip", "p/MASKS_DICOM.zip"],
        "p/PATIENT_DICOM.zip: expected folders, found an archive",
    ),
    "IRCADb twice": (
        [f"{x}/p/{kind}/image_0" for x in "ab" for kind in ("PATIENT_DICOM", "MASKS_DICOM/liver")],
        "b/p: another folder has this name",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_without_its_counterpart_is_named(tmp_path: Path, name: str) -> None:
    files, message = FAULTS[name]
    found = found_in(tmp_path, *files)
    assert len(found.faults) == 1
    assert found.faults[0].startswith(f"{tmp_path}/{message}")


REFUSED = {
    "nothing": (["notes.txt"], r"expected labeled CTs in one of these layouts:\n- LiTS: volume-0"),
    "unlabeled": (["a/ct.nii"], "expected CTs with labels, found none with both"),
    "empty MSD": (["imagesTr/a.txt", "labelsTr/a.txt"], "expected CTs with labels, found none"),
    "two layouts, one without labels": (
        ["volume-1.nii", "segmentation-1.nii", "case/ct.nii"],
        r"expected one layout, found 2: LiTS .*; a folder a case \(.*case/ct.nii\)",
    ),
    "half of MSD": (["imagesTr/a.nii"], "expected imagesTr and labelsTr .* found imagesTr only"),
    "two layouts": (
        ["volume-1.nii", "segmentation-1.nii", "case/ct.nii", "case/label.nii"],
        r"expected one layout, found 2: LiTS \(.*volume-1.nii\); a folder a case \(.*ct.nii\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_of_no_one_layout_is_refused(tmp_path: Path, name: str) -> None:
    files, message = REFUSED[name]
    with pytest.raises(InputError, match=f"^{tmp_path}: {message}"):
        found_in(tmp_path, *files)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{tmp_path}/nowhere: expected a folder"):
        find_cases(tmp_path / "nowhere")


# case.json


def told(folder: Path, text: str) -> Found:
    touch(folder, "a/ct.nii", "a/label.nii", "b/ct.nii", "b/label.nii")
    (folder / "b" / "case.json").write_text(text)
    return find_cases(folder)


@pytest.mark.parametrize(
    ("text", "patient", "synthetic"),
    [
        ('{"patient": "ircad07", "synthetic": true, "seed": 3}', "ircadb-07", True),
        ('{"patient": "x"}', "x", False),
        ('{"synthetic": true}', "b", True),
        ("{}", "b", False),
    ],
)
def test_a_case_may_say_whom_it_shows(
    tmp_path: Path, text: str, patient: str, synthetic: bool
) -> None:
    plain, said = told(tmp_path, text).sources
    assert (plain.patient, plain.facts.synthetic) == ("a", False)
    assert (said.patient, said.facts.synthetic) == (patient, synthetic)


@pytest.mark.parametrize("text", ["{", "[]", '{"patient": 3}', '{"synthetic": "no"}'])
def test_what_a_case_says_in_another_form_is_a_fault(tmp_path: Path, text: str) -> None:
    (fault,) = told(tmp_path, text).faults
    assert fault.startswith(f'{tmp_path}/b/case.json: expected {{"patient": "NAME"')


# Whom a name means


@pytest.mark.parametrize(
    "pattern", ["3Dircadb1.{}", "ircad{:02}", "ircadb-{:02}", "3D-IRCADb-01-{}", "ircadb_{}"]
)
def test_names_of_ircadb(pattern: str) -> None:
    names = [patient_of(pattern.format(n)) for n in range(1, 21)]
    assert names == [f"ircadb-{n:02}" for n in range(1, 21)]


@pytest.mark.parametrize(
    "pattern", ["volume-{}", "lits{:03}", "liver_{}", "LiTS-{}", "liver_{:04}"]
)
def test_lits_28_to_47_are_ircadb_1_to_20(pattern: str) -> None:
    names = [patient_of(pattern.format(n)) for n in range(28, 48)]
    assert names == [f"ircadb-{n:02}" for n in range(1, 21)]
    for n in (*range(28), *range(48, 131)):
        assert patient_of(pattern.format(n)) == pattern.format(n)


@pytest.mark.parametrize(
    "name", ["ircadb-00", "ircad21", "3Dircadb2.1", "case28", "28", "x-ircad01"]
)
def test_other_names_stand_for_themselves(name: str) -> None:
    assert patient_of(name) == name


def test_the_number_in_lits() -> None:
    assert [lits_number(f"ircadb-{n:02}") for n in (1, 20)] == [28, 47]
    assert lits_number("volume-3") is None
