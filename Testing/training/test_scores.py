"""The files of scores and lesions, and which rows belong together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.recipes import RECIPES
from Testing.training.score_cases import score_of
from Training.scores import (
    LesionScore,
    Score,
    check_mergeable,
    merged,
    read_lesions,
    read_scores,
    recipe_label,
    write_lesions,
    write_scores,
)

LESION = LesionScore(
    case="a",
    mask="reference",
    lesion=1,
    volume_ml=1 / 3,
    long_axis_mm=12.5,
    major_axis_mm=14.25,
    touched=True,
    detected=False,
    match=2,
    match_volume_ml=0.1,
    match_long_axis_mm=0.0,
    iou=0.3,
    dice=0.4,
    rvd=-0.7,
    assd_mm=1.5,
    rmsd_mm=2.5,
    hd_mm=5.5,
)


def optional(kind: type) -> list[str]:
    return [field.name for field in fields(kind) if str(field.type).endswith("None")]


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Every number to its last digit, and what is not defined too; sorted by target and case."""
    empty = score_of("b", "tumor", 0.0, seen=True, **dict.fromkeys(optional(Score)))
    rows = [empty, score_of("a", "tumor", 1 / 3), score_of("b", "liver", 0.2, rvd=-0.1)]
    path = tmp_path / "scores.csv"
    write_scores(path, rows)
    assert read_scores(path) == [rows[2], rows[1], rows[0]]
    assert [p.name for p in tmp_path.iterdir()] == ["scores.csv"]


def test_lesions_are_read_as_they_were_written(tmp_path: Path) -> None:
    none = replace(LESION, mask="prediction", touched=False, **dict.fromkeys(optional(LesionScore)))
    rows = [replace(LESION, case="b"), none, replace(LESION, lesion=10), replace(LESION, lesion=9)]
    path = tmp_path / "lesions.csv"
    write_lesions(path, rows)
    assert read_lesions(path) == [rows[3], rows[2], rows[1], rows[0]]
    write_lesions(path, [])
    assert read_lesions(path) == []


def test_measured_anew_replaces(tmp_path: Path) -> None:
    earlier = [score_of("b", "tumor", 0.1), score_of("b", "liver", 0.2)]
    new = [score_of("a", "tumor", 0.3), score_of("b", "tumor", 0.4)]
    dices = {(s.case, s.target): s.dice for s in merged(earlier, new)}
    assert dices == {("b", "liver"): 0.2, ("a", "tumor"): 0.3, ("b", "tumor"): 0.4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"case": "b", "recipes": "dpc-net@ab"}, "with recipes starter-tumor@0123456789ab, but b"),
        ({"case": "b", "tta": True}, "with tta False"),
        ({"case": "b", "liver_from": "reference"}, "with liver_from prediction"),
        ({"case": "b", "definitions": "lits"}, "with definitions product"),
        ({"case": "b", "target": "liver", "definitions": "lits"}, "with definitions product"),
        ({"ct": "ba9876543210"}, "with ct 0123456789ab"),  # another patient of that name
    ],
)
def test_rows_without_a_common_mean_are_refused(changes: dict[str, Any], message: str) -> None:
    earlier, path = [score_of("a", "tumor", 0.5)], Path("out", "scores.csv")
    with pytest.raises(InputError, match=message) as caught:
        check_mergeable(path, earlier, [replace(earlier[0], **changes)])
    assert str(caught.value).startswith(f"{path}: holds the tumor of a")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"case": "b", "ct": "ba9876543210"},
        {"case": "b", "weights": "fold2@ba9876543210", "seen": True, "data": "other"},
        {"target": "liver", "recipes": "starter-liver@ab", "liver_from": "reference"},
    ],
    ids=["anew", "another case", "another fold", "another target"],
)
def test_folds_and_targets_belong_together(changes: dict[str, Any]) -> None:
    earlier = [score_of("a", "tumor", 0.5)]
    check_mergeable(Path("scores.csv"), earlier, [replace(earlier[0], **changes)])


def cut_off(text: str) -> str:
    return text[: text.rindex(",")]


def another_table(text: str) -> str:
    return "case,volume\na,3\n"


def no_number(text: str) -> str:
    return text.replace("0.25", "much")


def not_a_number(text: str) -> str:
    return text.replace("0.25", "nan")


def half_a_lesion(text: str) -> str:
    return text.replace(",1,", ",1.5,")


def no_text(text: str) -> str:
    return "\udcff"


DAMAGES = [cut_off, another_table, no_number, not_a_number, half_a_lesion, no_text]


@pytest.mark.parametrize("damage", DAMAGES)
def test_scores_that_cannot_be_read_are_refused(
    tmp_path: Path, damage: Callable[[str], str]
) -> None:
    path = tmp_path / "scores.csv"
    write_scores(path, [score_of("a", "liver", 0.25)])
    text = damage(path.read_text())
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=rf"{path}: expected the scores.csv of this version"):
        read_scores(path)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the scores.csv"):
        read_scores(tmp_path / "none.csv")
    with pytest.raises(InputError, match="expected the lesions.csv"):
        read_lesions(tmp_path / "none.csv")


def test_folds_of_a_recipe_with_measured_statistics_have_one_label() -> None:
    """The statistics are those of the training cases, so that each fold has others."""
    dpc = RECIPES["dpc-net"]
    one = dpc.with_override("preprocessing.intensity.statistics.mean_hu", "101.5")
    other = dpc.with_override("preprocessing.intensity.percentiles", "[1.0, 99.0]")
    assert recipe_label(one) == recipe_label(dpc) != recipe_label(other)
    per_volume = dpc.with_override("preprocessing.intensity.statistics", "null")
    assert recipe_label(per_volume) != recipe_label(dpc)
