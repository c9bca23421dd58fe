"""A function in a process of its own: what it returns, and that neither outlives the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from Training.own_process import run_alone

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import pathlib, sys, time
from Testing.training.test_own_process import tell_and_sleep
from Training.own_process import run_alone
if __name__ == "__main__":
    sys.exit(run_alone(tell_and_sleep, sys.argv[1]))
"""


def seven() -> int:
    return 7


def is_other(number: int) -> int:
    return int(os.getpid() != number)


def tell_and_sleep(path: str) -> int:
    Path(path).write_text(str(os.getpid()))
    time.sleep(100)
    return 0


def test_it_returns_the_exit_code() -> None:
    assert run_alone(seven) == 7
    assert run_alone(is_other, os.getpid()) == 1
    assert run_alone(signal.raise_signal, signal.SIGKILL) == -signal.SIGKILL


def is_there(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
@pytest.mark.parametrize("how", ["Ctrl-C", "kill"])
def test_both_end_together(tmp_path: Path, how: str) -> None:
    """Ctrl-C reaches the whole group; a kill only the one that waits."""
    script, told = tmp_path / "run.py", tmp_path / "told"
    script.write_text(CODE)
    started = subprocess.Popen(
        [sys.executable, str(script), str(told)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        # Tests that run in the background of a script ignore Ctrl-C, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    other = int(told.read_text())
    if how == "kill":
        started.kill()
    else:
        os.killpg(started.pid, signal.SIGINT)
    assert started.wait(timeout=60) != 0
    while is_there(other):
        assert time.monotonic() < deadline, "left behind"
        time.sleep(0.02)
