"""Time and memory of the main job on the sample CT, and its window prediction against MONAI's.

    python -m Testing.benchmarks.segment_time [CT]

Both predict the same prepared liver box with the same tumor network, windows and overlap; ours also
through OpenVINO. The whole job runs in a process of its own, whose peak memory is read afterwards.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from LiverTumorSegLib.backends import predictor
from LiverTumorSegLib.checkpoint import Model, default_model_name, load_model
from LiverTumorSegLib.preprocess import network_input, prepare
from LiverTumorSegLib.sliding_window import predict_slices
from LiverTumorSegLib.stage import output_of, run_stage
from LiverTumorSegLib.volume import read_volume

SAMPLE = Path(__file__).parents[1] / "data" / "hcc006_arterial.nii.gz"
ROUNDS = 3
CPU = torch.device("cpu")


def main(ct: Path) -> None:
    """Run and print both tables."""
    whole_job(ct)
    model = load_model(default_model_name("tumor"))
    window_prediction(model, prepared_liver_box(ct, model))


def whole_job(ct: Path) -> None:
    """The command line on one CT, by both backends."""
    print(f"{'whole job':28}{'seconds':>9}{'peak GB':>9}   stages")
    for backend in ("torch", "openvino"):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "LiverTumorSegLib", "segment", str(ct), "-o", folder]
            started = time.perf_counter()
            child = subprocess.Popen(
                [*command, "--device", "cpu", "--backend", backend, "--progress", "none"],
                stdout=subprocess.DEVNULL,
            )
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - started
            if status:
                raise SystemExit(f"the job failed: {os.waitstatus_to_exitcode(status)}")
            peak_gb = usage.ru_maxrss / 1e6
            timings = json.loads((Path(folder) / "report.json").read_text())["timings_s"]
        stages = ", ".join(f"{name} {value:.1f}" for name, value in timings.items())
        print(f"{backend:28}{seconds:9.1f}{peak_gb:9.2f}   {stages}")


def prepared_liver_box(ct: Path, tumor_model: Model) -> np.ndarray:
    """The array that the tumor network sees for a CT."""
    volume = read_volume(ct)
    liver_model = load_model(default_model_name("liver"))
    liver = run_stage(volume, liver_model, CPU, "torch", False, False, lambda fraction: None)
    prepared = prepare(volume, tumor_model.recipe.preprocessing, liver.masks["liver"])
    return network_input(prepared, tumor_model.recipe.preprocessing.liver_crop.mask_mm)


@torch.inference_mode()
def window_prediction(model: Model, image: np.ndarray) -> None:
    """Our sliding window against MONAI's, in turn, medians of several rounds."""
    from monai.inferers import sliding_window_inference

    window, overlap = model.recipe.patch, model.recipe.inference.overlap
    by_torch = predictor(model.network, window, "torch", CPU)
    by_openvino = predictor(model.network, window, "openvino", CPU)
    tensor = torch.from_numpy(image)[None, None]

    def ours(predict: Callable) -> np.ndarray:
        output, options = output_of(model), {"low": 0.0, "overlap": overlap, "blend": "gaussian"}
        return np.stack([*predict_slices(predict, image, window, output, **options)], axis=1)[0]

    def monai() -> np.ndarray:
        logits = sliding_window_inference(
            tensor, window, 1, by_torch, overlap=overlap, mode="gaussian"
        )
        return logits.sigmoid()[0, 0].numpy()

    jobs = {
        "MONAI, torch": monai,
        "ours, torch": lambda: ours(by_torch),
        "ours, OpenVINO": lambda: ours(by_openvino),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    masks = {}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            started = time.perf_counter()
            masks[name] = job() >= 0.5
            seconds[name].append(time.perf_counter() - started)
    print(f"\n{'windows of ' + str(window):28}{'seconds':>9}{'speed-up':>9}   same voxels as MONAI")
    reference = statistics.median(seconds["MONAI, torch"])
    for name, values in seconds.items():
        same = np.mean(masks[name] == masks["MONAI, torch"])
        median = statistics.median(values)
        print(f"{name:28}{median:9.2f}{reference / median:9.2f}   {100 * same:.3f} %")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLE)
