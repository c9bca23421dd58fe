"""How a run tells of its progress: a bar, plain lines, JSON lines, or not at all."""

from __future__ import annotations

import json
from typing import Any, TextIO

BAR = "{desc:<10}{percentage:3.0f} %|{bar:30}| {elapsed}"


class TextProgress:
    """One bar with the stage's name on a terminal; elsewhere one line for each finished stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, fraction: float) -> None:
        """Show the share done of a stage."""
        if not self._stream.isatty():
            if fraction >= 1 and stage != self._stage:
                self._stage = stage
                self._stream.write(f"{stage} 100 %\n")
                self._stream.flush()
            return
        if self._bar is None:
            from tqdm import tqdm

            # A fixed size, because tqdm hides a bar on terminals that report no size.
            self._bar = tqdm(
                total=1.0, file=self._stream, bar_format=BAR, ncols=70, nrows=20, leave=False
            )
        if stage != self._stage:
            self._stage = stage
            self._bar.reset()
            self._bar.set_description_str(stage, refresh=False)
        self._bar.n = min(fraction, 1.0)
        self._bar.refresh()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.close()


class JsonProgress:
    """One ASCII JSON object a line: {"event", "stage", "fraction", "message"}.

    Args:
        stream: where the lines go.
        **always: further fields of each line.
    """

    def __init__(self, stream: TextIO, **always: object) -> None:
        self._stream = stream
        self._always = always
        self._stage = ""
        self._fraction = 0.0

    def __call__(self, stage: str, fraction: float) -> None:
        """Report the share done of a stage."""
        self._stage, self._fraction = stage, fraction
        self.emit("progress", "")

    def emit(self, event: str, message: str, **more: object) -> None:
        """Write one line: "progress", "result" or "error", with further fields of its own."""
        line = {
            "event": event,
            "stage": self._stage,
            "fraction": round(self._fraction, 4),
            "message": message,
            **self._always,
            **more,
        }
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is left open."""


class NoProgress:
    """Says nothing."""

    def __call__(self, stage: str, fraction: float) -> None:
        """Ignore it."""

    def close(self) -> None:
        """Nothing is open."""


Progress = TextProgress | JsonProgress | NoProgress
