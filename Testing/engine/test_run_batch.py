"""A folder of CTs: what is done stays done, what fails does not stop the rest."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from LiverTumorSegLib import checkpoint, cli, tables
from LiverTumorSegLib.batch import Job, Outcome, Runner, one_by_one, run_batch, settings_of
from LiverTumorSegLib.case import Setup
from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.errors import Cancelled, InputError, ResourceError
from LiverTumorSegLib.progress import CaseCount, TextProgress
from LiverTumorSegLib.report import LABELS, REPORT
from LiverTumorSegLib.row import CASES, LESIONS, SETTINGS, Row, row_from, stamp_of
from LiverTumorSegLib.volume import image_on_grid, read_labels
from Testing.engine.known_networks import liver_model, phantom, tumor_model

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

LIVER, TUMOR = liver_model(), tumor_model()


def write_ct(path: Path, hu: np.ndarray | None = None) -> None:
    volume, _ = phantom()
    sitk.WriteImage(image_on_grid(volume.hu if hu is None else hu, volume.geometry), str(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two CTs with tumors and one of air, a hidden file and one of another kind."""
    folder = tmp_path / "CTs of May"
    folder.mkdir()
    write_ct(folder / "b 1.nii.gz")
    write_ct(folder / "a.mha")
    write_ct(folder / "c.nrrd", np.full(phantom()[0].hu.shape, -1000, np.float32))
    (folder / "notes.txt").write_text("not a CT")
    (folder / ".DS_Store.nii").write_text("not a CT either")
    return folder


def run(given: Path, outdir: Path, resume: bool = False, **changes: Any) -> list[Row]:
    """The rows of the cases that were run."""
    told: list[Row] = []
    setup = Setup(LIVER, TUMOR, device="cpu", backend="torch", flips=False, probabilities=False)
    on_progress = changes.pop("on_progress", lambda stage, fraction: None)
    setup = replace(setup, **changes)
    runner = one_by_one(setup, on_progress)
    nothing = lambda kept, count: None  # noqa: E731
    run_batch(given, outdir, settings_of(setup), runner, resume, nothing, told.append)
    return told


def table(outdir: Path, name: str = CASES) -> list[dict[str, str]]:
    with (outdir / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_consistent(outdir: Path) -> None:
    """Every lesion of every case that is done is in lesions.csv, as in the case's own table."""
    lesions = table(outdir, LESIONS)
    for row in table(outdir):
        its = [lesion for lesion in lesions if lesion["case"] == row["case"]]
        assert len(its) == int(row["tumors"] or 0)
        own = table(outdir / row["case"], LESIONS) if its else []
        assert its == [{"case": row["case"], **lesion} for lesion in own]


def predictions() -> int:
    return len(LIVER.network.inputs) + len(TUMOR.network.inputs)


def test_each_ct_gets_its_folder_and_its_row(folder: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "out" / "results"
    told = run(folder, outdir)
    assert [row.case for row in told] == ["a", "b 1", "c"]
    rows = table(outdir)
    assert [row["case"] for row in rows] == ["a", "b 1", "c"]
    assert {row["status"] for row in rows} == {"done"}
    assert [row["tumors"] for row in rows] == ["2", "2", "0"]
    volume, labels = phantom()
    for row in rows[:2]:
        assert np.array_equal(read_labels(outdir / row["case"] / LABELS)[0], labels)
        ml = volume.geometry.voxel_ml
        assert float(row["liver_ml"]) == pytest.approx((labels > 0).sum() * ml, abs=1e-3)
        assert float(row["tumor_ml"]) == pytest.approx((labels == 2).sum() * ml, abs=1e-3)
        assert float(row["seconds"]) >= 0
        assert row["message"] == ""
    assert "No liver was found" in rows[2]["message"]
    assert sorted(path.name for path in outdir.iterdir()) == sorted(
        ["a", "b 1", "c", CASES, LESIONS, SETTINGS]
    )
    assert [row["case"] for row in table(outdir, LESIONS)] == ["a", "a", "b 1", "b 1"]
    check_consistent(outdir)


def test_a_csv_names_the_cases_and_its_columns_are_kept(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "cohort.csv"
    listed.write_text(
        "ct,case,age\nCTs of May/a.mha,first,61\nnowhere.nii,second,\nCTs of May/b 1.nii.gz,3rd,7\n"
    )
    with pytest.raises(InputError, match="1 of 3 cases failed"):
        run(listed, tmp_path / "out")
    rows = table(tmp_path / "out")
    assert [(row["case"], row["status"], row["age"]) for row in rows] == [
        ("first", "done", "61"),
        ("second", "failed", ""),
        ("3rd", "done", "7"),
    ]
    assert "nowhere.nii: expected an image that can be read" in rows[1]["message"]
    check_consistent(tmp_path / "out")
    listed.write_text(listed.read_text().replace("61", "62"))
    with pytest.raises(InputError, match="1 of 3 cases failed"):
        run(listed, tmp_path / "out", resume=True)
    assert [row["age"] for row in table(tmp_path / "out")] == ["62", "7", ""]


def test_a_folder_with_a_batch_is_gone_on_with_only_if_asked(folder: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "out"
    assert len(run(folder, outdir, resume=True)) == 3, "nothing to go on with is no fault"
    with pytest.raises(InputError, match="--resume"):
        run(folder, outdir)
    (outdir / SETTINGS).unlink()
    with pytest.raises(InputError, match=f"{SETTINGS}: expected the settings of the batch"):
        run(folder, outdir, resume=True)
    (outdir / CASES).write_bytes(b"\xff\xfe somebody's own\n")
    with pytest.raises(InputError, match=f"{CASES}: expected a table"):
        run(folder, outdir)


def test_a_batch_that_had_no_time_for_a_case_leaves_no_trace(folder: Path, tmp_path: Path) -> None:
    def stop(stage: str, fraction: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run(folder, tmp_path, on_progress=stop)
    assert len(run(folder, tmp_path, flips=True)) == 3


def test_what_is_done_is_not_done_again(folder: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "out"
    run(folder, outdir)
    first, before = [(outdir / name).read_text() for name in (CASES, LESIONS)], predictions()
    assert run(folder, outdir, resume=True) == []
    assert predictions() == before
    assert [(outdir / name).read_text() for name in (CASES, LESIONS)] == first
    write_ct(folder / "d.nii")
    assert [row.case for row in run(folder, outdir, resume=True)] == ["d"]
    assert [row["case"] for row in table(outdir)] == ["a", "b 1", "c", "d"]
    check_consistent(outdir)
    (folder / "c.nrrd").unlink()
    assert run(folder, outdir, resume=True) == []
    assert [row["case"] for row in table(outdir)] == ["a", "b 1", "d"], "the table tells of INPUT"


def remove_report(folder: Path, outdir: Path) -> None:
    (outdir / "a" / REPORT).unlink()


def lose_a_lesion(folder: Path, outdir: Path) -> None:
    lines = (outdir / LESIONS).read_text().splitlines(keepends=True)
    (outdir / LESIONS).write_text("".join(lines[:1] + lines[2:]))


def cut_its_row(folder: Path, outdir: Path) -> None:
    head, row, *_ = (outdir / CASES).read_text().splitlines(keepends=True)
    (outdir / CASES).write_text(head + row[: len(row) // 2])


def change_the_ct(folder: Path, outdir: Path) -> None:
    write_ct(folder / "a.mha", phantom()[0].hu + 1)


@pytest.mark.parametrize("change", [remove_report, lose_a_lesion, cut_its_row, change_the_ct])
def test_what_has_changed_is_done_again(
    folder: Path, tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    outdir = tmp_path / "out"
    run(folder, outdir)
    change(folder, outdir)
    again = [row.case for row in run(folder, outdir, resume=True)]
    assert again[0] == "a"
    assert len(again) == (3 if change is cut_its_row else 1)  # the rows below are gone, too
    assert sorted(row["case"] for row in table(outdir)) == ["a", "b 1", "c"]
    assert len(table(outdir, LESIONS)) == 4
    check_consistent(outdir)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"tumor": replace(TUMOR, sha256="another")}, "models"), ({"flips": True}, "flips")],
)
def test_results_of_other_settings_are_not_mixed(
    folder: Path, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    outdir = tmp_path / "out"
    run(folder, outdir)
    before = {path: path.read_bytes() for path in outdir.glob("*.*")}
    with pytest.raises(InputError, match=f"found others: {told} .*another OUTDIR"):
        run(folder, outdir, resume=True, **change)
    assert {path: path.read_bytes() for path in outdir.glob("*.*")} == before
    assert run(folder, outdir, resume=True, device="auto") == [], "where it runs does not matter"


def test_an_interrupted_batch_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "out"
    cases = 0

    def stop(stage: str, fraction: float) -> None:
        nonlocal cases
        cases += (stage, fraction) == ("Read", 0.0)
        if cases == 2 and stage == "Tumor":
            raise Cancelled

    with pytest.raises(Cancelled):
        run(folder, outdir, on_progress=stop)
    assert [row["case"] for row in table(outdir)] == ["a"]
    assert sorted(path.name for path in outdir.iterdir()) == sorted(["a", CASES, LESIONS, SETTINGS])
    assert [row.case for row in run(folder, outdir, resume=True)] == ["b 1", "c"]
    assert [row["status"] for row in table(outdir)] == ["done"] * 3


def replayed(results: Path) -> Runner:
    """Gives each case what an earlier batch found in it, to test the tables without the time."""

    def run(jobs: Sequence[Job]) -> Iterator[Outcome]:
        rows = {row["case"]: row for row in table(results)}
        for job in jobs:
            shutil.copytree(results / job.case, job.outdir, dirs_exist_ok=True)
            row = replace(row_from(rows[job.case]), input_modified=stamp_of(job.path)[1])
            yield Outcome(row, tuple(table(results / job.case, LESIONS)), "")

    return run


def replay(folder: Path, outdir: Path, results: Path) -> None:
    run_batch(folder, outdir, {}, replayed(results), True, lambda *_: None, lambda row: None)


def replay_and_be_killed(folder: Path, outdir: Path, results: Path, at_write: int) -> bool:
    """Run in a process that is killed at one of its writes to the tables; False: it has fewer."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    writes = 0

    def killed_at_last(file: int) -> None:
        nonlocal writes
        writes += 1
        if writes == at_write:
            os.kill(os.getpid(), signal.SIGKILL)

    tables.os.fsync = killed_at_last
    replay(folder, outdir, results)
    os._exit(0)


@pytest.mark.parametrize("part_done", [False, True])
def test_a_kill_leaves_tables_that_are_whole_and_agree(
    folder: Path, tmp_path: Path, part_done: bool
) -> None:
    """Killed at each write, with everything still to do, and with all done but one CT changed."""
    results = tmp_path / "results"
    run(folder, results)
    for at_write in range(1, 100):
        outdir = tmp_path / f"out{at_write}"
        if part_done:
            replay(folder, outdir, results)
            os.utime(folder / "a.mha", (at_write, at_write))
        if not replay_and_be_killed(folder, outdir, results, at_write):
            break
        if (outdir / LESIONS).exists():  # else no case is done
            check_consistent(outdir)
        replay(folder, outdir, results)
        check_consistent(outdir)
        assert sorted(row["case"] for row in table(outdir)) == ["a", "b 1", "c"]
        assert len(table(outdir, LESIONS)) == 4
    assert at_write == 3 + 2 * (1 if part_done else 3) + 1  # three files, then two tables a case


def test_a_full_disk_stops_the_batch_and_leaves_no_half_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outdir, whole = tmp_path / "out", os.fsync

    def full(file: int) -> None:
        if (outdir / "b 1").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(file)

    monkeypatch.setattr(tables.os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        run(folder, outdir)
    assert [row["case"] for row in table(outdir)] == ["a"]
    assert [row["case"] for row in table(outdir, LESIONS)] == ["a", "a"]
    assert not (outdir / "c").exists()


def test_a_ct_that_fails_does_not_stop_the_rest(folder: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "out"
    (folder / "b 1.nii.gz").write_bytes(b"cut off")
    (folder / "aa dicom").mkdir()
    (folder / "aa dicom" / "1.dcm").write_bytes(b"cut off, too")
    with pytest.raises(InputError, match="2 of 4 cases failed") as caught:
        run(folder, outdir)
    assert str(outdir / CASES) in str(caught.value)
    rows = {row["case"]: row for row in table(outdir)}
    assert [rows[name]["status"] for name in ("a", "aa dicom", "b 1", "c")] == [
        "done",
        "failed",
        "failed",
        "done",
    ]
    assert "b 1.nii.gz" in rows["b 1"]["message"]
    assert rows["b 1"]["liver_ml"] == ""
    assert not (outdir / "b 1").exists()
    write_ct(folder / "b 1.nii.gz")
    shutil.rmtree(folder / "aa dicom")
    assert [row.case for row in run(folder, outdir, resume=True)] == ["b 1"]
    assert [row["status"] for row in table(outdir)] == ["done"] * 3


class Broken(nn.Module):
    dimensions = 3

    def forward(self, x: Tensor) -> Tensor:
        raise ZeroDivisionError("oops")


def test_a_bug_in_one_ct_is_told_and_does_not_stop_the_rest(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken: Model = replace(TUMOR, network=Broken().eval(), predictors={})
    with pytest.raises(InputError, match="2 of 3"):
        run(folder, tmp_path / "out", tumor=broken)
    rows = table(tmp_path / "out")
    assert [row["status"] for row in rows] == ["failed", "failed", "done"]
    assert "ZeroDivisionError: oops This is a bug" in rows[0]["message"]
    assert caplog.text.count("Traceback") == 2


def test_results_may_lie_among_the_cts(folder: Path) -> None:
    assert len(run(folder, folder / "results")) == 3
    assert len(run(folder, folder / "more results")) == 3
    assert run(folder, folder / "results", resume=True) == []


def test_folders_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory"):
        run(tmp_path / "nowhere", tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="expected CTs"):
        run(empty, tmp_path / "out")
    write_ct(folder / "a.nii.gz")
    with pytest.raises(InputError, match=r"found a\.mha and a\.nii\.gz"):
        run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("progress", ["text", "json", "none"])
def test_the_command_line_tells_of_each_ct(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    progress: str,
) -> None:
    monkeypatch.setattr(checkpoint, "load_models", lambda liver, tumor: (LIVER, TUMOR))
    (folder / "d.nii").write_bytes(b"junk")
    choices = ["--backend", "torch", "--device", "cpu", "--progress", progress]
    code = cli.main(["batch", str(folder), "-o", str(tmp_path / "out"), *choices])
    out, err = capsys.readouterr()
    assert code == 2
    assert "1 of 4 cases failed" in err
    if progress == "json":
        events = [json.loads(line) for line in out.splitlines()]
        cases = [event["case"] for event in events if event["event"] == "case"]
        shares = [event["fraction"] for event in events]
        assert shares == sorted(shares)
        assert shares[-1] == 1
        counts = [event for event in events if "seconds_left" in event]
        assert [(event["done"], event["count"]) for event in counts[-2:]] == [(3, 4), (4, 4)]
        assert counts[-1]["seconds_left"] == 0
        assert [case["case"] for case in cases] == ["a", "b 1", "c", "d"]
        assert cases[0]["tumors"] == 2
        assert events[-1]["event"] == "error"
        return
    lines = out.splitlines()
    assert lines[0].startswith("1/4 a: done. liver ")
    assert ", 2 tumors, " in lines[0]
    assert lines[3].startswith("4/4 d: failed. ")
    assert "d.nii" in lines[3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_bar_goes_over_all_cases_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("LiverTumorSegLib.progress.time.monotonic", lambda: now)
    screen = Terminal()
    count = CaseCount(TextProgress(screen), 1, 5)  # one of five is done already
    count.show()
    now += 30
    count.stage("Liver", 1.0)  # half of a case in 30 s
    now += 30
    count.stage("Liver and tumor", 1.0)
    count.done += 1
    now += 20
    count.show()
    shown = [line.strip() for line in screen.getvalue().split("\r") if "cases" in line]
    assert shown[0].startswith("1 of 5 cases  20 %|")
    assert "1 of 5 cases, 4 min left" in "".join(shown)  # 3.5 cases of 60 s: 210 s
    assert any(line.startswith("1 of 5 cases, 4 min left  35 %|") for line in shown)  # 3.25 of 80 s
    assert shown[-1].startswith("2 of 5 cases, 4 min left  40 %|")  # 3 cases of 80 s
    assert count.seconds_left() == pytest.approx(240)
