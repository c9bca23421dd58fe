"""The logic from a volume node to result nodes: with known labels, and with the embedded models."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
import vtk

import LiverTumorSeg as module
from LiverTumorSegGUI import nodes
from LiverTumorSegLib.errors import Cancelled, InputError
from LiverTumorSegLib.volume import read_volume

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "Testing" / "data" / "hcc006_arterial.nii.gz"
SHAPE = (16, 30, 36)


@pytest.fixture
def labels():
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[2:14, 4:26, 5:30] = 1
    array[4:8, 8:14, 9:17] = 2
    array[10:12, 16:20, 20:23] = 2
    return array


@pytest.fixture
def volume_node(add_ct, labels):
    hu = np.where(labels == 2, 60, np.where(labels == 1, 110, -50)).astype(np.int16)
    return add_ct(hu, name="CT 7")


@pytest.fixture
def logic(labels):
    """The real logic; only the networks are replaced, by labels that are known."""
    logic = module.LiverTumorSegLogic()
    logic.calls = []

    def known_labels(volume, liver_model, tumor_model, device, on_progress):
        logic.calls.append((liver_model, tumor_model, device))
        for stage in ("Liver", "Tumor"):
            for fraction in (0.0, 1.0):
                if on_progress:
                    on_progress(stage, fraction)
        return labels, ("a warning",)

    logic.runEngine = known_labels
    return logic


def scene_nodes():
    """Everything in the scene, and what a result would change in it."""
    scene = slicer.mrmlScene
    everything = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    return [(node.GetID(), node.GetMTime()) for node in everything]


def test_makes_a_segmentation_and_a_table_named_after_the_volume(
    logic, volume_node, labels, read_back
):
    result = logic.process(volume_node)
    assert result.segmentationNode.GetName() == "CT 7 segmentation"
    assert result.lesionTableNode.GetName() == "CT 7 lesions"
    segmentation = result.segmentationNode.GetSegmentation()
    assert list(segmentation.GetSegmentIDs()) == ["liver", "tumor_1", "tumor_2"]
    assert np.array_equal(read_back(result.segmentationNode, "liver", volume_node), labels > 0)
    assert [lesion.lesion for lesion in result.measurement.lesions] == [1, 2]
    table = result.lesionTableNode.GetTable()
    for name in ("volume_ml", "long_axis_mm", "centroid_x_mm"):
        column = table.GetColumnByName(name)
        assert [column.GetValue(row) for row in range(2)] == [
            getattr(lesion, name) for lesion in result.measurement.lesions
        ]
    assert result.warnings == ("a warning",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.warnings = ()


def test_a_second_run_without_nodes_leaves_the_first_result_alone(logic, volume_node):
    first = logic.process(volume_node)
    before = scene_nodes()
    second = logic.process(volume_node)
    assert second.segmentationNode is not first.segmentationNode
    assert second.segmentationNode.GetName() == "CT 7 segmentation_1"
    assert second.lesionTableNode.GetName() == "CT 7 lesions_1"
    assert scene_nodes()[: len(before)] == before


def test_given_nodes_are_used_again(logic, volume_node, labels):
    first = logic.process(volume_node)
    labels[10:12, 16:20, 20:23] = 1
    second = logic.process(volume_node, first.segmentationNode, first.lesionTableNode)
    assert second.segmentationNode is first.segmentationNode
    assert second.lesionTableNode is first.lesionTableNode
    ids = first.segmentationNode.GetSegmentation().GetSegmentIDs()
    assert list(ids) == ["liver", "tumor_1"]
    assert first.lesionTableNode.GetNumberOfRows() == 1


def test_results_stand_beside_the_volume_in_the_tree(logic, volume_node, add_node, scene):
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = tree.CreateStudyItem(tree.GetSceneItemID(), "2026")
    tree.CreateItem(study, volume_node)
    outputs = [add_node("vtkMRMLSegmentationNode"), add_node("vtkMRMLTableNode")]
    items = [tree.CreateItem(tree.GetSceneItemID(), node) for node in outputs]
    logic.process(volume_node, *outputs)
    assert [tree.GetItemParent(item) for item in items] == [study, study]


def test_choices_reach_the_engine_and_progress_comes_back(logic, volume_node):
    seen = []
    logic.process(
        volume_node,
        liverModel="this",
        tumorModel="that",
        device="cpu",
        onProgress=lambda stage, fraction: seen.append((stage, fraction)),
    )
    assert logic.calls == [("this", "that", "cpu")]
    assert seen == [("Liver", 0.0), ("Liver", 1.0), ("Tumor", 0.0), ("Tumor", 1.0)]


def test_warns_of_a_transform_that_stretches_and_names_repairs(logic, volume_node, add_node):
    transform = add_node("vtkMRMLLinearTransformNode", "Stretch")
    matrix = slicer.util.vtkMatrixFromArray(np.diag([1.5, 1.0, 1.0, 1.0]))
    transform.SetMatrixTransformToParent(matrix)
    volume_node.SetAndObserveTransformNodeID(transform.GetID())
    slicer.util.arrayFromVolume(volume_node)[0, 0, 0] = -3000
    repair, warning, stretch = logic.process(volume_node).warnings
    assert repair.startswith("1 voxels below -1024 HU")
    assert warning == "a warning"
    assert "'Stretch'" in stretch


@pytest.mark.parametrize("error", [Cancelled, InputError("no"), MemoryError])
def test_the_scene_is_untouched_when_the_engine_stops(logic, volume_node, error):
    first = logic.process(volume_node)

    def stop(stage, fraction):
        raise error

    before = scene_nodes()
    for nodes_given in ((), (first.segmentationNode, first.lesionTableNode)):
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            logic.process(volume_node, *nodes_given, onProgress=stop)
        assert scene_nodes() == before


def test_nothing_runs_and_nothing_changes_when_the_input_is_refused(logic, scene, volume_node):
    foreign = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Another tool's")
    foreign.GetSegmentation().AddEmptySegment("liver", "Liver")
    before = scene_nodes()
    with pytest.raises(InputError, match="No input volume"):
        logic.process(None)
    with pytest.raises(InputError, match="'Another tool's' already holds a segment 'Liver'"):
        logic.process(volume_node, foreign)
    assert logic.calls == []
    assert scene_nodes() == before


@pytest.mark.parametrize("loss", ["volume", "segmentation", "table", "scene"])
def test_nothing_is_written_when_a_node_goes_while_the_networks_run(
    logic, volume_node, add_node, scene, loss
):
    kept = {
        "volume": volume_node,
        "segmentation": add_node("vtkMRMLSegmentationNode", "Result"),
        "table": add_node("vtkMRMLTableNode", "Lesions"),
    }

    def lose(stage, fraction):
        if loss == "scene":
            scene.Clear()
        elif kept[loss].GetScene() is not None:
            scene.RemoveNode(kept[loss])

    with pytest.raises(InputError, match="was removed while the segmentation ran"):
        logic.process(*kept.values(), onProgress=lose)
    assert kept["segmentation"].GetSegmentation().GetNumberOfSegments() == 0
    assert kept["table"].GetNumberOfColumns() == 0


def test_a_failure_while_writing_takes_the_new_nodes_along(logic, volume_node, monkeypatch):
    def fail(measurement, table_node):
        raise MemoryError

    monkeypatch.setattr(nodes, "write_lesion_table", fail)
    with pytest.raises(MemoryError):
        logic.process(volume_node)
    for node_class in ("vtkMRMLSegmentationNode", "vtkMRMLTableNode"):
        assert slicer.mrmlScene.GetNumberOfNodesByClass(node_class) == 0


def test_parameter_node_belongs_to_the_scene_and_starts_with_automatic(logic, volume_node):
    parameters = logic.getParameterNode()
    assert parameters.device is module.Device.AUTO
    assert parameters.inputVolume is None
    parameters.inputVolume = volume_node
    assert logic.getParameterNode().inputVolume is volume_node


def test_describe_says_when_there_is_no_tumor(logic, volume_node, labels):
    assert module.describe(logic.process(volume_node).measurement) == (
        "Liver 11 mL. Tumors: 2, 0.4 mL, 3.3 % of the liver."
    )
    labels[labels == 2] = 1
    assert module.describe(logic.process(volume_node).measurement) == "Liver 11 mL. No tumor found."


def test_device_names_are_those_of_the_engine():
    from LiverTumorSegLib import segment

    documented = inspect.getdoc(segment.segment)
    for device in module.Device:
        assert f'"{device.value}"' in documented
        assert device.label()


def test_the_self_test_for_slicer_passes(scene):
    module.LiverTumorSegTest().runTest()
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


BLOCKED = "import sys\nfor name in {names!r}:\n    sys.modules[name] = None\n"
CHECKOUT = f"""
sys.path.insert(0, {str(Path(__file__).parent)!r})
import slicer, standins
standins.install()
sys.path[:] = [p for p in sys.path if p and p != {str(ROOT)!r}]
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
sys.path.append({str(ROOT / "LiverTumorSeg")!r})
import LiverTumorSeg
"""


def run_python(code, cwd):
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_models_for_both_targets_are_offered_for_each(monkeypatch):
    """As the panel's two lists show them; what is installed is not asked for its tensors."""
    from LiverTumorSegLib import checkpoint
    from LiverTumorSegLib.recipes import RECIPES

    listed = [
        checkpoint.ModelInfo(name, Path(name), RECIPES[name].target, RECIPES[name], {}, "", False)
        for name in ("rmau-net", "starter-liver", "starter-tumor")
    ]
    monkeypatch.setattr(checkpoint, "list_models", lambda: tuple(listed))
    assert module.installedModels("liver") == ["rmau-net", "starter-liver"]
    assert module.installedModels("tumor") == ["rmau-net", "starter-tumor"]


def test_the_panel_needs_nothing_that_apply_installs(tmp_path):
    """Slicer's own packages are enough until Apply: no PyTorch, not even requirements.txt."""
    code = (
        BLOCKED.format(names=("torch", "safetensors", "skimage", "tqdm", "pydicom", "nibabel"))
        + CHECKOUT
        + "from LiverTumorSegGUI import dependencies, nodes\n"
        "import LiverTumorSegLib\n"
        "LiverTumorSeg.installedModels('liver')\n"
        "print(LiverTumorSegLib.__file__)"
    )
    assert run_python(code, tmp_path) == [str(ROOT / "LiverTumorSegLib" / "__init__.py")]


def test_a_run_needs_only_what_slicer_has_and_apply_installs(tmp_path):
    """What pyproject.toml lists for the command line alone must not be needed in Slicer."""
    code = (
        BLOCKED.format(names=("tqdm", "PIL", "pydicom", "nibabel"))
        + CHECKOUT
        + "from LiverTumorSegLib import checkpoint, measure, networks, segment\n"
        "print('done')"
    )
    assert run_python(code, tmp_path) == ["done"]


def test_slicer_and_the_engine_read_the_same_from_a_file(scene):
    node = slicer.modules.volumes.logic().AddArchetypeVolume(str(SAMPLE), "sample")
    from_node = nodes.volume_from_node(node)
    from_file = read_volume(SAMPLE)
    assert np.array_equal(from_node.hu, from_file.hu)
    assert from_node.geometry.spacing_mm == pytest.approx(from_file.geometry.spacing_mm)
    assert from_node.geometry.index_to_lps() == pytest.approx(
        from_file.geometry.index_to_lps(), abs=1e-3
    )


@pytest.mark.slow
def test_the_embedded_models_segment_the_sample(scene, read_back):
    """On 60 mm of the sample, to be quick: the liver is cut there, and the user is told."""
    whole = slicer.modules.volumes.logic().AddArchetypeVolume(str(SAMPLE), "sample")
    ijk_to_ras = vtk.vtkMatrix4x4()
    whole.GetIJKToRASMatrix(ijk_to_ras)
    first, last = 24, 48
    matrix = slicer.util.arrayFromVTKMatrix(ijk_to_ras)
    matrix[:, 3] = matrix @ (0, 0, first, 1)
    part = slicer.util.arrayFromVolume(whole)[first:last]
    node = slicer.util.addVolumeFromArray(part, ijkToRAS=matrix, name="part")
    seen = []
    result = module.LiverTumorSegLogic().process(
        node, device="cpu", onProgress=lambda stage, fraction: seen.append((stage, fraction))
    )
    assert {stage for stage, _ in seen} == {"Liver", "Tumor"}
    for stage in ("Liver", "Tumor"):
        fractions = [fraction for name, fraction in seen if name == stage]
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1
    assert any("may be cut off" in warning for warning in result.warnings)
    assert result.measurement.liver_volume_ml > 300
    liver = read_back(result.segmentationNode, "liver", node)
    volume = nodes.volume_from_node(node)
    liver_ml = liver.sum() * volume.geometry.voxel_ml
    assert liver_ml == pytest.approx(result.measurement.liver_volume_ml)
    assert 60 < volume.hu[liver].mean() < 160  # enhanced liver, not fat, lung or bone
    for lesion in result.measurement.lesions:
        tumor = read_back(result.segmentationNode, f"tumor_{lesion.lesion}", node)
        assert not (tumor & ~liver).any()
        assert tumor.sum() * volume.geometry.voxel_ml == pytest.approx(lesion.volume_ml)
        assert volume.hu[tumor].mean() == pytest.approx(lesion.mean_hu, abs=1e-3)
    assert result.lesionTableNode.GetNumberOfRows() == len(result.measurement.lesions)
