"""The trainer, for every recipe, read top to bottom.

    python -m Training.train RECIPE --data PREPARED -o RUN [--fold K/N|paper] [--set key=value ...]
                             [--resume] [--device auto|cpu|cuda] [--seed N]
    python -m Training.train --list

RUN holds run.json (recipe, cases, fold, versions), log.csv, last.pt (all that a resumed run needs;
replaced as a whole after every epoch) and best.pt (the same, of the epoch with the best held-out
Dice or loss, whichever the recipe monitors). `Training.export` makes the weights file. Cases are
prepared once and kept in PREPARED/cache.
"""

from __future__ import annotations

import argparse
import json
import os
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

from LiverTumorSegLib.backends import pick_device
from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.preprocess import padded_shape
from LiverTumorSegLib.recipe import FixedShape, Recipe
from LiverTumorSegLib.recipe import Training as Settings
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.sliding_window import as_channels_last
from Training.augment import draw_sample
from Training.cache import prepared_folder, read_prepared, with_measured_statistics
from Training.catalog import listing
from Training.checks import check
from Training.dataset import DataSet, read_data_set
from Training.folds import divide
from Training.losses import encode, total_loss
from Training.run_folder import (
    append_row,
    check_free,
    load_state,
    open_run,
    save_state,
    shorten_log,
)
from Training.sampling import deal
from Training.schedule import HeldOut, best_of, has_stalled, learning_rate
from Training.validation import for_network, validate

MOST_WORKERS = 8


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """The samples of one epoch, each a function of (seed, epoch, index) alone.

    So the number of loading processes and an interruption change nothing.
    """

    def __init__(self, folders: list[Path], recipe: Recipe, seed: int, epoch: int) -> None:
        self.folders, self.recipe, self.key = folders, recipe, (seed, epoch)
        slice_voxels = [read_prepared(folder).slice_voxels for folder in folders]
        self.order = deal(slice_voxels, recipe, np.random.default_rng([*self.key, 0]))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng([*self.key, 1 + index])
        case, z = self.order[index].tolist()
        return draw_sample(
            read_prepared(self.folders[case]), self.recipe, random, z if z >= 0 else None
        )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", choices=RECIPES, metavar="RECIPE", help="what to train")
    parser.add_argument(
        "--list",
        action="version",
        version=listing(),
        help="show all recipes, with what their papers reported, and exit",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of Training.prepare")
    parser.add_argument("-o", "--output", type=Path, required=True, help="run folder")
    parser.add_argument(
        "--fold",
        help="K/N: hold out fold K of N; paper: hold out and leave out as the paper did; without "
        "it all data trains",
    )
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
    except (InputError, ResourceError) as error:
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
        InputError: the run folder is in use, damaged or belongs to another run; the fold does not
            fit the data; or the recipe cannot be trained on it.
        ResourceError: the disk is full.
    """
    settings = recipe.training
    cases = divide(data.cases, fold, settings.split, seed)
    check(recipe, cases)
    if not resume:
        check_free(run)
    recipe = with_measured_statistics(recipe, data, cases.training)
    shown = cases.training + (cases.held_out if settings.monitor == "loss" else [])
    preparing = tqdm(shown, desc="prepare", unit="case", leave=False, disable=None)
    folders = [prepared_folder(data, case, recipe) for case in preparing][: len(cases.training)]
    samples = len(Samples(folders, recipe, seed, epoch=0))
    if samples < settings.batch_size:
        raise InputError(
            f"{data.folder}: {samples} samples an epoch do not fill one batch of "
            f"{settings.batch_size}; with --set, lower training.batch_size or let "
            "training.sampling show more."
        )
    description = {
        "recipe": json.loads(recipe.to_json()),
        "fold": fold,
        "seed": seed,
        "training_cases": [asdict(case) for case in cases.training],
        "held_out_cases": [asdict(case) for case in cases.held_out],
        "test_cases": [asdict(case) for case in cases.test],
    }
    open_run(run, description)

    torch.manual_seed(seed)
    network, layout = laid_out(build(recipe.network.name, **recipe.network.args))
    network = network.to(device)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    average = averaged(network, settings)
    first_epoch = 0
    history: list[HeldOut] = []
    if resume and (run / "last.pt").exists():
        state = load_state(run / "last.pt", device)
        network.load_state_dict(state["network"])
        if average is not None:
            average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        first_epoch = state["epoch"]
        history = [HeldOut(**held_out) for held_out in state["history"]]
    shorten_log(run / "log.csv", first_epoch)

    workers = max(1, min((os.cpu_count() or 1) - 1, MOST_WORKERS))
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
        best = best_of(settings, history)
        if best is not None and has_stalled(settings, history, epoch):
            since = f"no better {settings.monitor} since epoch {best.epoch}"
            tqdm.write(f"stopped after epoch {epoch}: {since}")
            break
        started, waited = time.perf_counter(), 0.0
        network.train()
        loader = DataLoader(
            Samples(folders, recipe, seed, epoch),
            settings.batch_size,
            num_workers=workers,
            drop_last=True,  # a norm cannot learn from a batch of one
            prefetch_factor=4,
        )
        losses = []
        asked = time.perf_counter()
        for step, (image, labels) in enumerate(loader):
            waited += time.perf_counter() - asked
            rate = learning_rate(settings, epoch + step / len(loader), history)
            for group in optimizer.param_groups:
                group["lr"] = rate
            image = for_network(network, image)
            image = image.to(device, memory_format=layout)
            labels = for_network(network, labels).to(device)
            target = encode(labels, recipe.targets, recipe.inference.activation)
            with autocast:
                outputs = network(image)
            loss = total_loss(settings, outputs, target, epoch)
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
        if cases.held_out and (last or (epoch + 1) % settings.validate_every_epochs == 0):
            predicting = average.module if average is not None else network
            scores = validate(recipe, predicting, data, cases.held_out, device, workers)
            row.update(scores)
            history.append(HeldOut(epoch + 1, [*scores.values()][-1]))
            best = best_of(settings, history)
        append_row(run / "log.csv", row)
        state = {
            "epoch": epoch + 1,
            "history": [asdict(held_out) for held_out in history],
            "network": network.state_dict(),
            "average": average.state_dict() if average is not None else {},
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        if best is not None and best.epoch == epoch + 1:
            save_state(run / "best.pt", state)
        save_state(run / "last.pt", state)
        shown = {"loss": row["loss"], f"best_{settings.monitor}": best.value if best else None}
        epochs.set_postfix(
            {key: f"{value:.3f}" for key, value in shown.items() if value is not None}
        )


def laid_out(network: nn.Module) -> tuple[nn.Module, torch.memory_format]:
    """The network, and the layout in memory in which it trains fastest on CPUs.

    Channels last, but not for instance norms, which are slower so.
    """
    if any(isinstance(module, nn.InstanceNorm3d) for module in network.modules()):
        return network, torch.contiguous_format
    if network.dimensions == 2:
        return network.to(memory_format=torch.channels_last), torch.channels_last
    return as_channels_last(network), torch.channels_last_3d


def averaged(network: nn.Module, settings: Settings) -> AveragedModel | None:
    """The exponential average of weights and buffers, which predicts where a recipe has one."""
    if settings.ema_decay is None:
        return None
    return AveragedModel(
        network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True
    )


def bf16_is_usable(device: torch.device, recipe: Recipe) -> bool:
    """Whether the device multiplies bfloat16 in hardware, and does so correctly here.

    On the CPU, torch 2.13 computes garbage weight gradients for a 3x3x3 bfloat16 convolution of an
    input that is exactly two slices deep, so a recipe whose pooling comes to two stays in float32.
    Convolutions of slices are right at every size.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    shape, resampling = recipe.patch, recipe.preprocessing.resampling
    if shape is None and isinstance(resampling, FixedShape):
        shape = padded_shape(resampling.shape, recipe.preprocessing)
    return shape is not None and all(shape[0] // 2**level != 2 for level in range(5))


if __name__ == "__main__":
    sys.exit(main())
