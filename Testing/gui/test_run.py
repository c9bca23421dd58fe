"""Apply with the real engine process and the embedded weights, and every way a run can end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import slicer
import slicer.util
import vtk
from desktop import ROOT, settle, wait_until

SAMPLE = ROOT / "Testing" / "data" / "hcc006_arterial.nii.gz"
PART = (slice(34, 46), slice(60, 300), slice(60, 360))  # 30 mm through liver and tumors
PATIENCE_S = 500  # on a machine that does much else


@pytest.fixture(autouse=True)
def nothing_to_install(monkeypatch):
    from LiverTumorSegGUI import dependencies

    monkeypatch.setattr(dependencies, "ensure_dependencies", lambda path: None)


@pytest.fixture
def ct(panel):
    """A part of the sample CT, where it lies in the whole."""
    whole = slicer.modules.volumes.logic().AddArchetypeVolume(str(SAMPLE), "whole")
    matrix = vtk.vtkMatrix4x4()
    whole.GetIJKToRASMatrix(matrix)
    to_ras = slicer.util.arrayFromVTKMatrix(matrix)
    to_ras[:, 3] = to_ras @ (PART[2].start, PART[1].start, PART[0].start, 1)
    part = slicer.util.arrayFromVolume(whole)[PART].copy()
    slicer.mrmlScene.RemoveNode(whole)
    node = slicer.util.addVolumeFromArray(part, to_ras, "hcc006")
    panel.parameters.device = type(panel.parameters.device).CPU
    settle()
    return node


def put_a_point(scene, ras) -> None:
    """What a click in a slice view does in place mode."""
    (node,) = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
    node.AddControlPoint(vtk.vtkVector3d(*ras))
    node.InvokeEvent(node.PointPositionDefinedEvent)
    settle(0.1)


def segment_ids(segmentation_node) -> list[str]:
    return list(segmentation_node.GetSegmentation().GetSegmentIDs())


def results(scene) -> list:
    """Every node that a run could have made."""
    classes = ("vtkMRMLSegmentationNode", "vtkMRMLTableNode", "vtkMRMLMarkupsNode")
    return [node for name in classes for node in slicer.util.getNodesByClass(name)]


def folders(app) -> list[Path]:
    """Where runs keep their files."""
    return sorted(path.parent for path in Path(app.temporaryPath).glob("*/volume.npy"))


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_a_day_with_the_panel(panel, ct, scene, dialogs, app, monkeypatch):
    """One engine process for all of it, as for a user: the engine's start takes longest."""
    ui, job, view = panel.ui, panel.widget._job, panel.widget._view
    reports = []
    show = view.progress
    monkeypatch.setattr(view, "progress", lambda *report: (reports.append(report), show(*report)))

    def finish():
        wait_until(lambda: not job.busy, PATIENCE_S)
        settle(0.1)

    # Apply, and look at something else meanwhile.
    ui.applyButton.click()
    assert (ui.applyButton.text, ui.inputs.enabled) == ("Cancel", False)
    panel.leave()
    finish()
    assert panel.widget.logic.getParameterNode().outputSegmentation is not None
    panel.enter()
    shares = [share for stage, share in reports if stage == "Tumor"]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    segmentation, table = panel.parameters.outputSegmentation, panel.parameters.lesionTable
    tumors = [name for name in segment_ids(segmentation) if name != "liver"]
    assert tumors
    assert ui.lesionTableWidget.rowCount == len(tumors) == table.GetNumberOfRows()
    assert ui.thresholdSlider.enabled
    assert "may be cut off" in ui.statusLabel.text

    # Cancel in the middle: nothing was written, and all can be chosen again.
    reports.clear()
    before = results(scene), segment_ids(segmentation), folders(app)
    ui.applyButton.click()
    wait_until(lambda: any(stage == "Tumor" for stage, _ in reports), PATIENCE_S)
    assert ui.progressBar.isVisibleTo(panel.window)
    assert ui.statusLabel.text.startswith("Finding tumors")
    ui.applyButton.click()
    assert not ui.applyButton.enabled
    finish()
    assert (ui.statusLabel.text, ui.applyButton.text) == ("Canceled.", "Apply")
    assert ui.applyButton.enabled
    assert (results(scene), segment_ids(segmentation), folders(app)) == before
    assert dialogs.shown == []

    # A lesion that the user rejected is found again at its place, as a new one.
    center = segmentation.GetSegmentCenterRAS(tumors[0])
    ui.lesionTableWidget.selectRow(0)
    ui.rejectButton.click()
    ui.segmentHereButton.click()
    put_a_point(scene, center)
    finish()
    assert dialogs.shown == []
    assert "A lesion was found here" in ui.statusLabel.text
    (added,) = set(segment_ids(segmentation)) - {"liver", *tumors}
    assert not ui.segmentHereButton.checked
    ui.segmentHereButton.click()
    put_a_point(scene, [center[0], center[1], center[2] + 500])
    finish()
    (text,) = dialogs.texts("error")
    assert "it lies outside of the CT" in text
    dialogs.shown.clear()

    # What the user did is not replaced without asking.
    dialogs.answer = False
    ui.applyButton.click()
    assert not job.busy
    (question,) = dialogs.texts("question")
    assert "Tumor 1" in question
    before = segment_ids(segmentation)
    assert added in before

    # The CT is deleted while the engine works on it: one sentence, and nothing is lost.
    dialogs.answer = True
    dialogs.shown.clear()
    ui.applyButton.click()
    scene.RemoveNode(ct)
    finish()
    (text,) = dialogs.texts("error")
    assert "'hcc006' was removed while the segmentation ran; nothing was written." in text
    assert segment_ids(segmentation) == before
    assert not ui.applyButton.enabled


def test_a_scene_that_closes_during_a_run_ends_it(panel, ct, scene, dialogs):
    panel.ui.applyButton.click()
    job = panel.widget._job
    wait_until(lambda: job.pid, PATIENCE_S)
    pid = job.pid
    scene.Clear(0)
    wait_until(lambda: ended(pid))
    settle(0.1)
    assert not job.busy
    assert dialogs.shown == []
    assert (panel.ui.applyButton.text, panel.ui.applyButton.enabled) == ("Apply", False)
    assert results(scene) == []


def test_an_engine_that_is_killed_is_one_message(panel, ct, scene, dialogs):
    panel.ui.applyButton.click()
    job = panel.widget._job
    wait_until(lambda: job.pid, PATIENCE_S)
    os.kill(job.pid, signal.SIGKILL)
    wait_until(lambda: not job.busy)
    (text,) = dialogs.texts("error")
    cause, log = text.split("\nLog file: ")
    assert "memory" in cause
    assert "memory" in Path(log).read_text()
    assert (panel.ui.statusLabel.text, panel.ui.applyButton.enabled) == (text, True)
    assert results(scene) == []


def test_an_engine_that_cannot_start_is_one_message(panel, ct, dialogs):
    panel.widget._job._program = "/no/such/python"
    panel.ui.applyButton.click()
    wait_until(lambda: not panel.widget._job.busy)
    (text,) = dialogs.texts("error")
    assert "/no/such/python" in text
    assert panel.ui.applyButton.enabled
    assert "/no/such/python" in panel.ui.logView.toPlainText()


def test_a_bug_in_showing_the_result_leaves_a_panel_that_can_be_used(
    panel, ct, dialogs, monkeypatch
):
    def broken(*arguments):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(panel.widget.logic, "applyRun", broken)
    answers = []
    monkeypatch.setattr(panel.widget._job, "start", lambda *arguments: answers.extend(arguments))
    panel.ui.applyButton.click()
    request, _, on_finished, *_ = answers
    with pytest.raises(ZeroDivisionError):
        on_finished({"device": "cpu"})
    (text,) = dialogs.texts("error")
    assert "because of a bug" in text
    assert (panel.ui.applyButton.text, panel.ui.applyButton.enabled) == ("Apply", True)
    assert not Path(request["folder"]).exists()


def test_the_devices_of_this_computer_are_listed_on_demand(panel, monkeypatch):
    """The engine's own answer is tested with the engine; this is what the panel makes of one."""
    job = panel.widget._job
    devices = [{"name": "cuda:0", "label": "NVIDIA H200", "memory_gb": 139.8}]

    def start(request, on_progress, on_finished, on_failed, on_canceled):
        assert request == {"do": "devices"}
        on_finished({"devices": devices})

    monkeypatch.setattr(job, "start", start)
    panel.ui.findDevicesButton.click()
    assert panel.ui.devicesLabel.text == "NVIDIA H200, 140 GB"
    assert panel.ui.devicesLabel.isVisibleTo(panel.window)


def test_the_time_left_is_measured_not_promised(panel):
    from LiverTumorSegGUI.run_view import RunView

    now = [0.0]
    view = RunView(panel.ui, clock=lambda: now[0])
    view.begin("Starting")
    said = []
    # The first window takes 40 s, the others 1 s for each percent.
    steps = ((0, 0.0), (40, 0.01), (41, 0.02), (64, 0.25), (89, 0.5), (138, 0.99), (139, 1.0))
    for seconds, share in steps:
        now[0] = float(seconds)
        view.progress("Liver", share)
        said.append(panel.ui.statusLabel.text.partition(", ")[2])
    assert said == ["", "", "", "about 80 s left", "about 50 s left", "a few seconds left", ""]
    assert panel.ui.progressBar.value == 100
    view.progress("Tumor", 0.0)
    view.progress("Tumor", 0.1)
    assert panel.ui.statusLabel.text == "Finding tumors"
    now[0] += 60
    view.progress("Tumor", 0.2)
    assert panel.ui.statusLabel.text == "Finding tumors, about 8 min left"
    view.end("")
