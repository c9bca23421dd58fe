"""Train, export and measure every fold of a cross-validation, by one command.

    python -m Training.cross_validate RECIPE [RECIPE] --data PREPARED -o OUT [--folds N]
                                      [--only K ...] [--set [RECIPE.]key=value ...] [--minutes M]
                                      [--seed S] [--device auto|cpu|cuda]

Two recipes are the stages of one system, for the liver and for the tumor in it. One recipe is for
both, for the liver alone, or for the tumor alone, which is then searched in the true liver. N folds
are dealt as `Training.train --fold K/N` deals them; without --folds each patient is one. With
--minutes every recipe trains for about so long a fold, as `Training/budget.py` tells; systems that
are given the same minutes and folds can be compared.

OUT gets runs/ and weights/ of each recipe and fold, scores/ as of `Training.evaluate`, with every
case measured by weights that had not seen its patient, probabilities/ for
`Training.operating_point`, budget.json (epochs, minutes, machine) and summary.md. Stop it whenever
you like: the same command goes on, with the run that was interrupted after its last whole epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from LiverTumorSegLib.backends import pick_device
from LiverTumorSegLib.checkpoint import read_info
from LiverTumorSegLib.errors import Cancelled, InputError, ResourceError
from LiverTumorSegLib.recipes import RECIPES
from Training import evaluate, export, train
from Training.budget import SCORED
from Training.cross_validation import (
    MACHINE,
    PROBABILITIES,
    SUMMARY,
    Plan,
    budget_of,
    changed,
    fold_words,
    held_out,
    open_plan,
    read_speed,
    recipes_of,
    run_folder,
    settings_of,
    speed_file,
    weights_file,
    write_json,
    write_pages,
)
from Training.dataset import DataSet, make_folder, read_data_set
from Training.folds import fold_division, patients_of
from Training.machine import machine
from Training.own_process import run_alone
from Training.probabilities import read_probability
from Training.scores import SCORES, read_scores
from Training.speed import measure_speed

EPOCHS = "training.epochs"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.cross_validate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "recipes", nargs="+", choices=RECIPES, metavar="RECIPE", help="one, or liver and tumor"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of Training.prepare")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--folds", type=int, help="how many (default: one a patient)")
    parser.add_argument("--only", type=int, nargs="+", metavar="K", help="only these folds, from 1")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[RECIPE.]KEY=VALUE",
        help="change a number of one recipe, or of both",
    )
    parser.add_argument("--minutes", type=float, help="of training that each recipe gets a fold")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args(argv)
    try:
        pick_device(arguments.device)
        data = read_data_set(arguments.data)
        folds = arguments.folds or len(patients_of(data.cases))
        plan = Plan(
            recipes=tuple(arguments.recipes),
            changes=changes_of(arguments.recipes, arguments.set, arguments.minutes),
            folds=folds,
            minutes=arguments.minutes,
            seed=arguments.seed,
            data=str(arguments.data.resolve()),
            cases={case.name: case.sha256 for case in data.cases},
        )
        check_plan(plan, data, arguments.only)
        open_plan(arguments.output, plan)
        for fold in arguments.only or range(1, folds + 1):
            run_fold(arguments.output, plan, data, fold, arguments.device)
    except (InputError, ResourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except StageError as error:
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return Cancelled.exit_code
    print(arguments.output / SUMMARY)
    return 0


class StageError(Exception):
    """A training or evaluation failed in its own process and has told why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


# What is to be done


def changes_of(
    recipes: list[str], overrides: list[str], minutes: float | None
) -> dict[str, tuple[str, ...]]:
    """The changes of each recipe, of those that name a recipe and those that name none.

    Raises:
        InputError: the epochs are set although the minutes set them.
    """
    changes: dict[str, list[str]] = {recipe: [] for recipe in recipes}
    for override in overrides:
        named = [recipe for recipe in recipes if override.startswith(f"{recipe}.")]
        for recipe in named or recipes:
            change = override.removeprefix(f"{recipe}.")
            if minutes is not None and change.partition("=")[0] == EPOCHS:
                raise InputError(f"--set {override}: --minutes sets the epochs; leave one out.")
            changes[recipe].append(change)
    return {recipe: tuple(told) for recipe, told in changes.items()}


def check_plan(plan: Plan, data: DataSet, only: list[int] | None) -> None:
    """Refuse what cannot be done, before anything is.

    Raises:
        InputError: recipes that are no system, changes that do not fit, folds that are not there.
    """
    targets = sorted(target for recipe in recipes_of(plan) for target in recipe.targets)
    if len(set(targets)) < len(targets):
        raise InputError(
            f"{' '.join(plan.recipes)}: expected one recipe, or one for the liver and one for "
            f"tumors; found recipes for {', '.join(targets)}."
        )
    for fold in only or [1]:
        fold_division(data.cases, fold_words(plan, fold))
    if plan.minutes is not None and not plan.minutes > 0:
        raise InputError(f"--minutes {plan.minutes:g}: expected more than 0.")


# A fold


def run_fold(output: Path, plan: Plan, data: DataSet, fold: int, device: str) -> None:
    """Train what is not trained, measure what is not measured, and write the pages.

    Raises:
        StageError: a process failed.
        InputError: a file cannot be read or written.
        ResourceError: the disk is full.
    """
    for recipe in plan.recipes:
        if not weights_file(output, recipe, fold).exists():
            changes = [*plan.changes[recipe], *budget_changes(output, plan, recipe, device)]
            print(f"fold {fold_words(plan, fold)}: {recipe}", flush=True)
            alone(train_fold, output, plan, recipe, fold, changes, device)
    cases = [case.name for case in held_out(plan, data, fold)]
    measure_cases(output, plan, fold, cases, device)
    write_pages(output, plan, budget_of(output, plan, data))


def budget_changes(output: Path, plan: Plan, recipe: str, device: str) -> tuple[str, ...]:
    """What --minutes sets, measured once for all folds.

    Raises:
        StageError: the measuring failed.
    """
    if plan.minutes is None:
        return ()
    path = speed_file(output, recipe)
    if not path.exists():
        print(f"{recipe}: measuring its speed", flush=True)
        alone(keep_speed, path, plan, recipe, device)
    return settings_of(plan, recipe, read_speed(path))


def keep_speed(path: Path, plan: Plan, recipe: str, device: str) -> int:
    """Measure a recipe's speed on the first fold; returns an exit code."""
    assert plan.minutes is not None
    try:
        speed = measure_speed(
            changed(plan, recipe),
            read_data_set(Path(plan.data)),
            fold_words(plan, 1),
            plan.seed,
            pick_device(device),
            plan.minutes,
        )
        make_folder(path.parent)
        write_json(path, asdict(speed))
    except (InputError, ResourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def train_fold(
    output: Path, plan: Plan, recipe: str, fold: int, changes: list[str], device: str
) -> int:
    """Train one recipe on one fold, or go on with it, and export it; returns an exit code."""
    run, weights = run_folder(output, recipe, fold), weights_file(output, recipe, fold)
    make_folder(run)
    write_json(run / MACHINE, machine(pick_device(device)))
    told = ["--data", plan.data, "--fold", fold_words(plan, fold), "--seed", str(plan.seed)]
    settings = [word for change in changes for word in ("--set", change)]
    code = train.main([recipe, "-o", str(run), *told, "--device", device, "--resume", *settings])
    if code == 0:
        with contextlib.redirect_stdout(io.StringIO()):
            code = export.main([str(run), "-o", str(weights), "--unevaluated"])
    return code


def measure_cases(output: Path, plan: Plan, fold: int, cases: list[str], device: str) -> None:
    """Measure those cases of a fold that its weights have not measured.

    Raises:
        StageError: the evaluation failed.
        InputError: weights, scores or probabilities are damaged.
    """
    files = [weights_file(output, recipe, fold) for recipe in plan.recipes]
    lacking = [case for case in cases if not is_measured(output, files, case)]
    if lacking:
        words = ["--data", plan.data, "--weights", *map(str, files), "--cases", *lacking]
        kept = ["--probabilities", str(output / PROBABILITIES), "--device", device]
        alone(evaluate.main, [*words, "-o", str(output / SCORED), *kept])


def is_measured(output: Path, files: list[Path], case: str) -> bool:
    """Whether these weights have measured a case, and its tumor probabilities are kept."""
    infos = {info.target: info for info in map(read_info, files)}
    ordered = [infos[target] for target in sorted(infos)]
    names = [f"{info.name}@{info.sha256[:12]}" for info in ordered]
    path = output / SCORED / SCORES
    rows = [score for score in (read_scores(path) if path.exists() else []) if score.case == case]
    if {row.weights.split()[-1] for row in rows} != set(names):
        return False
    if all(info.target == "liver" for info in ordered):
        return True
    kept = read_probability(output / PROBABILITIES, case)
    return kept is not None and kept.weights == " ".join(names)


def alone(function: Any, *arguments: Any) -> None:
    """Run a function in a process of its own.

    Raises:
        StageError: it returned another exit code than 0.
        ResourceError: it was killed.
        KeyboardInterrupt: it was stopped.
    """
    code = run_alone(function, *arguments)
    if code == Cancelled.exit_code:
        raise KeyboardInterrupt
    if code < 0:
        raise ResourceError(
            f"A process was ended by signal {-code}, as it is where memory runs out. The same "
            "command goes on."
        )
    if code:
        raise StageError(code)


if __name__ == "__main__":
    sys.exit(main())
