"""What was measured on: processor, cores, memory, device, versions, and how busy it was."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "openvino", "monai", "numpy")


def machine(device: torch.device) -> dict[str, Any]:
    """The machine in plain values; `device` names the GPU, or is "cpu"."""
    on_gpu = device.type == "cuda"
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"Python": platform.python_version(), **versions(PACKAGES)},
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, and of a server's the family, which the name may leave out."""
    told: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            told.setdefault(key.strip(), value.strip())
    name = told.get("model name") or platform.processor() or platform.machine()
    if "cpu family" not in told:
        return name
    flags = told.get("flags", "").split()
    units = [word for word in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if word in flags]
    return f"{name} (family {told['cpu family']}, model {told['model']}; {', '.join(units)})"


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def load() -> float:
    """How many processes wanted a core during the last minute."""
    return round(os.getloadavg()[0], 2)
