"""Measure weights on labeled cases, with the product's own inference.

    python -m Training.evaluate --data PREPARED --weights FILE [FILE] -o OUT [--cases NAME ...]
                                [--tta]

With liver and tumor weights, or weights for both, the tumor is searched in the liver found, as for
a user; with tumor weights alone in the true liver; with liver weights alone only the liver is
measured. With --tta predictions are averaged over mirrored images, along the axes that the recipe
names. OUT/scores.csv gets one row a case and target; rows of cases measured before are replaced, so
that the folds of a cross-validation can be collected in one file.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from LiverTumorSegLib.backends import pick_device
from LiverTumorSegLib.checkpoint import Model, load_model
from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.labels import masks_of
from LiverTumorSegLib.segment import segment
from LiverTumorSegLib.stage import run_stage
from LiverTumorSegLib.volume import Volume
from Training.dataset import Case, DataSet, make_folder, read_data_set
from Training.metrics import dice


@dataclass(frozen=True)
class Score:
    """One target of one case.

    Attributes:
        case: name of the case.
        target: "liver" (with its tumors) or "tumor".
        liver_from: "prediction" or "reference": where a tumor was searched.
        seen: whether the patient was among those that trained any of the weights used.
        dice: of the masks on the CT's own grid; 1 if both are empty.
        predicted_ml: volume of the predicted mask.
        reference_ml: volume of the reference.
        lesions: connected components of the reference; 0 for a liver.
        lesions_touched: those that the prediction overlaps anywhere.
        false_lesions: predicted components that touch no reference lesion.
        seconds: time of the prediction.
    """

    case: str
    target: str
    liver_from: str
    seen: bool
    dice: float
    predicted_ml: float
    reference_ml: float
    lesions: int
    lesions_touched: int
    false_lesions: int
    seconds: float


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of Training.prepare")
    parser.add_argument("--weights", nargs="+", required=True, help="weights files or names")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--cases", nargs="*", help="only these cases")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tta", action="store_true", help="average over mirrored images")
    arguments = parser.parse_args(argv)
    try:
        data = read_data_set(arguments.data)
        cases = choose_cases(data, arguments.cases)
        models = by_target([load_model(name) for name in arguments.weights])
        pick_device(arguments.device)
        make_folder(arguments.output)
        for case in tqdm(cases, desc="evaluate", unit="case"):
            scores = evaluate_case(data, case, models, arguments.device, arguments.tta)
            merge_scores(arguments.output / "scores.csv", scores)
            for score in scores:
                tqdm.write(f"{score.case:12} {score.target:6} Dice {score.dice:.3f}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def choose_cases(data: DataSet, names: list[str] | None) -> list[Case]:
    """The named cases, or all.

    Raises:
        InputError: a name that is not there.
    """
    known = {case.name: case for case in data.cases}
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise InputError(f"--cases: {unknown} are not in {data.folder}; it has {sorted(known)}.")
    return [known[name] for name in names or known]


def by_target(models: list[Model]) -> dict[str, Model]:
    """The models by what they segment; weights for both targets stand for each.

    Raises:
        InputError: two for one target.
    """
    pairs = [(target, model) for model in models for target in model.recipe.targets]
    if len(dict(pairs)) != len(pairs):
        raise InputError(
            "--weights: expected at most one file for the liver and one for tumors, or one for "
            f"both; found weights for {', '.join(target for target, _ in pairs)}."
        )
    return dict(pairs)


def evaluate_case(
    data: DataSet, case: Case, models: dict[str, Model], device: str, flips: bool
) -> list[Score]:
    """Predict one case and score each target that the models cover."""
    volume, labels = data.volume(case), data.labels(case)
    started = time.perf_counter()
    masks = predict(volume, labels, models, device, flips)
    seconds = time.perf_counter() - started
    references = masks_of(labels)
    liver_from = "prediction" if "liver" in models else "reference"
    seen = any(case.patient in trained_on(model) for model in models.values())
    return [
        score_mask(case, target, liver_from, seen, mask, references[target], seconds)
        for target, mask in masks.items()
    ]


def trained_on(model: Model) -> set[str]:
    """The patients that trained some weights, by their card."""
    return {case["patient"] for case in model.card["training_cases"]}


def predict(
    volume: Volume, labels: np.ndarray, models: dict[str, Model], device: str, flips: bool
) -> dict[str, np.ndarray]:
    """Masks by target, bool (z, y, x)."""
    if len(models) == 2:
        liver, tumor = models["liver"], models["tumor"]
        return masks_of(segment(volume, liver, tumor, device=device, flips=flips).labels)
    ((target, model),) = models.items()
    liver_mask = masks_of(labels)["liver"] if target == "tumor" else None
    return run_stage(
        volume, model, pick_device(device), "torch", flips=flips, liver=liver_mask
    ).masks


def score_mask(
    case: Case,
    target: str,
    liver_from: str,
    seen: bool,
    mask: np.ndarray,
    reference: np.ndarray,
    seconds: float,
) -> Score:
    """Compare two masks."""
    voxel_ml = case.geometry.voxel_ml
    lesions = touched = false = 0
    if target == "tumor":
        reference_lesions, lesions = lesion_components(reference)
        predicted_lesions, predicted_count = lesion_components(mask)
        touched = len(np.unique(reference_lesions[mask & reference]))
        false = predicted_count - len(np.unique(predicted_lesions[mask & reference]))
    return Score(
        case=case.name,
        target=target,
        liver_from=liver_from,
        seen=seen,
        dice=dice(mask, reference),
        predicted_ml=float(mask.sum() * voxel_ml),
        reference_ml=float(reference.sum() * voxel_ml),
        lesions=lesions,
        lesions_touched=touched,
        false_lesions=false,
        seconds=seconds,
    )


def read_scores(path: Path) -> list[Score]:
    """Read a scores.csv.

    Raises:
        InputError: it is missing or not such a file.
    """
    kinds: dict[str, Callable[[str], Any]] = {
        "str": str,
        "float": float,
        "int": int,
        "bool": {"True": True, "False": False}.__getitem__,
    }
    try:
        with path.open(newline="") as file:
            return [
                Score(
                    **{
                        field.name: kinds[str(field.type)](row[field.name])
                        for field in fields(Score)
                    }
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path}: expected the scores.csv of `Training.evaluate` ({error})."
        ) from error


def merge_scores(path: Path, scores: list[Score]) -> None:
    """Replace or add rows of a scores.csv, sorted, the file as a whole."""
    earlier = read_scores(path) if path.exists() else []
    rows = {(s.target, s.liver_from, s.case): s for s in [*earlier, *scores]}
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Score)])
        writer.writeheader()
        writer.writerows(asdict(rows[key]) for key in sorted(rows))
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
