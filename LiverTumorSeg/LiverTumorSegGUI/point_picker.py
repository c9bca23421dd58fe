"""One click in a slice view: Slicer's own place mode, with a point that is gone afterwards."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin


class PointPicker(VTKObservationMixin):
    """Waits for a point; `stop` before letting go of it."""

    def __init__(
        self, on_point: Callable[[tuple[float, float, float]], None], on_end: Callable[[], None]
    ) -> None:
        """Nothing happens before `start`.

        Args:
            on_point: called with the point (RAS, world, mm) once it is placed.
            on_end: called when the user left the place mode, with or without a point.
        """
        VTKObservationMixin.__init__(self)
        self._on_point, self._on_end = on_point, on_end
        self._node = self._point = None

    def start(self) -> None:
        """The next click in a view places the point."""
        self.stop()
        scene = slicer.mrmlScene
        self._node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", _("Segment here"))
        self._node.SetSaveWithScene(False)
        self._node.CreateDefaultDisplayNodes()
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        self.addObserver(self._node, self._node.PointPositionDefinedEvent, self._placed)
        self.addObserver(interaction, interaction.EndPlacementEvent, self._ended)
        logic = slicer.modules.markups.logic()
        logic.SetActiveList(self._node)
        logic.StartPlaceMode(False)

    def stop(self) -> None:
        """Leave the place mode and remove the point; may be called at any time."""
        if self._node is None:
            return
        node, self._node, self._point = self._node, None, None
        self.removeObservers()
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        if interaction.GetCurrentInteractionMode() == interaction.Place:
            interaction.SwitchToViewTransformMode()
        if node.GetScene() is not None:
            slicer.mrmlScene.RemoveNode(node)

    def _placed(self, caller, event) -> None:
        """The node must not go while its own event is on the way to others."""
        point = [0.0, 0.0, 0.0]
        self._node.GetNthControlPointPositionWorld(0, point)
        self._point = tuple(point)
        qt.QTimer.singleShot(0, self._deliver)

    def _deliver(self) -> None:
        point = self._point
        if point is not None:  # not stopped in between
            self.stop()
            self._on_end()
            self._on_point(point)

    def _ended(self, caller, event) -> None:
        """Escape, or another tool; after a click the point is on its way already."""
        if self._point is None:
            self.stop()
            self._on_end()
