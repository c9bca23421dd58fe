"""How a finding changed between two dates, and which change is more than the voxels' doing.

- A finding's volume, longest diameter and product at a date are the sums over its lesions. RECIST
  1.1 says so of the diameters of a lesion that fell apart, and takes the one diameter of lesions
  that grew together (Eisenhauer et al., Eur J Cancer 45, 2009, 228-247,
  doi:10.1016/j.ejca.2008.10.026).
- Uncertainty of a volume: `shape.volume_uncertainty_percent`, two standard deviations of what
  counting voxels does. Those of several lesions, and of two dates, are independent. The outline's
  own error is not in it.
- A finding has grown or shrunk if its volume changed by more than that; else it is stable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from LiverTumorSegLib.matching import Finding
from LiverTumorSegLib.measure import Lesion

Change = Literal["new", "grown", "stable", "shrunk", "gone", "not shown"]


@dataclass(frozen=True)
class Extent:
    """A finding at one date: sums over its lesions, 0 without any.

    Attributes:
        volume_ml: volume.
        uncertainty_ml: two standard deviations of the volume for the voxels' sake.
        long_axis_mm: longest axial diameters.
        product_mm2: WHO's: of every lesion the longest axial diameter times its perpendicular.
    """

    volume_ml: float
    uncertainty_ml: float
    long_axis_mm: float
    product_mm2: float


@dataclass(frozen=True)
class Growth:
    """A finding and its change.

    Attributes:
        finding: whose.
        baseline: its extent at the baseline.
        followup: its extent at the follow-up.
        uncertainty_ml: a change of the volume up to this may be the voxels' doing.
        change: what became of it; "not shown": the other scan does not reach its place.
    """

    finding: Finding
    baseline: Extent
    followup: Extent
    uncertainty_ml: float
    change: Change

    @property
    def volume_change_ml(self) -> float:
        """Follow-up minus baseline."""
        return self.followup.volume_ml - self.baseline.volume_ml


def extent_of(lesions: Sequence[Lesion]) -> Extent:
    """The sums over a finding's lesions at one date."""
    return Extent(
        volume_ml=sum(lesion.volume_ml for lesion in lesions),
        uncertainty_ml=math.hypot(
            *(lesion.volume_ml * lesion.volume_uncertainty_percent / 100 for lesion in lesions)
        ),
        long_axis_mm=sum(lesion.long_axis_mm for lesion in lesions),
        product_mm2=sum(lesion.long_axis_mm * lesion.short_axis_mm for lesion in lesions),
    )


def growth_of(finding: Finding, baseline: Extent, followup: Extent) -> Growth:
    """What became of a finding between its extents at the two dates."""
    limit = math.hypot(baseline.uncertainty_ml, followup.uncertainty_ml)
    change_ml = followup.volume_ml - baseline.volume_ml
    change: Change = "stable"
    if finding.match == "none":
        change = "gone" if finding.baseline else "new"
        if not finding.shown:
            change = "not shown"
    elif abs(change_ml) > limit:
        change = "grown" if change_ml > 0 else "shrunk"
    return Growth(finding, baseline, followup, limit, change)
