"""The summary of a cross-validation as a Markdown page: what was trained, and every case."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from LiverTumorSegLib.recipes import RECIPES
from Training.budget import Budget, Done
from Training.scores import Score
from Training.summary_page import body, row, table

Plain = dict[str, Any]


def page(plan: Plain, budget: Budget, scores: Sequence[Score], summary: Plain) -> str:
    """The page.

    Args:
        plan: a cross-validation's, as its file has it.
        budget: what was trained so far.
        scores: of all cases measured so far.
        summary: as `Training.summary.summarize` returns it.
    """
    lines = [
        f"# Cross-validation of {' and '.join(f'`{name}`' for name in plan['recipes'])}",
        "",
        f"{plan['folds']} folds of {len(plan['cases'])} cases, seed {plan['seed']}. Every case was "
        "measured by weights that had not seen its patient.",
        *progress_lines(plan, budget),
        *change_lines(plan),
        "",
        "## Training",
        "",
        *budget_lines(budget),
        "",
        *training_table(budget.trainings),
        *all_cases_lines(plan, budget),
        "",
        "## Cases",
        "",
        *case_table(scores),
        "",
        "## All cases together",
        "",
        *(line.replace("## ", "### ", 1) for line in body(summary)),
    ]
    return "\n".join(lines) + "\n"


def progress_lines(plan: Plain, budget: Budget) -> list[str]:
    """How much is lacking; nothing if all is done."""
    done = {training.fold for training in budget.trainings}
    if len(done) == plan["folds"]:
        return []
    return ["", f"**{len(done)} of {plan['folds']} folds are done.**"]


def change_lines(plan: Plain) -> list[str]:
    """What --set changed."""
    return [
        f"\n`{recipe}` with {', '.join(f'`{change}`' for change in changes)}."
        for recipe, changes in plan["changes"].items()
        if changes
    ]


def budget_lines(budget: Budget) -> list[str]:
    """How long was meant to be trained, and where."""
    if budget.minutes is None:
        lines = ["As many epochs as the recipe says."]
    else:
        lines = [
            f"{budget.minutes:g} minutes for each recipe and fold. What the recipe counts in "
            "epochs was shortened alike; nothing stopped early, and the last weights count."
        ]
        for recipe, speed in budget.speeds.items():
            lines.append(
                f"A step of `{recipe}` took {speed.step_s:.3g} s before, an epoch has "
                f"{speed.steps} steps."
            )
    machines = dict.fromkeys(training.machine for training in budget.trainings)
    return [*lines, f"Trained on {'; '.join(machines)}."]


def training_table(trainings: Sequence[Done]) -> list[str]:
    """A line a recipe and fold."""
    head = ("recipe", "fold", "epochs", "minutes", "minutes of validation", "held out")
    return [
        *table(head),
        *(
            row(
                training.recipe,
                str(training.fold),
                str(training.epochs),
                f"{training.training_minutes:.1f}",
                f"{training.validation_minutes:.1f}",
                ", ".join(training.held_out),
            )
            for training in trainings
        ),
    ]


def all_cases_lines(plan: Plain, budget: Budget) -> list[str]:
    """How weights of all cases are made with the same numbers; nothing for a foreign system."""
    own = [recipe for recipe in plan["recipes"] if recipe in RECIPES]
    if not own:
        return []
    lines = ["", "Weights of all cases, with the same numbers:", "", "```"]
    for recipe in own:
        changes = (*plan["changes"][recipe], *budget.settings.get(recipe, ()))
        words = [f"--set {shlex.quote(change)}" for change in changes]
        command = f"python -m Training.train {recipe} --data PREPARED -o RUN"
        lines.append(" ".join([command, f"--seed {plan['seed']}", *words]))
    return [*lines, "```"]


def case_table(scores: Sequence[Score]) -> list[str]:
    """A line a case; what was not measured is left empty."""
    found = {(score.target, score.case): score for score in scores}
    head = ("case", "liver Dice", "tumor Dice", "lesions detected", "touched", "false lesions")
    lines = table(head)
    for case in sorted({score.case for score in scores}):
        liver, tumor = found.get(("liver", case)), found.get(("tumor", case))
        cells = ["" if liver is None else f"{liver.dice:.3f}"]
        if tumor is None:
            cells += [""] * 4
        else:
            cells += [
                f"{tumor.dice:.3f}",
                f"{tumor.lesions_detected} of {tumor.lesions}",
                str(tumor.lesions_touched),
                str(tumor.false_lesions),
            ]
        lines.append(row(case, *cells))
    return lines
