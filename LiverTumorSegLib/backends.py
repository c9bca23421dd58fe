"""Where and by what a network runs: the device, and torch or, faster on CPUs, OpenVINO."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.sliding_window import as_channels_last

Predict = Callable[[Tensor], Tensor]
BACKENDS = ("auto", "torch", "openvino")


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

    Raises:
        InputError: unknown name, OpenVINO not installed, or OpenVINO for another device.
    """
    if name not in BACKENDS:
        raise InputError(f"Backend {name!r}: expected one of {', '.join(BACKENDS)}.")
    installed = importlib.util.find_spec("openvino") is not None
    if name == "auto":
        return "openvino" if installed and device.type == "cpu" else "torch"
    if name == "openvino" and not installed:
        raise InputError("Backend openvino: it is not installed; `pip install openvino` adds it.")
    if name == "openvino" and device.type != "cpu":
        raise InputError(f"Backend openvino: it runs on the CPU, not on {device}.")
    return name


def predictor(
    network: nn.Module, window: Sequence[int], backend: str, device: torch.device
) -> Predict:
    """A function from a window `(1, 1, *window)` to its logits.

    Args:
        network: in evaluation mode; it is moved to the device. A network of slices sees the one
            slice of its window.
        window: the network's input size (z, y, x).
        backend: "torch" or "openvino".
        device: where to run.
    """
    slices = network.dimensions == 2
    size = window[1:] if slices else window
    if backend == "openvino":
        predict = _openvino_predictor(network, size)
    else:
        predict = as_channels_last(network.to(device))
    return (lambda tensor: predict(tensor[:, :, 0]).unsqueeze(2)) if slices else predict


def _openvino_predictor(network: nn.Module, window: Sequence[int]) -> Predict:
    openvino = _import_openvino()
    example = torch.zeros((1, 1, *window))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of checks of sizes, which are fixed here
        model = openvino.convert_model(network.cpu(), example_input=example, input=example.shape)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.compile_model(model, "CPU", settings)

    def predict(tensor: Tensor) -> Tensor:
        return torch.from_numpy(np.array(compiled(tensor.numpy())[0]))

    return predict


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry package: nothing here may use the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
