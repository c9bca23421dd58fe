"""Slicer module: liver and liver tumors in a CT as segments, and a table of the lesions.

The four classes that Slicer asks for. The computing is in LiverTumorSegLib, the way between its
arrays and the scene's nodes in LiverTumorSegGUI.nodes; both are imported when they are used, to
keep Slicer's start quick.
"""

from __future__ import annotations

import enum
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from LiverTumorSegLib.measure import Measurement
    from LiverTumorSegLib.volume import Volume


def makeEngineImportable() -> None:
    """From a source checkout the library lies beside the module's folder, not in it."""
    try:
        import LiverTumorSegLib  # noqa: F401
    except ImportError:
        sys.path.append(str(Path(__file__).resolve().parents[1]))


makeEngineImportable()


class LiverTumorSeg(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Liver Tumor Segmentation")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations"]
        parent.contributors = ["LiverTumorSeg developers"]
        parent.helpText = (
            _(
                "Segments the liver and its tumors in a contrast-enhanced abdominal CT and "
                "measures each lesion: volume, diameters, intensity, share of the liver. "
                "For research only, not for clinical use. "
            )
            + self.getDefaultModuleDocumentationLink()
        )
        parent.acknowledgementText = _(
            "The embedded models were trained on public CTs; their model cards name them."
        )


class Device(enum.Enum):
    """Where the networks run. Scenes store the member's name: do not rename."""

    AUTO = "auto"
    CUDA = "cuda"
    MPS = "mps"
    CPU = "cpu"

    def label(self) -> str:
        """Text in the combo box."""
        return {
            Device.AUTO: _("Automatic"),
            Device.CUDA: _("NVIDIA GPU (CUDA)"),
            Device.MPS: _("Apple GPU (MPS)"),
            Device.CPU: _("CPU"),
        }[self]


@parameterNodeWrapper
class LiverTumorSegParameterNode:
    """The choices in the panel, saved with the scene.

    inputVolume - The CT.
    outputSegmentation - Where to put the segments; none: a new one.
    lesionTable - Where to put the numbers; none: a new one.
    liverModel, tumorModel - Names of installed models.
    device - Where the networks run.
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    outputSegmentation: slicer.vtkMRMLSegmentationNode
    lesionTable: slicer.vtkMRMLTableNode
    liverModel: str
    tumorModel: str
    device: Device = Device.AUTO


class LiverTumorSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._observedVolume = None
        self._running = False
        self._stopRequested = False

    # ---- life cycle

    def setup(self) -> None:
        """Called when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/LiverTumorSeg.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = LiverTumorSegLogic()
        self._modelSelectors = {
            "liverModel": self.ui.liverModelSelector,
            "tumorModel": self.ui.tumorModelSelector,
        }
        self._fillModelSelectors()
        self.ui.progressBar.visible = False

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onInputSelected)
        self.ui.liverModelSelector.connect("currentIndexChanged(int)", self.onLiverModelSelected)
        self.ui.tumorModelSelector.connect("currentIndexChanged(int)", self.onTumorModelSelected)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes or the module is reloaded."""
        self._stopRequested = True
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the user opens this module."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time the user opens another module."""
        self.setParameterNode(None)

    def onReload(self) -> None:
        """Slicer reloads this file only: the two packages must be imported anew as well."""
        for name in list(sys.modules):
            if name.partition(".")[0] in ("LiverTumorSegLib", "LiverTumorSegGUI"):
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event) -> None:
        """The nodes are about to go: stop a run and let go of the parameter node."""
        self._stopRequested = True
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        """Start anew where the panel is in view."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller, event) -> None:
        """A loaded scene may bring its own parameters."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    # ---- parameter node

    def initializeParameterNode(self) -> None:
        """Bind the panel to the scene's parameter node; the first CT is selected."""
        self.setParameterNode(self.logic.getParameterNode())
        if self._parameterNode.inputVolume is None:
            volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            scalar = [node for node in volumes if node.GetClassName() == "vtkMRMLScalarVolumeNode"]
            if scalar:
                self._parameterNode.inputVolume = scalar[0]

    def setParameterNode(self, parameterNode: LiverTumorSegParameterNode | None) -> None:
        """Bind the panel to a parameter node, or to none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._parameterNodeGuiTag = None
            self.removeObserver(
                self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged
            )
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self.onParametersChanged()

    def onParametersChanged(self, caller=None, event=None) -> None:
        """Show the chosen models and whether Apply can run, and if not, why."""
        parameters = self._parameterNode
        self._observeVolume(parameters and parameters.inputVolume)
        if parameters is None or self._running:
            return
        for parameter, selector in self._modelSelectors.items():
            index = selector.findData(getattr(parameters, parameter))
            if index < 0:  # a scene from a computer with other models
                setattr(parameters, parameter, "")
            selector.currentIndex = max(0, index)
        reason = self._reasonAgainstApply()
        self.ui.applyButton.enabled = not reason
        self.ui.applyButton.toolTip = reason or _("Segment and measure")
        self.ui.reasonLabel.text = reason
        self.ui.reasonLabel.visible = bool(reason)

    def _observeVolume(self, node) -> None:
        """A volume is selected as soon as it is in the scene, and gets its voxels after that."""
        if node is self._observedVolume:
            return
        events = (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent)
        for event in events:
            if self._observedVolume is not None:
                self.removeObserver(self._observedVolume, event, self.onParametersChanged)
            if node is not None:
                self.addObserver(node, event, self.onParametersChanged)
        self._observedVolume = node

    def onInputSelected(self, node) -> None:
        """A result belongs to one CT: the next CT gets new nodes."""
        parameters = self._parameterNode
        if parameters is None or parameters.outputSegmentation is None:
            return
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        reference = parameters.outputSegmentation.GetNodeReference(role)
        if reference is not None and reference is not node:
            parameters.outputSegmentation = None
            parameters.lesionTable = None

    def onLiverModelSelected(self, index: int) -> None:
        """The models are no fixed list of choices, so their selectors are bound by hand."""
        if self._parameterNode is not None:
            self._parameterNode.liverModel = self.ui.liverModelSelector.currentData

    def onTumorModelSelected(self, index: int) -> None:
        """See onLiverModelSelected."""
        if self._parameterNode is not None:
            self._parameterNode.tumorModel = self.ui.tumorModelSelector.currentData

    def _fillModelSelectors(self) -> None:
        for parameter, selector in self._modelSelectors.items():
            wasBlocked = selector.blockSignals(True)
            selector.clear()
            selector.addItem(_("Default"), "")
            for name in installedModels(parameter.removesuffix("Model")):
                selector.addItem(name, name)
            selector.blockSignals(wasBlocked)
        self.onParametersChanged()

    def _reasonAgainstApply(self) -> str:
        from LiverTumorSegGUI import nodes
        from LiverTumorSegLib.errors import InputError

        try:
            nodes.check_volume_node(self._parameterNode.inputVolume)
        except InputError as error:
            return str(error)
        return ""

    # ---- Apply

    def onApplyButton(self) -> None:
        """Install what is missing, run the logic and tell the outcome."""
        from LiverTumorSegGUI.dependencies import ensure_dependencies
        from LiverTumorSegLib.errors import Cancelled, InputError, ResourceError

        outcome = _("The segmentation failed.")
        self._setRunning(True)
        try:
            with slicer.util.tryWithErrorDisplay(outcome):
                try:
                    ensure_dependencies(self.resourcePath("requirements.txt"))
                except RuntimeError as declined:
                    outcome = str(declined)
                    return
                if self.ui.liverModelSelector.count == 1:
                    self._fillModelSelectors()  # reading the models' names may need a package
                try:
                    outcome = self._process()
                except Cancelled:
                    outcome = _("Canceled.")
                except (InputError, ResourceError) as error:
                    outcome = str(error)
                    slicer.util.errorDisplay(outcome)
        finally:
            self._setRunning(False)
            self.ui.statusLabel.text = outcome

    def _process(self) -> str:
        parameters = self._parameterNode
        result = self.logic.process(
            parameters.inputVolume,
            parameters.outputSegmentation,
            parameters.lesionTable,
            liverModel=parameters.liverModel,
            tumorModel=parameters.tumorModel,
            device=parameters.device.value,
            onProgress=self._showProgress,
        )
        parameters.outputSegmentation = result.segmentationNode
        parameters.lesionTable = result.lesionTableNode
        return "\n".join([describe(result.measurement), *result.warnings])

    def _showProgress(self, stage: str, fraction: float) -> None:
        from LiverTumorSegLib.errors import Cancelled

        self.ui.statusLabel.text = _("Stage: {stage}").format(stage=stage)
        self.ui.progressBar.value = round(100 * fraction)
        slicer.app.processEvents()
        if self._stopRequested:
            raise Cancelled

    def _setRunning(self, running: bool) -> None:
        self._running = running
        self._stopRequested = False
        self.ui.progressBar.value = 0
        self.ui.progressBar.visible = running
        for part in (self.ui.inputs, self.ui.outputs, self.ui.applyButton):
            part.enabled = not running
        if not running:
            self.onParametersChanged()


def installedModels(target: str) -> list[str]:
    """Names of the models for a target; none where a weights file cannot be read."""
    from LiverTumorSegLib.checkpoint import list_models
    from LiverTumorSegLib.errors import InputError

    try:
        return [model.name for model in list_models() if target in model.recipe.targets]
    except (ImportError, InputError) as error:
        logging.warning("LiverTumorSeg cannot list its models: %s", error)
        return []


def describe(measurement: Measurement) -> str:
    """One line for the user."""
    liver = _("Liver {volume:.0f} mL.").format(volume=measurement.liver_volume_ml)
    count = len(measurement.lesions)
    if count == 0:
        return liver + " " + _("No tumor found.")
    return (
        liver
        + " "
        + _("Tumors: {count}, {volume:.1f} mL, {burden:.1f} % of the liver.").format(
            count=count,
            volume=measurement.tumor_volume_ml,
            burden=measurement.tumor_burden_percent,
        )
    )


@dataclass(frozen=True)
class LiverTumorSegResult:
    """What `LiverTumorSegLogic.process` made.

    segmentationNode - Segments `liver` and `tumor_1`, `tumor_2`, ..., the largest first.
    lesionTableNode - One row a lesion.
    measurement - The same numbers as values.
    warnings - What to know about this result, one sentence each.
    """

    segmentationNode: slicer.vtkMRMLSegmentationNode
    lesionTableNode: slicer.vtkMRMLTableNode
    measurement: Measurement
    warnings: tuple[str, ...]


class LiverTumorSegLogic(ScriptedLoadableModuleLogic):
    """The work without the panel, for scripts and other modules."""

    def getParameterNode(self) -> LiverTumorSegParameterNode:
        """The scene's parameter node, typed."""
        return LiverTumorSegParameterNode(super().getParameterNode())

    def process(
        self,
        volumeNode,
        segmentationNode=None,
        lesionTableNode=None,
        liverModel: str | None = None,
        tumorModel: str | None = None,
        device: str = "auto",
        onProgress: Callable[[str, float], None] | None = None,
    ) -> LiverTumorSegResult:
        """Segment liver and tumors in a CT; returns when it is done.

        The scene stays as it is until the result is complete.

        Args:
            volumeNode: the CT, in HU.
            segmentationNode: gets the segments; those of an earlier run are replaced, others kept.
                None makes a new node.
            lesionTableNode: gets one row a lesion. None makes a new node.
            liverModel: name of an installed model or path of a weights file. None: the default.
            tumorModel: as liverModel.
            device: auto, cuda, cuda:N, mps or cpu.
            onProgress: called with the stage's name and a fraction from 0 to 1; it cancels the run
                by raising LiverTumorSegLib.errors.Cancelled.

        Raises:
            LiverTumorSegLib.errors.InputError: what was given cannot be used; the message says why
                and what to do.
            LiverTumorSegLib.errors.Cancelled: onProgress canceled.
        """
        from LiverTumorSegGUI import nodes
        from LiverTumorSegLib.measure import measure

        volume = nodes.volume_from_node(volumeNode)
        if segmentationNode is not None:
            nodes.check_segmentation_node(segmentationNode, volumeNode)
        labels, warnings = self.runEngine(volume, liverModel, tumorModel, device, onProgress)
        measurement, lesionMap = measure(volume, labels)
        nodes.check_in_scene(volumeNode, segmentationNode, lesionTableNode)

        name = volumeNode.GetName()
        created = []
        try:
            if segmentationNode is None:
                segmentationNode = nodes.add_node(
                    "vtkMRMLSegmentationNode", _("{volume} segmentation").format(volume=name)
                )
                created.append(segmentationNode)
            nodes.write_segments(labels, lesionMap, volumeNode, segmentationNode)
            if lesionTableNode is None:
                lesionTableNode = nodes.add_node(
                    "vtkMRMLTableNode", _("{volume} lesions").format(volume=name)
                )
                created.append(lesionTableNode)
            nodes.write_lesion_table(measurement, lesionTableNode)
            nodes.place_beside(volumeNode, lesionTableNode)
        except BaseException:
            for node in created:
                slicer.mrmlScene.RemoveNode(node)
            raise
        return LiverTumorSegResult(
            segmentationNode,
            lesionTableNode,
            measurement,
            volume.repairs + warnings + nodes.transform_warnings(volumeNode),
        )

    def runEngine(
        self,
        volume: Volume,
        liverModel: str | None,
        tumorModel: str | None,
        device: str,
        onProgress: Callable[[str, float], None] | None,
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Labels (z, y, x; 0 background, 1 liver, 2 tumor) and warnings of the networks.

        The one place that needs PyTorch.
        """
        from LiverTumorSegLib.checkpoint import load_models
        from LiverTumorSegLib.segment import segment

        result = segment(
            volume,
            *load_models(liverModel, tumorModel),
            device=device,
            on_progress=onProgress,
        )
        logging.info("LiverTumorSeg: seconds by stage %s", result.timings_s)
        return result.labels, result.warnings


class LiverTumorSegTest(ScriptedLoadableModuleTest):
    """Runs in any Slicer: no download, no installation, no network, no PyTorch."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run all tests, as the button Reload and Test does."""
        self.setUp()
        self.test_process_shows_what_the_engine_found()

    def test_process_shows_what_the_engine_found(self) -> None:
        """A made-up CT and made-up labels: segments and table must say the same."""
        import numpy as np

        self.delayDisplay("Segments and table from known labels")
        labels = np.zeros((20, 30, 40), dtype=np.uint8)
        labels[4:16, 5:25, 6:34] = 1
        labels[6:10, 8:14, 10:18] = 2
        hu = np.where(labels == 2, 60, np.where(labels == 1, 110, -50)).astype(np.int16)
        volumeNode = slicer.util.addVolumeFromArray(hu, np.diag([-1, -1, 2.5, 1]), "Made-up CT")
        logic = LiverTumorSegLogic()
        logic.runEngine = lambda *arguments: (labels, ())

        result = logic.process(volumeNode)

        segmentation = result.segmentationNode.GetSegmentation()
        assert list(segmentation.GetSegmentIDs()) == ["liver", "tumor_1"]
        for segmentId, expected in (("liver", labels > 0), ("tumor_1", labels == 2)):
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(
                result.segmentationNode, segmentId, volumeNode
            )
            assert np.array_equal(mask > 0, expected)
        table = result.lesionTableNode.GetTable()
        assert table.GetNumberOfRows() == 1
        volume_ml = 4 * 6 * 8 * 2.5 / 1000
        assert abs(table.GetColumnByName("volume_ml").GetValue(0) - volume_ml) < 1e-9
        assert table.GetColumnByName("mean_hu").GetValue(0) == 60
        self.delayDisplay("Test passed")
