"""The engine as a process that stays: `python -m LiverTumorSegLib.worker` (see protocol.py).

For programs, not for people. It reads requests on stdin and answers with events on stdout; whatever
else is printed is log, on stderr. Models, the last CT and what is prepared of it stay in memory.
The process ends when stdin closes, its parent is gone, or nothing was asked for a while.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from LiverTumorSegLib import __version__, protocol
from LiverTumorSegLib.checkpoint import Model, default_model_name, find_model, load_models
from LiverTumorSegLib.checkpoint import list_models as installed_models
from LiverTumorSegLib.errors import EXIT_BUG, Cancelled, InputError, ResourceError, outcome_of
from LiverTumorSegLib.labels import masks_of
from LiverTumorSegLib.progress import JsonProgress
from LiverTumorSegLib.protocol import KINDS, Choices, Job
from LiverTumorSegLib.recipe import from_plain
from LiverTumorSegLib.volume import Volume

if TYPE_CHECKING:
    from LiverTumorSegLib.region import Search

IDLE_MINUTES = 15.0
GRACE_S = 10.0
"""What a request gets to stop by itself once nobody reads its answer any more."""
_WATCH_S = 1.0

Hook = Callable[[str, float], None]
Request = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stdin closes, the parent is gone, or nothing was asked for a while.

    Args:
        argv: the arguments, by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m LiverTumorSegLib.worker", description=__doc__)
    parser.add_argument("--idle-minutes", type=float, default=IDLE_MINUTES)
    arguments = parser.parse_args(argv)
    events = _stdout_for_events()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    if os.name == "posix":
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)  # so that all that it starts can be ended with it
    requests = Requests(arguments.idle_minutes * 60)
    JsonProgress(events, pid=os.getpid()).emit("ready", __version__)
    logging.info("Engine %s, Python %s, process %d", __version__, sys.version, os.getpid())
    engine = Engine()
    for request in requests:
        answer(request, engine, events, requests.abandoned)
        engine.get_ready(request)
    logging.info("Engine ends")
    return 0


def _stdout_for_events() -> TextIO:
    """The process's stdout; whatever else is printed, by libraries too, goes to stderr."""
    events = os.fdopen(os.dup(1), "w", encoding="ascii", newline="\n")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return events


class Requests:
    """The lines of stdin as requests, until there is no more reason to wait."""

    def __init__(self, idle_s: float) -> None:
        self.abandoned = threading.Event()
        """Set when nobody reads the answers any more."""
        self._idle_s = idle_s
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._parent = os.getppid()
        for target in (self._read, self._watch):
            threading.Thread(target=target, daemon=True).start()

    def __iter__(self) -> Iterator[Request]:
        """Wait for the next; ends when there is none to come."""
        while True:
            try:
                line = self._lines.get(timeout=self._idle_s)
            except queue.Empty:
                logging.info("Nothing was asked for %.0f minutes", self._idle_s / 60)
                return
            if line is None:
                return
            try:
                request = from_plain(Request, json.loads(line), "request")
            except ValueError as error:
                logging.warning("Not a request (%s): %r", error, line[:200])
                continue
            if request.get("do") == "stop":
                return
            yield request

    def _read(self) -> None:
        # Unbuffered: a thread that waits inside a buffer's lock would break Python's own ending.
        with open(0, "rb", buffering=0, closefd=False) as stdin:  # noqa: PTH123
            for line in stdin:
                self._lines.put(line)
        self._abandon("stdin was closed")

    def _watch(self) -> None:
        """A child of a process that was ended hard gets another parent; not so on Windows."""
        while os.getppid() == self._parent:
            time.sleep(_WATCH_S)
        self._abandon("the parent process is gone")

    def _abandon(self, why: str) -> None:
        logging.info("Engine is no longer needed: %s", why)
        self.abandoned.set()
        self._lines.put(None)
        time.sleep(GRACE_S)
        os._exit(Cancelled.exit_code)


def answer(request: Request, engine: Engine, events: TextIO, abandoned: threading.Event) -> None:
    """Do what a request asks and tell the outcome; never raises.

    Args:
        request: see protocol.py.
        engine: does it.
        events: where the events go.
        abandoned: cancels, as the request's file does.
    """
    tell = JsonProgress(events, id=request.get("id"))
    cancel = request.get("cancel")

    def on_progress(stage: str, fraction: float) -> None:
        if abandoned.is_set() or (cancel and Path(cancel).exists()):
            raise Cancelled
        tell(stage, fraction)

    logging.info("Asked for: %s", request)
    start = time.perf_counter()
    try:
        do = engine.can.get(str(request.get("do")))
        if do is None:
            raise ValueError(f"expected a request to do one of {sorted(engine.can)}, got {request}")
        data = do(request, on_progress)
        tell.emit("result", "", data=data)
        logging.info("Done in %.2f s", time.perf_counter() - start)
    except BrokenPipeError:
        abandoned.set()
    except (Exception, KeyboardInterrupt) as error:
        _tell_failure(error, tell, engine)


def _tell_failure(error: BaseException, tell: JsonProgress, engine: Engine) -> None:
    code, message = outcome_of(error)
    if isinstance(error, ModuleNotFoundError):
        code = InputError.exit_code
        message = (
            f"The engine needs the Python package {error.name}, and {sys.executable} has none. "
            "Install it and try again."
        )
    if code == ResourceError.exit_code:
        error.__traceback__ = None  # it holds on to all arrays of the request
        engine.forget()
    with contextlib.suppress(OSError):
        if code == Cancelled.exit_code:
            tell.emit("canceled", message)
        else:
            tell.emit("error", message, kind=KINDS[code])
    bug = "".join(traceback.format_exception(error)) if code == EXIT_BUG else message
    logging.error("Request ended: %s", bug)


class Engine:
    """Does what requests ask, and keeps what the next is likely to need."""

    def __init__(self) -> None:
        self.can: dict[str, Callable[[Request, Hook], dict[str, Any]]] = {
            "segment": self.segment,
            "region": self.region,
            "devices": self.devices,
            "models": self.models,
        }
        self.forget()

    def forget(self) -> None:
        """Let go of all that is kept, to make room."""
        self._models: tuple[object, tuple[Model, Model]] | None = None
        self._job: tuple[object, tuple[Volume, Job]] | None = None
        self._search: tuple[object, Search] | None = None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def segment(self, request: Request, on_progress: Hook) -> dict[str, Any]:
        """Segment the CT of a folder; the result is written there."""
        from LiverTumorSegLib.backends import pick_backend, pick_device
        from LiverTumorSegLib.segment import segment

        on_progress("Load", 0.0)
        folder = Path(request["folder"])
        volume, job = self._job_in(folder)
        choices = job.choices
        device = pick_device(choices.device)
        pick_backend(choices.backend, device)  # refused before anything is loaded
        liver, tumor = self._models_for(choices)
        on_progress("Load", 1.0)
        segmentation = segment(
            volume,
            liver,
            tumor,
            device=str(device),
            backend=choices.backend,
            flips=choices.flips,
            probabilities=True,
            on_progress=on_progress,
        )
        protocol.write_result(folder, segmentation, str(device))
        return {
            "device": str(device),
            "computed_by": segmentation.computed_by,
            "timings_s": segmentation.timings_s,
        }

    def get_ready(self, request: Request) -> None:
        """After a run, prepare for points: the first of them is then answered as fast as others.

        What cannot be prepared, without a liver or because the folder is gone, is left for then.
        """
        if request.get("do") == "segment":
            with contextlib.suppress(InputError, OSError, MemoryError):
                self._search_in(Path(request["folder"]))

    def region(self, request: Request, on_progress: Hook) -> dict[str, Any]:
        """Search for a lesion at a point, in the liver of the folder's `liver.npy` or result."""
        from LiverTumorSegLib.backends import pick_backend, pick_device
        from LiverTumorSegLib.region import find_at

        on_progress("Load", 0.0)
        folder = Path(request["folder"])
        point = from_plain(tuple[float, float, float], request["point_lps_mm"], "point_lps_mm")
        _, job = self._job_in(folder)
        device = pick_device(job.choices.device)
        search = self._search_in(folder)
        on_progress("Load", 1.0)
        found = find_at(
            search,
            point,
            device,
            pick_backend(job.choices.backend, device),
            flips=job.choices.flips,
            on_progress=lambda fraction: on_progress("Tumor", fraction),
        )
        protocol.write_found(folder, found)
        return {"found": found is not None}

    def devices(self, request: Request, on_progress: Hook) -> dict[str, Any]:
        """What networks can run on, with the memory in GB of 2^30 bytes; 0 where it is unknown."""
        import torch

        label = f"CPU, {os.cpu_count()} threads"
        found = [{"name": "cpu", "label": label, "memory_gb": _memory_gb()}]
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            found.append(
                {
                    "name": f"cuda:{index}",
                    "label": properties.name,
                    "memory_gb": properties.total_memory / 2**30,
                }
            )
        if torch.backends.mps.is_available():
            found.append({"name": "mps", "label": "Apple GPU", "memory_gb": _memory_gb()})
        return {"devices": found}

    def models(self, request: Request, on_progress: Hook) -> dict[str, Any]:
        """The weights that have names."""
        listed = [
            {"name": info.name, "target": info.target, "card": info.card}
            for info in installed_models()
        ]
        return {"models": listed}

    def _job_in(self, folder: Path) -> tuple[Volume, Job]:
        stamp = [_stamp(folder / name) for name in (protocol.VOLUME, protocol.JOB)]
        if self._job is None or self._job[0] != stamp:
            self._job = self._search = None  # first let go of the earlier one
            self._job = stamp, protocol.read_job(folder)
        return self._job[1]

    def _models_for(self, choices: Choices) -> tuple[Model, Model]:
        names = (
            choices.liver_model or default_model_name("liver"),
            choices.tumor_model or default_model_name("tumor"),
        )
        stamp = [_stamp(find_model(name)) for name in names]
        if self._models is None or self._models[0] != stamp:
            self._models = stamp, load_models(*names)
        return self._models[1]

    def _search_in(self, folder: Path) -> Search:
        from LiverTumorSegLib.region import prepare_search

        volume, job = self._job_in(folder)
        _, model = self._models_for(job.choices)
        liver = folder / protocol.LIVER
        file = liver if liver.exists() else folder / protocol.LABELS
        stamp = _stamp(file), model.sha256
        if self._search is None or self._search[0] != stamp:
            if not file.exists():
                raise InputError("No liver to search in: segment the CT first.")
            mask = np.array(masks_of(protocol.read_array(file))["liver"])
            self._search = stamp, prepare_search(volume, model, mask)
        return self._search[1]


def _stamp(path: Path) -> tuple[str, int, int] | None:
    """Changes when a file does."""
    try:
        about = path.stat()
    except OSError:
        return None
    return str(path), about.st_mtime_ns, about.st_size


def _memory_gb() -> float:
    """Of this computer; 0 where Python does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0


if __name__ == "__main__":
    sys.exit(main())
