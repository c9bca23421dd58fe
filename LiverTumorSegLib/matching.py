"""Which lesion of one date is which of another: one to one, split, merged, or without a partner.

The lesions' voxel centers are carried to the other date by the livers' registration.

- Two lesions are linked if a third or more of the voxels of either lie in the other.
- Lesions without such a link, on both sides, are paired where their nearest voxels are at most
  NEAR_MM apart: a registration by the liver's outline leaves errors of some millimeters inside.
  Of all ways to pair them the one with the most pairs and then the smallest sum of distances
  between centroids is taken (the assignment problem). Distances are means of both dates' spaces.
- Lesions that are linked directly or through others are one finding. One lesion that became
  several is split, several that became one are merged, several that became several are regrouped.

All of this reads the same from either side: exchanging the dates exchanges split and merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from LiverTumorSegLib.components import lesion_boxes
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.register import Registration

LEAST_SHARE = 1 / 3
LEAST_SHOWN = 0.5
NEAR_MM = 5.0

Lesions = tuple[np.ndarray, Geometry]
Match = Literal["one", "split", "merged", "regrouped", "none"]


@dataclass(frozen=True)
class Finding:
    """What is one and the same over time.

    Attributes:
        links: pairs of lesion numbers (baseline, follow-up); None where there is no partner, in a
            finding of that one pair only.
        shown: whether the other date's scan shows half of its place or more; true for what has a
            partner.
    """

    links: tuple[tuple[int | None, int | None], ...]
    shown: bool = True

    @property
    def baseline(self) -> tuple[int, ...]:
        """Its lesions at the baseline, ascending."""
        return tuple(sorted({one for one, _ in self.links if one is not None}))

    @property
    def followup(self) -> tuple[int, ...]:
        """Its lesions at the follow-up, ascending."""
        return tuple(sorted({other for _, other in self.links if other is not None}))

    @property
    def match(self) -> Match:
        """How its lesions belong together."""
        before, after = len(self.baseline), len(self.followup)
        if not before or not after:
            return "none"
        if before == 1:
            return "one" if after == 1 else "split"
        return "merged" if after == 1 else "regrouped"


def match_lesions(
    baseline: Lesions, followup: Lesions, registration: Registration
) -> tuple[Finding, ...]:
    """Find the partners of all lesions by the rules at the top of this file.

    Args:
        baseline: int (z, y, x) with the number of each lesion's voxels, from 1 without gaps, and
            its grid.
        followup: the same of the other date.
        registration: from one patient space to the other.

    Returns:
        Every lesion in one finding: those of the baseline by their first number, then the new ones.
    """
    before, after = _places(baseline), _places(followup)
    moved = [registration.to_followup(points) for points in before]
    back = [registration.to_baseline(points) for points in after]
    forth_share, forth_seen = _landed(moved, followup, len(after))
    back_share, back_seen = _landed(back, baseline, len(before))
    linked = (forth_share >= LEAST_SHARE) | (back_share.T >= LEAST_SHARE)

    alone = [np.flatnonzero(~linked.any(axis=axis)) for axis in (1, 0)]
    apart = np.full(linked.shape, np.inf)
    for i in alone[0]:
        for j in alone[1]:
            apart[i, j] = _apart((moved[i], after[j]), (before[i], back[j]))
    for pair in _assigned(apart):
        linked[pair] = True
    findings = [*_linked_findings(linked), *_lone_findings(linked, forth_seen, back_seen)]
    return tuple(sorted(findings, key=lambda f: (not f.baseline, f.baseline, f.followup)))


def _places(lesions: Lesions) -> list[np.ndarray]:
    """LPS mm (n, 3) of the voxel centers of each lesion, by number."""
    numbers, geometry = lesions
    return [
        geometry.lps_of(np.argwhere(numbers[box] == number) + [edge.start for edge in box])
        for number, box in enumerate(lesion_boxes(numbers), start=1)
    ]


def _landed(
    clusters: list[np.ndarray], others: Lesions, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which shares of clusters of places lie in which lesions, and which share lies in the scan.

    Returns:
        (clusters, lesions) and (clusters,), from 0 to 1.
    """
    numbers, geometry = others
    shares, seen = np.zeros((len(clusters), count)), np.zeros(len(clusters))
    for row, points in enumerate(clusters):
        index = np.rint(geometry.index_of(points)).astype(int)
        inside = index[((index >= 0) & (index < geometry.shape)).all(axis=1)]
        shares[row] = np.bincount(numbers[tuple(inside.T)], minlength=count + 1)[1:] / len(points)
        seen[row] = len(inside) / len(points)
    return shares, seen


def _apart(*spaces: tuple[np.ndarray, np.ndarray]) -> float:
    """Distance of two lesions' centroids in mm, mean over spaces; infinite if they are not near."""
    centers = [np.linalg.norm(one.mean(axis=0) - other.mean(axis=0)) for one, other in spaces]
    reach = [
        sum(np.linalg.norm(p - p.mean(axis=0), axis=1).max() for p in space) for space in spaces
    ]
    if np.mean(centers) - np.mean(reach) > NEAR_MM:
        return np.inf
    gaps = [KDTree(one).query(other)[0].min() for one, other in spaces]
    return float(np.mean(centers)) if np.mean(gaps) <= NEAR_MM else np.inf


def _assigned(apart: np.ndarray) -> list[tuple[int, int]]:
    """The most pairs of finite distance, and among these choices the smallest sum."""
    possible = np.isfinite(apart)
    if not possible.any():
        return []
    never = 1.0 + apart[possible].sum()  # more than any set of pairs can cost
    rows, columns = linear_sum_assignment(np.where(possible, apart, never))
    return [(i, j) for i, j in zip(rows, columns, strict=True) if possible[i, j]]


def _linked_findings(linked: np.ndarray) -> list[Finding]:
    """Findings with lesions at both dates."""
    before, after = linked.shape
    graph = np.zeros((before + after,) * 2, dtype=bool)
    graph[:before, before:] = linked
    _, groups = connected_components(graph, directed=False)
    links: dict[int, list[tuple[int, int]]] = {}
    for i, j in np.argwhere(linked).tolist():
        links.setdefault(int(groups[i]), []).append((i + 1, j + 1))
    return [Finding(tuple(pairs)) for pairs in links.values()]


def _lone_findings(
    linked: np.ndarray, forth_seen: np.ndarray, back_seen: np.ndarray
) -> list[Finding]:
    """Findings of one date only."""
    gone = [
        Finding(((int(i) + 1, None),), bool(forth_seen[i] >= LEAST_SHOWN))
        for i in np.flatnonzero(~linked.any(axis=1))
    ]
    new = [
        Finding(((None, int(j) + 1),), bool(back_seen[j] >= LEAST_SHOWN))
        for j in np.flatnonzero(~linked.any(axis=0))
    ]
    return [*gone, *new]
