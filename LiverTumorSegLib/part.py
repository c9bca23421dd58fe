"""A part of a voxel grid, such as one lesion: its bounding box and the mask in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from LiverTumorSegLib.components import bounding_box

Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """Some voxels of a grid.

    Attributes:
        box: their bounding box; of no extent for an empty part.
        mask: bool (z, y, x), which voxels of the box.
    """

    box: Box
    mask: np.ndarray

    @property
    def voxels(self) -> int:
        """How many they are."""
        return int(np.count_nonzero(self.mask))

    def same(self, other: Part) -> bool:
        """Whether both are the same voxels."""
        return self.box == other.box and np.array_equal(self.mask, other.mask)

    def within(self, box: Box) -> np.ndarray:
        """Which voxels of a box of the grid belong to the part, bool of the box's shape.

        >>> part_of(np.array([0, 0, 1, 1], dtype=bool)).within((slice(3, 6),)).tolist()
        [True, False, False]
        """
        found = np.zeros([edge.stop - edge.start for edge in box], dtype=bool)
        common = tuple(
            slice(max(a.start, b.start), max(a.start, b.start, min(a.stop, b.stop)))
            for a, b in zip(self.box, box, strict=True)
        )
        found[shifted(common, box)] = self.mask[shifted(common, self.box)]
        return found

    def without(self, others: Iterable[Part]) -> Part:
        """The voxels that are in none of the others."""
        left = self.mask.copy()
        for other in others:
            left &= ~other.within(self.box)
        return part_of(left, self.box)


def part_of(mask: np.ndarray, box: Box | None = None) -> Part:
    """The part that a mask shows.

    Args:
        mask: bool (z, y, x); not copied.
        box: where the mask lies in the grid; None: it is the whole grid's.

    >>> part_of(np.array([0, 1, 1, 0], dtype=bool), (slice(5, 9),)).box
    (slice(6, 8, None),)
    """
    tight = bounding_box(mask)
    if tight is None:
        tight = (slice(0, 0),) * mask.ndim
    if box is None:
        return Part(tight, mask[tight])
    moved = (slice(t.start + b.start, t.stop + b.start) for t, b in zip(tight, box, strict=True))
    return Part(tuple(moved), mask[tight])


def union(parts: Iterable[Part]) -> Part:
    """All voxels of one or more parts together."""
    parts = tuple(parts)
    box = around(parts)
    mask = np.zeros([edge.stop - edge.start for edge in box], dtype=bool)
    for part in parts:
        mask[shifted(part.box, box)] |= part.mask
    return part_of(mask, box)


def around(parts: Iterable[Part]) -> Box:
    """The box around one or more parts; empty ones do not count unless all are empty."""
    boxes = [part.box for part in parts]
    boxes = [box for box in boxes if all(edge.stop > edge.start for edge in box)] or boxes
    return tuple(
        slice(min(edge.start for edge in edges), max(edge.stop for edge in edges))
        for edges in zip(*boxes, strict=True)
    )


def shifted(box: Box, frame: Box) -> Box:
    """The box in an array that shows `frame` of the grid, as far as it starts inside."""
    return tuple(
        slice(max(0, b.start - f.start), max(0, b.stop - f.start))
        for b, f in zip(box, frame, strict=True)
    )
