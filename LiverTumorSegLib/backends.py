"""Where and by what a network runs: the device, and torch or, faster on CPUs, OpenVINO."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from LiverTumorSegLib.converted import converted
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.sliding_window import as_channels_last

BACKENDS = ("auto", "torch", "openvino", "openvino-bf16")
FREE_SHARE = 0.8
"""Of a GPU's free memory, what windows may take."""
LARGEST_BATCH = 16
THREADS_VARIABLE = "OMP_NUM_THREADS"
"""Set in a process's environment before it starts, it limits the threads of whatever computes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictor:
    """A network that is ready for windows of one size.

    Attributes:
        run: float32 windows `(B, 1, *window)`, wherever they lie, to float32 logits
            `(B, C, *window * scale)` on `device`.
        device: where it runs, and its logits lie.
        batch: windows that it should be given at a time, or fewer.
        told: what it runs by, for a report: "OpenVINO f32" or "torch float16 on cuda:0".
    """

    run: Callable[[Tensor], Tensor]
    device: torch.device
    batch: int
    told: str

    def __call__(self, windows: Tensor) -> Tensor:
        """See `run`."""
        return self.run(windows)


def pick_device(name: str) -> torch.device:
    """The torch device of a name; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: unknown name, or no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = name.split(":")[0]
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if kind not in present or device is None:
        raise InputError(f"Device {name!r}: expected auto, cpu, cuda, cuda:N or mps.")
    if (device.index or 0) >= present[kind]:
        raise InputError(
            f"Device {name!r}: this machine has {present[kind]} such device(s). Use --device auto."
        )
    return device


def pick_backend(name: str, device: torch.device) -> str:
    """The backend of a name; "auto" takes OpenVINO on the CPU where it is installed, else torch.

    "auto" never takes bfloat16: it is faster, but moves more of a label's border than the rounding
    of float32 does.

    Raises:
        InputError: unknown name, OpenVINO not installed, or OpenVINO for another device.
    """
    if name not in BACKENDS:
        raise InputError(f"Backend {name!r}: expected one of {', '.join(BACKENDS)}.")
    installed = importlib.util.find_spec("openvino") is not None
    if name == "auto":
        return "openvino" if installed and device.type == "cpu" else "torch"
    if name != "torch" and not installed:
        raise InputError(f"Backend {name}: it is not installed; `pip install openvino` adds it.")
    if name != "torch" and device.type != "cpu":
        raise InputError(f"Backend {name}: it runs on the CPU, not on {device}.")
    return name


def predictor(
    network: nn.Module, window: Sequence[int], backend: str, device: torch.device
) -> Predictor:
    """Make a network ready. Where OpenVINO cannot run it, torch does, and the reason is logged.

    Args:
        network: in evaluation mode; it is moved to the device. A network of slices sees the one
            slice of its window.
        window: the network's input size (z, y, x).
        backend: as `pick_backend` gives it.
        device: where to run.
    """
    slices = network.dimensions == 2
    size = window[1:] if slices else window
    if backend == "torch":
        made = _torch_predictor(network, size, device)
    else:
        try:
            made = _openvino_predictor(network, size, in_bf16=backend == "openvino-bf16")
        except (ImportError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            logger.warning("OpenVINO cannot run this network, torch does: %s", reason)
            made = _torch_predictor(network, size, device)
    if not slices:
        return made
    return replace(made, run=lambda x: made.run(x[:, :, 0]).unsqueeze(2))


def _openvino_predictor(network: nn.Module, window: Sequence[int], *, in_bf16: bool) -> Predictor:
    openvino = _import_openvino()
    core = openvino.Core()
    precision = "f32"
    if in_bf16:
        if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            precision = "bf16"
        else:
            logger.warning("This CPU has no bfloat16: float32 is used")
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if THREADS_VARIABLE in os.environ:  # which torch obeys, and OpenVINO does not know
        settings["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
    compiled = core.compile_model(converted(network.cpu(), window, openvino), "CPU", settings)

    def run(windows: Tensor) -> Tensor:
        # Copied, because the next run writes where this one did.
        return torch.from_numpy(np.array(compiled(windows.numpy())[0]))

    return Predictor(run, torch.device("cpu"), 1, f"OpenVINO {precision}")


def _torch_predictor(network: nn.Module, window: Sequence[int], device: torch.device) -> Predictor:
    network = as_channels_last(network.to(device))
    if device.type != "cuda":
        return Predictor(lambda x: network(x.to(device)), device, 1, f"torch float32 on {device}")

    def run(windows: Tensor) -> Tensor:
        windows = windows.to(device)
        with torch.autocast("cuda", torch.float16):
            logits = network(windows).float()
        if not logits.isfinite().all():
            logger.warning("A window overflows float16 and is predicted in float32")
            logits = network(windows).float()
        return logits

    batch = _batch_that_fits(run, window, device)
    return Predictor(run, device, batch, f"torch float16 on {device}")


def _batch_that_fits(
    run: Callable[[Tensor], Tensor], window: Sequence[int], device: torch.device
) -> int:
    """Windows at a time that the free memory of a GPU has room for, by what one of them takes."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        run(torch.zeros((1, 1, *window)))
    taken = torch.cuda.max_memory_allocated(device) - before
    free, _ = torch.cuda.mem_get_info(device)
    return min(max(int(FREE_SHARE * free / max(taken, 1)), 1), LARGEST_BATCH)


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry package: nothing here may use the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
