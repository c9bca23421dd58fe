"""The command line: `segment` CTs, alone or as a `batch`, `measure` a mask, `compare` two dates.

Exit codes: 0 done, 1 a bug, 2 the input, 3 cancelled, 4 memory or disk. Nothing heavy is imported
before the arguments are known to be sound.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from LiverTumorSegLib import __version__
from LiverTumorSegLib.errors import EXIT_BUG, outcome_of
from LiverTumorSegLib.progress import (
    CaseCount,
    JsonProgress,
    NoProgress,
    Progress,
    TextProgress,
    time_text,
)

if TYPE_CHECKING:
    from LiverTumorSegLib.case import Case, Setup
    from LiverTumorSegLib.row import Row

DISCLAIMER = "Not for clinical use."
REPORT_BUG = "This is a bug. Please report it with the command and all the lines above."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; messages go to stderr.

    Args:
        argv: the arguments, by default those of the process.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # --help, --version, or a usage error that argparse has explained
        return int(stop.code or 0)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    progress = _progress(getattr(arguments, "progress", "none"))
    with _log_to_stderr(getattr(arguments, "verbose", False)), _terminate_as_interrupt():
        try:
            arguments.command(arguments, progress)
            sys.stdout.flush()
            return 0
        except (Exception, KeyboardInterrupt) as error:
            progress.close()
            code, message = outcome_of(error)
            if code == EXIT_BUG:
                message += f"\n{REPORT_BUG}"
            _tell(progress, error, code, message)
            return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="livertumorseg",
        description=f"Segment and measure the liver and its tumors in CT. {DISCLAIMER}",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    segment = commands.add_parser(
        "segment",
        help="segment one CT and measure its lesions",
        description="Segment one CT. OUTDIR receives labels.nii.gz (0 background, 1 liver, 2 "
        "tumor), segmentation.seg.nrrd for 3D Slicer, lesions.csv, report.json, report.html to "
        f"read and print, and preview.png, all at once or not at all. {DISCLAIMER}",
    )
    segment.set_defaults(command=_segment)
    segment.add_argument(
        "input", type=Path, metavar="INPUT", help="NIfTI, NRRD or MHA file, or a DICOM folder"
    )
    _add_run_options(segment)

    batch = commands.add_parser(
        "batch",
        help="segment and measure many CTs",
        description="Segment all CTs of a folder tree or of a CSV. OUTDIR receives a folder for "
        "each, as `segment` writes it, cases.csv with one row a CT and lesions.csv with all "
        "lesions; both grow with each CT. A CT that fails is named there and does not stop the "
        f"rest; the exit code is 2 then. {DISCLAIMER}",
    )
    batch.set_defaults(command=_batch)
    batch.add_argument(
        "input",
        type=Path,
        metavar="INPUT",
        help="a folder with NIfTI, NRRD or MHA files and folders of DICOM series, at any depth; "
        "or a CSV with the columns `case` and `ct` (a path, from the CSV's folder on), whose other "
        "columns go into cases.csv",
    )
    _add_run_options(batch)
    batch.add_argument(
        "--resume",
        action="store_true",
        help="go on with the batch in OUTDIR: a CT that is done and has not changed since is not "
        "done again, one that failed is. Models and options must be as they were. Without it, an "
        "OUTDIR that holds a batch is refused",
    )
    batch.add_argument(
        "--dask",
        type=_dask,
        metavar="ADDRESS|local[:N]",
        help="run on a Dask cluster: that of the scheduler at ADDRESS, or N processes of this "
        "machine that share its cores. With --device cuda, each CT takes one of the resource GPU",
    )

    measured = commands.add_parser(
        "measure",
        help="measure a corrected segmentation",
        description="Measure liver and tumors that somebody has marked or corrected. OUTDIR "
        f"receives what `segment` writes. {DISCLAIMER}",
    )
    measured.set_defaults(command=_measure)
    measured.add_argument("input", type=Path, metavar="CT", help="as for `segment`")
    measured.add_argument(
        "segmentation",
        type=Path,
        metavar="SEGMENTATION",
        help="a label map (0 background, 1 liver, 2 tumor) as NIfTI, NRRD or MHA, or a .seg.nrrd "
        "of 3D Slicer with segments called Liver and Tumor 1, Tumor 2, ..., or a DICOM SEG",
    )
    measured.add_argument("-o", "--outdir", type=Path, required=True, metavar="OUTDIR")
    measured.add_argument(
        "--couinaud",
        type=Path,
        metavar="MAP",
        help="liver segments I to VIII as labels 1 to 8, or a .seg.nrrd with such names: tells in "
        "which of them each tumor lies",
    )
    _add_progress_option(measured)

    compare = commands.add_parser(
        "compare",
        help="compare two dates of one patient",
        description="Compare two folders that `segment` or `measure` made of one patient. OUTDIR "
        "receives comparison.json, comparison.csv with one row a pair of lesions, and "
        f"comparison.png with both dates side by side. {DISCLAIMER}",
    )
    compare.set_defaults(command=_compare)
    compare.add_argument("baseline", type=Path, metavar="BASELINE_DIR", help="of the earlier CT")
    compare.add_argument("followup", type=Path, metavar="FOLLOWUP_DIR", help="of the later CT")
    compare.add_argument("-o", "--outdir", type=Path, required=True, metavar="OUTDIR")
    compare.add_argument(
        "--targets",
        type=_targets,
        metavar="N[,M]",
        help="your target lesions for RECIST 1.1, by their row in the baseline's lesions.csv "
        "(default: the two longest that are measurable)",
    )
    for date in ("baseline", "followup"):
        compare.add_argument(
            f"--{date}-ct",
            type=Path,
            metavar="CT",
            help=f"the CT of {date.upper()}_DIR, for the picture (default: outlines only)",
        )

    models = commands.add_parser("models", help="list the embedded weights and your own")
    models.set_defaults(command=_models)
    models.add_argument("--json", action="store_true", help="everything the files say, as JSON")
    return parser


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--outdir", type=Path, required=True, metavar="OUTDIR")
    model_help = (
        "weights for the {} or for both: a name that `models` lists, or a file (default: the "
        "installed ones)"
    )
    command.add_argument("--liver", metavar="MODEL", help=model_help.format("liver"))
    command.add_argument("--tumor", metavar="MODEL", help=model_help.format("tumor"))
    command.add_argument(
        "--device",
        type=_device,
        default="auto",
        metavar="auto|cuda[:N]|mps|cpu",
        help="where the networks run (default: auto)",
    )
    command.add_argument(
        "--backend",
        choices=("auto", "torch", "openvino", "openvino-bf16"),
        default="auto",
        help="what computes on the CPU; auto takes OpenVINO, in float32, where it is installed; "
        "bfloat16 is faster on CPUs that have it, and less exact (default: auto)",
    )
    command.add_argument("--tta", action="store_true", help="average over mirrored images (slower)")
    command.add_argument(
        "--seg",
        choices=("dicom",),
        help="also write segmentation.dcm (DICOM SEG) and report.dcm (DICOM SR, TID 1500), which "
        "name the patient; only for the folder of a DICOM series",
    )
    command.add_argument(
        "--probabilities",
        action="store_true",
        help="also write liver_probability.nii.gz and tumor_probability.nii.gz",
    )
    _add_progress_option(command)
    command.add_argument(
        "--verbose", action="store_true", help="tell on stderr what runs by what, and each time"
    )


def _add_progress_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--progress",
        choices=("text", "json", "none"),
        default="text",
        help="text: a bar on stderr; json: one JSON object a line on stdout (default: text)",
    )


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"expected auto, cuda, cuda:N, mps or cpu, got {text!r}")
    return text


def _targets(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"expected lesion numbers such as 1,3, got {text!r}")
    return tuple(map(int, text.split(",")))


def _dask(text: str) -> str:
    if not re.fullmatch(r"local(:[1-9]\d*)?|(?!local:)(\w+://)?[^\s/]+:\d+", text):
        raise argparse.ArgumentTypeError(
            f"expected local, local:N or the address of a scheduler such as tcp://host:8786, got "
            f"{text!r}"
        )
    return text


def _progress(kind: str) -> Progress:
    if kind == "text":
        return TextProgress(sys.stderr)
    return JsonProgress(sys.stdout) if kind == "json" else NoProgress()


def _setup(arguments: argparse.Namespace) -> Setup:
    from LiverTumorSegLib.case import Setup
    from LiverTumorSegLib.checkpoint import load_models

    return Setup(
        *load_models(arguments.liver, arguments.tumor),
        device=arguments.device,
        backend=arguments.backend,
        flips=arguments.tta,
        probabilities=arguments.probabilities,
        dicom=arguments.seg == "dicom",
    )


def _segment(arguments: argparse.Namespace, progress: Progress) -> None:
    from LiverTumorSegLib.case import run_case

    case = run_case(arguments.input, arguments.outdir, _setup(arguments), progress)
    _tell_case(case, arguments.outdir, progress)


def _measure(arguments: argparse.Namespace, progress: Progress) -> None:
    from LiverTumorSegLib.case import measure_case

    case = measure_case(
        arguments.input, arguments.segmentation, arguments.outdir, arguments.couinaud, progress
    )
    _tell_case(case, arguments.outdir, progress)


def _tell_case(case: Case, outdir: Path, progress: Progress) -> None:
    from LiverTumorSegLib.report import FILE_NAMES, summary_of, table_text

    progress.close()
    if isinstance(progress, JsonProgress):
        progress.emit("result", summary_of(case.measurement))
        return
    print(table_text(case.measurement), end="\n\n")
    for text in case.volume.repairs:
        print(f"Repaired: {text}")
    for text in case.segmentation.warnings:
        print(f"Warning: {text}")
    for name in FILE_NAMES:
        if (outdir / name).exists():
            print(outdir / name)
    print(DISCLAIMER)


def _batch(arguments: argparse.Namespace, progress: Progress) -> None:
    from LiverTumorSegLib.batch import one_by_one, run_batch, settings_of
    from LiverTumorSegLib.row import CASES, LESIONS

    count = CaseCount(progress, 0, 0)

    def start(kept: int, cases: int) -> None:
        nonlocal count
        count = CaseCount(progress, kept, cases)
        if kept and not isinstance(progress, JsonProgress):
            print(f"{kept} of {cases} cases are done already.", flush=True)
        count.show()

    def tell(row: Row) -> None:
        count.done += 1
        progress.close()
        if isinstance(progress, JsonProgress):
            progress.emit("case", row.message, case=dataclasses.asdict(row))
        else:
            print(f"{count.done}/{count.count} {_told(row)}{_left(count)}", flush=True)
        count.show()

    setup = _setup(arguments)
    runner = one_by_one(setup, lambda stage, fraction: count.stage(stage, fraction))
    if arguments.dask:
        from LiverTumorSegLib.cluster import on_cluster

        runner = on_cluster(arguments.dask, arguments.liver, arguments.tumor, setup)
    run_batch(
        arguments.input,
        arguments.outdir,
        settings_of(setup),
        runner,
        arguments.resume,
        start,
        tell,
    )
    progress.close()
    if not isinstance(progress, JsonProgress):
        for name in (CASES, LESIONS):
            print(arguments.outdir / name)
        print(DISCLAIMER)


def _compare(arguments: argparse.Namespace, progress: Progress) -> None:
    from LiverTumorSegLib.follow_up import FILE_NAMES, comparison_text, run_comparison

    outdir = arguments.outdir
    comparison = run_comparison(
        arguments.baseline,
        arguments.followup,
        outdir,
        arguments.targets,
        arguments.baseline_ct,
        arguments.followup_ct,
    )
    print(comparison_text(comparison), end="\n\n")
    for text in comparison.warnings:
        print(f"Warning: {text}")
    for name in FILE_NAMES:
        print(outdir / name)
    print(DISCLAIMER)


def _told(row: Row) -> str:
    found = row.message
    if row.liver_ml is not None:
        found = f"liver {row.liver_ml:.1f} mL, {row.tumors} tumors, {row.tumor_ml:.1f} mL"
    return f"{row.case}: {row.status}. {found}"


def _left(count: CaseCount) -> str:
    seconds = count.seconds_left()
    return f" ({time_text(seconds)} left)" if seconds else ""


def _models(arguments: argparse.Namespace, progress: Progress) -> None:
    from LiverTumorSegLib.checkpoint import identity, survey_models
    from LiverTumorSegLib.folders import models_folder

    found, faults = survey_models()
    for fault in faults:
        print(f"Not listed: {fault}", file=sys.stderr)
    if arguments.json:
        listed = [
            {
                "name": info.name,
                "target": info.target,
                "embedded": info.embedded,
                "file": info.path.name,
                "sha256": info.sha256,
                "recipe": dataclasses.asdict(info.recipe),
                "card": info.card,
            }
            for info in found
        ]
        print(json.dumps(listed, indent=2))
        return
    rows = [("name", "target", "network", "Dice", "from", "license")]
    for info in found:
        told = identity(info)
        dice = told["mean_dice"]
        rows.append(
            (
                info.name,
                info.target,
                info.recipe.network.name,
                "-" if dice is None else f"{dice:.3f}",
                "embedded" if info.embedded else "models folder",
                " ".join((told["license"] or "-").split()),
            )
        )
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    print(f"Weights files in the models folder are listed too: {models_folder()}")
    print(DISCLAIMER)


@contextlib.contextmanager
def _log_to_stderr(verbose: bool) -> Iterator[None]:
    """Show what the engine logs: warnings, or with `verbose` all that it tells."""
    logger, handler = logging.getLogger("LiverTumorSegLib"), logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM stop a run as Ctrl-C does, so that it leaves nothing behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


def _tell(progress: Progress, error: BaseException, code: int, message: str) -> None:
    if code == EXIT_BUG:
        traceback.print_exception(error)
    if isinstance(error, OSError):
        # Python flushes stdout once more at exit; if that fails again, it changes the exit code.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    elif isinstance(progress, JsonProgress):
        with contextlib.suppress(OSError):
            progress.emit("error", message)
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr)
