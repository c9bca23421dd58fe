"""Preparing a data set: what is stored, and every fault told with the file it is in."""

from __future__ import annotations

import bz2
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.volume import read_labels, read_volume
from Testing.phantom import phantom, write_case, write_image
from Training.dataset import read_data_set
from Training.prepare import main, parse_label_map

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Two sound case folders."""
    for patient in range(2):
        write_case(tmp_path / "cases" / f"case{patient}", *phantom(patient))
    return tmp_path / "cases"


def compress(path: Path) -> Path:
    """Replace a file by its .bz2."""
    compressed = path.with_name(path.name + ".bz2")
    compressed.write_bytes(bz2.compress(path.read_bytes()))
    path.unlink()
    return compressed


def prepare(cases: Path, *options: str) -> int:
    return main([str(cases), "-o", str(cases.parent / "prepared"), *options])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed after the progress bar as the reason to stop."""
    return capsys.readouterr().err.split("error: ")[1]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# What is stored


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("compressed", [False, True])
def test_stores_what_the_engine_reads(tmp_path: Path, ending: str, compressed: bool) -> None:
    folder = tmp_path / "cases" / "case1"
    write_case(folder, *phantom(1), ending)
    volume = read_volume(folder / f"ct{ending}")
    labels, _ = read_labels(folder / f"label{ending}")
    if compressed:
        compress(folder / f"ct{ending}")
        compress(folder / f"label{ending}")
    assert prepare(tmp_path / "cases") == 0
    data = read_data_set(tmp_path / "prepared")
    (case,) = data.cases
    assert np.array_equal(data.volume(case).hu, volume.hu)
    assert data.volume(case).hu.dtype == np.float32
    assert np.array_equal(data.labels(case), labels)
    assert data.labels(case).dtype == np.uint8
    assert case.geometry == volume.geometry
    assert np.load(tmp_path / "prepared" / "case1_hu.npy").dtype == np.int16
    assert sorted(path.name for path in (tmp_path / "prepared").iterdir()) == [
        "case1_hu.npy",
        "case1_labels.npy",
        "dataset.json",
    ]


def test_describes_each_case(cases: Path) -> None:
    assert prepare(cases) == 0
    data = read_data_set(cases.parent / "prepared")
    assert [case.name for case in data.cases] == ["case0", "case1"]
    assert [case.patient for case in data.cases] == ["case0", "case1"]
    for patient, case in enumerate(data.cases):
        _, labels = phantom(patient)
        voxel_ml = 3.0 * 2.5 * 2.5 / 1000
        assert case.liver_ml == pytest.approx(np.count_nonzero(labels) * voxel_ml)
        assert case.tumor_ml == pytest.approx(np.count_nonzero(labels == 2) * voxel_ml)
        assert case.lesions == lesion_components(labels == 2)[1] == 2
    assert len({case.sha256 for case in data.cases}) == 2


@pytest.mark.parametrize("value", [0.5, 40000.0])
def test_hu_that_do_not_fit_16_bits_are_kept(cases: Path, value: float) -> None:
    volume, _ = phantom(0)
    hu = volume.hu.copy()
    hu[3, 4, 5] = value
    write_image(cases / "case0" / "ct.nii.gz", hu, volume.geometry)
    assert prepare(cases) == 0
    data = read_data_set(cases.parent / "prepared")
    assert np.array_equal(data.volume(data.cases[0]).hu, hu)


def test_labels_are_mapped(cases: Path) -> None:
    """3 is a cyst (liver), 4 a tumor elsewhere (background): shared data come so."""
    volume, labels = phantom(0)
    labels[np.argwhere(labels == 1)[0][0], :2, :2] = 4
    cyst = tuple(np.argwhere(labels == 1)[-1])
    raw = labels.copy()
    raw[cyst] = 3
    write_case(cases / "case0", volume, raw)
    assert prepare(cases, "--label-map", "3=1,4=0") == 0
    data = read_data_set(cases.parent / "prepared")
    labels[labels == 4] = 0
    assert np.array_equal(data.labels(data.cases[0]), labels)


def test_the_same_data_give_the_same_files(cases: Path) -> None:
    assert prepare(cases) == 0
    before = snapshot(cases.parent / "prepared")
    assert prepare(cases) == 0
    assert snapshot(cases.parent / "prepared") == before


def test_the_digest_follows_the_labels(cases: Path) -> None:
    assert prepare(cases) == 0
    before = read_data_set(cases.parent / "prepared").cases
    volume, labels = phantom(0)
    labels[tuple(np.argwhere(labels == 2)[0])] = 1
    write_case(cases / "case0", volume, labels)
    assert prepare(cases) == 0
    after = read_data_set(cases.parent / "prepared").cases
    assert after[0].sha256 != before[0].sha256
    assert after[1] == before[1]


def test_a_ct_without_label_is_left_out_and_named(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cases / "case0" / "label.nii.gz").unlink()
    (cases / "notes.txt").write_text("no folder")
    assert prepare(cases) == 0
    assert "case0" in capsys.readouterr().err
    data = read_data_set(cases.parent / "prepared")
    assert [case.name for case in data.cases] == ["case1"]


# Faults: each changes case0 and names the file to look at and what stands in the message


def label_of_another_shape(folder: Path) -> tuple[str, str]:
    volume, labels = phantom(0)
    grid = Geometry((31, 32, 32), volume.geometry.spacing_mm, volume.geometry.origin_mm)
    write_image(folder / "label.nii.gz", labels[1:], grid)
    return "label.nii.gz", r"\(32, 32, 32\), found \(31, 32, 32\)"


def label_elsewhere(folder: Path) -> tuple[str, str]:
    volume, labels = phantom(0)
    moved = replace(volume.geometry, origin_mm=(-40.0, -30.0, 15.5))
    write_image(folder / "label.nii.gz", labels, moved)
    return "label.nii.gz", "position, spacing or orientation"


def label_of_another_spacing(folder: Path) -> tuple[str, str]:
    volume, labels = phantom(0)
    wider = replace(volume.geometry, spacing_mm=(3.0, 2.5, 2.6))
    write_image(folder / "label.nii.gz", labels, wider)
    return "label.nii.gz", "position, spacing or orientation"


def unknown_value(folder: Path) -> tuple[str, str]:
    volume, labels = phantom(0)
    labels[0, 0, 0] = 7
    write_image(folder / "label.nii.gz", labels, volume.geometry)
    return "label.nii.gz", r"0, 1 and 2, found \[7\].*--label-map 7=1"


def empty_label(folder: Path) -> tuple[str, str]:
    volume, labels = phantom(0)
    write_image(folder / "label.nii.gz", np.zeros_like(labels), volume.geometry)
    return "label.nii.gz", "expected a labeled liver, found an empty label"


def fractional_label(folder: Path) -> tuple[str, str]:
    volume, labels = phantom(0)
    write_image(folder / "label.nii.gz", labels * np.float32(0.5), volume.geometry)
    return "label.nii.gz", "whole numbers"


def ct_of_text(folder: Path) -> tuple[str, str]:
    (folder / "ct.nii.gz").write_text("not an image")
    return "ct.nii.gz", "expected"


def ct_of_unknown_ending(folder: Path) -> tuple[str, str]:
    (folder / "ct.nii.gz").rename(folder / "ct.xyz")
    return "ct.xyz", "expected a file ending in"


def ct_cut_off(folder: Path) -> tuple[str, str]:
    whole = (folder / "ct.nii.gz").read_bytes()
    (folder / "ct.nii.gz").write_bytes(whole[: len(whole) // 2])
    return "ct.nii.gz", "expected"


def bz2_cut_off(folder: Path) -> tuple[str, str]:
    path = compress(folder / "ct.nii.gz")
    path.write_bytes(path.read_bytes()[:2000])
    return "ct.nii.gz.bz2", "expected"


def bz2_of_text(folder: Path) -> tuple[str, str]:
    (folder / "label.nii.gz").unlink()
    (folder / "label.nii.bz2").write_text("not an archive")
    return "label.nii.bz2", "expected"


def bz2_of_no_image(folder: Path) -> tuple[str, str]:
    (folder / "ct.nii.gz").unlink()
    (folder / "ct.nii.bz2").write_bytes(bz2.compress(b"not an image"))
    return "ct.nii.bz2", "expected"


FAULTS = (
    label_of_another_shape,
    label_elsewhere,
    label_of_another_spacing,
    unknown_value,
    empty_label,
    fractional_label,
    ct_of_text,
    ct_of_unknown_ending,
    ct_cut_off,
    bz2_cut_off,
    bz2_of_text,
    bz2_of_no_image,
)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_its_file_and_nothing_is_written(
    cases: Path, capsys: pytest.CaptureFixture[str], fault: Callable[[Path], tuple[str, str]]
) -> None:
    name, message = fault(cases / "case0")
    assert prepare(cases) == 2
    summary, line = error_of(capsys).splitlines()
    assert summary == "1 case(s) cannot be used:"
    assert line.startswith(f"{cases / 'case0' / name}: ")
    assert re.search(message, line)
    assert sorted(path.name for path in cases.parent.iterdir()) == ["cases"]


def test_the_faults_of_all_cases_are_told_together(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_case(cases / "case2", *phantom(2))
    empty_label(cases / "case0")
    ct_of_text(cases / "case2")
    assert prepare(cases) == 2
    summary, first, second = error_of(capsys).splitlines()
    assert summary == "2 case(s) cannot be used:"
    assert str(cases / "case0" / "label.nii.gz") in first
    assert str(cases / "case2" / "ct.nii.gz") in second


def test_a_fault_leaves_an_earlier_data_set_as_it_was(cases: Path) -> None:
    """Else dataset.json would describe arrays that are no longer there."""
    assert prepare(cases) == 0
    before = snapshot(cases.parent / "prepared")
    volume, labels = phantom(0)
    write_case(cases / "case0", volume, np.minimum(labels, 1))
    unknown_value(cases / "case1")
    assert prepare(cases) == 2
    assert snapshot(cases.parent / "prepared") == before


def without_cases(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def without_labels(folder: Path) -> Path:
    write_image(folder / "unlabeled" / "case0" / "ct.nii.gz", *image())
    return folder / "unlabeled"


def without_folder(folder: Path) -> Path:
    return folder / "nowhere"


def image() -> tuple[np.ndarray, Geometry]:
    volume, _ = phantom(0)
    return volume.hu, volume.geometry


@pytest.mark.parametrize("make", [without_cases, without_labels, without_folder])
def test_a_folder_without_cases_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path]
) -> None:
    data = make(tmp_path)
    assert prepare(data) == 2
    assert error_of(capsys).startswith(f"{data}: expected")
    assert not (tmp_path / "prepared").exists()


def test_an_output_that_is_a_file_is_refused(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cases.parent / "prepared").write_text("in the way")
    assert prepare(cases) == 2
    assert error_of(capsys).startswith(f"{cases.parent / 'prepared'}: expected a folder")


# --label-map


def test_label_map() -> None:
    assert parse_label_map("") == {}
    assert parse_label_map("3=1,4=0") == {3: 1, 4: 0}


@pytest.mark.parametrize("text", ["3", "3=", "3=1=2", "a=1", "3=7", "3=-1", "3=1;4=0"])
def test_a_label_map_of_another_form_is_refused(
    cases: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert prepare(cases, "--label-map", text) == 2
    assert error_of(capsys).startswith(f"--label-map {text}: expected pairs such as 3=1,4=0")
    with pytest.raises(InputError):
        parse_label_map(text)
