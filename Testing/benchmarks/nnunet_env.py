"""The environment of its own in which nnU-Net is measured: found, or made.

nnU-Net brings some fifty packages that nothing else here needs. It has the same torch as ours.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from LiverTumorSegLib.errors import ResourceError
from Testing.benchmarks.measured_process import ROOT

PACKAGES = ("torch==2.13.0", "torchvision==0.28.0", "nnunetv2==2.8.1")
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def add_environment_option(parser: argparse.ArgumentParser) -> None:
    """Let a command line name the environment."""
    parser.add_argument(
        "--nnunet-env",
        type=Path,
        default=default_folder(),
        metavar="ENV",
        help="Python environment with nnU-Net, made if it is not there (default: %(default)s)",
    )


def default_folder() -> Path:
    """Where the environment is made unless told otherwise: in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "LiverTumorSeg" / PACKAGES[-1].replace("==", "-")


def nnunet_python(folder: Path) -> Path:
    """The Python of an environment with nnU-Net, made with pip (a large download) if need be.

    Raises:
        ResourceError: it is not there and could not be made.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not has_nnunet(python):
        print(f"Making an environment with nnU-Net in {folder}, once ...", flush=True)
        steps = (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "--no-input", "install", *PACKAGES],
        )
        for step in steps:
            try:
                done = subprocess.run(step, capture_output=True, text=True, check=False)
            except OSError as error:
                raise _cannot_make(folder, str(error)) from error
            if done.returncode:
                raise _cannot_make(folder, (done.stderr or done.stdout).strip()[-600:])
    return python


def has_nnunet(python: Path) -> bool:
    """Whether this Python has nnU-Net, tried by importing it, so that its files are read once."""
    if not python.exists():
        return False
    command = [python, "-c", "import nnunetv2.inference.predict_from_raw_data"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def nnunet_environment(folder: Path) -> dict[str, str]:
    """Variables with which nnU-Net runs: its folders, and where this repository is."""
    return {**dict.fromkeys(FOLDERS, str(folder)), "PYTHONPATH": str(ROOT)}


def _cannot_make(folder: Path, reason: str) -> ResourceError:
    return ResourceError(
        f"{folder}: expected a Python environment with nnU-Net, found none, and could not make one "
        f"({reason}). Make it where there is a network: python -m venv ENV, then ENV/bin/pip "
        f"install {' '.join(PACKAGES)}; and give it with --nnunet-env ENV."
    )
