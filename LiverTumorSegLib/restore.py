"""The way back: from a network's output, slice by slice, to masks on the CT's own grid.

Probabilities are interpolated first and decided on afterwards. Only a few slices are held at a
time, so memory stays near that of the masks.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from LiverTumorSegLib.preprocess import Grid, orient
from LiverTumorSegLib.recipe import Recipe, Triple
from LiverTumorSegLib.resample import linear_weights, resampled_slices


def restore(
    slices: Iterable[np.ndarray],
    grid: Grid,
    scale: Sequence[int],
    image_shape: Triple,
    recipe: Recipe,
    targets: Sequence[str],
    *,
    probabilities: bool,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Bring a network's output back to the CT's grid and decide on every voxel.

    Args:
        slices: float32 (C, y, x) probabilities, all slices of the padded grid times `scale`.
        grid: of the prepared CT.
        scale: how much finer the output is than the padded grid, along (z, y, x).
        image_shape: shape of the CT.
        recipe: what the channels are, and how to decide.
        targets: which of the recipe's masks to make.
        probabilities: also give the probabilities.

    Returns:
        By target, bool (z, y, x) and, if asked for, float16 probabilities; both of `image_shape`.
    """
    masks = {target: np.zeros(image_shape, dtype=bool) for target in targets}
    kept = {target: np.zeros(image_shape, np.float16) for target in targets if probabilities}
    on_ct = tuple(
        slice(max(start, 0), min(stop, size))
        for (start, stop), size in zip(grid.box, grid.oriented_shape, strict=True)
    )
    z, y, x = (
        slice(part.start - start, part.stop - start)
        for part, (start, _) in zip(on_ct, grid.box, strict=True)
    )

    def put(results: dict[str, np.ndarray], row: int, planes: dict[str, np.ndarray]) -> None:
        for target, result in results.items():
            if planes[target].any():  # memory that was never written to is not used
                orient(result, grid.axes, grid.flips)[on_ct][row] = planes[target]

    for row, values in enumerate(restored_slices(slices, grid, scale), start=-z.start):
        if 0 <= row < z.stop - z.start:
            put(masks, row, decide(values[:, y, x], recipe))
            if probabilities:
                put(kept, row, likelihoods(values[:, y, x], recipe))
    return masks, kept


def restored_slices(
    slices: Iterable[np.ndarray], grid: Grid, scale: Sequence[int]
) -> Iterator[np.ndarray]:
    """Yield, for each slice of the crop box, the interpolated float32 (C, y, x) probabilities.

    Args:
        slices: (C, y, x), all of the padded grid times `scale`; taken one by one, to the last.
        grid: of the prepared CT.
        scale: how much finer the output is than the padded grid, along (z, y, x).
    """
    box_shape = [stop - start for start, stop in grid.box]
    weights = [
        axis_weights(length * factor, size, grid)
        for length, factor, size in zip(grid.shape, scale, box_shape, strict=True)
    ]
    z, y, x = (
        slice(before * factor, (before + length) * factor)
        for (before, _), length, factor in zip(grid.padding, grid.shape, scale, strict=True)
    )
    rest = iter(slices)
    inner = (values[:, y, x] for values in itertools.islice(rest, z.start, z.stop))
    yield from resampled_slices(inner, weights)
    deque(rest, maxlen=0)  # padding, and what a coarser grid skips; whoever counts slices gets all


def axis_weights(before: int, after: int, grid: Grid) -> np.ndarray | None:
    """The matrix (after, before) that resamples an axis, None where nothing changes."""
    if before == after:
        return None
    return linear_weights(before, after, align_corners=grid.align_corners)


def decide(values: np.ndarray, recipe: Recipe) -> dict[str, np.ndarray]:
    """Bool masks by target of probabilities (C, ...).

    After a sigmoid each channel is compared with the threshold; after a softmax the largest of
    background, liver and tumor wins, of equal ones the first, and a tumor is liver too.
    """
    if recipe.inference.activation == "softmax":
        background, liver, tumor = values  # compared, since NumPy's argmax takes 30 times as long
        is_tumor = tumor > np.maximum(background, liver)
        return {"liver": (liver > background) | is_tumor, "tumor": is_tumor}
    return dict(zip(recipe.targets, values >= recipe.inference.threshold, strict=True))


def likelihoods(values: np.ndarray, recipe: Recipe) -> dict[str, np.ndarray]:
    """Probabilities by target of those of the channels (C, ...); the liver's with its tumors'."""
    if recipe.inference.activation == "softmax":
        return {"liver": values[1] + values[2], "tumor": values[2]}
    return dict(zip(recipe.targets, values, strict=True))
