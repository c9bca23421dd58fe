"""Make CTs from label maps of real patients, to train on.

    python -m Training.synthesize ANATOMIES -o CASES [--variants N] [--spacing-mm 2.0] [--seed S]
                                  [--workers N]

ANATOMIES holds NAME_labelmap.nii.gz and labels.json, which names what the values mean. Each label
map becomes N cases that share its shapes and nothing else: phase of contrast, HU, textures, what
nobody drew, noise and couch are drawn anew. CASES gets a folder NAME-syntheticI a case with
ct.nii.gz, label.nii.gz (0 background, 1 liver with its vessels and cysts, 2 tumor) and case.json,
which tells `Training.prepare` whose shapes these are and that the CT is none of a patient: such
cases train, and are never held out or tested on. Cases that are there already are left as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from LiverTumorSegLib.errors import Cancelled, InputError, ResourceError
from LiverTumorSegLib.nifti import write_nifti
from LiverTumorSegLib.staging import staged
from Training.anatomy import (
    Anatomy,
    Tissue,
    find_anatomies,
    liver_labels,
    name_of,
    read_anatomy,
    read_meanings,
)
from Training.interior import fill_interior
from Training.layouts import FACTS
from Training.prepare import ignore_interrupts, interrupts_ignored
from Training.synthetic_hu import add_couch, draw_means, draw_phase, draw_scanner, paint, scan

CT, LABEL = "ct.nii.gz", "label.nii.gz"
VERSION = 1  # goes up with every change that makes other CTs of the same seed


@dataclass(frozen=True)
class Task:
    """The cases to make of one label map.

    Attributes:
        path: of the label map.
        meanings: the tissue of each of its values.
        spacing_mm: about the size of the cases' voxels.
        output: the folder of all cases.
        variants: how many cases.
        seed: what chance starts from, besides the name and the number of the case.
    """

    path: Path
    meanings: np.ndarray
    spacing_mm: float
    output: Path
    variants: int
    seed: int

    @property
    def name(self) -> str:
        """The label map's, which is the patient's."""
        return name_of(self.path)

    def folder(self, number: int) -> Path:
        """Of one of the cases, 1 being the first."""
        return self.output / f"{self.name}-synthetic{number}"

    def facts(self) -> dict[str, Any]:
        """What is said of each of the cases, and what it was made with."""
        made = {"seed": self.seed, "spacing_mm": self.spacing_mm, "version": VERSION}
        return {"patient": self.name, "synthetic": True, "made_with": made}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.synthesize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("anatomies", type=Path, help="folder with label maps and labels.json")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--variants", type=int, default=1, help="CTs of each label map")
    parser.add_argument(
        "--spacing-mm",
        type=float,
        default=2.0,
        help="whole voxels are merged to about this size (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="label maps at a time")
    arguments = parser.parse_args(argv)
    try:
        synthesize(
            arguments.anatomies,
            arguments.output,
            arguments.variants,
            arguments.spacing_mm,
            arguments.seed,
            arguments.workers,
        )
    except (InputError, ResourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is missing", file=sys.stderr)
        return Cancelled.exit_code
    return 0


def synthesize(
    anatomies: Path, output: Path, variants: int, spacing_mm: float, seed: int, workers: int
) -> None:
    """Write the cases of every label map.

    Raises:
        InputError: no label maps, one that cannot be used, a number that makes no sense, or a
            folder that cannot be written to.
        ResourceError: the disk is full.
    """
    if variants < 1 or not 0.5 <= spacing_mm <= 10 or workers < 1 or seed < 0:
        raise InputError(
            "expected --variants and --workers of 1 or more, --spacing-mm of 0.5 to 10 and --seed "
            f"of 0 or more; found {variants}, {workers}, {spacing_mm:g} and {seed}."
        )
    meanings = read_meanings(anatomies)
    tasks = [
        Task(path, meanings, spacing_mm, output, variants, seed)
        for path in find_anatomies(anatomies)
    ]
    with closing(run(tasks, workers)) as done:
        made = sum(tqdm(done, "synthesize", len(tasks), unit="anatomy"))
    print(f"{made} cases made, {len(tasks) * variants} of {len(tasks)} anatomies in {output}")


def run(tasks: list[Task], workers: int) -> Iterator[int]:
    """Make the cases of each label map, several at a time, and give how many were made.

    Raises:
        InputError: as `make_cases` says.
        ResourceError: the same, or a process was killed, as when memory runs out.
    """
    if workers == 1:
        yield from map(make_cases, tasks)
        return
    pool = ProcessPoolExecutor(min(workers, len(tasks)), get_context("spawn"), ignore_interrupts)
    with interrupts_ignored():  # which the processes inherit, also while they still start
        done = pool.map(make_cases, tasks)
    try:
        yield from done
    except BrokenProcessPool as error:
        raise ResourceError(
            "a process that made a case was killed; memory probably ran out. Run the same command "
            f"with fewer than {workers} --workers; it goes on with what is missing."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def make_cases(task: Task) -> int:
    """Write the cases of one label map that are not there; how many that were.

    Raises:
        InputError: the label map cannot be used, or the folder not be written to.
        ResourceError: the disk is full.
    """
    missing = [number for number in range(1, task.variants + 1) if not there(task, number)]
    if not missing:
        return 0
    anatomy = read_anatomy(task.path, task.meanings, task.spacing_mm)
    labels = liver_labels(anatomy.tissues, anatomy.geometry.spacing_mm)
    for number in missing:
        hu = synthetic_ct(anatomy, np.random.default_rng([task.seed, number, *task.name.encode()]))
        with staged(task.folder(number), (CT, LABEL, FACTS)) as staging:
            write_nifti(staging / CT, hu, np.int16, anatomy.geometry)
            write_nifti(staging / LABEL, labels, np.uint8, anatomy.geometry)
            (staging / FACTS).write_text(json.dumps(task.facts()), encoding="utf-8")
    return len(missing)


def there(task: Task, number: int) -> bool:
    """Whether a case has been made with these settings."""
    try:
        text = (task.folder(number) / FACTS).read_text(encoding="utf-8")
        return bool(json.loads(text) == task.facts())
    except (OSError, ValueError):
        return False


def synthetic_ct(anatomy: Anatomy, random: np.random.Generator) -> np.ndarray:
    """HU of one CT of these shapes; int16 (z, y, x)."""
    spacing_mm = anatomy.geometry.spacing_mm
    phase, scanner = draw_phase(random), draw_scanner(random)
    tissues = fill_interior(anatomy.tissues, spacing_mm, random)
    hu = paint(tissues, draw_means(phase, random), spacing_mm, random)
    if scanner.couch:
        add_couch(hu, tissues != Tissue.AIR, spacing_mm, random)
    return scan(hu, spacing_mm, scanner, random)


if __name__ == "__main__":
    sys.exit(main())
