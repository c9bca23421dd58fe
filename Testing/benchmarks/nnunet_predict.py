"""nnU-Net's half of `whole_job`, run by the Python of an environment that has nnU-Net.

    python -m Testing.benchmarks.nnunet_predict JOB.json

Its own predictor from file to file, as `nnUNetv2_predict` runs it, but without the processes beside
it (`-npp 0 -nps 0`), which pay for many CTs only. The network alone is ours, with its weights; our
one logit becomes nnU-Net's two, background and tumor, whose softmax is our sigmoid. HU become the
recipe's network values by nnU-Net's own CT normalization.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from LiverTumorSegLib.networks import build


class BackgroundAndTumor(nn.Module):
    """Logits of two channels from the one of a network of a single target."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """`(B, 1, *spatial)` to logits `(B, 2, *spatial)`."""
        tumor = self.network(image)
        return torch.cat([torch.zeros_like(tumor), tumor], dim=1)


def main(path: Path) -> None:
    """Predict the CT of a job into its output file, and write how often the network was called."""
    job = json.loads(path.read_text())
    device = torch.device(job["device"])
    torch.set_num_threads(1 if device.type == "cuda" else os.cpu_count() or 1)  # as their command
    predictor = nnUNetPredictor(use_mirroring=job["mirroring"], device=device, allow_tqdm=False)
    plans = PlansManager(plans_of(job))
    network = our_network(job)
    predictor.manual_initialization(
        network,
        plans,
        plans.get_configuration("benchmark"),
        [network.state_dict()],
        dataset(),
        "nnUNetTrainer",
        (0, 1, 2),
    )
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    network.register_forward_pre_hook(count)
    predictor.predict_from_files_sequential([[job["ct"]]], [job["output"]])
    path.with_name("calls.json").write_text(json.dumps(calls))


def our_network(job: dict[str, Any]) -> nn.Module:
    """Our network with our weights, its output on the grid of its input."""
    network = build(job["network"]["name"], **job["network"]["args"])
    if job["deployed"]:
        network = network.deploy()
    network.load_state_dict(torch.load(job["weights"], weights_only=True))
    return BackgroundAndTumor(network).eval()


def plans_of(job: dict[str, Any]) -> dict[str, Any]:
    """What its planner would have written, with the resampling that it chooses for CT."""
    low, high = job["clip_hu"]
    orders = {"data": 3, "seg": 1, "probabilities": 1}
    resampling = {}
    for what, order in orders.items():
        options = {"is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None}
        resampling[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{what}_kwargs"] = options
    return {
        "dataset_name": "Dataset001_Liver",
        "plans_name": "plans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "mean": low,
                "std": high - low,
                "percentile_00_5": low,
                "percentile_99_5": high,
            }
        },
        "configurations": {
            "benchmark": {
                "preprocessor_name": "DefaultPreprocessor",
                "patch_size": job["patch"],
                "spacing": job["spacing_mm"],
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                **resampling,
                "architecture": {
                    "network_class_name": "none",
                    "arch_kwargs": {},
                    "_kw_requires_import": [],
                },
            }
        },
    }


def dataset() -> dict[str, Any]:
    """One target."""
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "tumor": 1},
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
