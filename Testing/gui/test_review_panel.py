"""The review in the panel on real segments: what each widget does, and what the table then says."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import slicer
import slicer.util
from desktop import settle, wait_until

SHAPE, SPACING_MM = (20, 40, 50), 2.0
VOXEL_ML = SPACING_MM**3 / 1000
BOXES = {  # of the tumors, the largest first
    "tumor_1": (slice(4, 10), slice(8, 16), slice(10, 20)),
    "tumor_2": (slice(12, 16), slice(20, 26), slice(30, 36)),
}


@pytest.fixture
def labels():
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[2:18, 4:36, 5:45] = 1
    for box in BOXES.values():
        array[box] = 2
    return array


@pytest.fixture
def probability(labels):
    """0.9 in the tumors but for 0.6 in the second's last slice, 0.1 elsewhere."""
    array = np.where(labels == 2, 0.9, 0.1).astype(np.float16)
    array[15][labels[15] == 2] = 0.6
    return array


@pytest.fixture
def reviewed(panel, labels, probability):
    """The panel with a result, as a run leaves it."""
    import LiverTumorSeg as module
    from LiverTumorSegGUI.handover import Source
    from LiverTumorSegGUI.run import see
    from LiverTumorSegLib.segmentation import Segmentation

    hu = np.where(labels == 2, 60, np.where(labels == 1, 110, -50)).astype(np.int16)
    volume = slicer.util.addVolumeFromArray(hu, np.diag([SPACING_MM] * 3 + [1]), "CT 7")
    segmentation = Segmentation(labels, (), {}, None, probability)
    result = panel.widget.logic.showResult(volume, see(volume), segmentation)
    models = {target: module.modelInfo(target, "") for target in ("liver", "tumor")}
    panel.widget._reviewed = result.segmentationNode
    panel.widget._source = Source(models, "cpu", (), probability)
    panel.parameters.inputVolume = volume
    panel.parameters.outputSegmentation = result.segmentationNode
    panel.parameters.lesionTable = result.lesionTableNode
    settle(0.1)
    return panel


def cells(panel) -> list[list[str]]:
    table = panel.ui.lesionTableWidget
    return [
        [table.item(row, column).text() for column in range(table.columnCount)]
        for row in range(table.rowCount)
    ]


def column(panel, title: str) -> list[str]:
    table = panel.ui.lesionTableWidget
    titles = [table.horizontalHeaderItem(index).text() for index in range(table.columnCount)]
    return [row[titles.index(title)] for row in cells(panel)]


def select(panel, *rows: int) -> None:
    table = panel.ui.lesionTableWidget
    table.clearSelection()
    for row in rows:
        index = table.model().index(row, 0)
        flags = type(table.selectionModel()).SelectionFlag
        table.selectionModel().select(index, flags.Select | flags.Rows)
    settle()


def voxels(panel, segment_id: str) -> np.ndarray:
    nodes = panel.widget.logic.getParameterNode()  # the panel may be closed
    return slicer.util.arrayFromSegmentBinaryLabelmap(
        nodes.outputSegmentation, segment_id, nodes.inputVolume
    )


def paint(panel, segment_id: str, box) -> None:
    """What a brush of the Segment Editor does to a segment."""
    nodes = panel.widget.logic.getParameterNode()
    mask = voxels(panel, segment_id)
    mask[box] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        mask, nodes.outputSegmentation, segment_id, nodes.inputVolume
    )


def test_the_table_shows_each_lesion(reviewed):
    assert reviewed.ui.review.enabled
    assert not reviewed.ui.review.collapsed
    first, second = cells(reviewed)
    assert first[:5] == ["Tumor 1", "open", f"{480 * VOXEL_ML:.2f}", "23 x 18", "60"]
    assert first[5] == "0.90"
    assert second[2] == f"{144 * VOXEL_ML:.2f}"
    assert column(reviewed, "Edge") == ["", ""]
    assert reviewed.ui.summaryLabel.text.startswith("Liver 164 mL. Tumors: 2, 5.0 mL, 3.0 % of")


def test_no_tumor_is_said_in_words(reviewed):
    segmentation = reviewed.parameters.outputSegmentation.GetSegmentation()
    for segment_id in BOXES:
        segmentation.RemoveSegment(segment_id)
    wait_until(lambda: reviewed.ui.lesionTableWidget.rowCount == 0)
    assert "No tumor found." in reviewed.ui.summaryLabel.text


def test_buttons_are_enabled_by_what_is_selected(reviewed):
    ui = reviewed.ui
    one = (ui.acceptButton, ui.rejectButton, ui.splitButton, ui.editButton)
    assert not any(button.enabled for button in (*one, ui.mergeButton, ui.undoButton))
    select(reviewed, 1)
    assert all(button.enabled for button in one)
    assert not ui.mergeButton.enabled
    select(reviewed, 0, 1)
    assert ui.mergeButton.enabled
    assert not ui.splitButton.enabled


def test_accept_reject_undo_and_redo(reviewed):
    ui = reviewed.ui
    select(reviewed, 0)
    ui.acceptButton.click()
    select(reviewed, 1)
    ui.rejectButton.click()
    assert column(reviewed, "Status") == ["accepted", "rejected"]
    assert "1 accepted, 1 rejected, 0 to review" in ui.summaryLabel.text
    assert ui.undoButton.toolTip == "Reject Tumor 2"
    ui.undoButton.click()
    assert column(reviewed, "Status") == ["accepted", "open"]
    ui.redoButton.click()
    assert column(reviewed, "Status") == ["accepted", "rejected"]
    assert not ui.redoButton.enabled


def test_merge_makes_one_of_two_and_split_takes_it_apart(reviewed):
    select(reviewed, 0, 1)
    reviewed.ui.mergeButton.click()
    assert column(reviewed, "mL") == [f"{624 * VOXEL_ML:.2f}"]
    select(reviewed, 0)
    reviewed.ui.splitButton.click()
    assert column(reviewed, "mL") == [f"{480 * VOXEL_ML:.2f}", f"{144 * VOXEL_ML:.2f}"]


def test_what_cannot_be_split_is_explained(reviewed, dialogs):
    select(reviewed, 1)
    reviewed.ui.splitButton.click()
    (text,) = dialogs.texts("error")
    assert "without a neck" in text
    assert len(cells(reviewed)) == 2


def test_an_edit_by_hand_changes_the_table_and_marks_the_lesion(reviewed):
    box = (slice(4, 10), slice(8, 16), slice(10, 22))
    paint(reviewed, "tumor_1", box)
    wait_until(lambda: column(reviewed, "mL")[0] == f"{576 * VOXEL_ML:.2f}")
    assert column(reviewed, "Status")[0] == "open, edited"


def test_many_edits_in_a_row_are_measured_few_times(reviewed, monkeypatch):
    shown = []
    refresh = reviewed.widget._reviewPanel._table.show
    monkeypatch.setattr(
        reviewed.widget._reviewPanel._table,
        "show",
        lambda rows: (shown.append(rows), refresh(rows)),
    )
    for width in range(21, 27):
        paint(reviewed, "tumor_1", (slice(4, 10), slice(8, 16), slice(10, width)))
    wait_until(lambda: column(reviewed, "mL")[0] == f"{6 * 8 * 16 * VOXEL_ML:.2f}")
    assert len(shown) <= 2


def test_the_threshold_relabels_without_a_run(reviewed):
    ui = reviewed.ui
    assert ui.thresholdSlider.value == 0.5
    ui.thresholdSlider.value = 0.7
    wait_until(lambda: column(reviewed, "mL")[1] == f"{3 * 36 * VOXEL_ML:.2f}")
    assert not voxels(reviewed, "tumor_2")[15].any()
    ui.thresholdSlider.value = 0.5
    wait_until(lambda: column(reviewed, "mL")[1] == f"{144 * VOXEL_ML:.2f}")


def test_a_click_brings_the_lesion_into_the_views(reviewed, monkeypatch):
    jumps = []
    monkeypatch.setattr(reviewed.widget._reviewPanel.review, "jump", jumps.append)
    reviewed.ui.lesionTableWidget.cellClicked.emit(1, 0)
    assert jumps == ["tumor_2"]


def test_diameters_are_shown_for_the_selected_lesions(reviewed):
    def lines():
        nodes = slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")
        return sorted(node.GetName() for node in nodes if node.GetDisplayVisibility())

    assert lines() == ["Tumor 1 long axis", "Tumor 2 long axis"]
    select(reviewed, 1)
    assert lines() == ["Tumor 2 long axis"]
    reviewed.ui.diametersCheckBox.click()
    assert lines() == []
    assert reviewed.parameters.showDiameters is False


def test_the_selection_survives_an_edit(reviewed):
    select(reviewed, 1)
    paint(reviewed, "tumor_1", (slice(4, 10), slice(8, 16), slice(10, 22)))
    wait_until(lambda: column(reviewed, "mL")[0] == f"{576 * VOXEL_ML:.2f}")
    assert reviewed.widget._reviewPanel._table.selected() == ["tumor_2"]


def test_edit_opens_the_segment_editor_inside_the_liver(reviewed, scene, monkeypatch):
    opened = []
    monkeypatch.setattr(slicer.util, "selectModule", opened.append)
    select(reviewed, 1)
    reviewed.ui.editButton.click()
    editor = scene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert opened == ["SegmentEditor"]
    assert editor.GetSegmentationNode() is reviewed.parameters.outputSegmentation
    assert editor.GetSourceVolumeNode() is reviewed.parameters.inputVolume
    assert editor.GetSelectedSegmentID() == "tumor_2"
    assert editor.GetMaskMode() == slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment
    assert editor.GetMaskSegmentID() == "liver"
    assert editor.GetOverwriteMode() == editor.OverwriteNone


def test_the_table_is_saved_as_csv(reviewed, monkeypatch, tmp_path):
    import qt

    path = tmp_path / "of the patient.csv"
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: str(path))
    select(reviewed, 1)
    reviewed.ui.rejectButton.click()
    reviewed.ui.saveTableButton.click()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["volume_ml"]) for row in rows] == pytest.approx(
        [480 * VOXEL_ML, 144 * VOXEL_ML]
    )
    assert [item.name for item in tmp_path.iterdir() if item.suffix == ".csv"] == [path.name]


def test_a_canceled_file_dialog_writes_nothing(reviewed, monkeypatch, dialogs):
    import qt

    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: "")
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *arguments: "")
    reviewed.ui.saveTableButton.click()
    reviewed.ui.saveReportButton.click()
    assert dialogs.shown == []


def test_the_report_has_the_lesions_that_count(reviewed, monkeypatch, tmp_path, dialogs):
    import json

    import qt

    folder = tmp_path / "report"
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *arguments: str(folder))
    select(reviewed, 1)
    reviewed.ui.rejectButton.click()
    reviewed.ui.saveReportButton.click()
    assert dialogs.shown == []
    report = json.loads((folder / "report.json").read_text())
    assert [lesion["volume_ml"] for lesion in report["lesions"]] == [round(480 * VOXEL_ML, 4)]
    assert report["models"]["tumor"]["name"] == "starter-tumor"
    assert report["input"] == "CT 7"
    names = {path.name for path in folder.iterdir()}
    assert {"labels.nii.gz", "segmentation.seg.nrrd", "lesions.csv", "preview.png"} <= names
    page = (folder / "report.html").read_text()
    assert "<h1>CT 7</h1>" in page
    assert "Research only, non-commercial" in page


def test_a_report_that_cannot_be_written_is_explained(reviewed, monkeypatch, tmp_path, dialogs):
    import qt

    file = tmp_path / "a file"
    file.write_text("")
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *arguments: str(file))
    reviewed.ui.saveReportButton.click()
    (text,) = dialogs.texts("error")
    assert "expected a folder to write to, found a file" in text


def test_dicom_export_says_why_it_is_not_possible(reviewed, monkeypatch):
    ui = reviewed.ui
    assert not ui.exportDicomButton.enabled
    assert "was not loaded from Slicer's DICOM database" in ui.exportDicomButton.toolTip
    opened = []

    class Exporter:
        def __init__(self, parent):
            pass

        def setMRMLScene(self, scene):  # noqa: N802
            opened.append(scene)

        def execDialog(self, item):  # noqa: N802
            opened.append(item)

    monkeypatch.setattr(slicer, "qSlicerDICOMExportDialog", Exporter, raising=False)
    reviewed.parameters.inputVolume.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    select(reviewed, 0)
    assert ui.exportDicomButton.enabled
    ui.exportDicomButton.click()
    assert opened[0] is slicer.mrmlScene


def test_the_review_goes_on_in_other_modules(reviewed):
    """The Segment Editor is another module: the table must follow what is edited there."""
    reviewed.leave()
    paint(reviewed, "tumor_1", (slice(4, 10), slice(8, 16), slice(10, 22)))
    wait_until(lambda: column(reviewed, "mL")[0] == f"{576 * VOXEL_ML:.2f}")
    reviewed.enter()
    assert column(reviewed, "mL")[0] == f"{576 * VOXEL_ML:.2f}"


@pytest.mark.parametrize("what", ["outputSegmentation", "inputVolume"])
def test_the_review_ends_with_its_nodes(reviewed, what):
    slicer.mrmlScene.RemoveNode(getattr(reviewed.parameters, what))
    settle(0.1)
    assert cells(reviewed) == []
    assert not reviewed.ui.review.enabled


def hidden(panel, title: str) -> bool:
    table = panel.ui.lesionTableWidget
    titles = [table.horizontalHeaderItem(index).text() for index in range(table.columnCount)]
    return table.isColumnHidden(titles.index(title))


def test_the_confidence_is_shown_where_the_weights_have_one(reviewed):
    from LiverTumorSegLib.recipe import LesionConfidence

    widget, parameters = reviewed.widget, reviewed.parameters
    assert hidden(reviewed, "Real")
    assert not hidden(reviewed, "P")
    tumor = widget._source.models["tumor"]
    inference = replace(tumor.recipe.inference, confidence=LesionConfidence(0.0, 1.0, 0.0))
    knowing = replace(tumor, recipe=replace(tumor.recipe, inference=inference))
    segmentation = parameters.outputSegmentation
    parameters.outputSegmentation = None
    widget._source = replace(widget._source, models={**widget._source.models, "tumor": knowing})
    parameters.outputSegmentation = segmentation
    assert not hidden(reviewed, "Real")
    assert column(reviewed, "Real") == ["0.71", "0.70"]


def test_the_review_ends_with_the_scene_also_between_an_edit_and_its_update(reviewed, scene):
    paint(reviewed, "tumor_1", (slice(4, 10), slice(8, 16), slice(10, 22)))
    scene.Clear(0)
    settle(0.2)
    assert cells(reviewed) == []
    assert not reviewed.ui.review.enabled


def test_a_loaded_segmentation_is_reviewed_without_probabilities(reviewed):
    reviewed.widget._source = None
    segmentation = reviewed.parameters.outputSegmentation
    reviewed.parameters.outputSegmentation = None
    assert cells(reviewed) == []
    reviewed.parameters.outputSegmentation = segmentation
    assert len(cells(reviewed)) == 2
    assert not reviewed.ui.thresholdSlider.enabled
    assert not reviewed.ui.segmentHereButton.enabled
    assert column(reviewed, "P") == ["-", "-"]


def test_the_place_mode_starts_and_ends_with_the_button(reviewed, app, scene):
    ui, interaction = reviewed.ui, app.applicationLogic().GetInteractionNode()
    ui.segmentHereButton.click()
    assert ui.segmentHereButton.checked
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 1
    ui.segmentHereButton.click()
    assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0
    ui.segmentHereButton.click()
    interaction.SwitchToViewTransformMode()  # Escape
    interaction.InvokeEvent(interaction.EndPlacementEvent)
    assert not ui.segmentHereButton.checked
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0


def test_a_placed_point_is_looked_for_and_its_lesion_added(reviewed, scene, monkeypatch):
    import vtk

    from LiverTumorSegGUI.run import RegionFound

    asked = []
    mask = np.zeros(SHAPE, dtype=bool)
    mask[12:14, 8:12, 30:34] = True

    class Run:
        def regionRequest(self, point, liver):  # noqa: N802
            assert liver is None, "the user did not edit it"
            asked.append(point)
            return {"do": "region"}

        def close(self):
            pass

    widget = reviewed.widget
    widget._run = Run()
    found = RegionFound(mask, 0.5, 0.8, "A lesion was found here.")
    monkeypatch.setattr(widget.logic, "readRegion", lambda run: found)
    monkeypatch.setattr(
        widget._job, "start", lambda request, progress, finished, *others: finished({})
    )
    reviewed.ui.segmentHereButton.click()
    (node,) = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
    node.AddControlPoint(vtk.vtkVector3d(64.0, 20.0, 26.0))
    node.InvokeEvent(node.PointPositionDefinedEvent)
    assert asked == []  # other observers of the point come first
    settle(0.1)
    assert asked == [(64.0, 20.0, 26.0)]
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0
    assert not reviewed.ui.segmentHereButton.checked
    assert column(reviewed, "mL")[2] == f"{32 * VOXEL_ML:.2f}"
    assert column(reviewed, "Status")[2] == "open, edited"
    assert reviewed.ui.statusLabel.text == "A lesion was found here."
