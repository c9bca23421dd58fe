"""Tumors at another threshold: from the probability map, without running the network again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from LiverTumorSegLib.components import lesion_boxes, lesion_components
from LiverTumorSegLib.part import Box, Part, part_of, shifted

LOWEST, HIGHEST = 0.05, 0.95


class Relabeler:
    """Lesions at any threshold within one liver, and the numbers that they keep.

    What reaches the lowest threshold falls into islands once; a higher threshold only shrinks and
    parts islands, so that it is looked for inside their boxes and not in the whole liver.
    """

    def __init__(self, probability: np.ndarray, liver: Part, smallest_voxels: float = 0.0) -> None:
        """Find the islands.

        Args:
            probability: float16 (z, y, x) of the whole grid, from 0 to 1.
            liver: where tumors are looked for; not empty.
            smallest_voxels: lesions of fewer voxels are dropped, as in a run.
        """
        self._box = liver.box
        self._smallest = smallest_voxels
        inside = np.where(liver.mask, probability[liver.box], np.float16(0))
        # The bits of halves from 0 to 1 are in the order of their values, and compare faster.
        self._bits = inside.astype(np.float16).view(np.uint16)
        islands, _ = ndimage.label(self._bits >= _bits(LOWEST), structure=np.ones((3, 3, 3)))
        sizes = np.bincount(islands.ravel())
        self._islands = [
            (box, islands[box] == number)
            for number, box in enumerate(lesion_boxes(islands), start=1)
            if sizes[number] >= smallest_voxels
        ]
        self._numbers = np.zeros(self._bits.shape, dtype=np.uint16)
        self._last = 0

    def remember(self, number: int, lesion: Part) -> None:
        """Let a lesion at this place have this number from now on."""
        inside = tuple(
            slice(max(a.start, b.start), max(a.start, b.start, min(a.stop, b.stop)))
            for a, b in zip(lesion.box, self._box, strict=True)
        )
        mask = lesion.mask[shifted(inside, lesion.box)]
        self._numbers[shifted(inside, self._box)][mask] = number
        self._last = max(self._last, number)

    def lesions(self, value: float, kept: dict[int, Part]) -> dict[int, Part]:
        """The lesions at a threshold, by number; those at a known place keep its number.

        A kept lesion owns its voxels and what joins it: of an island that holds one, only what
        another lesion has covered before is taken, so that no shell forms around it.

        Args:
            value: from LOWEST to HIGHEST; a voxel is tumor from this probability on.
            kept: lesions that stay as they are, by number.

        Raises:
            ValueError: the value is out of range.
        """
        if not LOWEST <= value <= HIGHEST:
            raise ValueError(f"expected a threshold from {LOWEST} to {HIGHEST}, got {value}")
        parts = [
            part
            for box, island in self._islands
            for part in self._parts(box, (self._bits[box] >= _bits(value)) & island, kept)
        ]
        found = self._numbered(parts, kept)
        for number, part in found.items():
            self.remember(number, part)
        return found

    def _parts(self, box: Box, mask: np.ndarray, kept: dict[int, Part]) -> list[Part]:
        """The components of a mask in a box of the liver's box, on the whole grid."""
        components, count = lesion_components(mask)
        parts = []
        for number, inner in zip(range(1, count + 1), lesion_boxes(components), strict=True):
            place = tuple(
                slice(i.start + b.start + f.start, i.stop + b.start + f.start)
                for i, b, f in zip(inner, box, self._box, strict=True)
            )
            part = Part(place, components[inner] == number)
            if any((other.within(place) & part.mask).any() for other in kept.values()):
                covered = self._numbers[shifted(place, self._box)]
                known = (covered > 0) & ~np.isin(covered, list(kept))
                part = part_of(part.mask & known, place).without(kept.values())
            if part.voxels >= max(1, self._smallest):
                parts.append(part)
        return parts

    def _numbered(self, parts: Sequence[Part], kept: dict[int, Part]) -> dict[int, Part]:
        """Each part under the number it overlaps most, larger overlaps first, or a new number."""
        overlaps = []
        for index, part in enumerate(parts):
            covered = self._numbers[shifted(part.box, self._box)][part.mask]
            numbers, counts = np.unique(covered[covered > 0], return_counts=True)
            overlaps += [
                (-int(n), int(number), index) for number, n in zip(numbers, counts, strict=True)
            ]
        number_of: dict[int, int] = {}
        taken = set(kept)
        for _, number, index in sorted(overlaps):
            if number not in taken and index not in number_of:
                number_of[index] = number
                taken.add(number)
        free = max([self._last, *taken])
        for index in sorted(
            set(range(len(parts))) - set(number_of), key=lambda i: -parts[i].voxels
        ):
            free += 1
            number_of[index] = free
        return {number: parts[index] for index, number in number_of.items()}


def _bits(value: float) -> np.uint16:
    return np.float16(value).view(np.uint16)
