"""The batch script as Slicer runs it: in its __main__, with its arguments, ending the program."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "LiverTumorSeg" / "LiverTumorSegGUI" / "batch.py"

# What Slicer does with --python-script, and `slicer.app` as the desktop has it. sys.path is that of
# Slicer: neither the checkout nor an installed engine.
SLICER = """
import sys, types
sys.path[:] = [p for p in sys.path if p and p != {root!r}]
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
import slicer, slicer.util
for name in {missing!r}:
    sys.modules[name] = None
options = types.SimpleNamespace(runPythonAndExit=True)
slicer.app = types.SimpleNamespace(commandOptions=lambda: options, exit=lambda c: codes.append(c))
codes = []
sys.argv = {argv!r}
__file__ = {script!r}
exec(compile(open(__file__).read(), __file__, "exec"))
assert options.runPythonAndExit is False
sys.exit(codes[0])
"""


def run_in_slicer(folder: Path, *arguments: str, missing: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit code and stderr."""
    code = SLICER.format(
        root=str(ROOT), missing=missing, argv=[str(SCRIPT), *arguments], script=str(SCRIPT)
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


def test_wrong_arguments_are_explained(tmp_path):
    code, told = run_in_slicer(tmp_path, "--", "somewhere")
    assert code == 2
    assert "-o/--outdir" in told


def test_missing_packages_are_named_with_what_to_do(tmp_path):
    code, told = run_in_slicer(tmp_path, "in", "-o", "out", missing=("torch", "skimage"))
    assert code == 2
    assert "torch, skimage" in told
    assert "press Apply" in told
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_folder_in_a_folder_out(tmp_path):
    """Without a liver the embedded models are quick; a damaged file is the other case."""
    import numpy as np
    import SimpleITK as sitk

    folder = tmp_path / "in"
    folder.mkdir()
    image = sitk.GetImageFromArray(np.full((12, 40, 44), -1000, np.int16))
    sitk.WriteImage(image, str(folder / "air.nii.gz"))
    (folder / "cut off.nii").write_bytes(b"junk")
    arguments = ("--", "in", "-o", "out", "--backend", "torch", "--device", "cpu")
    lacking = ("tqdm", "pydicom", "nibabel")  # Slicer may lack these
    code, told = run_in_slicer(tmp_path, *arguments, missing=lacking)
    assert code == 2, told
    assert "1 of 2 cases failed" in told
    with (tmp_path / "out" / "cases.csv").open(newline="") as file:
        air, damaged = csv.DictReader(file)
    assert (air["status"], air["liver_ml"], air["tumors"]) == ("done", "0.0", "0")
    assert (tmp_path / "out" / "air" / "segmentation.seg.nrrd").exists()
    assert damaged["status"] == "failed"
    assert "cut off.nii" in damaged["message"]


def test_the_script_runs_without_slicer_too(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "cases.csv" in done.stdout
