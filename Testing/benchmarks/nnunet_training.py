"""nnU-Net's half of `training_speed`, run by the Python of an environment that has nnU-Net.

    python -m Testing.benchmarks.nnunet_training JOB.json

Its own trainer, data format, loader, augmentation, loss and optimizer; only the network is ours.
The last line printed is samples a second.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from LiverTumorSegLib.networks import build

VOXELS_A_CLASS = 10_000  # as many places of each class as its own preprocessing keeps


class FinestOutput(nn.Module):
    """The output that predicts, alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """`(B, 1, *spatial)` to logits `(B, targets, *spatial)`."""
        outputs = self.network(image)
        return next(iter(outputs.values()))[0] if isinstance(outputs, dict) else outputs


class OurNetwork(nnUNetTrainer):
    """Their trainer of our network, which the plans name."""

    def build_network_architecture(
        self,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool,
    ) -> nn.Module:
        """Ours; for a single target nnU-Net has a channel of the background too."""
        network = plans_manager.plans["network"]
        args = {**network["args"], "out_channels": num_output_channels}
        return FinestOutput(build(network["name"], **args))


def main(path: Path) -> None:
    """Write the data as nnU-Net keeps it, train, and print the speed."""
    job = json.loads(path.read_text())
    folder = path.parent / "Dataset001_Liver" / "data"
    if not folder.exists():
        folder.mkdir(parents=True)
        for case in sorted(path.parent.glob("case*.npz")):
            write_case(folder / case.stem, job, **np.load(case))
    device = torch.device(job["device"])
    trainer = OurNetwork(plans(job), "benchmark", "all", dataset(job), device)
    trainer.enable_deep_supervision = False
    trainer.initialize()
    batches, held_out = trainer.get_dataloaders()
    trainer.network.train()
    for _ in range(job["warm_up"]):
        trainer.train_step(next(batches))
    started = time.perf_counter()
    for _ in range(job["steps"]):
        trainer.train_step(next(batches))
    seconds = time.perf_counter() - started
    for loader in (batches, held_out):
        loader._finish()  # its processes, as the trainer does at its end
    print(job["steps"] * job["batch_size"] / seconds, flush=True)


def write_case(stem: Path, job: dict, image: np.ndarray, labels: np.ndarray) -> None:
    """One case, compressed in blocks as its preprocessing does."""
    random = np.random.default_rng(0)
    places = {}
    for label in range(1, len(job["targets"]) + 1):
        found = np.argwhere(labels[None] == label)
        kept = random.permutation(len(found))[:VOXELS_A_CLASS]
        places[label] = found[kept]
    blocks, chunks = comp_blosc2_params((1, *image.shape), job["patch"])
    nnUNetDatasetBlosc2.save_case(
        image[None],
        labels[None],
        {"class_locations": places},
        str(stem),
        chunks=chunks,
        blocks=blocks,
    )


def plans(job: dict) -> dict:
    """What its planner would have written."""
    size = len(job["patch"])
    return {
        "network": job["network"],
        "continue_training": False,
        "dataset_name": "Dataset001_Liver",
        "plans_name": "plans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
        "configurations": {
            "benchmark": {
                "data_identifier": "data",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": job["batch_size"],
                "patch_size": job["patch"],
                "spacing": [1.0] * size,
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "batch_dice": False,
                "architecture": {
                    "network_class_name": "none",
                    "arch_kwargs": {"strides": [[1] * size]},
                    "_kw_requires_import": [],
                },
            }
        },
    }


def dataset(job: dict) -> dict:
    """Each target is a mask of its own, the liver with its tumors, as ours."""
    count = len(job["targets"])
    regions = {
        target: list(range(number, count + 1))
        for number, target in enumerate(job["targets"], start=1)
    }
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **regions},
        "regions_class_order": list(range(1, count + 1)),
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.exit()
