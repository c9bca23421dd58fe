"""What a tumor network finds at any threshold and smallest lesion, from its kept probabilities."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from LiverTumorSegLib.components import components_by_size
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.labels import TUMOR
from LiverTumorSegLib.recipe import LesionConfidence, Recipe, from_plain
from Training.lesion_metrics import common_voxels
from Training.probabilities import TumorProbability
from Training.scores import recipe_label

THRESHOLDS = tuple(percent / 100 for percent in range(10, 91, 5))
SMALLEST_MM3 = (0.0, 10.0, 30.0, 50.0, 100.0, 200.0, 300.0, 500.0, 1000.0)
DICE_DIGITS = 3  # means that agree to so many count as equal


@dataclass(frozen=True)
class Point:
    """From which probability a voxel is tumor, and below which volume a lesion is dropped."""

    threshold: float
    min_lesion_mm3: float


POINTS = tuple(itertools.starmap(Point, itertools.product(THRESHOLDS, SMALLEST_MM3)))


@dataclass(frozen=True)
class OperatingPoint(Point):
    """A point that was chosen, as `Training.export` takes it.

    Attributes:
        recipe: label of the tumor recipe that it was chosen for.
        confidence: of the lesions at this point.
    """

    recipe: str
    confidence: LesionConfidence | None


@dataclass(frozen=True)
class Marked:
    """The lesions that a threshold marks in a case, the largest first.

    Attributes:
        voxels: int (n,), of each.
        common: int (m, n), voxels that each true lesion shares with each.
        probability: float (n,), mean over the voxels of each.
    """

    voxels: np.ndarray
    common: np.ndarray
    probability: np.ndarray


@dataclass(frozen=True)
class CaseLesions:
    """One case, seen by weights that had not seen its patient.

    Attributes:
        name: of the case.
        patient: whom it shows.
        voxel_mm3: volume of a voxel.
        true_voxels: int (m,), of each true lesion.
        marked: by threshold.
    """

    name: str
    patient: str
    voxel_mm3: float
    true_voxels: np.ndarray
    marked: dict[float, Marked]


@dataclass(frozen=True)
class Outcome:
    """What a point gives in a case, by the definitions of `Training.evaluate`."""

    dice: float
    lesions: int
    detected: int
    predicted: int
    false_lesions: int


@dataclass(frozen=True)
class Row:
    """What a point gives in some cases; what is not defined is None.

    Attributes:
        threshold: of the point.
        min_lesion_mm3: of the point.
        dice: mean over the cases.
        recall: share of all true lesions that are detected.
        precision: share of all predicted lesions that detect one.
        false_lesions: a case, on average.
        clean: share of the cases without a tumor in which none is predicted.
    """

    threshold: float
    min_lesion_mm3: float
    dice: float
    recall: float | None
    precision: float | None
    false_lesions: float
    clean: float | None


def lesions_of_case(
    name: str, patient: str, voxel_mm3: float, reference: np.ndarray, kept: TumorProbability
) -> CaseLesions:
    """Find the lesions of a case at every threshold.

    Args:
        name: of the case.
        patient: whom it shows.
        voxel_mm3: volume of a voxel.
        reference: true labels, uint8 (z, y, x), of the whole CT.
        kept: what the network gave.
    """
    numbers, true_voxels = components_by_size(reference == TUMOR)
    true, probability = numbers[kept.box], kept.tumor.astype(np.float32)
    marked = {}
    for threshold in THRESHOLDS:
        found, voxels = components_by_size(kept.liver & (probability >= threshold))
        inside = found > 0
        sums = np.bincount(found[inside], probability[inside], minlength=len(voxels) + 1)[1:]
        common = np.zeros((len(true_voxels), len(voxels)), np.int64)
        shared = common_voxels(true, found)
        common[: len(shared)] = shared  # the last true lesions may lie outside of the box
        marked[threshold] = Marked(voxels, common, sums / np.maximum(voxels, 1))
    return CaseLesions(name, patient, voxel_mm3, true_voxels, marked)


def kept_at(case: CaseLesions, point: Point) -> Marked:
    """The lesions of a case that a point leaves."""
    marked = case.marked[point.threshold]
    count = int(np.count_nonzero(marked.voxels * case.voxel_mm3 >= point.min_lesion_mm3))
    return Marked(marked.voxels[:count], marked.common[:, :count], marked.probability[:count])


def outcome_of(case: CaseLesions, point: Point) -> Outcome:
    """What a point gives in a case."""
    left = kept_at(case, point)
    union = case.true_voxels[:, None] + left.voxels - left.common
    common = 2 * int(left.common.sum())
    voxels = int(case.true_voxels.sum()) + int(left.voxels.sum())
    return Outcome(
        dice=common / voxels if voxels else 1.0,
        lesions=len(case.true_voxels),
        detected=int((2 * left.common > union).any(axis=1).sum()),
        predicted=len(left.voxels),
        false_lesions=int((~left.common.any(axis=0)).sum()),
    )


def row_of(cases: Sequence[CaseLesions], point: Point) -> Row:
    """What a point gives in some cases, at least one."""
    outcomes = [outcome_of(case, point) for case in cases]
    lesions = sum(outcome.lesions for outcome in outcomes)
    predicted = sum(outcome.predicted for outcome in outcomes)
    detected = sum(outcome.detected for outcome in outcomes)
    healthy = [outcome for outcome in outcomes if not outcome.lesions]
    return Row(
        threshold=point.threshold,
        min_lesion_mm3=point.min_lesion_mm3,
        dice=float(np.mean([outcome.dice for outcome in outcomes])),
        recall=detected / lesions if lesions else None,
        precision=detected / predicted if predicted else None,
        false_lesions=float(np.mean([outcome.false_lesions for outcome in outcomes])),
        clean=float(np.mean([not one.predicted for one in healthy])) if healthy else None,
    )


def choose(rows: Sequence[Row]) -> Point:
    """The point with the greatest mean Dice; of equals that with the fewest false lesions.

    Dice counts as equal to three decimals. Of those that are still equal the one nearest to a
    threshold of one half is taken, then that which drops least.
    """

    def merit(row: Row) -> tuple[float, float, float, float]:
        off = round(abs(row.threshold - 0.5), DICE_DIGITS)
        return round(row.dice, DICE_DIGITS), -row.false_lesions, -off, -row.min_lesion_mm3

    best = max(rows, key=merit)
    return Point(best.threshold, best.min_lesion_mm3)


def at_point(recipe: Recipe, point: Point, confidence: LesionConfidence | None = None) -> Recipe:
    """The recipe with these numbers in the place of its own."""
    inference = replace(
        recipe.inference,
        threshold=point.threshold,
        min_lesion_mm3=point.min_lesion_mm3,
        confidence=confidence,
    )
    return replace(recipe, inference=inference)


def read_operating_point(path: Path) -> OperatingPoint:
    """Read what `Training.operating_point` wrote.

    Raises:
        InputError: it is missing or of another kind.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        names = [field.name for field in fields(OperatingPoint)]
        known = {name: plain[name] for name in names}
        return from_plain(OperatingPoint, known, "operating point")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected operating_point.json of `Training.operating_point` ({error})."
        ) from error


def chosen_for(recipe: Recipe, point: OperatingPoint, path: Path) -> Recipe:
    """The recipe with the point that was chosen for it.

    Raises:
        InputError: it was chosen for another recipe.
    """
    if point.recipe != recipe_label(recipe):
        raise InputError(
            f"{path}: expected an operating point for {recipe_label(recipe)}, found one for "
            f"{point.recipe}. Cross-validate the recipe that the run was trained by."
        )
    return at_point(recipe, point, point.confidence)
