"""fingerprint.json: what CTs, livers and tumors of a data set are like, for each case and over all.

HU are counted in bins of 1 HU, so that all cases together can be described as exactly as each: in
"all" every voxel counts once. Percentiles are the lowest HU that so many percent of the voxels do
not exceed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from LiverTumorSegLib.measure import Measurement
from Training.dataset import Case

LOWEST_HU, HIGHEST_HU = -1024, 32767
PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.5)
DEFINITIONS = {
    "order": "shape and spacing_mm are (z, y, x)",
    "hu": "voxels of the mask, rounded to whole HU; sd of the population",
    "liver": "with its tumors",
    "percentiles": "the lowest HU that so many percent of the voxels do not exceed",
    "lesions": "volume and long axis by the product's definitions, largest first",
    "all": "HU over all voxels of all cases; else the lowest, the median and the highest case; "
    "synthetic cases left out",
}


@dataclass(frozen=True)
class HuCounts:
    """How many voxels have each HU: counts[i] have lowest + i."""

    lowest: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LesionSize:
    """One lesion: volume, and greatest axial diameter."""

    volume_ml: float
    long_axis_mm: float


@dataclass(frozen=True)
class Fingerprint:
    """What is counted of a case; `statistics` makes numbers of it.

    Attributes:
        liver_hu: of the liver with its tumors.
        tumor_hu: of the tumors.
        lesions: largest first.
    """

    liver_hu: HuCounts
    tumor_hu: HuCounts
    lesions: tuple[LesionSize, ...]


def fingerprint_of(hu: np.ndarray, labels: np.ndarray, measurement: Measurement) -> Fingerprint:
    """Count a case.

    Args:
        hu: (z, y, x).
        labels: (z, y, x): 0 background, 1 liver, 2 tumor.
        measurement: of the same labels.
    """
    sizes = (LesionSize(lesion.volume_ml, lesion.long_axis_mm) for lesion in measurement.lesions)
    return Fingerprint(count_hu(hu, labels >= 1), count_hu(hu, labels == 2), tuple(sizes))


def count_hu(hu: np.ndarray, mask: np.ndarray) -> HuCounts:
    """Count the HU within a mask, slice by slice for the sake of memory.

    >>> count_hu(np.array([[[40.0, 42.0, 42.4]]]), np.array([[[True, True, True]]]))
    HuCounts(lowest=40, counts=(1, 0, 2))
    """
    counts = np.zeros(HIGHEST_HU - LOWEST_HU + 1, dtype=np.int64)
    for plane, inside in zip(hu, mask, strict=True):
        whole = np.rint(plane[inside]).clip(LOWEST_HU, HIGHEST_HU).astype(np.int64)
        counts += np.bincount(whole - LOWEST_HU, minlength=len(counts))
    found = np.flatnonzero(counts)
    if not found.size:
        return HuCounts(0, ())
    first, last = int(found[0]), int(found[-1])
    return HuCounts(LOWEST_HU + first, tuple(counts[first : last + 1].tolist()))


def statistics(parts: Sequence[HuCounts]) -> dict[str, float] | None:
    """Mean, SD and percentiles over the voxels of some counts; None without a voxel.

    >>> statistics([HuCounts(40, (1, 0, 2)), HuCounts(42, (1,))])["p50"]
    42
    """
    parts = [part for part in parts if part.counts]
    if not parts:
        return None
    lowest = min(part.lowest for part in parts)
    counts = np.zeros(max(part.lowest + len(part.counts) for part in parts) - lowest, np.int64)
    for part in parts:
        counts[part.lowest - lowest :][: len(part.counts)] += part.counts
    hu, voxels = lowest + np.arange(len(counts)), int(counts.sum())
    mean = float(counts @ hu) / voxels
    sd = float(np.sqrt(counts @ (hu - mean) ** 2 / voxels))
    ranks = np.ceil(np.array(PERCENTILES) / 100 * voxels)
    places = np.searchsorted(counts.cumsum(), np.maximum(ranks, 1))
    percentiles = {f"p{p:g}": int(hu[i]) for p, i in zip(PERCENTILES, places, strict=True)}
    return {"voxels": voxels, "mean": round(mean, 3), "sd": round(sd, 3), **percentiles}


def fingerprint_json(cases: Sequence[Case], prints: Sequence[Fingerprint]) -> dict[str, Any]:
    """The content of fingerprint.json, of cases and their fingerprints in the same order."""
    pairs = list(zip(cases, prints, strict=True))
    scanned = [(case, one) for case, one in pairs if not case.synthetic]
    return {
        "definitions": DEFINITIONS,
        "cases": {case.name: case_json(case, one) for case, one in pairs},
        "all": all_json([case for case, _ in scanned], [one for _, one in scanned]),
    }


def case_json(case: Case, fingerprint: Fingerprint) -> dict[str, Any]:
    """One case's numbers."""
    return {
        "shape": list(case.geometry.shape),
        "spacing_mm": list(case.geometry.spacing_mm),
        "liver_ml": round(case.liver_ml, 4),
        "tumor_ml": round(case.tumor_ml, 4),
        "liver_hu": statistics([fingerprint.liver_hu]),
        "tumor_hu": statistics([fingerprint.tumor_hu]),
        "lesions": [
            {name: round(value, 4) for name, value in asdict(lesion).items()}
            for lesion in fingerprint.lesions
        ],
    }


def all_json(cases: Sequence[Case], prints: Sequence[Fingerprint]) -> dict[str, Any]:
    """The numbers over all cases."""
    lesions = [lesion for one in prints for lesion in one.lesions]
    return {
        "cases": len(cases),
        "cases_with_tumor": sum(case.tumor_ml > 0 for case in cases),
        "lesions": len(lesions),
        "shape": spread([case.geometry.shape for case in cases]),
        "spacing_mm": spread([case.geometry.spacing_mm for case in cases]),
        "liver_ml": spread([case.liver_ml for case in cases]),
        "tumor_ml": spread([case.tumor_ml for case in cases]),
        "lesion_ml": spread([lesion.volume_ml for lesion in lesions]),
        "lesion_long_axis_mm": spread([lesion.long_axis_mm for lesion in lesions]),
        "liver_hu": statistics([one.liver_hu for one in prints]),
        "tumor_hu": statistics([one.tumor_hu for one in prints]),
    }


def spread(values: Sequence[Any]) -> dict[str, Any] | None:
    """Lowest, median and highest of numbers or, along each axis, of triples; None of none."""
    if not values:
        return None
    return {
        name: np.round(of(np.array(values, dtype=float), axis=0), 4).tolist()
        for name, of in (("min", np.min), ("median", np.median), ("max", np.max))
    }
