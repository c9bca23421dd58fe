"""What is told of an operating point, as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from LiverTumorSegLib.recipe import Recipe
from Training.calibration import Bin
from Training.operating_point_choice import CRITERION, Choice
from Training.summary_page import number, row, table
from Training.thresholds import CaseLesions, Row, outcome_of

POINT_PNG, CONFIDENCE_PNG = "operating_point.png", "confidence.png"


def page(
    recipe: Recipe,
    cases: Sequence[CaseLesions],
    choice: Choice,
    bins: Sequence[Bin],
    earlier: dict[str, float],
) -> str:
    """All of it in Markdown."""
    point, inference = choice.point, recipe.inference
    lines = [
        f"# Operating point of `{recipe.name}`",
        "",
        f"**Threshold {point.threshold:g}, smallest lesion {point.min_lesion_mm3:g} mm3**, chosen "
        f"on {len(cases)} held-out cases of {len(choice.nested)} patients: {CRITERION}. The recipe "
        f"has {inference.threshold:g} and {inference.min_lesion_mm3:g} mm3.",
        "",
        "## What such a choice is worth",
        "",
        "Each patient's point was chosen on the other patients.",
        "",
        *nested_table(cases, choice, earlier),
        "",
        f"## Thresholds, with lesions of {point.min_lesion_mm3:g} mm3 and more",
        "",
        *grid_table([r for r in choice.rows if r.min_lesion_mm3 == point.min_lesion_mm3]),
        "",
        f"## Smallest lesions, from a probability of {point.threshold:g} on",
        "",
        *grid_table([r for r in choice.rows if r.threshold == point.threshold]),
        "",
        "Recall and precision are of all lesions together; one is detected by an overlap (IoU) of "
        "more than half. False is the mean number of false lesions a case, clean the share of the "
        "cases without a tumor in which none is marked.",
        "",
        f"![Dice, recall and precision over the threshold]({POINT_PNG})",
        "",
        "## Confidence of a lesion",
        "",
        *confidence_lines(choice, bins),
    ]
    return "\n".join(lines) + "\n"


def nested_table(
    cases: Sequence[CaseLesions], choice: Choice, earlier: dict[str, float]
) -> list[str]:
    """Every case at its nested point, and at the recipe's own."""
    head = ("case", "threshold", "smallest mm3", "Dice", "detected", "false", "Dice before")
    lines, dices = table(head), []
    for case in cases:
        point = choice.nested[case.patient].point
        outcome = outcome_of(case, point)
        dices.append(outcome.dice)
        lines.append(
            row(
                case.name,
                f"{point.threshold:g}",
                f"{point.min_lesion_mm3:g}",
                number(outcome.dice),
                f"{outcome.detected} of {outcome.lesions}",
                str(outcome.false_lesions),
                number(earlier[case.name]),
            )
        )
    before = [earlier[case.name] for case in cases]
    told = [f"{np.mean(values):.3f} ({np.std(values):.3f})" for values in (dices, before)]
    return [*lines, row("mean (SD)", "", "", told[0], "", "", told[1])]


def grid_table(rows: Sequence[Row]) -> list[str]:
    """A line a point."""
    head = (
        "threshold",
        "smallest mm3",
        "mean Dice",
        "recall",
        "precision",
        "false a case",
        "clean",
    )
    return [
        *table(head),
        *(
            row(
                f"{r.threshold:g}",
                f"{r.min_lesion_mm3:g}",
                number(r.dice),
                number(r.recall),
                number(r.precision),
                number(r.false_lesions, 1),
                number(r.clean, 2),
            )
            for r in rows
        ),
    ]


def confidence_lines(choice: Choice, bins: Sequence[Bin]) -> list[str]:
    """The fit, and how well it does on patients left out."""
    if choice.confidence is None:
        return ["No lesion is marked at this point."]
    told = choice.confidence
    return [
        f"1 / (1 + exp(-({told.intercept:.3f} {told.probability:+.3f} p "
        f"{told.log_volume:+.3f} ln v))), p the lesion's mean probability, v its volume in mm3. "
        f"On patients left out, {len(choice.lesions)} lesions: Brier score {number(choice.brier)}; "
        f"{number(choice.brier_of_share)} if all had the same confidence.",
        "",
        *table(("mean confidence", "lesions", "share that is real")),
        *(row(f"{one.confidence:.2f}", str(one.lesions), f"{one.real:.2f}") for one in bins),
        "",
        f"![Share of real lesions over their confidence]({CONFIDENCE_PNG})",
    ]
