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

    from LiverTumorSegGUI.run import RegionFound, Run, Seen
    from LiverTumorSegLib.checkpoint import ModelInfo
    from LiverTumorSegLib.measure import Measurement
    from LiverTumorSegLib.segmentation import Segmentation
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
        slicer.app.connect("startupCompleted()", registerSampleData)


SAMPLE_URL = (
    "https://raw.githubusercontent.com/LiverTumorSeg/SlicerLiverTumorSeg/main/"
    "Testing/data/hcc006_arterial.nii.gz"
)
SAMPLE_SHA256 = "5c5a11ac2487a00c05070222f611138464bbd4adb338f9d4a07a4aeedfda0d0f"


def registerSampleData() -> None:
    """Offer this project's CT in the module Sample Data; Slicer's own CTLiver is there already."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="LiverTumorSeg",
        sampleName="LiverTumorHCC006",
        uris=SAMPLE_URL,
        fileNames="hcc006_arterial.nii.gz",
        nodeNames="hcc006_arterial",
        checksums=f"SHA256:{SAMPLE_SHA256}",
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
    quality - Average mirrored predictions.
    showDiameters - Show the lesions' long axes in the views.
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    outputSegmentation: slicer.vtkMRMLSegmentationNode
    lesionTable: slicer.vtkMRMLTableNode
    liverModel: str
    tumorModel: str
    device: Device = Device.AUTO
    quality: bool = False
    showDiameters: bool = True


class LiverTumorSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: what is chosen, a run in the engine's process, and the review of its result.

    The engine never runs in Slicer's own process, so the window stays alive. `_job` is that
    process; `_run` has the files of the last run, `_source` what it tells of the segmentation
    `_reviewed`.
    """

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._observedVolume = None
        self._job = None
        self._run = self._source = self._reviewed = None

    # ---- life cycle

    def setup(self) -> None:
        """Called when the module is opened for the first time."""
        from LiverTumorSegGUI.job import Job
        from LiverTumorSegGUI.review_panel import ReviewPanel
        from LiverTumorSegGUI.run_view import RunView

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
        self._job = Job(self._showLog)
        self._view = RunView(self.ui)
        self._reviewPanel = ReviewPanel(self.ui, self.onPoint)
        self.ui.inputDetailsLabel.visible = False
        self.ui.devicesLabel.visible = False

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodeRemoved)
        self.ui.inputDetailsButton.connect("toggled(bool)", self.onParametersChanged)
        self.ui.liverModelSelector.connect("currentIndexChanged(int)", self.onLiverModelSelected)
        self.ui.tumorModelSelector.connect("currentIndexChanged(int)", self.onTumorModelSelected)
        self.ui.liverCardButton.connect("clicked(bool)", self.onLiverCard)
        self.ui.tumorCardButton.connect("clicked(bool)", self.onTumorCard)
        self.ui.findDevicesButton.connect("clicked(bool)", self.onFindDevices)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes or the module is reloaded."""
        if self._job is not None:
            self._job.shutdown()
        self._letGo()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the user opens this module."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time the user opens another module; a run and the review go on."""
        self.setParameterNode(None)

    def onReload(self) -> None:
        """Slicer reloads this file only: the two packages must be imported anew as well."""
        self._job.shutdown()
        for name in list(sys.modules):
            if name.partition(".")[0] in ("LiverTumorSegLib", "LiverTumorSegGUI"):
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event) -> None:
        """The nodes are about to go: end a run and let go of them.

        An idle engine stays, with its models, for the next patient.
        """
        if self._job is not None and self._job.busy:
            self._job.shutdown()
        self._letGo()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        """Start anew where the panel is in view."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller, event) -> None:
        """A loaded scene may bring its own parameters."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onNodeRemoved(self, caller, event) -> None:
        """The review ends with the nodes that it is about."""
        if self._reviewPanel.lostANode():
            self._reviewPanel.close()

    def _letGo(self) -> None:
        """End the review and forget the last run; after this nothing calls back."""
        if self._job is None:  # never set up
            return
        self._reviewPanel.close()
        self._view.end("")
        self._forgetRun()

    def _forgetRun(self) -> None:
        if self._run is not None:
            self._run.close()
        self._run = self._source = self._reviewed = None

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
        """Show the chosen models, what was picked, and whether Apply can run, and if not, why."""
        parameters = self._parameterNode
        self._observeVolume(parameters and parameters.inputVolume)
        if parameters is None or self._job is None or self._job.busy:
            return
        for parameter, selector in self._modelSelectors.items():
            index = selector.findData(getattr(parameters, parameter))
            if index < 0:  # a scene from a computer with other models
                setattr(parameters, parameter, "")
            selector.currentIndex = max(0, index)
        self._showInputCheck()
        self._followReview()

    def _showInputCheck(self) -> None:
        from LiverTumorSegGUI.input_check import check_input

        check = check_input(self._parameterNode.inputVolume)
        ui = self.ui
        ui.inputCheckLabel.text = check.verdict
        ui.inputCheckLabel.visible = bool(check.verdict)
        ui.inputDetailsButton.enabled = bool(check.details)
        ui.inputDetailsLabel.text = "\n".join(check.doubts[1:] + check.details)
        ui.inputDetailsLabel.visible = ui.inputDetailsButton.checked and bool(check.details)
        ui.applyButton.enabled = not check.reason
        ui.applyButton.toolTip = check.reason or _("Segment and measure")
        ui.reasonLabel.text = check.reason
        ui.reasonLabel.visible = bool(check.reason)

    def _followReview(self) -> None:
        """Review the selected segmentation where it is one of the selected CT's."""
        from LiverTumorSegGUI.review_panel import holdsResult

        parameters = self._parameterNode
        volumeNode, segmentationNode = parameters.inputVolume, parameters.outputSegmentation
        if not holdsResult(segmentationNode, volumeNode):
            self._reviewPanel.close()
            return
        if self._reviewPanel.shows(volumeNode, segmentationNode, parameters.lesionTable):
            return
        ofThisRun = self._source is not None and self._reviewed is segmentationNode
        self._reviewPanel.open(
            volumeNode,
            segmentationNode,
            parameters.lesionTable,
            self._source if ofThisRun else None,
        )

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
        self._dropForeignOutputs()

    def _dropForeignOutputs(self) -> None:
        """A result belongs to one CT: the next CT gets new nodes."""
        parameters = self._parameterNode
        if parameters is None or parameters.outputSegmentation is None:
            return
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        reference = parameters.outputSegmentation.GetNodeReference(role)
        if reference is not None and reference is not parameters.inputVolume:
            parameters.outputSegmentation = None
            parameters.lesionTable = None

    # ---- models and devices

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
            target = parameter.removesuffix("Model")
            selector.addItem(_("Default ({name})").format(name=defaultModel(target)), "")
            for name in installedModels(target):
                selector.addItem(name, name)
            selector.blockSignals(wasBlocked)
        self.onParametersChanged()

    def onLiverCard(self, checked: bool = False) -> None:
        """Show the card of the chosen liver model."""
        self._showCard("liver", self.ui.liverModelSelector.currentData)

    def onTumorCard(self, checked: bool = False) -> None:
        """Show the card of the chosen tumor model."""
        self._showCard("tumor", self.ui.tumorModelSelector.currentData)

    def _showCard(self, target: str, name: str) -> None:
        from LiverTumorSegGUI.model_card import show_card
        from LiverTumorSegLib.errors import InputError

        try:
            self._card = show_card(modelInfo(target, name), self.ui.inputs)
        except InputError as error:
            slicer.util.errorDisplay(str(error))

    def _showLog(self, text: str) -> None:
        self.ui.logView.appendPlainText(text.rstrip("\n"))

    def onFindDevices(self, checked: bool = False) -> None:
        """Ask the engine what this computer has; PyTorch is not loaded into Slicer for that."""
        if not self._dependenciesAreThere():
            return
        self._start({"do": "devices"}, _("Looking for devices..."), self._showDevices)

    def _showDevices(self, data: dict) -> str:
        found = [
            _("{label}, {memory:.0f} GB").format(label=device["label"], memory=device["memory_gb"])
            for device in data["devices"]
        ]
        self.ui.devicesLabel.text = "\n".join(found)
        self.ui.devicesLabel.visible = True
        return ""

    # ---- Apply

    def onApplyButton(self, checked: bool = False) -> None:
        """Install what is missing and start a run, or cancel the one that is going on."""
        if self._job.busy:
            self._view.cancelling()
            self._job.cancel()
            return
        if not self._dependenciesAreThere() or not self._mayReplaceEdited():
            return
        from LiverTumorSegLib.errors import InputError, ResourceError

        parameters = self._parameterNode
        segmentationNode, tableNode = parameters.outputSegmentation, parameters.lesionTable
        try:
            models = {
                "liver": modelInfo("liver", parameters.liverModel),
                "tumor": modelInfo("tumor", parameters.tumorModel),
            }
            run = self.logic.beginRun(
                parameters.inputVolume,
                segmentationNode,
                liverModel=parameters.liverModel,
                tumorModel=parameters.tumorModel,
                device=parameters.device.value,
                tta=parameters.quality,
            )
        except (InputError, ResourceError) as error:
            self._fail(str(error))
            return
        self._start(
            run.request(),
            _("Starting the engine..."),
            lambda data: self._showResult(run, models, data, segmentationNode, tableNode),
            otherwise=run.close,
        )

    def _dependenciesAreThere(self) -> bool:
        from LiverTumorSegGUI.dependencies import ensure_dependencies

        with slicer.util.tryWithErrorDisplay(_("Python packages could not be installed.")):
            try:
                ensure_dependencies(self.resourcePath("requirements.txt"))
            except RuntimeError as declined:
                self._view.tell(str(declined))
                return False
        if self.ui.liverModelSelector.count == 1:
            self._fillModelSelectors()  # reading the models' names may need a package
        return True

    def _mayReplaceEdited(self) -> bool:
        from LiverTumorSegGUI import nodes

        segmentationNode = self._parameterNode.outputSegmentation
        edited = nodes.edited_segments(segmentationNode) if segmentationNode else ()
        return not edited or slicer.util.confirmOkCancelDisplay(
            _(
                "These segments were edited by hand and would be replaced: {names}. Replace them? "
                "To keep them, press Cancel and choose a new segmentation."
            ).format(names=", ".join(edited))
        )

    def _start(
        self,
        request: dict,
        text: str,
        onFinished: Callable[[dict], str],
        otherwise: Callable[[], None] = lambda: None,
    ) -> None:
        """Send a request to the engine.

        Args:
            request: see job.Job.start.
            text: what the panel says until the engine reports.
            onFinished: takes the answer and returns what the panel says then.
            otherwise: called when there is no answer.
        """
        from LiverTumorSegLib.errors import InputError, ResourceError

        def finish(data: dict) -> None:
            try:
                outcome = onFinished(data)
            except (InputError, ResourceError) as error:
                fail(str(error))
                return
            except BaseException:  # a bug must not leave a panel that seems to run
                fail(_("The result cannot be shown because of a bug; see the Python console."))
                raise
            end(outcome)

        def fail(message: str, logPath: str = "") -> None:
            otherwise()
            end("")
            self._fail(message, logPath)

        def cancel() -> None:
            otherwise()
            end(_("Canceled."))

        def end(outcome: str) -> None:
            self._view.end(outcome)
            self.onParametersChanged()
            self._reviewPanel.goOn()

        self._view.begin(text)
        self._job.start(request, self._view.progress, finish, fail, cancel)

    def _fail(self, message: str, logPath: str = "") -> None:
        if logPath:
            message += "\n" + _("Log file: {path}").format(path=logPath)
        self._view.tell(message)
        slicer.util.errorDisplay(message)

    def _showResult(
        self, run: Run, models: dict[str, ModelInfo], data: dict, segmentationNode, tableNode
    ) -> str:
        from LiverTumorSegGUI.handover import Source

        self._reviewPanel.close()
        result = self.logic.applyRun(run, segmentationNode, tableNode)
        self._forgetRun()
        self._run, self._reviewed = run, result.segmentationNode
        self._source = Source(models, data["device"], result.warnings, result.tumorProbability)
        parameters = self.logic.getParameterNode()  # the panel may not be in view
        parameters.outputSegmentation = result.segmentationNode
        parameters.lesionTable = result.lesionTableNode
        return "\n".join([_("Segmented and measured."), *result.warnings])

    # ---- a lesion at a point

    def onPoint(self, pointRas: tuple[float, float, float]) -> None:
        """Look for a lesion at a point in world coordinates."""
        if self._run is None or self._job.busy:
            return
        from LiverTumorSegLib.errors import InputError, ResourceError

        run = self._run
        try:
            request = run.regionRequest(pointRas, self._reviewPanel.editedLiver())
        except (InputError, ResourceError) as error:
            self._fail(str(error))
            return
        self._start(request, _("Looking for a lesion there..."), lambda data: self._showRegion(run))

    def _showRegion(self, run: Run) -> str:
        found = self.logic.readRegion(run)
        if found.mask is not None:
            self._reviewPanel.addLesion(found.mask)
        return found.message


def installedModels(target: str) -> list[str]:
    """Names of the models for a target; none where a weights file cannot be read."""
    from LiverTumorSegLib.checkpoint import list_models
    from LiverTumorSegLib.errors import InputError

    try:
        return [model.name for model in list_models() if target in model.recipe.targets]
    except (ImportError, InputError) as error:
        logging.warning("LiverTumorSeg cannot list its models: %s", error)
        return []


def defaultModel(target: str) -> str:
    """Name of the weights that are used where none are chosen; - where there are none."""
    from LiverTumorSegLib.checkpoint import default_model_name
    from LiverTumorSegLib.errors import InputError

    try:
        return default_model_name(target)
    except (ImportError, InputError) as error:
        logging.warning("LiverTumorSeg has no default model: %s", error)
        return "-"


def modelInfo(target: str, name: str) -> ModelInfo:
    """What the weights of a name say of themselves; the default's of a target where it is empty.

    Raises:
        LiverTumorSegLib.errors.InputError: there are none, or they are damaged.
    """
    from LiverTumorSegLib.checkpoint import default_model_name, find_model, read_info

    return read_info(find_model(name or default_model_name(target)))


@dataclass(frozen=True)
class LiverTumorSegResult:
    """What `LiverTumorSegLogic.process` made.

    segmentationNode - Segments `liver` and `tumor_1`, `tumor_2`, ..., the largest first.
    lesionTableNode - One row a lesion.
    measurement - The same numbers as values.
    warnings - What to know about this result, one sentence each.
    tumorProbability - float16 (z, y, x) on the CT's grid, maybe memory-mapped; None where no liver
        was found.
    """

    segmentationNode: slicer.vtkMRMLSegmentationNode
    lesionTableNode: slicer.vtkMRMLTableNode
    measurement: Measurement
    warnings: tuple[str, ...]
    tumorProbability: np.ndarray | None


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
        from LiverTumorSegGUI import nodes, run

        volume = nodes.volume_from_node(volumeNode)
        if segmentationNode is not None:
            nodes.check_segmentation_node(segmentationNode, volumeNode)
        seen = run.see(volumeNode)
        segmentation = self.runEngine(volume, liverModel, tumorModel, device, onProgress)
        del volume  # showResult reads it again: it may have changed
        return self.showResult(volumeNode, seen, segmentation, segmentationNode, lesionTableNode)

    def beginRun(
        self,
        volumeNode,
        segmentationNode=None,
        liverModel: str | None = None,
        tumorModel: str | None = None,
        device: str = "auto",
        tta: bool = False,
    ) -> Run:
        """Write down what the engine's process (LiverTumorSegGUI.job) needs; `applyRun` ends it.

        Args as for `process`, and:
            tta: average over mirrored images (slower).

        Raises:
            LiverTumorSegLib.errors.InputError: as `process`.
            LiverTumorSegLib.errors.ResourceError: the disk is full.
        """
        from LiverTumorSegGUI import nodes
        from LiverTumorSegGUI.run import Run
        from LiverTumorSegLib.protocol import Choices

        nodes.check_volume_node(volumeNode)
        if segmentationNode is not None:
            nodes.check_segmentation_node(segmentationNode, volumeNode)
        return Run(volumeNode, Choices(liverModel or None, tumorModel or None, device, flips=tta))

    def applyRun(
        self, run: Run, segmentationNode=None, lesionTableNode=None
    ) -> LiverTumorSegResult:
        """Show what the engine's process found; as `process` does."""
        from LiverTumorSegLib.protocol import read_result

        segmentation = read_result(run.folder)
        return self.showResult(
            run.volumeNode, run.seen, segmentation, segmentationNode, lesionTableNode
        )

    def readRegion(self, run: Run) -> RegionFound:
        """What the engine's process found at a point."""
        return run.region()

    def showResult(
        self,
        volumeNode,
        seen: Seen,
        segmentation: Segmentation,
        segmentationNode=None,
        lesionTableNode=None,
    ) -> LiverTumorSegResult:
        """Segments and table from a segmentation; the one way from labels to nodes.

        Args:
            volumeNode: the CT.
            seen: the CT as it was segmented.
            segmentation: what the networks found.
            segmentationNode: as for `process`.
            lesionTableNode: as for `process`.

        Raises:
            LiverTumorSegLib.errors.InputError: a node is gone, or the result does not fit the CT
                any more. The scene stays as it is then.
        """
        from LiverTumorSegGUI import nodes, run
        from LiverTumorSegLib.measure import measure

        nodes.check_in_scene(volumeNode, segmentationNode, lesionTableNode)
        changes = run.changes(volumeNode, seen)
        volume = nodes.volume_from_node(volumeNode)
        labels = segmentation.labels
        measurement, lesionMap = measure(
            volume, labels, segmentation.tumor_probability, segmentation.confidence
        )

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
            volume.repairs + segmentation.warnings + changes + nodes.transform_warnings(volumeNode),
            segmentation.tumor_probability,
        )

    def runEngine(
        self,
        volume: Volume,
        liverModel: str | None,
        tumorModel: str | None,
        device: str,
        onProgress: Callable[[str, float], None] | None,
    ) -> Segmentation:
        """What the networks find. The one place that needs PyTorch in Slicer's own process."""
        from LiverTumorSegLib.checkpoint import load_models
        from LiverTumorSegLib.segment import segment

        result = segment(
            volume,
            *load_models(liverModel, tumorModel),
            device=device,
            probabilities=True,
            on_progress=onProgress,
        )
        logging.info("LiverTumorSeg: seconds by stage %s", result.timings_s)
        return result


class LiverTumorSegTest(ScriptedLoadableModuleTest):
    """Runs in any Slicer: no download, no installation, no network, no PyTorch."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run all tests, as the button Reload and Test does."""
        self.setUp()
        self.test_process_shows_what_the_engine_found()
        self.setUp()
        self.test_review_rejects_and_takes_back()

    def process(self) -> LiverTumorSegResult:
        """What the logic makes of a made-up CT with a liver and one tumor in it."""
        import numpy as np

        from LiverTumorSegLib.segmentation import Segmentation

        self.labels = np.zeros((20, 30, 40), dtype=np.uint8)
        self.labels[4:16, 5:25, 6:34] = 1
        self.labels[6:10, 8:14, 10:18] = 2
        hu = np.where(self.labels == 2, 60, np.where(self.labels == 1, 110, -50))
        self.volumeNode = slicer.util.addVolumeFromArray(
            hu.astype(np.int16), np.diag([-1, -1, 2.5, 1]), "Made-up CT"
        )
        logic = LiverTumorSegLogic()
        logic.runEngine = lambda *arguments: Segmentation(self.labels)
        return logic.process(self.volumeNode)

    def test_process_shows_what_the_engine_found(self) -> None:
        """A made-up CT and made-up labels: segments and table must say the same."""
        import numpy as np

        self.delayDisplay("Segments and table from known labels")
        result = self.process()

        segmentation = result.segmentationNode.GetSegmentation()
        assert list(segmentation.GetSegmentIDs()) == ["liver", "tumor_1"]
        for segmentId, expected in (("liver", self.labels > 0), ("tumor_1", self.labels == 2)):
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(
                result.segmentationNode, segmentId, self.volumeNode
            )
            assert np.array_equal(mask > 0, expected)
        table = result.lesionTableNode.GetTable()
        assert table.GetNumberOfRows() == 1
        volume_ml = 4 * 6 * 8 * 2.5 / 1000
        assert abs(table.GetColumnByName("volume_ml").GetValue(0) - volume_ml) < 1e-9
        assert table.GetColumnByName("mean_hu").GetValue(0) == 60
        self.delayDisplay("Test passed")

    def test_review_rejects_and_takes_back(self) -> None:
        """A rejected lesion no longer counts; undo brings it back."""
        from LiverTumorSegGUI.review import PENDING, REJECTED, Review

        self.delayDisplay("Reject a lesion and undo it")
        result = self.process()
        review = Review(self.volumeNode, result.segmentationNode, result.lesionTableNode)
        review.reject(["tumor_1"])
        assert review.row("tumor_1").status == REJECTED
        assert review.measurement().lesions == ()
        review.undo()
        assert review.row("tumor_1").status == PENDING
        assert review.measurement() == result.measurement
        review.close()
        self.delayDisplay("Test passed")
