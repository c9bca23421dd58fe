"""The choice of an operating point: on all patients, and for each patient on the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from LiverTumorSegLib.measure import confidence_of
from LiverTumorSegLib.recipe import LesionConfidence
from Training.calibration import MarkedLesion, brier, fit
from Training.thresholds import POINTS, CaseLesions, Point, Row, choose, kept_at, row_of

CRITERION = "greatest mean Dice a case; of equals, to three decimals, the fewest false lesions"


@dataclass(frozen=True)
class Nested:
    """What was chosen without a patient.

    Attributes:
        point: chosen on the other patients.
        confidence: fitted on their lesions at that point.
        others_real: share of these lesions that is real; None if there are none.
    """

    point: Point
    confidence: LesionConfidence
    others_real: float | None


@dataclass(frozen=True)
class Choice:
    """All that follows from the held-out probabilities.

    Attributes:
        rows: of each point, over all cases.
        point: chosen on all of them.
        confidence: fitted on all lesions at that point; None without a lesion.
        nested: by patient.
        lesions: that each patient's nested point marks.
        confidences: of these, nested.
        brier: of these; None without a lesion, as the next.
        brier_of_share: if every lesion's confidence were the share of the other patients' lesions
            that is real.
    """

    rows: tuple[Row, ...]
    point: Point
    confidence: LesionConfidence | None
    nested: dict[str, Nested]
    lesions: tuple[MarkedLesion, ...]
    confidences: tuple[float, ...]
    brier: float | None
    brier_of_share: float | None


def chosen(cases: Sequence[CaseLesions]) -> Choice:
    """Choose on all cases, and for each patient on the others.

    Args:
        cases: of two patients or more.
    """
    rows = tuple(row_of(cases, point) for point in POINTS)
    point = choose(rows)
    all_lesions = marked_lesions(cases, point)
    nested, lesions, confidences, shares = {}, [], [], []
    for patient in dict.fromkeys(case.patient for case in cases):
        others = [case for case in cases if case.patient != patient]
        made = without(others)
        nested[patient] = made
        for lesion in marked_lesions([c for c in cases if c.patient == patient], made.point):
            known = confidence_of(made.confidence, lesion.probability, lesion.volume_mm3)
            assert known is not None
            lesions.append(lesion)
            confidences.append(known)
            shares.append(0.5 if made.others_real is None else made.others_real)
    real = [lesion.real for lesion in lesions]
    return Choice(
        rows=rows,
        point=point,
        confidence=fit(all_lesions) if all_lesions else None,
        nested=nested,
        lesions=tuple(lesions),
        confidences=tuple(confidences),
        brier=brier(confidences, real) if lesions else None,
        brier_of_share=brier(shares, real) if lesions else None,
    )


def without(others: Sequence[CaseLesions]) -> Nested:
    """What is chosen on the other patients' cases."""
    point = choose([row_of(others, point) for point in POINTS])
    lesions = marked_lesions(others, point)
    real = float(np.mean([lesion.real for lesion in lesions])) if lesions else None
    return Nested(point, fit(lesions), real)


def marked_lesions(cases: Sequence[CaseLesions], point: Point) -> list[MarkedLesion]:
    """The lesions that a point leaves in some cases."""
    lesions = []
    for case in cases:
        left = kept_at(case, point)
        real = left.common.any(axis=0)
        for voxels, probability, touches in zip(left.voxels, left.probability, real, strict=True):
            volume_mm3 = float(voxels) * case.voxel_mm3
            lesions.append(MarkedLesion(case.name, float(probability), volume_mm3, bool(touches)))
    return lesions
