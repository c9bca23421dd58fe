"""What the panel says and enables before a run, how it is bound, and its life in the scene."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
from desktop import ROOT, settle

HERE = Path(__file__).parent


def add_ct(name="CT", shape=(40, 50, 60), spacing=(4.0, 4.0, 4.0), low=-1000, high=60):
    """A block of soft tissue in air, or whatever low and high make of it."""
    hu = np.full(shape, low, dtype=np.int16)
    hu[2:-2, 4:-4, 4:-4] = high
    return slicer.util.addVolumeFromArray(hu, np.diag([*spacing, 1.0]), name)


def test_without_a_volume_the_panel_says_what_to_do(panel):
    assert not panel.ui.applyButton.enabled
    assert panel.ui.reasonLabel.text == "No input volume: select the CT to segment."
    assert panel.ui.applyButton.toolTip == panel.ui.reasonLabel.text
    assert not panel.ui.review.enabled
    assert "Not for clinical use" in panel.ui.disclaimerLabel.text


def test_a_ct_is_selected_described_and_can_be_segmented(panel):
    volume = add_ct()
    settle()
    assert panel.parameters.inputVolume is volume
    assert panel.ui.applyButton.enabled
    assert panel.ui.inputCheckLabel.text == "CT in Hounsfield units, large enough for a liver."
    assert not panel.ui.inputDetailsLabel.isVisibleTo(panel.window)
    panel.ui.inputDetailsButton.click()
    assert panel.ui.inputDetailsLabel.isVisibleTo(panel.window)
    assert "60 x 50 x 40 voxels of 4.00 x 4.00 x 4.00 mm" in panel.ui.inputDetailsLabel.text
    assert "160 mm from foot to head" in panel.ui.inputDetailsLabel.text


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"low": 0, "high": 900}, "'CT' is not in Hounsfield units"),
        ({"low": 7, "high": 7}, "'CT' has the same value everywhere"),
        ({"shape": (1, 50, 60)}, "'CT' is a single slice"),
    ],
    ids=["MR", "constant", "slice"],
)
def test_what_is_no_ct_cannot_be_segmented(panel, what, reason):
    add_ct(**what)
    settle()
    assert not panel.ui.applyButton.enabled
    assert panel.ui.reasonLabel.text.startswith(reason)
    assert panel.ui.reasonLabel.isVisibleTo(panel.window)


def test_what_dicom_calls_something_else_is_no_ct(panel):
    volume = add_ct()
    for code, meaning, enabled in (
        ("112031", "Attenuation Coefficient", True),
        ("110852", "MR signal intensity", False),
    ):
        quantity = slicer.vtkCodedEntry()
        quantity.SetValueSchemeMeaning(code, "DCM", meaning)
        volume.SetVoxelValueQuantity(quantity)
        volume.Modified()
        assert panel.ui.applyButton.enabled is enabled
        assert meaning in panel.ui.inputDetailsLabel.text
    assert "DICOM says MR signal intensity" in panel.ui.reasonLabel.text


@pytest.mark.parametrize(
    ("what", "doubt"),
    [
        ({"spacing": (4, 4, 2)}, "Only 80 mm of the body"),
        ({"spacing": (4, 4, 8)}, "Slices 8.0 mm apart"),
        ({"spacing": (1, 1, 3)}, "Little soft tissue"),
    ],
)
def test_a_doubtful_ct_can_be_segmented_but_is_called_so(panel, what, doubt):
    add_ct(**what)
    settle()
    assert panel.ui.applyButton.enabled
    assert panel.ui.inputCheckLabel.text.startswith(doubt)


def test_a_label_map_is_not_offered(panel, scene):
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    settle()
    assert panel.ui.inputSelector.nodeCount() == 0


def test_voxels_that_come_after_the_node_are_noticed(panel, scene):
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "late")
    settle()
    assert panel.ui.reasonLabel.text.startswith("'late' holds no voxels")
    slicer.util.updateVolumeFromArray(
        volume, np.arange(-500, 500, dtype=np.int16).reshape(10, 10, 10)
    )
    assert panel.ui.applyButton.enabled


def test_choices_go_to_the_parameter_node_and_back(panel):
    ui, parameters = panel.ui, panel.parameters
    ui.deviceSelector.currentIndex = 3
    assert parameters.device.value == "cpu"
    parameters.device = type(parameters.device).CUDA
    assert ui.deviceSelector.currentText == "NVIDIA GPU (CUDA)"
    for box, name in ((ui.qualityCheckBox, "quality"), (ui.diametersCheckBox, "showDiameters")):
        before = getattr(parameters, name)
        box.checked = not before
        assert getattr(parameters, name) is not before
        setattr(parameters, name, before)
        assert box.checked is before


def test_models_are_offered_by_name_and_the_default_is_named(panel):
    selector = panel.ui.liverModelSelector
    assert selector.currentText == "Default (starter-liver)"
    assert selector.findData("starter-liver") > 0
    assert selector.findData("starter-tumor") == -1
    selector.currentIndex = selector.findData("starter-liver")
    assert panel.parameters.liverModel == "starter-liver"
    panel.parameters.liverModel = "of another computer"
    assert panel.parameters.liverModel == ""
    assert selector.currentIndex == 0


def test_the_cards_are_one_click_away(panel, dialogs):
    for button, name in (
        (panel.ui.liverCardButton, "starter-liver"),
        (panel.ui.tumorCardButton, "starter-tumor"),
    ):
        button.click()
        window = panel.widget._card
        assert window.windowTitle == f"Model {name}"
        (browser,) = [child for child in window.children() if hasattr(child, "toMarkdown")]
        assert "Not for clinical use" in browser.toPlainText()
        assert "Data and split" in browser.toPlainText()
        window.close()
    settle()
    assert dialogs.shown == []


def test_who_left_the_module_changes_nothing_by_accident(panel):
    parameters = panel.parameters
    panel.leave()
    panel.ui.deviceSelector.currentIndex = 3
    assert parameters.device.value == "auto"
    panel.enter()
    assert panel.ui.deviceSelector.currentIndex == 0
    assert panel.parameters.device.value == "auto"


def test_a_closed_scene_leaves_an_empty_panel(panel, scene):
    add_ct()
    settle()
    panel.ui.deviceSelector.currentIndex = 3
    scene.Clear(0)
    settle()
    assert panel.parameters.inputVolume is None
    assert panel.parameters.device.value == "auto"
    assert not panel.ui.applyButton.enabled
    add_ct("another")
    settle()
    assert panel.parameters.inputVolume.GetName() == "another"


def test_a_scene_that_closes_while_another_module_is_open_is_fine(panel, scene):
    add_ct()
    panel.leave()
    scene.Clear(0)
    settle()
    assert panel.parameters is None
    panel.enter()
    assert panel.ui.reasonLabel.text.startswith("No input volume")


def test_the_next_ct_gets_nodes_of_its_own(panel, scene):
    first, second = add_ct("first"), add_ct("second")
    settle()
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(first)
    panel.parameters.inputVolume = first
    panel.parameters.outputSegmentation = segmentation
    panel.ui.inputSelector.setCurrentNode(second)
    assert panel.parameters.inputVolume is second
    assert panel.parameters.outputSegmentation is None


def test_who_declines_the_installation_is_told_and_nothing_runs(panel, monkeypatch, dialogs):
    from LiverTumorSegGUI import dependencies

    def declined(path):
        assert Path(path).read_text().startswith("# What the engine needs")
        raise RuntimeError("PyTorch is needed and was not installed.")

    add_ct()
    settle()
    monkeypatch.setattr(dependencies, "ensure_dependencies", declined)
    for button in (panel.ui.applyButton, panel.ui.findDevicesButton):
        button.click()
        assert panel.ui.statusLabel.text == "PyTorch is needed and was not installed."
        assert panel.ui.applyButton.text == "Apply"
    assert dialogs.shown == []


def test_a_closed_panel_hears_nothing_of_the_scene(scene, app, complaints):
    import desktop

    import LiverTumorSeg

    panel = desktop.Panel(LiverTumorSeg)
    add_ct()
    widget = panel.widget
    panel.close()
    assert widget.Observations == []
    add_ct("later")
    scene.Clear(0)
    settle()


def test_opening_the_panel_needs_nothing_that_apply_installs():
    """PyTorch most of all: it takes seconds and hundreds of megabytes of Slicer's own process."""
    code = (
        "import sys, pathlib, tempfile\n"
        "for name in ('torch', 'safetensors', 'skimage', 'tqdm'):\n"
        "    sys.modules[name] = None\n"
        f"sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent / 'slicer')!r}]\n"
        "import desktop\n"
        "desktop.install()\n"
        "import slicer, miniscene, LiverTumorSeg\n"
        "miniscene.start()\n"
        "slicer.app = desktop.App(pathlib.Path(tempfile.mkdtemp()))\n"
        "panel = desktop.Panel(LiverTumorSeg)\n"
        "print(panel.ui.reasonLabel.text)\n"
        "panel.close()\n"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "No input volume: select the CT to segment."


def test_the_module_registers_a_sample_that_is_in_the_repository(app, monkeypatch):
    import LiverTumorSeg as module

    registered = []
    logic = types.SimpleNamespace(
        registerCustomSampleDataSource=lambda **source: registered.append(source)
    )
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    module.LiverTumorSeg(types.SimpleNamespace(path=module.__file__))
    app.slots["startupCompleted()"]()
    (source,) = registered
    file = ROOT / source["uris"].partition("/main/")[2]
    assert source["checksums"] == "SHA256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.name == source["fileNames"]


def test_the_self_test_passes(scene, app):
    import LiverTumorSeg as module

    module.LiverTumorSegTest().runTest()
