"""ONNX files: each network computes in onnxruntime what it does here; the file says what it is."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from LiverTumorSegLib.checkpoint import FORMAT, Model
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.networks import NETWORKS
from LiverTumorSegLib.recipe import Network, Recipe
from LiverTumorSegLib.recipes import RECIPES
from Testing.engine.network_cases import CASES, case_of, randomize_norms, small, smallest
from Testing.recipe_cases import small_recipe
from Training import onnx_export
from Training.onnx_export import LARGEST_DIFFERENCE, export_onnx, window_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

THIN = replace(
    small_recipe(RECIPES["unet3d-liver"]), network=Network("unet3d", {"channels": [2, 4]})
)


def model_of(recipe: Recipe, network: nn.Module) -> Model:
    return Model("x", recipe, {"license": "CC0"}, "1234", randomize_norms(network).eval())


def thin_model() -> Model:
    torch.manual_seed(0)
    return model_of(THIN, NETWORKS["unet3d"](**THIN.network.args))


def test_there_is_a_form_of_every_network() -> None:
    assert set(CASES) == set(NETWORKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [case_of(name) for name in NETWORKS])
def test_every_network_computes_the_same(tmp_path: Path, name: str) -> None:
    """For batches of other sizes than the exporter saw, as deployed."""
    network = randomize_norms(small(name)).eval()
    if hasattr(network, "deploy"):
        network = network.deploy()
    window = (1, *smallest(network))[-3:]
    recipe = replace(THIN, network=Network(name, CASES[name].small), patch=window)
    difference = export_onnx(model_of(recipe, network), tmp_path / "x.onnx")
    assert 0 <= difference <= LARGEST_DIFFERENCE

    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    image = torch.rand(3, 1, *window[-network.dimensions :])
    with torch.inference_mode():
        expected = network(image).numpy()
    (found,) = session.run(None, {"image": image.numpy()})
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-3 * max(1, np.abs(expected).max())
    assert expected.std() > 1e-3


def test_the_file_says_what_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, path = thin_model(), tmp_path / "x.onnx"
    export_onnx(model, path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]
    assert capfd.readouterr() == ("", "")
    proto = onnx.load(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert Recipe.from_json(metadata["recipe"]) == THIN
    assert json.loads(metadata["card"]) == {"license": "CC0"}
    assert (metadata["format"], metadata["sha256"]) == (FORMAT, "1234")
    ((image,), (logits,)) = proto.graph.input, proto.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    sizes = [d.dim_value or d.dim_param for d in image.type.tensor_type.shape.dim]
    assert sizes == ["batch", 1, *window_of(THIN)]


def test_windows_are_the_patch_or_the_whole_padded_grid() -> None:
    assert window_of(RECIPES["starter-tumor"]) == RECIPES["starter-tumor"].patch
    assert window_of(RECIPES["unet3d-liver"]) == (80, 160, 160)
    assert window_of(RECIPES["rmau-net"]) == (1, 256, 256)


def test_a_window_of_no_fixed_size_is_refused(tmp_path: Path) -> None:
    preprocessing = replace(THIN.preprocessing, resampling=None)
    recipe = replace(THIN, patch=None, preprocessing=preprocessing)
    with pytest.raises(InputError, match="--onnx: expected windows of one size"):
        export_onnx(replace(thin_model(), recipe=recipe), tmp_path / "x.onnx")
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversion of another network stands for a faulty one."""
    model, convert = thin_model(), onnx_export.converted
    torch.manual_seed(1)
    other = replace(model, network=thin_model().network)
    with torch.no_grad():
        other.network.head.bias.add_(1)
    monkeypatch.setattr(onnx_export, "converted", lambda _, window: convert(other, window))
    with pytest.raises(InputError, match="--onnx: expected the logits of unet3d to differ by less"):
        export_onnx(model, tmp_path / "x.onnx")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("package", onnx_export.PACKAGES)
def test_a_missing_package_is_answered_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"--onnx: it needs the package {package}.*'\.\[onnx\]'"):
        onnx_export.check_installed()
