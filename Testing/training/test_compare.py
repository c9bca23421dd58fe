"""Scores side by side: the numbers by hand, what is refused, and the page that a reader gets."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from LiverTumorSegLib.recipes import RECIPES, REPORTED
from Testing.training.score_cases import score_of
from Training import compare
from Training.budget import Budget, Done
from Training.compared_runs import Group, Run, group_scores
from Training.comparison import (
    agreement,
    by_size,
    compare_pairs,
    holm,
    reported_figure,
    summarize,
    t_test,
    wilcoxon_test,
)
from Training.scores import (
    LesionScore,
    Score,
    read_scores,
    recipe_label,
    write_lesions,
    write_scores,
)

# Hours of sleep gained by ten patients on one drug less those on another (Student, Biometrika 6,
# 1908); its paired t-test is in every textbook: t = -4.0621, p = 0.002833.
SLEEP = np.array([-1.2, -2.4, -1.3, -1.3, 0.0, -1.0, -1.8, -0.8, -4.6, -1.4])
CASES = tuple("abcdefgh")
RMAU = recipe_label(RECIPES["rmau-net"])


def scores_of(dices: list[float], target: str = "tumor", **changes: Any) -> list[Score]:
    """One score a case, called a, b, c..."""
    names = [chr(ord("a") + i) for i in range(len(dices))]
    return [score_of(n, target, d, **changes) for n, d in zip(names, dices, strict=True)]


def group(**runs: list[float]) -> Group:
    rows = {name: scores_of(dices) for name, dices in runs.items()}
    cases = tuple(row.case for row in next(iter(rows.values())))
    return Group("tumor", "prediction", cases, rows)


def written(folder: Path, scores: list[Score], lesions: list[LesionScore] | None = None) -> Path:
    """A folder as `Training.evaluate` leaves it."""
    folder.mkdir(parents=True)
    write_scores(folder / "scores.csv", scores)
    if lesions is not None:
        write_lesions(folder / "lesions.csv", lesions)
    return folder


def lesion(case: str, diameter_mm: float, dice: float | None, mask: str = "reference") -> Any:
    """A lesion, detected if its Dice is above 2/3, touched if it has any."""
    match = None if dice is None else 1
    found = dice is not None and dice > 2 / 3
    sizes = dict.fromkeys(("volume_ml", "long_axis_mm", "major_axis_mm"), diameter_mm)
    rest = {"iou": dice, "rvd": dice, "assd_mm": dice, "rmsd_mm": dice, "hd_mm": dice}
    return LesionScore(
        case=case,
        mask=mask,
        lesion=1,
        **sizes,
        touched=match is not None,
        detected=found,
        match=match,
        match_volume_ml=match,
        match_long_axis_mm=match,
        dice=dice,
        **rest,
    )


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


# Numbers


def test_means_are_over_the_cases_where_a_measure_is_defined() -> None:
    rows = scores_of([0.2, 0.4, 0.9])
    distances = [1.0, None, 4.0]
    rows = [replace(row, assd_mm=d, rvd=None) for row, d in zip(rows, distances, strict=True)]
    found = {s.measure: s for s in summarize(Group("tumor", "prediction", CASES[:3], {"x": rows}))}
    dice, distance = found["dice"], found["assd_mm"]
    assert (dice.n, dice.mean, dice.median) == (3, pytest.approx(0.5), 0.4)
    assert dice.sd == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 3))
    assert (distance.n, distance.mean, distance.sd, distance.median) == (2, 2.5, 1.5, 2.5)
    assert "rvd" not in found, "defined nowhere"


def test_volumes_agree_within_bias_and_limits() -> None:
    """Differences 1, 2, 3 mL: mean 2, SD 1."""
    rows = [
        replace(row, predicted_ml=10.0 * i + i, reference_ml=10.0 * i)
        for i, row in enumerate(scores_of([0.5] * 3), start=1)
    ]
    assert agreement(rows) == pytest.approx((2.0, 0.04, 3.96))
    assert agreement(rows[:1]) == (pytest.approx(1.0), None, None)


def test_the_t_test_is_students() -> None:
    p, reason = t_test(SLEEP)
    assert p == pytest.approx(0.002833, abs=5e-7)
    assert reason == ""


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([1, 2, 3, 4, 5, 6], 2 / 64),  # of 64 signs only two are as extreme
        ([-1, 2, 3, 4, 5, 6], 4 / 64),
        ([1, 2, 3, 4, 5, -6], 28 / 64),  # rank sum 6 or less: 14 of 64 on each side
        ([1, 2, 3, 4, 5, 6, 0, 0], 2 / 64),
    ],
)
def test_the_signed_rank_test_counts_signs(differences: list[float], expected: float) -> None:
    assert wilcoxon_test(np.array(differences, float)) == (pytest.approx(expected), "")


@pytest.mark.parametrize(
    ("differences", "t_reason", "wilcoxon_reason"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], "n < 6", "n < 6"),
        ([0.0] * 8, "all differences are zero", "all differences are zero"),
        ([0.25] * 8, "all differences are equal", ""),
        ([0.1, 0.2, 0, 0, 0, 0, 0], "", "fewer than 6 differences are not zero"),
    ],
)
def test_tests_that_are_not_defined_say_why(
    differences: list[float], t_reason: str, wilcoxon_reason: str
) -> None:
    for test, reason in ((t_test, t_reason), (wilcoxon_test, wilcoxon_reason)):
        p, found = test(np.array(differences, float))
        assert found == reason
        assert (p is None) == bool(reason)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.01], [0.01]),
        ([0.04, 0.01], [0.04, 0.02]),
        ([0.03, 0.01, 0.04], [0.06, 0.03, 0.06]),  # the largest stays no smaller than the middle
        ([0.6, None, 0.5], [1.0, None, 1.0]),
        ([None], [None]),
    ],
)
def test_holms_correction(p_values: list[float | None], expected: list[float | None]) -> None:
    assert holm(p_values) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_a_corrected_p_is_never_smaller_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    assert min(corrected) == min(1, min(p_values) * len(p_values))
    order = np.argsort(p_values, kind="stable")
    assert [corrected[i] for i in order] == sorted(corrected)


@settings(max_examples=20, deadline=None)  # scipy counts signs, which takes a while
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=12))
def test_exchanging_two_runs_changes_only_the_sign(pairs: list[tuple[int, int]]) -> None:
    one, two = ([value / 8 for value in values] for values in zip(*pairs, strict=True))
    (first,) = compare_pairs(group(one=one, two=two))
    (second,) = compare_pairs(group(two=two, one=one))
    assert second.mean_difference == -first.mean_difference
    assert (second.first, second.second) == ("two", "one")
    assert (second.t_p, second.t_reason) == (pytest.approx(first.t_p), first.t_reason)
    assert second.wilcoxon_p == pytest.approx(first.wilcoxon_p)


def test_what_is_equal_in_decimals_is_a_tie() -> None:
    one = [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8]
    (found,) = compare_pairs(group(one=one, two=[dice - 0.05 for dice in one]))
    assert found.t_reason == "all differences are equal"
    assert found.wilcoxon_p == pytest.approx(2 / 2**7)


def test_three_runs_make_three_pairs_with_corrected_p() -> None:
    worse = [0.1 + i / 100 for i in range(8)]
    better = [0.2 + i / 50 for i in range(8)]
    found = compare_pairs(group(a=worse, b=better, c=worse))
    assert [(c.first, c.second) for c in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    ab, ac, bc = found
    assert ab.wilcoxon_p == bc.wilcoxon_p == pytest.approx(2 / 2**8)
    assert ab.wilcoxon_p_holm == bc.wilcoxon_p_holm == pytest.approx(2 * 2 / 2**8), "two defined"
    assert (ac.t_p_holm, ac.t_reason) == (None, "all differences are zero")
    assert ab.mean_difference == pytest.approx(-0.135)


def test_lesions_are_counted_by_size() -> None:
    lesions = [
        lesion("a", 9.9, None),
        lesion("a", 10.0, 0.5),
        lesion("b", 19.0, 0.8),
        lesion("b", 70.0, 0.9),
        lesion("b", 70.0, 0.9, mask="prediction"),
        lesion("z", 70.0, 0.9),  # of a case that is not compared
    ]
    one = group(x=[0.5, 0.5])
    rows = by_size(one, [Run("x", one.rows["x"], lesions, None), Run("y", [], None, None)])
    assert [(r.run, r.size, r.lesions, r.detected, r.touched, r.mean_dice) for r in rows] == [
        ("x", "0 to 10 mm", 1, 0, 0, 0.0),
        ("x", "10 to 20 mm", 2, 1, 2, pytest.approx(0.65)),
        ("x", "20 to 50 mm", 0, 0, 0, None),
        ("x", "50 mm or more", 1, 1, 1, 0.9),
    ]


# The papers' figures


@pytest.mark.parametrize(
    ("recipe", "target", "figure", "value"),
    [
        ("rmau-net", "liver", "VOE", 0.0792),
        ("rmau-net", "tumor", "VOE", 0.3709),
        ("rmau-net", "tumor", "IoU", None),
        ("msa-unet", "liver", "IoU", 0.9608),
        ("msa-unet", "tumor", "IoU", None),  # named without a target, but of the liver
        ("elanres-msca-tumor", "tumor", "ASD mm", 1.012),
        ("elanres-msca-liver", "tumor", "Dice", None),
        ("starter-liver", "liver", "Dice", None),
        ("no-such-recipe", "liver", "Dice", None),
    ],
)
def test_papers_figures_are_those_of_the_recipe_and_target(
    recipe: str, target: str, figure: str, value: float | None
) -> None:
    found, data = reported_figure(recipe, target, figure)
    assert found == value
    assert (data is None) == (value is None)


def test_of_two_stages_each_stands_beside_its_own_paper() -> None:
    """Liver weights of one paper, weights for both of another: the latter found the tumors."""
    recipes = {"liver": "elanres-msca-liver@1", "tumor": "elanres-msca-liver@1 rmau-net@2"}
    dices = {
        target: summarize(Group(target, "prediction", ("a",), {"x": rows}))[0].reported
        for target, names in recipes.items()
        if (rows := scores_of([0.5], target, recipes=names))
    }
    assert dices == {"liver": 0.972, "tumor": 0.7616}


def test_every_figure_of_every_paper_finds_its_column() -> None:
    for name, reported in REPORTED.items():
        found = [
            value
            for target in RECIPES[name].targets
            for _, figure, _ in compare.MEASURES.values()
            if (value := reported_figure(name, target, figure)[0]) is not None
        ]
        assert sorted(found) == sorted(reported.figures.values()), name


# What is compared


def test_the_liver_comes_first_and_each_place_of_search_is_its_own() -> None:
    rows = [
        *scores_of([0.5], "tumor"),
        *scores_of([0.6], "tumor", liver_from="reference"),
        *scores_of([0.9], "liver"),
    ]
    groups = group_scores([Run("x", rows, None, None), Run("y", rows, None, None)], shared=False)
    assert [(g.target, g.liver_from, g.rows["y"][0].dice) for g in groups] == [
        ("liver", "prediction", 0.9),
        ("tumor", "prediction", 0.5),
        ("tumor", "reference", 0.6),
    ]


def test_rows_are_paired_by_case_whatever_their_order(tmp_path: Path) -> None:
    rows = scores_of([0.1, 0.2, 0.3])
    (found,) = group_scores(
        [Run("x", rows, None, None), Run("y", rows[::-1], None, None)], shared=False
    )
    assert found.cases == ("a", "b", "c")
    assert found.rows["x"] == found.rows["y"] == rows


# The whole command


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two runs of eight cases, the second better on the tumor and one case of it seen."""
    random = np.random.default_rng(4)
    liver = random.uniform(0.85, 0.97, 8).round(3).tolist()
    tumor = random.uniform(0.2, 0.7, 8).round(3)
    lesions = [lesion(c, 5.0 * (i + 1), 0.1 * (i + 2)) for i, c in enumerate(CASES)]
    plain = [*scores_of(liver, "liver"), *scores_of(tumor.tolist(), "tumor", hd95_mm=None)]
    plain = [replace(row, predicted_ml=100 + 30 * row.dice, reference_ml=110.0) for row in plain]
    better = [
        replace(row, dice=min(1.0, row.dice + 0.05 * (row.target == "tumor")), recipes=RMAU)
        for row in plain
    ]
    better[8] = replace(better[8], seen=True)
    return [
        written(tmp_path / "plain", plain, lesions),
        written(tmp_path / "better", better, lesions),
    ]


def test_a_comparison_is_complete(
    two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "deep" / "table"
    assert compare.main([*map(str, two), "-o", str(table)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{table / 'comparison.md'}\n"
    assert shown.err.startswith("warning: better: its weights had seen the patients of a in")
    assert {path.name for path in table.iterdir()} == set(compare.FILE_NAMES)

    measures = {(r["target"], r["run"], r["measure"]): r for r in table_of(table / "measures.csv")}
    row = measures["tumor", "better", "dice"]
    assert (row["n"], row["reported"], row["reported_data"]) == ("8", "0.7616", "LiTS 0-26")
    assert measures["tumor", "plain", "dice"]["reported"] == ""
    assert float(row["mean"]) == pytest.approx(
        float(measures["tumor", "plain", "dice"]["mean"]) + 0.05
    )
    (liver, tumor) = table_of(table / "tests.csv")
    assert liver["t_reason"] == "all differences are zero"
    assert float(tumor["mean_difference"]) == pytest.approx(-0.05)
    assert {r["size"] for r in table_of(table / "sizes.csv")} >= {"0 to 10 mm", "20 to 50 mm"}

    page = (table / "comparison.md").read_text()
    assert "Dice 0.7616, VOE 0.3709 (LiTS 0-26)" in page
    assert "What papers report is theirs" in page
    assert "- (all differences are zero)" in page
    assert f"{RMAU} (as listed)" in page
    assert "starter-tumor@0123456789ab (changed)" in page
    assert "**Warning.** better" in page
    for name in ("dice.png", "volumes.png"):
        assert f"]({name})" in page
        with Image.open(table / name) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert min(image.size) > 300
        assert len(np.unique(pixels, axis=0)) > 20, "not blank"
    dices = np.array([s.dice for s in read_scores(two[0] / "scores.csv") if s.target == "liver"])
    assert f"| plain | {dices.mean():.3f} ± {dices.std():.3f} | 1.000 ± 0.000 |" in page
    assert f"| plain | {np.median(dices):.3f} | 1.000 |" in page


def test_every_row_of_a_table_has_the_cells_of_its_head(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "a|b").mkdir()
    two[0].replace(tmp_path / "a|b" / "c|d")
    runs = [str(tmp_path / "a|b" / "c|d"), str(two[1])]
    assert compare.main([*runs, "-o", str(tmp_path / "table")]) == 0
    tables = (tmp_path / "table" / "comparison.md").read_text().split("\n\n")
    for table in tables:
        lines = table.strip().splitlines()
        if lines[0].startswith("|"):
            assert len({line.count("|") for line in lines}) == 1
            assert len(lines) >= 3


def test_systems_stand_side_by_side_with_their_minutes(tmp_path: Path) -> None:
    """A cross-validation's folder tells the minutes; two recipes of a fold add up."""
    livers = scores_of([0.9, 0.95], "liver", lesions=0, false_lesions=0)
    found = {"lesions": 2, "lesions_detected": 1, "lesion_recall": 0.5, "lesion_precision": 0.25}
    tumors = scores_of([0.2, 0.6], false_lesions=3, **found)
    ours = written(tmp_path / "ours" / "scores", [*livers, *tumors]).parent
    other = written(tmp_path / "other", [*livers, *scores_of([1.0, 1.0])])
    minutes = {("liver", 1): 1.0, ("tumor", 1): 2.0, ("liver", 2): 1.5, ("tumor", 2): 2.5}
    done = tuple(Done(r, fold, (), 1, m, 0.0, "a CPU") for (r, fold), m in minutes.items())
    budget = Budget(minutes=2.0, speeds={}, settings={}, trainings=done)
    (ours / "budget.json").write_text(json.dumps(asdict(budget)))
    assert compare.main([str(ours), str(other), "-o", str(tmp_path / "table")]) == 0
    page = (tmp_path / "table" / "comparison.md").read_text()
    head = (
        "| run | liver Dice | tumor Dice | lesion recall | lesion precision | false lesions "
        "| training, minutes a fold |"
    )
    assert head in page
    rows = page[page.index(head) :].splitlines()[2:4]
    assert rows == [
        "| ours | 0.925 ± 0.025 | 0.400 ± 0.200 | 0.500 ± 0.000 | 0.250 ± 0.000 | 3.0 ± 0.0 "
        "| 3.5 |",
        "| other | 0.925 ± 0.025 | 1.000 ± 0.000 | 1.000 ± 0.000 | 1.000 ± 0.000 | 0.0 ± 0.0 | - |",
    ]
    assert "\nTrained on a CPU.\n" in page
    assert "| b | 0.950 | 0.950 |" in page
    assert "| b | 0.600, 1 of 2, 3 false | 1.000, 1 of 1, 0 false |" in page


def test_a_liver_has_no_false_lesions() -> None:
    rows = {"x": scores_of([0.9], "liver", lesions=0)}
    found = {row.measure for row in summarize(Group("liver", "prediction", ("a",), rows))}
    assert "dice" in found
    assert "false_lesions" not in found


def test_a_damaged_budget_is_refused(
    two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (two[0] / "budget.json").write_text("{}")
    assert compare.main([*map(str, two), "-o", str(tmp_path / "table")]) == 2
    assert "budget.json: expected the budget" in capsys.readouterr().err


def test_a_single_run_stands_beside_its_paper(two: list[Path], tmp_path: Path) -> None:
    assert compare.main([str(two[1]), "-o", str(tmp_path / "table")]) == 0
    page = (tmp_path / "table" / "comparison.md").read_text()
    assert "Dice 0.9552" in page
    assert "t-test" not in page
    assert table_of(tmp_path / "table" / "tests.csv") == []


def test_folders_of_one_name_are_told_apart(two: list[Path], tmp_path: Path) -> None:
    for place in ("x", "y"):
        written(tmp_path / place / "out", scores_of([0.5]))
    runs = [str(tmp_path / place / "out") for place in ("x", "y")]
    assert compare.main([*runs, "-o", str(tmp_path / "table")]) == 0
    measures = table_of(tmp_path / "table" / "measures.csv")
    assert {row["run"] for row in measures} == {"x/out", "y/out"}


def test_shared_cases_are_compared_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = written(tmp_path / "one", scores_of([0.1, 0.2, 0.3]))
    two = written(tmp_path / "two", scores_of([0.1, 0.2]))
    table = tmp_path / "table"
    assert compare.main([str(one), str(two), "-o", str(table), "--shared"]) == 0
    assert "warning: one: c left out" in capsys.readouterr().err
    assert {row["n"] for row in table_of(table / "measures.csv")} == {"2"}
    assert "c left out" in (table / "comparison.md").read_text()


def test_a_target_that_only_some_measured_is_left_out_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = written(tmp_path / "one", [*scores_of([0.1], "tumor"), *scores_of([0.9], "liver")])
    two = written(tmp_path / "two", scores_of([0.8], "liver"))
    assert compare.main([str(one), str(two), "-o", str(tmp_path / "table")]) == 0
    assert "warning: one: its tumor scores (liver from prediction)" in capsys.readouterr().err
    assert {row["target"] for row in table_of(tmp_path / "table" / "measures.csv")} == {"liver"}


def test_an_earlier_comparison_is_replaced_whole(two: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "table"
    assert compare.main([*map(str, two), "-o", str(table)]) == 0
    for run in two:
        (run / "lesions.csv").unlink()
    assert compare.main([*map(str, two), "-o", str(table)]) == 0
    assert {path.name for path in table.iterdir()} == {*compare.FILE_NAMES} - {"sizes.csv"}


def other_definitions(scores: list[Score]) -> list[Score]:
    return [replace(score, definitions="lits") for score in scores]


def other_cases(scores: list[Score]) -> list[Score]:
    return [replace(score, case=f"{score.case}2") for score in scores]


def fewer_cases(scores: list[Score]) -> list[Score]:
    return scores[:2]


def other_labels(scores: list[Score]) -> list[Score]:
    return [replace(score, ct="another") for score in scores]


def other_target(scores: list[Score]) -> list[Score]:
    return [replace(score, target="liver") for score in scores]


def no_scores(scores: list[Score]) -> list[Score]:
    return []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_definitions, "found lits in two, product in one"),
        (other_cases, "one lacks a2, b2, c2; two lacks a, b, c. Evaluate what is lacking, or none"),
        (fewer_cases, "two lacks c. Evaluate what is lacking, or compare the 2 that all have"),
        (other_labels, "in two the CT or labels of a, b, c are not those in one"),
        (other_target, "one: tumor (liver from prediction); two: liver (liver from prediction)"),
        (no_scores, "scores.csv: expected scores of a case or more"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[Score]], list[Score]],
    message: str,
) -> None:
    one = written(tmp_path / "one", scores_of([0.1, 0.2, 0.3]))
    two = written(tmp_path / "two", change(scores_of([0.1, 0.2, 0.3])))
    assert compare.main([str(one), str(two), "-o", str(tmp_path / "table")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "table").exists()


def test_a_folder_twice_or_none_is_refused(
    two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for runs, message in (
        ([two[0], two[0] / ".." / "plain"], "given twice"),
        (
            [two[0], tmp_path / "none"],
            f"{tmp_path / 'none' / 'scores.csv'}: expected the scores.csv",
        ),
    ):
        assert compare.main([*map(str, runs), "-o", str(tmp_path / "table")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "table").exists()


def test_a_table_that_cannot_be_written_is_refused(
    two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table").write_text("in the way")
    assert compare.main([*map(str, two), "-o", str(tmp_path / "table")]) == 2
    assert "expected a folder to write to" in capsys.readouterr().err
