"""A cross-validation that is killed, in real processes: nothing is left running, and it goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from Testing.phantom import make_data_set
from Testing.training.tiny_runs import ROOT, TINY
from Training import cross_validate
from Training.scores import read_scores

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower
EPOCHS = 30


def words(data: Path, output: Path) -> list[str]:
    changes = (*TINY["starter-tumor"], f"training.epochs={EPOCHS}")
    settings = [word for change in changes for word in ("--set", change)]
    options = ["--data", str(data), "-o", str(output), "--device", "cpu", "--only", "1"]
    return ["starter-tumor", *options, *settings]


def process_is_there(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{number}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def children_of(number: int) -> list[int]:
    text = Path(f"/proc/{number}/task/{number}/children").read_text()
    return [int(word) for word in text.split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_cross_validation_goes_on_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first of so many epochs that they cannot be done by then."""
    data, output = make_data_set(tmp_path, patients=3), tmp_path / "out"
    command = words(data, output)
    started = subprocess.Popen(
        [sys.executable, "-m", "Training.cross_validate", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    run = output / "runs" / "starter-tumor-1"
    deadline = time.monotonic() + 600  # for a machine that does much else
    try:
        while not (run / "last.pt").exists():
            assert started.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = children_of(started.pid)
        assert children
    finally:
        started.kill()
        started.wait()
    while any(map(process_is_there, children)):
        assert time.monotonic() < deadline, "a process is left behind"
        time.sleep(0.05)
    before = torch.load(run / "last.pt", weights_only=True)["rows"]
    assert 0 < len(before) < EPOCHS
    assert not (output / "weights").exists()
    monkeypatch.setattr("LiverTumorSegLib.segment.pick_backend", lambda backend, device: "torch")
    monkeypatch.setattr("Training.loading.worker_count", lambda: 0)
    monkeypatch.setattr(cross_validate, "run_alone", lambda function, *rest: function(*rest))
    assert cross_validate.main(command) == 0
    rows = torch.load(run / "last.pt", weights_only=True)["rows"]
    assert rows[: len(before)] == before, "times and all: it went on"
    assert len(rows) == EPOCHS
    assert len(read_scores(output / "scores" / "scores.csv")) == 1
