"""Our half of nnU-Net's cross-validation; its own half is played, and writes the true labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from LiverTumorSegLib.errors import ResourceError
from Testing.benchmarks import nnunet_cross_validation as ours
from Testing.phantom import make_data_set
from Training.budget import read_budget
from Training.dataset import read_data_set
from Training.scores import read_scores

STEP_S = 0.05
EVERY_FOLD = {"train": ["case1", "case2"], "val": ["case0"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_set(tmp_path_factory.mktemp("nnunet"), patients=3)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What nnU-Net is asked for; without the planning."""
    asked: list[dict[str, Any]] = []

    def play(command: list[Any], output: Path) -> None:
        folders = ours.folders(output)
        raw = folders["nnUNet_raw"] / ours.DATASET
        if command[1] == "-c":
            prepared = folders["nnUNet_preprocessed"] / ours.DATASET
            prepared.mkdir(parents=True)
            (prepared / "nnUNetPlans.json").write_text(" ".join(map(str, command)))
            return
        job = json.loads(Path(command[-1]).read_text())
        asked.append(job)
        results: dict[str, Any] = {"step_s": STEP_S}
        if "epochs" in job:
            made = folders["nnUNet_results"] / ours.DATASET / "trainer" / f"fold_{job['fold']}"
            made.mkdir(parents=True)
            (made / "checkpoint_final.pth").write_bytes(b"weights")
            for case, files in job["cases"].items():
                assert Path(files["ct"]).exists()
                shutil.copy(raw / "labelsTr" / f"{case}.nii.gz", files["labels"])
            results = {"training_s": 66.0, "seconds": dict.fromkeys(job["cases"], 2.5)}
        Path(job["output"]).write_text(json.dumps(results))

    monkeypatch.setattr(ours, "run", play)
    monkeypatch.setattr(ours, "nnunet_python", lambda folder: Path("python"))
    return asked


def main(data: Path, output: Path, *options: str) -> int:
    words = [str(data), "-o", str(output), "--minutes", "1", "--device", "cpu", *options]
    return ours.main(words)


def test_every_fold_is_trained_predicted_and_measured(
    data: Path, tmp_path: Path, jobs: list[dict[str, Any]]
) -> None:
    output = tmp_path / "out"
    assert main(data, output) == 0
    speed, *folds = jobs
    assert "epochs" not in speed
    assert speed["seconds"] == pytest.approx(3.0), "a twentieth of a minute"
    assert [(job["fold"], [*job["cases"]]) for job in folds] == [
        (0, ["case0"]),
        (1, ["case1"]),
        (2, ["case2"]),
    ]
    # 60 s at 0.05 s a step are 1200 steps: 100 epochs of 12.
    assert {(job["epochs"], job["steps_an_epoch"]) for job in folds} == {(100, 12)}
    scores = read_scores(output / "scores" / "scores.csv")
    assert len(scores) == 6
    assert {score.dice for score in scores} == {1.0}
    assert {score.seconds for score in scores} == {2.5}
    assert len({score.recipes for score in scores}) == 1
    assert not any(score.seen or score.tta for score in scores)
    budget = read_budget(output)
    assert budget is not None
    assert budget.minutes_a_fold() == pytest.approx(1.1)
    assert "`nnunet` with `memory_gb=8`, `tta=False`" in (output / "summary.md").read_text()


def test_what_is_done_is_not_done_again(
    data: Path, tmp_path: Path, jobs: list[dict[str, Any]]
) -> None:
    output = tmp_path / "out"
    assert main(data, output, "--only", "1") == 0
    assert main(data, output, "--only", "1", "2") == 0
    assert [job["fold"] for job in jobs] == [0, 0, 1], "its speed, and two folds"
    assert main(data, output, "--tta") == 2, "another cross-validation"


def test_it_reads_the_cases_and_folds_as_ours_are(
    data: Path, tmp_path: Path, jobs: list[dict[str, Any]]
) -> None:
    output = tmp_path / "out"
    assert main(data, output, "--only", "1", "--memory-gb", "2") == 0
    raw = ours.folders(output)["nnUNet_raw"] / ours.DATASET
    data_set = read_data_set(data)
    for case in data_set.cases:
        image = sitk.ReadImage(str(raw / "imagesTr" / f"{case.name}_0000.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(image), data_set.volume(case).hu)
        assert image.GetSpacing() == pytest.approx(case.geometry.spacing_mm[::-1])
        labels = sitk.ReadImage(str(raw / "labelsTr" / f"{case.name}.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(labels), data_set.labels(case))
        assert labels.GetDirection() == image.GetDirection()
    description = json.loads((raw / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "liver": 1, "tumor": 2}
    prepared = ours.folders(output)["nnUNet_preprocessed"] / ours.DATASET
    splits = json.loads((prepared / "splits_final.json").read_text())
    assert len(splits) == 3
    assert splits[0] == EVERY_FOLD
    assert "-gpu_memory_target 2.0" in (prepared / "nnUNetPlans.json").read_text()


def test_a_failure_ends_with_what_it_said(tmp_path: Path) -> None:
    (tmp_path / ours.NAME).mkdir()
    with pytest.raises(ResourceError, match=r"code 7[\s\S]*no memory"):
        ours.run(["sh", "-c", "echo no memory; exit 7"], tmp_path)
