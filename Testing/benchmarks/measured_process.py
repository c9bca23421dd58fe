"""Seconds and peak memory of a command in a process of its own.

A process's peak begins with that of the process which starts it, and the benchmark itself is large.
So this file, which is small, is started in between; it starts the command and waits for it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENOUGH_S = 60.0


@dataclass(frozen=True)
class Measured:
    """Of one process: seconds from start to end, and the largest resident set in bytes."""

    seconds: float
    peak_bytes: int


class CommandError(RuntimeError):
    """A measured command ended with another code than 0; the message has its last lines."""


def measured(command: list[str], env: dict[str, str] | None = None) -> Measured:
    """Run a command in the repository's folder and measure it.

    Args:
        command: the program and its arguments.
        env: added to this process's environment.

    Raises:
        CommandError: with what it said last.
    """
    done = subprocess.run(
        [sys.executable, __file__, *command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise CommandError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def repeated(command: list[str], rounds: int) -> tuple[Measured, list[Measured]]:
    """The first run, which may fill caches, and those that count.

    Args:
        command: the program and its arguments.
        rounds: after the first, or as many as begin within `ENOUGH_S`. What takes longer than that
            is run once, and this run counts, caches and all.
    """
    first, runs = measured(command), []
    if first.seconds > ENOUGH_S:
        return first, [first]
    while len(runs) < rounds and sum(run.seconds for run in runs) < ENOUGH_S:
        runs.append(measured(command))
    return first, runs


def of_runs(first: Measured, runs: list[Measured]) -> dict[str, float]:
    """What is told of repeated runs: the median of their seconds, the largest of their peaks."""
    return {
        "first_s": first.seconds,
        "seconds": statistics.median(run.seconds for run in runs),
        "rounds": len(runs),
        "peak_bytes": max(run.peak_bytes for run in [first, *runs]),
    }


def main(command: list[str]) -> int:
    """Run the command and print what it took as JSON; returns its exit code."""
    started = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": usage.ru_maxrss * unit}), flush=True)
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
