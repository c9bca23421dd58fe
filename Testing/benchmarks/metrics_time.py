"""Time of all of `Training.evaluate`'s measures of one case, and of its distances against MedPy's.

    python -m Testing.benchmarks.metrics_time

The case is made: 512x512x200 voxels of 0.75x0.75x1 mm, a liver and 20 tumors, and a prediction in
which they are moved and resized, one is missed and one more is there. First everything that becomes
a row of a table, by both definitions; then ASSD and HD95 alone, of the same two masks by ours and
by MedPy's, in turn, with the surface that both share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from medpy.metric import binary as medpy

from LiverTumorSegLib.geometry import Geometry
from Training import lits, product
from Training.metrics import surface_distances
from Training.scores import Provenance

GRID = Geometry((200, 512, 512), (1.0, 0.75, 0.75))
TUMORS = 20


def main() -> None:
    """Run and print both tables."""
    predicted, reference = made_labels()
    print(f"{'all measures of a case':28}{'seconds':>9}")
    for name, module in (("product", product), ("lits", lits)):
        seconds, lesions = timed(lambda module=module: all_measures(module, predicted, reference))
        print(f"{name + f', {lesions} lesions':28}{seconds:9.2f}")
    print(f"\n{'ASSD and HD95':28}{'ours':>9}{'MedPy':>9}{'ratio':>9}")
    for name, label in (("liver", 1), ("tumors", 2)):
        compare_with_medpy(name, predicted >= label, reference >= label)


def all_measures(module: Any, predicted: np.ndarray, reference: np.ndarray) -> int:
    """Score both targets; the number of true lesions."""
    for target in ("liver", "tumor"):
        made = Provenance(
            "a", "", "", target, "prediction", False, module.__name__, False, "", "", 0.0
        )
        score, _ = module.score_labels(made, predicted, reference, GRID)
    return score.lesions


def compare_with_medpy(name: str, mask: np.ndarray, true: np.ndarray) -> None:
    """Print the seconds of both, their ratio, and that they agree."""
    ours_s, ours = timed(lambda: surface_distances(mask, true, GRID.spacing_mm))
    options = {"voxelspacing": GRID.spacing_mm, "connectivity": 2}
    medpys_s, medpys = timed(
        lambda: (medpy.assd(mask, true, **options), medpy.hd95(mask, true, **options))
    )
    apart = np.abs(np.subtract((ours.assd_mm, ours.hd95_mm), medpys)).max()
    print(
        f"{name:28}{ours_s:9.2f}{medpys_s:9.2f}{medpys_s / ours_s:9.1f}   "
        f"differ by {apart:.1e} mm at most"
    )


def timed(job: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a job, and its result."""
    started = time.perf_counter()
    result = job()
    return time.perf_counter() - started, result


def made_labels() -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true labels of the made case, uint8 (z, y, x)."""
    random = np.random.default_rng(0)
    predicted, reference = np.zeros((2, *GRID.shape), np.uint8)
    fill(reference, (100, 256, 230), (70, 150, 170), 1)
    fill(predicted, (101, 258, 232), (69, 152, 168), 1)
    for i in range(TUMORS):
        angle = 2 * np.pi * i / TUMORS
        center = np.array(
            [100 + 40 * (-1) ** i, 256 + 90 * np.sin(angle), 230 + 100 * np.cos(angle)]
        )
        radii = random.integers(3, 14, 3)
        fill(reference, center, radii, 2)
        if i:
            fill(predicted, center + random.integers(-2, 3, 3), radii + 1, 2)
    fill(predicted, (100, 256, 230), (5, 9, 9), 2)
    return predicted, reference


def fill(labels: np.ndarray, center: Any, radii: Any, label: int) -> None:
    """Mark an ellipsoid, center and half axes in voxels."""
    axes = np.ogrid[tuple(slice(size) for size in labels.shape)]
    labels[sum(((a - c) / r) ** 2 for a, c, r in zip(axes, center, radii, strict=True)) <= 1] = (
        label
    )


if __name__ == "__main__":
    main()
