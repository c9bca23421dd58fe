"""The engine's process from the window's side: every way in which a request can end.

Mostly with a stand-in for the engine that does what its request says, to be quick and to go wrong
on purpose; Qt's processes, pipes and signals are real.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from desktop import wait_until

from LiverTumorSegGUI import endings, job

ENGINE = """
import json, os, signal, subprocess, sys, time
if os.environ["GROUP"]:
    os.setpgid(0, 0)
def say(**fields):
    line = {"stage": "", "fraction": 0.0, "message": "", **fields}
    sys.stdout.write(json.dumps(line) + "\\n"); sys.stdout.flush()
def canceled():
    return os.path.exists(request["cancel"])
print("engine's log", file=sys.stderr, flush=True)
say(event="ready", pid=os.getpid())
for line in sys.stdin:
    request = json.loads(line)
    number = request["id"]
    exec(request["code"])
"""
ANSWER = "say(event='result', id=number, data={'pid': os.getpid()})"


class Heard(list):
    """What a request's functions were called with."""

    def functions(self) -> list:
        names = ("progress", "finished", "failed", "canceled")
        return [lambda *values, name=name: self.append((name, *values)) for name in names]

    @property
    def ends(self) -> list:
        return [call for call in self if call[0] != "progress"]


@pytest.fixture(autouse=True)
def temporary_files(tmp_path, monkeypatch):
    """Logs of failures stay; here they go with the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def interpreter(tmp_path, monkeypatch) -> str:
    """Plays Python: whatever module it shall run, it runs the stand-in."""
    monkeypatch.setenv("GROUP", "yes")
    (tmp_path / "engine.py").write_text(ENGINE)
    return script(tmp_path / "python", f'exec "{sys.executable}" "{tmp_path}/engine.py"')


def script(path: Path, command: str) -> str:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def engine(interpreter):
    made = job.Job(program=interpreter)
    yield made
    made.shutdown()


def ask(engine, code: str) -> Heard:
    """Start a request and wait for its end."""
    heard = begin(engine, code)
    wait_until(lambda: heard.ends)
    return heard


def begin(engine, code: str) -> Heard:
    heard = Heard()
    engine.start({"code": code}, *heard.functions())
    return heard


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_answers_come_in_order_and_the_process_stays(engine):
    code = "say(event='progress', id=number, stage='Liver', fraction=0.5);" + ANSWER
    first = begin(engine, code)
    assert first == []  # nothing was waited for
    assert engine.busy
    wait_until(lambda: first.ends)
    pid = engine.pid
    assert first == [("progress", "Liver", 0.5), ("finished", {"pid": pid})]
    assert not engine.busy
    assert ask(engine, ANSWER) == [("finished", {"pid": pid})]
    assert alive(pid)


def test_a_request_may_be_started_when_another_ends_but_not_before(engine):
    first, second = Heard(), Heard()

    def go_on(data):
        engine.start({"code": ANSWER}, *second.functions())

    progress, _, failed, canceled = first.functions()
    engine.start({"code": ANSWER}, progress, go_on, failed, canceled)
    with pytest.raises(RuntimeError, match="another request"):
        begin(engine, ANSWER)
    wait_until(lambda: second.ends)
    assert second.ends[0][0] == "finished"


def test_noise_among_the_events_goes_to_the_log(engine):
    code = (
        "sys.stdout.buffer.write(b'\\xff\\xfe half a li'); sys.stdout.flush(); time.sleep(0.1);"
        "sys.stdout.buffer.write(b'ne \\xe4\\n{}\\n'); say(event='result', id=99, data={});"
        + ANSWER
    )
    assert [call[0] for call in ask(engine, code)] == ["finished"]
    log = Path(engine.logPath).read_text()
    assert "half a line" in log
    assert "engine's log" in log


def test_the_log_comes_as_it_is_written(interpreter):
    pieces = []
    engine = job.Job(onLog=pieces.append, program=interpreter)
    ask(engine, ANSWER)
    wait_until(lambda: "engine's log" in "".join(pieces))
    path = Path(engine.logPath)
    engine.shutdown()
    assert not path.parent.exists()  # nothing went wrong: nobody needs it


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("input", "no such CT"),
        ("resources", "no such CT"),
        ("bug", "failed because of a bug: no such CT. Please report it with the log."),
    ],
)
def test_an_error_is_one_cause_and_a_log(engine, kind, message):
    code = f"say(event='error', id=number, message='no such CT', kind={kind!r})"
    ((name, told, log),) = ask(engine, code)
    assert name == "failed"
    assert told.endswith(message)
    assert told in Path(log).read_text()
    engine.shutdown()
    assert Path(log).exists()
    assert [call[0] for call in ask(engine, ANSWER)] == ["finished"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "most likely because the memory ran out"),
        ("sys.exit(137)", "most likely because the memory ran out"),
        ("os.abort()", "ended unexpectedly"),
        ("sys.exit(1)", "ended unexpectedly (exit code 1)"),
        ("say(event='progress', id=number, stage='Liver'); sys.exit(0)", "ended unexpectedly"),
        ('sys.stdout.write(\'{"event": "resu\'); sys.stdout.flush(); os._exit(5)', "(exit code 5)"),
    ],
)
def test_an_engine_that_ends_without_a_word_fails_once_and_starts_again(engine, code, said):
    ((name, message, _),) = ask(engine, code).ends
    assert name == "failed"
    assert said in message
    assert not engine.busy
    assert engine.pid == 0
    assert [call[0] for call in ask(engine, ANSWER)] == ["finished"]


def test_an_engine_that_went_idle_is_started_again_without_a_word(engine, tmp_path):
    pid = ask(engine, ANSWER + "; sys.exit(0)")[0][1]["pid"]
    wait_until(lambda: engine.pid == 0)
    assert ask(engine, ANSWER)[0][1]["pid"] != pid
    # It went while the request was on its way:
    once = (
        f"f = {str(tmp_path / 'went')!r}\nif not os.path.exists(f):\n open(f, 'w'); sys.exit(0)\n"
    )
    assert [call[0] for call in ask(engine, once + ANSWER)] == ["finished"]


@pytest.mark.parametrize("program", ["/no/such/python", "/etc/hostname"])
def test_a_missing_interpreter_is_named(program):
    engine = job.Job(program=program)
    ((name, message, _),) = ask(engine, ANSWER)
    assert name == "failed"
    assert program in message
    assert not engine.busy
    engine.shutdown()


WAIT = """
say(event="progress", id=number, stage="Liver", fraction=0.1)
while not canceled():
    time.sleep(0.02)
"""


def test_cancel_is_heard_between_two_windows(engine):
    heard = begin(engine, WAIT + "say(event='canceled', id=number)")
    wait_until(lambda: heard)
    engine.cancel()
    engine.cancel()
    assert engine.busy  # until nothing runs any more
    wait_until(lambda: heard.ends)
    assert heard.ends == [("canceled",)]
    pid = engine.pid
    assert ask(engine, ANSWER) == [("finished", {"pid": pid})]  # the models are still loaded


def test_cancel_before_the_engine_is_up(engine):
    heard = begin(engine, WAIT + "say(event='canceled', id=number)")
    engine.cancel()
    wait_until(lambda: heard.ends)
    assert heard == [("canceled",)]
    assert [call[0] for call in ask(engine, ANSWER)] == ["finished"]


def test_a_result_that_comes_after_cancel_is_dropped(engine):
    heard = begin(engine, WAIT + ANSWER)
    wait_until(lambda: heard)
    engine.cancel()
    wait_until(lambda: heard.ends)
    assert heard.ends == [("canceled",)]


DEAF = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
say(event="progress", id=number, stage=f"{os.getpid()} {child.pid}", fraction=0.1)
time.sleep(600)
"""


@pytest.mark.parametrize("launcher", [False, True])
def test_a_deaf_engine_is_ended_with_all_that_it_started(
    interpreter, tmp_path, monkeypatch, launcher
):
    """With a launcher before it, as PythonSlicer is, which can be ended without its child."""
    monkeypatch.setattr(job, "CANCEL_MS", 100)
    program = (
        script(tmp_path / "launcher", f'"{interpreter}"; exit $?') if launcher else interpreter
    )
    engine = job.Job(program=program)
    heard = begin(engine, DEAF)
    wait_until(lambda: heard)
    pids = [int(pid) for pid in heard[0][1].split()]
    assert all(map(alive, pids))
    engine.cancel()
    wait_until(lambda: heard.ends)
    assert heard.ends == [("canceled",)]
    wait_until(lambda: not any(map(alive, pids)))
    assert [call[0] for call in ask(engine, ANSWER)] == ["finished"]
    engine.shutdown()


def test_an_engine_in_the_group_of_slicer_is_ended_alone(interpreter, monkeypatch):
    """Where it could not get a group of its own, Slicer's must not be ended."""
    monkeypatch.setenv("GROUP", "")
    engine = job.Job(program=interpreter)
    heard = begin(engine, "say(event='progress', id=number); time.sleep(600)")
    wait_until(lambda: heard)
    pid = engine.pid
    engine.shutdown()
    wait_until(lambda: not alive(pid))


def test_shutdown_calls_nobody_and_ends_everything(engine):
    heard = begin(engine, DEAF)
    wait_until(lambda: heard)
    pids = [int(pid) for pid in heard[0][1].split()]
    calls = len(heard)
    engine.shutdown()
    wait_until(lambda: not any(map(alive, pids)))
    assert len(heard) == calls
    assert not engine.busy
    engine.shutdown()
    assert [call[0] for call in ask(engine, ANSWER)] == ["finished"]


def test_shutdown_before_the_engine_is_up(engine):
    heard = begin(engine, ANSWER)
    engine.shutdown()
    again = ask(engine, ANSWER)
    assert heard == []
    assert [call[0] for call in again] == ["finished"]


def test_shutdown_within_an_answer(engine):
    heard = Heard()
    progress, finished, failed, canceled = heard.functions()
    engine.start(
        {"code": "sys.exit(1)"},
        progress,
        finished,
        lambda *why: (failed(*why), engine.shutdown()),
        canceled,
    )
    wait_until(lambda: heard.ends)
    assert [call[0] for call in heard] == ["failed"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_it_is_the_real_engine_that_starts(app, monkeypatch, tmp_path):
    """From a folder with a module of Python's own name, and with Slicer's temporary folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queue.py").write_text("raise RuntimeError('not mine')\n")
    engine = job.Job(program=sys.executable)
    heard = Heard()
    engine.start({"do": "models"}, *heard.functions())
    wait_until(lambda: heard.ends)
    assert heard.ends[0][0] == "finished", heard
    assert "starter-liver" in [model["name"] for model in heard.ends[0][1]["models"]]
    assert str(app.temporaryPath) in engine.logPath
    os.kill(engine.pid, signal.SIGTERM)
    wait_until(lambda: engine.pid == 0)
    engine.shutdown()


def test_words_for_each_ending():
    assert "memory ran out" in endings.why_ended(9)
    assert "exit code 6" in endings.why_ended(6)
    assert endings.why_failed("input", "Choose a CT.") == "Choose a CT."
    assert "/x/python" in endings.why_not_started("/x/python")
