"""Preparing a data set: what is stored, the faults that are told, and going on after a stop."""

from __future__ import annotations

import bz2
import errno
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.volume import read_labels, read_volume
from Testing.phantom import phantom, write_case, write_image
from Training import case_store, ircadb, prepare_case
from Training.dataset import read_data_set
from Training.prepare import main, parse_label_map

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Two sound case folders."""
    for patient in range(2):
        write_case(tmp_path / "cases" / f"case{patient}", *phantom(patient))
    return tmp_path / "cases"


@pytest.fixture(autouse=True)
def _blank_pictures() -> Iterator[None]:
    """Pictures take longest by far; test_prepare_processes.py draws them."""
    with mock.patch.object(prepare_case, "render_preview", return_value=Image.new("RGB", (8, 8))):
        yield


def compress(path: Path) -> Path:
    """Replace a file by its .bz2."""
    compressed = path.with_name(path.name + ".bz2")
    compressed.write_bytes(bz2.compress(path.read_bytes()))
    path.unlink()
    return compressed


def prepare_folder(cases: Path, *options: str) -> int:
    """Prepare it and, if told first, further folders."""
    return main([str(cases), *options, "-o", str(cases.parent / "prepared"), "--workers", "1"])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed after the progress bar as the reason to stop."""
    return capsys.readouterr().err.split("error: ")[1]


def snapshot(folder: Path) -> dict[str, bytes]:
    """The content of each file that is not hidden."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and case_store.UNFINISHED not in path.parts
    }


def described(cases: Path) -> dict:
    """dataset.json."""
    return json.loads((cases.parent / "prepared" / "dataset.json").read_text())


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
    assert prepare_folder(tmp_path / "cases") == 0
    data = read_data_set(tmp_path / "prepared")
    (case,) = data.cases
    assert np.array_equal(data.volume(case).hu, volume.hu)
    assert data.volume(case).hu.dtype == np.float32
    assert np.array_equal(data.labels(case), labels)
    assert data.labels(case).dtype == np.uint8
    assert case.geometry == volume.geometry
    assert np.load(tmp_path / "prepared" / "case1_hu.npy").dtype == np.int16
    assert list(snapshot(tmp_path / "prepared")) == [
        "case1_hu.npy",
        "case1_labels.npy",
        "dataset.json",
        "fingerprint.json",
        "overview.html",
        "pictures/case1.png",
        "records/case1.json",
    ]
    assert not (tmp_path / "prepared" / case_store.UNFINISHED).exists()


def test_describes_each_case(cases: Path) -> None:
    assert prepare_folder(cases) == 0
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
    assert prepare_folder(cases) == 0
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
    assert prepare_folder(cases, "--label-map", "3=1,4=0") == 0
    data = read_data_set(cases.parent / "prepared")
    labels[labels == 4] = 0
    assert np.array_equal(data.labels(data.cases[0]), labels)


def test_the_same_data_give_the_same_files(cases: Path) -> None:
    assert prepare_folder(cases) == 0
    before = snapshot(cases.parent / "prepared")
    assert prepare_folder(cases) == 0
    assert snapshot(cases.parent / "prepared") == before


def test_the_digest_follows_the_labels(cases: Path) -> None:
    assert prepare_folder(cases) == 0
    before = read_data_set(cases.parent / "prepared").cases
    volume, labels = phantom(0)
    labels[tuple(np.argwhere(labels == 2)[0])] = 1
    write_case(cases / "case0", volume, labels)
    assert prepare_folder(cases) == 0
    after = read_data_set(cases.parent / "prepared").cases
    assert after[0].sha256 != before[0].sha256
    assert after[1] == before[1]


def test_a_ct_without_label_is_left_out_and_named(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cases / "case0" / "label.nii.gz").unlink()
    (cases / "notes.txt").write_text("no folder")
    assert prepare_folder(cases) == 0
    assert "case0" in capsys.readouterr().err
    data = read_data_set(cases.parent / "prepared")
    assert [case.name for case in data.cases] == ["case1"]


# Faults: each changes case0 and names the file to look at and what stands in the message


def label_of_another_shape(folder: Path) -> tuple[str, str]:
    volume, labels = phantom(0)
    grid = Geometry((31, 32, 32), volume.geometry.spacing_mm, volume.geometry.origin_mm)
    write_image(folder / "label.nii.gz", labels[1:], grid)
    return "label.nii.gz", r"\(32, 32, 32\) \(z, y, x\), found \(31, 32, 32\)"


def label_elsewhere(folder: Path) -> tuple[str, str]:
    volume, labels = phantom(0)
    moved = replace(volume.geometry, origin_mm=(-40.0, -30.0, 15.5))
    write_image(folder / "label.nii.gz", labels, moved)
    return "label.nii.gz", r"found origin \[-40.0, -30.0, 15.5\] instead of \[-40.0, -30.0, 12.5\]"


def label_of_another_spacing(folder: Path) -> tuple[str, str]:
    volume, labels = phantom(0)
    wider = replace(volume.geometry, spacing_mm=(3.0, 2.5, 2.6))
    write_image(folder / "label.nii.gz", labels, wider)
    return "label.nii.gz", r"found spacing \[3.0, 2.5, 2.6\] instead of \[3.0, 2.5, 2.5\]\. Resamp"


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


def ct_of_gray_values(folder: Path) -> tuple[str, str]:
    volume, _ = phantom(0)
    write_image(folder / "ct.nii.gz", volume.hu + 1024, volume.geometry)
    return "ct.nii.gz", "air and fat lie below 0, found a lowest value of 4"


def label_of_another_ct(folder: Path) -> tuple[str, str]:
    volume, labels = phantom(0)
    write_image(folder / "label.nii.gz", np.where(volume.hu < -900, 1, 0), volume.geometry)
    return "ct.nii.gz", "a liver of -100 to 300, found a median of -1000"


FAULTS = (
    ct_of_gray_values,
    label_of_another_ct,
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
def test_a_fault_names_its_file_and_nothing_is_published(
    cases: Path, capsys: pytest.CaptureFixture[str], fault: Callable[[Path], tuple[str, str]]
) -> None:
    name, message = fault(cases / "case0")
    assert prepare_folder(cases) == 2
    summary, line = error_of(capsys).splitlines()
    assert (
        summary == "1 fault(s). Mend all, then prepare again; 1 sound case(s) are kept until then:"
    )
    assert line.startswith(f"{cases / 'case0' / name}: ")
    assert re.search(message, line)
    assert snapshot(cases.parent / "prepared") == {}


def test_all_faults_of_all_cases_are_told_together(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_case(cases / "case10", *phantom(2))
    write_case(cases / "case3", *phantom(3))
    (cases / "case3" / "ct.nii.gz").unlink()
    unknown_value(cases / "case0")
    ct_of_text(cases / "case0")
    ct_of_text(cases / "case1")
    label_elsewhere(cases / "case10")
    assert prepare_folder(cases) == 2
    summary, *lines = error_of(capsys).splitlines()
    assert summary == "5 fault(s). Mend all, then prepare again:"
    files = ["case3/label", "case0/ct", "case0/label", "case1/ct", "case10/label"]
    for line, file in zip(lines, files, strict=True):
        assert line.startswith(f"{cases}/{file}.nii.gz: ")
    assert sorted(path.name for path in cases.parent.iterdir()) == ["cases"]


def test_a_fault_leaves_an_earlier_data_set_as_it_was(cases: Path) -> None:
    """Else dataset.json would describe arrays that are no longer there."""
    assert prepare_folder(cases) == 0
    before = snapshot(cases.parent / "prepared")
    volume, labels = phantom(0)
    write_case(cases / "case0", volume, np.minimum(labels, 1))
    unknown_value(cases / "case1")
    assert prepare_folder(cases) == 2
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
    assert prepare_folder(data) == 2
    assert error_of(capsys).startswith(f"{data}: expected")
    assert not (tmp_path / "prepared").exists()


def test_an_output_that_is_a_file_is_refused(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cases.parent / "prepared").write_text("in the way")
    assert prepare_folder(cases) == 2
    assert error_of(capsys).startswith(f"{cases.parent / 'prepared'}: expected a folder")


# Warnings


def test_a_ct_clipped_to_a_window_is_used_with_a_warning(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume, labels = phantom(0)
    write_case(cases / "case0", replace(volume, hu=volume.hu.clip(-160, 240)), labels)
    assert prepare_folder(cases) == 0
    warning = "no air: values run from -160 to 233 HU, as in a copy clipped to a window"
    highest = int(volume.hu.clip(-160, 240).max())
    assert described(cases)["origins"]["case0"]["warnings"] == [
        warning.replace("233", str(highest))
    ]
    assert described(cases)["origins"]["case1"]["warnings"] == []
    assert f"case0: no air: values run from -160 to {highest} HU" in capsys.readouterr().err


def test_nan_and_padding_are_repaired_and_told(cases: Path) -> None:
    volume, _ = phantom(0)
    hu = volume.hu.copy()
    hu[0, 0, :3], hu[0, 1, 0] = np.nan, -2048
    write_image(cases / "case0" / "ct.nii.gz", hu, volume.geometry)
    assert prepare_folder(cases) == 0
    assert described(cases)["origins"]["case0"]["repairs"] == [
        "3 voxels NaN or infinite: set to -1024 HU",
        "1 voxels below -1024 HU: set to -1024 HU",
    ]


def test_where_a_case_came_from_is_told(cases: Path) -> None:
    assert prepare_folder(cases, "--label-map", "3=1") == 0
    told = described(cases)
    assert (told["data"], told["label_map"]) == ("cases", {"3": 1})
    origin = told["origins"]["case1"]
    assert origin["layout"] == "a folder a case"
    assert origin["files"] == ["case1/ct.nii.gz", "case1/label.nii.gz"]
    assert str(cases) not in json.dumps(told)


# LiTS and 3D-IRCADb-01 share patients


def write_1_mm(folder: Path, patient: int = 0) -> Path:
    """A case whose header says 1 mm along every axis."""
    volume, labels = phantom(patient)
    geometry = replace(volume.geometry, spacing_mm=(1.0, 1.0, 1.0))
    write_case(folder, replace(volume, geometry=geometry), labels)
    return folder


def test_the_spacing_of_lits_28_is_repaired_where_it_is_known(
    cases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is made to fit the phantom, whose slices are 32 of 32 x 32 pixels."""
    monkeypatch.setattr(ircadb, "GRIDS", {1: (32, 1.6, 0.57), 2: (33, 1.0, 0.5)})
    monkeypatch.setattr(ircadb, "PIXELS", 32)
    for name, patient in (("volume-28", 3), ("volume-29", 5), ("volume-44", 7)):
        write_1_mm(cases / name, patient)
    assert prepare_folder(cases) == 0
    data = read_data_set(cases.parent / "prepared")
    of = {case.name: case for case in data.cases}
    origins = described(cases)["origins"]
    geometry = phantom(3)[0].geometry
    assert of["volume-28"].geometry == replace(geometry, spacing_mm=(1.6, 0.57, 0.57))
    voxels = np.count_nonzero(phantom(3)[1])
    assert of["volume-28"].liver_ml == pytest.approx(voxels * 1.6 * 0.57**2 / 1000)
    assert origins["volume-28"]["repairs"] == [
        "spacing of 1 mm along every axis: set to 1.6 x 0.57 x 0.57 mm (z, y, x) of 3D-IRCADb-01"
    ]
    for name in ("volume-29", "volume-44"):  # another number of slices; not in the table
        assert of[name].geometry.spacing_mm == (1.0, 1.0, 1.0)
        assert not of[name].spacing_known
        assert "the true spacing is not known" in origins[name]["warnings"][0]
    assert of["volume-28"].spacing_known
    assert of["case0"].spacing_known


def test_copies_of_one_patient_are_kept_together(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("volume-28", "ircad01"):
        write_case(cases / name, *phantom(5))
    assert prepare_folder(cases) == 0
    patients = {case.name: case.patient for case in read_data_set(cases.parent / "prepared").cases}
    assert patients["volume-28"] == patients["ircad01"] == "ircadb-01"
    assert described(cases)["origins"]["ircad01"]["warnings"] == [
        "the same patient as volume-28: all are kept, and no split parts them"
    ]
    assert "4 cases of 3 patients" in capsys.readouterr().out


def with_facts(folder: Path, **facts: object) -> None:
    (folder / "case.json").write_text(json.dumps(facts))


def test_synthetic_cases_are_marked(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And are told as such, without a warning that their patient is there twice."""
    with_facts(cases / "case1", patient="case0", synthetic=True)
    assert prepare_folder(cases) == 0
    real, made = read_data_set(cases.parent / "prepared").cases
    assert (real.patient, real.synthetic) == ("case0", False)
    assert (made.patient, made.synthetic) == ("case0", True)
    assert all(not one["warnings"] for one in described(cases)["origins"].values())
    assert "2 cases, 1 of them synthetic, of 1 patients" in capsys.readouterr().out


def test_a_case_is_prepared_again_when_more_is_said_of_it(cases: Path) -> None:
    assert prepare_folder(cases) == 0
    with_facts(cases / "case1", patient="case0")
    assert prepare_folder(cases) == 0
    patients = [case.patient for case in read_data_set(cases.parent / "prepared").cases]
    assert patients == ["case0", "case0"]


def test_several_folders_make_one_data_set(cases: Path) -> None:
    write_case(cases.parent / "more" / "case7", *phantom(7))
    assert prepare_folder(cases, str(cases.parent / "more")) == 0
    data = read_data_set(cases.parent / "prepared")
    assert [case.name for case in data.cases] == ["case0", "case1", "case7"]
    assert described(cases)["data"] == "cases + more"
    assert described(cases)["origins"]["case7"]["files"][0] == "case7/ct.nii.gz"


def test_one_name_in_two_folders_is_refused(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_case(cases.parent / "more" / "case1", *phantom(7))
    assert prepare_folder(cases, str(cases.parent / "more")) == 2
    told = error_of(capsys)
    assert told.startswith(f"{cases.parent}/more/case1/ct.nii.gz: expected a case name once")
    assert str(cases / "case1") in told
    assert not (cases.parent / "prepared").exists()


def test_the_same_ct_under_two_patients_is_a_fault(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even if its label differs."""
    volume, labels = phantom(0)
    write_case(cases / "copy", volume, np.minimum(labels, 1))
    assert prepare_folder(cases) == 2
    assert "case0, copy: the same CT under the names of 2 patients" in error_of(capsys)


# Going on after a stop


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases whose CT was read."""
    names: list[str] = []
    read_ct = prepare_case.read_ct

    def noted(path: Path):
        names.append(path.parent.name)
        return read_ct(path)

    monkeypatch.setattr(prepare_case, "read_ct", noted)
    return names


def test_only_what_is_missing_or_has_changed_is_prepared(cases: Path, reads: list[str]) -> None:
    prepared = cases.parent / "prepared"
    assert prepare_folder(cases) == 0
    write_case(cases / "case2", *phantom(2))
    assert prepare_folder(cases) == 0
    write_case(cases / "case1", *phantom(7))
    assert prepare_folder(cases) == 0
    assert prepare_folder(cases, "--label-map", "3=1") == 0
    (prepared / "case0_hu.npy").write_bytes((prepared / "case0_hu.npy").read_bytes()[:-9])
    (prepared / "pictures" / "case2.png").unlink()
    assert prepare_folder(cases, "--label-map", "3=1") == 0
    new, changed, mapping, damaged = ["case2"], ["case1"], ["case0", "case1", "case2"], ["case0"]
    assert reads == ["case0", "case1", *new, *changed, *mapping, *damaged, "case2"]
    data = read_data_set(prepared)
    assert np.array_equal(data.volume(data.cases[1]).hu, phantom(7)[0].hu)
    assert np.array_equal(data.volume(data.cases[0]).hu, phantom(0)[0].hu)


def test_a_case_that_is_gone_leaves_the_data_set(cases: Path, reads: list[str]) -> None:
    prepared = cases.parent / "prepared"
    assert prepare_folder(cases) == 0
    (prepared / "notes.txt").write_text("mine")
    (cases / "case0" / "ct.nii.gz").unlink()
    (cases / "case0" / "label.nii.gz").unlink()
    assert prepare_folder(cases) == 0
    assert reads == ["case0", "case1"]
    assert not [name for name in snapshot(prepared) if "case0" in name]
    assert "notes.txt" in snapshot(prepared)


def test_sound_cases_are_not_read_again_after_a_fault(cases: Path, reads: list[str]) -> None:
    ct_of_text(cases / "case0")
    assert prepare_folder(cases) == 2
    write_case(cases / "case0", *phantom(0))
    assert prepare_folder(cases) == 0
    assert reads == ["case0", "case1", "case0"]


def test_ctrl_c_keeps_what_is_done(
    cases: Path, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch.object(prepare_case, "measure", side_effect=[KeyboardInterrupt]):
        assert prepare_folder(cases) == 3
    assert "stopped; the same command goes on" in capsys.readouterr().err
    assert sorted(path.name for path in cases.parent.iterdir()) == ["cases"]
    measure, calls = prepare_case.measure, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments)

    with mock.patch.object(prepare_case, "measure", interrupted):
        assert prepare_folder(cases) == 3
    assert snapshot(cases.parent / "prepared") == {}
    reads.clear()
    assert prepare_folder(cases) == 0
    assert reads == ["case1"]


def test_a_stop_while_publishing_is_made_good(cases: Path, tmp_path: Path) -> None:
    """Killed before any of its moves; until the end there is no data set to be misled by."""
    assert prepare_folder(cases) == 0
    expected = snapshot(cases.parent / "prepared")
    move, moves = Path.replace, 0
    while True:
        write_case(cases / "case0", *phantom(4))
        assert prepare_folder(cases) == 0
        write_case(cases / "case0", *phantom(0))
        moves, left = moves + 1, moves

        def until_killed(path: Path, target: Path) -> Path:
            nonlocal left
            if path.parent.name != case_store.RECORDS or target.parent.name == case_store.RECORDS:
                left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return move(path, target)

        with mock.patch.object(Path, "replace", until_killed):
            code = prepare_folder(cases)
        if code == 0:
            break
        prepared = cases.parent / "prepared"
        if (prepared / "dataset.json").exists():
            data = read_data_set(prepared)
            assert np.array_equal(data.volume(data.cases[0]).hu, phantom(4)[0].hu)
        assert prepare_folder(cases) == 0
        assert unstamped(snapshot(prepared)) == unstamped(expected)
    assert moves > 7


def unstamped(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without the records, in which stands when a file was written."""
    return {name: content for name, content in files.items() if "records" not in name}


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError("4096 requested and 5 written")],
)
def test_a_full_disk_leaves_no_half_case(
    cases: Path, capsys: pytest.CaptureFixture[str], error: OSError
) -> None:
    """numpy's error has no number."""
    assert prepare_folder(cases) == 0
    before = snapshot(cases.parent / "prepared")
    write_case(cases / "case1", *phantom(6))
    with mock.patch.object(case_store.np, "save", side_effect=[None, error]):
        assert prepare_folder(cases) == 4
    assert error_of(capsys).startswith(
        f"{cases.parent / 'prepared' / case_store.UNFINISHED}: the disk is full"
    )
    assert snapshot(cases.parent / "prepared") == before
    assert not (cases.parent / "prepared" / case_store.UNFINISHED).exists()


def test_no_room_to_unpack_is_no_fault_of_the_file(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compress(cases / "case0" / "ct.nii.gz")
    full = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch("shutil.copyfileobj", side_effect=full):
        assert prepare_folder(cases) == 4
    assert "no room to unpack ct.nii.gz.bz2" in error_of(capsys)


# --label-map


def test_label_map() -> None:
    assert parse_label_map("") == {}
    assert parse_label_map("3=1,4=0") == {3: 1, 4: 0}


@pytest.mark.parametrize("text", ["3", "3=", "3=1=2", "a=1", "3=7", "3=-1", "3=1;4=0"])
def test_a_label_map_of_another_form_is_refused(
    cases: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert prepare_folder(cases, "--label-map", text) == 2
    assert error_of(capsys).startswith(f"--label-map {text}: expected pairs such as 3=1,4=0")
    with pytest.raises(InputError):
        parse_label_map(text)
