"""The command line: `segment` a CT, list the installed `models`.

Exit codes: 0 done, 1 a bug, 2 the input, 3 cancelled, 4 memory or disk. Nothing heavy is imported
before the arguments are known to be sound.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import io
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from LiverTumorSegLib import __version__
from LiverTumorSegLib.errors import Cancelled, InputError, ResourceError
from LiverTumorSegLib.progress import JsonProgress, NoProgress, Progress, TextProgress

DISCLAIMER = "Not for clinical use."
EXIT_BUG, EXIT_CANCELLED, EXIT_RESOURCES = 1, Cancelled.exit_code, ResourceError.exit_code


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
    with _terminate_as_interrupt():
        try:
            arguments.command(arguments, progress)
            sys.stdout.flush()
            return 0
        except (Exception, KeyboardInterrupt) as error:
            progress.close()
            code, message = _outcome(error)
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
        "tumor), segmentation.seg.nrrd for 3D Slicer, lesions.csv, report.json and preview.png, "
        f"all at once or not at all. {DISCLAIMER}",
    )
    segment.set_defaults(command=_segment)
    segment.add_argument(
        "input", type=Path, metavar="INPUT", help="NIfTI, NRRD or MHA file, or a DICOM folder"
    )
    segment.add_argument("-o", "--outdir", type=Path, required=True, metavar="OUTDIR")
    model_help = (
        "weights for the {} or for both: a name that `models` lists, or a file (default: the "
        "installed ones)"
    )
    segment.add_argument("--liver", metavar="MODEL", help=model_help.format("liver"))
    segment.add_argument("--tumor", metavar="MODEL", help=model_help.format("tumor"))
    segment.add_argument(
        "--device",
        type=_device,
        default="auto",
        metavar="auto|cuda[:N]|mps|cpu",
        help="where the networks run (default: auto)",
    )
    segment.add_argument(
        "--backend",
        choices=("auto", "torch", "openvino"),
        default="auto",
        help="what computes on the CPU; auto takes OpenVINO where it is installed (default: auto)",
    )
    segment.add_argument("--tta", action="store_true", help="average over mirrored images (slower)")
    segment.add_argument(
        "--probabilities",
        action="store_true",
        help="also write liver_probability.nii.gz and tumor_probability.nii.gz",
    )
    segment.add_argument(
        "--progress",
        choices=("text", "json", "none"),
        default="text",
        help="text: a bar on stderr; json: one JSON object a line on stdout (default: text)",
    )

    models = commands.add_parser("models", help="list the installed weights")
    models.set_defaults(command=_models)
    models.add_argument("--json", action="store_true", help="everything the files say, as JSON")
    return parser


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"expected auto, cuda, cuda:N, mps or cpu, got {text!r}")
    return text


def _progress(kind: str) -> Progress:
    if kind == "text":
        return TextProgress(sys.stderr)
    return JsonProgress(sys.stdout) if kind == "json" else NoProgress()


def _segment(arguments: argparse.Namespace, progress: Progress) -> None:
    from LiverTumorSegLib.backends import pick_device
    from LiverTumorSegLib.checkpoint import load_models
    from LiverTumorSegLib.measure import measure
    from LiverTumorSegLib.report import FILE_NAMES, Run, summary_of, table_text, write_outputs
    from LiverTumorSegLib.segment import segment
    from LiverTumorSegLib.staging import staged
    from LiverTumorSegLib.volume import read_volume

    source, outdir = arguments.input, arguments.outdir
    if any((outdir / name).resolve() == source.resolve() for name in FILE_NAMES):
        raise InputError(
            f"{source}: expected a CT, found a file that this run would overwrite. Choose another "
            "OUTDIR."
        )
    timings_s: dict[str, float] = {}
    progress("Read", 0.0)
    with _timed(timings_s, "read"):
        volume = read_volume(source)
    progress("Read", 1.0)
    with staged(outdir, FILE_NAMES) as folder:
        liver, tumor = load_models(arguments.liver, arguments.tumor)
        device = str(pick_device(arguments.device))
        segmentation = segment(
            volume,
            liver,
            tumor,
            device=device,
            backend=arguments.backend,
            flips=arguments.tta,
            probabilities=arguments.probabilities,
            on_progress=progress,
        )
        progress("Report", 0.0)
        with _timed(timings_s, "measure"):
            measurement, lesion_map = measure(volume, segmentation.labels)
        timings_s = {**timings_s, **segmentation.timings_s}
        run = Run(
            source.resolve().name,
            {
                target: {"name": model.name, "sha256": model.sha256}
                for target, model in (("liver", liver), ("tumor", tumor))
            },
            device,
        )
        finished = dataclasses.replace(segmentation, timings_s=timings_s)
        write_outputs(folder, run, volume, finished, measurement, lesion_map)
    progress("Report", 1.0)
    progress.close()
    if isinstance(progress, JsonProgress):
        progress.emit("result", summary_of(measurement))
        return
    print(table_text(measurement), end="\n\n")
    for text in volume.repairs:
        print(f"Repaired: {text}")
    for text in segmentation.warnings:
        print(f"Warning: {text}")
    for name in FILE_NAMES:
        if (outdir / name).exists():
            print(outdir / name)
    print(DISCLAIMER)


def _models(arguments: argparse.Namespace, progress: Progress) -> None:
    from LiverTumorSegLib.checkpoint import list_models

    found = list_models()
    if arguments.json:
        listed = [
            {
                "name": info.name,
                "target": info.target,
                "file": info.path.name,
                "sha256": info.sha256,
                "recipe": dataclasses.asdict(info.recipe),
                "card": info.card,
            }
            for info in found
        ]
        print(json.dumps(listed, indent=2))
        return
    if not found:
        print("No weights are installed. Give the path of a weights file instead of a name.")
        return
    rows = [("name", "target", "network", "Dice", "license")]
    for info in found:
        dice = info.card.get("scores", {}).get("mean_dice")
        rows.append(
            (
                info.name,
                info.target,
                info.recipe.network.name,
                "-" if dice is None else f"{dice:.3f}",
                " ".join(str(info.card.get("license", "-")).split()),
            )
        )
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    print(DISCLAIMER)


@contextlib.contextmanager
def _timed(timings_s: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings_s[stage] = time.perf_counter() - start


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


def _outcome(error: BaseException) -> tuple[int, str]:
    """Exit code and message of what stopped a run."""
    if isinstance(error, InputError | ResourceError):
        return error.exit_code, str(error)
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return EXIT_CANCELLED, "Cancelled."
    if isinstance(error, BrokenPipeError):
        return EXIT_CANCELLED, "Stopped: nobody reads the output any more."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return EXIT_RESOURCES, "The disk is full. Free some space."
    if isinstance(error, MemoryError) or _ran_out_of_memory(error):
        return EXIT_RESOURCES, (
            f"Out of memory ({error}). Close other programs, or use --device cpu if a GPU ran out."
        )
    return EXIT_BUG, (
        f"{type(error).__name__}: {error}\nThis is a bug. Please report it with the command "
        "and all the lines above."
    )


def _ran_out_of_memory(error: BaseException) -> bool:
    """Whether torch says so: its accelerators and its CPU allocator use different words."""
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )


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
