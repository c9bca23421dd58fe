"""segment and batch with --seg dicom: whole or not at all, and refused before computing."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import pytest
import SimpleITK as sitk
import torch
from highdicom.sr import Comprehensive3DSR

from LiverTumorSegLib import cli
from LiverTumorSegLib.batch import one_by_one, run_batch, settings_of
from LiverTumorSegLib.case import Setup, run_case
from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.report import DICOM_REPORT, DICOM_SEG
from LiverTumorSegLib.row import Row
from LiverTumorSegLib.volume import image_on_grid
from Testing.engine.dicom_series import write_series
from Testing.engine.known_networks import liver_model, phantom, tumor_model

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

SETUP = Setup(liver_model(), tumor_model(), "cpu", "torch", False, False, dicom=True)


def phantom_series(folder: Path) -> Path:
    return write_series(folder / "ct", phantom()[0])


def test_a_run_leaves_seg_and_sr_beside_the_other_files(tmp_path: Path) -> None:
    case = run_case(phantom_series(tmp_path), tmp_path / "out", SETUP, lambda *_: None)
    seg = hd.seg.segread(tmp_path / "out" / DICOM_SEG)
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["Liver", "Tumor 1", "Tumor 2"]
    assert seg.pixel_array.sum() == (phantom()[1] > 0).sum() + (phantom()[1] == 2).sum()
    assert (tmp_path / "out" / DICOM_REPORT).exists()
    assert case.segmentation.timings_s["write_dicom"] > 0
    assert case.segmentation.warnings == ()


def test_its_warnings_are_in_the_report(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct", phantom()[0], PatientID=None)
    run_case(folder, tmp_path / "out", SETUP, lambda *_: None)
    told = json.loads((tmp_path / "out" / "report.json").read_text())["warnings"]
    assert told == ["The series has no PatientID: left empty in the DICOM results."]


def test_no_dicom_of_an_earlier_run_stays(tmp_path: Path) -> None:
    folder, out = phantom_series(tmp_path), tmp_path / "out"
    run_case(folder, out, SETUP, lambda *_: None)
    run_case(folder, out, replace(SETUP, dicom=False), lambda *_: None)
    assert not list(out.glob("*.dcm"))


def test_a_batch_writes_them_and_is_resumed_with_them_alone(tmp_path: Path) -> None:
    case = phantom_series(tmp_path / "in")

    def batch(out: Path, dicom: bool, resume: bool) -> int:
        setup = replace(SETUP, dicom=dicom)
        runner = one_by_one(setup, lambda *_: None)
        rows: list[Row] = []
        run_batch(
            case.parent, out, settings_of(setup), runner, resume, lambda *_: None, rows.append
        )
        return len(rows)

    assert batch(tmp_path / "plain", dicom=False, resume=False) == 1
    assert not (tmp_path / "plain" / "ct" / DICOM_SEG).exists()
    with pytest.raises(InputError, match="dicom"):
        batch(tmp_path / "plain", dicom=True, resume=True)
    assert batch(tmp_path / "out", dicom=True, resume=False) == 1
    assert (tmp_path / "out" / "ct" / DICOM_SEG).exists()
    assert batch(tmp_path / "out", dicom=True, resume=True) == 0


def test_a_disk_that_runs_full_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Comprehensive3DSR.save_as

    def full(self: Comprehensive3DSR, target: Any, *rest: Any) -> None:
        if isinstance(target, Path):
            target.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, target, *rest)

    monkeypatch.setattr(Comprehensive3DSR, "save_as", full)
    with pytest.raises(ResourceError, match="disk is full"):
        run_case(phantom_series(tmp_path), tmp_path / "out", SETUP, lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


def test_a_file_that_is_no_series_is_refused_before_computing(tmp_path: Path) -> None:
    volume, _ = phantom()
    path = tmp_path / "ct.nii.gz"
    sitk.WriteImage(image_on_grid(volume.hu, volume.geometry), str(path))
    stages: list[str] = []
    with pytest.raises(InputError, match=r"ct.nii.gz: expected the folder of a DICOM series"):
        run_case(path, tmp_path / "out", SETUP, lambda stage, _: stages.append(stage))
    assert set(stages) == {"Read"}
    assert [path.name for path in tmp_path.iterdir()] == ["ct.nii.gz"]


def test_the_command_line_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(b"")
    assert cli.main(["segment", str(path), "-o", str(tmp_path / "out"), "--seg", "dicom"]) == 2
    assert "expected the folder of a DICOM series" in capsys.readouterr().err
    assert cli.main(["segment", str(path), "-o", str(tmp_path / "out"), "--seg", "rtss"]) == 2


@pytest.mark.parametrize("package", ["highdicom", "pydicom"])
def test_without_the_packages_it_says_how_to_get_them(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from LiverTumorSegLib.dicom_extra import dicom_packages\n"
        "with dicom_packages():\n"
        "    from LiverTumorSegLib.dicom_results import source_of_results\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "InputError: DICOM SEG and SR: expected the Python packages" in ran.stderr
    assert f"found no {package}; `pip install highdicom` adds both." in ran.stderr


def test_the_command_line_needs_them_for_dicom_only(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['highdicom'] = sys.modules['pydicom'] = None\n"
        "from LiverTumorSegLib import cli\n"
        f"sys.exit(cli.main(['segment', {str(tmp_path)!r}, '-o', 'out', '--seg', 'dicom']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "found no " in ran.stderr
    assert "Traceback" not in ran.stderr
