"""Folds by patient, and the papers' own divisions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.recipe import Split
from LiverTumorSegLib.recipes import RECIPES
from Training.dataset import Case
from Training.folds import Division, divide

GRID = Geometry((4, 5, 6), (3.0, 1.0, 1.0))
PAPER = Split("LiTS", test_numbers=(27, 46), test_share=0.0, validation_share=0.25, folds=None)
SHARES = Split("some", test_numbers=None, test_share=0.1, validation_share=1 / 9, folds=None)


def case_of(name: str, patient: str, tumor_ml: float = 0.0, synthetic: bool = False) -> Case:
    return Case(
        name, patient, synthetic, GRID, True, liver_ml=1.0, tumor_ml=tumor_ml, lesions=0, sha256=""
    )


def numbered(count: int, name: str = "volume-{}") -> tuple[Case, ...]:
    """Cases numbered from 0, each of a patient of its own."""
    return tuple(case_of(name.format(i), f"patient{i}") for i in range(count))


def held_out_of(cases: tuple[Case, ...], fold: str) -> list[Case]:
    return divide(cases, fold, PAPER, seed=0).held_out


def numbers(cases: list[Case]) -> set[int]:
    return {int(case.name.split("-")[-1]) for case in cases}


# K/N


@st.composite
def cases_and_count(draw: st.DrawFn) -> tuple[tuple[Case, ...], int]:
    """Cases of some patients, one or several each, and a number of folds that fits."""
    several = st.lists(st.sampled_from("abcdefg"), min_size=2).filter(lambda p: len(set(p)) > 1)
    patients = draw(several)
    volumes_ml = st.sampled_from([0.0, 0.0, 1.0, 2.0, 50.0])
    cases = tuple(case_of(f"case{i}", p, draw(volumes_ml)) for i, p in enumerate(patients))
    return cases, draw(st.integers(2, len(set(patients))))


def tumor_patients(cases: list[Case] | tuple[Case, ...]) -> set[str]:
    return {case.patient for case in cases if case.tumor_ml}


@settings(max_examples=100, deadline=None)
@given(cases_and_count())
def test_every_case_is_held_out_once_and_no_patient_is_on_both_sides(
    drawn: tuple[tuple[Case, ...], int],
) -> None:
    cases, count = drawn
    all_held_out = []
    for number in range(1, count + 1):
        division = divide(cases, f"{number}/{count}", PAPER, seed=0)
        training, held_out = division.training, division.held_out
        assert division.test == []
        assert training
        assert held_out
        assert {c.patient for c in training}.isdisjoint(c.patient for c in held_out)
        assert sorted(c.name for c in training + held_out) == sorted(c.name for c in cases)
        all_held_out += held_out
    assert sorted(c.name for c in all_held_out) == sorted(c.name for c in cases)


@settings(max_examples=200, deadline=None)
@given(cases_and_count())
def test_folds_are_balanced(drawn: tuple[tuple[Case, ...], int]) -> None:
    """By patients, by those with a tumor, and by those with one above the median."""
    cases, count = drawn
    largest: dict[str, float] = {}
    for case in cases:
        largest[case.patient] = max(case.tumor_ml, largest.get(case.patient, 0.0))
    with_tumor = sorted(volume for volume in largest.values() if volume)
    middle = float(np.median(with_tumor)) if with_tumor else 0.0
    above = {patient for patient, volume in largest.items() if volume > max(middle, 0.0)}
    groups = (set(largest), tumor_patients(cases), above)
    held_out = [
        {c.patient for c in divide(cases, f"{k}/{count}", PAPER, seed=0).held_out}
        for k in range(1, count + 1)
    ]
    for group in groups:
        sizes = [len(patients & group) for patients in held_out]
        assert max(sizes) - min(sizes) <= 1


# Synthetic cases


@st.composite
def with_synthetic(draw: st.DrawFn) -> tuple[tuple[Case, ...], int]:
    """Real cases and a number of folds that fits, and synthetic cases of these and others."""
    cases, count = draw(cases_and_count())
    shown = draw(st.lists(st.sampled_from("abcdefgxyz"), max_size=12))
    made = [case_of(f"s{i}", patient, 70.0, synthetic=True) for i, patient in enumerate(shown)]
    return tuple(draw(st.permutations([*cases, *made]))), count


@settings(max_examples=200, deadline=None)
@given(with_synthetic())
def test_synthetic_cases_train_and_nothing_else(drawn: tuple[tuple[Case, ...], int]) -> None:
    """Real cases are divided as without them, and no held-out patient's shapes are trained on."""
    cases, count = drawn
    scanned = tuple(case for case in cases if not case.synthetic)
    made = {case.name: case.patient for case in cases if case.synthetic}
    for number in range(1, count + 1):
        fold = f"{number}/{count}"
        division, alone = (divide(c, fold, PAPER, seed=0) for c in (cases, scanned))
        assert division.held_out == alone.held_out
        assert division.test == []
        assert [case for case in division.training if not case.synthetic] == alone.training
        unseen = {case.patient for case in division.held_out}
        training = {case.name for case in division.training if case.synthetic}
        assert training == {name for name, patient in made.items() if patient not in unseen}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 59), max_size=20), st.integers(0, 9))
def test_papers_divide_real_cases_alone(patients: list[int], seed: int) -> None:
    scanned = numbered(50)
    made = tuple(
        case_of(f"made-{i}", f"patient{number}", 9.0, synthetic=True)
        for i, number in enumerate(patients)
    )
    for split in (PAPER, SHARES):
        division, alone = (divide(c, "paper", split, seed) for c in (scanned + made, scanned))
        assert (division.held_out, division.test) == (alone.held_out, alone.test)
        unseen = {case.patient for case in division.held_out + division.test}
        assert division.training == alone.training + [c for c in made if c.patient not in unseen]


def test_synthetic_patients_do_not_count_as_patients() -> None:
    cases = (*numbered(2), *(case_of(f"s{i}", f"s{i}", synthetic=True) for i in range(5)))
    with pytest.raises(InputError, match="2 <= N <= 2, the number of patients with a real CT"):
        divide(cases, "1/3", PAPER, seed=0)
    assert len(divide(cases, None, PAPER, seed=0).training) == 7


# What is dealt to which fold


def test_small_and_large_tumors_are_dealt_to_both_folds() -> None:
    """By hand: d and b are large, c and a small, e, f and g without; dealt in that order."""
    volumes_ml = {"a": 2.0, "b": 30.0, "c": 1.0, "d": 40.0, "e": 0.0, "f": 0.0, "g": 0.0}
    cases = tuple(case_of(name, name, volume) for name, volume in volumes_ml.items())
    held_out = [{c.name for c in held_out_of(cases, f"{k}/2")} for k in (1, 2)]
    assert held_out == [set("baeg"), set("dcf")]


def test_copies_of_a_ct_do_not_make_its_tumor_larger() -> None:
    """a and b have 3 mL each, a twice: both are small, and are dealt before c."""
    cases = tuple(case_of(n, n[0], 3.0) for n in ("a1", "a2", "b1")) + (case_of("c1", "c", 1.0),)
    assert [c.name for c in held_out_of(cases, "2/2")] == ["b1"]


def test_as_many_folds_as_patients_leave_one_patient_out() -> None:
    """In the order of names, whatever their tumors: the weights' cards rely on it."""
    cases = (
        case_of("a1", "a"),
        case_of("c1", "c", 90.0),
        case_of("b1", "b", 1.0),
        case_of("a2", "a"),
    )
    held_out = [[c.name for c in held_out_of(cases, f"{k}/3")] for k in (1, 2, 3)]
    assert held_out == [["a1", "a2"], ["b1"], ["c1"]]


def test_the_order_of_the_cases_does_not_change_the_folds() -> None:
    cases = tuple(case_of(name, name) for name in "badc")
    for fold in ("1/2", "2/2"):
        names = {c.name for c in held_out_of(cases, fold)}
        assert {c.name for c in held_out_of(cases[::-1], fold)} == names


def test_without_a_fold_everything_trains() -> None:
    cases = (case_of("a", "a"), case_of("b", "b"))
    assert divide(cases, None, PAPER, seed=0) == Division(list(cases), [], [])


@pytest.mark.parametrize(
    "fold", ["0/2", "3/2", "-1/2", "1/3", "1/1", "1/0", "1", "", "1/2/2", "a/b"]
)
def test_a_fold_that_cannot_be_is_refused(fold: str) -> None:
    cases = (case_of("a1", "a"), case_of("a2", "a"), case_of("b1", "b"))
    with pytest.raises(InputError, match=rf"--fold {fold}: expected K/N .* 2, the number"):
        divide(cases, fold, PAPER, seed=0)


# As the papers divided


def test_numbered_cases_are_left_out_and_a_share_of_the_others_held_out() -> None:
    """LiTS' 131 cases: 20 tested on, and 28 of the other 111 held out, as ELANRes-MSCA-UNet."""
    division = divide(numbered(131), "paper", PAPER, seed=0)
    assert numbers(division.test) == set(range(27, 47))
    assert (len(division.training), len(division.held_out)) == (83, 28)
    everyone = division.training + division.held_out + division.test
    assert numbers(everyone) == set(range(131))
    assert len(everyone) == 131


@pytest.mark.parametrize(
    ("name", "cases", "sizes"),
    [
        ("elanres-msca-liver", 131, (83, 28, 20)),
        ("unet3d-liver", 131, (89, 22, 20)),
        ("rmau-net", 131, (104, 0, 27)),
        ("msa-unet", 40, (32, 4, 4)),
    ],
)
def test_the_recipes_divide_as_their_papers_say(
    name: str, cases: int, sizes: tuple[int, int, int]
) -> None:
    split = RECIPES[name].training.split
    division = divide(numbered(cases), "paper", split, seed=0)
    if split.test_numbers:
        first, last = split.test_numbers
        assert numbers(division.test) == set(range(first, last + 1))
    assert (len(division.training), len(division.held_out), len(division.test)) == sizes


def test_shares_are_drawn_by_the_seed() -> None:
    drawn = []
    for split in (PAPER, SHARES):
        first, again, other = (divide(numbered(60), "paper", split, seed) for seed in (0, 0, 1))
        assert first == again
        drawn.append(numbers(first.held_out) != numbers(other.held_out))
        drawn.append(numbers(first.test) != numbers(other.test))
    assert drawn == [True, False, True, True]  # numbers are no matter of chance


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 60.0]), min_size=20, max_size=40), st.integers(0, 99))
def test_shares_hold_tumors_as_all_do(volumes_ml: list[float], seed: int) -> None:
    cases = tuple(case_of(f"c{i}", f"p{i}", volume) for i, volume in enumerate(volumes_ml))
    division = divide(cases, "paper", replace(SHARES, test_share=0.3), seed)
    rest = [case for case in cases if case not in division.test]
    for drawn, of in ((division.test, cases), (division.held_out, rest)):
        expected = len(drawn) * len(tumor_patients(of)) / len(of)
        assert abs(len(tumor_patients(drawn)) - expected) < 1


def test_the_order_of_the_cases_does_not_change_what_is_drawn() -> None:
    cases = numbered(40)
    first, turned = (divide(c, "paper", SHARES, seed=3) for c in (cases, cases[::-1]))
    assert numbers(first.held_out) == numbers(turned.held_out)
    assert numbers(first.test) == numbers(turned.test)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcdefghij"), min_size=12, max_size=30), st.integers(0, 5))
def test_no_patient_is_in_two_lists(patients: list[str], seed: int) -> None:
    cases = tuple(case_of(f"case{i}", patient) for i, patient in enumerate(patients))
    few = replace(PAPER, test_numbers=(3, 4))
    for split in (few, SHARES):
        try:
            division = divide(cases, "paper", split, seed)
        except InputError:
            assert len(set(patients)) <= 3  # nobody left to train on
            continue
        lists = (division.training, division.held_out, division.test)
        sides = [{case.patient for case in side} for side in lists]
        assert sum(map(len, sides)) == len(set(patients))
        assert sum(map(len, lists)) == len(cases)
        if split is few:
            assert {"case3", "case4"} <= {case.name for case in division.test}


@pytest.mark.parametrize("name", ["volume-{}", "{}", "case{}", "liver_{:04}"])
def test_a_number_may_stand_at_the_end_of_any_name(name: str) -> None:
    division = divide(numbered(50, name), "paper", PAPER, seed=0)
    assert [case.patient for case in division.test] == [f"patient{i}" for i in range(27, 47)]


def test_a_small_share_is_at_least_one_patient_and_none_is_none() -> None:
    small = replace(PAPER, validation_share=0.01)
    assert len(divide(numbered(4), "paper", small, seed=0).held_out) == 1
    none = replace(PAPER, validation_share=0.0)
    assert divide(numbered(4), "paper", none, seed=0).held_out == []


@pytest.mark.parametrize(
    ("split", "cases", "message"),
    [
        (PAPER, (case_of("27", "a"), case_of("hepatic", "b")), "at the end .* found 'hepatic'"),
        (replace(PAPER, folds=4), numbered(9), r"in 4 folds; .*--fold 1/4 to --fold 4/4"),
        (replace(PAPER, test_numbers=(0, 9)), numbered(9), "of 9 patients 9 are tested on"),
        (SHARES, numbered(2), "none is left to train on. The paper used some"),
    ],
)
def test_data_that_a_papers_division_does_not_fit_is_refused(
    split: Split, cases: tuple[Case, ...], message: str
) -> None:
    with pytest.raises(InputError, match=f"--fold paper: .*{message}"):
        divide(cases, "paper", split, seed=0)
