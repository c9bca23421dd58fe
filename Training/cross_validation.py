"""The folder of a cross-validation: its plan, where what lies, and the pages about it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.recipe import Recipe, from_plain
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.staging import staged
from Training.budget import BUDGET, SCORED, Budget, Done, Speed, changes_within
from Training.cross_validation_page import page
from Training.dataset import Case, DataSet, make_folder
from Training.evaluate import read_results
from Training.folds import fold_division
from Training.run_folder import read_log
from Training.summary import summarize
from Training.train import overridden

PLAN, SUMMARY = "cross_validation.json", "summary.md"
RUNS, WEIGHTS, SPEEDS, PROBABILITIES = "runs", "weights", "speeds", "probabilities"
MACHINE = "machine.json"


@dataclass(frozen=True)
class Plan:
    """What a cross-validation trains; the same in every call that goes on with it.

    Attributes:
        recipes: one, or those of the liver and of the tumor.
        changes: of each recipe, as the trainer's --set.
        folds: how many.
        minutes: that each recipe trains a fold; None for the recipes' own epochs.
        seed: of weights and samples.
        data: folder of the prepared cases.
        cases: sha256 of each, by name.
    """

    recipes: tuple[str, ...]
    changes: dict[str, tuple[str, ...]]
    folds: int
    minutes: float | None
    seed: int
    data: str
    cases: dict[str, str]


def open_plan(output: Path, plan: Plan) -> None:
    """Keep the plan, or check that it is the one that is kept; the data may have been moved.

    Raises:
        InputError: the folder holds another cross-validation, or cannot be written to.
        ResourceError: the disk is full.
    """
    path = output / PLAN
    if path.exists():
        kept, wanted = asdict(read_plan(output)), asdict(plan)
        others = [key for key in wanted if key != "data" and kept[key] != wanted[key]]
        if others:
            raise InputError(
                f"{output}: holds a cross-validation with another {' and '.join(others)}. Go on "
                "with the same command, or choose another folder."
            )
    make_folder(output)
    write_json(path, asdict(plan))


def read_plan(output: Path) -> Plan:
    """The plan of a folder.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = output / PLAN
    try:
        return from_plain(Plan, json.loads(path.read_text(encoding="utf-8")), "plan")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected the plan of a `Training.cross_validate` folder ({error})."
        ) from error


# What it says


def recipes_of(plan: Plan) -> list[Recipe]:
    """The recipes with their changes, but for those that minutes make.

    Raises:
        InputError: a change does not fit.
    """
    return [changed(plan, name) for name in plan.recipes]


def changed(plan: Plan, name: str) -> Recipe:
    """A recipe with its changes, but for those that minutes make.

    Raises:
        InputError: a change does not fit.
    """
    return overridden(RECIPES[name], [*plan.changes[name]])


def settings_of(plan: Plan, recipe: str, speed: Speed) -> tuple[str, ...]:
    """What the minutes of a plan set of a recipe of that speed."""
    assert plan.minutes is not None
    return changes_within(changed(plan, recipe), speed, plan.minutes)


def fold_words(plan: Plan, fold: int) -> str:
    """A fold as the trainer's --fold."""
    return f"{fold}/{plan.folds}"


def held_out(plan: Plan, data: DataSet, fold: int) -> list[Case]:
    """The cases of a fold."""
    return fold_division(data.cases, fold_words(plan, fold)).held_out


# What lies where


def run_folder(output: Path, recipe: str, fold: int) -> Path:
    """Where a recipe trains a fold."""
    return output / RUNS / f"{recipe}-{fold}"


def weights_file(output: Path, recipe: str, fold: int) -> Path:
    """What a recipe has learned in a fold; it is there when the training is done."""
    return output / WEIGHTS / f"{recipe}-{fold}.safetensors"


def speed_file(output: Path, recipe: str) -> Path:
    """What was measured of a recipe's speed."""
    return output / SPEEDS / f"{recipe}.json"


def read_speed(path: Path) -> Speed:
    """What was measured.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return from_plain(Speed, json.loads(path.read_text(encoding="utf-8")), "speed")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}). Delete it; it is made again."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    with staged(path.parent, [path.name]) as folder:
        (folder / path.name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


# What has been done


def write_pages(output: Path, plan: Plan, budget: Budget) -> None:
    """Write budget.json and summary.md of all folds that are done.

    Raises:
        InputError: scores cannot be read, or the folder not be written to.
        ResourceError: the disk is full.
    """
    scores, lesions = read_results(output / SCORED)
    with staged(output, [BUDGET, SUMMARY]) as folder:
        plain = json.dumps(asdict(budget), indent=1)
        (folder / BUDGET).write_text(plain + "\n", encoding="utf-8")
        text = page(asdict(plan), budget, scores, summarize(scores, lesions))
        (folder / SUMMARY).write_text(text, encoding="utf-8")


def budget_of(output: Path, plan: Plan, data: DataSet) -> Budget:
    """What has been measured and trained so far.

    Raises:
        InputError: files of a run cannot be read.
    """
    files = {recipe: speed_file(output, recipe) for recipe in plan.recipes}
    speeds = {recipe: read_speed(path) for recipe, path in files.items() if path.exists()}
    return Budget(
        minutes=plan.minutes,
        speeds=speeds,
        settings={recipe: settings_of(plan, recipe, speed) for recipe, speed in speeds.items()},
        trainings=tuple(
            training_of(output, plan, data, recipe, fold)
            for fold in range(1, plan.folds + 1)
            for recipe in plan.recipes
            if weights_file(output, recipe, fold).exists()
        ),
    )


def training_of(output: Path, plan: Plan, data: DataSet, recipe: str, fold: int) -> Done:
    """What a training took, by its log.

    Raises:
        InputError: its files cannot be read.
    """
    run = run_folder(output, recipe, fold)
    rows = read_log(run)
    return Done(
        recipe=recipe,
        fold=fold,
        held_out=tuple(case.name for case in held_out(plan, data, fold)),
        epochs=len(rows),
        training_minutes=sum(row["seconds"] for row in rows) / 60,
        validation_minutes=sum(row.get("seconds_validating", 0.0) for row in rows) / 60,
        machine=machine_of(run),
    )


def machine_of(run: Path) -> str:
    """Where a run was trained; a run that was brought here may not tell."""
    path = run / MACHINE
    if not path.exists():
        return "a machine that is not known"
    return in_words(json.loads(path.read_text(encoding="utf-8")))


def in_words(machine: dict[str, Any]) -> str:
    """A machine as the summary tells of it."""
    device = "no GPU" if machine["device"] == "cpu" else machine["device"]
    torch = machine["versions"]["torch"]
    return f"{machine['processor']}, {machine['cores']} cores, {device}, torch {torch}"
