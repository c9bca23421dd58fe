"""Networks of libraries: their own logits under our contract, and a clear word where one lacks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from monai.networks.nets import AttentionUnet, BasicUNetPlusPlus
from torch import nn

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.networks import build
from Testing.engine.network_cases import CASES, assert_same, case_of, smallest

SMP = "segmentation_models_pytorch"
MISSING = [("unet_plus_plus", "monai"), ("attention_unet", "monai"), ("deeplabv3_plus", SMP)]


def direct_unet_plus_plus(out: int, features: list[int]) -> nn.Module:
    act = ("relu", {"inplace": True})
    return BasicUNetPlusPlus(2, 1, out, features=features, act=act, norm="batch")


def direct_attention_unet(out: int, channels: list[int]) -> nn.Module:
    return AttentionUnet(2, 1, out, channels, (2, 2, 2, 2))


def direct_deeplabv3_plus(out: int, encoder_name: str) -> nn.Module:
    from segmentation_models_pytorch import DeepLabV3Plus

    return DeepLabV3Plus(encoder_name, encoder_weights=None, in_channels=1, classes=out)


DIRECT = {
    "unet_plus_plus": direct_unet_plus_plus,
    "attention_unet": direct_attention_unet,
    "deeplabv3_plus": direct_deeplabv3_plus,
}


@pytest.mark.parametrize(("name", "direct"), [case_of(*item) for item in DIRECT.items()])
def test_the_logits_are_the_library_s_own(name: str, direct: Callable[..., nn.Module]) -> None:
    arguments = CASES[name].small
    torch.manual_seed(0)
    expected = direct(2, **arguments).eval()
    torch.manual_seed(0)
    network = build(name, out_channels=2, **arguments).eval()
    image = torch.randn(1, 1, *smallest(network))
    with torch.no_grad():
        logits = expected(image)
        assert_same(logits[0] if isinstance(logits, list) else logits, network(image), 0)


@pytest.mark.parametrize(("channels", "divisor"), [([4, 8], 2), ([4, 4, 8, 8], 8)])
def test_the_divisor_of_the_attention_unet_counts_its_halvings(
    channels: list[int], divisor: int
) -> None:
    network = build("attention_unet", channels=channels).eval()
    assert network.divisor == divisor
    with torch.no_grad():
        assert network(torch.rand(1, 1, divisor, 3 * divisor)).shape[2:] == (divisor, 3 * divisor)


def test_deeplab_is_asked_for_by_the_library_s_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the library cannot be imported: it starts untrained, and fetches nothing."""
    asked = {}

    def stand_in(**arguments: object) -> nn.Module:
        asked.update(arguments)
        return nn.Conv2d(arguments["in_channels"], arguments["classes"], 1)

    monkeypatch.setitem(sys.modules, SMP, SimpleNamespace(DeepLabV3Plus=stand_in))
    network = build("deeplabv3_plus", in_channels=3, out_channels=2)
    assert asked == {
        "encoder_name": "resnet101",
        "encoder_weights": None,
        "encoder_output_stride": 16,
        "in_channels": 3,
        "classes": 2,
    }
    assert network(torch.rand(1, 3, 16, 32))["heads"][0].shape == (1, 2, 16, 32)
    with pytest.raises(ValueError, match="multiple of 16"):
        network(torch.rand(1, 3, 24, 32))


@pytest.mark.parametrize(("name", "package"), MISSING)
def test_a_missing_library_is_named_with_what_to_do(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{name}.* {package},.*ModuleNotFound.*pip install"):
        build(name)


def test_a_library_that_does_not_fit_torch_is_told_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{SMP}.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.delitem(sys.modules, SMP, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"RuntimeError: operator nms does not exist"):
        build("deeplabv3_plus")


def test_no_library_is_imported_before_one_of_its_networks_is_built() -> None:
    code = (
        "import sys; from LiverTumorSegLib.networks import build; build('ra_unet');"
        f"assert not {{'monai', '{SMP}'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
