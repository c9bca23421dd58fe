"""Which part of a scan a network of slices is shown, and its answer in its place in the whole.

What lies far from the liver cannot matter. The liver is given, or looked for on some slices first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from LiverTumorSegLib.components import bounding_box
from LiverTumorSegLib.preprocess import Grid, orient
from LiverTumorSegLib.recipe import Recipe, Triple
from LiverTumorSegLib.restore import axis_weights, decide
from LiverTumorSegLib.sliding_window import Output, background, window_within

Part = tuple[range, range, range]  # of an array (z, y, x)
Report = Callable[[float], None]
PredictSlices = Callable[[np.ndarray, Report], Iterator[np.ndarray]]


def part_of(mask: np.ndarray, grid: Grid) -> Part | None:
    """The smallest part of the padded grid that voxels of a mask on the CT are restored from.

    Args:
        mask: bool (z, y, x) on the CT.
        grid: of the prepared CT.

    Returns:
        Indices along (z, y, x); None where no voxel of the mask lies in the crop box.
    """
    starts = [max(start, 0) for start, _ in grid.box]
    cropped = tuple(slice(first, stop) for first, (_, stop) in zip(starts, grid.box, strict=True))
    inside = bounding_box(orient(mask, grid.axes, grid.flips)[cropped])
    if inside is None:
        return None
    part = []
    for axis, edges in enumerate(inside):
        start, stop = grid.box[axis]
        beyond = starts[axis] - start
        weights = axis_weights(grid.shape[axis], stop - start, grid)
        rows = slice(edges.start + beyond, edges.stop + beyond)
        used = np.arange(rows.start, rows.stop)
        if weights is not None:
            used = np.flatnonzero(weights[rows].any(axis=0))
        before = grid.padding[axis][0]
        part.append(range(before + int(used[0]), before + int(used[-1]) + 1))
    z, y, x = part
    return z, y, x


def first_look(
    predict: PredictSlices, image: np.ndarray, recipe: Recipe, on_progress: Report
) -> Part | None:
    """The part from the first to the last slice, row and column that shows something; or none.

    Along z it has the recipe's margin.

    Args:
        predict: gives the (C, y, x) probabilities of an image slice by slice.
        image: (z, y, x) network values.
        recipe: which slices to look at, and how to decide. Its first target is looked for.
        on_progress: told the share done.
    """
    prepass = recipe.inference.prepass
    assert prepass is not None
    every, margin = prepass.every_slices, prepass.margin_slices
    shown: list[int] = []
    somewhere: np.ndarray | None = None
    for index, values in enumerate(predict(image[::every], on_progress)):
        found = decide(values, recipe)[recipe.targets[0]]
        if found.any():
            shown.append(index * every)
            somewhere = found if somewhere is None else somewhere | found
    box = None if somewhere is None else bounding_box(somewhere)
    if somewhere is None or box is None:
        return None
    finer = [
        after // before for after, before in zip(somewhere.shape, image.shape[1:], strict=True)
    ]
    y, x = (
        range(edges.start // factor, (edges.stop - 1) // factor + 1)
        for edges, factor in zip(box, finer, strict=True)
    )
    return range(max(shown[0] - margin, 0), min(shown[-1] + margin + 1, len(image))), y, x


def with_surroundings(part: Part, recipe: Recipe, shape: Triple) -> Part:
    """A part whose rows and columns go on for an eighth of the window, and fill one at least.

    So a liver's border is not the windows' border, and a liver may be larger between two slices
    that were looked at.
    """
    y, x = (
        widened(edges, length // 8, length, size)
        for edges, length, size in zip(
            part[1:], window_within(recipe.patch, shape)[1:], shape[1:], strict=True
        )
    )
    return part[0], y, x


def widened(edges: range, margin: int, least: int, size: int) -> range:
    """A range with a margin on both sides and of a least length, within an axis.

    >>> widened(range(10, 20), 2, 16, 100), widened(range(0, 3), 2, 16, 100)
    (range(7, 23), range(0, 16))
    """
    missing = max(least - len(edges) - 2 * margin, 0)
    start = max(edges.start - margin - missing // 2, 0)
    stop = min(max(edges.stop + margin + (missing + 1) // 2, start + least), size)
    return range(max(min(start, stop - least), 0), stop)


def whole(shape: Triple) -> Part:
    """All of an array."""
    z, y, x = map(range, shape)
    return z, y, x


def predict_part(
    predict: PredictSlices,
    image: np.ndarray,
    part: Part | None,
    output: Output,
    on_progress: Report,
) -> Iterator[np.ndarray]:
    """Probabilities of all of an image, of which a part is predicted: the rest is background.

    Args:
        predict: gives those of a part, slice by slice.
        image: (z, y, x) network values.
        part: None for none.
        output: what the network gives.
        on_progress: told the share done.

    Yields:
        float32 (C, y, x), for each slice as many as the scale of its axis.
    """
    depth, height, width = (
        size * factor for size, factor in zip(image.shape, output.scale, strict=True)
    )
    empty = background(output, (height, width))
    if part is None:
        on_progress(1.0)
        yield from itertools.repeat(empty, depth)
        return
    if part == whole(image.shape):
        yield from predict(image, on_progress)
        return
    z, y, x = (
        slice(edges.start * factor, edges.stop * factor)
        for edges, factor in zip(part, output.scale, strict=True)
    )
    slices = predict(image[tuple(slice(e.start, e.stop) for e in part)], on_progress)
    for index in range(depth):
        if not z.start <= index < z.stop:
            yield empty
            continue
        plane = empty.copy()
        plane[:, y, x] = next(slices)
        yield plane
