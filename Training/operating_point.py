"""Choose the threshold and the smallest lesion of a tumor network by its cross-validation.

    python -m Training.operating_point OUT [--device auto|cpu|cuda]

OUT is a folder of `Training.cross_validate` with a network for tumors alone, beside one for the
liver or not; folds that are not done are left out. Every threshold from 0.1 to 0.9 is tried with
every smallest lesion from 0 to 1000 mm3 on the probabilities of the held-out cases, which are
predicted again where they were not kept. The point with the greatest mean Dice a case is chosen, of
equals the one with the fewest false lesions. How good such a choice is, is told by nesting: for
each patient the point is chosen on the others alone, and scored on that one. In the same way the
confidence of a lesion is fitted and checked (`Training/calibration.py`).

OUT/operating_point gets operating_point.json, which `Training.export --operating-point` puts into
the weights; scores.csv, lesions.csv and summaries of the nested scores, for its --scores; and
operating_point.md with grid.csv, operating_point.png and confidence.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from LiverTumorSegLib.checkpoint import read_info
from LiverTumorSegLib.errors import Cancelled, InputError, ResourceError
from LiverTumorSegLib.labels import LIVER, TUMOR
from LiverTumorSegLib.postprocess import clean_tumor
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.staging import staged
from Training import product
from Training.budget import SCORED
from Training.calibration import reliability
from Training.cross_validate import StageError, measure_cases
from Training.cross_validation import PROBABILITIES, Plan, held_out, read_plan, weights_file
from Training.dataset import Case, DataSet, read_data_set
from Training.evaluate import FILE_NAMES, read_results, write_results
from Training.operating_point_choice import CRITERION, Choice, chosen
from Training.operating_point_page import CONFIDENCE_PNG, POINT_PNG, page
from Training.operating_point_plots import plot_confidence, plot_points
from Training.probabilities import read_probability
from Training.scores import LesionScore, Provenance, Score, recipe_label
from Training.thresholds import (
    CaseLesions,
    OperatingPoint,
    Row,
    at_point,
    lesions_of_case,
)

FOLDER = "operating_point"
POINT, PAGE, GRID = "operating_point.json", "operating_point.md", "grid.csv"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.operating_point",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="of Training.cross_validate")
    parser.add_argument("--device", default="auto", help="where missing cases are predicted")
    arguments = parser.parse_args(argv)
    try:
        operating_point(arguments.output, arguments.device)
    except (InputError, ResourceError, StageError) as error:
        if not isinstance(error, StageError):
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; nothing was changed", file=sys.stderr)
        return Cancelled.exit_code
    return 0


def operating_point(output: Path, device: str) -> None:
    """Choose, and write all that the module tells of.

    Raises:
        InputError: no such cross-validation, or too little of it; or a file that cannot be read.
        ResourceError: memory or the disk is full.
        StageError: missing cases could not be predicted.
    """
    plan = read_plan(output)
    data = read_data_set(Path(plan.data))
    check_data(plan, data)
    recipe = tumor_recipe(output, plan)
    cases = cases_done(output, plan, data, device)
    looking = tqdm(cases, desc="lesions", unit="case")
    found = [look(output, data, case) for case in looking]
    choice = chosen(found)
    point = OperatingPoint(
        **asdict(choice.point), recipe=recipe_label(recipe), confidence=choice.confidence
    )
    label = recipe_label(at_point(recipe, choice.point, choice.confidence))
    scores, lesions = nested_scores(output, data, cases, recipe, choice, label)
    earlier = {s.case: s.dice for s in read_results(output / SCORED)[0] if s.target == "tumor"}
    names = (*FILE_NAMES, POINT, PAGE, GRID, POINT_PNG, CONFIDENCE_PNG)
    with staged(output / FOLDER, names) as folder:
        write_results(folder, scores, lesions)
        plain = {**asdict(point), "criterion": CRITERION, **facts(choice)}
        (folder / POINT).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
        write_grid(folder / GRID, choice.rows)
        plot_points(choice.rows, choice.point, folder / POINT_PNG)
        bins = reliability(choice.confidences, [lesion.real for lesion in choice.lesions])
        if bins:
            plot_confidence(bins, folder / CONFIDENCE_PNG)
        text = page(recipe, found, choice, bins, earlier)
        (folder / PAGE).write_text(text, encoding="utf-8")
    print(
        f"threshold {point.threshold:g}, smallest lesion {point.min_lesion_mm3:g} mm3: "
        f"{output / FOLDER / PAGE}"
    )


# The held-out cases


def check_data(plan: Plan, data: DataSet) -> None:
    """Refuse data that have changed.

    Raises:
        InputError: they have.
    """
    if {case.name: case.sha256 for case in data.cases} != plan.cases:
        raise InputError(
            f"{data.folder}: expected the cases that were cross-validated, found others. Repeat "
            "the cross-validation in another folder."
        )


def tumor_recipe(output: Path, plan: Plan) -> Recipe:
    """The recipe whose numbers are chosen, as its weights have it.

    Raises:
        InputError: no network for tumors alone, or no fold that is done.
    """
    for name in plan.recipes:
        for fold in range(1, plan.folds + 1):
            path = weights_file(output, name, fold)
            if path.exists():
                recipe = read_info(path).recipe
                if recipe.target == "tumor":
                    return recipe
    raise InputError(
        f"{output}: expected a fold that is done of a network for tumors alone, found "
        f"{', '.join(plan.recipes)} without one. The threshold of a network of both targets "
        "decides on the liver too."
    )


def cases_done(output: Path, plan: Plan, data: DataSet, device: str) -> list[Case]:
    """The cases of folds that are done, with their probabilities predicted where they lack.

    Raises:
        InputError: fewer than two patients.
        StageError: a prediction failed.
    """
    cases = []
    for fold in range(1, plan.folds + 1):
        if all(weights_file(output, recipe, fold).exists() for recipe in plan.recipes):
            own = held_out(plan, data, fold)
            measure_cases(output, plan, fold, [case.name for case in own], device)
            cases += own
    patients = {case.patient for case in cases}
    if len(patients) < 2:
        raise InputError(
            f"{output}: expected folds of two patients or more that are done, found "
            f"{len(patients)}. Go on with `Training.cross_validate`."
        )
    return sorted(cases, key=lambda case: case.name)


def look(output: Path, data: DataSet, case: Case) -> CaseLesions:
    """The lesions of a case at every threshold."""
    kept = read_probability(output / PROBABILITIES, case.name)
    assert kept is not None
    voxel_mm3 = case.geometry.voxel_ml * 1000
    return lesions_of_case(case.name, case.patient, voxel_mm3, data.labels(case), kept)


# What it leaves


def nested_scores(
    output: Path,
    data: DataSet,
    cases: Sequence[Case],
    recipe: Recipe,
    choice: Choice,
    label: str,
) -> tuple[list[Score], list[LesionScore]]:
    """Rows as `Training.evaluate` writes them, each case at the point chosen on other patients.

    Those of the liver are as they were. Those of tumors are labeled as of the recipe with the point
    that was chosen on all, so that they fit the card of the weights that have it, and no other.
    """
    earlier, _ = read_results(output / SCORED)
    names = {case.name for case in cases}
    scores = [score for score in earlier if score.target == "liver" and score.case in names]
    lesions: list[LesionScore] = []
    by_case = {score.case: score for score in earlier if score.target == "tumor"}
    for case in cases:
        kept = read_probability(output / PROBABILITIES, case.name)
        assert kept is not None
        inference = at_point(recipe, choice.nested[case.patient].point).inference
        mask = kept.liver & (kept.tumor.astype(np.float32) >= inference.threshold)
        mask = clean_tumor(mask, inference, case.geometry.voxel_ml * 1000)
        labels = np.zeros(case.geometry.shape, np.uint8)
        labels[kept.box][kept.liver] = LIVER
        labels[kept.box][mask] = TUMOR
        told = {field.name: getattr(by_case[case.name], field.name) for field in fields(Provenance)}
        origin = Provenance(**told)
        origin = replace(origin, recipes=" ".join([*origin.recipes.split()[:-1], label]))
        score, rows = product.score_labels(origin, labels, data.labels(case), case.geometry)
        scores.append(score)
        lesions += rows
    return scores, lesions


def facts(choice: Choice) -> dict[str, object]:
    """What operating_point.json tells beside the point."""
    return {
        "nested": {
            patient: {**asdict(made.point), "confidence": asdict(made.confidence)}
            for patient, made in choice.nested.items()
        },
        "brier": choice.brier,
        "brier_of_share": choice.brier_of_share,
        "lesions": [
            {**asdict(lesion), "confidence": confidence}
            for lesion, confidence in zip(choice.lesions, choice.confidences, strict=True)
        ],
    }


def write_grid(path: Path, rows: Sequence[Row]) -> None:
    """Write every point as CSV; an empty cell is a value that is not defined."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
