"""Preparing cases in processes of their own: the same files, and a clean end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from Testing.phantom import phantom, write_case
from Training import prepare
from Training.case_store import RECORDS, UNFINISHED

REPOSITORY = Path(__file__).parents[2]


def write_cases(folder: Path, count: int) -> Path:
    for patient in range(count):
        write_case(folder / f"case{patient}", *phantom(patient))
    return folder


def die(task: object) -> None:
    """What a system out of memory does to a worker."""
    os._exit(1)


def test_two_workers_give_the_same_files_as_one(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", 2)
    files = []
    for workers in ("1", "2"):
        output = tmp_path / workers
        assert prepare.main([str(cases), "-o", str(output), "--workers", workers]) == 0
        paths = [path for path in sorted(output.rglob("*")) if path.is_file()]
        files.append({str(path.relative_to(output)): path.read_bytes() for path in paths})
    assert files[0] == files[1]
    with Image.open(tmp_path / "2" / "pictures" / "case0.png") as picture:
        assert picture.width > 1000
        assert len(picture.getcolors(1 << 20) or ()) > 100


def test_a_killed_worker_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = write_cases(tmp_path / "cases", 2)
    monkeypatch.setattr(prepare, "prepare_case", die)
    assert prepare.main([str(cases), "-o", str(tmp_path / "out"), "--workers", "2"]) == 4
    assert "memory probably ran out" in capsys.readouterr().err.split("error: ")[1]
    assert not (tmp_path / "out").exists()


# The first worker starts at once, the others later: as on a machine that has much else to do.
LATE_WORKERS = """
import os, sys, time
if "--multiprocessing-fork" in sys.orig_argv:
    try:
        os.close(os.open(os.environ["FIRST_WORKER"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        time.sleep(10)
"""


@pytest.mark.skipif(os.name == "nt", reason="groups of processes are POSIX")
def test_ctrl_c_at_a_terminal_stops_all_processes(tmp_path: Path) -> None:
    """The signal goes to every process of the group, as a terminal sends it, also to late ones."""
    write_cases(tmp_path / "cases", 20)
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "sitecustomize.py").write_text(LATE_WORKERS)
    records = tmp_path / "prepared" / UNFINISHED / RECORDS
    command = [sys.executable, "-m", "Training.prepare", "cases", "-o", "prepared"]
    with subprocess.Popen(
        [*command, "--workers", "2"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path / "late"), str(REPOSITORY)]),
            "FIRST_WORKER": str(tmp_path / "first"),
        },
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that run in the background of a script ignore Ctrl-C, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while not list(records.glob("*.json")) and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "stopped; the same command goes on" in told
    assert "Traceback" not in told
    assert 0 < len(list(records.glob("*.json"))) < 20
    assert not (tmp_path / "prepared" / "dataset.json").exists()
