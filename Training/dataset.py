"""A prepared data set: the folder that `Training.prepare` writes and the trainer reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.recipe import from_plain
from LiverTumorSegLib.volume import Volume

FORMAT = 4  # goes up when older folders must be prepared again


@dataclass(frozen=True)
class Case:
    """One labeled CT of a prepared data set.

    Attributes:
        name: of the case, and of its files.
        patient: whom it shows; several cases may show one patient, and no split parts them.
        synthetic: a CT that no scanner made, of this patient's shapes; it only ever trains.
        geometry: the CT's own grid, its spacing repaired where that was needed and possible.
        spacing_known: False where lengths and volumes in mm and mL are wrong.
        liver_ml: volume of the liver with its tumors.
        tumor_ml: volume of the tumors.
        lesions: connected components of the tumors.
        sha256: of the HU and the labels.
    """

    name: str
    patient: str
    synthetic: bool
    geometry: Geometry
    spacing_known: bool
    liver_ml: float
    tumor_ml: float
    lesions: int
    sha256: str


def real(cases: Iterable[Case]) -> tuple[Case, ...]:
    """The cases that a scanner made."""
    return tuple(case for case in cases if not case.synthetic)


@dataclass(frozen=True)
class Origin:
    """How a case came into the data set; dataset.json has it for a person to read.

    Attributes:
        layout: the data set's, as in `Training.layouts`.
        files: what was read, the CT first, relative to the folder that was prepared.
        ct_sha256: of the HU alone, equal for copies of one CT.
        repairs: what was mended, by reading or by preparing.
        warnings: what a person should look at.
    """

    layout: str
    files: tuple[str, ...]
    ct_sha256: str
    repairs: tuple[str, ...]
    warnings: tuple[str, ...]


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


def dataset_json(cases: list[Case], origins: list[Origin], **facts: Any) -> dict[str, Any]:
    """The content of dataset.json.

    Args:
        cases: in any order.
        origins: how each came here, in the same order.
        facts: JSON values that hold for all of them.
    """
    return {
        "format": FORMAT,
        **facts,
        "cases": [asdict(case) for case in cases],
        "origins": {c.name: asdict(one) for c, one in zip(cases, origins, strict=True)},
    }


def read_data_set(folder: Path) -> DataSet:
    """Open a prepared data set.

    Raises:
        InputError: no such data set, or one that cannot be read or is of an older version.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: expected a folder with dataset.json. Make it with "
            f"`python -m Training.prepare DATA -o {folder}`."
        )
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain.get("format") != FORMAT:
            raise ValueError(f"expected format {FORMAT}, found {plain.get('format', 1)}")
        cases = from_plain(tuple[Case, ...], plain["cases"], "cases")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Prepare the data again.") from error
    return DataSet(folder, cases)
