"""Runs that are stopped, killed or out of disk: what they leave is whole and goes on to the bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from Testing.phantom import make_data_set
from Testing.training.tiny_runs import ROOT, assert_same_run, command, rows, state
from Training import train
from Training.train import main, total_loss

pytestmark = pytest.mark.usefixtures("one_thread")

# Three epochs of two steps, all validated; dropout, an average, and a rate that changes.
OPTIONS = (
    "--fold",
    "1/3",
    "--set",
    "training.sampling.samples=2",
    "--set",
    "training.validate_every_epochs=1",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_set(tmp_path_factory.mktemp("resume"), patients=3)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(command("starter-liver", data, run, *OPTIONS, epochs=3)) == 0
    return run


def in_a_child(work: Callable[[], int]) -> int:
    """Run in a process of its own, a copy of this one; the exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(moment: int, arguments: list[str]) -> int:
    """Start a run that the system kills just before it moves its nth file into place."""
    replace, moments = Path.replace, iter(range(1, 100))

    def replace_or_die(path: Path, target: Path) -> Path:
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    Path.replace = replace_or_die  # type: ignore[method-assign]
    return main(arguments)


# run.json, and after the first epoch, which is the best so far: last.pt, best.pt, log.csv,
# curve.png; then the second's last.pt.
@pytest.mark.parametrize("moment", [2, 3, 4, 5, 6])
def test_a_run_killed_between_any_two_files_resumes_to_the_bit(
    data: Path, whole: Path, tmp_path: Path, moment: int
) -> None:
    run = tmp_path / "run"
    arguments = command("starter-liver", data, run, *OPTIONS, epochs=3)
    assert in_a_child(lambda: killed_at(moment, arguments)) == -signal.SIGKILL
    kept = [
        name for name in ("last.pt", "best.pt", "log.csv", "curve.png") if (run / name).exists()
    ]
    assert kept == ["last.pt", "best.pt", "log.csv", "curve.png"][: moment - 2]
    assert main([*arguments, "--resume"]) == 0
    assert_same_run(whole, run)
    assert (run / "curve.png").stat().st_size > 0
    assert not list(run.glob("*.partial"))


def test_a_run_killed_within_an_epoch_resumes_to_the_bit(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = command("starter-liver", data, run, *OPTIONS, epochs=3)

    def killed() -> int:
        steps = iter(range(100))

        def loss_or_die(*given: Any) -> Tensor:
            if next(steps) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return total_loss(*given)

        train.total_loss = loss_or_die
        return main(arguments)

    assert in_a_child(killed) == -signal.SIGKILL
    assert state(run)["epoch"] == len(rows(run)) == 1
    assert main([*arguments, "--resume"]) == 0
    assert_same_run(whole, run)


def interrupted(arguments: list[str], epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C in an epoch, counted from 0."""

    def interrupt(*given: Any) -> Tensor:
        if given[-1] == epoch:
            raise KeyboardInterrupt
        return total_loss(*given)

    with monkeypatch.context() as patch:
        patch.setattr(train, "total_loss", interrupt)
        assert main(arguments) == 3


def test_a_run_of_slices_on_a_plateau_resumes_to_the_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rate of 0 after the first epoch without improvement is known from before."""
    options = ["--fold", "1/3", "--set", 'training.schedule={"patience_epochs":1,"factor":0.5}']
    options += ["--set", "training.learning_rate=0.0"]
    unbroken = command("rmau-net", data, tmp_path / "whole", *options, epochs=3)
    broken = command("rmau-net", data, tmp_path / "broken", *options, epochs=3)
    assert main(unbroken) == 0
    interrupted(broken, 2, monkeypatch)
    assert "--resume continues" in capsys.readouterr().err
    assert state(tmp_path / "broken")["epoch"] == 2
    assert main([*broken, "--resume"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_run_without_held_out_cases_resumes_to_the_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = command("starter-tumor", data, tmp_path / "whole")
    broken = command("starter-tumor", data, tmp_path / "broken")
    assert main(unbroken) == 0
    interrupted(broken, 1, monkeypatch)
    assert main([*broken, "--resume"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_the_scale_of_float16_gradients_is_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on GPUs without bfloat16; the scale falls while the first steps overflow."""
    monkeypatch.setattr(train, "precision_on", lambda *given: torch.float16)
    options = ["--set", "training.sampling.samples=4"]
    unbroken = command("starter-liver", data, tmp_path / "whole", *options)
    broken = command("starter-liver", data, tmp_path / "broken", *options)
    assert main(unbroken) == 0
    interrupted(broken, 1, monkeypatch)
    assert main([*broken, "--resume"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    scaler = state(tmp_path / "whole")["scaler"]
    assert scaler["scale"] <= 2**16
    assert scaler["_growth_tracker"] > 0


def test_the_state_alone_says_how_far_a_run_is(data: Path, whole: Path, tmp_path: Path) -> None:
    """The log of epochs whose state is lost is not told twice."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "last.pt").unlink()
    assert main([*command("starter-liver", data, tmp_path, *OPTIONS, epochs=3), "--resume"]) == 0
    assert_same_run(whole, tmp_path)


def test_ctrl_c_in_a_terminal_stops_all_processes_without_a_traceback(
    data: Path, tmp_path: Path
) -> None:
    """It reaches the trainer and the processes that load, which are one group."""
    arguments = command("starter-liver", data, tmp_path / "run", *OPTIONS, epochs=10_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "Training.train", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that run in the background of a script ignore Ctrl-C, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "run" / "log.csv").exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 3
    assert said.splitlines()[-1] == "stopped; the same command with --resume continues"
    assert "Traceback" not in said
    assert not list((tmp_path / "run").glob("*.partial"))


# No room, or no permission


@pytest.mark.parametrize("name", ["last.pt", "best.pt", "log.csv", "curve.png"])
def test_a_full_disk_ends_the_run_and_leaves_the_epoch_before(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """/dev/full is a file on a full disk."""
    run = tmp_path / "run"
    arguments = command("starter-liver", data, run, *OPTIONS, epochs=3)
    run.mkdir()
    (run / f"{name}.partial").symlink_to("/dev/full")
    assert main(arguments) == 4
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith(f"error: {run / name}: the disk is full")
    assert "--resume continues" in line
    assert not list(run.glob("*.partial"))
    assert main([*arguments, "--resume"]) == 0
    assert_same_run(whole, run)


@pytest.mark.parametrize("name", ["run.json", "last.pt", "log.csv"])
def test_a_folder_that_cannot_be_written_to_is_one_message(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / f"{name}.partial").mkdir()
    assert main(command("starter-liver", data, tmp_path, *OPTIONS, epochs=1)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith(f"error: {tmp_path / name}: expected a file that can be written")


def test_a_state_of_another_version_is_refused(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    older = state(whole)
    del older["rows"]
    torch.save(older, tmp_path / "last.pt")
    arguments = command("starter-liver", data, tmp_path, *OPTIONS, "--resume", epochs=3)
    assert main(arguments) == 2
    assert "last.pt: expected the state of a run of this version" in capsys.readouterr().err
