"""A run's folder: its description, its log, and its states, each written whole or not at all."""

from __future__ import annotations

import csv
import json
import pickle
import platform
from pathlib import Path
from typing import Any

import torch

from LiverTumorSegLib import __version__
from LiverTumorSegLib.errors import InputError
from Training.dataset import make_folder

LOG_COLUMNS = (
    "epoch",
    "loss",
    "learning_rate",
    "seconds",
    "seconds_waiting_for_data",
    "held_out_loss",
    "held_out_liver_dice",
    "held_out_tumor_dice",
)


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
        InputError: it holds another run than this, or cannot be made.
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
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({**description, **machine}, indent=1))
    partial.replace(path)


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


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a CSV file; the first one also writes the header."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, LOG_COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def shorten_log(path: Path, epochs: int) -> None:
    """Drop the rows after an epoch: those of epochs that will be run again."""
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: 1 + epochs]))


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_state` wrote.

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


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Replace the file as a whole."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)
