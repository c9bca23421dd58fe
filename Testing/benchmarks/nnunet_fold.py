"""nnU-Net's half of `nnunet_cross_validation`, run by the Python of its own environment.

    python -m Testing.benchmarks.nnunet_fold JOB.json

Its own trainer, network, plans, data format, augmentation, loss, optimizer and predictor. Of its
training alone the number of epochs and of their steps is another, so that it ends with the budget,
and the estimates after every epoch, which do not touch the weights, are left out. A job without a
number of epochs measures the seconds of a step. What came of it is written where the job says.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_results
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def main(path: Path) -> None:
    """Measure, or train and predict, as the job says."""
    job = json.loads(path.read_text())
    device = torch.device(job["device"])
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # as its own command
    torch.manual_seed(job["seed"])
    np.random.seed(job["seed"])  # noqa: NPY002  (its augmentation draws from this one)
    if "epochs" in job:
        results = {"training_s": train(job, device), "seconds": predict(job, device)}
    else:
        results = {"step_s": step_seconds(job, device)}
    Path(job["output"]).write_text(json.dumps(results))


def trainer_of(job: dict[str, Any], device: torch.device) -> nnUNetTrainer:
    """Its own trainer."""
    return get_trainer_from_args(
        job["dataset"],
        job["configuration"],
        job["fold"],
        plans_identifier=job["plans"],
        device=device,
    )


def step_seconds(job: dict[str, Any], device: torch.device) -> float:
    """Seconds of a step, after a warm-up."""
    trainer = trainer_of(job, device)
    trainer.disable_checkpointing = True
    trainer.on_train_start()
    trainer.network.train()
    for most in (job["warm_up_steps"], job["timed_steps"]):
        started, done = time.perf_counter(), 0
        while done < 2 or (done < most and time.perf_counter() - started < job["seconds"]):
            trainer.train_step(next(trainer.dataloader_train))
            done += 1
        seconds = (time.perf_counter() - started) / done
    trainer.on_train_end()
    return seconds


def train(job: dict[str, Any], device: torch.device) -> float:
    """Train and keep the weights; returns the seconds of the steps."""
    trainer = trainer_of(job, device)
    trainer.num_epochs = job["epochs"]
    trainer.num_iterations_per_epoch = job["steps_an_epoch"]
    trainer.on_train_start()
    started = time.perf_counter()
    for epoch in range(trainer.num_epochs):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        steps = range(trainer.num_iterations_per_epoch)
        done = [trainer.train_step(next(trainer.dataloader_train)) for _ in steps]
        trainer.on_train_epoch_end(done)
    seconds = time.perf_counter() - started
    trainer.current_epoch += 1
    trainer.on_train_end()
    return seconds


def predict(job: dict[str, Any], device: torch.device) -> dict[str, float]:
    """Predict the held-out cases, one by one; seconds of each."""
    predictor = nnUNetPredictor(use_mirroring=job["tta"], device=device, allow_tqdm=False)
    name = f"nnUNetTrainer__{job['plans']}__{job['configuration']}"
    folder = Path(str(nnUNet_results)) / job["dataset"] / name
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(job["fold"],))
    seconds = {}
    for case, files in job["cases"].items():
        started = time.perf_counter()
        predictor.predict_from_files_sequential([[files["ct"]]], [files["labels"]])
        seconds[case] = time.perf_counter() - started
    return seconds


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.exit()
