"""One CT from its file to its results: what is told of the time it took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

from LiverTumorSegLib.case import Setup, run_case
from LiverTumorSegLib.report import REPORT
from LiverTumorSegLib.volume import image_on_grid
from Testing.engine.known_networks import liver_model, phantom, tumor_model

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

FILES = ["write_labels", "write_segmentation", "write_table", "draw", "write_preview"]
MAPS = ["write_liver_probability", "write_tumor_probability"]


@pytest.mark.parametrize("probabilities", [False, True])
def test_every_stage_is_timed_in_order(probabilities: bool, tmp_path: Path) -> None:
    volume, _ = phantom()
    path, outdir = tmp_path / "ct.nii.gz", tmp_path / "out"
    sitk.WriteImage(image_on_grid(volume.hu, volume.geometry), str(path))
    setup = Setup(liver_model(), tumor_model(), "cpu", "torch", False, probabilities)
    case = run_case(path, outdir, setup, lambda stage, fraction: None)
    told = case.segmentation.timings_s
    stages = ["read", "liver", "tumor", "measure"]
    assert list(told) == [*stages, *FILES, *MAPS * probabilities, "write_page"]
    assert min(told.values()) > 0
    report = json.loads((outdir / REPORT).read_text())
    assert report["timings_s"] == {stage: round(seconds, 3) for stage, seconds in told.items()}
