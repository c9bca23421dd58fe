"""Each paper's recipe on a CT: seconds, memory of its process, and the cost of its networks.

The weights are random and the liver and the tumors are painted into the CT (`painted`), where the
embedded models find them. So every network is computed in full on exactly the windows that a
trained one would see: those of the first look, those near the liver it finds, those in the liver's
box. Recipes of the liver alone are completed by the starter recipe of tumors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from LiverTumorSegLib.backends import BACKENDS
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.volume import Volume, read_volume
from Testing.benchmarks.measured_process import measured, of_runs, repeated
from Testing.benchmarks.painted import write_painted_ct, write_painted_model
from Testing.benchmarks.whole_job import (
    counted,
    dice,
    our_command,
    precision_of,
    read_labels,
)

FASTER = tuple(name for name in BACKENDS if "bf16" in name)  # than what `auto` takes
# By title: the recipes for the liver and for tumors; one recipe is both at once.
SETS = {
    "ELANRes-MSCA-UNet": ("elanres-msca-liver", "elanres-msca-tumor"),
    "3D U-Net, then our starter": ("unet3d-liver", "starter-tumor"),
    "RMAU-Net": ("rmau-net", "rmau-net"),
    "MSA-UNet, then our starter": ("msa-unet", "starter-tumor"),
    "DPC-Net": ("dpc-net", "dpc-net"),
    "Starter pair": ("starter-liver", "starter-tumor"),
}


def recipe_time(ct: Path, folder: Path, device: str, rounds: int) -> dict[str, Any]:
    """Measure each set of recipes in turn.

    Args:
        ct: a CT.
        folder: an empty one for what is written.
        device: "cpu" or "cuda".
        rounds: of each, after one in which its networks are compiled.
    """
    measured(our_command(ct, folder / "found", ["--device", device]))
    volume, labels = read_volume(ct), read_labels(folder / "found" / "labels.nii.gz")
    rows = [
        set_row(title, volume, labels, folder / f"set{number}", device, rounds)
        for number, title in enumerate(SETS)
    ]
    return {"ct": ct.name.split(".")[0], "shape": list(labels.shape), "rows": rows}


def set_row(
    title: str, volume: Volume, labels: np.ndarray, folder: Path, device: str, rounds: int
) -> dict[str, Any]:
    """One set of recipes on the painted CT.

    Raises:
        RuntimeError: what it found is not what was painted, so that its work was another one.
    """
    folder.mkdir()
    liver, tumor = (RECIPES[name] for name in SETS[title])
    ct, out = folder / "ct.nii.gz", folder / "out"
    write_painted_ct(volume, labels, ct, equalized=liver.preprocessing.clahe is not None)
    models = {recipe.name: str(write_painted_model(recipe, folder)) for recipe in (liver, tumor)}
    options = ["--liver", models[liver.name], "--tumor", models[tumor.name]]
    count = counted(ct, folder, options)
    command = [sys.executable, "-m", "Testing.benchmarks.product_job", "segment", str(ct)]
    command += ["-o", str(out), *options, "--device", device, "--progress", "none"]
    runs = repeated(command, rounds)
    report = json.loads((out / "report.json").read_text())
    found = dice(read_labels(out / "labels.nii.gz") > 0, labels > 0)
    if found < 0.9:
        raise RuntimeError(f"{title}: expected the painted liver, found a Dice of {found:.2f}.")
    faster = FASTER if device == "cpu" else ()
    row = {
        "title": title,
        "recipes": list(dict.fromkeys(SETS[title])),
        **of_runs(*runs),
        "faster_s": {name: measured([*command, "--backend", name]).seconds for name in faster},
        "timings_s": report["timings_s"],
        "precision": precision_of(report),
        "read_bytes": sum(Path(path).stat().st_size for path in [ct, *models.values()]),
        "written_bytes": sum(file.stat().st_size for file in out.iterdir()),
        "dice": found,
        **count,
    }
    print(
        f"  {title}: {row['seconds']:.1f} s, {row['peak_bytes'] / 1e9:.2f} GB, "
        f"{row['gflop']:,.0f} GFLOP in {row['windows']} windows",
        flush=True,
    )
    return row
