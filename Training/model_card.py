"""The model card: what a user must know of a weights file, as JSON values and as a page."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from LiverTumorSegLib.recipe import Paper, Recipe
from Training.scores import Score

Card = dict[str, Any]
DISCLAIMER = "For research. Not for clinical use."
# What a card takes from the description of a run, besides its recipe.
TOLD = {"training_cases", "held_out_cases", "test_cases", "fold", "seed", "torch", "version"}
# Runs of data sets of an older format do not say what is synthetic, for nothing was.
TOLD_OF_A_CASE = ("name", "patient", "synthetic", "liver_ml", "tumor_ml", "lesions")
NOT_EVALUATED = (
    "Not evaluated. What these weights are worth on cases that they have not seen has not been "
    "measured."
)


def make_card(
    recipe: Recipe,
    description: dict[str, Any],
    epochs: int,
    checkpoint: str,
    scores: dict[str, list[Score]],
    notes: list[str],
    license_text: str,
) -> Card:
    """What a user must know of the weights, as JSON values.

    Of two targets the tumor's scores are `scores`, as a tumor network's would be; the liver's are
    `liver_scores`. Weights that were not evaluated have neither.

    Args:
        recipe: of the weights.
        description: of the run, as run.json has it.
        epochs: trained.
        checkpoint: "last", or "best" if the held-out cases chose the epoch.
        scores: by target, each of cases not seen.
        notes: about limits and data, a line each.
        license_text: of the weights.
    """
    card: Card = {
        "target": recipe.target,
        "disclaimer": DISCLAIMER,
        "license": license_text,
        "training_cases": [
            {key: case[key] for key in TOLD_OF_A_CASE if key in case}
            for case in description["training_cases"]
        ],
        "held_out_cases": [case["name"] for case in description["held_out_cases"]],
        "test_cases": [case["name"] for case in description["test_cases"]],
        "fold": description["fold"],
        "seed": description["seed"],
        "epochs": epochs,
        "checkpoint": checkpoint,
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
            + ("averaged over mirrored images; " if scores[0].tta else "")
            + "1 if both masks are empty"
        ),
        "definitions": scores[0].definitions,
        "weights": sorted({name for score in scores for name in score.weights.split()}),
        "mean_dice": float(np.mean(values)),
        "sd_dice": float(np.std(values)),
        "cases": [asdict(score) for score in scores],
    }


def card_page(name: str, recipe: Recipe, card: Card, sha256: str) -> str:
    """The card as a Markdown page."""
    cases = card["training_cases"]
    patients = len({case["patient"] for case in cases})
    made = sum(case.get("synthetic", False) for case in cases)
    synthetic = f", {made} of them synthetic," if made else ""
    chosen = " They chose the epoch, which flatters it." if card["checkpoint"] == "best" else ""
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
        "## Data and split",
        "",
        f"- Trained on {len(cases)} cases{synthetic} of {patients} patients, fold "
        f"{card['fold'] or 'none'}.",
        f"- Held out: {', '.join(card['held_out_cases']) or 'none'}.{chosen}",
        f"- Kept for the test: {', '.join(card['test_cases']) or 'none'}.",
        "",
        "| training case | liver mL | tumor mL | lesions |",
        "|---|---|---|---|",
        *(
            f"| {c['name']} | {c['liver_ml']:.0f} | {c['tumor_ml']:.1f} | {c['lesions']} |"
            for c in cases
        ),
    ]
    for key, title in (
        ("liver_scores", "Scores of the liver on cases not seen"),
        ("scores", "Scores on cases not seen"),
    ):
        if key in card:
            lines += ["", f"## {title}", *score_table(card[key])]
    if "scores" not in card:
        lines += ["", "## Scores", "", NOT_EVALUATED]
    notes = card["notes"] or ["None were stated by who made these weights."]
    lines += ["", "## Limits and data", "", *(f"- {note}" for note in notes)]
    lines += ["", "## How to cite", "", *citation(recipe.paper)]
    return "\n".join(lines) + "\n"


def citation(paper: Paper) -> list[str]:
    """Whom to cite who uses the weights, as lines of Markdown."""
    link = f" [doi:{paper.doi}](https://doi.org/{paper.doi})" if paper.doi else ""
    return [
        f"Cite the paper of the system: {paper.citation}{link}",
        "Its authors did not make these weights and did not take part in this software.",
    ]


def score_table(scores: Card) -> list[str]:
    """The scores of one target as lines of Markdown."""
    return [
        "",
        f"{scores['definition']}.",
        f"Weights measured: {', '.join(scores['weights'])}.",
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
