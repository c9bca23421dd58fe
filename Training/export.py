"""Make a weights file, with its recipe and model card, from a run of the trainer.

    python -m Training.export RUN -o FILE.safetensors (--scores SCORES.csv | --unevaluated)
                              [--operating-point FILE] [--checkpoint last|best] [--note TEXT ...]
                              [--license TEXT] [--onnx]

The averaged weights of the last epoch are taken where the recipe averages, else the last ones; a
re-parameterizable network is deployed. SCORES is what `Training.evaluate` measured on cases that
the weights, or the weights of cross-validation folds of the same recipe, had not seen. It needs
weights files, so they are first made with --unevaluated, which their cards then say. With the
operating_point.json of `Training.operating_point` the weights get its threshold, smallest lesion
and confidence in the place of the recipe's; SCORES are then the nested ones beside it. Beside FILE
a page FILE.md with the card is written and, with --onnx, FILE.onnx for other programs.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from LiverTumorSegLib.checkpoint import load_model, save_model
from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.folders import models_folder
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.staging import staged
from Training.model_card import TOLD, card_page, make_card
from Training.onnx_export import check_installed, export_onnx
from Training.run_folder import load_state, read_run
from Training.scores import Score, read_scores, recipe_label
from Training.thresholds import chosen_for, read_operating_point

CHOSEN = (
    "The threshold, {threshold:g}, and the smallest lesion, {min_lesion_mm3:g} mm3, were chosen by "
    "cross-validation; each case is scored at a point that was chosen on the other patients."
)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="run folder of Training.train")
    parser.add_argument("-o", "--output", type=Path, required=True, help="FILE.safetensors")
    measured = parser.add_mutually_exclusive_group()
    measured.add_argument("--scores", type=Path, help="scores.csv of Training.evaluate")
    measured.add_argument(
        "--unevaluated", action="store_true", help="export without scores; the card will say so"
    )
    parser.add_argument(
        "--checkpoint",
        choices=("last", "best"),
        default="last",
        help="best: of the epoch that the held-out cases chose; its scores on those cases flatter",
    )
    parser.add_argument(
        "--operating-point", type=Path, metavar="FILE", help="of Training.operating_point"
    )
    parser.add_argument("--note", action="append", default=[], help="a line about limits or data")
    parser.add_argument("--license", default="not stated", help="license of the weights")
    parser.add_argument("--onnx", action="store_true", help="write FILE.onnx too, and check it")
    arguments = parser.parse_args(argv)
    try:
        if arguments.scores is None and not arguments.unevaluated:
            raise InputError(
                f"{arguments.run}: expected --scores SCORES.csv of `Training.evaluate` on cases "
                "that these weights have not seen. To make the weights that it measures, or to do "
                "without scores, add --unevaluated."
            )
        export(
            arguments.run,
            arguments.output,
            arguments.checkpoint,
            arguments.scores,
            arguments.operating_point,
            arguments.note,
            arguments.license,
            arguments.onnx,
        )
    except (InputError, ResourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def export(
    run: Path,
    output: Path,
    checkpoint: str,
    scores: Path | None,
    operating_point: Path | None,
    notes: list[str],
    license_text: str,
    onnx: bool,
) -> None:
    """Write the weights file, its card and, if asked for, the ONNX file: all or none.

    An ONNX file of an earlier export does not stay beside them.

    Raises:
        InputError: no sound run there, a wrong file ending, scores or an operating point that are
            unreadable or of another recipe, weights that are no finite numbers, an ONNX file that
            does not compute the same, a package that it needs, or a folder that cannot be written
            to.
        ResourceError: the disk is full.
    """
    if output.suffix != ".safetensors":
        raise InputError(f"{output}: expected a name that ends in .safetensors.")
    if onnx:
        check_installed()
    weights = run / f"{checkpoint}.pt"
    if not (run / "run.json").is_file() or not weights.is_file():
        raise InputError(f"{run}: expected run.json and {weights.name} of a `Training.train` run.")
    description, recipe = read_description(run)
    state = load_state(weights, torch.device("cpu"))
    try:
        network = trained_network(recipe, state)
        epochs = state["epoch"]
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"{weights}: expected the weights of the network in run.json, found others."
        ) from error
    if operating_point is not None:
        point = read_operating_point(operating_point)
        recipe = chosen_for(recipe, point, operating_point)
        notes = [*notes, CHOSEN.format(**asdict(point))]
    rows = {target: unseen_scores(scores, recipe, target) for target in recipe.targets if scores}
    card = make_card(recipe, description, epochs, checkpoint, rows, notes, license_text)
    names = [output.name, *(output.with_suffix(ending).name for ending in (".md", ".onnx"))]
    with staged(output.parent, names) as folder:
        file = folder / output.name
        sha256 = save_model(file, network, recipe, card)
        page = card_page(output.stem, recipe, card, sha256)
        file.with_suffix(".md").write_text(page, encoding="utf-8")
        if onnx:
            difference = export_onnx(load_model(str(file)), file.with_suffix(".onnx"))
    print(f"{output} ({output.stat().st_size / 1e6:.1f} MB)")
    if onnx:
        print(
            f"{output.with_suffix('.onnx')}: on random windows its logits differ from torch's by "
            f"{difference:.1e} of the largest"
        )
    print(f"`livertumorseg models` lists it once it lies in {models_folder()}")


def read_description(run: Path) -> tuple[dict[str, Any], Recipe]:
    """What run.json says, and the recipe in it.

    Raises:
        InputError: it is missing, damaged or of another version.
    """
    description = read_run(run)
    try:
        recipe = Recipe.from_json(json.dumps(description["recipe"]))
        if missing := sorted(TOLD - set(description)):
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{run / 'run.json'}: expected the description of a run of this version ({error})."
        ) from error
    return description, recipe


def unseen_scores(path: Path, recipe: Recipe, target: str) -> list[Score]:
    """The scores of one target, all measured by weights of a recipe that had not seen the patient.

    Raises:
        InputError: there are none, some are of patients seen, they differ in how they came about,
            or are of another recipe.
    """
    scores = [score for score in read_scores(path) if score.target == target]
    seen = [score.case for score in scores if score.seen]
    kinds = {(score.liver_from, score.definitions, score.tta) for score in scores}
    if not scores or seen or len(kinds) > 1:
        raise InputError(
            f"{path}: expected {target} scores of patients that the weights had not seen, with "
            f"tumors searched in one kind of liver; found {len(scores)} rows, of patients seen: "
            f"{seen}. Evaluate each fold's weights on its held-out cases, into a folder of its own."
        )
    own = recipe_label(recipe)
    others = sorted(
        {score.recipes.split()[-1] for score in scores} - {own}
    )  # its stage is the last
    if others:
        raise InputError(
            f"{path}: expected {target} scores of the run's own recipe, {own}, found those of "
            f"{', '.join(others)}. Evaluate weights of this run or of its folds."
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


if __name__ == "__main__":
    sys.exit(main())
