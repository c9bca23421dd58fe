"""The scores of the LiTS challenge, as its official scorer computes them.

The scorer is https://github.com/PatrickChrist/lits-challenge-scoring. Its conventions differ from
the product's and are kept here, also where they look like mistakes, so that the numbers are equal:

- Lesions are connected by faces (6 neighbors) and numbered in the order of the file, x slowest.
- Lesions of the reference that one predicted lesion bridges are merged, and so are predicted
  lesions on one lesion of the reference. However many were merged, a pair that is detected counts
  once; a pair that is not takes away one for each lesion merged into it, so that the number of
  lesions detected can be negative.
- A pair is detected if its common voxels are more than half of a union. The scorer counts as union
  the true lesion and those predicted lesions that belong to the true lesion whose number is the
  first predicted one's. Where the two happen to be numbered alike this is the pair's union;
  elsewhere it is another, often too small, and more lesions are detected than by the definition.
- Dice, VOE, RVD and surface distances of lesions are means over detected lesions alone, of all
  cases together. A case whose number of detected lesions is not above 0 adds none.
- A liver is predicted only where label 1 is: of tumor alone the liver's Dice is 0, and the burden
  9001. So are RVD and distances to an empty mask, while VOE is 1.
- RVD is (reference - predicted) / predicted. The burden's error is reference - predicted, and its
  maximum is signed.

Where the scorer ends in an error we answer. Of a reference without lesions none is detected, and
all predicted ones are false. Without a true liver there is no burden, and the case is left out of
its error. Global Dice of empty masks is undefined. The scorer numbers lesions in 8 bits and mixes
them up from the 256th on; we do not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from scipy import ndimage

from LiverTumorSegLib.components import bounding_box
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.labels import LIVER, masks_of
from Training.lesion_metrics import (
    NOT_COMPARED,
    common_voxels,
    compare_pair,
    size_of,
    union_box,
)
from Training.metrics import Overlap, overlap
from Training.product import burden
from Training.scores import LesionScore, Provenance, Score

UNDEFINED = 9001.0
_DISTANCES = ("assd_mm", "rmsd_mm", "hd_mm")


@dataclass(frozen=True)
class Detection:
    """What the scorer's matching finds in one case.

    Attributes:
        count: lesions detected, as it counts; may be negative.
        merged: by the number of each true lesion left by merging, those that it is made of.
        found: of those of them that are detected, the numbers of the predicted lesions.
    """

    count: int
    merged: dict[int, list[int]]
    found: dict[int, list[int]]


def score_labels(
    origin: Provenance, predicted: np.ndarray, reference: np.ndarray, geometry: Geometry
) -> tuple[Score, list[LesionScore]]:
    """Score one target, as Training/product.py does, by the scorer's definitions.

    Of a tumor, iou, voe, rvd and distances are means over the lesions of the case that the scorer
    measures, empty if there are none; lesions_touched and lesions_detected are its counts for an
    overlap above 0 and above one half, and false_lesions what the former leave of those predicted.
    What the scorer does not compute is empty.

    Args:
        origin: names the case and the target.
        predicted: uint8 (z, y, x), 0 background, 1 liver, 2 tumor. Where tumors were searched in
            the true liver, this is its liver.
        reference: the true labels, of the same shape.
        geometry: their grid.

    Returns:
        The scores, and a row for each true lesion left by merging, none for a liver. Lesions that
        the scorer does not measure have no measures.
    """
    if origin.target == "liver":
        return score_liver(origin, predicted, reference, geometry), []
    return score_tumor(origin, predicted, reference, geometry)


def score_liver(
    origin: Provenance, predicted: np.ndarray, reference: np.ndarray, geometry: Geometry
) -> Score:
    """Score the liver, which is not predicted unless label 1 is."""
    mask, true = masks_of(predicted)["liver"], masks_of(reference)["liver"]
    voxels = counted = overlap(mask, true)
    if not (predicted == LIVER).any():
        counted = replace(voxels, predicted=0, common=0)
    if counted.predicted and counted.reference:
        measures = compare(mask, true, geometry)
    else:
        measures = {"dice": 0.0, "iou": 0.0, **dict.fromkeys(("rvd", *_DISTANCES), UNDEFINED)}
    return _score(origin, geometry, voxels, counted, measures)


def score_tumor(
    origin: Provenance, predicted: np.ndarray, reference: np.ndarray, geometry: Geometry
) -> tuple[Score, list[LesionScore]]:
    """Score the tumors and their lesions."""
    mask, true = masks_of(predicted)["tumor"], masks_of(reference)["tumor"]
    box = bounding_box(mask | true) or (slice(1),) * 3  # any box shows that there are no tumors
    numbers, true_numbers = lesion_numbers(mask[box]), lesion_numbers(true[box])
    count, true_count = int(numbers.max()), int(true_numbers.max())
    touched = detect(numbers, true_numbers, least=0.0).count
    detection = detect(numbers, true_numbers, least=0.5)
    rows = lesion_rows(origin.case, detection, numbers, true_numbers, geometry)
    measured = [row for row in rows if row.dice is not None]
    means = {
        name: float(np.mean([getattr(row, name) for row in measured])) if measured else None
        for name in ("iou", "rvd", *_DISTANCES)
    }
    theirs = burden(reference)
    ours = burden(predicted) if (predicted == LIVER).any() else UNDEFINED
    lesions = {
        "lesions": true_count,
        "lesions_touched": touched,
        "lesions_detected": detection.count,
        "predicted_lesions": count,
        "false_lesions": count - touched,
        "lesion_precision": detection.count / count if count else 0.0,
        "lesion_recall": detection.count / true_count if true_count else 0.0,
        "predicted_burden": ours,
        "reference_burden": theirs,
        "burden_error": None if theirs is None else theirs - ours,
    }
    voxels = overlap(mask, true)
    return _score(origin, geometry, voxels, voxels, {"dice": voxels.dice, **means, **lesions}), rows


def compare(predicted: np.ndarray, true: np.ndarray, geometry: Geometry) -> dict[str, float | None]:
    """`compare_pair` with the scorer's RVD; neither mask is empty."""
    counted = overlap(predicted, true)
    rvd = (counted.reference - counted.predicted) / counted.predicted
    return {**compare_pair(predicted, true, geometry.spacing_mm), "rvd": rvd}


def lesion_numbers(mask: np.ndarray) -> np.ndarray:
    """Number the lesions of a bool (z, y, x) mask as the scorer does; int, 0 outside."""
    return ndimage.label(mask.T)[0].T


def detect(numbers: np.ndarray, true_numbers: np.ndarray, least: float) -> Detection:
    """Match predicted and true lesions.

    Args:
        numbers: int (z, y, x) of the predicted lesions, 0 outside.
        true_numbers: the same of the reference.
        least: a pair is detected if its overlap is greater.

    Returns:
        The matching; of a reference without lesions none is detected.
    """
    table = common_voxels(numbers, true_numbers)
    voxels, true_voxels = np.bincount(numbers.ravel())[1:], np.bincount(true_numbers.ravel())[1:]
    merged, weights, common = merge_bridged(table)
    found, shared = assign(common, [*merged])
    count = len(found)
    for number in sorted(found, key=lambda true: found[true][0]):
        # The scorer looks up the first predicted lesion's number among those of the true lesions.
        others = np.array(found.get(found[number][0], []), dtype=int) - 1
        own = np.array(merged[number]) - 1
        both = table[np.ix_(others, own)].sum()
        union = true_voxels[own].sum() + voxels[others].sum() - both
        if shared[number] / union <= least:
            del found[number]
            count -= weights[number]
    return Detection(count, merged, found)


def merge_bridged(table: np.ndarray) -> tuple[dict[int, list[int]], dict[int, int], np.ndarray]:
    """Merge the true lesions that a predicted one bridges, one predicted lesion after the other.

    Only those are merged of which no other predicted lesion shares more.

    Args:
        table: int (predicted, true), the voxels that each two share.

    Returns:
        By the number of each true lesion left, those merged into it; likewise, how many the last
        merging joined; and the table with merged columns.
    """
    groups = [[number] for number in range(1, table.shape[1] + 1)]
    weights, common = [1] * len(groups), table.copy()
    for i in range(len(table)):
        bridged = [j for j in np.flatnonzero(common[i]) if common[:, j].argmax() == i]
        if not bridged:
            continue
        first, rest = bridged[0], bridged[1:]
        weights[first] = len(bridged)
        groups[first] = [number for j in bridged for number in groups[j]]
        common[:, first] = common[:, bridged].sum(axis=1)
        common = np.delete(common, rest, axis=1)
        groups = [group for j, group in enumerate(groups) if j not in rest]
        weights = [weight for j, weight in enumerate(weights) if j not in rest]
    names = [group[0] for group in groups]
    return dict(zip(names, groups, strict=True)), dict(zip(names, weights, strict=True)), common


def assign(common: np.ndarray, names: list[int]) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Give each predicted lesion to the true one with which it shares most, the first of equals.

    Args:
        common: int (predicted, true), the voxels that each two share.
        names: the numbers of the true lesions.

    Returns:
        By the number of each true lesion that gets any: the numbers of those predicted, and the
        voxels that they share with it.
    """
    found: dict[int, list[int]] = {}
    shared: dict[int, int] = {}
    for i in np.flatnonzero(common.any(axis=1)):
        best = int(common[i].argmax())
        found.setdefault(names[best], []).append(int(i) + 1)
        shared[names[best]] = shared.get(names[best], 0) + int(common[i, best])
    return found, shared


def lesion_rows(
    case: str,
    detection: Detection,
    numbers: np.ndarray,
    true_numbers: np.ndarray,
    geometry: Geometry,
) -> list[LesionScore]:
    """A row for each true lesion left by merging, with measures if the scorer measures it."""
    groups, found = regrouped(true_numbers, detection.merged), regrouped(numbers, detection.found)
    boxes, found_boxes = ndimage.find_objects(groups), ndimage.find_objects(found)
    rows = []
    for number in detection.merged:
        detected = number in detection.found
        box = union_box(boxes[number - 1], found_boxes[number - 1] if detected else None)
        true, predicted = groups[box] == number, found[box] == number
        size = size_of(predicted, geometry) if detected else None
        measured = detected and detection.count > 0
        pair = compare(predicted, true, geometry) if measured else NOT_COMPARED
        row = LesionScore(
            case=case,
            mask="reference",
            lesion=number,
            **asdict(size_of(true, geometry)),
            touched=bool(numbers[box][true].any()),
            detected=detected,
            match=None,
            match_volume_ml=size.volume_ml if size else None,
            match_long_axis_mm=size.long_axis_mm if size else None,
            **pair,
        )
        rows.append(row)
    return rows


def regrouped(numbers: np.ndarray, groups: dict[int, list[int]]) -> np.ndarray:
    """The numbered array with the group's number in place of its members', 0 elsewhere."""
    group_of = np.zeros(int(numbers.max()) + 1, dtype=np.int32)
    for group, members in groups.items():
        group_of[members] = group
    return group_of[numbers]


def _score(
    origin: Provenance,
    geometry: Geometry,
    voxels: Overlap,
    counted: Overlap,
    measures: dict[str, Any],
) -> Score:
    """A score of the scorer's measures, the rest empty; `counted` are the voxels that it counts."""
    empty = {f.name: 0 if f.type == "int" else None for f in fields(Score)}
    iou = measures["iou"]
    known = {
        "voe": None if iou is None else 1.0 - iou,
        "predicted_ml": voxels.predicted * geometry.voxel_ml,
        "reference_ml": voxels.reference * geometry.voxel_ml,
        "predicted_voxels": counted.predicted,
        "reference_voxels": counted.reference,
        "common_voxels": counted.common,
    }
    return Score(**{**empty, **asdict(origin), **measures, **known})


def totals(scores: list[Score], lesions: list[LesionScore]) -> dict[str, float | None]:
    """The scorer's results over all cases, by the names in its scores.txt.

    Args:
        scores: rows by these definitions, of one target or of both.
        lesions: their lesions.

    Returns:
        What the targets give; None for a value that is not defined and ends the scorer.
    """
    results: dict[str, float | None] = {}
    tumors = [score for score in scores if score.target == "tumor"]
    livers = [score for score in scores if score.target == "liver"]
    if tumors:
        true, predicted = (sum(getattr(s, f) for s in tumors) for f in _LESION_COUNTS)
        for ending, name in (("", "lesions_detected"), ("_greater_zero", "lesions_touched")):
            count = sum(getattr(score, name) for score in tumors)
            results[f"lesion_precision{ending}"] = count / predicted if predicted else 0.0
            results[f"lesion_recall{ending}"] = count / true if true else 0.0
        measured = [row for row in lesions if row.dice is not None]
        results |= _means("lesion", measured) | _dice("lesion", tumors)
    if livers:
        results |= _means("liver", livers) | _dice("liver", livers)
    errors = [score.burden_error for score in tumors if score.burden_error is not None]
    if errors:
        results["RMSE_Tumorburden"] = float(np.sqrt(np.mean(np.square(errors))))
        results["MAXERROR_Tumorburden"] = max(errors)
    return results


_LESION_COUNTS = ("lesions", "predicted_lesions")
_NAMES = {"dice": "dice", "jaccard": "iou", "rvd": "rvd"} | {
    "assd": "assd_mm",
    "rmsd": "rmsd_mm",
    "msd": "hd_mm",
}


def _means(target: str, rows: list[Any]) -> dict[str, float | None]:
    """Means over lesions or livers; of none, what the scorer says then."""
    means = {
        name: float(np.mean([getattr(row, field) for row in rows])) if rows else UNDEFINED
        for name, field in _NAMES.items()
    }
    if not rows:
        means |= {"dice": 0.0, "jaccard": 0.0}
    means["voe"] = 1.0 - means["jaccard"]
    return {f"{target}_{name}": value for name, value in means.items()}


def _dice(target: str, scores: list[Score]) -> dict[str, float | None]:
    common = sum(score.common_voxels for score in scores)
    total = sum(score.predicted_voxels + score.reference_voxels for score in scores)
    return {
        f"{target}_dice_per_case": float(np.mean([score.dice for score in scores])),
        f"{target}_dice_global": 2.0 * common / total if total else None,
    }
