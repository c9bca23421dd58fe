"""Several processes that train one network together, as `torchrun` starts them.

Every process shows the network its share of each batch, and the gradients are averaged. The first
process alone decides and writes. Without torchrun there is one process, and all this does nothing.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from LiverTumorSegLib.errors import InputError, ResourceError

T = TypeVar("T")
# The others wait while the first prepares cases or validates. Who waits for a process that has
# ended need not wait so long: torchrun ends all when one has failed.
PATIENCE = timedelta(days=2)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; gives this one's device.

    Raises:
        InputError: the device cannot be shared, or there are fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "mps":
        raise InputError("Device mps: torchrun shares work on CUDA or the CPU. Use one process.")
    if device.type == "cuda":
        device = own_gpu()
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    yield device
    # Not after an error: the others may never come to it. What still refers to the group is let go
    # of first, and no process leaves while another needs it, or its threads end that process.
    gc.collect()
    distributed.barrier()
    distributed.destroy_process_group()


def own_gpu() -> torch.device:
    """The GPU of this process, made the current one.

    Raises:
        InputError: there are fewer GPUs than processes.
    """
    number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= gpus:
        raise InputError(
            f"torchrun started {os.environ['LOCAL_WORLD_SIZE']} processes on a machine with {gpus} "
            f"GPU(s). Use --nproc-per-node={gpus}."
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def process_count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def process_number() -> int:
    """Which of them this is; the first is 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def from_first(work: Callable[..., T], *arguments: Any) -> T:
    """What the first process makes of `work`; the others wait for it and do nothing.

    Its errors end all processes with the same exit code; the first alone tells them.

    Raises:
        InputError: in the first process, as `work` does.
        ResourceError: the same.
    """
    if process_count() == 1:
        return work(*arguments)
    result: T | None = None
    failure: InputError | ResourceError | None = None
    if process_number() == 0:
        try:
            result = work(*arguments)
        except (InputError, ResourceError) as error:
            failure = error
    outcome = [result, failure and failure.exit_code]
    distributed.broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise SystemExit(outcome[1])
    return outcome[0]


def from_all(value: T) -> list[T]:
    """The values of all processes, in their order."""
    values = [value] * process_count()
    if len(values) > 1:
        distributed.all_gather_object(values, value)
    return values


def with_shared_norms(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch norms over the whole batch, on CUDA.

    torch has none for the CPU: there each process normalizes its own share, and keeps the running
    statistics of the first.
    """
    if process_count() == 1 or device.type != "cuda":
        return network
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)


def with_shared_gradients(objective: nn.Module, device: torch.device, idle: bool) -> nn.Module:
    """A module that returns a loss, which averages its gradients over the processes.

    Args:
        objective: on the device.
        device: of this process.
        idle: whether it may have weights that the loss does not depend on.
    """
    if process_count() == 1:
        return objective
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=idle)
