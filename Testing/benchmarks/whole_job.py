"""The whole job, from a CT's file to all result files, against nnU-Net's predictor on the same CT.

nnU-Net runs the very same tumor network, with the same weights and windows, at the same voxel size
and overlap, but as a single-stage nnU-Net must: over the whole CT, which it reads, resamples,
predicts, resamples back and writes by its own code (`nnunet_predict`), in float32 on a CPU. Ours
finds the liver first and looks for tumors there, and also measures lesions and draws a preview.
Both are timed from the start of a process to its end. Neither is given anything before, but that
ours has compiled the networks once ("first run") and kept that on the disk.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from LiverTumorSegLib.backends import BACKENDS
from LiverTumorSegLib.checkpoint import Model, default_model_name, find_model, load_model
from LiverTumorSegLib.volume import read_volume
from Testing.benchmarks.measured_process import measured, of_runs, repeated
from Testing.benchmarks.nnunet_env import nnunet_environment

Row = dict[str, Any]
OTHER_BACKENDS = tuple(name for name in BACKENDS if name not in ("auto", "openvino"))


def whole_job(ct: Path, folder: Path, device: str, rounds: int, nnunet: Path) -> dict[str, Any]:
    """Measure all of them, one after another.

    Args:
        ct: a NIfTI file.
        folder: an empty one for what is written.
        device: "cpu" or "cuda".
        rounds: of ours, after the first; nnU-Net takes minutes and is run once.
        nnunet: Python of an environment with nnU-Net.
    """
    rows = [our_row(ct, folder, device, "auto", rounds)]
    for backend in OTHER_BACKENDS if device == "cpu" else ():
        rows.append(our_row(ct, folder, device, backend, 1))
    labels = read_labels(folder / "auto" / "labels.nii.gz")
    model = load_model(default_model_name("tumor"))
    for mirroring in (False, True):
        rows.append(nnunet_row(ct, folder, device, model, nnunet, mirroring))
        theirs = read_labels(folder / f"nnunet{mirroring:d}.nii.gz")
        rows[-1]["dice"] = dice(theirs[labels > 0] == 1, labels[labels > 0] == 2)
    read = sum(find_model(default_model_name(t)).stat().st_size for t in ("liver", "tumor"))
    return {
        "ct": ct.name.split(".")[0],
        "shape": list(read_volume(ct).hu.shape),
        "rows": rows,
        "read_bytes": ct.stat().st_size + read,
        "written_bytes": sum(file.stat().st_size for file in (folder / "auto").iterdir()),
        **counted(ct, folder, []),
    }


def our_row(ct: Path, folder: Path, device: str, backend: str, rounds: int) -> Row:
    """Our command line by one backend."""
    out = folder / backend
    runs = repeated(our_command(ct, out, ["--device", device, "--backend", backend]), rounds)
    report = json.loads((out / "report.json").read_text())
    row = {
        "who": "ours",
        "how": backend,
        **of_runs(*runs),
        "timings_s": report["timings_s"],
        "precision": precision_of(report),
    }
    print(f"  ours, {backend}: {row['seconds']:.1f} s", flush=True)
    return row


def our_command(ct: Path, out: Path, options: list[str]) -> list[str]:
    """Our command line on a CT, with the embedded weights."""
    command = [sys.executable, "-m", "LiverTumorSegLib", "segment", str(ct), "-o", str(out)]
    return [*command, *options, "--progress", "none"]


def counted(ct: Path, folder: Path, options: list[str]) -> dict[str, float]:
    """Windows and GFLOP of a run, by `product_job`.

    Args:
        ct: what to segment.
        folder: for what is written.
        options: the models of the run.
    """
    told = folder / "count.json"
    command = [sys.executable, "-m", "Testing.benchmarks.product_job", "--count", str(told)]
    command += ["segment", str(ct), "-o", str(folder / "counted"), *options]
    measured([*command, "--device", "cpu", "--backend", "torch", "--progress", "none"])
    return json.loads(told.read_text())


def precision_of(report: dict[str, Any]) -> str:
    """The number type that the networks ran in: "f32", "f16" or "bf16"."""
    told = " ".join(report.get("computed_by", {}).values())
    words = {"bf16": "bf16", "float16": "f16"}
    return next((kind for word, kind in words.items() if word in told), "f32")


def nnunet_row(
    ct: Path, folder: Path, device: str, model: Model, nnunet: Path, mirroring: bool
) -> Row:
    """nnU-Net's predictor with our tumor network."""
    job = write_job(ct, folder, device, model, mirroring)
    command = [str(nnunet), "-m", "Testing.benchmarks.nnunet_predict", str(job)]
    run = measured(command, nnunet_environment(folder))
    how = "with mirroring, its default" if mirroring else "without mirroring"
    print(f"  nnU-Net {how}: {run.seconds:.1f} s", flush=True)
    return {
        "who": "nnU-Net",
        "how": how,
        "seconds": run.seconds,
        "peak_bytes": run.peak_bytes,
        "windows": json.loads((folder / "calls.json").read_text()),
        "precision": "f32" if device == "cpu" else "f16",
    }


def write_job(ct: Path, folder: Path, device: str, model: Model, mirroring: bool) -> Path:
    """What nnU-Net's half needs: the weights, and a description; the latter's path.

    nnU-Net's output has the grid of its input, so ours leaves out its last interpolation.
    """
    recipe = model.recipe
    torch.save(model.network.state_dict(), folder / "weights.pt")
    args = {**recipe.network.args, "head_scale": [1, 1, 1]}
    job = {
        "ct": str(ct),
        "output": str(folder / f"nnunet{mirroring:d}"),
        "device": device,
        "mirroring": mirroring,
        "network": {"name": recipe.network.name, "args": args},
        "deployed": bool(getattr(model.network, "deployed", False)),
        "weights": str(folder / "weights.pt"),
        "patch": list(recipe.patch),
        "clip_hu": list(recipe.preprocessing.intensity.clip_hu),
        "spacing_mm": input_spacing_mm(model, ct),
    }
    (folder / "job.json").write_text(json.dumps(job))
    return folder / "job.json"


def input_spacing_mm(model: Model, ct: Path) -> list[float]:
    """Distance of the tumor network's input voxels along (z, y, x) for a CT."""
    spacing_mm = list(read_volume(ct).geometry.spacing_mm)
    preprocessing = model.recipe.preprocessing
    if preprocessing.halve_in_plane:
        spacing_mm[1:] = [2 * mm for mm in spacing_mm[1:]]
    wanted_mm = preprocessing.resampling.spacing_mm
    return [mm or was for mm, was in zip(wanted_mm, spacing_mm, strict=True)]


def read_labels(path: Path) -> np.ndarray:
    """A label map, (z, y, x)."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Of two masks; 1 if both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
