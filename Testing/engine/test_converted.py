"""Converted networks on disk: used again, never wrong, never in the way."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import openvino
import pytest
import torch
from torch import Tensor, nn

from LiverTumorSegLib import converted as module
from LiverTumorSegLib.converted import DIGEST, WEIGHTS, convert, converted, key, make_room
from LiverTumorSegLib.folders import CACHE_VARIABLE
from Testing.engine.network_cases import small

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

WINDOW = (8, 8, 8)
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that were converted."""
    done = []

    def counted(network: nn.Module, *rest: object) -> object:
        done.append(network)
        return convert(network, *rest)

    monkeypatch.setattr(module, "convert", counted)
    return done


def logits(model: object, image: Tensor) -> Tensor:
    return torch.from_numpy(openvino.compile_model(model, "CPU", EXACT)(image.numpy())[0].copy())


def assert_right(network: nn.Module) -> None:
    image = torch.rand((1, 1, *WINDOW))
    got = logits(converted(network, WINDOW, openvino), image)
    torch.testing.assert_close(got, network(image), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_network_is_converted_once(cache: Path, conversions: list[nn.Module]) -> None:
    network = small("unet3d").eval()
    for _ in range(2):
        assert_right(network)
    assert len(conversions) == 1
    assert len(list(cache.iterdir())) == 1


@torch.inference_mode()
def test_other_weights_code_versions_and_windows_are_other_networks(
    cache: Path, conversions: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small("unet3d").eval()
    assert_right(network)
    next(network.parameters()).data[0] += 1e-3
    assert_right(network)
    assert len(conversions) == 2
    keys = {
        key(network, WINDOW, "1"),
        key(network, WINDOW, "2"),
        key(network, (16, 8, 8), "1"),
        key(small("rmau"), WINDOW, "1"),
    }
    assert len(keys) == 4
    before = key(network, WINDOW, "1")
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"edited")
    assert key(network, WINDOW, "1") != before


@torch.inference_mode()
@pytest.mark.parametrize("name", [WEIGHTS, DIGEST, module.MODEL])
@pytest.mark.parametrize("how", ["cut off", "changed", "gone"])
def test_a_damaged_one_is_made_anew(
    cache: Path,
    conversions: list[nn.Module],
    caplog: pytest.LogCaptureFixture,
    name: str,
    how: str,
) -> None:
    network = small("unet3d").eval()
    assert_right(network)
    (folder,) = cache.iterdir()
    content = (folder / name).read_bytes()
    if how == "gone":
        (folder / name).unlink()
    else:
        wrong = content[: len(content) // 2] if how == "cut off" else b"x" + content[1:]
        (folder / name).write_bytes(wrong)
    caplog.set_level(logging.INFO)
    assert_right(network)
    assert len(conversions) == 2
    assert_right(network)
    assert len(conversions) == 2, "the one made anew is kept"


@torch.inference_mode()
def test_a_folder_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert_right(small("unet3d").eval())


class Unknown(nn.Module):
    """A network whose code nobody watches."""

    def forward(self, image: Tensor) -> Tensor:
        """Twice the image."""
        return 2 * image


@torch.inference_mode()
def test_networks_of_others_are_not_kept(cache: Path) -> None:
    image = torch.rand((1, 1, *WINDOW))
    assert torch.allclose(logits(converted(Unknown(), WINDOW, openvino), image), 2 * image)
    assert not cache.exists()


def test_those_not_used_for_longest_make_room(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "used", "old"]):
        folder = tmp_path / name
        folder.mkdir()
        (folder / WEIGHTS).write_bytes(bytes(100))
        os.utime(folder, (1e9 - age, 1e9 - age))
    make_room(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "used"]


def test_nothing_is_printed_where_a_program_has_an_option_called_verbose() -> None:
    code = (
        "import sys; sys.argv.append('--verbose');"
        "import torch; from LiverTumorSegLib.backends import predictor;"
        "from Testing.engine.network_cases import small;"
        "predictor(small('unet3d').eval(), (8, 8, 8), 'openvino', torch.device('cpu'))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, stdout=subprocess.PIPE
    )
    assert done.stdout == b""
