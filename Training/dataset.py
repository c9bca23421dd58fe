"""A prepared data set: the folder that `Training.prepare` writes and the trainer reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.recipe import from_plain
from LiverTumorSegLib.volume import Volume


@dataclass(frozen=True)
class Case:
    """One labeled CT of a prepared data set."""

    name: str
    patient: str
    geometry: Geometry
    liver_ml: float
    tumor_ml: float
    lesions: int
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """A folder that `Training.prepare` wrote."""

    folder: Path
    cases: tuple[Case, ...]

    def volume(self, case: Case) -> Volume:
        """The CT of a case.

        Raises:
            InputError: its array is missing or damaged.
        """
        hu = read_array(self.folder / f"{case.name}_hu.npy")
        return Volume(hu.astype(np.float32), case.geometry, case.name)

    def labels(self, case: Case) -> np.ndarray:
        """uint8 (z, y, x): 0 background, 1 liver, 2 tumor.

        Raises:
            InputError: its array is missing or damaged.
        """
        return read_array(self.folder / f"{case.name}_labels.npy")


def read_array(path: Path) -> np.ndarray:
    """Read a .npy file.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return np.load(path)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Prepare the data again.") from error


def make_folder(folder: Path) -> None:
    """Make a folder for results, with its parents, unless it is there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder to write to, found: {error.strerror}. Choose another."
        ) from error


def write_cases(folder: Path, cases: list[Case]) -> None:
    """Write dataset.json, whole or not at all."""
    partial = folder / "dataset.json.partial"
    partial.write_text(json.dumps({"cases": [asdict(case) for case in cases]}, indent=1))
    partial.replace(folder / "dataset.json")


def read_data_set(folder: Path) -> DataSet:
    """Open a prepared data set.

    Raises:
        InputError: no such data set, or one that cannot be read.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: expected a folder with dataset.json. Make it with "
            f"`python -m Training.prepare DATA -o {folder}`."
        )
    try:
        plain = json.loads(path.read_text())["cases"]
        cases = from_plain(tuple[Case, ...], plain, "cases")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Prepare the data again.") from error
    return DataSet(folder, cases)
