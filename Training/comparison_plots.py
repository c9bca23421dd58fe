"""The plots of a comparison: Dice of every case, and volumes against their reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from Training.compared_runs import Group
from Training.comparison import agreement

BLUE, RED, GRAY = "#4477aa", "#cc3311", "#999999"


def plot_dice(groups: Sequence[Group], path: Path) -> None:
    """Write a PNG: a box and a point for each case a run, the points of a case joined.

    Args:
        groups: one panel each.
        path: of the file.
    """
    runs = len(groups[0].rows)
    size = (len(groups) * max(3.2, 1.1 * runs + 1.6), 4.2)
    figure = Figure(figsize=size, layout="constrained")
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        draw_dice(axes, group)
    figure.savefig(path, dpi=150)


def draw_dice(axes: Axes, group: Group) -> None:
    """One target's panel."""
    dices = np.array([[row.dice for row in rows] for rows in group.rows.values()])
    places = np.arange(1, len(dices) + 1)
    axes.boxplot(
        dices.T,
        positions=places,
        widths=0.5,
        showfliers=False,  # every case has its point
        medianprops={"color": RED, "linewidth": 1.5},
        boxprops={"color": GRAY},
        whiskerprops={"color": GRAY},
        capprops={"color": GRAY},
    )
    axes.plot(places, dices, color=BLUE, linewidth=0.5, alpha=0.4)
    for place, values in zip(places, dices, strict=True):
        axes.plot(np.full(len(values), place), values, "o", color=BLUE, markersize=4, alpha=0.7)
    axes.set_xticks(places, [wrapped(name) for name in group.rows])
    axes.set_xlim(0.4, len(dices) + 0.6)
    axes.set_ylabel("Dice")
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(f"{group.title}\nn = {len(group.cases)}", fontsize=9)


def plot_volumes(groups: Sequence[Group], path: Path) -> None:
    """Write a PNG of Bland-Altman plots of predicted and reference volume, in mL.

    Args:
        groups: one row of panels each, a panel a run.
        path: of the file.
    """
    names = [*groups[0].rows]
    figure = Figure(figsize=(max(3.4 * len(names), 4.4), 3.2 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), len(names), squeeze=False, sharex="row", sharey="row")
    for row, group in zip(panels, groups, strict=True):
        for axes, name in zip(row, names, strict=True):
            draw_volumes(axes, group, name)
        row[0].set_ylabel("predicted - reference, mL")
    for axes in panels[-1]:
        axes.set_xlabel("mean of predicted and reference, mL")
    figure.savefig(path, dpi=150)


def draw_volumes(axes: Axes, group: Group, name: str) -> None:
    """One run's panel: differences over means, with bias and limits of agreement."""
    predicted = np.array([row.predicted_ml for row in group.rows[name]])
    reference = np.array([row.reference_ml for row in group.rows[name]])
    bias, low, high = agreement(group.rows[name])
    axes.plot((predicted + reference) / 2, predicted - reference, "o", color=BLUE, alpha=0.7)
    axes.axhline(0, color=GRAY, linewidth=0.8)
    axes.axhline(bias, color=RED)
    title = f"{group.title}\n{name}: bias {bias:+.1f} mL"
    if low is not None and high is not None:
        axes.axhline(low, color=RED, linestyle="--", linewidth=0.9)
        axes.axhline(high, color=RED, linestyle="--", linewidth=0.9)
        title += f"\nlimits {low:+.1f} to {high:+.1f} mL"
    axes.set_title(title, fontsize=9)
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)


def wrapped(name: str, width: int = 14) -> str:
    """A name in lines of a tick label, broken at its hyphens, underscores and slashes.

    >>> wrapped("rmau-net-half-fold-1").split()
    ['rmau-net-half-', 'fold-1']
    """
    lines = [""]
    for part in name.replace("-", "- ").replace("_", "_ ").replace("/", "/ ").split():
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
