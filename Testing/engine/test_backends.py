"""Both backends give the same logits, and OpenVINO never brings its telemetry along."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from LiverTumorSegLib.backends import (
    THREADS_VARIABLE,
    _import_openvino,
    pick_backend,
    pick_device,
    predictor,
)
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.networks import NETWORKS
from Testing.engine.network_cases import case_of, randomize_norms, scale_of, small, smallest

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

CPU = torch.device("cpu")
HAS_BF16 = "BF16" in _import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.slow
@pytest.mark.parametrize("name", [case_of(name) for name in sorted(NETWORKS)])
@torch.inference_mode()
def test_both_backends_give_the_logits_of_the_network(name: str) -> None:
    """Windows are (z, y, x) for all of them; a network of slices sees the one slice.

    The window is larger than what the conversion traces.
    """
    network = randomize_norms(small(name)).eval()
    scale = scale_of(network)
    window = tuple(
        size * times for size, times in zip(smallest(network)[::-1], (3, 2, 3), strict=False)
    )
    image = torch.rand((1, 1, *window))
    expected = network(image).numpy()
    if network.dimensions == 2:
        expected, image = expected[:, :, None], image[:, :, None]
        scale, window = (1, *scale), (1, *window)
    size = [s * f for s, f in zip(window, scale, strict=True)]
    assert list(expected.shape[2:]) == size
    for backend in ("torch", "openvino"):
        got = predictor(network, window, backend, CPU)(image).numpy()
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bfloat16")
@pytest.mark.parametrize("name", [case_of(name) for name in sorted(NETWORKS)])
@torch.inference_mode()
def test_bfloat16_stays_near_the_network(name: str) -> None:
    """Logits off by a tenth of their spread at most, probabilities by 0.005, on average."""
    network = randomize_norms(small(name)).eval()
    window = smallest(network)
    image = torch.rand((1, 1, *window))
    expected = network(image)
    if network.dimensions == 2:
        expected, image, window = expected[:, :, None], image[:, :, None], (1, *window)
    ready = predictor(network, window, "openvino-bf16", CPU)
    assert ready.told == "OpenVINO bf16"
    got = ready(image)
    assert 0 < (got - expected).std() <= 0.1 * expected.std()
    assert (got.sigmoid() - expected.sigmoid()).abs().mean() <= 0.005


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_obeys_the_limit_that_torch_does(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = _import_openvino().Core
    told, whole = [], core.compile_model

    def compile_model(*arguments: object) -> object:
        compiled = whole(*arguments)
        told.append(compiled.get_property("INFERENCE_NUM_THREADS"))
        return compiled

    monkeypatch.setattr(core, "compile_model", compile_model)
    monkeypatch.setenv(THREADS_VARIABLE, str(threads))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # read when torch is imported
    predictor(small("unet3d").eval(), (8, 8, 8), "openvino", CPU)
    assert told == [threads]


def test_what_openvino_cannot_run_is_run_by_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*arguments: object) -> None:
        raise RuntimeError("a long story\nNo such operation: x")

    monkeypatch.setattr("LiverTumorSegLib.backends.converted", fails)
    network = small("unet3d").eval()
    ready = predictor(network, (8, 8, 8), "openvino", CPU)
    assert ready.told == "torch float32 on cpu"
    assert "torch does: No such operation: x" in caplog.text
    image = torch.rand((1, 1, 8, 8, 8))
    assert torch.equal(ready(image), network(image))


def test_predictions_do_not_share_memory() -> None:
    network = small("unet3d").eval()
    predict = predictor(network, (8, 8, 8), "openvino", CPU)
    first = predict(torch.zeros((1, 1, 8, 8, 8)))
    kept = first.clone()
    predict(torch.ones((1, 1, 8, 8, 8)))
    assert torch.equal(first, kept)


def test_telemetry_stays_absent() -> None:
    code = (
        "import sys; from LiverTumorSegLib.backends import _import_openvino; _import_openvino();"
        "assert sys.modules['openvino_telemetry'] is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_auto_takes_openvino_on_the_cpu_only() -> None:
    assert pick_backend("auto", CPU) == "openvino"
    assert pick_backend("auto", torch.device("cuda")) == "torch"
    assert pick_backend("torch", CPU) == "torch"


def test_auto_takes_torch_without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert pick_backend("auto", CPU) == "torch"
    for name in ("openvino", "openvino-bf16"):
        with pytest.raises(InputError, match="not installed"):
            pick_backend(name, CPU)


@pytest.mark.parametrize(
    ("name", "device"), [("tensorrt", "cpu"), ("openvino", "cuda"), ("openvino-bf16", "mps")]
)
def test_what_cannot_run_is_refused(name: str, device: str) -> None:
    with pytest.raises(InputError, match=f"Backend {name}|Backend '{name}'"):
        pick_backend(name, torch.device(device))


# Devices


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "cuda:-1", "cpu:1", "xpu", "meta", "CPU"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        pick_device(name)
    assert repr(name) in str(caught.value)


def test_absent_devices_are_refused() -> None:
    with pytest.raises(InputError, match="--device auto"):
        pick_device(f"cuda:{torch.cuda.device_count()}")
    if not torch.backends.mps.is_available():
        with pytest.raises(InputError, match="has 0 such"):
            pick_device("mps")


def test_auto_takes_what_there_is() -> None:
    device = pick_device("auto")
    assert pick_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert device.type == "cuda"
    elif torch.backends.mps.is_available():
        assert device.type == "mps"
    else:
        assert device.type == "cpu"
