"""What the numbers of a label map mean."""

from __future__ import annotations

from typing import Any

BACKGROUND, LIVER, TUMOR = 0, 1, 2


def masks_of(labels: Any) -> dict[str, Any]:
    """The mask of each target: the liver with its tumors, and the tumor.

    Args:
        labels: array or tensor of 0 background, 1 liver, 2 tumor, of any shape.

    Returns:
        "liver" and "tumor", bool, of the same kind and shape.

    >>> import numpy as np
    >>> [mask.tolist() for mask in masks_of(np.array([0, 1, 2])).values()]
    [[False, True, True], [False, False, True]]
    """
    return {"liver": labels >= LIVER, "tumor": labels == TUMOR}
