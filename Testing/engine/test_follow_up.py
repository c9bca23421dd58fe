"""Two folders of results compared: planted courses, the files, the picture, and bad input."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import SimpleITK as sitk

from LiverTumorSegLib import cli, follow_up
from LiverTumorSegLib import comparison as comparing
from LiverTumorSegLib.acquisition import acquisition_date
from LiverTumorSegLib.comparison import Comparison, burden_line, compare, recist_line
from LiverTumorSegLib.comparison_sheet import CARRIED_RGB, ROWS, TEXT_WIDTH, render_comparison
from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.follow_up import (
    COLUMNS,
    DEFINITIONS,
    FILE_NAMES,
    PICTURE,
    REPORT,
    TABLE,
    comparison_text,
    run_comparison,
)
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import measure
from LiverTumorSegLib.register import Registration
from LiverTumorSegLib.report import REPORT as RESULT_REPORT
from LiverTumorSegLib.report import SEGMENTATION, Run, write_outputs
from LiverTumorSegLib.result_folder import Result, read_result
from LiverTumorSegLib.seg_nrrd import write_segmentation
from LiverTumorSegLib.segmentation import Segmentation
from LiverTumorSegLib.tiles import ALERT_RGB
from LiverTumorSegLib.volume import Volume, write_labels
from Testing.engine.liver_phantom import (
    affine,
    grid_around,
    in_ball,
    in_liver,
    places_of,
    through,
)

Balls = dict[str, tuple[tuple[float, float, float], float]]
BEFORE: Balls = {
    "grows": ((-30, 0, 10), 10),
    "shrinks": ((40, -25, 25), 9),
    "goes": ((-55, 20, -40), 6),
    "stays": ((-10, 25, -20), 7),
    "merges": ((-50, -10, 30), 6),
    "merges too": ((-50, 6, 30), 6),
}
AFTER: Balls = {
    "grows": ((-30, 0, 10), 13),
    "shrinks": ((40, -25, 25), 6),
    "comes": ((0, -20, 30), 8),
    "stays": ((-10, 25, -20), 7),
    "merges": ((-50, -10, 30), 9.5),
    "merges too": ((-50, 6, 30), 9.5),
}
TRUE = affine((5, -3, 8), (12, -6, 20), (1.03, 1.0, 0.98))
STILL = Registration(np.eye(4), 1.0, 0.0, (1.0, 1.0, 1.0), 0.0)
PLAIN = grid_around(spacing_mm=(4.0, 2.5, 2.5))
LATER = grid_around(
    center_mm=(12, -6, 20), spacing_mm=(4.0, 2.5, 2.5), turn_degrees=(6, 4, -10), mirrored=True
)


def scan(balls: Balls, grid: Geometry, matrix: np.ndarray, name: str) -> tuple[Volume, np.ndarray]:
    """CT and labels of the liver with balls in it, after a map."""
    places = through(np.linalg.inv(matrix), places_of(grid))
    labels = in_liver(places).astype(np.uint8)
    for center, radius in balls.values():
        labels[in_ball(center, radius, places) & (labels > 0)] = 2
    hu = np.array([-80.0, 100.0, 50.0], np.float32)[labels]
    return Volume(hu, grid, name), labels


def leave(
    folder: Path, volume: Volume, labels: np.ndarray, lesion_map: np.ndarray | None = None
) -> Path:
    """A folder as `segment` leaves it, or as `measure` does where a reader numbered the lesions."""
    folder.mkdir(parents=True)
    measurement, lesion_map = measure(volume, labels, lesion_map=lesion_map)
    facts = {"license": None, "training_cases": None, "mean_dice": None}
    models = {
        "liver": {"name": "a", "sha256": "0", **facts},
        "tumor": {"name": "b", "sha256": "1", **facts},
    }
    run = Run(f"{volume.name}.nii.gz", models, "cpu", None)
    write_outputs(folder, run, volume, Segmentation(labels), measurement, lesion_map)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("SECRET-NAME")
    return (
        leave(root / "before", *scan(BEFORE, PLAIN, np.eye(4), "first")),
        leave(root / "after", *scan(AFTER, LATER, TRUE, "second")),
    )


@pytest.fixture(scope="module")
def comparison(folders: tuple[Path, Path]) -> Comparison:
    return compare(read_result(folders[0]), read_result(folders[1]))


@pytest.fixture(scope="module")
def out(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    outdir = tmp_path_factory.mktemp("out") / "new"
    assert cli.main(["compare", *map(str, folders), "-o", str(outdir)]) == 0
    return outdir


def lesion_at(result: Result, balls: Balls, name: str, matrix: np.ndarray) -> int:
    """The number of the lesion that a ball became."""
    place = through(matrix, np.array(balls[name][0], float))
    index = np.rint(result.geometry.index_of(place)).astype(int)
    return int(result.lesion_map[tuple(index)])


# Courses


def test_a_planted_course_is_told(comparison: Comparison) -> None:
    def before(name: str) -> int:
        return lesion_at(comparison.baseline, BEFORE, name, np.eye(4))

    def after(name: str) -> int:
        return lesion_at(comparison.followup, AFTER, name, TRUE)

    told = {
        (g.finding.baseline, g.finding.followup): (g.finding.match, g.change)
        for g in comparison.growths
    }
    assert told == {
        ((before("grows"),), (after("grows"),)): ("one", "grown"),
        ((before("shrinks"),), (after("shrinks"),)): ("one", "shrunk"),
        ((before("stays"),), (after("stays"),)): ("one", "stable"),
        ((before("goes"),), ()): ("none", "gone"),
        ((), (after("comes"),)): ("none", "new"),
        (tuple(sorted((before("merges"), before("merges too")))), (after("merges"),)): (
            "merged",
            "grown",
        ),
    }
    assert set(comparison.response.targets) == {before("grows"), before("shrinks")}
    assert comparison.response.response == "PD"
    assert comparison.warnings == ()


def test_exchanged_dates_mirror_the_course(
    folders: tuple[Path, Path], comparison: Comparison
) -> None:
    back = compare(read_result(folders[1]), read_result(folders[0]))
    mirrored = {"new": "gone", "gone": "new", "grown": "shrunk", "shrunk": "grown"}
    forth = {
        (g.finding.followup, g.finding.baseline, mirrored.get(g.change, g.change))
        for g in comparison.growths
    }
    assert {(g.finding.baseline, g.finding.followup, g.change) for g in back.growths} == forth


def test_a_date_compared_with_itself_is_stable_without_any_change(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(folders[0], tmp_path / "copy")
    same = compare(read_result(folders[0]), read_result(copy))
    assert {g.change for g in same.growths} == {"stable"}
    assert {g.volume_change_ml for g in same.growths} == {0.0}
    assert same.response.response == "SD"
    assert same.response.baseline_sum_mm == same.response.followup_sum_mm
    assert any("one CT given for both" in text for text in same.warnings)


def test_a_liver_without_tumors_at_both_dates_is_a_result(tmp_path: Path) -> None:
    one = leave(tmp_path / "one", *scan({}, PLAIN, np.eye(4), "first"))
    two = leave(tmp_path / "two", *scan({}, LATER, TRUE, "second"))
    with mock.patch.object(comparing, "register", return_value=STILL):
        found = run_comparison(one, two, tmp_path / "out")
    assert found.growths == ()
    assert found.response.response == "none"
    assert len(list(csv.reader((tmp_path / "out" / TABLE).open()))) == 1
    assert "no lesion at either date" in recist_line(found)
    assert "No lesion at the baseline." in comparison_text(found)
    assert (tmp_path / "out" / PICTURE).stat().st_size > 0


# Files


def test_the_report_holds_the_numbers_of_both_reports(
    out: Path, folders: tuple[Path, Path], comparison: Comparison
) -> None:
    assert sorted(path.name for path in out.iterdir()) == sorted(FILE_NAMES)
    report = json.loads((out / REPORT).read_text())
    assert report["version"]
    assert report["not_for_clinical_use"] is True
    for date, folder in zip(("baseline", "followup"), folders, strict=True):
        single = json.loads((folder / RESULT_REPORT).read_text())
        assert report[date]["input"] == single["input"]
        assert report[date]["models"] == single["models"]
        assert report[date]["liver_volume_ml"] == single["liver"]["volume_ml"]
        assert report[date]["tumor_burden_percent"] == single["tumor_burden_percent"]
        lesions = {n: lesion["volume_ml"] for n, lesion in enumerate(single["lesions"], start=1)}
        told = sum(f[f"{date}_volume_ml"] for f in report["findings"])
        assert told == pytest.approx(sum(lesions.values()), abs=1e-3)
        for finding in report["findings"]:
            expected = sum(lesions[n] for n in finding[f"{date}_lesions"])
            assert finding[f"{date}_volume_ml"] == pytest.approx(expected, abs=1e-4)
    recist = report["recist_1_1"]
    change = recist["followup_sum_mm"] - recist["baseline_sum_mm"]
    assert recist["sum_change_mm"] == pytest.approx(change, abs=0.01)
    assert recist["sum_change_percent"] == pytest.approx(
        100 * change / recist["baseline_sum_mm"], abs=0.01
    )
    assert recist["targets_chosen_by"] == "proposal"
    assert "nadir" in recist["remarks"][-1]
    assert "liver alone" in recist["remarks"][-1]
    assert report["who"]["product_change_percent"] is not None
    assert report["registration"]["dice"] == round(comparison.registration.dice, 4)
    assert report["definitions"] == DEFINITIONS


def test_the_table_has_a_row_a_pair(out: Path) -> None:
    rows = list(csv.DictReader((out / TABLE).open()))
    findings = json.loads((out / REPORT).read_text())["findings"]
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 7
    pairs = [(row["finding"], row["baseline_lesion"], row["followup_lesion"]) for row in rows]
    assert len(set(pairs)) == len(rows)
    for row in rows:
        finding = findings[int(row["finding"]) - 1]
        assert row["change"] == finding["change"]
        assert float(row["volume_change_ml"]) == finding["volume_change_ml"]
        empty = [name for name, cell in row.items() if cell == ""]
        if finding["change"] == "new":
            assert "baseline_volume_ml" in empty
            assert "volume_change_percent" in empty
            assert row["finding_baseline_volume_ml"] in ("0", "0.0")
        elif finding["change"] == "gone":
            assert "followup_mean_hu" in empty
            assert row["volume_change_percent"] == "-100.0"
        else:
            assert empty == []
    merged = [row for row in rows if row["match"] == "merged"]
    assert len(merged) == 2
    assert len({row["followup_lesion"] for row in merged}) == 1
    assert len({row["finding_baseline_volume_ml"] for row in merged}) == 1
    assert sum(int(row["target"]) for row in rows) == 2


def test_no_path_and_no_folder_name_gets_out(out: Path) -> None:
    for name in (REPORT, TABLE):
        assert "SECRET" not in (out / name).read_text()
        assert str(out.parent) not in (out / name).read_text()


def test_the_command_tells_the_result_and_the_files(
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    comparison: Comparison,
) -> None:
    with mock.patch.object(comparing, "register", return_value=comparison.registration):
        code = cli.main(["compare", *map(str, folders), "-o", str(tmp_path), "--targets", "3"])
    said = capsys.readouterr().out
    assert code == 0
    assert "RECIST 1.1, liver only: PD" in said
    assert "Target 3: sum" in said
    assert "merged" not in said.splitlines()[0]
    for name in FILE_NAMES:
        assert str(tmp_path / name) in said
    assert said.rstrip().endswith("Not for clinical use.")
    assert said.isascii()
    recist = json.loads((tmp_path / REPORT).read_text())["recist_1_1"]
    assert (recist["targets"], recist["targets_chosen_by"]) == ([3], "reader")


def test_the_lines_by_hand(comparison: Comparison) -> None:
    response = dataclasses.replace(
        comparison.response, baseline_sum_mm=40.0, followup_sum_mm=50.0, targets=(2, 1)
    )
    line = recist_line(dataclasses.replace(comparison, response=response))
    assert line.endswith("Targets 2 and 1: sum 40.0 -> 50.0 mm (+10.0 mm, +25.0 %).")
    unknown = dataclasses.replace(response, followup_sum_mm=None)
    line = recist_line(dataclasses.replace(comparison, response=unknown))
    assert line.endswith("sum 40.0 mm, then not known.")
    before = comparison.baseline.measurement
    assert f"Liver {before.liver_volume_ml:.0f} ->" in burden_line(comparison)
    assert "Tumors 6 -> 5" in burden_line(comparison)


# The picture


def test_the_picture_shows_a_row_a_finding_with_and_without_the_cts(
    comparison: Comparison,
) -> None:
    plain = render_comparison(comparison, None, None)
    hu = [np.full(r.labels.shape, 240.0) for r in (comparison.baseline, comparison.followup)]
    bright = render_comparison(comparison, *hu)
    assert plain.size == bright.size
    assert plain.width <= 1100
    assert 6 * 272 < plain.height < 6 * 330 + 140
    assert np.asarray(bright).mean() > 1.5 * np.asarray(plain).mean()
    head = np.asarray(plain)[:34].reshape(-1, 3)
    assert (np.abs(head.astype(int) - ALERT_RGB).max(axis=1) < 8).any(), "not for clinical use"


def test_a_gone_lesion_is_outlined_where_it_would_be(comparison: Comparison) -> None:
    gone = next(g for g in comparison.growths if g.change == "gone")
    only = dataclasses.replace(comparison, growths=(gone,))
    sheet = np.asarray(render_comparison(only, None, None)).astype(int)
    rows, columns = np.nonzero(np.abs(sheet[86:-52] - CARRIED_RGB).max(axis=2) < 25)
    middle = TEXT_WIDTH + 3 * 6 + 340 * 1.5
    assert columns.mean() == pytest.approx(middle, abs=12), "the middle of the follow-up's tile"
    assert np.ptp(columns) == pytest.approx(12 * 272 / 90, abs=10), "12 mm across"


def test_what_the_later_scan_does_not_show_is_neither_gone_nor_drawn(
    comparison: Comparison, tmp_path: Path
) -> None:
    """A later scan that ends below the lesions at z 10 to 40; of the others none is there."""
    low = grid_around(center_mm=(0, 0, -70), size_mm=(110, 170, 230), spacing_mm=(4.0, 2.5, 2.5))
    cut = read_result(leave(tmp_path / "cut", *scan({}, low, np.eye(4), "cut")))
    with mock.patch.object(comparing, "register", return_value=STILL):
        found = compare(comparison.baseline, cut)
    changes = [
        (float(comparison.baseline.measurement.lesions[n - 1].centroid_z_mm), g.change)
        for g in found.growths
        for n in g.finding.baseline
    ]
    assert len(changes) == 6
    assert all(change == ("gone" if z < -15 else "not shown") for z, change in changes)
    assert found.response.response == "NE"
    assert np.asarray(render_comparison(found, None, None)).any()


def test_more_findings_than_fit_are_counted(comparison: Comparison) -> None:
    many = dataclasses.replace(comparison, growths=comparison.growths * 3)
    few = dataclasses.replace(comparison, growths=(comparison.growths * 3)[:ROWS])
    assert (
        render_comparison(many, None, None).height <= render_comparison(few, None, None).height + 20
    )


# Bad input


def refused(arguments: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["compare", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_the_same_folder_twice_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = folders[0] / ".." / folders[0].name
    assert "given twice" in refused([folders[0], again, "-o", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_result_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        said = refused([folders[0], folder, "-o", tmp_path / "out"], capsys)
        assert (
            f"{folder}: expected a folder that `segment` or `measure` made, found no report.json"
            in said
        )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "other JSON"),
        ('{"version": "9.9"}', "without usable 'liver' (made by version 9.9)"),
        (None, "without usable 'short_axis_ends_mm'"),
    ],
)
def test_a_report_that_cannot_be_used_is_refused(
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    words: str,
) -> None:
    copy = shutil.copytree(folders[1], tmp_path / "copy")
    report = json.loads((copy / RESULT_REPORT).read_text())
    for lesion in report["lesions"]:
        del lesion["short_axis_ends_mm"]
    (copy / RESULT_REPORT).write_text(json.dumps(report) if text is None else text)
    assert words in refused([folders[0], copy, "-o", tmp_path / "out"], capsys)


def test_a_label_map_that_was_changed_after_it_was_measured_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(folders[1], tmp_path / "copy")
    result = read_result(copy)
    labels = result.labels.copy()
    labels[result.lesion_map == 1] = 1
    path = copy / SEGMENTATION
    fewer = np.maximum(result.lesion_map - 1, 0)
    write_segmentation(path, labels, fewer, result.geometry)
    said = refused([folders[0], copy, "-o", tmp_path / "out"], capsys)
    assert "found 5 lesions" in said
    assert "and 4 in" in said
    assert "`measure` it again" in said
    labels = np.maximum(result.labels, result.labels[::-1] > 0)
    write_segmentation(path, labels, result.lesion_map, result.geometry)
    assert "`measure` it again" in refused([folders[0], copy, "-o", tmp_path / "out"], capsys)


def test_lesions_that_a_reader_told_apart_stay_apart(tmp_path: Path) -> None:
    volume, labels = scan({"one": ((-30, 0, 10), 12)}, PLAIN, np.eye(4), "corrected")
    lesion_map = np.where(labels == 2, 1, 0).astype(np.int32)
    lesion_map[(labels == 2) & (places_of(PLAIN)[..., 0] > -27)] = 2
    result = read_result(leave(tmp_path / "halves", volume, labels, lesion_map))
    assert len(result.measurement.lesions) == 2
    np.testing.assert_array_equal(result.lesion_map, lesion_map)


def test_a_date_without_a_liver_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume, labels = scan({}, PLAIN, np.eye(4), "empty")
    empty = leave(tmp_path / "empty", volume, labels * 0)
    said = refused([folders[0], empty, "-o", tmp_path / "out"], capsys)
    assert "expected a result with a liver, found none of empty.nii.gz" in said


def test_another_patient_is_refused_with_numbers(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume, labels = scan({}, PLAIN, np.eye(4), "other")
    labels[:] = 0
    labels[10:20, 5:60, 5:85] = 1
    other = leave(tmp_path / "other", volume, labels)
    said = refused([folders[0], other, "-o", tmp_path / "out"], capsys)
    assert "do not fit each other" in said
    assert "not the same patient" in said
    assert not (tmp_path / "out").exists()


def test_the_wrong_ct_and_wrong_targets_are_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ct = tmp_path / "ct.nii.gz"
    write_labels(ct, np.zeros((4, 5, 6), np.uint8), Geometry((4, 5, 6), (1.0, 1.0, 1.0)))
    said = refused([*folders, "-o", tmp_path / "out", "--followup-ct", ct], capsys)
    assert "expected the CT of second.nii.gz" in said
    assert "found 9" in refused([*folders, "-o", tmp_path / "out", "--targets", "9"], capsys)
    assert "expected lesion numbers such as 1,3" in refused(
        [*folders, "-o", tmp_path / "out", "--targets", "1;2"], capsys
    )
    assert not (tmp_path / "out").exists()


def test_differences_of_the_dates_are_warned_of(comparison: Comparison) -> None:
    baseline, followup = comparison.baseline, comparison.followup
    models = {"liver": {"name": "other", "sha256": "2"}}
    edge = dataclasses.replace(followup.measurement.lesions[0], touches_edge=True)
    measurement = dataclasses.replace(
        followup.measurement, lesions=(edge, *followup.measurement.lesions[1:])
    )
    changed = dataclasses.replace(followup, version="0.0.1", models=models, measurement=measurement)
    doubtful = dataclasses.replace(comparison.registration, dice=0.89)
    with mock.patch.object(comparing, "register", return_value=doubtful):
        said = " ".join(compare(baseline, changed).warnings)
    assert "Dice of 0.89" in said
    assert "different versions" in said
    assert "different weights" in said
    assert "edge may cut lesion 1" in said


def dicom(folder: Path, **dates: str) -> Path:
    """One slice with these dates."""
    folder.mkdir()
    image = sitk.GetImageFromArray(np.zeros((1, 4, 4), np.int16))
    for tag, date in dates.items():
        image.SetMetaData(f"0008|{tag[1:]}", date)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(folder / "b.dcm"))
    writer.Execute(image)
    (folder / "a.txt").write_text("no image")
    return folder


def test_dates_are_read_where_dicom_tells_them(tmp_path: Path) -> None:
    both = dicom(tmp_path / "both", t0022="20240105", t0021="20240106")
    assert acquisition_date(both) == "20240105"
    assert acquisition_date(dicom(tmp_path / "study", t0020="20230101")) == "20230101"
    assert acquisition_date(both / "b.dcm") is None
    (tmp_path / "empty").mkdir()
    assert acquisition_date(tmp_path / "empty") is None


@pytest.mark.parametrize(
    ("first", "second", "warned"),
    [("20240105", "20240104", True), ("20240105", "20240105", False), ("20231231", None, False)],
)
def test_a_followup_older_than_the_baseline_is_warned_of(
    folders: tuple[Path, Path],
    comparison: Comparison,
    tmp_path: Path,
    first: str,
    second: str | None,
    warned: bool,
) -> None:
    with (
        mock.patch.object(follow_up, "acquisition_date", side_effect=[first, second]),
        mock.patch.object(follow_up, "_hu", return_value=None),
        mock.patch.object(comparing, "register", return_value=comparison.registration),
    ):
        found = run_comparison(*folders, tmp_path, None, tmp_path, tmp_path)
    assert any("were the two exchanged" in text for text in found.warnings) is warned
    written = (tmp_path / REPORT).read_text()
    assert first not in written, "no date gets out"


def test_slices_of_different_thickness_are_warned_of(tmp_path: Path) -> None:
    thick = leave(
        tmp_path / "thick", *scan({}, grid_around(spacing_mm=(7.0, 4.0, 4.0)), np.eye(4), "thick")
    )
    thin = leave(
        tmp_path / "thin", *scan({}, grid_around(spacing_mm=(4.0, 4.0, 4.0)), np.eye(4), "thin")
    )
    with mock.patch.object(comparing, "register", return_value=STILL):
        (said,) = compare(read_result(thick), read_result(thin)).warnings
    assert said.startswith("Slices are 7 mm apart at the baseline and 4 mm at the follow-up")


def test_the_lesions_are_numbered_as_in_the_table(folders: tuple[Path, Path]) -> None:
    result = read_result(folders[0])
    for lesion in result.measurement.lesions:
        voxels = np.count_nonzero(result.lesion_map == lesion.lesion)
        assert voxels * result.geometry.voxel_ml == pytest.approx(lesion.volume_ml, abs=1e-4)
    assert result.measurement.lesions[0].volume_ml > result.measurement.lesions[1].volume_ml
    assert lesion_components(result.labels == 2)[1] == len(result.measurement.lesions)


def test_a_refusal_leaves_an_earlier_comparison_as_it_was(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / REPORT).write_text("earlier")
    with pytest.raises(InputError):
        run_comparison(*folders, tmp_path, targets=(1, 2, 3))
    assert [path.name for path in tmp_path.iterdir()] == [REPORT]
    assert (tmp_path / REPORT).read_text() == "earlier"
