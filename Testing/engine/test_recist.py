"""RECIST 1.1 and the WHO product: the guideline's numbers at their exact limits."""

from __future__ import annotations

import dataclasses
import doctest
import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.growth import Growth, extent_of, growth_of
from LiverTumorSegLib.matching import Finding
from LiverTumorSegLib.measure import Lesion
from LiverTumorSegLib.recist import (
    MEANINGS,
    Response,
    category,
    is_measurable,
    proposed_targets,
    response_of,
)

FIELDS = dataclasses.fields(Lesion)
SLICES = (2.5, 2.5)


def lesions(*sizes: float | tuple[float, float], edge: tuple[int, ...] = ()) -> list[Lesion]:
    """Lesions numbered from 1 by their long axis, or long and short axis."""
    made = []
    for number, size in enumerate(sizes, start=1):
        long_mm, short_mm = size if isinstance(size, tuple) else (size, size)
        told = {
            "lesion": number,
            "volume_ml": long_mm**3 / 2000,
            "long_axis_mm": long_mm,
            "short_axis_mm": short_mm,
            "touches_edge": number in edge,
        }
        made.append(Lesion(**dict.fromkeys((field.name for field in FIELDS), 0.0) | told))
    return made


def followed(
    before: list[Lesion],
    after: list[Lesion],
    *findings: Finding,
    slices: tuple[float, float] = SLICES,
    chosen: tuple[int, ...] | None = None,
) -> Response:
    growths: list[Growth] = [
        growth_of(
            finding,
            extent_of([before[n - 1] for n in finding.baseline]),
            extent_of([after[n - 1] for n in finding.followup]),
        )
        for finding in findings
    ]
    return response_of(growths, before, after, slices, chosen)


def pair(one: int | None, other: int | None, shown: bool = True) -> Finding:
    return Finding(((one, other),), shown)


# The sum's limits


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (25.0, 30.0, "PD"),  # exactly +20 % and exactly 5 mm
        (25.0, 29.99, "SD"),  # 4.99 mm
        (35.1, 42.12, "PD"),  # exactly +20 %, which floats miss
        (35.1, 42.11, "SD"),
        (20.0, 24.99, "SD"),  # +25 % but 4.99 mm
        (20.0, 25.0, "PD"),  # exactly 5 mm
        (100.0, 119.99, "SD"),
        (100.0, 120.0, "PD"),
        (10.0, 14.0, "SD"),  # +40 % but 4 mm
        (50.0, 35.0, "PR"),  # exactly -30 %
        (50.0, 35.01, "SD"),
        (33.3, 23.31, "PR"),  # exactly -30 %, which floats miss
        (33.3, 23.32, "SD"),
        (20.0, 0.0, "PR"),  # still there, but one voxel wide
        (20.0, 20.0, "SD"),
        (0.0, 0.0, "SD"),
        (0.0, 5.0, "PD"),
        (0.0, 4.99, "SD"),
    ],
)
def test_the_sum_at_its_limits(before: float, after: float, expected: str) -> None:
    assert category(before, after) == expected


@given(*[st.integers(1, 30000)] * 2)
def test_the_category_follows_the_guideline_in_whole_numbers(before: int, after: int) -> None:
    expected = "SD"
    if 100 * after >= 120 * before and after - before >= 500:
        expected = "PD"
    elif 100 * after <= 70 * before:
        expected = "PR"
    assert category(before / 100, after / 100) == expected


# Targets


@pytest.mark.parametrize(
    ("long_mm", "slice_mm", "measurable"),
    [
        (10.0, 5.0, True),
        (9.99, 5.0, False),
        (10.0, 1.0, True),
        (10.0, 5.01, False),
        (10.02, 5.01, True),
        (14.0, 7.0, True),
        (13.99, 7.0, False),
    ],
)
def test_what_is_measurable(long_mm: float, slice_mm: float, measurable: bool) -> None:
    assert is_measurable(lesions(long_mm)[0], slice_mm) is measurable


def test_the_two_longest_measurable_lesions_are_proposed_longest_first() -> None:
    assert proposed_targets(lesions(12.0, 30.0, 9.0, 25.0), 2.5) == (2, 4)
    assert proposed_targets(lesions(12.0, 9.99), 2.5) == (1,)
    assert proposed_targets(lesions(12.0, 30.0), 8.0) == (2,)
    assert proposed_targets(lesions(9.0, 8.0), 2.5) == ()
    assert proposed_targets([], 2.5) == ()


def test_a_lesion_that_the_scan_may_cut_is_not_proposed_but_may_be_chosen() -> None:
    before = lesions(40.0, 20.0, edge=(1,))
    assert proposed_targets(before, 2.5) == (2,)
    response = followed(before, before, pair(1, 1), pair(2, 2), chosen=(1,))
    assert (response.targets, response.proposed) == ((1,), False)
    assert "edge of the baseline scan" in " ".join(response.remarks)


def test_equally_long_lesions_go_by_volume() -> None:
    small, large = lesions(20.0, 20.0, 20.0)[:2], lesions(25.0)[0]
    equal = [*small, dataclasses.replace(large, lesion=3, long_axis_mm=20.0)]
    assert proposed_targets(equal, 2.5) == (3, 1)


def test_the_readers_choice_is_respected_and_its_flaw_told() -> None:
    before = lesions(40.0, 30.0, 8.0)
    all_same = [pair(n, n) for n in (1, 2, 3)]
    response = followed(before, before, *all_same, chosen=(3,))
    assert response.targets == (3,)
    assert response.baseline_sum_mm == 8.0
    assert "too short to be measurable" in " ".join(response.remarks)
    assert "--targets" not in " ".join(response.remarks)
    assert "--targets" in " ".join(followed(before, before, *all_same).remarks)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [((4,), "found 4"), ((0,), "found 0"), ((1, 1), "different"), ((1, 2, 3), "at most 2")],
)
def test_a_choice_that_cannot_be_followed_is_refused(chosen: tuple[int, ...], words: str) -> None:
    before = lesions(40.0, 30.0, 20.0)
    with pytest.raises(InputError, match=words):
        followed(before, before, *[pair(n, n) for n in (1, 2, 3)], chosen=chosen)


# The liver's response

TWO = lesions((30.0, 20.0), (20.0, 10.0), 8.0)


def test_sums_and_products_by_hand() -> None:
    after = lesions((36.0, 25.0), (24.0, 10.0), 8.0)
    response = followed(TWO, after, pair(1, 1), pair(2, 2), pair(3, 3))
    assert response.targets == (1, 2)
    assert (response.baseline_sum_mm, response.followup_sum_mm) == (50.0, 60.0)
    assert response.baseline_product_mm2 == 30 * 20 + 20 * 10
    assert response.followup_product_mm2 == 36 * 25 + 24 * 10
    assert (response.target_response, response.response) == ("PD", "PD")


@pytest.mark.parametrize(
    ("after", "findings", "target", "liver"),
    [
        ((30.0, 20.0, 8.0), (pair(1, 1), pair(2, 2), pair(3, 3)), "SD", "SD"),
        ((20.0, 15.0, 8.0), (pair(1, 1), pair(2, 2), pair(3, 3)), "PR", "PR"),
        ((8.0,), (pair(1, None), pair(2, None), pair(3, 1)), "CR", "PR"),
        ((), (pair(1, None), pair(2, None), pair(3, None)), "CR", "CR"),
        ((30.0,), (pair(1, 1), pair(2, None), pair(3, None)), "PR", "PR"),
        ((40.0,), (pair(1, 1), pair(2, None), pair(3, None)), "SD", "SD"),
        ((60.0,), (pair(1, 1), pair(2, None), pair(3, None)), "PD", "PD"),
        ((0.0,), (pair(1, 1), pair(2, None), pair(3, None)), "PR", "PR"),
    ],
)
def test_the_liver_follows_from_targets_and_others(
    after: tuple[float, ...], findings: tuple[Finding, ...], target: str, liver: str
) -> None:
    response = followed(TWO, lesions(*after), *findings)
    assert (response.target_response, response.response) == (target, liver)


def test_a_new_lesion_of_measurable_size_is_progression_whatever_the_targets_do() -> None:
    gone = [pair(1, None), pair(2, None), pair(3, None)]
    response = followed(TWO, lesions(10.0), *gone, pair(None, 1))
    assert (response.target_response, response.response) == ("CR", "PD")
    assert "unequivocal" in " ".join(response.remarks)


def test_a_small_new_lesion_is_named_but_decides_nothing() -> None:
    same = [pair(1, 1), pair(2, 2), pair(3, 3)]
    response = followed(TWO, [*TWO, lesions(1, 1, 1, 9.99)[3]], *same, pair(None, 4))
    assert response.response == "SD"
    assert "lesion 4. Look at it again" in " ".join(response.remarks)


def test_the_followups_slices_decide_whether_a_new_lesion_is_measurable() -> None:
    same = [pair(1, 1), pair(2, 2), pair(3, 3)]
    after = [*TWO, lesions(1, 1, 1, 12.0)[3]]
    assert followed(TWO, after, *same, pair(None, 4), slices=(2.5, 5.0)).response == "PD"
    assert followed(TWO, after, *same, pair(None, 4), slices=(2.5, 8.0)).response == "SD"


def test_what_the_baseline_scan_did_not_show_is_not_new() -> None:
    same = [pair(1, 1), pair(2, 2), pair(3, 3)]
    after = [*TWO, lesions(1, 1, 1, 30.0)[3]]
    assert followed(TWO, after, *same, pair(None, 4, shown=False)).response == "SD"


def test_a_target_outside_the_followup_scan_is_not_evaluable() -> None:
    response = followed(TWO, lesions(20.0), pair(1, None, shown=False), pair(2, 1), pair(3, None))
    assert (response.target_response, response.response) == ("NE", "NE")
    assert response.followup_sum_mm is None
    assert response.followup_product_mm2 is None
    assert "outside the follow-up scan" in " ".join(response.remarks)


def test_the_parts_of_a_target_are_added_up() -> None:
    parts = Finding(((1, 1), (1, 2)))
    response = followed(TWO, lesions(12.0, 10.0, 20.0), parts, pair(2, 3), pair(3, None))
    assert response.followup_sum_mm == 42.0


def test_targets_that_became_one_count_once() -> None:
    merged = Finding(((1, 1), (2, 1)))
    response = followed(TWO, lesions(45.0), merged, pair(3, None))
    assert (response.baseline_sum_mm, response.followup_sum_mm) == (50.0, 45.0)


def test_a_target_that_grew_together_with_another_lesion_says_so() -> None:
    response = followed(TWO, lesions(45.0, 20.0), Finding(((1, 1), (3, 1))), pair(2, 2))
    assert response.followup_sum_mm == 65.0
    assert "grew together with lesion 3" in " ".join(response.remarks)


@pytest.mark.parametrize(
    ("before", "after", "findings", "response"),
    [
        ((8.0,), (8.0,), (pair(1, 1),), "Non-CR/Non-PD"),
        ((8.0,), (30.0,), (pair(1, 1),), "Non-CR/Non-PD"),  # unequivocal? the reader's to say
        ((8.0,), (), (pair(1, None),), "CR"),
        ((8.0,), (8.0, 12.0), (pair(1, 1), pair(None, 2)), "PD"),
        ((), (12.0,), (pair(None, 1),), "PD"),
        ((), (6.0,), (pair(None, 1),), "NE"),
        ((), (), (), "none"),
    ],
)
def test_without_a_target(
    before: tuple[float, ...],
    after: tuple[float, ...],
    findings: tuple[Finding, ...],
    response: str,
) -> None:
    found = followed(lesions(*before), lesions(*after), *findings)
    assert found.response == response
    assert found.response in MEANINGS
    assert found.targets == ()
    assert found.target_response is None
    assert found.baseline_sum_mm is None
    assert found.followup_product_mm2 is None
    assert found.remarks[0].startswith("No ")


@pytest.mark.parametrize("name", ["recist", "comparison", "follow_up", "geometry"])
def test_the_examples_in_the_docstrings_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"LiverTumorSegLib.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
