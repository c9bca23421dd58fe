"""What scores of the same cases say side by side: means, paired tests, lesions by size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from LiverTumorSegLib.recipes import RECIPES, REPORTED
from Training.compared_runs import Group, Run
from Training.scores import Score
from Training.summary import SIZE_EDGES_MM

FEWEST_CASES = 6  # of fewer pairs, Wilcoxon's two-sided p cannot be below 0.05
DIGITS = 12
LIMITS_SD = 1.96  # of a normal distribution, 95 % lie so near its mean

# Measures of a score: how a table calls each, how the papers' figures do, and its digits.
MEASURES = {
    "dice": ("Dice", "Dice", 3),
    "iou": ("IoU", "IoU", 3),
    "voe": ("VOE", "VOE", 3),
    "rvd": ("RVD", "RVD", 3),
    "precision": ("precision", "precision", 3),
    "recall": ("recall", "recall", 3),
    "accuracy": ("voxel accuracy", "voxel accuracy", 4),
    "assd_mm": ("ASSD mm", "ASD mm", 2),
    "hd95_mm": ("HD95 mm", "HD95 mm", 1),
    "surface_dice": ("surface Dice", "surface Dice", 3),
    "lesion_precision": ("lesion precision", "lesion precision", 3),
    "lesion_recall": ("lesion recall", "lesion recall", 3),
    "false_lesions": ("false lesions", "false lesions", 1),
    "burden_error": ("burden error", "burden error", 3),
}


@dataclass(frozen=True)
class Summary:
    """One measure of one run over the cases; of a case where it is undefined it counts as absent.

    Attributes:
        target: as in `Group`.
        liver_from: as in `Group`.
        run: its name.
        recipe: name@digest of that of the target's weights.
        measure: name of a field of `Score`.
        n: cases on which it is defined.
        mean: over them; None if there are none, as the next two.
        sd: standard deviation over them, divided by n.
        median: over them.
        reported: what the paper prints for that recipe, on its data and by its definition.
        reported_data: on which data.
    """

    target: str
    liver_from: str
    run: str
    recipe: str
    measure: str
    n: int
    mean: float | None
    sd: float | None
    median: float | None
    reported: float | None
    reported_data: str | None


@dataclass(frozen=True)
class Comparison:
    """Two runs' Dice, case by case.

    Attributes:
        target: as in `Group`.
        liver_from: as in `Group`.
        first: a run's name.
        second: another's.
        n: cases.
        mean_difference: of Dice, first - second.
        t_p: two-sided p of the paired t-test; None where it is undefined, as all p.
        t_p_holm: the same after Holm's correction for all pairs of runs of this target.
        t_reason: why it is undefined; empty if it is not.
        wilcoxon_p: two-sided p of Wilcoxon's signed-rank test, without differences of zero.
        wilcoxon_p_holm: the same after Holm's correction.
        wilcoxon_reason: why it is undefined; empty if it is not.
    """

    target: str
    liver_from: str
    first: str
    second: str
    n: int
    mean_difference: float
    t_p: float | None
    t_p_holm: float | None
    t_reason: str
    wilcoxon_p: float | None
    wilcoxon_p_holm: float | None
    wilcoxon_reason: str


@dataclass(frozen=True)
class SizeRow:
    """How many of the reference's lesions of one size a run found.

    Attributes:
        liver_from: as in `Group`.
        run: its name.
        size: the group's range of longest axial diameters.
        lesions: of the reference.
        detected: overlapped by more than half (IoU).
        touched: overlapped anywhere.
        mean_dice: over them, of each and its match, 0 without one; None if there are none.
    """

    liver_from: str
    run: str
    size: str
    lesions: int
    detected: int
    touched: int
    mean_dice: float | None


# Means


def summarize(group: Group) -> list[Summary]:
    """Each measure of each run that any run has."""
    found = []
    for name, rows in group.rows.items():
        recipe = rows[0].recipes.split()[-1]  # the same in all rows; a tumor's is the last
        for measure, (_, figure, _) in MEASURES.items():
            values = [value for row in rows if (value := value_of(row, measure)) is not None]
            reported, data = reported_figure(recipe.partition("@")[0], group.target, figure)
            found.append(
                Summary(
                    target=group.target,
                    liver_from=group.liver_from,
                    run=name,
                    recipe=recipe,
                    measure=measure,
                    n=len(values),
                    mean=float(np.mean(values)) if values else None,
                    sd=float(np.std(values)) if values else None,
                    median=float(np.median(values)) if values else None,
                    reported=reported,
                    reported_data=data,
                )
            )
    measured = {row.measure for row in found if row.n}
    return [row for row in found if row.measure in measured]


def value_of(row: Score, measure: str) -> float | None:
    """A measure of a score; a liver has no lesions that could be false."""
    if measure == "false_lesions" and row.target == "liver":
        return None
    return getattr(row, measure)


def reported_figure(recipe: str, target: str, figure: str) -> tuple[float | None, str | None]:
    """What the paper of a recipe prints of a target, and on which data; None if it does not.

    Args:
        recipe: its name.
        target: "liver" or "tumor"; a figure that names no target is of the recipe's only one.
        figure: as in REPORTED, without the target.
    """
    if recipe not in REPORTED:
        return None, None
    figures = REPORTED[recipe].figures
    own = figures.get(figure) if RECIPES[recipe].target == target else None
    value = figures.get(f"{target} {figure}", own)
    return value, None if value is None else REPORTED[recipe].data


def agreement(rows: Sequence[Score]) -> tuple[float, float | None, float | None]:
    """Bias of the volumes and 95 % limits of agreement (Bland and Altman, Lancet 1986, 307-310).

    Args:
        rows: one or more.

    Returns:
        Mean of predicted - reference in mL, and that minus and plus 1.96 standard deviations;
        None for one case.
    """
    differences = np.array([row.predicted_ml - row.reference_ml for row in rows])
    bias = float(differences.mean())
    if len(differences) < 2:
        return bias, None, None
    spread = LIMITS_SD * float(differences.std(ddof=1))
    return bias, bias - spread, bias + spread


# Paired tests


def compare_pairs(group: Group) -> list[Comparison]:
    """Every two runs' Dice, with p corrected for the number of pairs."""
    found = []
    for first, second in itertools.combinations(group.rows, 2):
        pairs = zip(group.rows[first], group.rows[second], strict=True)
        # Rounded, so that what is equal in decimals is a tie.
        differences = np.round([one.dice - two.dice for one, two in pairs], DIGITS)
        t_p, t_reason = t_test(differences)
        wilcoxon_p, wilcoxon_reason = wilcoxon_test(differences)
        found.append(
            Comparison(
                target=group.target,
                liver_from=group.liver_from,
                first=first,
                second=second,
                n=len(differences),
                mean_difference=float(differences.mean()),
                t_p=t_p,
                t_p_holm=None,
                t_reason=t_reason,
                wilcoxon_p=wilcoxon_p,
                wilcoxon_p_holm=None,
                wilcoxon_reason=wilcoxon_reason,
            )
        )
    t_holm, wilcoxon_holm = holm([c.t_p for c in found]), holm([c.wilcoxon_p for c in found])
    return [
        replace(comparison, t_p_holm=t, wilcoxon_p_holm=w)
        for comparison, t, w in zip(found, t_holm, wilcoxon_holm, strict=True)
    ]


def t_test(differences: np.ndarray) -> tuple[float | None, str]:
    """Two-sided p of the paired t-test, or None and why there is none.

    Args:
        differences: (n,), one a pair.
    """
    if len(differences) < FEWEST_CASES:
        return None, f"n < {FEWEST_CASES}"
    if not differences.any():
        return None, "all differences are zero"
    if np.ptp(differences) == 0:
        return None, "all differences are equal"
    return float(stats.ttest_1samp(differences, 0.0).pvalue), ""


def wilcoxon_test(differences: np.ndarray) -> tuple[float | None, str]:
    """Two-sided p of Wilcoxon's signed-rank test, or None and why there is none.

    Differences of zero are dropped, as Wilcoxon did.

    Args:
        differences: (n,), one a pair.
    """
    if len(differences) < FEWEST_CASES:
        return None, f"n < {FEWEST_CASES}"
    others = differences[differences != 0]
    if not len(others):
        return None, "all differences are zero"
    if len(others) < FEWEST_CASES:
        return None, f"fewer than {FEWEST_CASES} differences are not zero"
    return float(stats.wilcoxon(others).pvalue), ""


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Scand. J. Statist. 6, 1979) for the tests that are defined.

    >>> holm([0.04, 0.01, None])
    [0.04, 0.02, None]
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[place] = largest
    return corrected


# Lesions


def by_size(group: Group, runs: Sequence[Run]) -> list[SizeRow]:
    """The reference's lesions of each size, and how many of them each run found.

    Args:
        group: of the tumor.
        runs: those without rows of lesions are left out.
    """
    found = []
    for run in runs:
        lesions = [
            lesion
            for lesion in run.lesions or ()
            if lesion.mask == "reference" and lesion.case in group.cases
        ]
        for low, high in itertools.pairwise((0.0, *SIZE_EDGES_MM, math.inf)) if lesions else ():
            rows = [lesion for lesion in lesions if low <= lesion.long_axis_mm < high]
            dices = [lesion.dice or 0.0 for lesion in rows]
            found.append(
                SizeRow(
                    liver_from=group.liver_from,
                    run=run.name,
                    size=f"{low:g} mm or more" if math.isinf(high) else f"{low:g} to {high:g} mm",
                    lesions=len(rows),
                    detected=sum(lesion.detected for lesion in rows),
                    touched=sum(lesion.touched for lesion in rows),
                    mean_dice=float(np.mean(dices)) if dices else None,
                )
            )
    return found
