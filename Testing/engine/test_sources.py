"""What a batch runs over: folder trees and CSVs, and names that tell cases apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.report import FILE_NAMES
from LiverTumorSegLib.row import CASES, LESIONS, SETTINGS
from LiverTumorSegLib.sources import Source, find_sources, folder_name, in_csv

DICOM = bytes(128) + b"DICM" + b"the rest"


def put(root: Path, *names: str, content: bytes = b"any") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def cases(given: Path, outdir: Path = Path("nowhere")) -> dict[str, Path]:
    return {source.case: source.path for source in find_sources(given, outdir)}


# A folder tree


def test_cts_at_any_depth_are_called_by_their_path(tmp_path: Path) -> None:
    put(tmp_path, "b.nii.gz", "ward 1/p7/ct.NII", "ward 1/p7/late.nrrd", "ward 2/x.mhd")
    put(tmp_path, "pacs/st1/se2/IM0001", "pacs/st1/se2/IM0002", content=DICOM)
    put(tmp_path, "pacs/st1/se3/1.DCM", "pacs/st1/se3/report.txt")
    assert cases(tmp_path) == {
        "b": tmp_path / "b.nii.gz",
        "pacs__st1__se2": tmp_path / "pacs/st1/se2",
        "pacs__st1__se3": tmp_path / "pacs/st1/se3",
        "ward 1__p7__ct": tmp_path / "ward 1/p7/ct.NII",
        "ward 1__p7__late": tmp_path / "ward 1/p7/late.nrrd",
        "ward 2__x": tmp_path / "ward 2/x.mhd",
    }


def test_what_is_no_ct_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "a.nii", ".hidden.nii", ".hidden/b.nii", "notes.txt", "x/a.seg.nrrd", "empty/x")
    put(tmp_path, "DICOMDIR", "cd/DICOMDIR", content=DICOM)
    put(tmp_path, *(f"earlier/case/{name}" for name in FILE_NAMES), "out/case/labels.nii.gz")
    assert list(cases(tmp_path, tmp_path / "out")) == ["a"]


def test_a_series_beside_files_and_above_folders(tmp_path: Path) -> None:
    put(tmp_path / "p", "1.dcm", "ct.nii", "older/2.dcm", content=DICOM)
    assert list(cases(tmp_path)) == ["p", "p__ct", "p__older"]
    assert list(cases(tmp_path / "p")) == ["p", "ct", "older"]


def test_links_are_followed_but_in_no_circle(tmp_path: Path) -> None:
    put(tmp_path / "archive", "a.nii")
    put(tmp_path / "cohort", "b.nii")
    (tmp_path / "cohort" / "linked").symlink_to(tmp_path / "archive")
    (tmp_path / "archive" / "back").symlink_to(tmp_path / "cohort")
    assert list(cases(tmp_path / "cohort")) == ["b", "linked__a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_does_not_stop_the_rest(tmp_path: Path) -> None:
    put(tmp_path, "a.nii", "locked/b.nii")
    (tmp_path / "locked").chmod(0)
    assert list(cases(tmp_path)) == ["a"]


@pytest.mark.parametrize("names", [("a.mha", "a.nii"), ("a/b.nii", "a__b.nii"), ("a.nii", "A.mha")])
def test_two_cts_of_one_name_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    put(tmp_path, *names)
    with pytest.raises(InputError, match="Rename one of them, or list the cases in a CSV") as error:
        cases(tmp_path)
    assert all(name in str(error.value) for name in names)


def test_inputs_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory"):
        cases(tmp_path / "nowhere")
    with pytest.raises(InputError, match="No such file or directory"):
        cases(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="expected CTs"):
        cases(tmp_path)
    put(tmp_path, "ct.nii")
    with pytest.raises(InputError, match="`segment` takes a single CT"):
        cases(tmp_path / "ct.nii")


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=300))
@example("a/b")
@example("..")
@example("CON.txt")
@example("ü" * 200)
@example("not UTF-8: \udcff")
@example(CASES.upper())
def test_every_name_becomes_that_of_a_folder(name: str) -> None:
    safe = folder_name(name)
    assert folder_name(safe) == safe
    assert 0 < len(safe.encode()) <= 255
    assert not set(safe) & set('/\\:*?"<>|\n\0')
    assert safe[0] != "."
    assert safe[-1] not in ". "
    assert safe.casefold() not in (CASES, LESIONS, SETTINGS, "con", "nul")


def test_long_names_stay_apart() -> None:
    assert folder_name("x" * 300 + "1") != folder_name("x" * 300 + "2")


# A CSV


def csv_of(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "cohort.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_paths_start_at_the_csv_and_other_columns_are_kept(tmp_path: Path) -> None:
    path = csv_of(
        tmp_path,
        'age,case,ct,note\n61,p1,one/ct.nii,"a, b"\n,p2,/archive/series,\n',
        encoding="utf-8-sig",  # as Excel writes it
    )
    assert find_sources(path, tmp_path / "out") == [
        Source("p1", tmp_path / "one/ct.nii", {"age": "61", "note": "a, b"}),
        Source("p2", Path("/archive/series"), {"age": "", "note": ""}),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "an empty file"),
        ("case,path\na,a.nii\n", "found case, path. Add or rename: ct"),
        ("case;ct\na;a.nii\n", "separated by commas, found case;ct"),
        ("case,ct\n", "a row for each case, found none"),
        ("case,ct,ct\na,b,c\n", "doubled .* found ct"),
        ("case,ct,tumors\na,b,c\n", "called as a column of cases.csv, found tumors"),
        ("case,ct\na,a.nii\nA,b.nii\n", "line 3: the case 'A' of line 2 again"),
        ("case,ct\n,a.nii\n", "line 2: no case"),
        ("case,ct\na\n", "line 2: no ct"),
        ("case,ct\na,b,c\n", "line 2: more cells than columns"),
        ("case,ct\na/b,c.nii\n", "line 2: .*call it 'a_b'"),
        ("case,ct\n" + ",\n" * 30, "line 11: no case; and 20 more"),
    ],
)
def test_what_is_wrong_with_a_csv_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        in_csv(csv_of(tmp_path, text))


def test_a_csv_of_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="in UTF-8"):
        in_csv(csv_of(tmp_path, "case,ct\nMüller,a.nii\n", encoding="latin-1"))
