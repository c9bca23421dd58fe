"""Rows of scores for tests, of which only some fields matter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from Training.scores import Score

PERFECT = Score(
    case="case0",
    ct="0123456789ab",
    data="prepared",
    target="tumor",
    liver_from="prediction",
    seen=False,
    dice=1.0,
    predicted_ml=0.08,
    reference_ml=0.08,
    lesions=1,
    lesions_touched=1,
    false_lesions=0,
    seconds=0.1,
    definitions="product",
    tta=False,
    recipes="starter-tumor@0123456789ab",
    weights="tumor@0123456789ab",
    iou=1.0,
    voe=0.0,
    rvd=0.0,
    precision=1.0,
    recall=1.0,
    accuracy=1.0,
    assd_mm=0.0,
    rmsd_mm=0.0,
    hd_mm=0.0,
    hd95_mm=0.0,
    surface_dice=1.0,
    predicted_voxels=8,
    reference_voxels=8,
    common_voxels=8,
    predicted_lesions=1,
    lesions_detected=1,
    lesion_precision=1.0,
    lesion_recall=1.0,
    predicted_burden=0.1,
    reference_burden=0.1,
    burden_error=0.0,
)


def score_of(case: str, target: str, dice: float, **changes: Any) -> Score:
    """A score of one case; what is not given is that of a perfect prediction."""
    return replace(PERFECT, case=case, target=target, dice=dice, **changes)
