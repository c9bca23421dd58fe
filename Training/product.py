"""The product's scores of a case: every measure of both masks, and their lesions."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.labels import masks_of
from Training.lesion_metrics import compare_lesions
from Training.metrics import overlap, surface_distances
from Training.scores import LesionScore, Provenance, Score


def score_labels(
    origin: Provenance, predicted: np.ndarray, reference: np.ndarray, geometry: Geometry
) -> tuple[Score, list[LesionScore]]:
    """Score one target.

    Args:
        origin: names the case and the target.
        predicted: uint8 (z, y, x), 0 background, 1 liver, 2 tumor. Where tumors were searched in
            the true liver, this is its liver.
        reference: the true labels, of the same shape.
        geometry: their grid.

    Returns:
        The scores, and the rows of the lesions, none for a liver.
    """
    mask, true = masks_of(predicted)[origin.target], masks_of(reference)[origin.target]
    lesions, ours, theirs = [], None, None
    if origin.target == "tumor":
        lesions = compare_lesions(origin.case, mask, true, geometry)
        ours, theirs = burden(predicted), burden(reference)
    found = [row for row in lesions if row.mask == "reference"]
    not_detecting = [row for row in lesions if row.mask == "prediction"]
    detected = sum(row.detected for row in found)
    predicted_lesions = detected + len(not_detecting)
    voxels = overlap(mask, true)
    score = Score(
        **asdict(origin),
        **asdict(surface_distances(mask, true, geometry.spacing_mm)),
        dice=voxels.dice,
        iou=voxels.iou,
        voe=voxels.voe,
        rvd=voxels.rvd,
        precision=voxels.precision,
        recall=voxels.recall,
        accuracy=voxels.accuracy,
        predicted_ml=voxels.predicted * geometry.voxel_ml,
        reference_ml=voxels.reference * geometry.voxel_ml,
        predicted_voxels=voxels.predicted,
        reference_voxels=voxels.reference,
        common_voxels=voxels.common,
        lesions=len(found),
        lesions_touched=sum(row.touched for row in found),
        lesions_detected=detected,
        predicted_lesions=predicted_lesions,
        false_lesions=sum(not row.touched for row in not_detecting),
        lesion_precision=detected / predicted_lesions if predicted_lesions else None,
        lesion_recall=detected / len(found) if found else None,
        predicted_burden=ours,
        reference_burden=theirs,
        burden_error=None if ours is None or theirs is None else ours - theirs,
    )
    return score, lesions


def burden(labels: np.ndarray) -> float | None:
    """Tumor volume / volume of the liver with its tumors; None without a liver.

    >>> burden(np.array([0, 1, 1, 1, 2]))
    0.25
    """
    liver, tumor = (int(np.count_nonzero(mask)) for mask in masks_of(labels).values())
    return tumor / liver if liver else None
