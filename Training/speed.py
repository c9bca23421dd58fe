"""How fast a recipe trains on this machine, measured before it is trained."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

import torch
from tqdm import tqdm

from LiverTumorSegLib.recipe import Plateau, Recipe
from Training.budget import Speed
from Training.dataset import DataSet
from Training.loading import load
from Training.train import Samples, set_up, shares_of_batches, start, train_epoch
from Training.validation import validate

WARM_UP_STEPS, TIMED_STEPS = 12, 40
FEWEST_STEPS = 2
MEASURING_SHARE = 0.05  # of the budget: the warm-up, and again what is timed, end with it


def measure_speed(
    recipe: Recipe, data: DataSet, fold: str, seed: int, device: torch.device, minutes: float
) -> Speed:
    """Train a few steps after a warm-up, and forget them.

    Args:
        recipe: what to train.
        data: prepared cases.
        fold: "K/N".
        seed: of weights and samples.
        device: where to train.
        minutes: of the budget, of which measuring takes a tenth at most, but for two steps.

    Raises:
        InputError: the recipe cannot be trained on these cases.
        ResourceError: the disk is full.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = set_up(recipe, data, Path(folder) / "run", fold, seed, resume=False)
    learner, samples = start(job.recipe, seed, device), Samples(job.folders, job.recipe, seed)
    steps = len(shares_of_batches(samples, epoch=0))
    shares = itertools.chain.from_iterable(
        shares_of_batches(samples, epoch) for epoch in itertools.count()
    )
    batches = load(samples, shares, device)
    seconds = MEASURING_SHARE * minutes * 60

    def step_seconds(most: int) -> float:
        started, done = time.perf_counter(), 0
        with tqdm(disable=True) as bar:
            while done < FEWEST_STEPS or (done < most and time.perf_counter() - started < seconds):
                train_epoch(learner, batches, 1, bar)
                done += 1
        return (time.perf_counter() - started) / done

    step_seconds(WARM_UP_STEPS)
    step_s = step_seconds(TIMED_STEPS)
    batches.close()
    validation_s = None
    if isinstance(recipe.training.schedule, Plateau):
        started = time.perf_counter()
        validate(job.recipe, learner.network, data, job.cases.held_out, device)
        validation_s = time.perf_counter() - started
    return Speed(step_s, steps, validation_s)
