"""How a run tells of its progress: a bar, plain lines, JSON lines, or not at all."""

from __future__ import annotations

import json
import time
from typing import Any, TextIO

BAR = "{desc:<10}{percentage:3.0f} %|{bar:30}| {elapsed}"
CASES_BAR = "{desc} {percentage:3.0f} %|{bar:20}|"
STAGES = ("Read", "Liver", "Tumor", "Report")
"""What one case goes through; "Liver and tumor" stands for the middle two."""


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
        bar = self._shown(BAR)
        if stage != self._stage:
            self._stage = stage
            bar.reset()
            bar.set_description_str(stage, refresh=False)
        bar.n = min(fraction, 1.0)
        bar.refresh()

    def cases(self, done: float, count: int, seconds_left: float | None) -> None:
        """Show how many cases of a batch are done, on a terminal."""
        if not self._stream.isatty():
            return
        bar = self._shown(CASES_BAR)
        left = "" if seconds_left is None else f", {time_text(seconds_left)} left"
        bar.set_description_str(f"{int(done)} of {count} cases{left}", refresh=False)
        bar.n = done / count
        bar.refresh()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _shown(self, bar_format: str) -> Any:
        if self._bar is None:
            from tqdm import tqdm

            # A fixed size, because tqdm hides a bar on terminals that report no size.
            self._bar = tqdm(
                total=1.0, file=self._stream, bar_format=bar_format, ncols=70, nrows=20, leave=False
            )
        return self._bar


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

    def cases(self, done: float, count: int, seconds_left: float | None) -> None:
        """Report how many cases of a batch are done."""
        self._stage, self._fraction = "Cases", done / count
        left = None if seconds_left is None else round(seconds_left)
        self.emit("progress", "", done=int(done), count=count, seconds_left=left)

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

    def cases(self, done: float, count: int, seconds_left: float | None) -> None:
        """Ignore it."""

    def close(self) -> None:
        """Nothing is open."""


Progress = TextProgress | JsonProgress | NoProgress


class CaseCount:
    """Counts the cases of a batch, and tells from their pace what time is left.

    Args:
        progress: shows it.
        done: cases that an earlier batch has done.
        count: all of them.
    """

    def __init__(self, progress: Progress, done: int, count: int) -> None:
        self._progress = progress
        self._start, self._kept = time.monotonic(), done
        self.done, self.count = done, count

    def stage(self, stage: str, fraction: float) -> None:
        """Show the share done of a stage of the one case that runs."""
        number = STAGES.index(stage) if stage in STAGES else 1
        length = 1 if stage in STAGES else 2
        self.show((number + length * fraction) / len(STAGES))

    def show(self, share: float = 0.0) -> None:
        """Show how many are done, and the share of the one that runs."""
        self._progress.cases(self.done + share, self.count, self.seconds_left(share))

    def seconds_left(self, share: float = 0.0) -> float | None:
        """By the pace since the start; None before anything is done."""
        run = self.done + share - self._kept
        left = self.count - self.done - share
        return (time.monotonic() - self._start) / run * left if run else None


def time_text(seconds: float) -> str:
    """A time as a person would say it.

    >>> time_text(42.4), time_text(200), time_text(4000), time_text(200000)
    ('42 s', '3 min', '1 h 07 min', '2 days 8 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(minutes / 60)
    return f"{hours // 24} days {hours % 24} h"
