"""The whole path of a trainer of models, command by command, as a user would type them.

    python -m Testing.whole_path [DATA] -o WORK [--label-map 3=1,4=0]

LiTS files -> prepare -> two recipes on two folds: train, export, evaluate -> compare -> train on
all, export with scores into the models folder -> `models` -> `segment`. DATA is any folder that
`Training.prepare` reads; its cases are made small first, some fifty voxels along the longest axis
of the liver's surroundings, so that it all takes minutes on two cores. Without DATA small phantoms
are made. What such tiny networks score says nothing; that the path holds is what is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from LiverTumorSegLib.components import bounding_box
from LiverTumorSegLib.geometry import Geometry
from Testing.phantom import phantom, write_image
from Training.dataset import read_data_set

PHANTOMS = 4
FOLDS = 2
LONGEST = 56  # voxels
MARGIN = 0.15  # of the liver's box, on each side
FIRST_NUMBER = 100  # a case of LiTS that is none of 3D-IRCADb-01
# What makes the recipes small; the rest is as they have it.
SMALL = {
    "starter-liver": ["preprocessing.resampling.shape=[16,32,32]", "training.sampling.samples=2"],
    "rmau-net": [
        "patch=[1,32,32]",
        "preprocessing.pad_minimum=[1,32,32]",
        "preprocessing.resampling=null",
        "network.args.base_channels=4",
        "training.learning_rate=0.001",
    ],
}
DELIVERED = "rmau-net"  # finds liver and tumors


def main() -> None:
    """Run the path; the first command that fails ends it with its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Testing.whole_path",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, nargs="?", help="labeled CTs; without it, phantoms")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--label-map", help="as of Training.prepare")
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    work, lits = arguments.output, arguments.output / "lits"
    lits.mkdir(parents=True)
    if arguments.data is None:
        for patient in range(PHANTOMS):
            volume, labels = phantom(patient)
            write_pair(lits, patient, volume.hu, labels, volume.geometry)
    else:
        mapping = ["--label-map", arguments.label_map] if arguments.label_map else []
        command("Training.prepare", arguments.data, "-o", work / "full", *mapping)
        write_small(work / "full", lits)

    prepared, models = work / "prepared", work / "models"
    os.environ["LIVERTUMORSEG_MODELS"] = str(models)
    command("Training.prepare", lits, "-o", prepared)
    for recipe, small in SMALL.items():
        settings = [f"training.epochs={arguments.epochs}", *small]
        changes = [word for setting in settings for word in ("--set", setting)]
        for fold in range(1, FOLDS + 1):
            run = work / f"{recipe}-{fold}"
            weights = run.with_suffix(".safetensors")
            held_out = ["--data", prepared, "-o", run, "--fold", f"{fold}/{FOLDS}"]
            command("Training.train", recipe, *held_out, *changes)
            command("Training.export", run, "-o", weights, "--unevaluated")
            cases = ["--cases", *held_out_cases(run)]
            scores = ["--weights", weights, "-o", work / f"{recipe}-scores"]
            command("Training.evaluate", "--data", prepared, *scores, *cases)
        if recipe == DELIVERED:
            command("Training.train", recipe, "--data", prepared, "-o", work / "final", *changes)
    command(
        "Training.compare", *(work / f"{recipe}-scores" for recipe in SMALL), "-o", work / "table"
    )
    scores = work / f"{DELIVERED}-scores" / "scores.csv"
    command(
        "Training.export", work / "final", "-o", models / "tiny.safetensors", "--scores", scores
    )
    command("LiverTumorSegLib", "models")
    ct = lits / f"volume-{FIRST_NUMBER}.nii.gz"
    stages = ["--liver", "tiny", "--tumor", "tiny"]
    command("LiverTumorSegLib", "segment", ct, "-o", work / "result", *stages)


def command(module: str, *words: object) -> None:
    """Run a command as a user would, and say so."""
    line = [str(word) for word in words]
    print("$ python -m", module, *line, flush=True)
    finished = subprocess.run([sys.executable, "-m", module, *line], check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


def held_out_cases(run: Path) -> list[str]:
    """The names of the cases that a run held out."""
    return [case["name"] for case in json.loads((run / "run.json").read_text())["held_out_cases"]]


def write_small(prepared: Path, folder: Path) -> None:
    """Write each case of a prepared data set as a LiTS pair, of every so manyth voxel only."""
    data = read_data_set(prepared)
    for index, case in enumerate(data.cases):
        labels = data.labels(case)
        box = bounding_box(labels > 0)
        assert box is not None
        around = []
        for edge, size in zip(box, labels.shape, strict=True):
            margin = round(MARGIN * (edge.stop - edge.start))
            start, stop = max(edge.start - margin, 0), min(edge.stop + margin, size)
            around.append(slice(start, stop, max(1, -(-(stop - start) // LONGEST))))
        cut = tuple(around)
        grid = case.geometry
        spacing = [s * edge.step for s, edge in zip(grid.spacing_mm, cut, strict=True)]
        small = np.ascontiguousarray(labels[cut])
        first = [edge.start * s for edge, s in zip(cut, grid.spacing_mm, strict=True)]
        origin = np.array(grid.origin_mm) + np.array(grid.direction) @ first[::-1]
        geometry = replace(
            grid, shape=small.shape, spacing_mm=tuple(spacing), origin_mm=tuple(origin)
        )
        write_pair(folder, index, data.volume(case).hu[cut], small, geometry)


def write_pair(
    folder: Path, index: int, hu: np.ndarray, labels: np.ndarray, geometry: Geometry
) -> None:
    """Write a case under the names that LiTS gives its files."""
    number = FIRST_NUMBER + index
    write_image(folder / f"volume-{number}.nii.gz", hu.astype(np.int16), geometry)
    write_image(folder / f"segmentation-{number}.nii.gz", labels, geometry)


if __name__ == "__main__":
    main()
