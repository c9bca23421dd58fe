"""The curves of a run: curve.png, and the same numbers for TensorBoard where it is installed."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from Training.run_folder import Row, explained, replacing
from Training.schedule import HeldOut

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COLORS = {
    "loss": "#4477aa",
    "held_out_loss": "#ee6677",
    "held_out_liver_dice": "#228833",
    "held_out_tumor_dice": "#aa3377",
    "learning_rate": "#555555",
}
DICES = ("held_out_liver_dice", "held_out_tumor_dice")


def draw(run: Path, rows: list[Row], title: str, best: HeldOut | None) -> None:
    """Write curve.png: loss, held-out Dice if there is any, and learning rate, over epochs.

    Args:
        run: the run's folder.
        rows: the log, of one epoch or more.
        title: what is trained.
        best: the best epoch so far, which is marked.

    Raises:
        InputError: the file cannot be written.
        ResourceError: the disk is full.
    """
    panels = [("loss", ("loss", "held_out_loss"))]
    if any(name in row for row in rows for name in DICES):
        panels.append(("held-out Dice", DICES))
    panels.append(("learning rate", ("learning_rate",)))
    heights = [3.0] * (len(panels) - 1) + [1.4]
    height = sum(heights) + 1
    figure = Figure(figsize=(8, height))
    grid = figure.subplots(len(panels), sharex=True, height_ratios=heights)
    figure.subplots_adjust(0.1, 0.5 / height, 0.97, 1 - 0.4 / height)
    grid[0].set_title(title)
    for axes, (label, names) in zip(grid, panels, strict=True):
        for name in names:
            draw_line(axes, rows, name)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if best is not None and label != "learning rate":
            axes.axvline(best.epoch, color="black", linestyle=":", label=f"best epoch {best.epoch}")
        if label != "learning rate":
            axes.legend(loc="best", frameon=False)
    if is_wide(rows, "learning_rate"):
        grid[-1].set_yscale("log")
    else:
        grid[-1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    grid[-1].set_xlabel("epoch")
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    with replacing(run / "curve.png") as file:
        figure.savefig(file, format="png", dpi=110)


def draw_line(axes: Axes, rows: list[Row], name: str) -> None:
    """Draw a column of the log where it has values; few of them as points."""
    points = [(row["epoch"], row[name]) for row in rows if name in row]
    if points:
        label = in_words(name)
        marker = "o" if len(points) <= 50 else None
        axes.plot(*zip(*points, strict=True), color=COLORS[name], label=label, marker=marker, ms=3)


def in_words(name: str) -> str:
    """A column of the log as people say it.

    >>> in_words("held_out_liver_dice")
    'held-out liver Dice'
    """
    return name.replace("held_out", "held-out").replace("dice", "Dice").replace("_", " ")


def is_wide(rows: list[Row], name: str) -> bool:
    """Whether a column's positive values differ by more than a factor of 30."""
    values = [row[name] for row in rows if row[name] > 0 and math.isfinite(row[name])]
    return bool(values) and max(values) > 30 * min(values)


@contextlib.contextmanager
def open_board(run: Path, rows: list[Row]) -> Iterator[SummaryWriter | None]:
    """A folder for TensorBoard with the epochs so far, made anew; None without TensorBoard.

    Raises:
        InputError: the folder cannot be written to.
        ResourceError: the disk is full.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield None
        return
    folder = run / "tensorboard"
    with explained(folder):
        if folder.exists():
            shutil.rmtree(folder)
        board = SummaryWriter(str(folder))
    with board:
        for row in rows:
            show(board, row)
        yield board


def show(board: SummaryWriter, row: Row) -> None:
    """Add an epoch to TensorBoard.

    Raises:
        InputError: its folder cannot be written to.
        ResourceError: the disk is full.
    """
    with explained(Path(board.log_dir)):
        for name, value in row.items():
            if name != "epoch":
                board.add_scalar(name, value, int(row["epoch"]))
        board.flush()
