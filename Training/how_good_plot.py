"""The picture of README's section "How good is it"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from Training.calibration import Bin
from Training.comparison_plots import BLUE, GRAY, RED
from Training.operating_point_plots import draw_confidence
from Training.scores import Score


def plot(
    scores: Sequence[Score], sizes: Sequence[dict[str, Any]], bins: Sequence[Bin], path: Path
) -> None:
    """Write a PNG: Dice of every case, lesions found by size, and how reliable confidences are.

    Args:
        scores: of liver and tumors.
        sizes: groups as `Training.summary.by_size` makes them.
        bins: none leaves the last panel out.
        path: of the file.
    """
    panels = 3 if bins else 2
    figure = Figure(figsize=(3.9 * panels, 3.5), layout="constrained")
    axes = figure.subplots(1, panels)
    draw_cases(axes[0], scores)
    draw_sizes(axes[1], sizes)
    if bins:
        draw_confidence(axes[2], bins)
        axes[2].set_title("Confidence of marked lesions, their number", fontsize=9)
    figure.savefig(path, dpi=150)


def draw_cases(axes: Axes, scores: Sequence[Score]) -> None:
    """Dice of every case, those of the best tumor first."""
    dices: dict[str, dict[str, float]] = {}
    for score in scores:
        dices.setdefault(score.case, {})[score.target] = score.dice
    cases = sorted(dices, key=lambda case: -dices[case].get("tumor", 0.0))
    places = np.arange(len(cases))
    for target, color, marker in (("liver", GRAY, "s"), ("tumor", RED, "o")):
        values = [dices[case].get(target, np.nan) for case in cases]
        if not np.isnan(values).all():
            label = f"{target}, mean {np.nanmean(values):.2f}"
            axes.plot(places, values, marker, color=color, label=label)
    axes.set_xticks(places, cases, rotation=60, ha="right", fontsize=8)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("Dice")
    axes.set_title("Every case", fontsize=9)
    axes.legend(fontsize=8, loc="lower left")
    axes.grid(alpha=0.3)


def draw_sizes(axes: Axes, sizes: Sequence[dict[str, Any]]) -> None:
    """Shares of the true lesions that are touched and detected, a group of bars a size."""
    shown = [group for group in sizes if group["lesions"]]
    places = np.arange(len(shown))
    for offset, key, color in ((-0.2, "touched", GRAY), (0.2, "detected", BLUE)):
        shares = [group[key] / group["lesions"] for group in shown]
        axes.bar(places + offset, shares, 0.4, color=color, label=key)
        for place, share, group in zip(places, shares, shown, strict=True):
            text = f"{group[key]}/{group['lesions']}"
            axes.annotate(text, (place + offset, share + 0.01), ha="center", fontsize=7)
    axes.set_xticks(places, [size_words(group) for group in shown], fontsize=8)
    axes.set_ylim(0, 1.1)
    axes.set_xlabel("longest axial diameter, mm")
    axes.set_ylabel("share of true lesions")
    axes.set_title("Lesions by size", fontsize=9)
    axes.legend(fontsize=8)
    axes.grid(axis="y", alpha=0.3)


def size_words(group: dict[str, Any]) -> str:
    """A range of sizes."""
    high = group["below_mm"]
    return f"{group['from_mm']:g} and more" if high is None else f"{group['from_mm']:g} to {high:g}"
