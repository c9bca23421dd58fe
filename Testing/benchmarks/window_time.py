"""The windows alone: our sliding window against MONAI's, of the same network over the same array.

The tumor network over the liver's box of a CT, as the product prepares it, with the same windows
and overlap. MONAI runs the network by PyTorch in float32, as its users do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from LiverTumorSegLib.backends import BACKENDS, predictor
from LiverTumorSegLib.checkpoint import default_model_name, load_model
from LiverTumorSegLib.preprocess import network_input, prepare
from LiverTumorSegLib.sliding_window import as_channels_last, predict_slices
from LiverTumorSegLib.stage import output_of, run_stage
from LiverTumorSegLib.volume import read_volume

Job = Callable[[], np.ndarray]


def window_time(ct: Path, device: torch.device, rounds: int) -> dict[str, Any]:
    """Medians of rounds in which all take turns, after one that is not counted.

    Args:
        ct: a CT.
        device: where the network runs.
        rounds: how many.

    Returns:
        By each contender its seconds, and the share of the voxels it decides as MONAI does.
    """
    image, low = prepared_liver_box(ct, device)
    jobs = {"MONAI, torch": monai(image, device)}
    for backend in BACKENDS[1:] if device.type == "cpu" else ("torch",):
        jobs[f"ours, {backend}"] = ours(image, low, device, backend)
    masks = {name: job() for name, job in jobs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(1, rounds + 1):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - started)
        told = ", ".join(f"{name} {values[-1]:.2f}" for name, values in seconds.items())
        print(f"  round {number}: {told} s", flush=True)
    reference = masks["MONAI, torch"]
    return {
        "shape": list(image.shape),
        "rows": [
            {
                "how": name,
                "seconds": statistics.median(values),
                "same": float(np.mean(masks[name] == reference)),
            }
            for name, values in seconds.items()
        ],
    }


def prepared_liver_box(ct: Path, device: torch.device) -> tuple[np.ndarray, float]:
    """The array that the tumor network sees for a CT, and its value of air."""
    volume = read_volume(ct)
    liver_model = load_model(default_model_name("liver"))
    liver = run_stage(volume, liver_model, device, "torch").masks["liver"]
    preprocessing = load_model(default_model_name("tumor")).recipe.preprocessing
    prepared = prepare(volume, preprocessing, liver)
    return network_input(prepared, preprocessing.liver_crop.mask_mm), prepared.scale.low


def ours(image: np.ndarray, low: float, device: torch.device, backend: str) -> Job:
    """Our windows by a backend; gives the mask on the output's grid."""
    model = load_model(default_model_name("tumor"))
    recipe, output = model.recipe, output_of(model)
    predict = predictor(model.network, recipe.patch, backend, device)
    options = {
        "low": low,
        "overlap": recipe.inference.overlap,
        "blend": recipe.inference.blend,
    }

    def job() -> np.ndarray:
        slices = predict_slices(predict, image, recipe.patch, output, **options)
        return np.stack([values[0] >= recipe.inference.threshold for values in slices])

    return job


def monai(image: np.ndarray, device: torch.device) -> Job:
    """MONAI's windows; gives the mask on the output's grid."""
    model = load_model(default_model_name("tumor"))
    network = as_channels_last(model.network).to(device)
    tensor = torch.from_numpy(image)[None, None].to(device)
    recipe = model.recipe

    @torch.inference_mode()
    def job() -> np.ndarray:
        logits = sliding_window_inference(
            tensor, recipe.patch, 1, network, overlap=recipe.inference.overlap, mode="gaussian"
        )
        return (logits.sigmoid()[0, 0] >= recipe.inference.threshold).cpu().numpy()

    return job
