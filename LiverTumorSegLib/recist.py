"""RECIST 1.1 and the WHO product for the liver, from two dates.

After Eisenhauer et al., New response evaluation criteria in solid tumours: revised RECIST guideline
(version 1.1), Eur J Cancer 45, 2009, 228-247, doi:10.1016/j.ejca.2008.10.026:

- Measurable: a longest axial diameter of 10 mm or more, or of twice the slice thickness or more
  where that is above 5 mm. A file tells the distance of slices only, which stands for thickness.
- Targets: measurable lesions of the baseline, the longest first, at most two in an organ. A lesion
  that the scan's edge may cut is not proposed.
- Sum: of the targets' longest diameters. Those of a target's parts are added; targets that became
  one count as the one that they became.
- Complete response (CR): no target is left. Progressive disease (PD): the sum grew by 20 % or more
  and by 5 mm or more over the smallest sum before, which with two dates is the baseline's. Partial
  response (PR): it fell by 30 % or more. Else stable disease (SD). Not evaluable (NE): a target's
  place is outside the follow-up scan.
- The liver's response: PD also for a new lesion; CR only if the other lesions are gone as well,
  else PR. Without targets: CR, PD or Non-CR/Non-PD. Whether other lesions progressed unequivocally
  is left to the reader. A new lesion that is too small to be measurable is taken as equivocal.

WHO (WHO handbook for reporting results of cancer treatment, 1979): the sum over the targets of the
longest axial diameter times its perpendicular.

Diameters count in hundredths of a millimeter, as reports have them, so that limits are met exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.growth import Growth
from LiverTumorSegLib.measure import Lesion

MOST_TARGETS = 2
MEASURABLE_MM = 10.0
THICK_MM = 5.0

MEANINGS = {
    "CR": "complete response",
    "PR": "partial response",
    "SD": "stable disease",
    "PD": "progressive disease",
    "NE": "not evaluable",
    "Non-CR/Non-PD": "neither complete response nor progression, no target",
    "none": "no lesion at either date",
}


@dataclass(frozen=True)
class Response:
    """What RECIST 1.1 says of the liver.

    Attributes:
        targets: numbers of the target lesions at the baseline.
        proposed: whether this program chose them, and not the reader.
        baseline_sum_mm: sum of longest diameters; None without targets, as are the next four.
        followup_sum_mm: the same; None if it cannot be known, too.
        baseline_product_mm2: WHO's sum of products.
        followup_product_mm2: the same.
        target_response: a key of MEANINGS; None without targets.
        response: of the liver, a key of MEANINGS.
        remarks: sentences that a reader of the response needs.
    """

    targets: tuple[int, ...]
    proposed: bool
    baseline_sum_mm: float | None
    followup_sum_mm: float | None
    baseline_product_mm2: float | None
    followup_product_mm2: float | None
    target_response: str | None
    response: str
    remarks: tuple[str, ...]


def measurable_from_mm(slice_mm: float) -> float:
    """The least longest diameter of a measurable lesion.

    >>> measurable_from_mm(5.0), measurable_from_mm(7.5)
    (10.0, 15.0)
    """
    return MEASURABLE_MM if slice_mm <= THICK_MM else 2 * slice_mm


def is_measurable(lesion: Lesion, slice_mm: float) -> bool:
    """Whether its longest diameter reaches that, to a hundredth of a millimeter."""
    return _hundredths(lesion.long_axis_mm) >= _hundredths(measurable_from_mm(slice_mm))


def proposed_targets(lesions: Sequence[Lesion], slice_mm: float) -> tuple[int, ...]:
    """Numbers of the lesions that RECIST 1.1 takes, the longest first, of equals the larger."""
    fit = [x for x in lesions if is_measurable(x, slice_mm) and not x.touches_edge]
    fit.sort(key=lambda x: (-x.long_axis_mm, -x.volume_ml))
    return tuple(lesion.lesion for lesion in fit[:MOST_TARGETS])


def check_targets(targets: Sequence[int], lesions: Sequence[Lesion]) -> None:
    """Refuse a reader's choice that cannot be followed.

    Raises:
        InputError: no lesion has that number, one is named twice, or there are more than two.
    """
    known = [lesion.lesion for lesion in lesions]
    unknown = sorted(set(targets) - set(known))
    if unknown:
        there = f"1 to {len(known)}" if known else "none"
        raise InputError(
            f"--targets: expected lesions of the baseline ({there}, as in its lesions.csv), found "
            f"{', '.join(map(str, unknown))}. Choose others."
        )
    if len(set(targets)) < len(targets) or len(targets) > MOST_TARGETS:
        raise InputError(
            f"--targets: expected at most {MOST_TARGETS} different lesions, as RECIST 1.1 has it "
            f"for one organ, found {', '.join(map(str, targets))}. Choose fewer."
        )


def response_of(
    growths: Sequence[Growth],
    baseline: Sequence[Lesion],
    followup: Sequence[Lesion],
    slices_mm: tuple[float, float],
    chosen: tuple[int, ...] | None = None,
) -> Response:
    """Apply the rules at the top of this file.

    Args:
        growths: of all findings.
        baseline: the lesions at the baseline, ordered by number from 1.
        followup: those at the follow-up.
        slices_mm: distance of slices at the baseline and at the follow-up.
        chosen: the reader's targets by number; None: propose.

    Raises:
        InputError: the reader's choice cannot be followed.
    """
    if chosen is not None:
        check_targets(chosen, baseline)
    targets = proposed_targets(baseline, slices_mm[0]) if chosen is None else chosen
    followed = [g for g in growths if set(g.finding.baseline) & set(targets)]
    others = [g for g in growths if g.finding.baseline and g not in followed]
    new = [followup[n - 1] for g in growths if g.change == "new" for n in g.finding.followup]
    clear = [lesion for lesion in new if is_measurable(lesion, slices_mm[1])]
    remarks = [
        *_target_remarks(targets, followed, baseline, slices_mm[0], chosen is None),
        *_new_remarks(new, clear, slices_mm[1]),
    ]
    shown = all(g.change != "not shown" for g in followed)
    picked = [baseline[n - 1] for n in targets]
    before = sum(lesion.long_axis_mm for lesion in picked)
    after = sum(g.followup.long_axis_mm for g in followed)
    target_response = None
    if targets:
        target_response = "NE"
        if shown:
            left = any(g.finding.followup for g in followed)
            target_response = category(before, after) if left else "CR"
    response = _overall(target_response, others, bool(clear), bool(baseline or followup))
    known = bool(targets) and shown
    return Response(
        targets=targets,
        proposed=chosen is None,
        baseline_sum_mm=before if targets else None,
        followup_sum_mm=after if known else None,
        baseline_product_mm2=(
            sum(x.long_axis_mm * x.short_axis_mm for x in picked) if targets else None
        ),
        followup_product_mm2=sum(g.followup.product_mm2 for g in followed) if known else None,
        target_response=target_response,
        response=response,
        remarks=tuple(remarks),
    )


def category(baseline_sum_mm: float, followup_sum_mm: float) -> str:
    """PR, SD or PD by the sum of diameters of targets that are still there.

    >>> category(25.0, 30.0), category(20.0, 24.0), category(50.0, 35.0), category(50.0, 35.01)
    ('PD', 'SD', 'PR', 'SD')
    """
    before, after = _hundredths(baseline_sum_mm), _hundredths(followup_sum_mm)
    if after - before >= 500 and 10 * (after - before) >= 2 * before:
        return "PD"
    return "PR" if 10 * (before - after) >= 3 * before and before > after else "SD"


def _overall(target: str | None, others: Sequence[Growth], new: bool, any_lesion: bool) -> str:
    """The liver's response from the targets', the other lesions of the baseline and new ones."""
    if new or target == "PD":
        return "PD"
    if not any_lesion:
        return "none"
    if target in ("NE", "PR", "SD"):
        return target
    if any(g.change != "gone" for g in others):
        return "PR" if target == "CR" else "Non-CR/Non-PD"
    return "CR" if target or others else "NE"


def _target_remarks(
    targets: Sequence[int],
    followed: Sequence[Growth],
    baseline: Sequence[Lesion],
    slice_mm: float,
    proposed: bool,
) -> list[str]:
    least_mm = measurable_from_mm(slice_mm)
    if not targets:
        if not baseline:
            return ["No lesion at the baseline."]
        return [f"No target: no lesion of the baseline is {least_mm:.4g} mm or longer."]
    remarks = []
    if proposed:
        remarks.append(
            f"The targets are a proposal: the longest lesions of the baseline of {least_mm:.4g} mm "
            "or more. Choose others with --targets."
        )
    for number in targets:
        if not is_measurable(baseline[number - 1], slice_mm):
            length = baseline[number - 1].long_axis_mm
            remarks.append(
                f"Target {number} is {length:.1f} mm long, too short to be measurable "
                f"({least_mm:.4g} mm)."
            )
        if baseline[number - 1].touches_edge:
            remarks.append(f"Target {number} reaches the edge of the baseline scan.")
    for growth in followed:
        more = [n for n in growth.finding.baseline if n not in targets]
        if more:
            listed = ", ".join(map(str, more))
            remarks.append(
                f"A target grew together with lesion {listed}, which is none: the sum at the "
                "follow-up holds both."
            )
        if growth.change == "not shown":
            listed = ", ".join(map(str, growth.finding.baseline))
            remarks.append(f"Target {listed} lies outside the follow-up scan.")
    return remarks


def _new_remarks(new: Sequence[Lesion], clear: Sequence[Lesion], slice_mm: float) -> list[str]:
    remarks = []
    if clear:
        listed = ", ".join(str(lesion.lesion) for lesion in clear)
        remarks.append(
            f"New at the follow-up: lesion {listed}. Progression by a new lesion asks for a reader "
            "who finds it unequivocal."
        )
    small = [str(lesion.lesion) for lesion in new if lesion not in clear]
    if small:
        remarks.append(
            f"New but shorter than {measurable_from_mm(slice_mm):.4g} mm, too small to count as "
            f"unequivocal: lesion {', '.join(small)}. Look at it again."
        )
    return remarks


def _hundredths(mm: float) -> int:
    return round(100 * mm)
