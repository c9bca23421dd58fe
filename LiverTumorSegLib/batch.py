"""Many CTs: what is done is not done again, what fails does not stop the rest."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from LiverTumorSegLib import __version__
from LiverTumorSegLib.case import Setup, run_case
from LiverTumorSegLib.errors import (
    EXIT_BUG,
    Cancelled,
    InputError,
    ResourceError,
    outcome_of,
)
from LiverTumorSegLib.report import table_row
from LiverTumorSegLib.row import CASES, DONE, FAILED, Row, stamp_of
from LiverTumorSegLib.segment import ProgressHook
from LiverTumorSegLib.sources import find_sources
from LiverTumorSegLib.tables import Tables

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A case that is to be run: its name, its CT and the folder for its results."""

    case: str
    path: Path
    outdir: Path


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        row: its row in cases.csv.
        lesions: its rows in lesions.csv, but for the column `case`.
        trace: where a bug showed; empty otherwise.
    """

    row: Row
    lesions: tuple[dict[str, Any], ...]
    trace: str


Runner = Callable[[Sequence[Job]], Iterator[Outcome]]
"""Runs jobs, in any order and place; `one_by_one` and `cluster.on_cluster` make such."""


def run_batch(
    given: Path,
    outdir: Path,
    settings: Mapping[str, Any],
    runner: Runner,
    resume: bool,
    on_start: Callable[[int, int], None],
    on_case: Callable[[Row], None],
) -> None:
    """Segment and measure every CT of a folder tree or a CSV.

    OUTDIR gets a folder a case, and cases.csv and lesions.csv, which grow with each case (see
    `tables`). A case that fails does not stop the rest.

    Args:
        given: see `sources.find_sources`.
        outdir: made if it does not exist.
        settings: all that shapes a result, as `settings_of` gives it.
        runner: runs the cases.
        resume: take over what an earlier batch in `outdir` has done, if it was of the same settings
            and the CT has not changed; a case that failed is tried again. Otherwise such a folder
            is refused.
        on_start: called before the first case with how many are done already, and how many there
            are.
        on_case: called after each case that was run.

    Raises:
        InputError: input, folder or settings cannot be used, or some cases failed; the latter after
            the rest.
        ResourceError: the disk is full; the batch stops there.
    """
    sources = find_sources(given, outdir)
    tables = Tables(outdir, sources)
    kept = tables.start(settings, resume)
    on_start(len(kept), len(sources))
    jobs = [
        Job(source.case, source.path.resolve(), outdir.resolve() / source.case)
        for source in sources
        if source.case not in kept
    ]
    failed = 0
    for outcome in runner(jobs):
        if outcome.trace:
            logger.error("%s", outcome.trace)
        tables.add(outcome.row, outcome.lesions)
        failed += outcome.row.status == FAILED
        on_case(outcome.row)
    if failed:
        raise InputError(
            f"{outdir / CASES}: {failed} of {len(sources)} cases failed; the column `message` says "
            "why. Mend them and start the batch again with --resume: the others are kept."
        )


def settings_of(setup: Setup) -> dict[str, Any]:
    """What shapes a result: program, models and choices, but not where and by what they run."""
    elsewhere = ("liver", "tumor", "device", "backend")
    choices = {one.name: getattr(setup, one.name) for one in fields(setup)}
    return {
        "version": __version__,
        "models": setup.identity(),
        "bfloat16": setup.backend == "openvino-bf16",
        **{name: value for name, value in choices.items() if name not in elsewhere},
    }


def one_by_one(setup: Setup, on_progress: ProgressHook) -> Runner:
    """Run cases in this process, in order.

    Args:
        setup: as for `run_case`.
        on_progress: as for `run_case`, for each case anew.
    """

    def run(jobs: Sequence[Job]) -> Iterator[Outcome]:
        return (run_job(job, setup, on_progress) for job in jobs)

    return run


def run_job(job: Job, setup: Setup, on_progress: ProgressHook) -> Outcome:
    """Run a case; what is wrong with it becomes its row.

    Raises:
        Cancelled: by the hook.
        ResourceError: the disk is full, as it will be for every other case.
    """
    start = time.perf_counter()
    stamp = stamp_of(job.path)
    try:
        case = run_case(job.path, job.outdir, setup, on_progress)
    except (Cancelled, ResourceError):
        raise
    except Exception as error:
        code, message = outcome_of(error)
        trace = ""
        if code == EXIT_BUG:
            trace = "".join(traceback.format_exception(error))
            message += " This is a bug. Please report it with the lines on the screen."
        return failure(job, message, time.perf_counter() - start, trace)
    found = case.measurement
    row = Row(
        job.case,
        DONE,
        round(float(found.liver_volume_ml), 4),
        len(found.lesions),
        round(float(found.tumor_volume_ml), 4),
        round(time.perf_counter() - start, 1),
        " ".join(case.volume.repairs + case.segmentation.warnings),
        *stamp,
    )
    return Outcome(row, tuple(map(table_row, found.lesions)), "")


def failure(job: Job, message: str, seconds: float, trace: str = "") -> Outcome:
    """The outcome of a case that failed."""
    row = Row(job.case, FAILED, None, None, None, round(seconds, 1), message, *stamp_of(job.path))
    return Outcome(row, (), trace)
