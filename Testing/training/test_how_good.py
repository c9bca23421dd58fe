"""README's section "How good is it": numbers by hand, and the page it is written into."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from LiverTumorSegLib.recipe import LesionConfidence
from Testing.phantom import make_data_set
from Testing.training.score_cases import score_of
from Testing.training.test_compare import lesion
from Training import how_good
from Training.budget import Budget, Done
from Training.cross_validation import Plan
from Training.dataset import read_data_set
from Training.marked_section import around_marks
from Training.scores import LesionScore, Score, write_lesions, write_scores
from Training.thresholds import OperatingPoint

README = Path(__file__).resolve().parents[2] / "README.md"
PAGE = f"# Title\n\n{how_good.BEGIN}\nearlier numbers\n{how_good.END}\n\nThe rest.\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_set(tmp_path_factory.mktemp("how_good"), patients=3)


def rows() -> tuple[list[Score], list[LesionScore]]:
    """Two cases with a tumor each, and case2 without one, where one is marked."""
    livers = [score_of(f"case{n}", "liver", d, lesions=0) for n, d in enumerate((0.9, 0.8, 1.0))]
    found = score_of("case0", "tumor", 0.75, lesions=2, lesions_detected=1, lesions_touched=2)
    healthy = score_of("case2", "tumor", 0.0, lesions=0, predicted_lesions=1, false_lesions=1)
    lesions = [lesion("case0", 12.0, 0.8), lesion("case0", 4.0, 0.1), lesion("case1", 30.0, 0.9)]
    lesions = [replace(row, match_long_axis_mm=row.long_axis_mm) for row in lesions]
    lesions.append(lesion("case2", 15.0, None, mask="prediction"))
    return [*livers, found, score_of("case1", "tumor", 1.0), healthy], lesions


def written(folder: Path, data: Path, done: int = 3, point: bool = False) -> Path:
    """A folder as the commands leave it."""
    cases = {case.name: case.sha256 for case in read_data_set(data).cases}
    plan = Plan(("starter-liver", "starter-tumor"), {}, 3, 5.0, 0, str(data), cases)
    trainings = tuple(
        Done(recipe, fold, (), 1, minutes, 0.0, "a CPU")
        for fold in range(1, done + 1)
        for recipe, minutes in (("starter-liver", 2.0), ("starter-tumor", 5.0))
    )
    scored = folder / ("operating_point" if point else "scores")
    scored.mkdir(parents=True)
    (folder / "cross_validation.json").write_text(json.dumps(asdict(plan)))
    (folder / "budget.json").write_text(json.dumps(asdict(Budget(5.0, {}, {}, trainings))))
    scores, lesions = rows()
    write_scores(scored / "scores.csv", scores)
    write_lesions(scored / "lesions.csv", lesions)
    if point:
        chosen = OperatingPoint(0.6, 100.0, "starter-tumor@0", LesionConfidence(0.0, 1.0, 0.0))
        told = [{"confidence": 0.9, "real": True}, {"confidence": 0.1, "real": False}]
        plain = {**asdict(chosen), "brier": 0.01, "lesions": told}
        (scored / "operating_point.json").write_text(json.dumps(plain))
    return folder


def test_the_section_tells_every_number(data: Path, tmp_path: Path) -> None:
    text = how_good.section(
        how_good.read_measured(written(tmp_path / "out", data)), "a.png", ["A note."]
    )
    assert "3 CTs of 3 patients, 3 of them with tumors: 6 lesions" in text
    assert "33 % of it in `case0`" in text
    assert "without one patient at a time, 7 min each time (a CPU)" in text
    assert "| case0 | 0.900 | 0.750 | 0.1 / 0.1 | 1 of 2 | 2 of 2 | 0 |" in text
    assert "| case2 | 1.000 | 0.000 | 0.1 / 0.1 | none | none | 1 |" in text
    assert "| mean (SD) | 0.900 (0.082) | 0.583 (0.425) |" in text
    assert "Of lesions of 10 mm and more, 2 of 2 are detected" in text
    assert "and 2 of 3 that are marked detect one." in text
    assert "In 0 of 1 livers without a tumor none is marked." in text
    assert "](a.png)" in text
    assert "\n\nA note.\n\n" in text
    assert "must be trained again" in text
    assert "cross_validate starter-liver starter-tumor --data PREPARED -o OUT" in text
    assert "probability" not in text, "no point was chosen"


def test_a_chosen_point_and_its_confidence_are_told(data: Path, tmp_path: Path) -> None:
    measured = how_good.read_measured(written(tmp_path / "out", data, point=True))
    text = how_good.section(measured, "a.png", [])
    assert "from a probability of 0.6 on, and lesions below 100 mm3 are dropped" in text
    assert "Brier score of 0.010" in text
    assert [(one.lesions, one.real) for one in measured.bins] == [(1, 0.0), (1, 1.0)]


@pytest.mark.parametrize("point", [True, False])
def test_the_section_takes_the_place_of_the_earlier_one(
    data: Path, tmp_path: Path, point: bool
) -> None:
    output, page = written(tmp_path / "out", data, point=point), tmp_path / "docs" / "README.md"
    page.parent.mkdir()
    page.write_text(PAGE)
    picture = tmp_path / "docs" / "pictures" / "good.png"
    words = [str(output), "--write", str(page), "--picture", str(picture)]
    assert how_good.main(words) == 0
    text = page.read_text()
    assert text.startswith(f"# Title\n\n{how_good.BEGIN}\nMeasured on 3 CTs")
    assert text.endswith(f"{how_good.END}\n\nThe rest.\n")
    assert "earlier numbers" not in text
    assert "](pictures/good.png)" in text
    with Image.open(picture) as image:
        assert image.width > 2 * image.height if point else image.width > image.height
    assert how_good.main(words) == 0
    assert page.read_text() == text


def test_without_a_page_the_section_is_printed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert how_good.main([str(written(tmp_path / "out", data))]) == 0
    assert capsys.readouterr().out.startswith("Measured on 3 CTs")


def test_what_cannot_be_told_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert how_good.main([str(written(tmp_path / "part", data, done=2))]) == 2
    assert "all 3 folds are done, found 2" in capsys.readouterr().err
    page = tmp_path / "README.md"
    page.write_text("no marks")
    output = written(tmp_path / "out", data)
    assert how_good.main([str(output), "--write", str(page)]) == 2
    assert "expected a page with two marks" in capsys.readouterr().err
    assert page.read_text() == "no marks"


def test_readme_has_the_section() -> None:
    before, _ = around_marks(README.read_text(encoding="utf-8"), how_good.BEGIN, how_good.END)
    assert before.splitlines()[-3] == "## How good is it"
