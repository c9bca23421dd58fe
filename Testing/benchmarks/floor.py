"""What a machine could do at best: the rate of its matrix products and that of its disk.

The floor of a job is the time of its networks' floating-point operations at the one, plus that of
the bytes it must read and write at the other. No job reaches it; the share tells how near it is.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from LiverTumorSegLib.backends import _import_openvino

MEASURED_S = 2.0
DISK_BYTES = 256 * 2**20
TORCH_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SIDES = {"cpu": 2048, "cuda": 8192}


def rates(device: torch.device) -> dict[str, Any]:
    """10^9 operations a second by number type, the best of all ways; and bytes a second."""
    side = SIDES[device.type]
    ways = {f"torch {kind}": torch_product(side, kind, device) for kind in types_of(device)}
    if device.type == "cpu":
        ways |= {f"openvino {kind}": openvino_product(side, kind) for kind in TORCH_TYPES}
    gflops = {}
    for way, product in ways.items():
        gflops[way] = 2 * side**3 / fastest(product) / 1e9
        print(f"  {way}: {gflops[way]:,.0f} GFLOP/s", flush=True)
    best = {
        kind: max(rate for way, rate in gflops.items() if way.endswith(f" {kind}"))
        for kind in types_of(device)
    }
    return {"side": side, "all_gflops": gflops, "gflops": best, **disk_rates()}


def types_of(device: torch.device) -> dict[str, torch.dtype]:
    """Number types that are used on a device."""
    return {**TORCH_TYPES, "f16": torch.float16} if device.type == "cuda" else TORCH_TYPES


def floor_s(job: dict[str, Any], rate: dict[str, Any]) -> float:
    """Seconds that a job would take at best.

    Args:
        job: its `gflop`, `precision`, `read_bytes` and `written_bytes`.
        rate: of `rates`.
    """
    return (
        job["gflop"] / rate["gflops"][job["precision"]]
        + job["read_bytes"] / rate["read_bytes_s"]
        + job["written_bytes"] / rate["write_bytes_s"]
    )


def fastest(job: Callable[[], Any]) -> float:
    """Seconds of the fastest run in some seconds, after one that is not counted."""
    job()
    seconds: list[float] = []
    while sum(seconds) < MEASURED_S:
        started = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def torch_product(side: int, kind: str, device: torch.device) -> Callable[[], Any]:
    """The product of two square matrices by torch."""
    a, b = torch.randn((2, side, side), device=device).to(types_of(device)[kind])

    @torch.inference_mode()
    def product() -> None:
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return product


def openvino_product(side: int, kind: str) -> Callable[[], Any]:
    """The product of a matrix with one that does not change, as weights, by OpenVINO."""
    openvino = _import_openvino()
    from openvino import opset13 as ops

    values = np.random.default_rng(0).standard_normal((2, side, side), np.float32)
    image = ops.parameter([side, side], np.float32)
    model = openvino.Model([ops.matmul(image, ops.constant(values[1]), False, False)], [image])
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": kind})
    return lambda: compiled(values[0], share_inputs=True)


def disk_rates() -> dict[str, float]:
    """Bytes a second written until they are on the disk, and read back from there.

    Where the system offers no way to forget a file's pages, reading is from memory.
    """
    block = np.random.default_rng(0).bytes(DISK_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block"
        started = time.perf_counter()
        with path.open("wb") as file:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter()
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begun = time.perf_counter()
        path.read_bytes()
        read = time.perf_counter()
    return {
        "write_bytes_s": DISK_BYTES / (written - started),
        "read_bytes_s": DISK_BYTES / (read - begun),
    }
