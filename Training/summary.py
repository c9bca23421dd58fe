"""What all rows of an evaluation say together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from LiverTumorSegLib import __version__
from Training import lits
from Training.metrics import SURFACE_TOLERANCE_MM
from Training.scores import LesionScore, Score

SIZE_EDGES_MM = (10.0, 20.0, 50.0)
DICE_SPLIT = 0.6
MEASURES = (
    "dice",
    "iou",
    "voe",
    "rvd",
    "precision",
    "recall",
    "accuracy",
    "assd_mm",
    "rmsd_mm",
    "hd_mm",
    "hd95_mm",
    "surface_dice",
    "lesion_precision",
    "lesion_recall",
    "predicted_ml",
    "reference_ml",
    "seconds",
)
COUNTS = (
    "lesions",
    "lesions_touched",
    "lesions_detected",
    "predicted_lesions",
    "false_lesions",
)

DEFINITIONS = {
    "product": {
        "masks": "on the CT's own grid, the liver with its tumors",
        "mean, SD": "over the cases in which a measure is defined, n; the SD is divided by n",
        "Dice": "1 if both masks are empty; global Dice of the voxels of all cases together",
        "IoU, VOE": "intersection over union; VOE = 1 - IoU",
        "RVD": "(predicted - reference) / reference; not defined without a reference",
        "precision, recall": "shares of voxels; not defined if there are none",
        "accuracy": "share of all voxels of the CT",
        "surface": (
            "voxels of the mask with one outside among their 18 neighbors; distances between "
            "voxel centers, of both masks together; not defined if a mask is empty"
        ),
        "ASSD, RMSD, HD, HD95": "their mean, root mean square, greatest and 95th percentile",
        "surface Dice": (
            f"share within {SURFACE_TOLERANCE_MM:g} mm; 0 if one mask is empty, 1 if both are"
        ),
        "lesions": "connected components, 26 neighbors",
        "detected": "a predicted lesion and a true one with IoU > 0.5",
        "touched": "a true lesion of which a voxel is predicted",
        "false": "a predicted lesion of which no voxel is true",
        "lesion precision": "detected / predicted lesions",
        "lesion recall": "detected / true lesions",
        "lesion Dice": "of true lesions and their best matches, 0 for a lesion not touched",
        "burden": "tumor volume / volume of the liver with its tumors; error = predicted - true",
        "size": "longest axial diameter, between voxel centers; for precision the predicted one's",
        "major axis": "4 times the root of the largest eigenvalue of the voxels' covariance, in mm",
    },
    "lits": {
        "all": (
            "as the official scorer of the LiTS challenge computes them; Training/lits.py lists "
            "its conventions"
        ),
        "lesions": "connected components, 6 neighbors, merged where a lesion of the other bridges",
        "lesion measures": "of detected lesions alone",
        "RVD": "(reference - predicted) / predicted",
        "burden error": "true - predicted; the maximum is signed",
        "not defined": "9001, and 1 for VOE",
    },
}


def summarize(scores: list[Score], lesions: list[LesionScore]) -> dict[str, Any]:
    """All rows together, as JSON values.

    Args:
        scores: at least one, all by the same definitions.
        lesions: their lesions.

    Returns:
        What was measured and how, and a part for each target. null stands for a value that is not
        defined.
    """
    definitions = scores[0].definitions
    targets = {
        target: target_summary([score for score in scores if score.target == target])
        for target in sorted({score.target for score in scores})
    }
    if definitions == "product" and "tumor" in targets:
        targets["tumor"] |= {
            "by_size": by_size(lesions),
            "by_dice": by_dice([s for s in scores if s.target == "tumor"], lesions),
        }
    return {
        "version": __version__,
        "definitions": definitions,
        "definition_of": DEFINITIONS[definitions],
        "data": sorted({score.data for score in scores}),
        "targets": targets,
        **({"lits": lits.totals(scores, lesions)} if definitions == "lits" else {}),
    }


def target_summary(scores: list[Score]) -> dict[str, Any]:
    """The rows of one target."""
    common = sum(score.common_voxels for score in scores)
    voxels = sum(score.predicted_voxels + score.reference_voxels for score in scores)
    summary: dict[str, Any] = {
        "cases": len(scores),
        "cases_seen_in_training": sorted(score.case for score in scores if score.seen),
        "liver_from": scores[0].liver_from,
        "tta": scores[0].tta,
        "recipes": scores[0].recipes.split(),
        "weights": sorted({name for score in scores for name in score.weights.split()}),
        "measures": {name: spread(getattr(s, name) for s in scores) for name in MEASURES},
        "dice_global": 2.0 * common / voxels if voxels else None,
    }
    if scores[0].target == "tumor":
        with_tumor = [score for score in scores if score.reference_voxels]
        counts = {name: sum(getattr(score, name) for score in scores) for name in COUNTS}
        errors = [score.burden_error for score in scores if score.burden_error is not None]
        summary |= {
            "dice_of_cases_with_tumor": spread(score.dice for score in with_tumor),
            **counts,
            "pooled_lesion_precision": ratio(
                counts["lesions_detected"], counts["predicted_lesions"]
            ),
            "pooled_lesion_recall": ratio(counts["lesions_detected"], counts["lesions"]),
            "burden_rmse": math.sqrt(np.mean(np.square(errors))) if errors else None,
            "burden_max_error": max(map(abs, errors), default=None),
        }
    return summary


def spread(values: Iterable[float | None]) -> dict[str, float | int | None]:
    """Number, mean, SD and median of the values that are defined.

    >>> spread([1.0, None, 3.0])
    {'n': 2, 'mean': 2.0, 'sd': 1.0, 'median': 2.0}
    """
    known = [value for value in values if value is not None]
    statistics: dict[str, Callable[[list[float]], Any]] = {
        "mean": np.mean,
        "sd": np.std,
        "median": np.median,
    }
    return {
        "n": len(known),
        **{name: float(of(known)) if known else None for name, of in statistics.items()},
    }


def ratio(part: float, whole: float) -> float | None:
    """Their quotient; None if the whole is 0."""
    return part / whole if whole else None


def by_size(lesions: list[LesionScore]) -> list[dict[str, Any]]:
    """Detection in groups of the longest axial diameter, from small to large.

    A true lesion counts in the group of its own size for recall, and a predicted one in that of its
    own for precision. The lesion-wise Dice is the mean over true lesions, 0 where none touches.
    """
    true = [row for row in lesions if row.mask == "reference"]
    predicted = [
        (row.match_long_axis_mm if row.mask == "reference" else row.long_axis_mm, row.detected)
        for row in lesions
        if row.detected or row.mask == "prediction"
    ]
    edges = [0.0, *SIZE_EDGES_MM, math.inf]
    groups = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        own = [row for row in true if low <= row.long_axis_mm < high]
        made = [found for size, found in predicted if low <= size < high]
        found = sum(row.detected for row in own)
        groups.append(
            {
                "from_mm": low,
                "below_mm": None if math.isinf(high) else high,
                "lesions": len(own),
                "touched": sum(row.touched for row in own),
                "detected": found,
                "recall": ratio(found, len(own)),
                "predicted_lesions": len(made),
                "precision": ratio(sum(made), len(made)),
                "lesion_dice": ratio(sum(row.dice or 0.0 for row in own), len(own)),
            }
        )
    return groups


def by_dice(scores: list[Score], lesions: list[LesionScore]) -> list[dict[str, Any]]:
    """The groups of Table 3 of the paper of ELANRes-MSCA-UNet.

    Cases with tumors are split by their tumor Dice, and the major axes of all true lesions of a
    group averaged. The paper does not say whether it measured true or predicted lesions; true ones
    are there even where nothing was found.
    """
    dices = {score.case: score.dice for score in scores if score.lesions}
    groups = []
    for name, inside in (("high", lambda d: d >= DICE_SPLIT), ("low", lambda d: d < DICE_SPLIT)):
        cases = {case for case, dice in dices.items() if inside(dice)}
        axes = [r.major_axis_mm for r in lesions if r.case in cases and r.mask == "reference"]
        groups.append(
            {
                "group": name,
                "cases": len(cases),
                "lesions": len(axes),
                "mean_major_axis_mm": ratio(sum(axes), len(axes)),
            }
        )
    return groups
