"""Prepared cases on disk: each stored whole or not at all, and published together.

A folder holds, for each case, HU, labels, picture and record; the record is written last, so that a
case without one is not there. `Training.prepare` stores into a hidden folder inside PREPARED, from
which a next run goes on, and moves the files into place when every case is sound.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.recipe import from_plain
from LiverTumorSegLib.staging import FULL
from Training.dataset import Case, Origin
from Training.fingerprint import Fingerprint

PICTURES, RECORDS, UNFINISHED = "pictures", "records", ".unfinished"


@dataclass(frozen=True)
class Record:
    """All that preparing a case found out.

    Attributes:
        stamp: digest of what the case was made from; another one means to make it again.
        case: what the trainer reads.
        origin: where it came from.
        fingerprint: what its liver and tumors are like.
    """

    stamp: str
    case: Case
    origin: Origin
    fingerprint: Fingerprint


def files_of(name: str) -> tuple[str, ...]:
    """A case's files relative to the folder, the record last."""
    return (
        f"{name}_hu.npy",
        f"{name}_labels.npy",
        f"{PICTURES}/{name}.png",
        f"{RECORDS}/{name}.json",
    )


def store(
    folder: Path, record: Record, hu: np.ndarray, labels: np.ndarray, picture: Image.Image
) -> None:
    """Write a case's files, or none if one of them fails."""
    hu_path, labels_path, picture_path, record_path = paths_of(folder, record.case.name)
    remove(folder, record.case.name)
    try:
        for path in (picture_path, record_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        np.save(hu_path, hu)
        np.save(labels_path, labels)
        picture.save(picture_path)
        write_json(record_path, asdict(record))
    except BaseException:
        remove(folder, record.case.name)
        raise


def stored(folder: Path, name: str, stamp: str) -> Record | None:
    """The record of a case that is there whole and was made from the same files, else None."""
    hu_path, labels_path, picture_path, record_path = paths_of(folder, name)
    try:
        plain = json.loads(record_path.read_text(encoding="utf-8"))
        record = from_plain(Record, plain, "record")
        for path in (hu_path, labels_path):
            if np.load(path, mmap_mode="r").shape != record.case.geometry.shape:
                return None
    except (OSError, EOFError, ValueError):
        return None
    return record if record.stamp == stamp and picture_path.is_file() else None


def publish(unfinished: Path, folder: Path, names: list[str], reports: dict[str, str]) -> None:
    """Move cases into place, drop those that are no longer part of it, and write the reports.

    A reader that comes before the last report is moved finds no data set; after a kill in between
    the next run goes on.

    Args:
        unfinished: folder of the cases that were stored anew.
        folder: the data set.
        names: of all cases it is to have.
        reports: text of further files by name, dataset.json last.
    """
    for name, text in reports.items():
        (unfinished / name).write_text(text, encoding="utf-8")
    for name in reversed(reports):
        (folder / name).unlink(missing_ok=True)
    for sub in (PICTURES, RECORDS):
        (folder / sub).mkdir(exist_ok=True)
    there = {path.stem for path in (folder / RECORDS).glob("*.json")}
    for name in sorted(there - set(names)):
        remove(folder, name)
    for name in names:
        *_, record = paths_of(unfinished, name)
        if record.exists():
            remove(folder, name)
            for file in files_of(name):
                (unfinished / file).replace(folder / file)
    for name in reports:
        (unfinished / name).replace(folder / name)
    shutil.rmtree(unfinished)


def remove(folder: Path, name: str) -> None:
    """Delete a case's files, the record first."""
    for path in reversed(paths_of(folder, name)):
        path.unlink(missing_ok=True)


def paths_of(folder: Path, name: str) -> tuple[Path, ...]:
    """A case's files in a folder, in the order of `files_of`."""
    return tuple(folder / file for file in files_of(name))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(value), encoding="utf-8")
    partial.replace(path)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the system says of a folder into what a user can act on.

    Raises:
        InputError: it cannot be written to.
        ResourceError: the disk is full; numpy tells so without a number, of an array cut short.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (*FULL, None):
            raise ResourceError(
                f"{folder}: the disk is full ({error}). Free some space and run the same command "
                "again; it goes on with the case that did not fit."
            ) from error
        raise InputError(
            f"{folder}: expected a folder to write to, found: {error.strerror} "
            f"({error.filename}). Close programs that use its files, or choose another folder."
        ) from error
