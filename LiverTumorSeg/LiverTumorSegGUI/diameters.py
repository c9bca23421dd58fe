"""Long axes of lesions as locked lines in the slice views."""

from __future__ import annotations

from collections.abc import Mapping

import slicer
import vtk
from slicer.i18n import tr as _

from LiverTumorSegGUI.nodes import Row, ras_of

COLOR = (120 / 255, 220 / 255, 1.0)  # that of the axes in preview.png
SEGMENT_ATTRIBUTE = "LiverTumorSeg.Segment"
SEGMENTATION_ROLE = "LiverTumorSeg.Segmentation"


class DiameterLines:
    """The lines of one segmentation: markups nodes under its transform and its tree item."""

    def __init__(self, segmentation_node) -> None:
        """Lines that a saved scene brought are taken over."""
        self._segmentation_node = segmentation_node
        lines = slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode", segmentation_node.GetScene())
        self._lines: dict = {
            line.GetAttribute(SEGMENT_ATTRIBUTE): line
            for line in lines
            if line.GetNodeReference(SEGMENTATION_ROLE) is segmentation_node
        }

    def show(self, rows: Mapping[str, Row]) -> None:
        """Show the long axis of these lesions by segment id, and of no others."""
        for segment_id in set(self._lines) - set(rows):
            self._remove(self._lines.pop(segment_id))
        for segment_id, row in rows.items():
            line = self._lines.get(segment_id)
            if line is None or line.GetScene() is None:  # the user may have deleted it
                line = self._lines[segment_id] = self._add(segment_id)
            self._update(line, row)

    def _add(self, segment_id: str):
        scene = self._segmentation_node.GetScene()
        line = scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode")
        line.SetAttribute(SEGMENT_ATTRIBUTE, segment_id)
        line.SetNodeReferenceID(SEGMENTATION_ROLE, self._segmentation_node.GetID())
        line.CreateDefaultDisplayNodes()
        display = line.GetDisplayNode()
        display.SetPointLabelsVisibility(False)
        display.SetPropertiesLabelVisibility(True)
        display.SetGlyphScale(1.0)
        display.SetTextScale(2.5)
        display.SetColor(*COLOR)
        display.SetSelectedColor(*COLOR)
        tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        parent = tree.GetItemByDataNode(self._segmentation_node)
        if parent:
            item = tree.GetItemByDataNode(line)
            if item:
                tree.SetItemParent(item, parent)
            else:
                tree.CreateItem(parent, line)
        return line

    def _update(self, line, row: Row) -> None:
        with slicer.util.NodeModify(line):
            line.SetName(_("{segment} long axis").format(segment=row.name))
            line.SetAndObserveTransformNodeID(self._segmentation_node.GetTransformNodeID())
            line.SetLocked(False)
            line.RemoveAllControlPoints()
            for place in row.lesion.long_axis_ends_mm:
                line.AddControlPoint(vtk.vtkVector3d(*ras_of(place)))
            line.SetLocked(True)

    def _remove(self, line) -> None:
        scene = line.GetScene()
        if scene is not None:
            scene.RemoveNode(line)
