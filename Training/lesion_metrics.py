"""Which lesions of a reference are found, and how well each.

Lesions are the connected components of the product (26 neighbors). A lesion of the reference is
detected if a predicted one overlaps it by more than half: intersection over union > 0.5. No lesion
can overlap two of the other mask so much, so that nothing has to be merged or assigned. The match
of a lesion is the lesion of the other mask with the greatest intersection over union; of equals the
larger one, and of equally large ones the first in (z, y, x) order.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from LiverTumorSegLib.components import bounding_box, lesion_boxes, lesion_components
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import diameters
from Training.metrics import overlap, surface_distances
from Training.scores import LesionScore

Box = tuple[slice, ...]
NOT_COMPARED = dict.fromkeys(("iou", "dice", "rvd", "assd_mm", "rmsd_mm", "hd_mm"))


@dataclass(frozen=True)
class Size:
    """How large a lesion is; `LesionScore` says how each is measured."""

    volume_ml: float
    long_axis_mm: float
    major_axis_mm: float


@dataclass(frozen=True)
class Lesions:
    """The lesions of one mask.

    Attributes:
        numbers: int (z, y, x), 0 outside, 1 to n in the lesions.
        boxes: around each lesion, in the order of their numbers.
        voxels: int (n,), of each.
        sizes: of each.
    """

    numbers: np.ndarray
    boxes: list[Box]
    voxels: np.ndarray
    sizes: list[Size]


def compare_lesions(
    case: str, prediction: np.ndarray, reference: np.ndarray, geometry: Geometry
) -> list[LesionScore]:
    """Match the lesions of two tumor masks.

    Args:
        case: its name.
        prediction: bool (z, y, x).
        reference: bool, of the same shape.
        geometry: their grid.

    Returns:
        A row for each lesion of the reference, then one for each predicted lesion that detects
        none. Empty if both masks are.
    """
    box = bounding_box(prediction | reference)
    if box is None:
        return []
    predicted = lesions_of(lesion_components(prediction[box])[0], geometry)
    true = lesions_of(lesion_components(reference[box])[0], geometry)
    common = common_voxels(true.numbers, predicted.numbers)
    union = true.voxels[:, None] + predicted.voxels - common
    detects = 2 * common > union
    iou = common / union

    def compared(number: int, match: int) -> dict[str, float | None]:
        return compare_pair(*_masks(predicted, number, true, match), geometry.spacing_mm)

    rows = []
    for number in range(1, len(true.sizes) + 1):
        match, detected = _best(iou[number - 1]), bool(detects[number - 1].any())
        pair = compared(match, number) if match else NOT_COMPARED
        rows.append(_row(case, "reference", number, true, match, predicted, detected, pair))
    for number in range(1, len(predicted.sizes) + 1):
        if not detects[:, number - 1].any():
            match = _best(iou[:, number - 1])
            pair = compared(number, match) if match else NOT_COMPARED
            rows.append(_row(case, "prediction", number, predicted, match, true, False, pair))
    return rows


def lesions_of(numbers: np.ndarray, geometry: Geometry) -> Lesions:
    """Measure the numbered lesions of an int (z, y, x) array."""
    boxes = lesion_boxes(numbers)
    masks = [numbers[box] == number for number, box in enumerate(boxes, start=1)]
    voxels = np.array([np.count_nonzero(mask) for mask in masks], dtype=np.int64)
    return Lesions(numbers, boxes, voxels, [size_of(mask, geometry) for mask in masks])


def size_of(mask: np.ndarray, geometry: Geometry) -> Size:
    """Measure one lesion, a bool (z, y, x) mask that is not empty."""
    points_mm = np.argwhere(mask) * geometry.spacing_mm
    covariance = np.cov(points_mm.T, bias=True)
    return Size(
        volume_ml=len(points_mm) * geometry.voxel_ml,
        long_axis_mm=diameters(mask, geometry).long_mm,
        major_axis_mm=4.0 * float(np.sqrt(max(np.linalg.eigvalsh(covariance)[-1], 0.0))),
    )


def common_voxels(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How many voxels each two lesions share.

    Args:
        first: int (z, y, x), 0 outside, 1 to n in the lesions.
        second: the same with 1 to m.

    Returns:
        int (n, m).

    >>> common_voxels(np.array([1, 1, 2, 0]), np.array([0, 1, 1, 1])).tolist()
    [[1], [1]]
    """
    rows, columns = int(first.max(initial=0)), int(second.max(initial=0))
    both = (first > 0) & (second > 0)
    pairs = (first[both].astype(np.int64) - 1) * columns + second[both] - 1
    return np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)


def compare_pair(
    predicted: np.ndarray, true: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, float | None]:
    """The measures of two lesions' masks, bool (z, y, x), by their names in `LesionScore`."""
    voxels, distances = overlap(predicted, true), surface_distances(predicted, true, spacing_mm)
    return {
        "iou": voxels.iou,
        "dice": voxels.dice,
        "rvd": voxels.rvd,
        "assd_mm": distances.assd_mm,
        "rmsd_mm": distances.rmsd_mm,
        "hd_mm": distances.hd_mm,
    }


def union_box(box: Box, other: Box | None) -> Box:
    """The smallest box that holds both; the first without the other."""
    if other is None:
        return box
    edges = zip(box, other, strict=True)
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in edges)


def _best(iou: np.ndarray) -> int | None:
    """Number of the lesion with the greatest overlap; None if there is no overlap."""
    return int(iou.argmax()) + 1 if iou.any() else None


def _masks(
    predicted: Lesions, number: int, true: Lesions, match: int
) -> tuple[np.ndarray, np.ndarray]:
    """A predicted and a true lesion in the smallest box that holds both."""
    box = union_box(predicted.boxes[number - 1], true.boxes[match - 1])
    return predicted.numbers[box] == number, true.numbers[box] == match


def _row(
    case: str,
    mask: str,
    number: int,
    own: Lesions,
    match: int | None,
    others: Lesions,
    detected: bool,
    pair: dict[str, float | None],
) -> LesionScore:
    other = others.sizes[match - 1] if match else None
    return LesionScore(
        case=case,
        mask=mask,
        lesion=number,
        **asdict(own.sizes[number - 1]),
        touched=match is not None,
        detected=detected,
        match=match,
        match_volume_ml=other.volume_ml if other else None,
        match_long_axis_mm=other.long_axis_mm if other else None,
        **pair,
    )
