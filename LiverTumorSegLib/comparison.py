"""Two results of one patient compared: livers registered, lesions matched, growth and response."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LiverTumorSegLib.growth import Growth, extent_of, growth_of
from LiverTumorSegLib.matching import Finding, match_lesions
from LiverTumorSegLib.measure import axial_axis
from LiverTumorSegLib.recist import MEANINGS, Response, check_targets, response_of
from LiverTumorSegLib.register import DOUBTFUL_DICE, Registration, check, register
from LiverTumorSegLib.result_folder import Result

DATES = ("baseline", "follow-up")


@dataclass(frozen=True)
class Comparison:
    """What two dates say.

    Attributes:
        baseline: the earlier result.
        followup: the later one.
        registration: between their patient spaces.
        growths: every lesion of both in one finding, with its change; see `match_lesions`.
        response: by RECIST 1.1, and the WHO product.
        warnings: sentences a user should read.
    """

    baseline: Result
    followup: Result
    registration: Registration
    growths: tuple[Growth, ...]
    response: Response
    warnings: tuple[str, ...]


def compare(
    baseline: Result, followup: Result, targets: tuple[int, ...] | None = None
) -> Comparison:
    """Compare a follow-up with its baseline.

    Without a lesion at either date there is no finding, which is a result like any other.

    Args:
        baseline: the earlier result.
        followup: the later one.
        targets: the reader's target lesions by their number at the baseline; None: propose.

    Raises:
        InputError: the livers do not fit each other, or the targets cannot be followed.
    """
    if targets is not None:
        check_targets(targets, baseline.measurement.lesions)
    registration = register(
        (baseline.labels > 0, baseline.geometry), (followup.labels > 0, followup.geometry)
    )
    check(registration)
    findings = match_lesions(
        (baseline.lesion_map, baseline.geometry),
        (followup.lesion_map, followup.geometry),
        registration,
    )
    growths = tuple(_growth(finding, baseline, followup) for finding in findings)
    response = response_of(
        growths,
        baseline.measurement.lesions,
        followup.measurement.lesions,
        (slice_mm(baseline), slice_mm(followup)),
        targets,
    )
    warnings = tuple(_warnings(baseline, followup, registration))
    return Comparison(baseline, followup, registration, growths, response, warnings)


def slice_mm(result: Result) -> float:
    """Distance of its axial slices."""
    return result.geometry.spacing_mm[axial_axis(result.geometry)]


def _growth(finding: Finding, baseline: Result, followup: Result) -> Growth:
    before, after = (
        extent_of([result.measurement.lesions[n - 1] for n in numbers])
        for result, numbers in ((baseline, finding.baseline), (followup, finding.followup))
    )
    return growth_of(finding, before, after)


def _warnings(baseline: Result, followup: Result, registration: Registration) -> list[str]:
    """What makes the two dates less comparable."""
    warnings = []
    if baseline.geometry == followup.geometry and np.array_equal(baseline.labels, followup.labels):
        warnings.append(
            "Both dates have the same label map to the voxel: was one CT given for both?"
        )
    if registration.dice < DOUBTFUL_DICE:
        warnings.append(
            f"The livers overlap by a Dice of {registration.dice:.2f} only after registration. "
            "Livers of different patients reach 0.88: make sure that this is one patient, and "
            "look at the pairs of lesions."
        )
    if baseline.version != followup.version:
        warnings.append(
            f"The dates were segmented by different versions, {baseline.version} and "
            f"{followup.version}."
        )
    if baseline.models != followup.models:
        warnings.append(
            "The dates were segmented with different weights: a change may be theirs and not the "
            "patient's."
        )
    thin, thick = sorted([slice_mm(baseline), slice_mm(followup)])
    if thick > 1.5 * thin:
        warnings.append(
            f"Slices are {slice_mm(baseline):.4g} mm apart at the baseline and "
            f"{slice_mm(followup):.4g} mm at the follow-up: diameters and small volumes compare "
            "badly."
        )
    for date, result in zip(DATES, (baseline, followup), strict=True):
        cut = [str(x.lesion) for x in result.measurement.lesions if x.touches_edge]
        if cut:
            warnings.append(
                f"At the {date} the scan's edge may cut lesion {', '.join(cut)}: its size is what "
                "the scan shows."
            )
    return warnings


def recist_line(comparison: Comparison) -> str:
    """The response in one line of ASCII."""
    response = comparison.response
    line = f"RECIST 1.1, liver only: {response.response} ({MEANINGS[response.response]})"
    if response.target_response not in (None, response.response):
        line += f"; by the targets alone {response.target_response}"
    before, after = response.baseline_sum_mm, response.followup_sum_mm
    if before is None:
        return f"{line}. No target."
    plural = "s" if len(response.targets) > 1 else ""
    line += f". Target{plural} {' and '.join(map(str, response.targets))}"
    if after is None:
        return f"{line}: sum {before:.1f} mm, then not known."
    change = f"{after - before:+.1f} mm"
    change += f", {100 * (after - before) / before:+.1f} %" if before else ""
    return f"{line}: sum {before:.1f} -> {after:.1f} mm ({change})."


def burden_line(comparison: Comparison) -> str:
    """Liver, tumors and burden of both dates in one line of ASCII."""
    before, after = comparison.baseline.measurement, comparison.followup.measurement
    return (
        f"Liver {before.liver_volume_ml:.0f} -> {after.liver_volume_ml:.0f} mL. Tumors "
        f"{len(before.lesions)} -> {len(after.lesions)}, {before.tumor_volume_ml:.1f} -> "
        f"{after.tumor_volume_ml:.1f} mL, burden {before.tumor_burden_percent:.1f} -> "
        f"{after.tumor_burden_percent:.1f} %."
    )


def listed(numbers: tuple[int, ...]) -> str:
    """Lesion numbers as text.

    >>> listed((1, 3)), listed(())
    ('1+3', '-')
    """
    return "+".join(map(str, numbers)) or "-"
