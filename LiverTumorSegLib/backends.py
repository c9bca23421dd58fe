"""Run a network on batches of windows, by torch or, faster on CPUs, by OpenVINO."""

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
        network: in evaluation mode; it is moved to the device.
        window: the network's input size.
        backend: "torch" or "openvino".
        device: where to run.
    """
    if backend == "openvino":
        return _openvino_predictor(network, window)
    return as_channels_last(network.to(device))


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
