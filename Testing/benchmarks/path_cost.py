"""Time and memory of everything around the networks, on a generated CT of any length.

    python -m Testing.benchmarks.path_cost [SLICES] [RECIPE ...]

Each step runs in a process of its own, which holds what a run holds at that point. A stage is
prepared and brought back by its recipe; in place of the network stands a function that finds an
ellipse, and specks all over the CT, so that parts are looked for everywhere. Memory is the peak of
the resident set above that of the imports, in MiB and as a multiple of the CT's float32 HU; it is
read from /proc, so on Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from LiverTumorSegLib import case  # what a run imports, torch among it, counts as the base
from LiverTumorSegLib.postprocess import clean_liver, clean_tumor
from LiverTumorSegLib.preprocess import network_input, prepare
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.report import Run
from LiverTumorSegLib.restore import restore
from LiverTumorSegLib.segmentation import Segmentation
from LiverTumorSegLib.volume import read_volume
from Testing.benchmarks.generated_ct import generated, write

SLICES = 1500
STAGES = (
    "starter-liver",
    "starter-tumor",
    "unet3d-liver",
    "elanres-msca-liver",
    "elanres-msca-tumor",
    "dpc-net",
    "rmau-net",
    "msa-unet",
)
SPECKS = 5
MIB = 1 << 20


def main(slices: int, stages: tuple[str, ...]) -> None:
    """Run each step and print the table."""
    print(f"{slices} slices of 512x512: {slices} MiB of float32 HU")
    print(f"{'step':22}{'part':18}{'seconds':>8}{'peak MiB':>10}{'x CT':>7}")
    with tempfile.TemporaryDirectory() as folder:
        ct = Path(folder) / "ct.nii.gz"
        write(slices, ct)
        for step in ("read", *stages, "results", "results+maps"):
            command = [sys.executable, "-m", __spec__.name, "--step", step, str(slices), str(ct)]
            subprocess.run(command, check=True)


def run_step(step: str, slices: int, ct: Path) -> None:
    """One step, in this process."""
    cost = Cost(step, slices)
    if step == "read":
        cost("read", read_volume, ct)
    elif step.startswith("results"):
        results(cost, slices, maps=step.endswith("maps"), folder=ct.parent)
    else:
        stage(cost, RECIPES[step], slices)


class Cost:
    """Runs functions and prints a line for each."""

    def __init__(self, step: str, slices: int) -> None:
        self.step, self.ct_mib, self.base_mib = step, slices, _resident_mib("VmRSS")

    def __call__(self, part: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function gives."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        started = time.perf_counter()
        result = function(*arguments)
        seconds = time.perf_counter() - started
        peak_mib = _resident_mib("VmHWM") - self.base_mib
        print(f"{self.step:22}{part:18}{seconds:8.2f}{peak_mib:10.0f}{peak_mib / self.ct_mib:7.2f}")
        sys.stdout.flush()
        return result


def _resident_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def stage(cost: Cost, recipe: Recipe, slices: int) -> None:
    """What `stage.run_stage` does around the network."""
    crop = recipe.preprocessing.liver_crop
    volume, labels = generated(slices)
    liver = labels > 0 if crop else None
    del labels
    prepared = cost("prepare", prepare, volume, recipe.preprocessing, liver)
    image = cost("blank", network_input, prepared, crop.mask_mm if crop else None)
    grid = prepared.grid
    del prepared
    scale = (1, *recipe.network.args.get("head_scale", (1, 1, 1)))[-3:]
    soft = recipe.inference.activation == "softmax"
    shape = [3 if soft else len(recipe.targets)]
    shape += [size * factor for size, factor in zip(image.shape, scale, strict=True)]
    targets = recipe.targets if liver is None else ("tumor",)

    def back() -> dict[str, np.ndarray]:
        found = stand_in(shape, soft)
        shape_zyx = volume.geometry.shape
        return restore(found, grid, scale, shape_zyx, recipe, targets, probabilities=False)[0]

    masks = cost("restore", back)
    del image
    if "liver" in masks:
        masks["liver"] = cost("clean liver", clean_liver, masks["liver"], recipe.inference)
    if "tumor" in masks:
        voxel_mm3 = volume.geometry.voxel_ml * 1000
        cost("clean tumor", clean_tumor, masks["tumor"], recipe.inference, voxel_mm3)


def stand_in(shape: list[int], soft: bool) -> Iterator[np.ndarray]:
    """Probabilities (C, y, x), slice by slice: an ellipse in the middle slices, and specks."""
    random = np.random.default_rng(0)
    channels, depth, height, width = shape
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ellipse = (y + 0.1) ** 2 + (x + 0.2) ** 2 < 0.15
    for z in range(depth):
        found = 0.35 * depth < z < 0.65 * depth and ellipse
        likely = np.where(found, np.float32(0.9), np.float32(0.01))
        likely = np.broadcast_to(likely, (height, width)).copy()
        likely[random.integers(height, size=SPECKS), random.integers(width, size=SPECKS)] = 0.9
        yield np.stack([1 - likely, likely, 0 * likely] if soft else [likely] * channels)


def results(cost: Cost, slices: int, maps: bool, folder: Path) -> None:
    """What `case.run_case` does after the networks."""
    volume, labels = generated(slices)
    map_ = (labels > 0).astype(np.float16) if maps else None
    measurement, lesion_map = cost("measure", case.measure, volume, labels, map_)
    segmentation = Segmentation(labels, liver_probability=map_, tumor_probability=map_)
    run = Run("ct.nii.gz", {}, "none")
    arguments = (folder, run, volume, segmentation, measurement, lesion_map)
    timings_s = cost("write", case.write_outputs, *arguments)
    print("  " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in timings_s.items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        run_step(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main(int((sys.argv[1:] or [SLICES])[0]), tuple(sys.argv[2:]) or STAGES)
