"""The engine as a process that stays: what it answers, what it keeps, and when it ends."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from LiverTumorSegLib import protocol, worker
from LiverTumorSegLib import region as search
from LiverTumorSegLib.checkpoint import load_models, save_model
from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.recipe import FixedShape
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.segment import segment
from LiverTumorSegLib.volume import Volume, clean_hu
from Testing.engine.known_networks import liver_model, phantom, tumor_model

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

CHOICES = protocol.Choices(device="cpu", backend="torch")
LESION = (7, 16, 19)  # a voxel of the phantom's larger lesion


@pytest.fixture
def job_folder(tmp_path: Path) -> Path:
    """The phantom, as 16-bit integers, as Slicer would hand it over."""
    volume, _ = phantom()
    job = protocol.Job("phantom", volume.geometry, CHOICES)
    protocol.write_job(tmp_path / "job", volume.hu.astype(np.int16), job)
    return tmp_path / "job"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Networks whose answer is known in place of weights, and what was loaded when."""
    loaded: list[str] = []
    read_job = protocol.read_job

    def models(liver: str, tumor: str) -> tuple[Any, Any]:
        loaded.append("models")
        return liver_model(), tumor_model()

    def job(folder: Path) -> tuple[Volume, protocol.Job]:
        loaded.append("CT")
        return read_job(folder)

    monkeypatch.setattr(worker, "load_models", models)
    monkeypatch.setattr(protocol, "read_job", job)
    return loaded


def ask(
    engine: worker.Engine,
    hook: Callable[[dict[str, Any]], None] = lambda event: None,
    **request: Any,
) -> list[dict[str, Any]]:
    """The events that a request is answered with; the hook sees each as it comes."""

    class Lines(io.StringIO):
        def write(self, text: str) -> int:
            hook(json.loads(text))
            return super().write(text)

    lines = Lines()
    worker.answer({"id": 5, **request}, engine, lines, threading.Event())
    events = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert all(event["id"] == 5 for event in events)
    return events


# What it answers


def test_a_result_is_that_of_segment(job_folder: Path, loads: list[str]) -> None:
    events = ask(worker.Engine(), do="segment", folder=str(job_folder))
    assert [event["event"] for event in events[:-1]] == ["progress"] * (len(events) - 1)
    assert {event["stage"] for event in events[:-1]} == {"Load", "Liver", "Tumor"}
    assert events[-1]["event"] == "result"
    assert events[-1]["data"]["device"] == "cpu"
    assert set(events[-1]["data"]["computed_by"].values()) == {"torch float32 on cpu"}
    volume, labels = phantom()
    expected = segment(
        volume, liver_model(), tumor_model(), device="cpu", backend="torch", probabilities=True
    )
    result = protocol.read_result(job_folder)
    assert np.array_equal(result.labels, labels)
    assert result.labels.dtype == np.uint8
    assert result.warnings == expected.warnings
    assert sorted(result.timings_s) == ["liver", "tumor"]
    for name in ("liver_probability", "tumor_probability"):
        got, wanted = getattr(result, name), getattr(expected, name)
        assert got.dtype == np.float16
        assert np.array_equal(got, wanted)
    assert sorted(path.name for path in job_folder.iterdir()) == sorted(
        [protocol.VOLUME, protocol.JOB, protocol.LABELS, protocol.RESULT]
        + [protocol.LIVER_PROBABILITY, protocol.TUMOR_PROBABILITY]
    )


def test_a_ct_without_liver_is_a_result_without_tumor_probability(
    job_folder: Path, loads: list[str]
) -> None:
    volume, _ = phantom()
    job = protocol.Job("air", volume.geometry, CHOICES)
    protocol.write_job(job_folder, np.full(volume.hu.shape, -1000, np.int16), job)
    assert ask(worker.Engine(), do="segment", folder=str(job_folder))[-1]["event"] == "result"
    result = protocol.read_result(job_folder)
    assert not result.labels.any()
    assert "No liver was found" in result.warnings[0]
    assert result.tumor_probability is None


def region(folder: Path, at: tuple[int, int, int]) -> dict[str, Any]:
    point = phantom()[0].geometry.lps_of(np.array(at)).tolist()
    return {"do": "region", "folder": str(folder), "point_lps_mm": point}


def test_a_region_after_a_run_and_in_the_users_own_liver(
    job_folder: Path, loads: list[str]
) -> None:
    engine = worker.Engine()
    events = ask(engine, **region(job_folder, LESION))
    assert events[-1]["kind"] == "input"
    assert "segment the CT first" in events[-1]["message"]
    ask(engine, do="segment", folder=str(job_folder))
    labels = protocol.read_result(job_folder).labels
    for at, found in ((LESION, True), ((12, 12, 14), False), (LESION, True)):
        assert ask(engine, **region(job_folder, at))[-1]["data"] == {"found": found}
        lesion = protocol.read_found(job_folder)
        assert (lesion is not None) == found
        assert (job_folder / protocol.LESION).exists() == found
        if lesion is not None:
            mask = lesion.whole(labels.shape)
            assert mask[LESION]
            assert not (mask & (labels != 2)).any()
            assert lesion.mean_probability == pytest.approx(1.0)
    liver = labels > 0
    liver[:10] = False  # the lesion lies below
    np.save(job_folder / protocol.LIVER, liver)
    assert ask(engine, **region(job_folder, LESION))[-1]["data"] == {"found": False}


def test_devices_and_models_are_listed() -> None:
    engine = worker.Engine()
    (event,) = ask(engine, do="devices")
    first, *_ = event["data"]["devices"]
    assert first["name"] == "cpu"
    assert f"{os.cpu_count()} threads" in first["label"]
    assert first["memory_gb"] > 0.5
    (event,) = ask(engine, do="models")
    assert {"starter-liver", "starter-tumor"} <= {m["name"] for m in event["data"]["models"]}


# What it keeps


def test_models_and_ct_are_loaded_once(job_folder: Path, loads: list[str]) -> None:
    engine = worker.Engine()
    for _ in range(2):
        ask(engine, do="segment", folder=str(job_folder))
        ask(engine, **region(job_folder, LESION))
    assert sorted(loads) == ["CT", "models"]


def test_points_are_prepared_for_before_they_are_asked_for(
    job_folder: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, prepare_search = [], search.prepare_search

    def counting(*arguments: Any) -> search.Search:
        prepared.append(arguments)
        return prepare_search(*arguments)

    monkeypatch.setattr(search, "prepare_search", counting)
    engine = worker.Engine()
    run = {"do": "segment", "folder": str(job_folder)}
    ask(engine, **run)
    engine.get_ready(run)
    assert len(prepared) == 1
    assert ask(engine, **region(job_folder, LESION))[-1]["data"] == {"found": True}
    assert len(prepared) == 1
    engine.get_ready({**run, "folder": str(job_folder / "gone")})  # harmless


def test_another_ct_in_the_same_folder_is_noticed(job_folder: Path, loads: list[str]) -> None:
    engine = worker.Engine()
    ask(engine, do="segment", folder=str(job_folder))
    volume, _ = phantom()
    hu = np.where(volume.hu == 40, 100, volume.hu)  # healed
    protocol.write_job(job_folder, hu, protocol.Job("phantom", volume.geometry, CHOICES))
    ask(engine, do="segment", folder=str(job_folder))
    assert loads.count("CT") == 2
    assert not (protocol.read_result(job_folder).labels == 2).any()


def test_out_of_memory_lets_go_of_everything_and_the_next_request_works(
    job_folder: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = worker.Engine()
    write_result = protocol.write_result

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(protocol, "write_result", fail)
    event = ask(engine, do="segment", folder=str(job_folder))[-1]
    assert (event["event"], event["kind"]) == ("error", "resources")
    assert "Close other programs" in event["message"]
    monkeypatch.setattr(protocol, "write_result", write_result)
    assert ask(engine, do="segment", folder=str(job_folder))[-1]["event"] == "result"
    assert loads.count("models") == 2


# How it fails


def test_a_cancel_file_stops_between_windows_and_nothing_is_written(
    job_folder: Path, loads: list[str], tmp_path: Path
) -> None:
    def press(event: dict[str, Any]) -> None:
        if event["stage"] == "Tumor":
            (tmp_path / "cancel").touch()

    request = {"do": "segment", "folder": str(job_folder), "cancel": str(tmp_path / "cancel")}
    before = sorted(job_folder.iterdir())
    events = ask(worker.Engine(), press, **request)
    assert [event["event"] for event in events[-2:]] == ["progress", "canceled"]
    assert events[-2]["stage"] == "Tumor"
    assert events[-2]["fraction"] == 0
    assert sorted(job_folder.iterdir()) == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / protocol.JOB).unlink(), "No such file"),
        (lambda folder: (folder / protocol.JOB).write_text("{"), "expected a folder with a CT"),
        (lambda folder: (folder / protocol.VOLUME).write_bytes(b"\x93NUMPY"), "found: "),
        (lambda folder: np.save(folder / protocol.VOLUME, np.zeros((3, 4, 5))), "shape (3, 4, 5)"),
    ],
)
def test_a_damaged_folder_is_told_of_in_one_sentence(
    job_folder: Path, loads: list[str], damage: Callable[[Path], None], said: str
) -> None:
    damage(job_folder)
    event = ask(worker.Engine(), do="segment", folder=str(job_folder))[-1]
    assert (event["event"], event["kind"]) == ("error", "input")
    assert said in event["message"]
    assert "Start the segmentation again" in event["message"]


def test_bugs_have_their_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    (event,) = ask(worker.Engine(), do="fly")
    assert (event["event"], event["kind"]) == ("error", "bug")
    assert "Traceback" in caplog.text


def test_a_missing_package_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = worker.Engine()

    def lacking(request: object, on_progress: object) -> dict[str, Any]:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    engine.can["devices"] = lacking
    (event,) = ask(engine, do="devices")
    assert event["kind"] == "input"
    assert "package torch" in event["message"]


# The folders and lines


def test_a_ct_goes_through_a_folder_value_for_value(tmp_path: Path) -> None:
    volume, _ = phantom()
    geometry = dataclasses.replace(
        volume.geometry, origin_mm=(0.1 + 0.2, -1 / 3, 1e-17), spacing_mm=(2.5, 0.7, 1 / 7)
    )
    for dtype in (np.int16, np.float32, np.uint8, ">i2"):
        voxels = np.random.default_rng(1).integers(0, 200, volume.hu.shape).astype(dtype)
        voxels = voxels[:, :, ::-1]  # not contiguous
        protocol.write_job(tmp_path, voxels, protocol.Job("\u00dc 7", geometry, CHOICES))
        read, job = protocol.read_job(tmp_path)
        assert np.array_equal(read.hu, clean_hu(voxels)[0])
        assert read.geometry == geometry
        assert job == protocol.Job("\u00dc 7", geometry, CHOICES)
        assert np.array_equal(protocol.read_array(tmp_path / protocol.VOLUME), voxels)


def test_events_come_out_of_any_stream_in_any_pieces() -> None:
    stream = (
        b'{"event": "ready", "stage": "", "fraction": 0.0, "message": "", "pid": 7}\r\n'
        b"\xff\xfe not json \xe4\n\n"
        b'{"no": "event"}\n[1]\n{"event": 3}\n{"event": "x", "more": 1}\n'
        b'{"event": "progress", "stage": "Liver", "fraction": 0.5, "message": "", "id": 2}\n'
        b'{"event": "half'
    )
    for size in (1, 7, 1000):
        lines = protocol.EventLines()
        events: list[protocol.Event] = []
        others: list[str] = []
        for start in range(0, len(stream), size):
            more, rest = lines.feed(stream[start : start + size])
            events += more
            others += rest
        assert events == [
            protocol.Event("ready", pid=7),
            protocol.Event("progress", id=2, stage="Liver", fraction=0.5),
        ]
        assert len(others) == 5
        assert "not json" in others[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
@pytest.mark.parametrize("voxels", [1, 1 << 20])
def test_a_full_disk_is_told_as_such(voxels: int) -> None:
    with pytest.raises(ResourceError, match="disk is full"):
        protocol.save_array(Path("/dev/full"), np.zeros(voxels))


# The process


class Process:
    """A worker process with its pipes."""

    def __init__(self, *arguments: str, code: str = "") -> None:
        command = (
            f"{code}\nimport sys; from LiverTumorSegLib import worker; sys.exit(worker.main())"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
        )
        self.ready = self.event()

    def event(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        return json.loads(line) if line else {"event": "end"}

    def send(self, **request: Any) -> None:
        self.process.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]

    def last(self, **request: Any) -> dict[str, Any]:
        self.send(**request)
        while (event := self.event())["event"] == "progress":
            pass
        return event


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def make(*arguments: str, code: str = "") -> Process:
        made.append(Process(*arguments, code=code))
        return made[-1]

    yield make
    for started in made:
        started.process.kill()
        started.process.wait()
        for pipe in (started.process.stdin, started.process.stdout, started.process.stderr):
            pipe.close()  # type: ignore[union-attr]


NOISE = """
import os, sys
from LiverTumorSegLib import worker
def noisy(self, request, on_progress):
    print("printed"); os.write(1, b"written\\n"); return {}
worker.Engine.models = noisy
"""


def test_whatever_is_printed_is_log_and_closing_stdin_ends_it(
    start: Callable[..., Process],
) -> None:
    process = start(code=NOISE)
    assert process.ready["event"] == "ready"
    assert process.ready["pid"] == process.process.pid
    assert os.getpgid(process.process.pid) == process.process.pid  # so its tree can be ended
    process.process.stdin.write(b"no JSON\n")  # type: ignore[union-attr]
    assert process.last(id=1, do="models")["event"] == "result"
    out, log = process.process.communicate(timeout=60)
    assert out == b""
    assert b"printed" in log
    assert b"written" in log
    assert b"Not a request" in log
    assert process.process.returncode == 0


def test_it_ends_when_idle_and_when_told(start: Callable[..., Process]) -> None:
    idle, told = start("--idle-minutes", "0.005"), start()
    told.send(do="stop")
    for process in (idle, told):
        assert process.process.wait(timeout=60) == 0
        assert process.event() == {"event": "end"}


def test_a_run_is_given_up_when_nobody_reads_its_answer(start: Callable[..., Process]) -> None:
    endless = """
import time
from LiverTumorSegLib import worker
def endless(self, request, on_progress):
    while True:
        on_progress("Liver", 0.5); time.sleep(0.05)
worker.Engine.models = endless
"""
    process = start(code=endless)
    process.send(id=1, do="models")
    assert process.event()["event"] == "progress"
    process.process.stdin.close()  # type: ignore[union-attr]
    assert process.process.wait(timeout=60) == 0


def test_a_run_that_does_not_stop_is_ended_after_a_while(start: Callable[..., Process]) -> None:
    deaf = """
import time
from LiverTumorSegLib import worker
worker.GRACE_S = 0.2
def deaf(self, request, on_progress):
    on_progress("Liver", 0.5); time.sleep(600)
worker.Engine.models = deaf
"""
    process = start(code=deaf)
    process.send(id=1, do="models")
    process.event()
    process.process.stdin.close()  # type: ignore[union-attr]
    assert process.process.wait(timeout=60) == 3


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(os.name != "posix", reason="on Windows a child keeps its parent's number")
def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """Its stdin stays open: another process holds it too."""
    reading, writing = os.pipe()
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys; c = subprocess.Popen([sys.executable, '-m', "
            "'LiverTumorSegLib.worker'], stdin=0); print(c.pid, flush=True); c.wait()",
        ],
        stdin=reading,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[2],
    )
    child = int(parent.stdout.readline())  # type: ignore[union-attr]
    assert json.loads(parent.stdout.readline())["event"] == "ready"  # type: ignore[union-attr]
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    for _ in range(600):
        if not alive(child):
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the worker outlives its parent")
    os.close(reading)
    os.close(writing)


@pytest.fixture
def weights(tmp_path: Path) -> tuple[str, str]:
    """Small weights files: everything is liver; tumors by chance."""
    torch.manual_seed(0)
    made = []
    for name, args, patch in (
        ("starter-liver", {"channels": [4, 4, 4, 4]}, None),
        ("starter-tumor", {"width": 4}, (16, 32, 32)),
    ):
        recipe = RECIPES[name]
        network = dataclasses.replace(recipe.network, args={**recipe.network.args, **args})
        small = {"pad_minimum": patch} if patch else {"resampling": FixedShape((16, 32, 32))}
        preprocessing = dataclasses.replace(recipe.preprocessing, **small)  # type: ignore[arg-type]
        recipe = dataclasses.replace(
            recipe, network=network, patch=patch, preprocessing=preprocessing
        )
        module = build(network.name, **network.args)
        if patch is None:
            head = module.get_submodule("head")
            torch.nn.init.zeros_(head.weight)
            head.bias.data.fill_(8.0)
        save_model(tmp_path / f"{name}.safetensors", module, recipe, {})
        made.append(str(tmp_path / f"{name}.safetensors"))
    return made[0], made[1]


@pytest.mark.slow
def test_the_real_process_gives_what_segment_gives(
    start: Callable[..., Process], job_folder: Path, weights: tuple[str, str]
) -> None:
    volume, _ = phantom()
    choices = protocol.Choices(*weights, "cpu", "torch", flips=True)
    protocol.write_job(job_folder, volume.hu, protocol.Job("x", volume.geometry, choices))
    process = start()
    assert process.last(id=1, do="segment", folder=str(job_folder))["event"] == "result"
    expected = segment(volume, *load_models(*weights), device="cpu", backend="torch", flips=True)
    assert np.array_equal(protocol.read_result(job_folder).labels, expected.labels)
    begin = time.perf_counter()
    process.send(id=2, do="segment", folder=str(job_folder))
    while process.event()["stage"] != "Liver":
        pass
    assert time.perf_counter() - begin < 0.5  # nothing is loaded again
    assert process.event()["id"] == 2


def test_damaged_weights_are_an_input_error(job_folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"junk")
    volume, _ = phantom()
    choices = protocol.Choices(str(bad), None, "cpu", "torch")
    protocol.write_job(job_folder, volume.hu, protocol.Job("x", volume.geometry, choices))
    event = ask(worker.Engine(), do="segment", folder=str(job_folder))[-1]
    assert (event["event"], event["kind"]) == ("error", "input")
    assert "bad.safetensors" in event["message"]
    with pytest.raises(InputError):
        load_models(str(bad), None)
