"""Make a weights file, with its recipe and model card, from a run of the trainer.

    python -m Training.export RUN -o FILE.safetensors [--checkpoint last|best]
                              [--scores SCORES.csv] [--note TEXT ...] [--license TEXT]

The averaged weights of the last epoch are taken where the recipe averages, else the last ones; a
re-parameterizable network is deployed. SCORES is what `Training.evaluate` measured on cases that
the weights, or the weights of cross-validation folds of the same recipe, had not seen. Beside FILE
a page FILE.md with the same card is written.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from LiverTumorSegLib.checkpoint import save_model
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.recipe import Recipe
from Training.dataset import make_folder
from Training.evaluate import Score, read_scores
from Training.run_folder import load_state, read_run

Card = dict[str, Any]
DISCLAIMER = "For research. Not for clinical use."


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="run folder of Training.train")
    parser.add_argument("-o", "--output", type=Path, required=True, help="FILE.safetensors")
    parser.add_argument(
        "--checkpoint",
        choices=("last", "best"),
        default="last",
        help="best: of the epoch that the held-out cases chose; its scores on those cases flatter",
    )
    parser.add_argument("--scores", type=Path, help="scores.csv of Training.evaluate")
    parser.add_argument("--note", action="append", default=[], help="a line about limits or data")
    parser.add_argument("--license", default="not stated", help="licence of the weights")
    arguments = parser.parse_args(argv)
    try:
        export(
            arguments.run,
            arguments.output,
            arguments.checkpoint,
            arguments.scores,
            arguments.note,
            arguments.license,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def export(
    run: Path,
    output: Path,
    checkpoint: str,
    scores: Path | None,
    notes: list[str],
    license_text: str,
) -> None:
    """Write the weights file and its card.

    Raises:
        InputError: no sound run there, a wrong file ending, unreadable scores, weights that are no
            finite numbers, or a folder that cannot be written to.
    """
    if output.suffix != ".safetensors":
        raise InputError(f"{output}: expected a name that ends in .safetensors.")
    weights = run / f"{checkpoint}.pt"
    if not (run / "run.json").is_file() or not weights.is_file():
        raise InputError(f"{run}: expected run.json and {weights.name} of a `Training.train` run.")
    description = read_run(run)
    try:
        recipe = Recipe.from_json(json.dumps(description["recipe"]))
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{run / 'run.json'}: expected the recipe of a run of this version ({error})."
        ) from error
    state = load_state(weights, torch.device("cpu"))
    try:
        network = trained_network(recipe, state)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"{weights}: expected the weights of the network in run.json, found others."
        ) from error
    rows = {target: unseen_scores(scores, target) for target in recipe.targets} if scores else {}
    card = make_card(recipe, description, state["epoch"], rows, notes, license_text)
    make_folder(output.parent)
    sha256 = save_model(output, network, recipe, card)
    page = output.with_suffix(".md")
    partial = page.with_name(page.name + ".partial")
    partial.write_text(card_page(output.stem, recipe, card, sha256))
    partial.replace(page)
    print(f"{output} ({output.stat().st_size / 1e6:.1f} MB)")


def unseen_scores(path: Path, target: str) -> list[Score]:
    """The scores of one target, all measured by weights that had not seen the patient.

    Raises:
        InputError: there are none, some are of patients seen, or they differ in the liver used.
    """
    scores = [score for score in read_scores(path) if score.target == target]
    seen = [score.case for score in scores if score.seen]
    if not scores or seen or len({score.liver_from for score in scores}) > 1:
        raise InputError(
            f"{path}: expected {target} scores of patients that the weights had not seen, with "
            f"tumors searched in one kind of liver; found {len(scores)} rows, of patients seen: "
            f"{seen}. Evaluate each fold's weights on its held-out cases, into a folder of its own."
        )
    return scores


def trained_network(recipe: Recipe, state: dict[str, Any]) -> nn.Module:
    """The network that predicts, deployed if it can be."""
    network = build(recipe.network.name, **recipe.network.args)
    if recipe.training.ema_decay is not None:
        average = AveragedModel(network, use_buffers=True)
        average.load_state_dict(state["average"])
        network = average.module
    else:
        network.load_state_dict(state["network"])
    network.eval()
    return network.deploy() if hasattr(network, "deploy") else network


def make_card(
    recipe: Recipe,
    description: dict[str, Any],
    epochs: int,
    scores: dict[str, list[Score]],
    notes: list[str],
    license_text: str,
) -> Card:
    """What a user must know of the weights, as JSON values.

    Of two targets the tumor's scores are `scores`, as a tumor network's would be; the liver's are
    `liver_scores`.
    """
    card: Card = {
        "target": recipe.target,
        "disclaimer": DISCLAIMER,
        "license": license_text,
        "training_cases": [
            {key: case[key] for key in ("name", "patient", "liver_ml", "tumor_ml", "lesions")}
            for case in description["training_cases"]
        ],
        "fold": description["fold"],
        "seed": description["seed"],
        "epochs": epochs,
        "torch": description["torch"],
        "version": description["version"],
        "notes": notes,
    }
    for target, rows in scores.items():
        card["scores" if target == recipe.targets[-1] else f"{target}_scores"] = summary(rows)
    return card


def summary(scores: list[Score]) -> Card:
    """The scores of one target with their mean, and how they came about."""
    values = [score.dice for score in scores]
    where = {
        "prediction": "in the liver that was predicted for the case",
        "reference": "in the true liver",
    }[scores[0].liver_from]
    return {
        "definition": (
            "Dice of the whole volume on the CT's own grid, each case predicted by weights of "
            "the same recipe that had not seen its patient; "
            + (f"tumors searched {where}; " if scores[0].target == "tumor" else "")
            + "1 if both masks are empty"
        ),
        "mean_dice": float(np.mean(values)),
        "sd_dice": float(np.std(values)),
        "cases": [asdict(score) for score in scores],
    }


def card_page(name: str, recipe: Recipe, card: Card, sha256: str) -> str:
    """The card as a Markdown page."""
    lines = [
        f"# {name}",
        "",
        f"Weights for the {' and the '.join(recipe.targets)}. {card['disclaimer']}",
        "",
        f"- Network: `{recipe.network.name}` with `{json.dumps(recipe.network.args)}`",
        f"- System: {recipe.paper.citation}",
        f"- Recipe: `{recipe.name}`, {card['epochs']} epochs, seed {card['seed']}, "
        f"version {card['version']}, torch {card['torch']}",
        f"- License of the weights: {card['license']}",
        f"- sha256 of tensors, recipe and card: `{sha256}`",
        "",
        "## Training cases",
        "",
        "| case | liver mL | tumor mL | lesions |",
        "|---|---|---|---|",
        *(
            f"| {c['name']} | {c['liver_ml']:.0f} | {c['tumor_ml']:.1f} | {c['lesions']} |"
            for c in card["training_cases"]
        ),
    ]
    for key, title in (
        ("liver_scores", "Scores of the liver on cases not seen"),
        ("scores", "Scores on cases not seen"),
    ):
        if key in card:
            lines += ["", f"## {title}", *score_table(card[key])]
    if card["notes"]:
        lines += ["", "## Limits and data", "", *(f"- {note}" for note in card["notes"])]
    return "\n".join(lines) + "\n"


def score_table(scores: Card) -> list[str]:
    """The scores of one target as lines of Markdown."""
    return [
        "",
        f"{scores['definition']}.",
        "",
        "| case | Dice | predicted mL | reference mL | lesions touched | false lesions |",
        "|---|---|---|---|---|---|",
        *(
            f"| {s['case']} | {s['dice']:.3f} | {s['predicted_ml']:.1f} | "
            f"{s['reference_ml']:.1f} | {s['lesions_touched']} of {s['lesions']} | "
            f"{s['false_lesions']} |"
            for s in scores["cases"]
        ),
        f"| mean (SD) | {scores['mean_dice']:.3f} ({scores['sd_dice']:.3f}) | | | | |",
    ]


if __name__ == "__main__":
    sys.exit(main())
