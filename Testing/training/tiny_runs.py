"""Runs of the trainer on phantoms, small enough for tests, and what they leave behind."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "starter-liver": (
        "network.args.channels=[4,4,4,4]",
        "preprocessing.resampling.shape=[16,16,16]",
        "training.sampling.samples=1",
        "training.validate_every_epochs=2",
    ),
    "starter-tumor": (
        "network.args.width=4",
        'network.args.block="double"',
        "network.args.msca_levels=[]",
        "patch=[16,16,16]",
        "preprocessing.pad_minimum=[16,16,16]",
        "training.sampling.samples=1",
        "training.validate_every_epochs=2",
    ),
    "rmau-net": (
        "network.args.base_channels=6",
        "network.args.mab=false",
        "patch=[1,32,32]",
        "preprocessing.pad_minimum=[1,32,32]",
        "preprocessing.resampling=null",
        "training.learning_rate=0.01",
    ),
}
TOLD = (
    "epoch",
    "loss",
    "learning_rate",
    "held_out_loss",
    "held_out_liver_dice",
    "held_out_tumor_dice",
)


def command(name: str, data: Path, run: Path, *options: str, epochs: int = 2) -> list[str]:
    changes = (*TINY[name], f"training.epochs={epochs}")
    changes_ = [word for change in changes for word in ("--set", change)]
    return [name, "--data", str(data), "-o", str(run), "--device", "cpu", *changes_, *options]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def told(run: Path) -> list[list[str]]:
    """The log but for the times."""
    return [[row[name] for name in TOLD] for row in rows(run)]


def state(run: Path, name: str = "last.pt") -> dict[str, Any]:
    return torch.load(run / name, weights_only=True)


def leaves(value: Any, where: str = "") -> dict[str, Any]:
    """Every leaf of nested dicts and lists but the times, by its path."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {} if "/seconds" in where else {where: value}
    return {k: v for key, part in items for k, v in leaves(part, f"{where}/{key}").items()}


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, average, optimizer, generators, log and best epoch, to the bit; times may differ."""
    assert told(one) == told(other)
    assert (one / "best.pt").exists() == (other / "best.pt").exists()
    names = ["last.pt", "best.pt"] if (one / "best.pt").exists() else ["last.pt"]
    for name in names:
        left, right = leaves(state(one, name)), leaves(state(other, name))
        assert left.keys() == right.keys()
        for part in ("/network/", "/optimizer/state/", "/generators/", "/rows/"):
            assert any(key.startswith(part) for key in left)
        for key, value in left.items():
            same = (
                torch.equal(value, right[key]) if isinstance(value, Tensor) else value == right[key]
            )
            assert same, f"{name} {key}"
