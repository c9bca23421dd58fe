"""The plots of an operating point: what every threshold gives, and what a confidence is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

from Training.calibration import Bin
from Training.comparison_plots import BLUE, GRAY, RED
from Training.thresholds import Point, Row

GREEN = "#228833"
BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "fontsize": 8, "frameon": False}


def plot_points(rows: Sequence[Row], chosen: Point, path: Path) -> None:
    """Write a PNG: Dice over the threshold for every smallest lesion; what else the chosen gives.

    Args:
        rows: of every point.
        chosen: one of them.
        path: of the file.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = sorted({row.min_lesion_mm3 for row in rows})
    for size in sizes:
        own = [row for row in rows if row.min_lesion_mm3 == size]
        is_chosen = size == chosen.min_lesion_mm3
        left.plot(
            [row.threshold for row in own],
            [row.dice for row in own],
            color=BLUE if is_chosen else GRAY,
            linewidth=2 if is_chosen else 0.8,
            zorder=3 if is_chosen else 2,
            label=f"{size:g} mm³, chosen" if is_chosen else None,
        )
    others = [f"{size:g}" for size in sizes if size != chosen.min_lesion_mm3]
    left.plot([], [], color=GRAY, linewidth=0.8, label=f"{', '.join(others)} mm³")
    left.set(xlabel="threshold", ylabel="mean tumor Dice a case")
    left.set_title("Each line drops lesions below a size", fontsize=10)
    left.legend(**BELOW)

    own = [row for row in rows if row.min_lesion_mm3 == chosen.min_lesion_mm3]
    thresholds = [row.threshold for row in own]
    for name, color in (("recall", GREEN), ("precision", BLUE)):
        values = [np.nan if getattr(row, name) is None else getattr(row, name) for row in own]
        right.plot(thresholds, values, color=color, label=f"lesion {name}")
    right.set(xlabel="threshold", ylabel="share of lesions", ylim=(0, 1))
    right.set_title(f"Lesions of {chosen.min_lesion_mm3:g} mm³ and more", fontsize=10)
    beside = right.twinx()
    false = [row.false_lesions for row in own]
    beside.plot(thresholds, false, color=RED, linestyle="--", label="false lesions a case")
    beside.set(ylabel="false lesions a case", ylim=(0, None))
    handles = [*right.get_legend_handles_labels()[0], *beside.get_legend_handles_labels()[0]]
    right.legend(handles=handles, **BELOW, ncols=3)
    for axes in (left, right):
        axes.axvline(chosen.threshold, color="black", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def plot_confidence(bins: Sequence[Bin], path: Path) -> None:
    """Write a PNG: the share of real lesions over their confidence, with 95 % intervals.

    Args:
        bins: at least one.
        path: of the file.
    """
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    draw_confidence(figure.subplots(), bins)
    figure.savefig(path, dpi=150)


def draw_confidence(axes: Axes, bins: Sequence[Bin]) -> None:
    """The panel; intervals are Wilson's (J. Am. Stat. Assoc. 1927, 209-212)."""
    confidence, real = [one.confidence for one in bins], [one.real for one in bins]
    intervals = [
        binomtest(round(one.real * one.lesions), one.lesions).proportion_ci(method="wilson")
        for one in bins
    ]
    shares = zip(real, intervals, strict=True)
    reach = [(max(share - i.low, 0.0), max(i.high - share, 0.0)) for share, i in shares]
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle="--")
    axes.errorbar(confidence, real, yerr=np.transpose(reach), fmt="o", color=BLUE, capsize=3)
    for one in bins:
        axes.annotate(
            f"{one.lesions}",
            (one.confidence, one.real),
            textcoords="offset points",
            xytext=(6, -3),
            fontsize=8,
        )
    axes.set(
        xlim=(0, 1.04),
        ylim=(-0.03, 1.03),
        xlabel="confidence, fitted on other patients",
        ylabel="share that touches a true lesion",
        title="Marked lesions, their number beside each point",
    )
    axes.title.set_fontsize(9)
    axes.grid(alpha=0.3)
