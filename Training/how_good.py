"""README's section "How good is it" and its picture, from a cross-validation.

    python -m Training.how_good OUT [--write README.md] [--picture FILE.png] [--note TEXT ...]

OUT is a folder of `Training.cross_validate` of which all folds are done. Where
`Training.operating_point` has chosen a point for it, its nested scores are told, and the
reliability of the lesions' confidence; else the scores are those of the recipe's own point. Without
--write the section is printed. Notes, on data and license, come after the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.staging import staged
from Training.budget import SCORED, Budget, read_budget
from Training.calibration import Bin, reliability
from Training.cross_validation import Plan, read_plan
from Training.dataset import DataSet, read_data_set
from Training.evaluate import read_results
from Training.how_good_plot import plot
from Training.marked_section import around_marks
from Training.operating_point import FOLDER, POINT
from Training.scores import LesionScore, Score
from Training.summary import by_size
from Training.summary_page import number, row, table
from Training.thresholds import OperatingPoint, read_operating_point

BEGIN, END = "<!-- how good: made by python -m Training.how_good -->", "<!-- end of how good -->"
PICTURE = Path(__file__).with_suffix(".png")
SIZE_MM = 10.0  # lesions above it are told of in words
LITS_CTS = 131


@dataclass(frozen=True)
class Measured:
    """What a cross-validation has come to.

    Attributes:
        plan: of it.
        data: its cases.
        budget: what was trained.
        scores: nested, where an operating point was chosen.
        lesions: their rows.
        point: that was chosen; None for the recipe's own.
        bins: of the lesions' confidence; none without a chosen point.
        brier: of that confidence.
    """

    plan: Plan
    data: DataSet
    budget: Budget
    scores: list[Score]
    lesions: list[LesionScore]
    point: OperatingPoint | None
    bins: list[Bin]
    brier: float | None


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.how_good",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="of Training.cross_validate")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="page with the two marks")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="default: %(default)s")
    parser.add_argument("--note", action="append", default=[], help="on data or license")
    arguments = parser.parse_args(argv)
    try:
        measured = read_measured(arguments.output)
        beside = arguments.write or Path("README.md")
        link = os.path.relpath(arguments.picture.resolve(), beside.resolve().parent)
        text = section(measured, Path(link).as_posix(), arguments.note)
        if arguments.write is None:
            print(text)
        else:
            write(arguments.write, arguments.picture, measured, text)
    except (InputError, ResourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def write(path: Path, picture: Path, measured: Measured, text: str) -> None:
    """Write the picture, and the section between its marks.

    Raises:
        InputError: the page cannot be read or written, or lacks a mark.
        ResourceError: the disk is full.
    """
    try:
        before, after = around_marks(path.read_text(encoding="utf-8"), BEGIN, END)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a page with two marks ({error}).") from error
    with staged(picture.parent, [picture.name]) as folder:
        plot(measured.scores, by_size(measured.lesions), measured.bins, folder / picture.name)
    with staged(path.parent, [path.name]) as folder:
        (folder / path.name).write_text(f"{before}\n{text}\n{after}", encoding="utf-8")


def read_measured(output: Path) -> Measured:
    """Read what a cross-validation has left.

    Raises:
        InputError: a file is missing or damaged, or a fold is not done.
    """
    plan, budget = read_plan(output), read_budget(output)
    done = {training.fold for training in budget.trainings} if budget else set()
    if budget is None or len(done) < plan.folds:
        raise InputError(
            f"{output}: expected a cross-validation of which all {plan.folds} folds are done, "
            f"found {len(done)}. Go on with `Training.cross_validate`."
        )
    path = output / FOLDER / POINT
    chosen = path.exists()
    scores, lesions = read_results(output / (FOLDER if chosen else SCORED))
    plain = json.loads(path.read_text(encoding="utf-8")) if chosen else {"lesions": []}
    return Measured(
        plan=plan,
        data=read_data_set(Path(plan.data)),
        budget=budget,
        scores=scores,
        lesions=lesions,
        point=read_operating_point(path) if chosen else None,
        bins=reliability(*confidences_of(plain["lesions"])),
        brier=plain.get("brier"),
    )


def confidences_of(lesions: Sequence[dict[str, Any]]) -> tuple[list[float], list[bool]]:
    """Confidence and truth of the lesions in operating_point.json."""
    return [one["confidence"] for one in lesions], [one["real"] for one in lesions]


# The section


def section(measured: Measured, picture: str, notes: Sequence[str]) -> str:
    """The section in Markdown.

    Args:
        measured: what to tell.
        picture: link to it.
        notes: paragraphs of their own.
    """
    parts = [
        made_words(measured),
        "\n".join(case_table(measured.scores)),
        tumor_words(measured),
        f"![Dice of every case, lesions found by size, confidence of lesions]({picture})",
        point_words(measured),
        *notes,
        again_words(measured),
    ]
    return "\n\n".join(part for part in parts if part)


def made_words(measured: Measured) -> str:
    """On what, and how."""
    cases, plan = measured.data.cases, measured.plan
    patients = len({case.patient for case in cases})
    with_tumor = [case for case in cases if case.lesions]
    volume_ml = sum(case.tumor_ml for case in cases)
    largest = max(cases, key=lambda case: case.tumor_ml)
    recipes = " and ".join(f"`{recipe}`" for recipe in plan.recipes)
    left_out = "one patient" if plan.folds == patients else f"one of {plan.folds} folds"
    machines = dict.fromkeys(training.machine for training in measured.budget.trainings)
    return (
        f"Measured on {len(cases)} CTs of {patients} patients, {len(with_tumor)} of them with "
        f"tumors: {sum(case.lesions for case in cases)} lesions, {volume_ml:.0f} mL in all, "
        f"{100 * largest.tumor_ml / max(volume_ml, 1e-9):.0f} % of it in `{largest.name}`. "
        f"{recipes} were trained anew without {left_out} at a time, "
        f"{measured.budget.minutes_a_fold():.0f} min each time ({'; '.join(machines)}), and "
        "each CT was segmented, from file to labels, by those weights that had not seen its "
        "patient. Dice of the whole volume on the CT's own grid."
    )


def case_table(scores: Sequence[Score]) -> list[str]:
    """A line a case, and the mean."""
    found = {(score.target, score.case): score for score in scores}
    head = ("case", "liver Dice", "tumor Dice", "tumor mL, found / true", "detected", "touched")
    lines = table((*head, "false lesions"))
    for case in sorted({score.case for score in scores}):
        liver, tumor = found.get(("liver", case)), found.get(("tumor", case))
        cells = [number(liver.dice if liver else None)]
        if tumor is None:
            cells += ["–"] * 5
        else:
            cells += [
                number(tumor.dice),
                f"{tumor.predicted_ml:.1f} / {tumor.reference_ml:.1f}",
                f"{tumor.lesions_detected} of {tumor.lesions}" if tumor.lesions else "none",
                f"{tumor.lesions_touched} of {tumor.lesions}" if tumor.lesions else "none",
                str(tumor.false_lesions),
            ]
        lines.append(row(case, *cells))
    means = [mean_sd([s.dice for s in scores if s.target == target]) for target in TARGETS]
    return [*lines, row("mean (SD)", *means, "", "", "", "")]


TARGETS = ("liver", "tumor")


def mean_sd(values: Sequence[float]) -> str:
    """Mean and standard deviation, divided by n; a dash for none."""
    return f"{np.mean(values):.3f} ({np.std(values):.3f})" if values else "–"


def tumor_words(measured: Measured) -> str:
    """Lesions that are not small, and cases without any."""
    scores = [score for score in measured.scores if score.target == "tumor"]
    groups = [group for group in by_size(measured.lesions) if group["from_mm"] >= SIZE_MM]
    true, found, made = (
        sum(group[key] for group in groups) for key in ("lesions", "detected", "predicted_lesions")
    )
    told = []
    if scores:
        precise = [group for group in groups if group["predicted_lesions"]]
        right = sum(round(group["precision"] * group["predicted_lesions"]) for group in precise)
        told.append(
            f"Of lesions of {SIZE_MM:g} mm and more, {found} of {true} are detected (IoU above one "
            f"half), and {right} of {made} that are marked detect one."
        )
    healthy = [score for score in scores if not score.lesions]
    if healthy:
        clean = sum(not score.predicted_lesions for score in healthy)
        told.append(f"In {clean} of {len(healthy)} livers without a tumor none is marked.")
    return " ".join(told)


def point_words(measured: Measured) -> str:
    """The operating point, and the confidence."""
    point = measured.point
    if point is None:
        return ""
    told = (
        f"A voxel counts as tumor from a probability of {point.threshold:g} on, and lesions below "
        f"{point.min_lesion_mm3:g} mm3 are dropped. Both were chosen by this cross-validation; the "
        "scores are those of points chosen without the patient who is scored."
    )
    if measured.brier is not None:
        told += (
            f" A lesion's confidence, fitted on the other patients' lesions, has a Brier score of "
            f"{measured.brier:.3f} (0 is perfect, 0.25 knows nothing)."
        )
    return told


def again_words(measured: Measured) -> str:
    """What these weights are not for, and how to make others."""
    patients = len({case.patient for case in measured.data.cases})
    recipes = " ".join(measured.plan.recipes)
    return (
        f"**Weights of {patients} patients are a demonstration.** For research on patients they "
        f"must be trained again, on data of the size of LiTS ({LITS_CTS} CTs) or more. Prepared as "
        "[Training/README.md](Training/README.md) tells, one command trains and measures them in "
        f"the same way:\n\n```\n.venv/bin/python -m Training.cross_validate {recipes} "
        "--data PREPARED -o OUT --folds 5\n```"
    )


if __name__ == "__main__":
    sys.exit(main())
