"""How long a recipe trains where several shall train for equally many minutes.

The seconds of its steps are measured first, and the epochs set from them. What a recipe counts in
epochs shrinks or grows with them: the period of a schedule, the patience of a plateau. Weights are
averaged over the last tenth of the steps at most, or an average that is long beside a short run
would be that of weights which have learned nothing yet. Nothing stops early, and validation takes
time besides, which is kept small: once, at the end, but for schedules that follow it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.recipe import AlphaSupervision, Cosine, Plateau, Recipe, Step, from_plain

VALIDATION_SHARE = 0.1
AVERAGED_SHARE = 0.1
BUDGET, SCORED = "budget.json", "scores"


@dataclass(frozen=True)
class Speed:
    """How fast a recipe trains on a machine.

    Attributes:
        step_s: seconds a step, loading included.
        steps: an epoch has.
        validation_s: seconds of a validation, of networks that have learned nothing; None where it
            is not needed.
    """

    step_s: float
    steps: int
    validation_s: float | None


@dataclass(frozen=True)
class Done:
    """One training of a cross-validation.

    Attributes:
        recipe: its name.
        fold: from 1.
        held_out: names of the cases that it did not see.
        epochs: trained.
        training_minutes: loading included.
        validation_minutes: besides.
        machine: in words.
    """

    recipe: str
    fold: int
    held_out: tuple[str, ...]
    epochs: int
    training_minutes: float
    validation_minutes: float
    machine: str


@dataclass(frozen=True)
class Budget:
    """The content of budget.json.

    Attributes:
        minutes: that each recipe was to train a fold; None for as many epochs as it says.
        speeds: measured before, by recipe.
        settings: what follows from them, as the trainer's --set, by recipe.
        trainings: that are done.
    """

    minutes: float | None
    speeds: dict[str, Speed]
    settings: dict[str, tuple[str, ...]]
    trainings: tuple[Done, ...]

    def minutes_a_fold(self) -> float:
        """Mean of the training minutes of a fold, of all its recipes together."""
        folds = {training.fold for training in self.trainings}
        return sum(training.training_minutes for training in self.trainings) / len(folds)


def read_budget(folder: Path) -> Budget | None:
    """The budget of a cross-validation's folder; None if the folder is of something else.

    Raises:
        InputError: it is damaged.
    """
    path = folder / BUDGET
    if not path.exists():
        return None
    try:
        return from_plain(Budget, json.loads(path.read_text(encoding="utf-8")), "budget")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected the budget of a `Training.cross_validate` folder ({error})."
        ) from error


def changes_within(recipe: Recipe, speed: Speed, minutes: float) -> tuple[str, ...]:
    """What the trainer is told with --set, so that a fold trains for about these minutes.

    At least one epoch is trained, however long it takes.
    """
    settings = recipe.training
    epochs = max(1, round(minutes * 60 / (speed.step_s * speed.steps)))
    changes = {
        "epochs": epochs,
        "validate_every_epochs": validation_period(speed, epochs, minutes),
        "early_stop_epochs": None,
    }

    def shrunk(count: int, least: int = 1) -> int:
        return max(least, round(count * epochs / settings.epochs))

    schedule, supervision = settings.schedule, settings.deep_supervision
    if isinstance(schedule, Step):
        changes["schedule.period_epochs"] = shrunk(schedule.period_epochs)
    if isinstance(schedule, Plateau):
        changes["schedule.patience_epochs"] = shrunk(schedule.patience_epochs)
    if isinstance(schedule, Cosine):
        changes["schedule.warmup_epochs"] = shrunk(schedule.warmup_epochs, least=0)
    if isinstance(supervision, AlphaSupervision):
        changes["deep_supervision.period_epochs"] = shrunk(supervision.period_epochs)
    if settings.ema_decay is not None:
        longest = 1 - 1 / max(2.0, AVERAGED_SHARE * epochs * speed.steps)
        changes["ema_decay"] = min(settings.ema_decay, round(longest, 6))
    return tuple(f"training.{key}={json.dumps(value)}" for key, value in changes.items())


def validation_period(speed: Speed, epochs: int, minutes: float) -> int:
    """After how many epochs to validate, so that it takes a tenth of the budget at most."""
    if speed.validation_s is None:
        return epochs
    affordable = VALIDATION_SHARE * minutes * 60 / speed.validation_s
    return min(epochs, math.ceil(epochs / max(affordable, 1.0)))
