"""A folder of CTs: what is done stays done, what fails does not stop the rest."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from LiverTumorSegLib import checkpoint, cli
from LiverTumorSegLib.batch import TABLE, Row, run_batch
from LiverTumorSegLib.case import Setup
from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.errors import Cancelled, InputError
from LiverTumorSegLib.report import LABELS, REPORT
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


def run(folder: Path, outdir: Path, **changes: Any) -> list[tuple[Row, int, int]]:
    """The calls of on_case."""
    told: list[tuple[Row, int, int]] = []
    setup = Setup(LIVER, TUMOR, device="cpu", backend="torch", flips=False, probabilities=False)
    on_progress = changes.pop("on_progress", lambda stage, fraction: None)
    run_batch(
        folder,
        outdir,
        replace(setup, **changes),
        on_progress,
        lambda *arguments: told.append(arguments),
    )
    return told


def table(outdir: Path) -> list[dict[str, str]]:
    with (outdir / TABLE).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predictions() -> int:
    return len(LIVER.network.inputs) + len(TUMOR.network.inputs)


def test_each_ct_gets_its_folder_and_its_row(folder: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "out" / "results"
    told = run(folder, outdir)
    assert [(row.case, number, count) for row, number, count in told] == [
        ("a", 1, 3),
        ("b 1", 2, 3),
        ("c", 3, 3),
    ]
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
    assert sorted(path.name for path in outdir.iterdir()) == ["a", "b 1", "c", TABLE]


def test_what_is_done_is_not_done_again(folder: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "out"
    run(folder, outdir)
    first, before = (outdir / TABLE).read_bytes(), predictions()
    run(folder, outdir)
    assert predictions() == before
    assert (outdir / TABLE).read_bytes() == first
    write_ct(folder / "d.nii")
    run(folder, outdir)
    assert predictions() > before
    assert [row["case"] for row in table(outdir)] == ["a", "b 1", "c", "d"]


def test_other_models_or_a_damaged_report_are_reasons_to_do_it_again(
    folder: Path, tmp_path: Path
) -> None:
    outdir = tmp_path / "out"
    run(folder, outdir)
    before = predictions()
    (outdir / "a" / REPORT).write_text('{"input": "a.mha"}')
    run(folder, outdir)
    one = predictions() - before
    assert one > 0
    before = predictions()
    run(folder, outdir, tumor=replace(TUMOR, sha256="another"))
    assert predictions() - before > one


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
    assert sorted(path.name for path in outdir.iterdir()) == ["a", TABLE]
    before = predictions()
    run(folder, outdir)
    whole = predictions() - before
    assert [row["status"] for row in table(outdir)] == ["done"] * 3
    before = predictions()
    run(folder, tmp_path / "anew")
    assert predictions() - before > whole  # the first case had not been done again


def test_a_ct_that_fails_does_not_stop_the_rest(folder: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "out"
    (folder / "b 1.nii.gz").write_bytes(b"cut off")
    (folder / "aa dicom").mkdir()
    with pytest.raises(InputError, match="2 of 4 cases failed") as caught:
        run(folder, outdir)
    assert str(outdir / TABLE) in str(caught.value)
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
    (folder / "aa dicom").rmdir()
    run(folder, outdir)
    assert [row["status"] for row in table(outdir)] == ["done"] * 3


class Broken(nn.Module):
    dimensions = 3

    def forward(self, x: Tensor) -> Tensor:
        raise ZeroDivisionError("oops")


def test_a_bug_in_one_ct_is_told_and_does_not_stop_the_rest(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken: Model = replace(TUMOR, network=Broken().eval(), predictors={})
    with pytest.raises(InputError, match="2 of 3"):
        run(folder, tmp_path / "out", tumor=broken)
    rows = table(tmp_path / "out")
    assert [row["status"] for row in rows] == ["failed", "failed", "done"]
    assert "ZeroDivisionError: oops This is a bug" in rows[0]["message"]
    assert capsys.readouterr().err.count("Traceback") == 2


def test_results_may_lie_among_the_cts(folder: Path) -> None:
    for _ in range(2):
        assert len(run(folder, folder / "results")) == 3


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
        assert [case["case"] for case in cases] == ["a", "b 1", "c", "d"]
        assert cases[0]["tumors"] == 2
        assert events[-1]["event"] == "error"
        return
    lines = out.splitlines()
    assert lines[0].startswith("1/4 a: done. liver ")
    assert ", 2 tumors, " in lines[0]
    assert lines[3].startswith("4/4 d: failed. ")
    assert "d.nii" in lines[3]
