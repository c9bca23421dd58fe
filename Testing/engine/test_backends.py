"""Both backends give the same logits, and OpenVINO never brings its telemetry along."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from LiverTumorSegLib.backends import pick_backend, predictor
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.networks import NETWORKS, build

CPU = torch.device("cpu")
SMALL = {
    "unet3d": {"channels": (4, 8, 16, 32)},
    "elanres_msca": {"width": 4},
}


@pytest.mark.parametrize("name", sorted(NETWORKS))
@torch.inference_mode()
def test_openvino_gives_the_logits_of_torch(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, **SMALL[name]).eval()
    window = (16, 32, 48)
    image = torch.rand((1, 1, *window))
    expected = predictor(network, window, "torch", CPU)(image).numpy()
    got = predictor(network, window, "openvino", CPU)(image).numpy()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def test_predictions_do_not_share_memory() -> None:
    network = build("unet3d", **SMALL["unet3d"]).eval()
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
    with pytest.raises(InputError, match="not installed"):
        pick_backend("openvino", CPU)


@pytest.mark.parametrize(("name", "device"), [("tensorrt", "cpu"), ("openvino", "cuda")])
def test_what_cannot_run_is_refused(name: str, device: str) -> None:
    with pytest.raises(InputError, match=f"Backend {name}|Backend '{name}'"):
        pick_backend(name, torch.device(device))
