"""Between MRML and the engine: volume node -> Volume, labels -> segments, lesions -> table.

The only file that knows RAS and IJK. A volume node's array is (k, j, i), which is the engine's
(z, y, x) without moving a voxel; patient space is RAS in MRML and LPS in the engine. Everything is
read and written in the volume's own frame: the segmentation gets the volume's parent transform.
"""

from __future__ import annotations

import re
from dataclasses import fields

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry, checked_grid
from LiverTumorSegLib.measure import Lesion, Measurement
from LiverTumorSegLib.seg_nrrd import ORIGIN_TAG, Segment, segments_of
from LiverTumorSegLib.volume import Volume, clean_hu

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

LABELMAP = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
CLOSED_SURFACE = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()

OUR_ID = re.compile(r"liver|tumor_[0-9]+")

# One line a column of the lesion table, in the order of Lesion: (title, unit, description).
LESION_COLUMNS = {
    "lesion": (_("Lesion"), "", _("Number of the segment, 1 is the largest")),
    "volume_ml": (_("Volume (mL)"), "mL", _("Voxel count times voxel volume")),
    "long_axis_mm": (
        _("Long axis (mm)"),
        "mm",
        _("Longest diameter within one axial slice, between voxel centers"),
    ),
    "short_axis_mm": (
        _("Short axis (mm)"),
        "mm",
        _("Longest diameter perpendicular to the long axis, in the same slice"),
    ),
    "mean_hu": (_("Mean (HU)"), "HU", _("Mean intensity")),
    "sd_hu": (_("SD (HU)"), "HU", _("Standard deviation of the intensity")),
    "centroid_x_mm": (_("Centroid x (mm)"), "mm", _("To the patient's left, LPS")),
    "centroid_y_mm": (_("Centroid y (mm)"), "mm", _("To the patient's back, LPS")),
    "centroid_z_mm": (_("Centroid z (mm)"), "mm", _("To the patient's head, LPS")),
    "burden_percent": (_("Burden (%)"), "%", _("Share of the liver's volume, tumors included")),
}


def check_volume_node(node) -> None:
    """Raise InputError unless the node holds one CT on a right-angled grid. Reads no voxel."""
    if node is None:
        raise InputError(_("No input volume: select the CT to segment."))
    name = node.GetName()
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(
            _("'{name}' is a label map, not a CT: select the volume it was made from.").format(
                name=name
            )
        )
    if not node.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError(_("'{name}' is not a volume: select a CT.").format(name=name))
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise InputError(
            _("'{name}' holds no voxels: load the CT again or select another.").format(name=name)
        )
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            _(
                "'{name}' has {components} values a voxel (a color or multi-component image); "
                "a CT has one: select a scalar CT volume."
            ).format(name=name, components=components)
        )
    if min(image.GetDimensions()) < 2:
        raise InputError(
            _("'{name}' is a single slice; select a CT with all of its slices.").format(name=name)
        )
    _grid(node)


def volume_from_node(node) -> Volume:
    """The CT of a volume node, in its own frame: a parent transform is left out.

    Raises:
        InputError: the node cannot be segmented; the message says what to select instead.
    """
    check_volume_node(node)
    geometry, grid_repairs = _grid(node)
    hu, hu_repairs = clean_hu(slicer.util.arrayFromVolume(node).astype(np.float32))
    return Volume(hu, geometry, node.GetName(), grid_repairs + hu_repairs)


def transform_warnings(volume_node) -> tuple[str, ...]:
    """What the user must know about the numbers of a volume whose parent transform stretches it."""
    transform = volume_node.GetParentTransformNode()
    if transform is None:
        return ()
    if transform.IsTransformToWorldLinear():
        to_world = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(to_world)
        axes = slicer.util.arrayFromVTKMatrix(to_world)[:3, :3]
        if np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
            return ()
    return (
        _(
            "'{volume}' is under the transform '{transform}', which changes lengths and volumes; "
            "the numbers are those of the volume without it."
        ).format(volume=volume_node.GetName(), transform=transform.GetName()),
    )


def check_segmentation_node(segmentation_node, volume_node) -> None:
    """Raise InputError where writing the result would change what the user has in this node."""
    name = segmentation_node.GetName()
    segmentation = segmentation_node.GetSegmentation()
    if segmentation.GetSourceRepresentationName() != LABELMAP:
        raise InputError(
            _(
                "The segmentation '{name}' is made of {representation}, not of voxels: select "
                "another output segmentation, or none to create one."
            ).format(name=name, representation=segmentation.GetSourceRepresentationName())
        )
    foreign = [id_ for id_ in segmentation.GetSegmentIDs() if not _is_ours(segmentation, id_)]
    for segment_id in filter(OUR_ID.fullmatch, foreign):
        raise InputError(
            _(
                "The segmentation '{name}' already holds a segment '{segment}' (id '{id}') that "
                "this module did not make: select another output segmentation, or none to "
                "create one."
            ).format(
                name=name, segment=segmentation.GetSegment(segment_id).GetName(), id=segment_id
            )
        )
    if foreign and segmentation_node.GetTransformNodeID() != volume_node.GetTransformNodeID():
        raise InputError(
            _(
                "The segmentation '{name}' has other segments and another transform than "
                "'{volume}', so they would move: select another output segmentation, or none to "
                "create one."
            ).format(name=name, volume=volume_node.GetName())
        )


def write_segments(
    labels: np.ndarray, lesion_map: np.ndarray, volume_node, segmentation_node
) -> None:
    """Show the result as the segments `liver` (with its tumors) and `tumor_1`, `tumor_2`, ...

    Segments of an earlier run are replaced; the user's own segments stay as they are. Without a
    tumor there is no tumor segment, without a liver no liver segment.

    Args:
        labels: (z, y, x) on the volume's grid: 0 background, 1 liver, 2 tumor.
        lesion_map: integer (z, y, x), the lesion's number in each tumor voxel, 0 elsewhere.
        volume_node: the CT; its parent transform, grid and place in the tree are taken over.
        segmentation_node: where to write.

    Raises:
        InputError: see `check_segmentation_node`; nothing is changed then.
    """
    check_segmentation_node(segmentation_node, volume_node)
    segments = _segments(labels, lesion_map, volume_node)
    segmentation = segmentation_node.GetSegmentation()
    had_surface = segmentation.ContainsRepresentation(CLOSED_SURFACE)
    with slicer.util.NodeModify(segmentation_node):
        segmentation_node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
        segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
        if segmentation_node.GetDisplayNode() is None:
            segmentation_node.CreateDefaultDisplayNodes()
        for segment_id in segmentation.GetSegmentIDs():
            if _is_ours(segmentation, segment_id):
                segmentation.RemoveSegment(segment_id)
        for segment_id, segment in segments.items():
            segmentation.AddSegment(segment, segment_id)
        if had_surface and segments:
            segmentation_node.CreateClosedSurfaceRepresentation()
    place_beside(volume_node, segmentation_node)


def write_lesion_table(measurement: Measurement, table_node) -> None:
    """Fill the table: one row a lesion, one typed column a field of Lesion, with its unit."""
    with slicer.util.NodeModify(table_node):
        table_node.RemoveAllColumns()
        table_node.SetUseColumnTitleAsColumnHeader(True)
        for field in fields(Lesion):
            values = [getattr(lesion, field.name) for lesion in measurement.lesions]
            column = vtk.vtkIntArray() if field.name == "lesion" else vtk.vtkDoubleArray()
            column.SetName(field.name)
            for value in values:
                column.InsertNextValue(value)
            table_node.AddColumn(column)
            title, unit, description = LESION_COLUMNS[field.name]
            table_node.SetColumnTitle(field.name, title)
            table_node.SetColumnUnitLabel(field.name, unit)
            table_node.SetColumnDescription(field.name, description)


def check_in_scene(*nodes) -> None:
    """Raise InputError when a node (None is fine) was removed from the scene in the meantime."""
    for node in nodes:
        if node is not None and node.GetScene() is None:
            raise InputError(
                _("'{name}' was removed while the segmentation ran; nothing was written.").format(
                    name=node.GetName()
                )
            )


def add_node(node_class: str, name: str):
    """A new node in the scene under a name of its own."""
    return slicer.mrmlScene.AddNewNodeByClass(node_class, slicer.mrmlScene.GenerateUniqueName(name))


def place_beside(volume_node, node) -> None:
    """Put a node into the volume's folder of the subject hierarchy, where both have an item."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume_node.GetScene())
    volume_item, item = tree.GetItemByDataNode(volume_node), tree.GetItemByDataNode(node)
    if volume_item and item:
        tree.SetItemParent(item, tree.GetItemParent(volume_item))


def _grid(node) -> tuple[Geometry, tuple[str, ...]]:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    ijk_to_lps = RAS_LPS @ slicer.util.arrayFromVTKMatrix(matrix)
    spacing_xyz = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    return checked_grid(
        f"'{node.GetName()}'",
        node.GetImageData().GetDimensions()[::-1],
        tuple(spacing_xyz[::-1]),
        tuple(ijk_to_lps[:3, 3]),
        ijk_to_lps[:3, :3] / spacing_xyz,
    )


def _is_ours(segmentation, segment_id: str) -> bool:
    return segmentation.GetSegment(segment_id).HasTag(ORIGIN_TAG)


def _segments(labels: np.ndarray, lesion_map: np.ndarray, volume_node) -> dict:
    """Segment id -> vtkSegment. All tumors share one label map, as Slicer's own import has it."""
    liver, *tumors = segments_of(labels, lesion_map)
    segments = {}
    if liver.box is not None:
        image = _oriented_image(labels[liver.box] > 0, liver.box, volume_node)
        segments[liver.id] = _segment(liver, image, 1)
    if tumors:
        box = tuple(
            slice(min(edge.start for edge in edges), max(edge.stop for edge in edges))
            for edges in zip(*(tumor.box for tumor in tumors), strict=True)
        )
        image = _oriented_image(lesion_map[box], box, volume_node)
        for number, tumor in enumerate(tumors, start=1):
            segments[tumor.id] = _segment(tumor, image, number)
    return segments


def _segment(description: Segment, image, label_value: int):
    segment = slicer.vtkSegment()
    segment.SetName(description.name)
    segment.SetColor(*(value / 255 for value in description.rgb))
    # Otherwise a later edit of the terminology renames and recolors the segment.
    segment.SetNameAutoGenerated(False)
    segment.SetColorAutoGenerated(False)
    segment.SetTag(segment.GetTerminologyEntryTagName(), description.terminology)
    segment.SetTag(ORIGIN_TAG, "automatic")
    segment.SetLabelValue(label_value)
    segment.AddRepresentation(LABELMAP, image)
    return segment


def _oriented_image(values: np.ndarray, box: tuple[slice, ...], volume_node):
    """A label map that covers only `box` of the volume's grid."""
    small = values.astype(np.uint8 if values.max() <= 255 else np.int16)
    image = slicer.vtkOrientedImageData()
    k, j, i = box
    image.SetExtent(i.start, i.stop - 1, j.start, j.stop - 1, k.start, k.stop - 1)
    image.GetPointData().SetScalars(numpy_to_vtk(small.ravel(), deep=True))
    ijk_to_ras = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(ijk_to_ras)
    image.SetGeometryFromImageToWorldMatrix(ijk_to_ras)
    return image
