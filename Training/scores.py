"""The rows that `Training.evaluate` leaves, and their files: scores.csv and lesions.csv.

An empty cell is a value that is not defined, such as a distance to an empty mask.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.recipe import Recipe, Statistics, ZScore

SCORES, LESIONS = "scores.csv", "lesions.csv"
NO_STATISTICS = Statistics(low_hu=0.0, high_hu=0.0, mean_hu=0.0, sd_hu=0.0)


@dataclass(frozen=True)
class Provenance:
    """Which prediction is measured, and how.

    Attributes:
        case: name of the case.
        ct: the first 12 digits of the sha256 of its CT and labels.
        data: name of the data set's folder.
        target: "liver" (with its tumors) or "tumor".
        liver_from: "prediction" or "reference": where a tumor was searched.
        seen: whether the patient was among those that trained any of these weights.
        definitions: "product" (Training/product.py) or "lits" (Training/lits.py).
        tta: whether predictions of mirrored images were averaged.
        recipes: name@digest of the recipe of each weights file used, of a tumor searched in a
            predicted liver the liver's first, with a space between two. The digest is the first 12
            digits of the sha256 of its JSON, without statistics measured on training cases.
        weights: name@digest of the weights files, likewise; the digest begins their sha256.
        seconds: time of the prediction.
    """

    case: str
    ct: str
    data: str
    target: str
    liver_from: str
    seen: bool
    definitions: str
    tta: bool
    recipes: str
    weights: str
    seconds: float


@dataclass(frozen=True)
class Score(Provenance):
    """One target of one case, by the product's definitions; Training/lits.py tells what differs.

    Attributes:
        dice: of the masks on the CT's own grid; 1 if both are empty.
        predicted_ml: volume of the predicted mask.
        reference_ml: volume of the reference.
        lesions: connected components of the reference; 0 for a liver, as all counts of lesions.
        lesions_touched: those that the prediction overlaps anywhere.
        false_lesions: predicted components that touch no reference lesion.
        predicted_lesions: connected components of the prediction.
        lesions_detected: reference lesions that a predicted one overlaps by more than half (IoU).
        lesion_precision: lesions_detected / predicted_lesions; empty if there are none.
        lesion_recall: lesions_detected / lesions; empty if there are none.
        iou: intersection over union; 1 if both are empty.
        voe: volumetric overlap error, 1 - iou.
        rvd: relative volume difference, (predicted - reference) / reference; empty without one.
        precision: share of the predicted voxels that are true; empty if there are none.
        recall: share of the true voxels that are predicted; empty if there are none.
        accuracy: share of all of the CT's voxels on which both masks agree.
        assd_mm: average symmetric surface distance; distances are empty if a mask is.
        rmsd_mm: root mean square symmetric surface distance.
        hd_mm: greatest surface distance (Hausdorff).
        hd95_mm: 95th percentile of the surface distances.
        surface_dice: share of the surfaces within the tolerance of the other surface.
        predicted_voxels: voxels of the predicted mask.
        reference_voxels: voxels of the reference.
        common_voxels: voxels of both.
        predicted_burden: tumor volume / volume of the liver with its tumors, as predicted; burdens
            are empty for a liver, and without one.
        reference_burden: the same of the reference.
        burden_error: predicted_burden - reference_burden.
    """

    dice: float
    predicted_ml: float
    reference_ml: float
    lesions: int
    lesions_touched: int
    false_lesions: int
    predicted_lesions: int
    lesions_detected: int
    lesion_precision: float | None
    lesion_recall: float | None
    iou: float | None
    voe: float | None
    rvd: float | None
    precision: float | None
    recall: float | None
    accuracy: float | None
    assd_mm: float | None
    rmsd_mm: float | None
    hd_mm: float | None
    hd95_mm: float | None
    surface_dice: float | None
    predicted_voxels: int
    reference_voxels: int
    common_voxels: int
    predicted_burden: float | None
    reference_burden: float | None
    burden_error: float | None


@dataclass(frozen=True)
class LesionScore:
    """One lesion of the reference, or a predicted one that detects none.

    Attributes:
        case: name of the case.
        mask: "reference" or "prediction": whose lesion it is.
        lesion: its number in that mask, 1 the largest.
        volume_ml: its volume.
        long_axis_mm: longest diameter in an axial slice, as LiverTumorSegLib/measure.py defines it.
        major_axis_mm: 4 times the root of the largest eigenvalue of its voxels' covariance.
        touched: whether the other mask overlaps it anywhere.
        detected: whether a predicted lesion overlaps a reference one by more than half (IoU).
        match: number of the lesion of the other mask that overlaps it best; empty if none does, as
            all that follows.
        match_volume_ml: the match's volume.
        match_long_axis_mm: the match's longest axial diameter.
        iou: of both lesions.
        dice: of both lesions.
        rvd: (predicted - reference) / reference, of both lesions.
        assd_mm: average symmetric surface distance of both lesions.
        rmsd_mm: root mean square symmetric surface distance of both lesions.
        hd_mm: greatest surface distance of both lesions.
    """

    case: str
    mask: str
    lesion: int
    volume_ml: float
    long_axis_mm: float
    major_axis_mm: float
    touched: bool
    detected: bool
    match: int | None
    match_volume_ml: float | None
    match_long_axis_mm: float | None
    iou: float | None
    dice: float | None
    rvd: float | None
    assd_mm: float | None
    rmsd_mm: float | None
    hd_mm: float | None


Row = TypeVar("Row", Score, LesionScore)


def recipe_label(recipe: Recipe) -> str:
    """Name and digest of a recipe, as `Provenance.recipes` has them.

    Statistics that the trainer measured on its cases do not count, as the weights do not: they
    differ from fold to fold of one recipe.
    """
    intensity = recipe.preprocessing.intensity
    if isinstance(intensity, ZScore) and intensity.statistics is not None:
        measured = replace(intensity, statistics=NO_STATISTICS)
        recipe = replace(recipe, preprocessing=replace(recipe.preprocessing, intensity=measured))
    return f"{recipe.name}@{hashlib.sha256(recipe.to_json().encode()).hexdigest()[:12]}"


def read_scores(path: Path) -> list[Score]:
    """Read a scores.csv.

    Raises:
        InputError: it is missing or not such a file.
    """
    return _read(path, Score)


def read_lesions(path: Path) -> list[LesionScore]:
    """Read a lesions.csv.

    Raises:
        InputError: it is missing or not such a file.
    """
    return _read(path, LesionScore)


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write a scores.csv, sorted by target and case."""
    _write(path, Score, sorted(scores, key=lambda score: (score.target, score.case)))


def write_lesions(path: Path, lesions: Iterable[LesionScore]) -> None:
    """Write a lesions.csv, sorted by case; in each the reference's lesions first, by number."""
    by_place = sorted(lesions, key=lambda row: (row.case, row.mask != "reference", row.lesion))
    _write(path, LesionScore, by_place)


def merged(earlier: Iterable[Score], new: Iterable[Score]) -> list[Score]:
    """The earlier scores, and the new ones in place of those of the same target and case."""
    return [*{(score.target, score.case): score for score in [*earlier, *new]}.values()]


def check_mergeable(path: Path, earlier: Sequence[Provenance], new: Sequence[Provenance]) -> None:
    """Refuse rows that have no common mean with those that a scores.csv holds.

    Folds of one recipe belong together: their weights differ, the rest does not.

    Args:
        path: the file.
        earlier: its rows.
        new: those to be measured.

    Raises:
        InputError: naming the first difference.
    """
    for row in new:
        for other in earlier:
            names = ["definitions"]
            if row.target == other.target:
                names += ["recipes", "liver_from", "tta"]
                names += ["ct"] if row.case == other.case else []
            for name in names:
                if getattr(row, name) != getattr(other, name):
                    raise InputError(
                        f"{path}: holds the {other.target} of {other.case} with {name} "
                        f"{getattr(other, name)}, but {row.case} would be measured with "
                        f"{getattr(row, name)}. These cannot be averaged; choose another folder."
                    )


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


_KINDS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "float": _number,
    "int": int,
    "bool": {"True": True, "False": False}.__getitem__,
    "float | None": lambda text: None if text == "" else _number(text),
    "int | None": lambda text: None if text == "" else int(text),
}


def _read(path: Path, kind: type[Row]) -> list[Row]:
    try:
        with path.open(newline="") as file:
            return [
                kind(**{f.name: _KINDS[str(f.type)](row[f.name]) for f in fields(kind)})
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        name = SCORES if kind is Score else LESIONS
        raise InputError(
            f"{path}: expected the {name} of this version's `Training.evaluate` ({error}). "
            "Evaluate again, into another folder."
        ) from error


def _write(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(kind)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    partial.replace(path)
