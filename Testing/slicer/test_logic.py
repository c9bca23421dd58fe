"""The logic from a volume node to result nodes: with known labels, and with the embedded models."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
import vtk

import LiverTumorSeg as module
from LiverTumorSegGUI import nodes
from LiverTumorSegLib import protocol
from LiverTumorSegLib.errors import Cancelled, InputError, ResourceError
from LiverTumorSegLib.recipe import LesionConfidence
from LiverTumorSegLib.segmentation import Segmentation
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
        return Segmentation(labels, ("a warning",))

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


def test_a_ct_that_was_changed_meanwhile_is_told_of(logic, volume_node):
    def draw(stage, fraction):
        slicer.util.arrayFromVolume(volume_node)[8] = 40
        slicer.util.arrayFromVolumeModified(volume_node)

    warnings = logic.process(volume_node, onProgress=draw).warnings
    assert len(warnings) == 2
    assert "'CT 7' was changed since its segmentation began" in warnings[1]


@pytest.mark.parametrize("change", ["moved", "cropped", "emptied"])
def test_a_ct_that_has_another_grid_by_now_gets_no_segments(logic, volume_node, change):
    def alter(stage, fraction):
        if change == "moved":
            volume_node.SetOrigin(1, 2, 3)
        elif change == "cropped":
            slicer.util.updateVolumeFromArray(volume_node, np.zeros((4, 5, 6), np.int16))
        else:
            volume_node.SetAndObserveImageData(None)

    with pytest.raises(InputError, match="nothing was written|holds no voxels"):
        logic.process(volume_node, onProgress=alter)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_window_and_level_are_no_change(logic, volume_node):
    def look(stage, fraction):
        if volume_node.GetDisplayNode() is None:
            volume_node.CreateDefaultDisplayNodes()
        volume_node.SetName("CT, seen")
        volume_node.GetImageData().Modified()

    assert logic.process(volume_node, onProgress=look).warnings == ("a warning",)


# By way of the engine's process


@pytest.fixture
def run(logic, volume_node):
    run = logic.beginRun(volume_node, liverModel="this", tumorModel="", device="cpu", tta=True)
    yield run
    run.close()


def test_a_run_hands_the_engine_the_ct_as_it_is(run, volume_node):
    assert run.request() == {"do": "segment", "folder": str(run.folder)}
    volume, job = protocol.read_job(run.folder)
    assert np.array_equal(volume.hu, nodes.volume_from_node(volume_node).hu)
    assert volume.geometry == nodes.volume_from_node(volume_node).geometry
    assert job.name == "CT 7"
    assert job.choices == protocol.Choices("this", None, "cpu", flips=True)
    voxels = protocol.read_array(run.folder / protocol.VOLUME)
    assert voxels.dtype == slicer.util.arrayFromVolume(volume_node).dtype


def test_what_the_engine_found_is_shown_as_process_shows_it(
    logic, run, volume_node, labels, read_back
):
    probability = (labels == 2).astype(np.float16)
    segmentation = Segmentation(
        labels,
        ("a warning",),
        tumor_probability=probability,
        confidence=LesionConfidence(0.0, 1.0, 0.0),
    )
    protocol.write_result(run.folder, segmentation, "cpu")
    shown, wanted = logic.applyRun(run), logic.process(volume_node)
    assert shown.warnings == wanted.warnings
    assert shown.measurement.liver_volume_ml == wanted.measurement.liver_volume_ml
    assert np.array_equal(shown.tumorProbability, probability)
    confidences = {round(lesion.confidence, 4) for lesion in shown.measurement.lesions}
    assert confidences == {0.7311}, "1 / (1 + 1 / e)"
    assert {lesion.confidence for lesion in wanted.measurement.lesions} == {None}
    for segment in ("liver", "tumor_1", "tumor_2"):
        masks = [read_back(r.segmentationNode, segment, volume_node) for r in (shown, wanted)]
        assert np.array_equal(*masks)
    before = scene_nodes()
    slicer.mrmlScene.RemoveNode(volume_node)
    with pytest.raises(InputError, match="was removed while the segmentation ran"):
        logic.applyRun(run)
    assert len(scene_nodes()) < len(before)


def test_nothing_begins_with_what_cannot_be_segmented(logic, scene, volume_node, monkeypatch):
    foreign = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Another tool's")
    foreign.GetSegmentation().AddEmptySegment("liver", "Liver")
    with pytest.raises(InputError, match="No input volume"):
        logic.beginRun(None)
    with pytest.raises(InputError, match="already holds a segment"):
        logic.beginRun(volume_node, foreign)


def test_a_run_that_cannot_be_written_leaves_no_folder(logic, volume_node, monkeypatch, tmp_path):
    def full(*arguments):
        raise ResourceError("the disk is full")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(protocol, "write_job", full)
    with pytest.raises(ResourceError):
        logic.beginRun(volume_node)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()


def test_a_run_takes_its_folder_along(logic, volume_node):
    run = logic.beginRun(volume_node)
    run.close()
    run.close()
    assert not run.folder.exists()


@pytest.mark.parametrize("kind", [None, "linear", "grid"])
def test_a_point_in_the_world_is_one_in_the_ct(run, volume_node, add_node, kind):
    """As it is seen: under the volume's parent transform, also one that bends."""
    point = [12.0, -30.0, -400.0]
    if kind == "linear":
        transform = add_node("vtkMRMLLinearTransformNode")
        matrix = slicer.util.vtkMatrixFromArray(
            np.array(
                [
                    [0.0, -1.0, 0.0, 7.0],
                    [1.0, 0.0, 0.0, -3.0],
                    [0.0, 0.0, 1.0, 20.0],
                    [0.0, 0.0, 0.0, 1.0],
                ]
            )
        )
        transform.SetMatrixTransformToParent(matrix)
    elif kind == "grid":
        displacements = vtk.vtkImageData()
        displacements.SetDimensions(2, 2, 2)
        displacements.SetOrigin(-500, -500, -900)
        displacements.SetSpacing(1000, 1000, 1000)
        displacements.AllocateScalars(vtk.VTK_DOUBLE, 3)
        displacements.GetPointData().GetScalars().Fill(4.0)
        bend = slicer.vtkOrientedGridTransform()
        bend.SetDisplacementGridData(displacements)
        transform = add_node("vtkMRMLGridTransformNode")
        transform.SetAndObserveTransformToParent(bend)
    if kind:
        volume_node.SetAndObserveTransformNodeID(transform.GetID())
    world = [0.0, 0.0, 0.0]
    to_world = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        volume_node.GetParentTransformNode(), None, to_world
    )
    to_world.TransformPoint(point, world)
    x, y, z = run.regionRequest(world)["point_lps_mm"]
    assert (-x, -y, z) == pytest.approx(point, abs=1e-3)


def test_a_region_is_searched_in_the_liver_that_is_given(logic, run, labels, volume_node):
    request = run.regionRequest((0, 0, 0))
    assert (request["do"], request["folder"]) == ("region", str(run.folder))
    assert not (run.folder / protocol.LIVER).exists()
    run.regionRequest((0, 0, 0), liver=labels > 0)
    assert np.array_equal(protocol.read_array(run.folder / protocol.LIVER), labels > 0)
    run.regionRequest((0, 0, 0))
    assert not (run.folder / protocol.LIVER).exists()
    slicer.mrmlScene.RemoveNode(volume_node)
    with pytest.raises(InputError, match="was removed"):
        run.regionRequest((0, 0, 0))


def test_what_is_at_a_point(logic, run, labels):
    mask = np.ones((4, 6, 8), dtype=bool)
    protocol.write_found(run.folder, protocol.Found((4, 8, 9), mask, 0.3, 0.456))
    found = logic.readRegion(run)
    expected = np.zeros(SHAPE, dtype=bool)
    expected[4:8, 8:14, 9:17] = True
    assert np.array_equal(found.mask, expected)
    assert found.threshold == 0.3
    assert found.message == "A lesion was found here, with a mean tumor probability of 46 %."
    protocol.write_found(run.folder, None)
    found = logic.readRegion(run)
    assert found.mask is None
    assert found.message.startswith("No tumor found here.")


def test_parameter_node_belongs_to_the_scene_and_starts_with_automatic(logic, volume_node):
    parameters = logic.getParameterNode()
    assert parameters.device is module.Device.AUTO
    assert parameters.inputVolume is None
    parameters.inputVolume = volume_node
    assert logic.getParameterNode().inputVolume is volume_node


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
        + "from LiverTumorSegGUI import dependencies, endings, nodes, run\n"
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
