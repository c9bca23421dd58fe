"""Where a reviewed segmentation goes: the Segment Editor, files, Slicer's DICOM exporter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
import slicer.util
from slicer.i18n import tr as _

from LiverTumorSegGUI import nodes
from LiverTumorSegLib.checkpoint import ModelInfo, identity
from LiverTumorSegLib.errors import ResourceError
from LiverTumorSegLib.segmentation import Segmentation
from LiverTumorSegLib.staging import staged

if TYPE_CHECKING:
    import numpy as np

    from LiverTumorSegGUI.review import Review

LIVER_ID = "liver"


@dataclass(frozen=True)
class Source:
    """The run that segments come from.

    models - For each target ("liver", "tumor") its model.
    device - Where the networks ran.
    warnings - What to know about the result, one sentence each.
    tumorProbability - See review.Review.
    """

    models: dict[str, ModelInfo]
    device: str
    warnings: tuple[str, ...]
    tumorProbability: np.ndarray | None


def open_segment_editor(volume_node, segmentation_node, segment_id: str) -> None:
    """Open Slicer's Segment Editor on a segment; nothing outside the liver can be changed."""
    tag = "SegmentEditor"
    editor = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLSegmentEditorNode")
    if editor is None:
        editor = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        editor.UnRegister(None)
        editor.SetSingletonTag(tag)
        editor = slicer.mrmlScene.AddNode(editor)
    editor.SetAndObserveSegmentationNode(segmentation_node)
    editor.SetAndObserveSourceVolumeNode(volume_node)
    editor.SetSelectedSegmentID(segment_id)
    # The liver holds the tumors: painting one must not take it out of the other.
    editor.SetOverwriteMode(editor.OverwriteNone)
    if segmentation_node.GetSegmentation().GetSegment(LIVER_ID) is not None:
        editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
        editor.SetMaskSegmentID(LIVER_ID)
    slicer.util.selectModule("SegmentEditor")


def save_table(table_node, path: Path) -> None:
    """Write the lesion table as CSV, whole or not at all.

    Raises:
        InputError, ResourceError: it cannot be written there; the message says why.
    """
    with staged(path.parent, (path.name,)) as folder:
        storage = slicer.vtkMRMLTableStorageNode()
        storage.SetFileName(str(folder / path.name))
        if not storage.WriteData(table_node):
            raise ResourceError(
                _("{path}: could not be written. Is the disk full?").format(path=path)
            )


def save_report(review: Review, volume_node, source: Source | None, folder: Path) -> None:
    """Write what the command line writes, of the lesions as they were reviewed.

    Raises:
        InputError, ResourceError: it cannot be written there; nothing was written.
    """
    from LiverTumorSegLib.report import FILE_NAMES, Run, write_outputs

    volume = nodes.volume_from_node(volume_node)
    labels, lesion_map = review.labels()
    run = Run(volume_node.GetName(), {}, None, None)
    if source is not None:
        models = {target: identity(info) for target, info in source.models.items()}
        run = Run(volume_node.GetName(), models, source.device, None)
    with staged(folder, FILE_NAMES) as partial:
        write_outputs(
            partial,
            run,
            volume,
            Segmentation(labels, source.warnings if source else ()),
            review.measurement(),
            lesion_map,
        )


def reasons_against_dicom(volume_node, segmentation_node) -> list[str]:
    """Why Slicer's exporter cannot be opened on a segmentation; none if it can."""
    if segmentation_node is None:
        return []
    reasons = list(nodes.export_prerequisites(volume_node, segmentation_node))
    if not hasattr(slicer, "qSlicerDICOMExportDialog"):
        reasons.append(_("This Slicer has no DICOM exporter."))
    return reasons


def export_dicom(segmentation_node) -> None:
    """Open Slicer's own DICOM exporter on a segmentation."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    dialog = slicer.qSlicerDICOMExportDialog(None)
    dialog.setMRMLScene(slicer.mrmlScene)
    dialog.execDialog(tree.GetItemByDataNode(segmentation_node))
