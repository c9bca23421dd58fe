"""The list of all recipes: what each changes in its paper's system, its cost, its reported scores.

    python -m Training.catalog [--write README.md]

prints the README's table, or puts it between the two marks in that file. The cost is that of one
pass over a reference CT of 512x512x200 voxels of 0.75x0.75x2 mm, with a body of 460x340 pixels and
a liver of 260x220 pixels and 80 slices, every window counted, skipped ones too.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.preprocess import network_shape, padded_shape
from LiverTumorSegLib.recipe import Recipe, Triple
from LiverTumorSegLib.recipes import PAPERS, REPORTED
from LiverTumorSegLib.recipes.common import NO_AUGMENTATION
from LiverTumorSegLib.sliding_window import window_starts, window_within
from Training.marked_section import around_marks

CT_VOXELS, BODY_VOXELS, LIVER_VOXELS = (200, 512, 512), (200, 340, 460), (80, 220, 260)
CT_SPACING_MM = (2.0, 0.75, 0.75)
NOT_AUGMENTED = dataclasses.asdict(NO_AUGMENTATION)
BEGIN, END = "<!-- recipes: made by python -m Training.catalog -->", "<!-- end of recipes -->"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.catalog",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="file with the two marks")
    arguments = parser.parse_args(argv)
    if arguments.write is None:
        print(table())
        return 0
    try:
        before, after = around_marks(arguments.write.read_text(), BEGIN, END)
        arguments.write.write_text(f"{before}\n{table()}\n{after}")
    except (OSError, ValueError) as error:
        print(f"error: {arguments.write}: expected both marks: {error}", file=sys.stderr)
        return InputError.exit_code
    return 0


def listing() -> str:
    """All recipes for a terminal, with what their papers reported."""
    lines = []
    for paper in PAPERS:
        lines += ["", paper.RECIPES[0].paper.citation]
        for recipe in paper.RECIPES:
            lines.append(f"  {recipe.name:30} {recipe.target:6} {variant(recipe)}")
            if recipe.name in REPORTED:
                lines.append(f"  {'':30} {'':6} reported: {reported(recipe.name)}")
    return "\n".join(lines[1:])


def reported(name: str) -> str:
    """A paper's figures for a recipe, as one line."""
    figures = ", ".join(f"{key} {value:g}" for key, value in REPORTED[name].figures.items())
    return f"{figures} ({REPORTED[name].data})"


def table() -> str:
    """All recipes as a Markdown table."""
    lines = [
        "| paper | variant | parameters | GFLOP a volume | recipe |",
        "|---|---|---:|---:|---|",
    ]
    for paper in PAPERS:
        title = paper.__doc__.partition(" (")[0]
        for recipe in paper.RECIPES:
            try:
                parameters, gflop = cost(recipe)
                numbers = f"{parameters:,} | {gflop:,.0f}"
            except InputError:
                numbers = "– | –"
            lines.append(f"| {title} | {variant(recipe)} | {numbers} | `{recipe.name}` |")
    return "\n".join(lines)


def variant(recipe: Recipe) -> str:
    """What a recipe changes in the first one of its paper and target."""
    paper = next(paper for paper in PAPERS if recipe in paper.RECIPES)
    first = next(other for other in paper.RECIPES if other.target == recipe.target)
    if recipe is first:
        return "as published" if recipe.name in REPORTED else "ours"
    if recipe.network.name != first.network.name:
        return recipe.network.name
    before, after = plain(first), plain(recipe)
    return ", ".join(
        f"{key.split('.')[-1]} {words(value)}"
        for key, value in after.items()
        if key != "name" and (key not in before or before[key] != value)
    )


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe's values by dotted path; no augmentation at all is one value."""
    result: dict[str, Any] = {}

    def visit(path: str, value: Any) -> None:
        if value == NOT_AUGMENTED:
            result[path] = None
        elif isinstance(value, dict) and value and path != "training.loss":
            for key, inner in value.items():
                visit(f"{path}.{key}" if path else key, inner)
        else:
            result[path] = value

    visit("", dataclasses.asdict(recipe))
    return result


def words(value: Any) -> str:
    """A value as one would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return " + ".join(f"{weight:g} {name}" for name, weight in value.items())
    if isinstance(value, (list, tuple)):
        return "×".join(words(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def cost(recipe: Recipe) -> tuple[int, float]:
    """Parameters in training, and GFLOP of a pass over the reference CT in the deployed form.

    Raises:
        InputError: the network needs a library that is not installed.
    """
    grid = padded_shape(reference_grid(recipe), recipe.preprocessing)
    window = window_within(recipe.patch, grid)
    windows = math.prod(
        len(window_starts(size, length, recipe.inference.overlap))
        for size, length in zip(grid, window, strict=True)
    )
    args = json.dumps(recipe.network.args, sort_keys=True)
    parameters, gflop = network_cost(recipe.network.name, args, window)
    return parameters, windows * gflop


@functools.cache
def network_cost(name: str, args: str, window: tuple[int, ...]) -> tuple[int, float]:
    """Parameters of a network, its arguments given as JSON, and GFLOP of one window."""
    with torch.device("meta"):
        network = build(name, **json.loads(args))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    network.eval()
    if hasattr(network, "deploy"):
        network = network.deploy()
    return parameters, window_gflop(network, window)


def reference_grid(recipe: Recipe) -> Triple:
    """Shape of the prepared reference CT, before padding."""
    preprocessing = recipe.preprocessing
    shape = BODY_VOXELS if preprocessing.body_crop else CT_VOXELS
    if preprocessing.liver_crop:
        margins = preprocessing.liver_crop.margin_voxels
        shape = tuple(size + 2 * margin for size, margin in zip(LIVER_VOXELS, margins, strict=True))
    spacing_mm = CT_SPACING_MM
    if preprocessing.halve_in_plane:
        shape = (shape[0], shape[1] // 2, shape[2] // 2)
        spacing_mm = (spacing_mm[0], 2 * spacing_mm[1], 2 * spacing_mm[2])
    return network_shape(shape, preprocessing, spacing_mm)


def window_gflop(network: nn.Module, window: tuple[int, ...]) -> float:
    """10^9 floating-point operations of one window, a multiply-add counted as two."""
    image = torch.zeros(1, 1, *window[-network.dimensions :], device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return counter.get_total_flops() / 1e9


if __name__ == "__main__":
    sys.exit(main())
