"""Batches made by processes of their own, so that the device need not wait."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

MOST_WORKERS = 8


def worker_count() -> int:
    """How many processes load for each that trains, of which a machine may run several."""
    trainers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min((os.cpu_count() or 1) // trainers - 1, MOST_WORKERS))


def load(
    dataset: Dataset[tuple[Tensor, Tensor]], batches: Iterable[list[Any]], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches, each loaded before it is asked for.

    The processes start with the first batch and end with the last, or when the iterator is dropped.

    Args:
        dataset: makes a sample of a key.
        batches: the keys of each.
        device: where the batches will go; memory is pinned for CUDA.
    """
    yield from DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=worker_count(),
        pin_memory=device.type == "cuda",
        worker_init_fn=leave_interrupts,
        generator=torch.Generator(),  # else every start would draw from the run's own
    )


def leave_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which reaches every process of a terminal, to the trainer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
