"""Volume node in, segments and lesion table out, on real MRML with hand-made labels."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from grids import (
    DIRECTIONS,
    OBLIQUE,
    TRANSFORMS,
    grid_transform,
    ijk_to_ras,
    rigid_transform,
    rotation,
    stretching_transform,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from LiverTumorSegGUI import nodes
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.measure import COLUMNS, Lesion, Measurement, measure
from LiverTumorSegLib.seg_nrrd import ORIGIN_TAG

SHAPE = (20, 40, 48)


@pytest.fixture(scope="module")
def ct():
    """int16 HU, no two voxels of a row alike."""
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


@pytest.fixture(scope="module")
def labels():
    """A liver with three tumors of 200, 27 and 1 voxels, far from symmetric; one at the border."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[3:15, 6:30, 8:41] = 1
    array[12:15, 20:30, 30:41] = 0
    array[5:10, 10:18, 12:17] = 2
    array[10:13, 22:25, 20:23] = 2
    array[19, 39, 47] = 2
    return array


@pytest.fixture
def segmentation(add_node):
    return add_node("vtkMRMLSegmentationNode", "Result")


def write(labels, volume_node, segmentation_node):
    """The bridge as the logic uses it; returns the measurement and the lesion map."""
    measurement, lesion_map = measure(nodes.volume_from_node(volume_node), labels)
    nodes.write_segments(labels, lesion_map, volume_node, segmentation_node)
    return measurement, lesion_map


def segment_ids(segmentation_node):
    return list(segmentation_node.GetSegmentation().GetSegmentIDs())


def text_tag(segment, name):
    value = vtk.reference("")
    assert segment.GetTag(name, value)
    return str(value)


# ---- volume node -> Volume


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_geometry_maps_every_index_to_the_point_slicer_has_there(add_ct, ct, direction):
    node = add_ct(ct, direction)
    volume = nodes.volume_from_node(node)
    assert volume.geometry.shape == SHAPE
    assert volume.geometry.spacing_mm == pytest.approx((3.0, 0.7, 0.8))
    k, j, i = 4, 11, 33
    ras = (ijk_to_ras(direction) @ (i, j, k, 1))[:3]
    assert volume.geometry.lps_of(np.array([k, j, i])) == pytest.approx(ras * (-1, -1, 1))
    assert volume.hu[k, j, i] == ct[k, j, i]


def test_volume_has_float_hu_of_its_own_and_the_name(add_ct, ct):
    node = add_ct(ct, name="CT of today")
    volume = nodes.volume_from_node(node)
    assert volume.hu.dtype == np.float32
    assert volume.name == "CT of today"
    volume.hu[:] = 0
    assert np.array_equal(slicer.util.arrayFromVolume(node), ct)


def test_a_float_volume_is_copied_too(add_ct, ct):
    node = add_ct(ct.astype(np.float32))
    nodes.volume_from_node(node).hu[:] = 0
    assert np.array_equal(slicer.util.arrayFromVolume(node), ct)


def test_refuses_no_node():
    with pytest.raises(InputError, match="No input volume: select the CT"):
        nodes.volume_from_node(None)


def test_refuses_a_node_that_is_no_volume(add_node):
    with pytest.raises(InputError, match="'Notes' is not a volume: select a CT"):
        nodes.volume_from_node(add_node("vtkMRMLTextNode", "Notes"))


def test_refuses_a_volume_without_voxels(add_node):
    with pytest.raises(InputError, match="'Empty' holds no voxels: load the CT again"):
        nodes.volume_from_node(add_node("vtkMRMLScalarVolumeNode", "Empty"))


def test_refuses_a_label_map(scene, labels):
    node = slicer.util.addVolumeFromArray(
        labels, name="Mask", nodeClassName="vtkMRMLLabelMapVolumeNode"
    )
    with pytest.raises(InputError, match="'Mask' is a label map, not a CT: select"):
        nodes.volume_from_node(node)


@pytest.mark.parametrize("node_class", ["vtkMRMLVectorVolumeNode", "vtkMRMLScalarVolumeNode"])
def test_refuses_a_color_volume(add_node, node_class):
    image = vtk.vtkImageData()
    image.SetDimensions(4, 5, 6)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node = add_node(node_class, "Photo")
    node.SetAndObserveImageData(image)
    with pytest.raises(InputError, match="'Photo' has 3 values a voxel.*select a scalar CT"):
        nodes.volume_from_node(node)


def test_refuses_a_single_slice(add_ct, ct):
    with pytest.raises(InputError, match="'Scout' is a single slice; select a CT"):
        nodes.volume_from_node(add_ct(ct[:1], name="Scout"))


def test_refuses_a_sheared_grid(add_ct, ct):
    sheared = OBLIQUE.copy()
    sheared[:, 1] += 0.05 * sheared[:, 0]
    with pytest.raises(InputError, match="'Tilted': expected voxel axes .* at right angles"):
        nodes.volume_from_node(add_ct(ct, sheared, name="Tilted"))


def test_repairs_are_named(add_ct):
    rounded = np.round(OBLIQUE, 3)
    array = np.zeros(SHAPE, dtype=np.float32)
    array[0, 0, 0:3] = (np.nan, np.inf, -3000)
    volume = nodes.volume_from_node(add_ct(array, rounded))
    assert volume.hu[0, 0, 0:3].tolist() == [-1024, -1024, -1024]
    assert [repair.split(":")[0] for repair in volume.repairs] == [
        "voxel axes were 0.06% off a right angle",
        "2 voxels NaN or infinite",
        "1 voxels below -1024 HU",
    ]


# ---- labels -> segments


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_segments_hold_exactly_the_voxels_of_the_labels(
    add_ct, ct, labels, segmentation, read_back, direction
):
    node = add_ct(ct, direction)
    _, lesion_map = write(labels, node, segmentation)
    assert segment_ids(segmentation) == ["liver", "tumor_1", "tumor_2", "tumor_3"]
    assert np.array_equal(read_back(segmentation, "liver", node), labels > 0)
    for number in (1, 2, 3):
        mask = read_back(segmentation, f"tumor_{number}", node)
        assert np.array_equal(mask, lesion_map == number)
        assert mask.sum() == {1: 200, 2: 27, 3: 1}[number]


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_segments_lie_where_the_table_says(add_ct, ct, labels, segmentation, direction):
    node = add_ct(ct, direction)
    measurement, _ = write(labels, node, segmentation)
    assert len(measurement.lesions) == 3
    for lesion in measurement.lesions:
        centroid_lps = (lesion.centroid_x_mm, lesion.centroid_y_mm, lesion.centroid_z_mm)
        centroid_ras = slicers_centroid(segmentation, f"tumor_{lesion.lesion}")
        assert np.array(centroid_ras) * (-1, -1, 1) == pytest.approx(centroid_lps, abs=1e-3)


def slicers_centroid(segmentation_node, segment_id):
    """RAS, in the segmentation's frame, from the filter behind Slicer's Segment Statistics."""
    labelmap = slicer.vtkOrientedImageData()
    segmentation_node.GetBinaryLabelmapRepresentation(segment_id, labelmap)
    directions = vtk.vtkMatrix4x4()
    labelmap.GetDirectionMatrix(directions)
    statistics = slicer.vtkITKLabelShapeStatistics()
    statistics.SetInputData(labelmap)
    statistics.SetDirections(directions)
    statistics.SetComputeShapeStatistic("Centroid", True)
    statistics.Update()
    table = statistics.GetOutput()
    assert table.GetNumberOfRows() == 1
    return table.GetColumnByName("Centroid").GetTuple(0)


@pytest.mark.parametrize("make_transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_transformed_volume_gets_its_segments_in_place(
    add_ct, add_node, ct, labels, segmentation, read_back, make_transform
):
    node = add_ct(ct)
    transform = make_transform(add_node)
    node.SetAndObserveTransformNodeID(transform.GetID())
    _, lesion_map = write(labels, node, segmentation)
    assert segmentation.GetParentTransformNode() is transform
    # Through the transforms of both nodes: equal masks here mean the same place in the world.
    assert np.array_equal(read_back(segmentation, "liver", node), labels > 0)
    for number in (1, 2, 3):
        mask = read_back(segmentation, f"tumor_{number}", node)
        assert np.array_equal(mask, lesion_map == number)


def test_a_transformed_volume_reads_back_wrong_without_the_transform(
    add_ct, add_node, ct, labels, segmentation, read_back
):
    """The check above can fail: without the parent transform the masks differ."""
    node = add_ct(ct)
    write(labels, node, segmentation)
    node.SetAndObserveTransformNodeID(rigid_transform(add_node).GetID())
    assert not np.array_equal(read_back(segmentation, "liver", node), labels > 0)


def test_only_a_stretching_transform_is_warned_of(add_ct, add_node, ct):
    node = add_ct(ct)
    assert nodes.transform_warnings(node) == ()
    node.SetAndObserveTransformNodeID(rigid_transform(add_node).GetID())
    assert nodes.transform_warnings(node) == ()
    for make_transform in (stretching_transform, grid_transform):
        transform = make_transform(add_node)
        node.SetAndObserveTransformNodeID(transform.GetID())
        (warning,) = nodes.transform_warnings(node)
        assert f"'CT' is under the transform '{transform.GetName()}'" in warning


def test_names_colors_and_terminology(add_ct, ct, labels, segmentation):
    write(labels, add_ct(ct), segmentation)
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    expected = {
        "liver": ("Liver", (221, 130, 101), "123037004", "10200004", None),
        "tumor_1": ("Tumor 1", (230, 159, 0), "49755003", "4147007", "10200004"),
        "tumor_3": ("Tumor 3", (230, 159, 0), "49755003", "4147007", "10200004"),
    }
    for segment_id, (name, rgb, category, kind, region) in expected.items():
        segment = segmentation.GetSegmentation().GetSegment(segment_id)
        assert segment.GetName() == name
        assert np.array(segment.GetColor()) * 255 == pytest.approx(rgb)
        assert not segment.GetNameAutoGenerated()
        assert not segment.GetColorAutoGenerated()
        serialized = text_tag(segment, slicer.vtkSegment.GetTerminologyEntryTagName())
        entry = slicer.vtkSlicerTerminologyEntry()
        assert logic.DeserializeTerminologyEntry(serialized, entry)
        assert logic.SerializeTerminologyEntry(entry) == serialized
        assert entry.GetCategoryObject().GetCodeValue() == category
        assert entry.GetTypeObject().GetCodeValue() == kind
        assert entry.GetTypeObject().GetCodingSchemeDesignator() == "SCT"
        assert entry.GetRegionObject().GetCodeValue() == region


def test_reference_geometry_display_and_place(add_ct, ct, labels, segmentation, scene):
    node = add_ct(ct)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "A"), "2026")
    tree.CreateItem(study, node)
    item = tree.CreateItem(tree.GetSceneItemID(), segmentation)
    write(labels, node, segmentation)
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    assert segmentation.GetNodeReference(role) is node
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    geometry = segmentation.GetSegmentation().GetConversionParameter(parameter)
    assert geometry.endswith("0;47;0;39;0;19;")  # the volume's whole extent, i before j before k
    assert segmentation.GetDisplayNode() is not None
    assert tree.GetItemParent(item) == study


def test_nodes_without_a_place_in_the_tree_are_left_alone(add_ct, ct, labels, segmentation, scene):
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    node = add_ct(ct)
    assert tree.GetItemByDataNode(node) == tree.GetItemByDataNode(segmentation) == 0
    write(labels, node, segmentation)
    assert tree.GetItemByDataNode(segmentation) == 0


def test_two_layers_hold_any_number_of_tumors(add_ct, ct, labels, segmentation):
    """A label map a tumor would multiply memory and file size."""
    write(labels, add_ct(ct), segmentation)
    assert segmentation.GetSegmentation().GetNumberOfLayers() == 2


def test_three_hundred_lesions_keep_their_numbers(add_ct, segmentation, read_back):
    labels = np.zeros((20, 40, 48), dtype=np.uint8)
    labels[::2, ::4, ::4] = 2
    node = add_ct(np.zeros(labels.shape, dtype=np.int16))
    _, lesion_map = write(labels, node, segmentation)
    assert lesion_map.max() == 10 * 10 * 12
    for number in (1, 255, 256, 1200):
        assert np.array_equal(
            read_back(segmentation, f"tumor_{number}", node), lesion_map == number
        )


def test_no_tumor_gives_a_liver_only_and_no_liver_nothing(add_ct, ct, segmentation, read_back):
    node = add_ct(ct)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    write(labels, node, segmentation)
    assert segment_ids(segmentation) == []
    labels[2:5, 3:6, 4:7] = 1
    write(labels, node, segmentation)
    assert segment_ids(segmentation) == ["liver"]
    assert np.array_equal(read_back(segmentation, "liver", node), labels == 1)


def test_a_new_run_replaces_ours_and_keeps_the_users_segment(
    add_ct, ct, labels, segmentation, read_back
):
    node = add_ct(ct)
    write(labels, node, segmentation)
    # As the Segment Editor does it: the new segment shares the liver's layer.
    mine = segmentation.GetSegmentation().AddEmptySegment("mine", "Gallbladder", [0.1, 0.9, 0.2])
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[0:4, 2:9, 3:12] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, mine, node)
    fewer = labels.copy()
    fewer[5:10, 10:18, 12:17] = 1
    fewer[19, 39, 47] = 0
    write(fewer, node, segmentation)
    assert sorted(segment_ids(segmentation)) == ["liver", "mine", "tumor_1"]
    assert np.array_equal(read_back(segmentation, "mine", node), mask == 1)
    assert segmentation.GetSegmentation().GetSegment("mine").GetName() == "Gallbladder"
    assert np.array_equal(read_back(segmentation, "liver", node), fewer > 0)
    assert np.array_equal(read_back(segmentation, "tumor_1", node), fewer == 2)


def test_a_3d_surface_shown_before_follows_the_new_run(add_ct, ct, labels, segmentation):
    node = add_ct(ct)
    write(labels, node, segmentation)
    segmentation.CreateClosedSurfaceRepresentation()
    fewer = np.where(labels == 2, 1, labels).astype(np.uint8)
    fewer[19, 39, 47] = 0
    write(fewer, node, segmentation)
    surface = vtk.vtkPolyData()
    segmentation.GetClosedSurfaceRepresentation("liver", surface)
    assert surface.GetNumberOfPoints() > 100


def refuses_untouched(labels, node, segmentation, message):
    before = segment_ids(segmentation), segmentation.GetTransformNodeID()
    with pytest.raises(InputError, match=message):
        write(labels, node, segmentation)
    assert (segment_ids(segmentation), segmentation.GetTransformNodeID()) == before


def test_refuses_a_segment_of_the_same_id_that_another_tool_made(add_ct, ct, labels, segmentation):
    segmentation.GetSegmentation().AddEmptySegment("liver", "Leber")
    refuses_untouched(
        labels, add_ct(ct), segmentation, r"'Result' already holds a segment 'Leber' \(id 'liver'\)"
    )


def test_refuses_to_move_the_users_segments(add_ct, add_node, ct, labels, segmentation):
    segmentation.GetSegmentation().AddEmptySegment("mine", "Mine")
    node = add_ct(ct)
    node.SetAndObserveTransformNodeID(rigid_transform(add_node).GetID())
    refuses_untouched(labels, node, segmentation, "another transform than 'CT'")


def test_refuses_a_segmentation_made_of_surfaces(add_ct, ct, labels, segmentation):
    segmentation.GetSegmentation().SetSourceRepresentationName(nodes.CLOSED_SURFACE)
    refuses_untouched(labels, add_ct(ct), segmentation, "made of Closed surface, not of voxels")


def test_seg_nrrd_of_the_node_reloads_exactly(
    add_ct, add_node, ct, labels, segmentation, read_back, tmp_path
):
    node = add_ct(ct, DIRECTIONS["oblique left-handed"])
    _, lesion_map = write(labels, node, segmentation)
    storage = add_node("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "result.seg.nrrd"))
    assert storage.WriteData(segmentation)
    logic = slicer.modules.segmentations.logic()
    loaded = logic.LoadSegmentationFromFile(str(tmp_path / "result.seg.nrrd"), True, "loaded")
    assert segment_ids(loaded) == segment_ids(segmentation)
    for segment_id in segment_ids(segmentation):
        expected = (
            labels > 0 if segment_id == "liver" else lesion_map == int(segment_id.split("_")[1])
        )
        assert np.array_equal(read_back(loaded, segment_id, node), expected)
        old = segmentation.GetSegmentation().GetSegment(segment_id)
        new = loaded.GetSegmentation().GetSegment(segment_id)
        assert new.GetName() == old.GetName()
        assert new.GetColor() == pytest.approx(old.GetColor(), abs=1e-6)
        for tag in (slicer.vtkSegment.GetTerminologyEntryTagName(), ORIGIN_TAG):
            assert text_tag(new, tag) == text_tag(old, tag)
    # A result loaded from disk is still ours: a new run may replace it.
    write(np.where(labels == 2, 1, labels).astype(np.uint8), node, loaded)
    assert segment_ids(loaded) == ["liver"]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_labels_on_any_grid_read_back_exactly(scene, read_back, data):
    shape = tuple(data.draw(st.integers(2, 9)) for _ in range(3))
    angles = [data.draw(st.floats(-180, 180)) for _ in range(3)]
    signs = [data.draw(st.sampled_from([-1.0, 1.0])) for _ in range(3)]
    spacing = [data.draw(st.floats(0.3, 5)) for _ in range(3)]
    direction = rotation(0, angles[0]) @ rotation(1, angles[1]) @ rotation(2, angles[2])
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    labels = generator.choice(3, size=shape, p=[0.8, 0.1, 0.1]).astype(np.uint8)
    node = slicer.util.addVolumeFromArray(
        np.zeros(shape, dtype=np.int16),
        ijkToRAS=ijk_to_ras(direction * signs, spacing=spacing),
    )
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    measurement, lesion_map = write(labels, node, segmentation)
    assert len(segment_ids(segmentation)) == bool(labels.any()) + len(measurement.lesions)
    for segment_id in segment_ids(segmentation):
        expected = (
            labels > 0 if segment_id == "liver" else lesion_map == int(segment_id.split("_")[1])
        )
        assert np.array_equal(read_back(segmentation, segment_id, node), expected)
    scene.Clear()


# ---- lesions -> table

LESIONS = (
    Lesion(
        *(1, 12.5, 40.25, 20.0, 61.5, 12.0, -30.5, 12.25, -401.0, 8.5, 0.75, 0.9, 0.0, True),
        *(44.0, 28.75, 2600.5, 0.5, 20.0, 60.5, 90.0, 1.25, "VIII 100 %"),
        long_axis_ends_mm=((0.0, 0.0, 0.0), (40.25, 0.0, 0.0)),
        short_axis_ends_mm=((10.0, 0.0, 0.0), (10.0, 20.0, 0.0)),
    ),
    Lesion(
        *(2, 0.5, 9.0, 7.5, 55.0, 9.25, 10.0, -3.5, -380.75, 0.25, 0.5, 0.4, None, False),
        *(9.5, 9.75, 310.0, 0.75, 30.0, 55.5, 70.0, 4.5, "II 75 %, III 25 %"),
        long_axis_ends_mm=((0.0, 0.0, 0.0), (9.0, 0.0, 0.0)),
        short_axis_ends_mm=((1.0, 0.0, 0.0), (1.0, 7.5, 0.0)),
    ),
)


STRINGS = {
    "segment": ["Tumor 1", "Tumor 2"],
    "touches_edge": ["yes", "no"],
    "couinaud": ["VIII 100 %", "II 75 %, III 25 %"],
}
COLUMN_NAMES = ["segment", *COLUMNS, "status"]


def test_table_has_a_typed_column_with_unit_for_every_number(add_node):
    table_node = add_node("vtkMRMLTableNode", "Lesions")
    nodes.write_lesion_table(Measurement(147.0, 13.0, 8.75, LESIONS), table_node)
    assert table_node.GetNumberOfRows() == 2
    columns = [table_node.GetColumnName(index) for index in range(table_node.GetNumberOfColumns())]
    assert columns == COLUMN_NAMES
    units = {"ml": "mL", "mm": "mm", "mm2": "mm2", "hu": "HU", "percent": "%"}
    for name in columns:
        assert table_node.GetColumnUnitLabel(name) == units.get(name.split("_")[-1], "")
        assert table_node.GetColumnDescription(name)
        assert table_node.GetColumnTitle(name)
        array = table_node.GetTable().GetColumnByName(name)
        values = [array.GetValue(row) for row in range(2)]
        if name == "status":
            assert values == ["To review", "To review"]
        elif name in STRINGS:
            assert values == STRINGS[name]
        else:
            assert array.GetClassName() == ("vtkIntArray" if name == "lesion" else "vtkDoubleArray")
            expected = [math.nan if x is None else x for x in (getattr(x, name) for x in LESIONS)]
            assert values == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("lacking", ["mean_probability", "confidence", "couinaud"])
def test_a_column_without_any_number_is_left_out(add_node, lacking):
    table_node = add_node("vtkMRMLTableNode", "Lesions")
    without = tuple(replace(lesion, **{lacking: None}) for lesion in LESIONS)
    nodes.write_lesion_table(Measurement(147.0, 13.0, 8.75, without), table_node)
    columns = [table_node.GetColumnName(index) for index in range(table_node.GetNumberOfColumns())]
    assert columns == [name for name in COLUMN_NAMES if name != lacking]


def test_table_is_reused_and_may_be_empty(add_node, tmp_path):
    table_node = add_node("vtkMRMLTableNode", "Lesions")
    nodes.write_lesion_table(Measurement(147.0, 13.0, 8.75, LESIONS), table_node)
    nodes.write_lesion_table(Measurement(147.0, 0.0, 0.0, ()), table_node)
    assert table_node.GetNumberOfColumns() == len(COLUMN_NAMES)
    assert table_node.GetNumberOfRows() == 0
    nodes.write_lesion_table(Measurement(147.0, 12.5, 8.5, LESIONS[:1]), table_node)
    storage = add_node("vtkMRMLTableStorageNode")
    storage.SetFileName(str(tmp_path / "lesions.csv"))
    assert storage.WriteData(table_node)
    header, row = csv.reader((tmp_path / "lesions.csv").read_text().splitlines())
    assert header == COLUMN_NAMES
    cells = dict(zip(header, row, strict=True))
    texts = {name: cells.pop(name) for name in [*STRINGS, "status"]}
    assert texts == {name: values[0] for name, values in STRINGS.items()} | {"status": "To review"}
    assert {name: float(text) for name, text in cells.items()} == {
        name: getattr(LESIONS[0], name) for name in cells
    }


# ---- DICOM SEG


@pytest.fixture
def exportable(add_ct, ct, labels, segmentation):
    """A result on a CT as Slicer's DICOM module loads it."""
    node = add_ct(ct)
    node.SetAttribute("DICOM.instanceUIDs", "1.2.3.1 1.2.3.2")
    write(labels, node, segmentation)
    return node


def test_a_result_on_a_ct_from_the_dicom_database_can_be_exported(exportable, segmentation):
    assert nodes.export_prerequisites(exportable, segmentation) == ()


def test_what_stands_against_the_export_is_said(exportable, segmentation, add_ct, add_node, ct):
    segmentation.GetSegmentation().AddEmptySegment("mine", "Mine")
    segmentation.GetSegmentation().GetSegment("mine").RemoveTag(
        slicer.vtkSegment.GetTerminologyEntryTagName()
    )
    exportable.RemoveAttribute("DICOM.instanceUIDs")
    segmentation.SetAndObserveTransformNodeID(rigid_transform(add_node).GetID())
    from_file, transform, terminology = nodes.export_prerequisites(exportable, segmentation)
    assert "'CT' was not loaded from Slicer's DICOM database" in from_file
    assert "under a transform, which DICOM SEG cannot hold" in transform
    assert "'Mine' has no terminology" in terminology
    other = add_ct(ct, name="Other")
    assert any(
        "does not belong to 'Other'" in x for x in nodes.export_prerequisites(other, segmentation)
    )
    segmentation.GetSegmentation().RemoveAllSegments()
    assert "There is no segment to export." in nodes.export_prerequisites(exportable, segmentation)
