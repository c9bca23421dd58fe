"""Made-up results whose report files tests read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import Measurement, measure
from LiverTumorSegLib.recipe import LesionConfidence
from LiverTumorSegLib.report import Run, write_outputs
from LiverTumorSegLib.segmentation import Segmentation
from LiverTumorSegLib.volume import Volume

MODELS = {
    target: {
        "name": f"some-{target}",
        "sha256": "0123456789abcdef" * 4,
        "license": "CC BY 4.0",
        "training_cases": 7,
        "mean_dice": 0.8741,
    }
    for target in ("liver", "tumor")
}
HOSTILE = '<script>hit = 1</script><img src=x onerror="hit = 1">&amp;"\'><b>'
GEOMETRY = Geometry((24, 60, 66), (5.0, 1.5, 1.25), (-40.0, -30.0, 700.0))


def labels_with(tumors: int) -> np.ndarray:
    """A liver with up to 36 tumors, of sizes that differ; every third touches the CT's edge.

    Returns:
        uint8 (z, y, x), 0 background, 1 liver, 2 tumor.
    """
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    labels[:, 4:56, 4:62] = 1
    places = [(z, y, x) for y in (6, 22, 38) for x in (6, 20, 34, 48) for z in (0, 8, 16)]
    for number, (z, y, x) in enumerate(places[:tumors]):
        labels[z : z + 2 + number % 4, y : y + 3 + number // 4, x : x + 9 - number // 9] = 2
    return labels


def write_case(
    folder: Path,
    labels: np.ndarray,
    run: Run,
    *,
    probability: bool = False,
    couinaud: bool = False,
    **told: Any,
) -> Measurement:
    """Write all files of a run; `told` are fields of Segmentation, or `repairs` of the CT."""
    hu = np.random.default_rng(0).normal(80, 60, labels.shape).astype(np.float32)
    volume = Volume(hu, GEOMETRY, "ct", told.pop("repairs", ()))
    likely = np.clip(hu / 200, 0, 1) if probability else None
    segments = None
    if couinaud:
        segments = np.broadcast_to(np.arange(66) // 8 + 1, labels.shape)
    known = (
        LesionConfidence(intercept=0.1, probability=0.5, log_volume=-0.2) if probability else None
    )
    measurement, lesion_map = measure(volume, labels, likely, known, segments)
    folder.mkdir(exist_ok=True)
    write_outputs(folder, run, volume, Segmentation(labels, **told), measurement, lesion_map)
    return measurement
