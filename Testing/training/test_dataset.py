"""A data set that is read as it was written, and one that is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from Testing.phantom import make_data_set
from Training.dataset import FORMAT, Case, DataSet, Origin, dataset_json, read_data_set

GRID = Geometry((4, 5, 6), (3.0, 1.0, 1.0))


def case_of(name: str, patient: str) -> Case:
    return Case(name, patient, False, GRID, True, liver_ml=1.0, tumor_ml=0.0, lesions=0, sha256="")


ORIGIN = Origin("LiTS", ("volume-0.nii", "segmentation-0.nii"), "", (), ("look",))


def write_cases(folder: Path, cases: list[Case]) -> None:
    plain = dataset_json(cases, [ORIGIN] * len(cases), data="LiTS")
    (folder / "dataset.json").write_text(json.dumps(plain))


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return read_data_set(make_data_set(tmp_path, patients=2))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    cases = [case_of("a", "p"), case_of("b", "q")]
    write_cases(tmp_path, cases)
    assert read_data_set(tmp_path) == DataSet(tmp_path, tuple(cases))
    plain = json.loads((tmp_path / "dataset.json").read_text())
    assert (plain["format"], plain["data"]) == (FORMAT, "LiTS")
    assert plain["origins"]["b"]["files"] == ["volume-0.nii", "segmentation-0.nii"]


def test_a_folder_that_is_no_data_set_is_refused_with_the_way_to_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path}: expected .*Training\.prepare DATA -o"):
        read_data_set(tmp_path)


def cut_off(text: str) -> bytes:
    return text[: len(text) // 2].encode()


def without_a_field(text: str) -> bytes:
    plain = json.loads(text)
    del plain["cases"][0]["patient"]
    return json.dumps(plain).encode()


def with_a_text_for_a_number(text: str) -> bytes:
    plain = json.loads(text)
    plain["cases"][0]["lesions"] = "two"
    return json.dumps(plain).encode()


def with_a_grid_that_is_none(text: str) -> bytes:
    plain = json.loads(text)
    plain["cases"][0]["geometry"]["spacing_mm"] = [0.0, 1.0, 1.0]
    return json.dumps(plain).encode()


def of_an_older_version(text: str) -> bytes:
    return json.dumps({"cases": json.loads(text)["cases"]}).encode()


def of_a_newer_version(text: str) -> bytes:
    return json.dumps({**json.loads(text), "format": FORMAT + 1}).encode()


def a_list(text: str) -> bytes:
    return b"[]"


def an_empty_object(text: str) -> bytes:
    return b"{}"


def no_text(text: str) -> bytes:
    return b"\xff\xfe\x00"


@pytest.mark.parametrize(
    "damage",
    [
        cut_off,
        without_a_field,
        with_a_text_for_a_number,
        with_a_grid_that_is_none,
        of_an_older_version,
        of_a_newer_version,
        a_list,
        an_empty_object,
        no_text,
    ],
)
def test_a_damaged_description_is_refused(tmp_path: Path, damage: Callable[[str], bytes]) -> None:
    write_cases(tmp_path, [case_of("a", "p")])
    path = tmp_path / "dataset.json"
    path.write_bytes(damage(path.read_text()))
    with pytest.raises(InputError, match=rf"{path}: cannot be read .* Prepare the data again"):
        read_data_set(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_a_missing_or_damaged_array_is_named(data: DataSet, content: bytes | None) -> None:
    case = data.cases[0]
    for what, read in (("hu", data.volume), ("labels", data.labels)):
        path = data.folder / f"{case.name}_{what}.npy"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{path}: cannot be read .* Prepare the data again"):
            read(case)


def test_an_array_cut_off_is_named(data: DataSet) -> None:
    path = data.folder / f"{data.cases[0].name}_hu.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"{path}: cannot be read"):
        data.volume(data.cases[0])
