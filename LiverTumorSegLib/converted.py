"""Networks converted for OpenVINO, kept on disk: converting takes seconds, reading does not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from LiverTumorSegLib import networks
from LiverTumorSegLib.folders import cache_folder

MODEL, WEIGHTS, DIGEST = "network.xml", "network.bin", "sha256"
KEPT_BYTES = 2 * 1024**3
"""What may lie in the cache; the networks that were not used for longest go first."""

logger = logging.getLogger(__name__)


def converted(network: nn.Module, window: Sequence[int], openvino: Any) -> Any:
    """A network as an OpenVINO model of one window size, read from the cache where it is there.

    Args:
        network: in evaluation mode, on the CPU. Only those of `networks` are kept, because for
            others nothing tells that their code has changed.
        window: size of its input, without batch and channel.
        openvino: the imported package.
    """
    if not type(network).__module__.startswith(f"{networks.__name__}."):
        return convert(network, window, openvino)
    folder = cache_folder() / "openvino" / key(network, window, openvino.__version__)
    model = read(folder, openvino)
    if model is None:
        model = convert(network, window, openvino)
        try:
            write(folder, model, openvino)
            make_room(folder.parent, KEPT_BYTES)
        except (OSError, RuntimeError) as error:
            logger.info("The converted network is not kept: %s", error)
    return model


def convert(network: nn.Module, window: Sequence[int], openvino: Any) -> Any:
    """Convert a network for one window.

    Tracing computes it once, so a small window is traced where the network tells which it takes:
    sizes are parts of the graph, not constants in it, in all of `networks`.
    """
    traced_size = list(window)
    divisor, minimum = (int(getattr(network, name, 0)) for name in ("divisor", "minimum"))
    if divisor:
        enough = max(2 * divisor, minimum)
        traced_size = [min(size, enough) for size in window]
    example = torch.zeros((1, 1, *traced_size))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of checks of sizes, which are fixed here
        # Traced here, because OpenVINO would have the tracer run the network three times.
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
    # A program with an option --verbose makes it print, amid the lines that others read.
    with contextlib.redirect_stdout(io.StringIO()):
        return openvino.convert_model(traced, example_input=example, input=[1, 1, *window])


def key(network: nn.Module, window: Sequence[int], version: str) -> str:
    """What a conversion depends on: weights, code of the networks, window and both libraries."""
    result = hashlib.sha256(f"{version} {torch.__version__} {tuple(window)} {network!r}".encode())
    for path in sorted(Path(networks.__file__).parent.glob("*.py")):
        result.update(path.read_bytes())
    for name, tensor in sorted(network.state_dict().items()):
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        result.update(tensor.contiguous().numpy().tobytes())
    return result.hexdigest()


def read(folder: Path, openvino: Any) -> Any | None:
    """The model of a folder; None where there is none, or a damaged one."""
    if not folder.exists():
        return None
    try:
        if (folder / DIGEST).read_text() != _digest(folder):
            raise ValueError("not what was written")
        model = openvino.Core().read_model(folder / MODEL, folder / WEIGHTS)
    except (OSError, RuntimeError, ValueError) as error:
        logger.info("A kept network cannot be used (%s) and is made anew", error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    with contextlib.suppress(OSError):
        os.utime(folder)
    return model


def write(folder: Path, model: Any, openvino: Any) -> None:
    """Write a model, whole or not at all; another process may do so at the same time.

    Raises:
        OSError: the folder cannot be written.
        RuntimeError: the same, by OpenVINO.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="partial-") as made:
        partial = Path(made, "whole")
        partial.mkdir()
        openvino.save_model(model, partial / MODEL, compress_to_fp16=False)
        (partial / DIGEST).write_text(_digest(partial))
        if not folder.exists():
            partial.rename(folder)


def make_room(folder: Path, kept_bytes: int) -> None:
    """Remove the networks that were not used for longest until the rest is small enough."""
    newest_first = sorted(folder.iterdir(), key=lambda path: -path.stat().st_mtime)
    total = 0
    for path in newest_first:
        total += sum(file.stat().st_size for file in path.glob("*"))
        if total > kept_bytes:
            shutil.rmtree(path, ignore_errors=True)


def _digest(folder: Path) -> str:
    result = hashlib.sha256()
    for name in (MODEL, WEIGHTS):
        result.update((folder / name).read_bytes())
    return result.hexdigest()
