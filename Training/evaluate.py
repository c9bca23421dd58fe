"""Measure weights on labeled cases, with the product's own inference.

    python -m Training.evaluate --data PREPARED --weights FILE [FILE] -o OUT [--cases NAME ...]
                                [--definitions product|lits] [--tta] [--probabilities FOLDER]

With liver and tumor weights, or weights for both, the tumor is searched in the liver found, as for
a user; with tumor weights alone in the true liver; with liver weights alone only the liver is
measured. With --tta predictions are averaged over mirrored images, along the axes that the recipe
names. --definitions lits measures as the official scorer of the LiTS challenge does.
--probabilities keeps each case's tumor probabilities, for `Training.operating_point`.

OUT gets, after every case, scores.csv with a row a case and target, lesions.csv with a row a
lesion, and summary.md and summary.json of all rows. Rows of cases measured before are replaced, so
that the folds of a cross-validation can be collected in one folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from LiverTumorSegLib.backends import pick_device
from LiverTumorSegLib.checkpoint import Model, load_model
from LiverTumorSegLib.errors import Cancelled, InputError, ResourceError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.labels import LIVER, TUMOR, masks_of
from LiverTumorSegLib.segment import segment
from LiverTumorSegLib.stage import run_stage
from LiverTumorSegLib.staging import staged
from LiverTumorSegLib.volume import Volume
from Training import lits, product
from Training.dataset import Case, DataSet, make_folder, read_data_set, real
from Training.ircadb import patient_of
from Training.probabilities import keep_probability
from Training.scores import (
    LESIONS,
    SCORES,
    LesionScore,
    Provenance,
    Score,
    check_mergeable,
    merged,
    read_lesions,
    read_scores,
    recipe_label,
    write_lesions,
    write_scores,
)
from Training.summary import summarize
from Training.summary_page import page

SUMMARY, PAGE = "summary.json", "summary.md"
FILE_NAMES = (SCORES, LESIONS, SUMMARY, PAGE)
Scorer = Callable[[Provenance, np.ndarray, np.ndarray, Geometry], tuple[Score, list[LesionScore]]]
SCORERS: dict[str, Scorer] = {"product": product.score_labels, "lits": lits.score_labels}


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
    parser.add_argument("--cases", nargs="*", help="only these cases (default: all real)")
    parser.add_argument("--definitions", choices=sorted(SCORERS), default="product")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tta", action="store_true", help="average over mirrored images")
    parser.add_argument(
        "--probabilities", type=Path, metavar="FOLDER", help="keep the tumor's probabilities here"
    )
    arguments = parser.parse_args(argv)
    try:
        evaluate(
            arguments.data,
            arguments.weights,
            arguments.output,
            arguments.cases,
            arguments.definitions,
            arguments.device,
            arguments.tta,
            arguments.probabilities,
        )
    except (InputError, ResourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the cases measured so far are kept", file=sys.stderr)
        return Cancelled.exit_code
    return 0


def evaluate(
    folder: Path,
    weights: list[str],
    output: Path,
    names: list[str] | None,
    definitions: str,
    device: str,
    tta: bool,
    probabilities: Path | None,
) -> None:
    """Measure case after case, and keep each before the next.

    Args:
        folder: of the prepared data.
        weights: files or names.
        output: folder to write.
        names: of the cases; None for all.
        definitions: a key of `SCORERS`.
        device: as `pick_device` takes it.
        tta: average over mirrored images.
        probabilities: folder for the tumor's probabilities of each case, kept before its scores.

    Raises:
        InputError: data, weights, cases, device or output folder cannot be used; before a case is
            measured where possible.
        ResourceError: memory or the disk is full.
    """
    data = read_data_set(folder)
    cases = choose_cases(data, names)
    models = by_target([load_model(name) for name in weights])
    pick_device(device)
    origins = {case.name: origins_of(data, case, models, definitions, tta) for case in cases}
    scores, lesions = read_results(output)
    check_mergeable(
        output / SCORES, scores, [origin for rows in origins.values() for origin in rows]
    )
    check_writable(output)
    for case in cases:
        if not case.spacing_known:
            told = f"warning: {case.name}: its spacing is not known; its mm and mL are wrong"
            print(told, file=sys.stderr)
    for case in tqdm(cases, desc="evaluate", unit="case"):
        new, new_lesions = evaluate_case(
            data, case, models, origins[case.name], device, probabilities
        )
        scores = merged(scores, new)
        if any(score.target == "tumor" for score in new):
            lesions = [row for row in lesions if row.case != case.name] + new_lesions
        with staged(output, FILE_NAMES) as staging:
            write_results(staging, scores, lesions)
        for score in new:
            tqdm.write(f"{score.case:12} {score.target:6} Dice {score.dice:.3f}")
    print(f"{output / PAGE}: {len({score.case for score in scores})} cases")


def choose_cases(data: DataSet, names: list[str] | None) -> list[Case]:
    """The named cases, or all real ones.

    Raises:
        InputError: a name that is not there, or no name or case at all.
    """
    known = {case.name: case for case in data.cases}
    wanted = [case.name for case in real(data.cases)] if names is None else names
    chosen = [*dict.fromkeys(wanted)]
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise InputError(f"--cases: {unknown} are not in {data.folder}; it has {sorted(known)}.")
    if not chosen:
        raise InputError(f"--cases: expected names of cases of {data.folder}, found none.")
    return [known[name] for name in chosen]


def by_target(models: list[Model]) -> dict[str, Model]:
    """The models by what they segment, the liver first; weights for both targets stand for each.

    Raises:
        InputError: two for one target.
    """
    pairs = [(target, model) for model in models for target in model.recipe.targets]
    if len(dict(pairs)) != len(pairs):
        raise InputError(
            "--weights: expected at most one file for the liver and one for tumors, or one for "
            f"both; found weights for {', '.join(target for target, _ in pairs)}."
        )
    return dict(sorted(pairs, key=lambda pair: pair[0]))


def origins_of(
    data: DataSet, case: Case, models: dict[str, Model], definitions: str, tta: bool
) -> list[Provenance]:
    """What the rows of a case will say of their making; 0 seconds for now."""
    origins = []
    for target in models:
        used = [models["liver"]] if target == "liver" else unique([*models.values()])
        origins.append(
            Provenance(
                case=case.name,
                ct=case.sha256[:12],
                data=data.folder.resolve().name,
                target=target,
                liver_from="prediction" if "liver" in models else "reference",
                seen=any(case.patient in trained_on(model) for model in used),
                definitions=definitions,
                tta=tta,
                recipes=" ".join(recipe_label(m.recipe) for m in used),
                weights=" ".join(f"{m.name}@{m.sha256[:12]}" for m in used),
                seconds=0.0,
            )
        )
    return origins


def unique(models: list[Model]) -> list[Model]:
    """The models in their order, each once."""
    return [model for i, model in enumerate(models) if model not in models[:i]]


def trained_on(model: Model) -> set[str]:
    """The patients that trained some weights, by their card.

    Raises:
        InputError: the card does not say.
    """
    try:
        return {patient_of(case["patient"]) for case in model.card["training_cases"]}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"Weights {model.name}: expected a card that names the patients trained on, found "
            "none. Make the weights with `python -m Training.export`."
        ) from error


def evaluate_case(
    data: DataSet,
    case: Case,
    models: dict[str, Model],
    origins: list[Provenance],
    device: str,
    probabilities: Path | None,
) -> tuple[list[Score], list[LesionScore]]:
    """Predict one case and score each target that the models cover."""
    volume, reference = data.volume(case), data.labels(case)
    started = time.perf_counter()
    predicted, probability = predict(
        volume, reference, models, device, origins[0].tta, probabilities is not None
    )
    seconds = time.perf_counter() - started
    if probabilities is not None and "tumor" in models:
        keep_probability(probabilities, origins[-1], predicted, probability)
    scores, lesions = [], []
    for origin in origins:
        scorer, made = SCORERS[origin.definitions], replace(origin, seconds=seconds)
        score, rows = scorer(made, predicted, reference, case.geometry)
        scores.append(score)
        lesions += rows
    return scores, lesions


def predict(
    volume: Volume,
    reference: np.ndarray,
    models: dict[str, Model],
    device: str,
    flips: bool,
    probabilities: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predicted labels, uint8 (z, y, x); with tumor weights alone the liver is the true one.

    Returns:
        The labels and, if asked for and where tumors were searched, their probabilities, float16.
    """
    if len(models) == 2:
        found = segment(
            volume,
            models["liver"],
            models["tumor"],
            device=device,
            flips=flips,
            probabilities=probabilities,
        )
        return found.labels, found.tumor_probability
    ((target, model),) = models.items()
    true_liver = masks_of(reference)["liver"] if target == "tumor" else None
    result = run_stage(
        volume,
        model,
        pick_device(device),
        "torch",
        flips=flips,
        probabilities=probabilities,
        liver=true_liver,
    )
    mask = result.masks[target]
    labels = np.zeros(mask.shape, np.uint8)
    labels[mask if true_liver is None else true_liver] = LIVER
    if target == "tumor":
        labels[mask] = TUMOR
    return labels, result.probabilities.get("tumor")


def check_writable(folder: Path) -> None:
    """Make the output folder, and refuse one that cannot be written to.

    Raises:
        InputError: it is a file, or closed to this user.
    """
    make_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder to write to, found: {error.strerror}. Choose another."
        ) from error


def read_results(folder: Path) -> tuple[list[Score], list[LesionScore]]:
    """The rows that an output folder holds; none if it holds no scores.

    Raises:
        InputError: they cannot be read.
    """
    if not (folder / SCORES).exists():
        return [], []
    return read_scores(folder / SCORES), read_lesions(folder / LESIONS)


def write_results(folder: Path, scores: list[Score], lesions: list[LesionScore]) -> None:
    """Write every output file into an existing folder."""
    write_scores(folder / SCORES, scores)
    write_lesions(folder / LESIONS, lesions)
    summary = summarize(scores, lesions)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")
    (folder / PAGE).write_text(page(summary), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
