"""The trainer, for every recipe, read top to bottom.

    python -m Training.train RECIPE --data PREPARED -o RUN [--fold K/N|paper] [--set key=value ...]
                             [--resume] [--device auto|cpu|cuda] [--seed N] [--deterministic]
    torchrun --nproc-per-node=G -m Training.train RECIPE ...
    python -m Training.train --list

RUN holds run.json (recipe, cases, fold, versions), last.pt (all that a resumed run needs; replaced
as a whole after every epoch), best.pt (the same, of the epoch with the best held-out Dice or loss,
whichever the recipe monitors), log.csv, curve.png and, where TensorBoard is installed, a folder for
it. `Training.export` makes the weights file. Cases are prepared once and kept in PREPARED/cache.

With torchrun each of G processes takes training.batch_size samples a step and its share of the
epoch, so that the run is that of one process with G times the batch, but for losses over a whole
batch (batch_dice and those of softmax other than cross_entropy), which are of each process's share,
and for batch norms on the CPU, which are too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset
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
from Training.curves import draw, in_words, open_board, show
from Training.dataset import DataSet, read_data_set
from Training.folds import Division, divide
from Training.loading import load
from Training.losses import encode, total_loss
from Training.parallel import (
    from_all,
    from_first,
    joined,
    process_count,
    process_number,
    with_shared_gradients,
    with_shared_norms,
)
from Training.run_folder import Row, check_free, follow, keep, load_state, open_run
from Training.sampling import deal
from Training.schedule import HeldOut, best_of, has_stalled, learning_rate
from Training.validation import deciding, for_network, validate

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Key = tuple[int, int, int, int]


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
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="equal weights twice, on the same machine with as many threads; refused where CUDA "
        "has no such algorithm for a network",
    )
    arguments = parser.parse_args(argv)
    try:
        recipe = overridden(RECIPES[arguments.recipe], arguments.set)
        data = read_data_set(arguments.data)
        if arguments.deterministic:
            make_deterministic()
        with joined(pick_device(arguments.device)) as device:
            train(
                recipe,
                data,
                arguments.output,
                arguments.fold,
                arguments.seed,
                device,
                arguments.resume,
            )
    except (InputError, ResourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (MemoryError, torch.OutOfMemoryError) as error:
        print(
            f"error: memory ran out ({error}). With --set, lower training.batch_size or the patch.",
            file=sys.stderr,
        )
        return ResourceError.exit_code
    except KeyboardInterrupt:
        if process_number() == 0:
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


def make_deterministic() -> None:
    """Have torch compute the same in every run, or fail, from now on in this process."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA starts
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # finds bugs, and takes time
    torch.backends.cudnn.benchmark = False


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
    job = from_first(set_up, recipe, data, run, fold, seed, resume)
    learner = start(job.recipe, seed, device)
    if resume and (run / "last.pt").exists():
        restore(learner, run / "last.pt")
        from_first(follow, run, learner.rows, is_best(learner))
    if not is_over(learner):
        samples = Samples(job.folders, job.recipe, seed)
        steps = len(shares_of_batches(samples, epoch=0))
        epochs = range(len(learner.rows), job.recipe.training.epochs)
        shares = (share for epoch in epochs for share in shares_of_batches(samples, epoch))
        first = process_number() == 0
        boards = open_board(run, learner.rows) if first else contextlib.nullcontext()
        with (
            contextlib.closing(load(samples, shares, device)) as batches,
            progress_bar(learner, steps) as bar,
            boards as board,
        ):
            while not is_over(learner):
                row = train_epoch(learner, batches, steps, bar)
                if is_validated(learner, job):
                    row.update(from_first(score, learner, job, data))
                learner.rows.append(row)
                from_first(record, run, learner, state_of(learner), board)
                tell(bar, learner)
    from_first(finish, run, learner)


# What is trained, and on what


@dataclass(frozen=True)
class Job:
    """What a run trains, the same in all its processes.

    Attributes:
        recipe: with the statistics of the training cases, where it uses statistics.
        cases: who trains and who is held out.
        folders: the prepared training cases.
    """

    recipe: Recipe
    cases: Division
    folders: list[Path]


def set_up(
    recipe: Recipe, data: DataSet, run: Path, fold: str | None, seed: int, resume: bool
) -> Job:
    """Check that the run is possible, prepare its cases and open its folder.

    Raises:
        InputError: as `train` says.
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
    samples = len(Samples(folders, recipe, seed).order(epoch=0))
    batch = settings.batch_size * process_count()
    if samples < batch:
        raise InputError(
            f"{data.folder}: {samples} samples an epoch do not fill one batch of {batch}; with "
            "--set, lower training.batch_size or let training.sampling show more."
        )
    description = {
        "recipe": json.loads(recipe.to_json()),
        "fold": fold,
        "seed": seed,
        "processes": process_count(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "training_cases": [asdict(case) for case in cases.training],
        "held_out_cases": [asdict(case) for case in cases.held_out],
        "test_cases": [asdict(case) for case in cases.test],
    }
    open_run(run, description)
    return Job(recipe, cases, folders)


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """The samples of all epochs, each a function of its key, the recipe and the seed alone.

    So the number of loading processes and an interruption change nothing. A key is the epoch, the
    number of the sample in it, the case, and the slice or -1.
    """

    def __init__(self, folders: list[Path], recipe: Recipe, seed: int) -> None:
        self.folders, self.recipe, self.seed = folders, recipe, seed
        self.cases = [read_prepared(folder) for folder in folders]

    def __reduce__(self) -> tuple[type[Samples], tuple[list[Path], Recipe, int]]:
        """A process that does not share our memory maps the cases anew."""
        return Samples, (self.folders, self.recipe, self.seed)

    def order(self, epoch: int) -> list[Key]:
        """The keys of an epoch, shuffled."""
        slice_voxels = [case.slice_voxels for case in self.cases]
        synthetic = [case.synthetic for case in self.cases]
        random = np.random.default_rng([self.seed, epoch, 0])
        dealt = deal(slice_voxels, synthetic, self.recipe, random)
        return [(epoch, index, case, z) for index, (case, z) in enumerate(dealt.tolist())]

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index, case, z = key
        random = np.random.default_rng([self.seed, epoch, 1 + index])
        return draw_sample(self.cases[case], self.recipe, random, z if z >= 0 else None)


def shares_of_batches(samples: Samples, epoch: int) -> list[list[Key]]:
    """What this process shows of each batch of an epoch; a last one that is not full is left out.

    A norm cannot learn from a batch of one.
    """
    keys, size = samples.order(epoch), samples.recipe.training.batch_size
    batch = size * process_count()
    firsts = range(size * process_number(), len(keys) - len(keys) % batch, batch)
    return [keys[first : first + size] for first in firsts]


# What learns


@dataclass
class Learner:
    """A network and all that its training has come to.

    Attributes:
        recipe: what it is trained by.
        device: where it is.
        network: what learns.
        objective: its loss, whose gradients are averaged over the processes.
        layout: of its input in memory.
        average: the averaged weights, where the recipe has them.
        optimizer: Adam.
        scaler: keeps float16 gradients from vanishing; idle in the other precisions.
        rows: the log, one row an epoch.
    """

    recipe: Recipe
    device: torch.device
    network: nn.Module
    objective: nn.Module
    layout: torch.memory_format
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    rows: list[Row]


def start(recipe: Recipe, seed: int, device: torch.device) -> Learner:
    """A network before its first step, the same in all processes; their dropout then differs."""
    settings = recipe.training
    torch.manual_seed(seed)
    network, layout = laid_out(build(recipe.network.name, **recipe.network.args))
    network = with_shared_norms(network.to(device), device)
    torch.manual_seed(seed + process_number())
    precision = precision_on(device, recipe)
    return Learner(
        recipe=recipe,
        device=device,
        network=network,
        objective=with_shared_gradients(
            Objective(network, recipe, precision), device, idle=settings.deep_supervision is None
        ),
        layout=layout,
        average=averaged(network, settings),
        optimizer=torch.optim.Adam(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        ),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
        rows=[],
    )


class Objective(nn.Module):
    """The loss of a batch, by a network; one module, so that all that it depends on is known.

    Args:
        network: returns its lists of logits.
        recipe: names the losses.
        precision: of matrix products and convolutions.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, precision: torch.dtype) -> None:
        super().__init__()
        self.network, self.recipe, self.precision = network, recipe, precision

    def forward(self, image: Tensor, labels: Tensor, epoch: int) -> Tensor:
        """Image `(B, 1, *spatial)` and labels `(B, 1, *output)` to a scalar."""
        target = encode(labels, self.recipe.targets, self.recipe.inference.activation)
        reduced = self.precision != torch.float32
        dtype = self.precision if reduced else None
        with torch.autocast(image.device.type, dtype, enabled=reduced):
            outputs = self.network(image)
        return total_loss(self.recipe.training, outputs, target, epoch)


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


def precision_on(device: torch.device, recipe: Recipe) -> torch.dtype:
    """What the device multiplies fast and right: bfloat16, on older GPUs float16, or float32."""
    if bf16_is_usable(device, recipe):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def bf16_is_usable(device: torch.device, recipe: Recipe) -> bool:
    """Whether the device multiplies bfloat16 in hardware, and does so correctly here.

    On the CPU, torch 2.13 computes garbage weight gradients for a 3x3x3 bfloat16 convolution of an
    input that is exactly two slices deep, so a recipe whose pooling comes to two stays in float32.
    Convolutions of slices are right at every size.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    shape, resampling = recipe.patch, recipe.preprocessing.resampling
    if shape is None and isinstance(resampling, FixedShape):
        shape = padded_shape(resampling.shape, recipe.preprocessing)
    return shape is not None and all(shape[0] // 2**level != 2 for level in range(5))


# An epoch


def train_epoch(
    learner: Learner, batches: Iterator[tuple[Tensor, Tensor]], steps: int, bar: tqdm
) -> Row:
    """Take an epoch's steps; returns its row of the log."""
    settings, epoch, past = learner.recipe.training, len(learner.rows), history(learner)
    learner.network.train()
    losses, waited, started = [], 0.0, time.perf_counter()
    for step in range(steps):
        asked = time.perf_counter()
        image, labels = next(batches)
        waited += time.perf_counter() - asked
        rate = learning_rate(settings, epoch + step / steps, past)
        losses.append(train_step(learner, image, labels, rate))
        bar.update()
    return {
        "epoch": epoch + 1,
        "loss": float(np.mean(from_all(float(np.mean(losses))))),
        "learning_rate": rate,
        "seconds": time.perf_counter() - started,
        "seconds_waiting_for_data": waited,
    }


def train_step(learner: Learner, image: Tensor, labels: Tensor, rate: float) -> float:
    """Learn from one batch, (B, 1, z, y, x); returns its loss."""
    settings, scaler = learner.recipe.training, learner.scaler
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    image = for_network(learner.network, image)
    image = image.to(learner.device, memory_format=learner.layout, non_blocking=True)
    labels = for_network(learner.network, labels).to(learner.device, non_blocking=True)
    learner.optimizer.zero_grad()
    with determinism_told(learner.device):
        loss = learner.objective(image, labels, len(learner.rows))
        scaler.scale(loss).backward()
    scaler.unscale_(learner.optimizer)
    if settings.gradient_clip is not None:
        nn.utils.clip_grad_norm_(learner.network.parameters(), settings.gradient_clip)
    scaler.step(learner.optimizer)
    scaler.update()
    if learner.average is not None:
        learner.average.update_parameters(learner.network)
    return loss.item()


@contextlib.contextmanager
def determinism_told(device: torch.device) -> Iterator[None]:
    """Say in our words that torch refuses what it cannot do the same way twice.

    Raises:
        InputError: --deterministic was asked for, and a part of the network cannot be so.
    """
    try:
        yield
    except RuntimeError as error:
        if "deterministic implementation" not in str(error):
            raise
        raise InputError(
            f"--deterministic: on {device}, {str(error).split(',')[0]}, and this recipe needs it. "
            "Leave it out, or use --device cpu."
        ) from error


def is_validated(learner: Learner, job: Job) -> bool:
    """Whether the epoch that has just been trained is."""
    settings, epoch = job.recipe.training, len(learner.rows) + 1
    due = epoch % settings.validate_every_epochs == 0 or epoch == settings.epochs
    return due and bool(job.cases.held_out)


def score(learner: Learner, job: Job, data: DataSet) -> Row:
    """What the held-out cases say of the weights, and how long that took.

    Raises:
        InputError: a case's arrays are missing or damaged.
        ResourceError: the disk is full.
    """
    started = time.perf_counter()
    network = learner.network if learner.average is None else learner.average.module
    scores = validate(job.recipe, network, data, job.cases.held_out, learner.device)
    return {**scores, "seconds_validating": time.perf_counter() - started}


def history(learner: Learner) -> list[HeldOut]:
    """The values that decide, of the epochs that were validated."""
    name = deciding(learner.recipe)
    return [HeldOut(int(row["epoch"]), row[name]) for row in learner.rows if name in row]


def is_best(learner: Learner) -> bool:
    """Whether the last epoch is the best so far."""
    best = best_of(learner.recipe.training, history(learner))
    return best is not None and best.epoch == len(learner.rows)


def is_over(learner: Learner) -> bool:
    """Whether all epochs are trained, or the recipe waits for a better one no longer."""
    settings, done = learner.recipe.training, len(learner.rows)
    return done == settings.epochs or has_stalled(settings, history(learner), done)


# What is kept


def state_of(learner: Learner) -> dict[str, Any]:
    """All that a resumed run needs; all processes must ask for it together."""
    average = learner.average
    return {
        "epoch": len(learner.rows),
        "rows": learner.rows,
        "network": learner.network.state_dict(),
        "average": average.state_dict() if average is not None else {},
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "generators": from_all(generators(learner.device)),
    }


def restore(learner: Learner, path: Path) -> None:
    """Continue from a state.

    Raises:
        InputError: it is damaged, or not of this recipe and this version.
    """
    state = load_state(path, learner.device)
    try:
        learner.network.load_state_dict(state["network"])
        if learner.average is not None:
            learner.average.load_state_dict(state["average"])
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.scaler.load_state_dict(state["scaler"])
        learner.rows = state["rows"]
        own = state["generators"][process_number()]
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{path}: expected the state of a run of this version; it does not fit ({error}). "
            "Start anew in another folder."
        ) from error
    torch.set_rng_state(own["cpu"].cpu())
    if learner.device.type == "cuda" and "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"].cpu(), learner.device)


def generators(device: torch.device) -> dict[str, Tensor]:
    """The states of this process's random numbers, which dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def record(run: Path, learner: Learner, state: dict[str, Any], board: SummaryWriter | None) -> None:
    """Write the state after an epoch, the log, and the curves where there is news.

    Raises:
        InputError: the run's folder cannot be written to.
        ResourceError: the disk is full.
    """
    keep(run, state, is_best(learner))
    if deciding(learner.recipe) in learner.rows[-1] and not is_over(learner):
        draw_curves(run, learner)
    if board is not None:
        show(board, learner.rows[-1])


def draw_curves(run: Path, learner: Learner) -> None:
    """Write curve.png."""
    settings, done = learner.recipe.training, len(learner.rows)
    title = f"{learner.recipe.name}, {done} of {settings.epochs} epochs"
    draw(run, learner.rows, title, best_of(settings, history(learner)))


# What is said


def progress_bar(learner: Learner, steps: int) -> tqdm:
    """Steps done and the time that the rest will take; a line a minute where no one watches."""
    done, epochs = len(learner.rows), learner.recipe.training.epochs
    return tqdm(
        initial=done * steps,
        total=epochs * steps,
        desc=learner.recipe.name,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 60,
        disable=process_number() > 0,
    )


def tell(bar: tqdm, learner: Learner) -> None:
    """Show the last loss and the best value beside the bar."""
    best = best_of(learner.recipe.training, history(learner))
    shown = {"epoch": str(len(learner.rows)), "loss": f"{learner.rows[-1]['loss']:.3f}"}
    if best is not None:
        shown["best"] = f"{best.value:.3f} ({best.epoch})"
    bar.set_postfix(shown)


def finish(run: Path, learner: Learner) -> None:
    """Draw the whole run, and say in a line what it came to.

    Raises:
        InputError: the run's folder cannot be written to.
        ResourceError: the disk is full.
    """
    draw_curves(run, learner)
    print(summary(learner))


def summary(learner: Learner) -> str:
    """Epochs, time, share of it spent waiting for data, and the best epoch."""
    settings, rows = learner.recipe.training, learner.rows
    best = best_of(settings, history(learner))
    seconds = sum(row["seconds"] for row in rows)
    validating = sum(row.get("seconds_validating", 0) for row in rows)
    waiting = sum(row["seconds_waiting_for_data"] for row in rows) / seconds
    told = [
        f"{len(rows)} epochs in {spoken(seconds)} and {spoken(validating)} of validation, "
        f"{waiting:.1%} of the training spent waiting for data"
    ]
    if best is not None:
        name = in_words(deciding(learner.recipe))
        told.append(f"best {name} {best.value:.4f} after epoch {best.epoch}")
        if len(rows) < settings.epochs:
            told.append(f"stopped early, {len(rows) - best.epoch} epochs without a better one")
    return "; ".join(told)


def spoken(seconds: float) -> str:
    """A time as people say it.

    >>> spoken(42.3), spoken(754), spoken(9000)
    ('42 s', '13 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(main())
