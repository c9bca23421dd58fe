"""What follows from the epoch and from what the held-out cases have scored so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

from LiverTumorSegLib.recipe import Constant, Cosine, Plateau, Poly, Step
from LiverTumorSegLib.recipe import Training as Settings


@dataclass(frozen=True)
class HeldOut:
    """The monitored value after an epoch, the first of which is 1."""

    epoch: int
    value: float


def best_of(settings: Settings, history: list[HeldOut]) -> HeldOut | None:
    """The first of the best values: the largest Dice or the smallest loss; None before any."""
    better = {"dice": max, "loss": min}[settings.monitor]
    return better(history, key=lambda held_out: held_out.value, default=None)


def has_stalled(settings: Settings, history: list[HeldOut], epochs_done: int) -> bool:
    """Whether the monitored value has not improved for as many epochs as the recipe waits."""
    best, patience = best_of(settings, history), settings.early_stop_epochs
    return best is not None and patience is not None and epochs_done - best.epoch >= patience


def learning_rate(settings: Settings, epoch: float, history: list[HeldOut]) -> float:
    """Learning rate at a time measured in epochs, fractions included.

    Args:
        settings: its schedule.
        epoch: 0 at the start.
        history: the monitored values of the epochs before.
    """
    schedule, rate = settings.schedule, settings.learning_rate
    if isinstance(schedule, Constant):
        return rate
    if isinstance(schedule, Step):
        return rate * schedule.factor ** (int(epoch) // schedule.period_epochs)
    if isinstance(schedule, Cosine):
        warmup = schedule.warmup_epochs
        if epoch < warmup:
            return rate * (epoch + 0.1) / (warmup + 0.1)  # not 0: the first step shall count
        return rate * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
    if isinstance(schedule, Poly):
        return rate * (1 - epoch / settings.epochs) ** schedule.exponent
    return rate * schedule.factor ** reductions(settings, schedule, history)


def reductions(settings: Settings, schedule: Plateau, history: list[HeldOut]) -> int:
    """How often a plateau has reduced the learning rate.

    Each time so many epochs have passed since the last improvement or reduction, whichever came
    later: with a patience of 8 after the 8th, the 16th, ... epoch without an improvement.
    """
    count = since = 0
    for seen, held_out in enumerate(history, start=1):
        if best_of(settings, history[:seen]) is held_out:
            since = held_out.epoch
        elif held_out.epoch - since >= schedule.patience_epochs:
            count, since = count + 1, held_out.epoch
    return count
