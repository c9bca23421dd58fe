"""The lesion review in the panel: the widgets on one side, `review.Review` on the other.

Nothing is decided here: a button calls the method of the review that has its name, and the review
says when to show its rows anew. Quick events are joined by timers: a brush stroke or a slider's way
changes the table a few times a second, not a hundred times.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from LiverTumorSegGUI import handover
from LiverTumorSegGUI.lesion_table import LesionTable
from LiverTumorSegGUI.point_picker import PointPicker
from LiverTumorSegGUI.review import HIGHEST, LOWEST, Review
from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.seg_nrrd import ORIGIN_TAG

JOIN_MS = 50


def holdsResult(segmentationNode, volumeNode) -> bool:
    """Whether a segmentation (or None) has the segments of a run on this CT."""
    if segmentationNode is None or volumeNode is None:
        return False
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    segmentation = segmentationNode.GetSegmentation()
    return segmentationNode.GetNodeReference(role) is volumeNode and any(
        segmentation.GetSegment(segment_id).HasTag(ORIGIN_TAG)
        for segment_id in segmentation.GetSegmentIDs()
    )


class ReviewPanel:
    """One review at a time: `open` one, `close` it."""

    def __init__(self, ui, onPoint: Callable[[tuple[float, float, float]], None]) -> None:
        """Connect the widgets.

        Args:
            ui: the panel's widgets by name.
            onPoint: called with a point (RAS, world, mm) where the user wants a lesion.
        """
        self.ui = ui
        self.review: Review | None = None
        self._volumeNode = self._segmentationNode = self._tableNode = None
        self._source = None
        self._diametersOf: list[str] = []
        ui.thresholdSlider.minimum, ui.thresholdSlider.maximum = LOWEST, HIGHEST
        self._table = LesionTable(ui.lesionTableWidget)
        self._picker = PointPicker(onPoint, self._onPickerEnd)
        self._updateTimer = self._timer(self._update)
        self._pendingUpdate: Callable[[], None] | None = None
        self._thresholdTimer = self._timer(self._applyThreshold)
        self._thresholdPending = False
        for button, slot in (
            (ui.acceptButton, self.onAccept),
            (ui.rejectButton, self.onReject),
            (ui.mergeButton, self.onMerge),
            (ui.splitButton, self.onSplit),
            (ui.undoButton, self.onUndo),
            (ui.redoButton, self.onRedo),
            (ui.segmentHereButton, self.onSegmentHere),
            (ui.editButton, self.onEdit),
            (ui.saveTableButton, self.onSaveTable),
            (ui.saveReportButton, self.onSaveReport),
            (ui.exportDicomButton, self.onExportDicom),
        ):
            button.connect("clicked(bool)", slot)
        ui.lesionTableWidget.connect("itemSelectionChanged()", self.onSelectionChanged)
        ui.lesionTableWidget.connect("cellClicked(int,int)", self.onCellClicked)
        ui.thresholdSlider.connect("valueChanged(double)", self.onThreshold)
        ui.diametersCheckBox.connect("toggled(bool)", self.onDiameters)
        self._showNothing()

    def _timer(self, slot):
        timer = qt.QTimer()
        timer.setSingleShot(True)
        timer.setInterval(JOIN_MS)
        timer.connect("timeout()", slot)
        return timer

    # ---- open and close

    def open(
        self, volumeNode, segmentationNode, tableNode, source: handover.Source | None = None
    ) -> None:
        """Review the lesions of a segmentation.

        Args:
            volumeNode: the CT.
            segmentationNode: its segments.
            tableNode: where the numbers go; None: nowhere but the panel.
            source: the run that made the segments. None, as for a loaded scene: its probabilities
                are gone, so there is no threshold to change and no lesion to look for.
        """
        self.close()
        self._volumeNode, self._segmentationNode = volumeNode, segmentationNode
        self._tableNode, self._source = tableNode, source
        inference = source.models["tumor"].recipe.inference if source else None
        self.review = Review(
            volumeNode,
            segmentationNode,
            tableNode,
            source.tumorProbability if source else None,
            smallest_mm3=inference.min_lesion_mm3 if inference else 0.0,
            confidence=inference.confidence if inference else None,
            on_change=self.refresh,
            schedule=self._schedule,
        )
        if inference is not None:
            slider = self.ui.thresholdSlider
            wasBlocked = slider.blockSignals(True)
            slider.value = inference.threshold
            slider.blockSignals(wasBlocked)
        self.ui.review.enabled = True
        self.ui.review.collapsed = False
        self.ui.show3DButton.setSegmentationNode(segmentationNode)
        self.refresh()

    def close(self) -> None:
        """Let go of the nodes; they stay as they are."""
        self._picker.stop()
        self._updateTimer.stop()
        self._thresholdTimer.stop()
        review, self.review = self.review, None
        self._pendingUpdate = None
        self._thresholdPending = False
        self._diametersOf = []
        if review is not None:
            if self._segmentationNode.GetScene() is not None:
                review.show_diameters([])
            review.close()
            self.ui.show3DButton.setSegmentationNode(None)
            self._showNothing()
        self._volumeNode = self._segmentationNode = self._tableNode = self._source = None

    def shows(self, volumeNode, segmentationNode, tableNode) -> bool:
        """Whether these are the nodes under review."""
        mine = (self._volumeNode, self._segmentationNode, self._tableNode)
        return self.review is not None and mine == (volumeNode, segmentationNode, tableNode)

    def lostANode(self) -> bool:
        """Whether one of the nodes under review is no longer in the scene."""
        mine = (self._volumeNode, self._segmentationNode, self._tableNode)
        return any(node is not None and node.GetScene() is None for node in mine)

    def goOn(self) -> None:
        """A run is over, during which nothing could be reviewed."""
        self.ui.review.enabled = self.review is not None

    def _showNothing(self) -> None:
        self.ui.review.enabled = False
        self.ui.review.collapsed = True
        self._table.show(())
        self.ui.summaryLabel.text = _("Press Apply first, or select a reviewed segmentation.")
        self._updateButtons()

    # ---- from the review to the widgets

    def refresh(self) -> None:
        """Show what the review says now."""
        if self.review is None:
            return
        self._table.show(self.review.rows())
        self.ui.summaryLabel.text = self.review.summary()
        self._updateButtons()
        self._showDiameters()

    def _schedule(self, update: Callable[[], None]) -> None:
        if self._pendingUpdate is None:  # starting it anew would wait for the end of a stroke
            self._updateTimer.start()
        self._pendingUpdate = update

    def _update(self) -> None:
        update, self._pendingUpdate = self._pendingUpdate, None
        if update is not None and self.review is not None:
            update()

    def _updateButtons(self) -> None:
        review, ui = self.review, self.ui
        count = len(self._table.selected())
        there = review is not None
        ui.acceptButton.enabled = ui.rejectButton.enabled = there and count > 0
        ui.mergeButton.enabled = there and count > 1
        ui.splitButton.enabled = ui.editButton.enabled = there and count == 1
        for button, text, nothing in (
            (ui.undoButton, review.undo_text if there else "", _("Nothing to undo")),
            (ui.redoButton, review.redo_text if there else "", _("Nothing to redo")),
        ):
            button.enabled = bool(text)
            button.toolTip = text or nothing
        ui.segmentHereButton.enabled = there and self._source is not None
        ui.thresholdSlider.enabled = there and review.has_probability
        ui.saveTableButton.enabled = there and self._tableNode is not None
        ui.saveReportButton.enabled = there
        reasons = handover.reasons_against_dicom(self._volumeNode, self._segmentationNode)
        ui.exportDicomButton.enabled = there and not reasons
        ui.exportDicomButton.toolTip = "\n".join(reasons) or _(
            "Export the segmentation with Slicer's DICOM exporter."
        )

    # ---- from the widgets to the review

    def _do(self, action: Callable[[], object]) -> None:
        """Do what a button says; a reason why it cannot be done goes to the user."""
        try:
            action()
        except (InputError, ResourceError) as error:
            slicer.util.errorDisplay(str(error))
        self.refresh()

    def onAccept(self, checked: bool = False) -> None:
        self._do(lambda: self.review.accept(self._table.selected()))

    def onReject(self, checked: bool = False) -> None:
        self._do(lambda: self.review.reject(self._table.selected()))

    def onMerge(self, checked: bool = False) -> None:
        self._do(lambda: self.review.merge(self._table.selected()))

    def onSplit(self, checked: bool = False) -> None:
        self._do(lambda: self.review.split(self._table.selected()[0]))

    def onUndo(self, checked: bool = False) -> None:
        self._do(self.review.undo)

    def onRedo(self, checked: bool = False) -> None:
        self._do(self.review.redo)

    def onThreshold(self, value: float) -> None:
        if self.review is not None and not self._thresholdPending:
            self._thresholdPending = True
            self._thresholdTimer.start()

    def _applyThreshold(self) -> None:
        self._thresholdPending = False
        if self.review is not None and self.review.has_probability:
            self._do(lambda: self.review.threshold(self.ui.thresholdSlider.value))

    def onSelectionChanged(self) -> None:
        self._updateButtons()
        self._showDiameters()

    def onCellClicked(self, line: int, column: int) -> None:
        """Bring the lesion into the slice views."""
        if self.review is not None:
            self._do(lambda: self.review.jump(self._table.segment_id(line)))

    def onDiameters(self, checked: bool) -> None:
        self._showDiameters()

    def _showDiameters(self) -> None:
        """The long axes of the selected lesions, of all where none is selected."""
        if self.review is None:
            return
        shown = []
        if self.ui.diametersCheckBox.checked:
            shown = self._table.selected() or [row.segment_id for row in self.review.rows()]
        if shown != self._diametersOf:
            self._diametersOf = shown
            self.review.show_diameters(shown)

    def onSegmentHere(self, checked: bool) -> None:
        if checked and self.review is not None:
            self._picker.start()
            self.ui.segmentHereButton.checked = True
        else:
            self._picker.stop()

    def _onPickerEnd(self) -> None:
        self.ui.segmentHereButton.checked = False

    def editedLiver(self):
        """As `Review.edited_liver`; None where nothing is reviewed."""
        return self.review.edited_liver() if self.review is not None else None

    def addLesion(self, mask) -> None:
        """Add what was found at a point; bool (z, y, x) on the CT's grid."""
        if self.review is not None:
            self._do(lambda: self.review.add_lesion(mask))

    # ---- to other parts of Slicer and to files

    def onEdit(self, checked: bool = False) -> None:
        handover.open_segment_editor(
            self._volumeNode, self._segmentationNode, self._table.selected()[0]
        )

    def onSaveTable(self, checked: bool = False) -> None:
        name = f"{self._tableNode.GetName()}.csv"
        path = qt.QFileDialog.getSaveFileName(
            self.ui.review, _("Save lesion table"), name, _("CSV file (*.csv)")
        )
        if path:
            self._do(lambda: handover.save_table(self._tableNode, Path(path)))

    def onSaveReport(self, checked: bool = False) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.ui.review, _("Folder for the report"))
        if folder:
            self._do(
                lambda: handover.save_report(
                    self.review, self._volumeNode, self._source, Path(folder)
                )
            )

    def onExportDicom(self, checked: bool = False) -> None:
        handover.export_dicom(self._segmentationNode)
