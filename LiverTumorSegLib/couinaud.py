"""The liver segments of Couinaud, from a map that the user gives; none is ever guessed."""

from __future__ import annotations

import numpy as np

NAMES = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII")
OUTSIDE = "none"


def segments_text(values: np.ndarray) -> str:
    """The segments that hold a lesion, the largest share first.

    Args:
        values: the map's values at the lesion's voxels, integer, 1 to 8 for segments I to VIII;
            others are in none.

    >>> segments_text(np.array([8, 8, 7, 0]))
    'VIII 50 %, VII 25 %, none 25 %'
    """
    known = np.where((values >= 1) & (values <= len(NAMES)), values, len(NAMES) + 1)
    counts = np.bincount(known.ravel(), minlength=len(NAMES) + 2)[1:]
    named = zip(counts.tolist(), (*NAMES, OUTSIDE), strict=True)
    ordered = sorted((pair for pair in named if pair[0]), key=lambda pair: -pair[0])
    return ", ".join(f"{name} {100 * count / values.size:.0f} %" for count, name in ordered)
