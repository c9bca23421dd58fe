"""The engine's process, driven from the application's window without ever blocking it.

See LiverTumorSegLib.protocol for what is said to it, and LiverTumorSegLib.worker for what it does.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import qt
import slicer
import slicer.util

import LiverTumorSegLib
from LiverTumorSegGUI import endings
from LiverTumorSegLib.protocol import Event, EventLines

CANCEL_MS = 5000
"""How long a canceled request may take to stop by itself."""


@dataclass
class _Request:
    """What is being worked on, and whom to tell."""

    line: dict
    onProgress: Callable[[str, float], None]
    onFinished: Callable[[dict], None]
    onFailed: Callable[[str, str], None]
    onCanceled: Callable[[], None]
    sent: bool = False
    heard: bool = False
    canceled: bool = False


class Job:
    """One engine process, and the one request that it works on.

    The process starts with the first request and stays, with its models loaded, until it has been
    idle for a while; the next request starts it again.
    """

    def __init__(
        self, onLog: Callable[[str], None] | None = None, program: str | None = None
    ) -> None:
        """Start nothing yet.

        Args:
            onLog: called with each piece of the engine's log as it comes.
            program: the Python interpreter; None: Slicer's, or the one that runs this.
        """
        self._onLog = onLog
        self._program = program or shutil.which("PythonSlicer") or sys.executable
        self._folder: Path | None = None
        self._keepLog = False
        self._process = None
        self._ended = None  # Qt may not lose it while its last signal is on the way
        self._pid = 0
        self._lines = EventLines()
        self._request: _Request | None = None
        self._numbers = itertools.count(1)
        self._impatience = qt.QTimer()
        self._impatience.setSingleShot(True)
        self._impatience.setInterval(CANCEL_MS)
        self._impatience.timeout.connect(self._endTree)

    @property
    def busy(self) -> bool:
        """Whether a request is being worked on."""
        return self._request is not None

    @property
    def pid(self) -> int:
        """Of the engine's process; 0 where there is none."""
        return self._pid

    @property
    def logPath(self) -> str:
        """File with all that the engine printed; it stays after a failure."""
        return str(self._ownFolder() / "engine.log")

    def start(
        self,
        request: dict,
        onProgress: Callable[[str, float], None],
        onFinished: Callable[[dict], None],
        onFailed: Callable[[str, str], None],
        onCanceled: Callable[[], None],
    ) -> None:
        """Send a request and return at once; one of the last three functions is called later.

        Args:
            request: {"do": ...} as in LiverTumorSegLib.protocol, without id and cancel.
            onProgress: called with the stage and the share done.
            onFinished: called with what the request answered.
            onFailed: called with one cause and what to do, and with the path of the log.
            onCanceled: called after `cancel`, when nothing runs any more.

        Raises:
            RuntimeError: the earlier request is not done.
        """
        if self.busy:
            raise RuntimeError("The engine works on another request.")
        number = next(self._numbers)
        line = {**request, "id": number, "cancel": str(self._ownFolder() / f"cancel-{number}")}
        self._request = _Request(line, onProgress, onFinished, onFailed, onCanceled)
        if self._process is None:
            self._launch()
        elif self._pid:
            self._send()

    def cancel(self) -> None:
        """Ask the request to stop between two windows; after 5 s the process is ended instead."""
        if self._request is None or self._request.canceled:
            return
        self._request.canceled = True
        Path(self._request.line["cancel"]).touch()
        self._impatience.start()

    def shutdown(self) -> None:
        """End the process and call nobody any more; `start` may be called again."""
        self._request = None
        self._impatience.stop()
        process, self._process = self._process, None
        if process is not None:
            process.blockSignals(True)
            self._end(process)
            process.waitForFinished(2000)
            self._ended = process
        self._pid = 0
        if self._folder is not None and not self._keepLog:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    # ---- the process

    def _ownFolder(self) -> Path:
        if self._folder is None:
            parent = getattr(getattr(slicer, "app", None), "temporaryPath", None)
            self._folder = Path(tempfile.mkdtemp(prefix="livertumorseg-", dir=parent))
        return self._folder

    def _launch(self) -> None:
        self._pid, self._lines = 0, EventLines()
        process = self._process = qt.QProcess()
        process.setProcessEnvironment(_environment())
        process.setWorkingDirectory(str(self._ownFolder()))  # -m would import from any other
        process.readyReadStandardOutput.connect(self._onOutput)
        process.readyReadStandardError.connect(self._onErrorOutput)
        process.finished.connect(self._onFinished)
        process.errorOccurred.connect(self._onProcessError)
        process.start(self._program, ["-m", "LiverTumorSegLib.worker"])

    def _send(self) -> None:
        self._request.sent = True
        self._process.write(json.dumps(self._request.line).encode("ascii") + b"\n")

    def _onOutput(self) -> None:
        if self._process is None:
            return
        events, others = self._lines.feed(_bytes(self._process.readAllStandardOutput()))
        for text in others:
            self._log(text + "\n")
        for event in events:
            self._onEvent(event)

    def _onErrorOutput(self) -> None:
        if self._process is not None:
            self._log(_bytes(self._process.readAllStandardError()).decode("utf-8", "replace"))

    def _log(self, text: str) -> None:
        with open(self.logPath, "a", encoding="utf-8") as log:  # noqa: PTH123
            log.write(text)
        if self._onLog is not None and text:
            self._onLog(text)

    def _onEvent(self, event: Event) -> None:
        request = self._request
        if event.event == "ready":
            self._pid = event.pid
            if request is not None and not request.sent:
                self._send()
            return
        if request is None or event.id != request.line["id"]:
            return  # the rest of one that was given up
        request.heard = True
        if event.event == "progress":
            if not request.canceled:
                request.onProgress(event.stage, event.fraction)
        elif event.event == "result" and not request.canceled:
            self._done().onFinished(event.data)
        elif event.event == "error" and not request.canceled:
            self._fail(endings.why_failed(event.kind, event.message))
        else:
            self._done().onCanceled()

    def _onFinished(self, *_status) -> None:
        process = self._process
        if process is None:
            return
        self._onOutput()
        self._onErrorOutput()
        self._ended, self._process, self._pid = process, None, 0
        request = self._request
        if request is None:
            return
        if request.canceled:
            self._done().onCanceled()
        elif request.sent and not request.heard and process.exitCode() == 0:
            request.sent = False  # it went, for being idle, while the request was on its way
            self._launch()
        else:
            self._fail(endings.why_ended(process.exitCode()))

    def _onProcessError(self, error) -> None:
        if error == qt.QProcess.FailedToStart and self._process is not None:
            self._ended, self._process = self._process, None
            if self._request is not None:
                self._fail(endings.why_not_started(self._program))

    def _fail(self, message: str) -> None:
        self._keepLog = True
        self._log(message + "\n")
        self._done().onFailed(message, self.logPath)

    def _done(self) -> _Request:
        """Make room for the next request; returns the one that is done."""
        request, self._request = self._request, None
        self._impatience.stop()
        Path(request.line["cancel"]).unlink(missing_ok=True)
        return request

    def _endTree(self) -> None:
        if self._process is not None:
            self._end(self._process)

    def _end(self, process) -> None:
        """End the interpreter, all that it started, and a launcher that may stand before it."""
        if os.name == "nt":
            command = ["taskkill", "/F", "/T", "/PID", str(process.processId())]
            hidden = subprocess.CREATE_NO_WINDOW
            subprocess.run(command, capture_output=True, creationflags=hidden, check=False)
        elif self._pid:
            with contextlib.suppress(OSError):
                os.killpg(self._pid, signal.SIGKILL)  # the worker leads a group of its own
        process.kill()


def _environment():
    """Slicer's environment as it was before Slicer changed it, with the engine importable."""
    application = getattr(slicer, "app", None)
    known = hasattr(application, "startupEnvironment")
    values = slicer.util.startupEnvironment() if known else dict(os.environ)
    paths = [str(Path(LiverTumorSegLib.__file__).parents[1]), values.get("PYTHONPATH", "")]
    values["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    environment = qt.QProcessEnvironment()
    for name, value in values.items():
        environment.insert(name, value)
    return environment


def _bytes(array) -> bytes:
    """Of a QByteArray, whose data PythonQt may give as text."""
    data = array.data()
    return data.encode("utf-8", "replace") if isinstance(data, str) else bytes(data)
