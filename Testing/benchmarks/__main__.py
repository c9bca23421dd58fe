"""The product's speed and memory against others, in one run.

    python -m Testing.benchmarks [--only PART ...] [--write README.md]

measures the parts below one after another, keeps each in a file of results as soon as it is done,
and prints README's section Speed, or puts it between its two marks in that file, with its plot.
--only names some of the parts, the others stay as they were measured; without a name nothing is
measured. Every part says in its file how it measures. On Linux and macOS.

    whole     the whole job against nnU-Net's predictor
    windows   the windows alone against MONAI's sliding window
    recipes   each paper's recipe
    scaling   time and memory by the number of slices
    floor     the machine's matrix products and disk
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from LiverTumorSegLib.backends import pick_device
from LiverTumorSegLib.errors import InputError, ResourceError, outcome_of
from Testing.benchmarks import speed_page
from Testing.benchmarks.floor import rates
from Testing.benchmarks.measured_process import ROOT, CommandError
from Testing.benchmarks.nnunet_env import add_environment_option, nnunet_python
from Testing.benchmarks.recipe_time import recipe_time
from Testing.benchmarks.scaling import scaling
from Testing.benchmarks.whole_job import whole_job
from Testing.benchmarks.window_time import window_time
from Training.machine import load, machine
from Training.marked_section import around_marks

SAMPLE = ROOT / "Testing" / "data" / "hcc006_arterial.nii.gz"
SLICES = [100, 200, 400, 800, 1500]
PARTS = ("whole", "windows", "recipes", "scaling", "floor")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = parsed(argv)
    try:
        kind = pick_device(arguments.device).type
        path = arguments.results or speed_page.RESULTS[kind]
        measure_parts(arguments, path)
        render(path, arguments.write)
    except (InputError, ResourceError, CommandError) as error:
        code, message = outcome_of(error)
        print(f"error: {message}", file=sys.stderr)
        return code
    return 0


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m Testing.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--ct", type=Path, default=SAMPLE, help="NIfTI file (default: the sample)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--rounds", type=int, default=3, help="of what is short")
    parser.add_argument("--slices", type=int, nargs="+", default=SLICES, metavar="N")
    add_environment_option(parser)
    parser.add_argument("--results", type=Path, metavar="FILE.json")
    parser.add_argument("--write", type=Path, metavar="FILE", help="file with the two marks")
    return parser.parse_args(argv)


def measure_parts(arguments: argparse.Namespace, path: Path) -> None:
    """Measure the parts asked for, and keep each in the file of results.

    Raises:
        InputError: the file has parts of another machine, or the device is not there.
        ResourceError: nnU-Net's environment could not be made.
    """
    device = pick_device(arguments.device)
    ct, kind, rounds = arguments.ct.resolve(), device.type, arguments.rounds
    results = results_so_far(path, machine(device), arguments.only)
    python = nnunet_python(arguments.nnunet_env) if "whole" in arguments.only else None
    measures: dict[str, Callable[[Path], dict[str, Any]]] = {
        "whole": lambda folder: whole_job(ct, folder, kind, rounds, python),
        "windows": lambda folder: window_time(ct, device, rounds),
        "recipes": lambda folder: recipe_time(ct, folder, kind, rounds),
        "scaling": lambda folder: scaling(arguments.slices, folder, kind),
        "floor": lambda folder: rates(device),
    }
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LIVERTUMORSEG_CACHE"] = cache  # so that a first run is one
        for name in arguments.only:
            busy, started = load(), time.perf_counter()
            print(f"{name} (load {busy:.1f})", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                part = measures[name](Path(folder))
            took_s = round(time.perf_counter() - started, 1)
            print(f"  {name} took {took_s:.0f} s", flush=True)
            results["parts"][name] = {"load": busy, "took_s": took_s, **part}
            path.write_text(json.dumps(results, indent=1) + "\n")


def results_so_far(path: Path, here: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    """The file's results, as far as they will not be measured again.

    Raises:
        InputError: they are of another machine.
    """
    if not path.exists() or set(wanted) == set(PARTS):
        return {"machine": here, "parts": {}}
    results = json.loads(path.read_text())
    if wanted and results["machine"] != here:
        raise InputError(
            f"{path}: expected results of this machine and its versions, found "
            f"{results['machine']}. Measure all parts, or name another file with --results."
        )
    return results


def render(path: Path, write: Path | None) -> None:
    """Draw the plot, and print the section or put it between its marks.

    Args:
        path: the results; where they are those of the repository, other devices' are told too.
        write: a file with both marks.

    Raises:
        InputError: it has no marks.
    """
    if path.exists() and "scaling" in (results := json.loads(path.read_text()))["parts"]:
        speed_page.draw(results, speed_page.plot_of(path))
    kept = [*speed_page.RESULTS.values()]
    paths = kept if path in kept else [path]
    if write is None:
        print("\n" + speed_page.section(paths, Path.cwd()))
        return
    try:
        before, after = around_marks(write.read_text(), speed_page.BEGIN, speed_page.END)
    except (OSError, ValueError) as error:
        raise InputError(f"{write}: expected both marks: {error}") from error
    text = speed_page.section(paths, write.resolve().parent)
    write.write_text(f"{before}\n{text}\n{after}")
    print("\n" + text)


if __name__ == "__main__":
    sys.exit(main())
