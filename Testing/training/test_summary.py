"""The summary of an evaluation, by hand-made rows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from Testing.training.score_cases import score_of
from Training.scores import LesionScore
from Training.summary import by_dice, by_size, spread, summarize
from Training.summary_page import page


def lesion(case: str, mm: float, match_mm: float | None = None, **changes: Any) -> LesionScore:
    """A true lesion, found if it has a match; 0.8 is its Dice then."""
    row = LesionScore(
        case=case,
        mask="reference",
        lesion=1,
        volume_ml=1.0,
        long_axis_mm=mm,
        major_axis_mm=2 * mm,
        touched=match_mm is not None,
        detected=match_mm is not None,
        match=None if match_mm is None else 1,
        match_volume_ml=match_mm,
        match_long_axis_mm=match_mm,
        iou=None if match_mm is None else 2 / 3,
        dice=None if match_mm is None else 0.8,
        rvd=None,
        assd_mm=None,
        rmsd_mm=None,
        hd_mm=None,
    )
    return replace(row, **changes)


def false_lesion(case: str, mm: float, **changes: Any) -> LesionScore:
    return lesion(case, mm, mask="prediction", **changes)


TUMORS = [
    score_of("a", "tumor", 0.9, predicted_voxels=90, reference_voxels=110, common_voxels=90),
    score_of(
        "b",
        "tumor",
        0.3,
        predicted_voxels=700,
        reference_voxels=100,
        common_voxels=120,
        burden_error=-0.3,
        lesions=3,
        lesions_detected=1,
        lesions_touched=2,
        predicted_lesions=4,
        false_lesions=2,
        lesion_precision=0.25,
        lesion_recall=1 / 3,
        seen=True,
        weights="fold2@abcdefabcdef",
    ),
    score_of(
        "c",
        "tumor",
        0.0,
        predicted_voxels=0,
        reference_voxels=0,
        common_voxels=0,
        burden_error=0.4,
        lesions=0,
        lesions_detected=0,
        lesions_touched=0,
        predicted_lesions=0,
        lesion_precision=None,
        lesion_recall=None,
        assd_mm=None,
        rvd=None,
    ),
]


def test_what_is_not_defined_is_left_out() -> None:
    assert spread([1.0, None, 4.0, 4.0]) == {
        "n": 3,
        "mean": 3.0,
        "sd": pytest.approx(math.sqrt(2)),
        "median": 4.0,
    }
    assert spread([None]) == {"n": 0, "mean": None, "sd": None, "median": None}


def test_rows_are_summed_up() -> None:
    tumor = summarize(TUMORS, [])["targets"]["tumor"]
    assert tumor["cases"] == 3
    assert tumor["measures"]["dice"]["mean"] == pytest.approx(0.4)
    assert tumor["measures"]["assd_mm"]["n"] == 2
    assert tumor["dice_of_cases_with_tumor"]["mean"] == pytest.approx(0.6)
    assert tumor["dice_global"] == pytest.approx(2 * 210 / 1000)
    counts = [tumor[name] for name in ("lesions", "lesions_detected", "lesions_touched")]
    assert counts == [4, 2, 3]
    assert (tumor["predicted_lesions"], tumor["false_lesions"]) == (5, 2)
    assert tumor["pooled_lesion_precision"] == pytest.approx(2 / 5)
    assert tumor["pooled_lesion_recall"] == pytest.approx(2 / 4)
    assert tumor["burden_rmse"] == pytest.approx(math.sqrt((0 + 0.09 + 0.16) / 3))
    assert tumor["burden_max_error"] == 0.4
    assert tumor["cases_seen_in_training"] == ["b"]
    assert tumor["weights"] == ["fold2@abcdefabcdef", "tumor@0123456789ab"]


def test_too_much_counts_as_the_greatest_error_too() -> None:
    """As the LiTS scorer's maximum does not."""
    rows = [score_of("a", "tumor", 1, burden_error=e) for e in (-0.5, 0.2)]
    assert summarize(rows, [])["targets"]["tumor"]["burden_max_error"] == 0.5


def test_lesions_are_grouped_by_their_own_size() -> None:
    """For recall by the true lesion's, for precision by the predicted one's."""
    rows = [
        lesion("a", 9.9),
        lesion("a", 10.0, 9.0),
        lesion("a", 19.9, 21.0),
        lesion("b", 15.0, 30.0, detected=False, dice=0.2),
        false_lesion("b", 30.0, touched=True),
        lesion("b", 60.0, 55.0),
        false_lesion("b", 3.0),
    ]
    small, middle, large, huge = by_size(rows)
    assert [g["lesions"] for g in (small, middle, large, huge)] == [1, 3, 0, 1]
    assert (middle["detected"], middle["touched"]) == (2, 3)
    assert middle["recall"] == pytest.approx(2 / 3)
    assert middle["lesion_dice"] == pytest.approx((0.8 + 0.8 + 0.2) / 3)
    assert (small["recall"], small["lesion_dice"]) == (0, 0)
    assert (small["predicted_lesions"], small["precision"]) == (2, 0.5)
    assert (middle["predicted_lesions"], middle["precision"]) == (0, None)
    assert (large["predicted_lesions"], large["precision"]) == (2, 0.5)
    assert (large["recall"], large["lesion_dice"]) == (None, None)
    assert (huge["recall"], huge["precision"], huge["below_mm"]) == (1, 1, None)


def test_the_papers_groups_average_major_axes() -> None:
    scores = [score_of("a", "tumor", 0.6), score_of("b", "tumor", 0.59), TUMORS[2]]
    rows = [lesion("a", 10), lesion("a", 20), lesion("b", 5), false_lesion("b", 50)]
    assert by_dice(scores, rows) == [
        {"group": "high", "cases": 1, "lesions": 2, "mean_major_axis_mm": 30},
        {"group": "low", "cases": 1, "lesions": 1, "mean_major_axis_mm": 10},
    ]
    assert by_dice([TUMORS[2]], [])[0]["mean_major_axis_mm"] is None


def test_the_page_tells_what_the_numbers_are() -> None:
    summary = json.loads(json.dumps(summarize(TUMORS, [lesion("a", 12, 12), lesion("b", 4)])))
    text = page(summary)
    for line in (
        "## Tumor, 3 cases",
        "- Weights: fold2@abcdefabcdef, tumor@0123456789ab",
        "- Tumors searched in the predicted liver",
        "- **Seen in training, so that they flatter: b**",
        "| Dice | 0.400 | 0.374 | 0.300 | 3 |",
        "| Dice, global | 0.420 |  |  | 3 |",
        "| Dice of cases with tumor | 0.600 | 0.300 | 0.600 | 2 |",
        "| 0 mm to < 10 mm | 1 | 0 | 0 | 0.000 | 0 | – | 0.000 |",
        "| 10 mm to < 20 mm | 1 | 1 | 1 | 1.000 | 1 | 1.000 | 0.800 |",
        "| 50 mm and more | 0 | 0 | 0 | – | 0 | – | – |",
        "| tumor Dice >= 0.6 | 1 | 1 | 24.0 |",
        "Tumor burden: RMSE 0.289, greatest error 0.400.",
        "- RVD: (predicted - reference) / reference; not defined without a reference.",
    ):
        assert line in text.splitlines()
    assert "Not for clinical use" in text
    assert "None" not in text
    assert "nan" not in text


def test_by_the_lits_definitions_the_scorers_results_are_shown() -> None:
    rows = [replace(score, definitions="lits") for score in TUMORS[:1]]
    summary = summarize(rows, [lesion("a", 12, 12, rvd=0, assd_mm=1, rmsd_mm=1.5, hd_mm=9)])
    assert summary["lits"]["lesion_msd"] == 9
    assert "by_size" not in summary["targets"]["tumor"]
    text = page(summary)
    assert "| lesion_msd | 9.000 |" in text.splitlines()
    assert "by longest axial diameter" not in text
    assert "as the official scorer of the LiTS challenge" in text
