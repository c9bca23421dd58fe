"""From LiTS files to weights that are listed and used: every command, in processes of their own."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from LiverTumorSegLib.checkpoint import read_info
from Testing import whole_path


@pytest.mark.slow
def test_the_whole_path_holds(tmp_path: Path) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-m", "Testing.whole_path", "-o", str(work)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert (work / "prepared" / "overview.html").exists()
    for recipe in whole_path.SMALL:
        with (work / f"{recipe}-scores" / "scores.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len({row["case"] for row in rows}) == whole_path.PHANTOMS, "both folds are collected"
        assert {row["seen"] for row in rows} == {"False"}
    assert "starter-liver" in (work / "table" / "comparison.md").read_text()
    info = read_info(work / "models" / "tiny.safetensors")
    assert len(info.card["scores"]["cases"]) == whole_path.PHANTOMS
    assert "models folder" in finished.stdout
    assert (work / "result" / "labels.nii.gz").exists()
