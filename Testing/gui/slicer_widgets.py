"""Stand-ins for the widgets of CTK and Slicer that our .ui names, and the loader of .ui files.

Each has the properties, signals and slots that the panel uses, under their real names; the node
selector shows the nodes of a real MRML scene. A widget class that is not here, a connection
between unknown objects, a property that a stand-in does not have: the loader raises.
"""
# ruff: noqa: N801, N802, N815  (the names are those of Qt and Slicer)

from __future__ import annotations

import types
import xml.etree.ElementTree as ET

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from PySide6.QtCore import Property, Qt, Signal
from pythonqt import QT, signal_of

HEAD = 24  # height of a collapsible button's head, pixels


class ctkCollapsibleButton(QT.QWidget):
    contentsCollapsed = Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._text, self._collapsed = "", False
        self.setContentsMargins(0, HEAD + 2, 0, 0)

    def _get_text(self):
        return self._text

    def _set_text(self, text):
        self._text = text
        self.update()

    def _get_collapsed(self):
        return self._collapsed

    def _set_collapsed(self, collapsed):
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self._show_or_hide()
        self.contentsCollapsed.emit(collapsed)

    text = Property(str, _get_text, _set_text)
    collapsed = Property(bool, _get_collapsed, _set_collapsed)

    def _show_or_hide(self):
        for child in self.children():
            if child.isWidgetType():
                child.setVisible(not self._collapsed)
        self.setMaximumHeight(HEAD + 2 if self._collapsed else 16777215)

    def showEvent(self, event):
        if self._collapsed:
            self._show_or_hide()
        super().showEvent(event)

    def mousePressEvent(self, event):
        if event.position().y() < HEAD:
            self._set_collapsed(not self._collapsed)

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.size().width(), HEAD)
        option.text = ("\u25b8 " if self._collapsed else "\u25be ") + self._text
        option.state |= QtWidgets.QStyle.StateFlag.State_Raised
        self.style().drawControl(
            QtWidgets.QStyle.ControlElement.CE_PushButton, option, painter, self
        )
        painter.end()


class ctkSliderWidget(QT.QWidget):
    """A slider and a spin box of one value."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._value, self._minimum, self._maximum, self._decimals = 0.0, 0.0, 99.0, 2
        self._slider, self._box = QtWidgets.QSlider(Qt.Horizontal), QtWidgets.QDoubleSpinBox()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider)
        row.addWidget(self._box)
        self._slider.valueChanged.connect(lambda step: self._take(self._value_of(step)))
        self._box.valueChanged.connect(self._take)
        self._show()

    def _value_of(self, step):
        return self._minimum + step * 10.0**-self._decimals

    def _show(self):
        for part in (self._slider, self._box):
            part.blockSignals(True)
        self._box.setDecimals(self._decimals)
        self._box.setRange(self._minimum, self._maximum)
        self._box.setSingleStep(10.0**-self._decimals)
        self._box.setValue(self._value)
        scale = 10.0**self._decimals
        self._slider.setRange(0, round((self._maximum - self._minimum) * scale))
        self._slider.setValue(round((self._value - self._minimum) * scale))
        for part in (self._slider, self._box):
            part.blockSignals(False)

    def _take(self, value):
        value = round(min(max(value, self._minimum), self._maximum), self._decimals)
        changed = value != self._value
        self._value = value
        self._show()
        if changed:
            self.valueChanged.emit(value)

    def _take_range(self, minimum, maximum):
        self._minimum, self._maximum = minimum, maximum
        self._take(self._value)

    value = Property(float, lambda self: self._value, lambda self, value: self._take(value))
    minimum = Property(
        float,
        lambda self: self._minimum,
        lambda self, value: self._take_range(value, self._maximum),
    )
    maximum = Property(
        float,
        lambda self: self._maximum,
        lambda self, value: self._take_range(self._minimum, value),
    )
    decimals = Property(
        int, lambda self: self._decimals, lambda self, value: setattr(self, "_decimals", value)
    )
    singleStep = Property(float, lambda self: 10.0**-self._decimals, lambda self, value: None)


class ctkMessageBox(QT.QMessageBox):
    pass


class qMRMLWidget(QT.QWidget):
    mrmlSceneChanged = Signal(object)
    signals = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None
        self._entered = False

    # qSlicerAbstractModuleWidget has this one; here it is the panel's parent as well.
    isEntered = Property(
        bool, lambda self: self._entered, lambda self, value: setattr(self, "_entered", value)
    )

    def setMRMLScene(self, scene):
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return self._scene


def _kept(kind, name, default):
    """A property that is only remembered, and after which the selector lists its nodes anew."""

    def set_value(self, value):
        self._settings[name] = value
        self._list_nodes()

    return Property(kind, lambda self: self._settings.get(name, default), set_value)


class qMRMLNodeComboBox(QT.QComboBox):
    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    signals = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeIDChanged(QString)": "currentNodeIDChanged",
    }

    nodeTypes = _kept("QStringList", "nodeTypes", [])
    noneEnabled = _kept(bool, "noneEnabled", False)
    noneDisplay = _kept(str, "noneDisplay", "None")
    showChildNodeTypes = _kept(bool, "showChildNodeTypes", True)
    showHidden = _kept(bool, "showHidden", False)
    addEnabled = _kept(bool, "addEnabled", True)
    removeEnabled = _kept(bool, "removeEnabled", True)
    renameEnabled = _kept(bool, "renameEnabled", False)
    editEnabled = _kept(bool, "editEnabled", False)
    baseName = _kept(str, "baseName", "")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._settings, self._scene, self._tags, self._ids = {}, None, [], []
        self._told = ""
        self.currentIndexChanged.connect(self._tell)

    def setMRMLScene(self, scene):
        self._stop_observing()
        self._scene = scene
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent)
            self._tags = [scene.AddObserver(event, self._on_scene_event) for event in events]
            _observing.append(self)
        self._list_nodes()

    def _stop_observing(self):
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []

    def currentNode(self):
        node_id = self._current_id()
        return self._scene.GetNodeByID(node_id) if node_id and self._scene else None

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, node_id):
        if (node_id or "") in self._ids:
            self.setCurrentIndex(self._ids.index(node_id or ""))
        elif not node_id:
            self.setCurrentIndex(-1)

    currentNodeID = Property(str, lambda self: self._current_id(), setCurrentNodeID)

    def nodeCount(self):
        return len([node_id for node_id in self._ids if node_id])

    def addNode(self, node_class=None):
        """What the entry 'Create new ...' does."""
        node = self._scene.AddNewNodeByClass(node_class or self._settings["nodeTypes"][0])
        self.setCurrentNode(node)
        return node

    def _current_id(self):
        index = QtCore.QObject.property(self, "currentIndex")
        return self._ids[index] if 0 <= index < len(self._ids) else ""

    def _on_scene_event(self, caller, event):
        if shiboken6.isValid(self):
            self._list_nodes()

    def _list_nodes(self):
        if self._scene is None:
            return
        before = self._current_id()
        self.blockSignals(True)
        self.clear()
        self._ids = []
        if self._settings.get("noneEnabled"):
            self._add(self._settings.get("noneDisplay", "None"), "")
        for index in range(self._scene.GetNumberOfNodes()):
            node = self._scene.GetNthNode(index)
            if self._shown(node):
                self._add(node.GetName(), node.GetID())
        first = 0 if self._ids else -1
        self.setCurrentIndex(self._ids.index(before) if before in self._ids else first)
        self.blockSignals(False)
        self._tell()

    def _add(self, text, node_id):
        self.addItem(text)
        self._ids.append(node_id)

    def _shown(self, node):
        if node.GetHideFromEditors() and not self._settings.get("showHidden"):
            return False
        wanted = self._settings.get("nodeTypes", [])
        if self._settings.get("showChildNodeTypes", True):
            return any(node.IsA(name) for name in wanted)
        return node.GetClassName() in wanted

    def _tell(self, index=-1):
        node_id = self._current_id()
        if node_id != self._told:
            self._told = node_id
            self.currentNodeChanged.emit(self.currentNode())
            self.currentNodeIDChanged.emit(node_id)


class qMRMLSegmentationShow3DButton(QT.QPushButton):
    """Only looks like it."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setText("Show 3D")
        self._node = None

    def setSegmentationNode(self, node):
        self._node = node

    def segmentationNode(self):
        return self._node


CTK = (ctkCollapsibleButton, ctkSliderWidget, ctkMessageBox)
MRML = (qMRMLWidget, qMRMLNodeComboBox, qMRMLSegmentationShow3DButton)
# Slicer's own Python files name these when they are imported; nothing here is built from them.
NAMED_ONLY_CTK = (
    *("ctkCheckBox", "ctkCheckablePushButton", "ctkColorPickerButton", "ctkComboBox"),
    *("ctkDirectoryButton", "ctkDoubleRangeSlider", "ctkDoubleSlider", "ctkDoubleSpinBox"),
    *("ctkPathLineEdit", "ctkRangeWidget"),
)
NAMED_ONLY_MRML = (
    *("qMRMLRangeWidget", "qMRMLSliderWidget", "qMRMLSpinBox"),
    *("qSlicerAbstractCoreModule", "qSlicerCLIModule", "qSlicerScriptedLoadableModule"),
)
STANDINS = {kind.__name__: kind for kind in CTK + MRML}


class UiLoader(QtUiTools.QUiLoader):
    """Loads a .ui with the classes above, makes its connections, and binds nothing silently."""

    def createWidget(self, class_name, parent=None, name=""):
        kind = STANDINS.get(class_name) or getattr(QT, class_name, None)
        if kind is None:
            raise RuntimeError(f"{name}: no stand-in for the widget class {class_name}")
        widget = kind(parent)
        widget.setObjectName(name)
        _alive.append(widget)
        return widget

    def createLayout(self, class_name, parent=None, name=""):
        layout = getattr(QT, class_name)()
        layout.setObjectName(name)
        _alive.append(layout)
        if isinstance(parent, QtWidgets.QWidget):
            parent.setLayout(layout)
        return layout

    def load(self, file, parent=None):
        root = ET.fromstring(bytes(QtCore.QFile.readAll(file)))
        connections = root.find("connections")
        wanted = [] if connections is None else list(connections)
        if connections is not None:
            root.remove(connections)
        _check_properties(root)
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(root))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = super().load(buffer, parent)
        if widget is None:
            raise RuntimeError(f"the .ui does not load: {self.errorString()}")
        for connection in wanted:
            _connect(widget, *(connection.find(part).text for part in _CONNECTION))
        return widget


_CONNECTION = ("sender", "signal", "receiver", "slot")
# PySide6 loses the Python half of a widget that nothing in Python refers to.
_alive: list[QtCore.QObject] = []


# Selectors that follow the scene. Qt may have deleted them; that does not end the observers.
_observing: list[qMRMLNodeComboBox] = []


def stop_observing() -> None:
    """Have no selector of any panel follow the scene any more, as when a test is over."""
    for selector in _observing:
        selector._stop_observing()
    _observing.clear()


def forget(widget) -> None:
    """Let go of what was loaded into a panel that is gone."""
    inside = {id(child) for child in [widget, *widget.findChildren(QtCore.QObject)]}
    _alive[:] = [thing for thing in _alive if id(thing) not in inside]


def _check_properties(root) -> None:
    """Qt only warns of a property that a class does not have."""
    for element in root.iter("widget"):
        class_name, name = element.get("class"), element.get("name")
        kind = STANDINS.get(class_name) or getattr(QT, class_name, None)
        if kind is None:
            raise RuntimeError(f"{name}: no stand-in for the widget class {class_name}")
        for entry in element.findall("property"):
            known = kind.staticMetaObject.indexOfProperty(entry.get("name")) >= 0
            if not known and entry.get("stdset") != "0":
                raise RuntimeError(f"{name}: {class_name} has no property {entry.get('name')}")


def _connect(top, sender: str, signal: str, receiver: str, slot: str) -> None:
    named = {thing.objectName(): thing for thing in [top, *top.findChildren(QtCore.QObject)]}
    for name in (sender, receiver):
        if name not in named:
            raise RuntimeError(f"{sender}.{signal} -> {receiver}.{slot}: no object {name}")
    method = getattr(named[receiver], slot.partition("(")[0])
    signal_of(named[sender], signal).connect(method)


def make_ctk() -> types.ModuleType:
    """The module `ctk`."""
    module = types.ModuleType("ctk")
    for kind in CTK:
        setattr(module, kind.__name__, kind)
    for name in NAMED_ONLY_CTK:
        setattr(module, name, type(name, (), {}))
    return module
