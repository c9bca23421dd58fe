"""A run's folder: its description, log, curves and states, each written whole or not at all.

`last.pt` is the one truth about how far a run has come. All else follows from it and is written
after it, so that a run killed at any moment is made consistent again when it is resumed.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import pickle
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from LiverTumorSegLib import __version__
from LiverTumorSegLib.errors import InputError, ResourceError
from Training.dataset import make_folder

Row = dict[str, float]
LOG_COLUMNS = (
    "epoch",
    "loss",
    "learning_rate",
    "seconds",
    "seconds_waiting_for_data",
    "held_out_loss",
    "held_out_liver_dice",
    "held_out_tumor_dice",
    "seconds_validating",
)
FULL = (errno.ENOSPC, errno.EDQUOT)


def check_free(run: Path) -> None:
    """Refuse a folder that holds a run.

    Raises:
        InputError: it does.
    """
    if (run / "run.json").exists():
        raise InputError(f"{run}: holds a run already. Add --resume, or choose another folder.")


def open_run(run: Path, description: dict[str, Any]) -> None:
    """Create the run folder, or check that it holds the run to be resumed.

    Raises:
        InputError: it holds another run than this, or cannot be written to.
        ResourceError: the disk is full.
    """
    path = run / "run.json"
    if path.exists():
        stored = read_run(run)
        as_stored = json.loads(json.dumps(description))
        changed = [key for key in description if stored.get(key) != as_stored[key]]
        if changed:
            raise InputError(f"{run}: was started with another {', '.join(changed)}.")
        return
    make_folder(run)
    machine = {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    with replacing(path) as file:
        file.write(json.dumps({**description, **machine}, indent=1).encode())


def read_run(run: Path) -> dict[str, Any]:
    """The description of a run.

    Raises:
        InputError: it is missing or damaged.
    """
    path = run / "run.json"
    try:
        description = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected the description of a `Training.train` run ({error})."
        ) from error
    if not isinstance(description, dict):
        raise InputError(f"{path}: expected the description of a `Training.train` run.")
    return description


def keep(run: Path, state: dict[str, Any], is_best: bool) -> None:
    """Write the state after an epoch, and what follows from it.

    Args:
        run: the run's folder.
        state: tensors and plain values; its "rows" are the log.
        is_best: whether no epoch before was as good.

    Raises:
        InputError: the folder cannot be written to.
        ResourceError: the disk is full. The files are as they were, whole.
    """
    with replacing(run / "last.pt") as file:
        torch.save(state, file)
    follow(run, state["rows"], is_best)


def follow(run: Path, rows: list[Row], is_best: bool) -> None:
    """Make best.pt and log.csv what `last.pt` says; also after a kill between the files.

    Raises:
        InputError: the folder cannot be written to.
        ResourceError: the disk is full.
    """
    if is_best:
        with (run / "last.pt").open("rb") as last, replacing(run / "best.pt") as file:
            shutil.copyfileobj(last, file)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, LOG_COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    with replacing(run / "log.csv") as file:
        file.write(text.getvalue().encode())


def read_log(run: Path) -> list[Row]:
    """The rows of a run's log, an epoch each; without the values that an epoch has not.

    Raises:
        InputError: it is missing or damaged.
    """
    path = run / "log.csv"
    try:
        with path.open(newline="") as file:
            return [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
    except (OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected the log of a run, which cannot be read ({error})."
        ) from error


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a state that `keep` wrote.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path}: expected the state of a `Training.train` run; it is missing or damaged "
            f"({error})."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of `path` as a whole when the block ends well.

    It is on the disk before it does, so that a power cut leaves one or the other.

    Raises:
        InputError: it cannot be written.
        ResourceError: the disk is full.
    """
    partial = path.with_name(path.name + ".partial")
    with explained(path):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system says about writing into what a user can act on.

    Raises:
        InputError: `path` cannot be written.
        ResourceError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ResourceError(
                f"{path}: the disk is full; the run is as it was after its last whole epoch. Free "
                "some space; the same command with --resume continues."
            ) from error
        raise InputError(
            f"{path}: expected a file that can be written, found: {error.strerror}. Mend that; the "
            "same command with --resume continues."
        ) from error
