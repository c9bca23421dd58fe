"""What a segmentation is: labels on the CT's grid, and what to know about them. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from LiverTumorSegLib.recipe import LesionConfidence


@dataclass(frozen=True)
class Segmentation:
    """Result on the CT's own grid.

    Attributes:
        labels: uint8 (z, y, x); 0 background, 1 liver, 2 tumor.
        warnings: sentences a user should read.
        timings_s: seconds of each stage.
        computed_by: for each stage, what its network ran by and in which precision.
        liver_probability: float16 (z, y, x) if asked for.
        tumor_probability: the same; 0 where no tumor was searched for.
        confidence: what makes a lesion's of its mean probability and volume; None: not known.
    """

    labels: np.ndarray
    warnings: tuple[str, ...] = ()
    timings_s: dict[str, float] = field(default_factory=dict)
    computed_by: dict[str, str] = field(default_factory=dict)
    liver_probability: np.ndarray | None = None
    tumor_probability: np.ndarray | None = None
    confidence: LesionConfidence | None = None
