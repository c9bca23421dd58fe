"""Between MRML and the engine: volume node -> Volume, labels -> segments, lesions -> table.

With segments.py the only file that knows RAS and IJK. A volume node's array is (k, j, i), which is
the engine's (z, y, x) without moving a voxel; patient space is RAS in MRML and LPS in the engine.
Everything is read and written in the volume's own frame: the segmentation gets the volume's parent
transform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from LiverTumorSegGUI.segments import (
    ACCEPTED,
    CLOSED_SURFACE,
    LABELMAP,
    LIVER_ID,
    PENDING,
    REJECTED,
    TUMOR_ID,
    is_edited,
    is_ours,
    new_segment,
    status_of,
    write_parts,
)
from LiverTumorSegLib.components import lesion_boxes
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry, checked_grid
from LiverTumorSegLib.measure import Lesion, Measurement
from LiverTumorSegLib.part import Part
from LiverTumorSegLib.seg_nrrd import TUMOR_RGB, segments_of
from LiverTumorSegLib.volume import Volume, clean_hu

RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
STATUS_NAMES = {PENDING: _("To review"), ACCEPTED: _("Accepted"), REJECTED: _("Rejected")}

# One line a column of the lesion table: (title, unit, description).
LESION_COLUMNS = {
    "segment": (_("Segment"), "", _("Name of the segment")),
    "lesion": (_("Lesion"), "", _("Number of the lesion; at first 1 is the largest")),
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
    "mean_probability": (_("Mean probability"), "", _("Mean of the network's tumor probability")),
    "confidence": (_("Confidence"), "", _("How likely it is real, by its probability and volume")),
    "surface_distance_mm": (
        _("Distance to surface (mm)"),
        "mm",
        _("Smallest distance to the liver's outermost voxels, between voxel centers"),
    ),
    "touches_edge": (_("At scan edge"), "", _("The lesion touches the CT's edge and may be cut")),
    "feret_mm": (
        _("Feret diameter (mm)"),
        "mm",
        _("Longest diameter in any direction, between voxel centers"),
    ),
    "equivalent_sphere_mm": (
        _("Equivalent sphere (mm)"),
        "mm",
        _("Diameter of the ball of the same volume"),
    ),
    "surface_mm2": (_("Surface (mm2)"), "mm2", _("Area of the surface by Crofton's formula")),
    "sphericity": (
        _("Sphericity"),
        "",
        _("Surface of the ball of the same volume / surface: 1 for a ball"),
    ),
    "p5_hu": (_("5th percentile (HU)"), "HU", _("5 % of the voxels are below")),
    "median_hu": (_("Median (HU)"), "HU", _("Half of the voxels are below")),
    "p95_hu": (_("95th percentile (HU)"), "HU", _("5 % of the voxels are above")),
    "volume_uncertainty_percent": (
        _("Uncertainty of volume (%)"),
        "%",
        _("By counting voxels, of which thick slices have few; that of the outline comes on top"),
    ),
    "couinaud": (_("Couinaud"), "", _("Share of the lesion in each given liver segment")),
    "status": (_("Status"), "", _("What the review decided")),
}


@dataclass(frozen=True)
class Row:
    """One lesion of the table.

    segment_id, name, rgb - Its segment; the color's channels are from 0 to 1.
    status - PENDING, ACCEPTED or REJECTED.
    edited - Whether the user changed or made it, by hand or in the review.
    lesion - Its numbers.
    """

    segment_id: str
    name: str
    rgb: tuple[float, float, float]
    status: str
    edited: bool
    lesion: Lesion


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
    grid_of(node)


def volume_from_node(node) -> Volume:
    """The CT of a volume node, in its own frame: a parent transform is left out.

    Raises:
        InputError: the node cannot be segmented; the message says what to select instead.
    """
    check_volume_node(node)
    geometry, grid_repairs = grid_of(node)
    hu, hu_repairs = clean_hu(slicer.util.arrayFromVolume(node).astype(np.float32))
    return Volume(hu, geometry, node.GetName(), grid_repairs + hu_repairs)


def grid_of(node) -> tuple[Geometry, tuple[str, ...]]:
    """The grid of a volume node in its own frame, and what had to be mended.

    Raises:
        InputError: its axes are no right angles.
    """
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


def point_in_volume(volume_node, world_ras) -> tuple[float, float, float]:
    """LPS mm, in the volume's own frame, of a point in world coordinates."""
    inverse = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        None, volume_node.GetParentTransformNode(), inverse
    )
    x, y, z = RAS_LPS[:3, :3] @ inverse.TransformPoint(world_ras)
    return float(x), float(y), float(z)


def volume_in_place(node) -> Volume:
    """The CT of a volume node without a copy, to measure a lesion in; not cleaned as a whole."""
    return Volume(slicer.util.arrayFromVolume(node), grid_of(node)[0], node.GetName())


def ras_of(place_lps: Sequence[float]) -> tuple[float, float, float]:
    """A point of patient space in the coordinates of MRML."""
    x, y, z = place_lps
    return -x, -y, z


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
    segment_ids = segmentation.GetSegmentIDs()
    foreign = [id_ for id_ in segment_ids if not is_ours(segmentation.GetSegment(id_))]
    for segment_id in foreign:
        if segment_id != LIVER_ID and not TUMOR_ID.fullmatch(segment_id):
            continue
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


def edited_segments(segmentation_node) -> list[str]:
    """Names of the segments that a new run would replace although the user worked on them.

    Edited by hand, made in the review, accepted or rejected: ask before running again.
    """
    segmentation = segmentation_node.GetSegmentation()
    segments = [segmentation.GetSegment(id_) for id_ in segmentation.GetSegmentIDs()]
    return [
        segment.GetName()
        for segment in segments
        if is_ours(segment) and (is_edited(segment) or status_of(segment) != PENDING)
    ]


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
    liver, *tumors = segments_of(labels, lesion_map)
    segmentation = segmentation_node.GetSegmentation()
    had_surface = segmentation.ContainsRepresentation(CLOSED_SURFACE)
    with slicer.util.NodeModify(segmentation_node):
        segmentation_node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
        segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
        if segmentation_node.GetDisplayNode() is None:
            segmentation_node.CreateDefaultDisplayNodes()
        for segment_id in segmentation.GetSegmentIDs():
            if is_ours(segmentation.GetSegment(segment_id)):
                segmentation.RemoveSegment(segment_id)
        shown = [] if liver.box is None else [liver, *tumors]
        new = {description.id: new_segment(description) for description in shown}
        numbered = enumerate(lesion_boxes(lesion_map), start=1)
        if shown:
            part = Part(liver.box, labels[liver.box] > 0)
            write_parts({liver.id: part}, segmentation_node, volume_node, new)
        write_parts(
            {f"tumor_{n}": Part(box, lesion_map[box] == n) for n, box in numbered},
            segmentation_node,
            volume_node,
            new,
        )
        if had_surface and shown:
            segmentation_node.CreateClosedSurfaceRepresentation()
    place_beside(volume_node, segmentation_node)


def write_lesion_table(measurement: Measurement, table_node) -> None:
    """Fill the table with a run's lesions, all still to review."""
    rgb = tuple(value / 255 for value in TUMOR_RGB)
    write_rows(
        [
            Row(f"tumor_{n}", _("Tumor {number}").format(number=n), rgb, PENDING, False, lesion)
            for n, lesion in enumerate(measurement.lesions, start=1)
        ],
        table_node,
    )


def write_rows(rows: Sequence[Row], table_node) -> None:
    """Fill the table: one row a lesion, one typed column a number, with its unit.

    A number that a lesion lacks is NaN; a column that no lesion has a number for is left out.
    """
    with slicer.util.NodeModify(table_node):
        table_node.RemoveAllColumns()
        table_node.SetUseColumnTitleAsColumnHeader(True)
        for name, (title, unit, description) in LESION_COLUMNS.items():
            values = [_cell(row, name) for row in rows]
            if rows and all(value is None for value in values):
                continue
            column = _COLUMN_ARRAYS.get(name, vtk.vtkDoubleArray)()
            column.SetName(name)
            for value in values:
                column.InsertNextValue(math.nan if value is None else value)
            table_node.AddColumn(column)
            table_node.SetColumnTitle(name, title)
            table_node.SetColumnUnitLabel(name, unit)
            table_node.SetColumnDescription(name, description)


_COLUMN_ARRAYS = {
    "segment": vtk.vtkStringArray,
    "lesion": vtk.vtkIntArray,
    "touches_edge": vtk.vtkStringArray,
    "couinaud": vtk.vtkStringArray,
    "status": vtk.vtkStringArray,
}


def _cell(row: Row, column: str):
    if column == "segment":
        return row.name
    if column == "status":
        return STATUS_NAMES[row.status]
    if column == "touches_edge":
        return _("yes") if row.lesion.touches_edge else _("no")
    return getattr(row.lesion, column)


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


def export_prerequisites(volume_node, segmentation_node) -> tuple[str, ...]:
    """Reasons why Slicer's DICOM exporter cannot write the segmentation as DICOM SEG; none: it can.

    The exporter (extension Quantitative Reporting) refers to the slices of the CT's series, so the
    CT must come from Slicer's DICOM database and its grid must be the segmentation's. The rest of
    what it needs, `write_segments` leaves behind: reference geometry, terminology, place in the
    tree.
    """
    reasons = []
    if volume_node.GetAttribute("DICOM.instanceUIDs") is None:
        reasons.append(
            _(
                "'{volume}' was not loaded from Slicer's DICOM database: import the DICOM series "
                "in the module DICOM, load it from there and segment that."
            ).format(volume=volume_node.GetName())
        )
    if volume_node.GetTransformNodeID() or segmentation_node.GetTransformNodeID():
        reasons.append(
            _(
                "The CT or the segmentation is under a transform, which DICOM SEG cannot hold: "
                "take both out of it in the module Transforms."
            )
        )
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    if segmentation_node.GetNodeReference(role) is not volume_node:
        reasons.append(
            _(
                "'{segmentation}' does not belong to '{volume}': select the CT it was made from."
            ).format(segmentation=segmentation_node.GetName(), volume=volume_node.GetName())
        )
    segmentation = segmentation_node.GetSegmentation()
    if segmentation.GetNumberOfSegments() == 0:
        reasons.append(_("There is no segment to export."))
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        if not segment.HasTag(slicer.vtkSegment.GetTerminologyEntryTagName()):
            reasons.append(
                _(
                    "The segment '{segment}' has no terminology: set it in the Segment Editor by a "
                    "double click on its color."
                ).format(segment=segment.GetName())
            )
    return tuple(reasons)


def place_beside(volume_node, node) -> None:
    """Put a node into the volume's folder of the subject hierarchy, where both have an item."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume_node.GetScene())
    volume_item, item = tree.GetItemByDataNode(volume_node), tree.GetItemByDataNode(node)
    if volume_item and item:
        tree.SetItemParent(item, tree.GetItemParent(volume_item))
