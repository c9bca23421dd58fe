"""Prepared data: the cases of a data set, their folds, and their arrays on a recipe's grid."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.preprocess import prepare, prepare_labels
from LiverTumorSegLib.recipe import Preprocessing, Recipe, Triple, from_plain
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


def split(cases: tuple[Case, ...], fold: str | None) -> tuple[list[Case], list[Case]]:
    """Training and held-out cases of a fold; no patient is in both.

    Patients are dealt to N folds in the order of their names, so N = number of patients leaves
    one patient out.

    Args:
        cases: all cases.
        fold: "K/N" with 1 <= K <= N and N >= 2, or None to train on everything.

    Raises:
        InputError: the fold is not of that form, or there are fewer patients than folds.
    """
    if fold is None:
        return list(cases), []
    try:
        number, count = (int(part) for part in fold.split("/"))
    except ValueError:
        number = count = 0
    patients = sorted({case.patient for case in cases})
    if not 1 <= number <= count or not 2 <= count <= len(patients):
        raise InputError(
            f"--fold {fold}: expected K/N with 1 <= K <= N and 2 <= N <= {len(patients)}, the "
            "number of patients."
        )
    held_out = set(patients[number - 1 :: count])
    return (
        [case for case in cases if case.patient not in held_out],
        [case for case in cases if case.patient in held_out],
    )


@dataclass(frozen=True)
class PreparedCase:
    """A case on the network's grid, unpadded.

    Attributes:
        name: of the case.
        image: float32 (z, y, x), 0 to 1.
        liver_distance_mm: float32, or None without a liver crop.
        labels: uint8 on the grid of the network's output.
        spacing_mm: of the image, (z, y, x).
    """

    name: str
    image: np.ndarray
    liver_distance_mm: np.ndarray | None
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]


def output_scale(recipe: Recipe) -> Triple:
    """Upsampling (z, y, x) of the network's output over its input."""
    z, y, x = recipe.network.args.get("head_scale", (1, 1, 1))
    return z, y, x


def prepared_case(data: DataSet, case: Case, recipe: Recipe) -> PreparedCase:
    """A case as the recipe's preprocessing leaves it, kept in the data set's cache folder."""
    key = cache_key(case, recipe.preprocessing, output_scale(recipe))
    path = data.folder / "cache" / f"{case.name}-{key}.npz"
    if not path.exists():
        labels = data.labels(case)
        prepared = prepare(data.volume(case), recipe.preprocessing, labels > 0)
        arrays = {
            "image": prepared.image,
            "labels": prepare_labels(labels, prepared.grid, output_scale(recipe)),
            "spacing_mm": np.array(prepared.spacing_mm),
        }
        if prepared.liver_distance_mm is not None:
            arrays["liver_distance_mm"] = prepared.liver_distance_mm
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial.npz")
        np.savez(partial, **arrays)
        partial.replace(path)
    with np.load(path) as arrays:
        return PreparedCase(
            name=case.name,
            image=arrays["image"],
            liver_distance_mm=arrays.get("liver_distance_mm"),
            labels=arrays["labels"],
            spacing_mm=tuple(arrays["spacing_mm"].tolist()),
        )


def cache_key(case: Case, preprocessing: Preprocessing, scale: Triple) -> str:
    """Short digest of all that a prepared case depends on."""
    parts = [case.sha256, asdict(case.geometry), asdict(preprocessing), scale]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
