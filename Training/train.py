"""The trainer, for every recipe, read top to bottom.

    python -m Training.train RECIPE --data PREPARED -o RUN [--fold K/N] [--set key=value ...]
                             [--resume] [--device auto|cpu|cuda] [--seed N]

RUN holds run.json (recipe, cases, fold, versions), log.csv, last.pt (all that a resumed run needs;
replaced as a whole after every epoch) and best.pt (the same, of the epoch with the best Dice on the
held-out fold). `Training.export` makes the weights file.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import pickle
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from LiverTumorSegLib import __version__
from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.preprocess import padded_shape
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.recipe import Training as Settings
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.segment import pick_device, run_stage
from LiverTumorSegLib.sliding_window import as_channels_last
from Training.augment import Source, draw_sample, make_source
from Training.dataset import (
    Case,
    DataSet,
    make_folder,
    prepared_case,
    read_data_set,
    split,
)
from Training.losses import check_names, weighted_loss
from Training.metrics import dice


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """The samples of one epoch, each a function of (seed, epoch, index) alone.

    So the number of loading processes and an interruption change nothing.
    """

    def __init__(self, sources: list[Source], recipe: Recipe, seed: int, epoch: int) -> None:
        self.sources, self.recipe, self.seed, self.epoch = sources, recipe, seed, epoch
        repeated = np.repeat(np.arange(len(sources)), recipe.training.samples_per_case)
        self.order = np.random.default_rng([seed, epoch]).permutation(repeated)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng([self.seed, self.epoch, index])
        return draw_sample(self.sources[self.order[index]], self.recipe, random)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", choices=sorted(RECIPES), help="what to train")
    parser.add_argument("--data", type=Path, required=True, help="folder of Training.prepare")
    parser.add_argument("-o", "--output", type=Path, required=True, help="run folder")
    parser.add_argument("--fold", help="K/N: hold out fold K of N; without it all data trains")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a number of the recipe, as in training.epochs=10",
    )
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        recipe = overridden(RECIPES[arguments.recipe], arguments.set)
        data = read_data_set(arguments.data)
        train(
            recipe,
            data,
            arguments.output,
            arguments.fold,
            arguments.seed,
            pick_device(arguments.device),
            arguments.resume,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command with --resume continues", file=sys.stderr)
        return 3
    return 0


def overridden(recipe: Recipe, overrides: list[str]) -> Recipe:
    """The recipe with `key=value` changes.

    Raises:
        InputError: a change that is not of that form or does not fit.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        try:
            recipe = recipe.with_override(key, value)
        except ValueError as error:
            raise InputError(f"--set {override}: {error}") from error
    return recipe


def train(
    recipe: Recipe,
    data: DataSet,
    run: Path,
    fold: str | None,
    seed: int,
    device: torch.device,
    resume: bool,
) -> None:
    """Train one recipe on one fold.

    Raises:
        InputError: the run folder is in use, damaged or belongs to another run; or there is no
            target to learn, no full batch, or no such network or loss.
    """
    settings = recipe.training
    training_cases, held_out = split(data.cases, fold)
    if recipe.target == "tumor" and not any(case.tumor_ml for case in training_cases):
        raise InputError(f"--fold {fold}: no training case has a tumor; choose other folds.")
    samples = len(training_cases) * settings.samples_per_case
    if samples < settings.batch_size:
        raise InputError(
            f"{data.folder}: {samples} samples an epoch do not fill one batch of "
            f"{settings.batch_size}; raise training.samples_per_case with --set."
        )
    torch.manual_seed(seed)
    try:
        check_names(settings.loss)
        network = build(recipe.network.name, **recipe.network.args)
    except (TypeError, ValueError) as error:
        raise InputError(f"Recipe {recipe.name} with its --set changes: {error}") from error
    description = {
        "recipe": json.loads(recipe.to_json()),
        "fold": fold,
        "seed": seed,
        "training_cases": [asdict(case) for case in training_cases],
        "held_out_cases": [asdict(case) for case in held_out],
    }
    open_run(run, description, resume)

    network = as_channels_last(network).to(device)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    average = averaged(network, settings)
    first_epoch, best, best_epoch = 0, -1.0, 0
    if resume and (run / "last.pt").exists():
        state = load_state(run / "last.pt", device)
        network.load_state_dict(state["network"])
        if average is not None:
            average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        first_epoch = state["epoch"]
        best, best_epoch = state["best"], state["best_epoch"]
    shorten_log(run / "log.csv", first_epoch)

    sources = [make_source(prepared_case(data, case, recipe)) for case in training_cases]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_usable(device, recipe))
    epochs = tqdm(
        range(first_epoch, settings.epochs),
        initial=first_epoch,
        total=settings.epochs,
        desc=recipe.name,
        unit="epoch",
        dynamic_ncols=True,
    )
    for epoch in epochs:
        if held_out and has_stalled(settings, epoch, best_epoch):
            tqdm.write(f"stopped after epoch {epoch}: no better Dice since epoch {best_epoch}")
            break
        started, waited = time.perf_counter(), 0.0
        network.train()
        loader = DataLoader(
            Samples(sources, recipe, seed, epoch),
            settings.batch_size,
            num_workers=1,
            drop_last=True,
            prefetch_factor=4,
        )
        losses = []
        asked = time.perf_counter()
        for step, (image, target) in enumerate(loader):
            waited += time.perf_counter() - asked
            rate = learning_rate(settings, epoch + step / len(loader))
            for group in optimizer.param_groups:
                group["lr"] = rate
            image = image.to(device, memory_format=torch.channels_last_3d)
            with autocast:
                outputs = network(image)["heads"]
            loss = total_loss(settings, outputs, target.to(device), epoch)
            optimizer.zero_grad()
            loss.backward()
            if settings.gradient_clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
            optimizer.step()
            if average is not None:
                average.update_parameters(network)
            losses.append(loss.item())
            asked = time.perf_counter()
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "loss": float(np.mean(losses)),
            "learning_rate": rate,
            "seconds": time.perf_counter() - started,
            "seconds_waiting_for_data": waited,
        }
        last = epoch + 1 == settings.epochs
        if held_out and (last or (epoch + 1) % settings.validate_every_epochs == 0):
            scores = validate(
                recipe, average.module if average is not None else network, data, held_out, device
            )
            row["held_out_dice"] = float(np.mean(list(scores.values())))
            if row["held_out_dice"] > best:
                best, best_epoch = row["held_out_dice"], epoch + 1
        append_row(run / "log.csv", row)
        state = {
            "epoch": epoch + 1,
            "best": best,
            "best_epoch": best_epoch,
            "network": network.state_dict(),
            "average": average.state_dict() if average is not None else {},
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        if best_epoch == epoch + 1:
            save_state(run / "best.pt", state)
        save_state(run / "last.pt", state)
        shown = {"loss": row["loss"], "best_dice": best if best_epoch else None}
        epochs.set_postfix(
            {key: f"{value:.3f}" for key, value in shown.items() if value is not None}
        )


def open_run(run: Path, description: dict[str, Any], resume: bool) -> None:
    """Create the run folder, or check that it holds the run to be resumed.

    Raises:
        InputError: it holds a run and none was to be resumed, or another run than this; or it
            cannot be made.
    """
    path = run / "run.json"
    if path.exists() and not resume:
        raise InputError(f"{run}: holds a run already. Add --resume, or choose another folder.")
    if path.exists():
        stored = read_run(run)
        as_stored = json.loads(json.dumps(description))
        changed = [key for key in description if stored.get(key) != as_stored[key]]
        if changed:
            raise InputError(f"{run}: was started with another {', '.join(changed)}.")
        return
    make_folder(run)
    machine = {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({**description, **machine}, indent=1))
    partial.replace(path)


def read_run(run: Path) -> dict[str, Any]:
    """The description of a run.

    Raises:
        InputError: it is missing or damaged.
    """
    path = run / "run.json"
    try:
        description = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected the description of a `Training.train` run ({error})."
        ) from error
    if not isinstance(description, dict):
        raise InputError(f"{path}: expected the description of a `Training.train` run.")
    return description


def has_stalled(settings: Settings, epochs_done: int, best_epoch: int) -> bool:
    """Whether the held-out Dice has not improved for as many epochs as the recipe waits."""
    patience = settings.early_stop_epochs
    return patience is not None and epochs_done - best_epoch >= patience


def learning_rate(settings: Settings, epoch: float) -> float:
    """Learning rate at a time measured in epochs, fractions included.

    Raises:
        ValueError: unknown kind of schedule.
    """
    schedule, rate = settings.schedule, settings.learning_rate
    if epoch < schedule.warmup_epochs:
        return rate * (epoch + 0.1) / (schedule.warmup_epochs + 0.1)
    if schedule.kind == "constant":
        return rate
    if schedule.kind == "step":
        return float(rate * schedule.factor ** (int(epoch) // schedule.period_epochs))
    if schedule.kind == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
    raise ValueError(f"Unknown schedule {schedule.kind!r}.")


def total_loss(settings: Settings, outputs: list[Tensor], target: Tensor, epoch: int) -> Tensor:
    """Loss of the finest output plus alpha times the sum of the coarser ones.

    ELANRes-MSCA-UNet, Equations 1 and 2: loss3 + alpha (loss0 + loss1 + loss2), alpha decaying.
    """
    loss = weighted_loss(settings.loss, outputs[0], target)
    supervision = settings.deep_supervision
    if supervision is None:
        return loss
    alpha = supervision.alpha * supervision.decay ** (epoch // supervision.period_epochs)
    coarser = [weighted_loss(settings.loss, output, target) for output in outputs[1:]]
    return loss + alpha * torch.stack(coarser).sum()


def averaged(network: nn.Module, settings: Settings) -> AveragedModel | None:
    """The exponential average of weights and buffers, which predicts where a recipe has one."""
    if settings.ema_decay is None:
        return None
    return AveragedModel(
        network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True
    )


def validate(
    recipe: Recipe, network: nn.Module, data: DataSet, cases: list[Case], device: torch.device
) -> dict[str, float]:
    """Whole-volume Dice of each case, by the product's own inference.

    A tumor network gets the true liver; `Training.evaluate` measures both stages together.
    """
    network.eval()
    model = Model(recipe.name, recipe, {}, "", network)
    scores = {}
    for case in cases:
        labels = data.labels(case)
        liver = labels > 0 if recipe.preprocessing.liver_crop else None
        result = run_stage(
            data.volume(case),
            model,
            device,
            "torch",
            flips=False,
            probabilities=False,
            on_progress=lambda fraction: None,
            liver=liver,
        )
        reference = labels == 2 if recipe.target == "tumor" else labels > 0
        scores[case.name] = dice(result.mask, reference)
    return scores


def bf16_is_usable(device: torch.device, recipe: Recipe) -> bool:
    """Whether the device multiplies bfloat16 in hardware, and does so correctly here.

    On the CPU, torch 2.13 computes garbage weight gradients for a 3x3x3 bfloat16 convolution of an
    input that is exactly two slices deep, so a recipe whose pooling comes to two stays in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    shape = recipe.patch or recipe.preprocessing.shape
    if recipe.patch is None and shape is not None:
        shape = padded_shape(shape, recipe.preprocessing)
    return shape is not None and all(shape[0] // 2**level != 2 for level in range(5))


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a CSV file; the first one also writes the header."""
    columns = [
        "epoch",
        "loss",
        "learning_rate",
        "seconds",
        "seconds_waiting_for_data",
        "held_out_dice",
    ]
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerow(row)


def shorten_log(path: Path, epochs: int) -> None:
    """Drop the rows after an epoch: those of epochs that will be run again."""
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: 1 + epochs]))


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path}: expected the state of a `Training.train` run; it is missing or damaged "
            f"({error})."
        ) from error


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Replace the file as a whole."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
