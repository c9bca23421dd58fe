"""Check labeled CTs and bring them into the form that the trainer reads.

    python -m Training.prepare DATA [DATA ...] -o PREPARED [--label-map 3=1,4=0] [--workers N]

What each DATA holds is told from its files:

    LiTS                 volume-0.nii and segmentation-0.nii, or .nii.gz, also in folders inside
    MSD, nnU-Net         imagesTr and labelsTr
    3D-IRCADb-01         3Dircadb1.1/PATIENT_DICOM and 3Dircadb1.1/MASKS_DICOM, unpacked
    one folder a case    ct.* and label.* in any format that the engine reads, also as .bz2

Labels are 0 background, 1 liver, 2 tumor after the mapping; of 3D-IRCADb-01's masks the liver is
the liver with its tumors and cysts. All faults of all cases are told together, and PREPARED stays
as it was while there is one. Cases that are sound, or were done before Ctrl-C, are kept: the same
command goes on with what is missing or has changed.

PREPARED gets dataset.json, fingerprint.json, overview.html and, for each case, its HU and labels, a
picture and a record.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from LiverTumorSegLib.errors import Cancelled, InputError, ResourceError
from Training.case_store import PICTURES, RECORDS, UNFINISHED, Record, publish, stored, writing
from Training.dataset import dataset_json, make_folder
from Training.fingerprint import fingerprint_json
from Training.layouts import find_cases
from Training.overview import overview_html
from Training.prepare_case import Task, prepare_case, stamp_of

MOST_WORKERS = 8  # each holds a CT several times over


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, nargs="+", help="folders with labeled CTs")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--label-map", default="", help="other label values and what they become, as in 3=1,4=0"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(os.cpu_count() or 1, MOST_WORKERS),
        help=f"cases prepared at a time (default: one a core, {MOST_WORKERS} at most); fewer take "
        "less memory",
    )
    arguments = parser.parse_args(argv)
    try:
        prepare_data_set(
            arguments.data,
            arguments.output,
            parse_label_map(arguments.label_map),
            max(arguments.workers, 1),
        )
    except (InputError, ResourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is missing", file=sys.stderr)
        return Cancelled.exit_code
    return 0


def prepare_data_set(
    folders: list[Path], output: Path, label_map: dict[int, int], workers: int
) -> None:
    """Prepare every case below these folders, or tell the faults of all of them together.

    Raises:
        InputError: no cases, faults in some, or an output folder that cannot be written to.
        ResourceError: disk or memory ran out.
    """
    unfinished = output / UNFINISHED
    tasks, unfit = [], []
    for folder in dict.fromkeys(folders):
        with reading(folder):
            found = find_cases(folder)
            tasks += [
                Task(source, folder, unfinished, label_map, stamp_of(source, label_map))
                for source in found.sources
            ]
        unfit += found.faults
        for path in found.left_out:
            print(f"{path}: a CT without a label, left out", file=sys.stderr)
    check_names(tasks)
    made = not output.exists()
    make_folder(output)
    try:
        with writing(output):
            unfinished.mkdir(exist_ok=True)
        records, faults = prepare_cases(tasks, output, workers)
        records, doubled = check_copies(records)
        faults = [*unfit, *faults, *doubled]
        if not faults:
            with writing(output):
                finish(records, output, title_of(folders), label_map)
    finally:
        emptied = [unfinished / PICTURES, unfinished / RECORDS, unfinished]
        remove_if_empty(*emptied, *([output] if made else []))
    if faults:
        kept = f"; {len(records)} sound case(s) are kept until then" if records else ""
        raise InputError(
            "\n".join([f"{len(faults)} fault(s). Mend all, then prepare again{kept}:", *faults])
        )
    tell(records, output)


def check_names(tasks: list[Task]) -> None:
    """Refuse two cases of one name, from two folders.

    Raises:
        InputError: naming both.
    """
    first: dict[str, Task] = {}
    for task in tasks:
        same = first.setdefault(task.source.name, task)
        if same is not task:
            raise InputError(
                f"{task.source.ct}: expected a case name once, found {task.source.name} also at "
                f"{same.source.ct}. Rename one, or leave one folder out."
            )


def title_of(folders: list[Path]) -> str:
    """The folders' names."""
    return " + ".join(folder.resolve().name for folder in folders)


def tell(records: list[Record], output: Path) -> None:
    """Print the warnings of a finished data set, and how large it is."""
    for record in records:
        for warning in record.origin.warnings:
            print(f"{record.case.name}: {warning}", file=sys.stderr)
    patients = len({record.case.patient for record in records})
    made = sum(record.case.synthetic for record in records)
    synthetic = f", {made} of them synthetic," if made else ""
    told = f"{len(records)} cases{synthetic} of {patients} patients"
    print(f"{told} in {output}; see overview.html there")


@contextlib.contextmanager
def reading(data: Path) -> Iterator[None]:
    """Turn what the system says of folders that are looked through into what a user can act on.

    Raises:
        InputError: one cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{data}: expected folders that can be read, found: {error.strerror} "
            f"({error.filename}). Change their permissions, or copy them again."
        ) from error


def prepare_cases(tasks: list[Task], output: Path, workers: int) -> tuple[list[Record], list[str]]:
    """Prepare the cases that are neither in the data set nor unfinished from an earlier run.

    Returns:
        The records of all sound cases and the faults of the others, both in the order of `tasks`.

    Raises:
        InputError: the folder cannot be written to.
        ResourceError: disk or memory ran out.
    """
    records, faults = {}, {}
    for task in tasks:
        name, stamp = task.source.name, task.stamp
        if record := stored(task.folder, name, stamp) or stored(output, name, stamp):
            records[name] = record
    missing = [task for task in tasks if task.source.name not in records]
    with contextlib.closing(run(missing, min(workers, len(missing)))) as done:
        for task, outcome in tqdm(done, "prepare", len(tasks), unit="case", initial=len(records)):
            if isinstance(outcome, Record):
                records[task.source.name] = outcome
            else:
                faults[task.source.name] = outcome
    names = [task.source.name for task in tasks]
    return (
        [records[name] for name in names if name in records],
        [fault for name in names for fault in faults.get(name, ())],
    )


def run(tasks: list[Task], workers: int) -> Iterator[tuple[Task, Record | list[str]]]:
    """Prepare cases, several at a time, and give each as it is done.

    Raises:
        ResourceError: a process was killed, which the system does when memory runs out.
    """
    if workers < 2:
        for task in tasks:
            yield task, prepare_case(task)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), ignore_interrupts)
    with interrupts_ignored():  # which the processes inherit, also while they still start
        futures = {pool.submit(prepare_case, task): task for task in tasks}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ResourceError(
            f"a process that prepared a case was killed; memory probably ran out. Run the same "
            f"command with fewer than {workers} --workers; it goes on with what is missing."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def ignore_interrupts() -> None:
    """Let Ctrl-C reach the main process alone, so that the cases in hand are finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C for the moment that it takes to start processes."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check_copies(records: list[Record]) -> tuple[list[Record], list[str]]:
    """Warn of cases of one patient, and find CTs that are there under two patients' names.

    Returns:
        The records with their warnings, and the faults.
    """
    by_ct, by_patient = defaultdict(list), defaultdict(list)
    for record in records:
        by_ct[record.origin.ct_sha256].append(record)
        if not record.case.synthetic:
            by_patient[record.case.patient].append(record.case.name)
    faults = [
        f"{', '.join(one.case.name for one in same)}: the same CT under the names of "
        f"{len({one.case.patient for one in same})} patients, so that a split may part them. "
        "Keep one of them."
        for same in by_ct.values()
        if len({one.case.patient for one in same}) > 1
    ]
    return [with_copies(record, by_patient[record.case.patient]) for record in records], faults


def with_copies(record: Record, names: list[str]) -> Record:
    """The record, with a warning if a scanner saw its patient more often than this."""
    others = ", ".join(name for name in names if name != record.case.name)
    if not others or record.case.synthetic:
        return record
    warning = f"the same patient as {others}: all are kept, and no split parts them"
    origin = replace(record.origin, warnings=(*record.origin.warnings, warning))
    return replace(record, origin=origin)


def finish(records: list[Record], output: Path, title: str, label_map: dict[int, int]) -> None:
    """Publish the cases and what is said of them, under the title of their data."""
    cases = [record.case for record in records]
    origins = [record.origin for record in records]
    dataset = dataset_json(
        cases,
        origins,
        data=title,
        label_map={str(old): new for old, new in label_map.items()},
    )
    fingerprint = fingerprint_json(cases, [record.fingerprint for record in records])
    reports = {
        "fingerprint.json": json.dumps(fingerprint, indent=1),
        "overview.html": overview_html(records, title),
        "dataset.json": json.dumps(dataset, indent=1),
    }
    publish(output / UNFINISHED, output, [case.name for case in cases], reports)


def remove_if_empty(*folders: Path) -> None:
    """Delete folders in which nothing was left."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def parse_label_map(text: str) -> dict[int, int]:
    """`3=1,4=0` as a dict.

    Raises:
        InputError: another form, or a target other than 0, 1, 2.
    """
    try:
        pairs = [part.split("=") for part in text.split(",") if part]
        mapping = {int(old): int(new) for old, new in pairs}
    except ValueError:
        mapping = {0: -1}
    if not set(mapping.values()) <= {0, 1, 2}:
        raise InputError(
            f"--label-map {text}: expected pairs such as 3=1,4=0 that map to 0, 1 or 2."
        )
    return mapping


if __name__ == "__main__":
    sys.exit(main())
