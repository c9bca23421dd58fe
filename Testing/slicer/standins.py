"""Stand-ins for the Python files of the Slicer desktop that the slicer-core wheel leaves out.

Written for these tests: the base classes of a scripted module, the parameter node with its binding
to a panel, and the translation functions, reduced to what this module needs.
"""
# ruff: noqa: N802, N803, N807

from __future__ import annotations

import enum
import sys
import types
import typing
import unittest
from pathlib import Path

import slicer


class ScriptedLoadableModule:
    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__

    def getDefaultModuleDocumentationLink(self):
        return ""


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        self.parent = parent
        self.layout = parent and parent.layout()
        self.moduleName = type(self).__name__.removesuffix("Widget")

    def setup(self):
        pass

    def cleanup(self):
        pass

    def resourcePath(self, name):
        module = sys.modules[type(self).__module__]
        return str(Path(module.__file__).parent / "Resources" / name)

    def onReload(self):
        pass


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self):
        """The module's one vtkMRMLScriptedModuleNode in the scene, made when missing."""
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetAttribute("ModuleName", self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def delayDisplay(self, message, msec=0):
        pass


class WithinRange(typing.NamedTuple):
    """An annotation: the range of a number."""

    minimum: float
    maximum: float


def parameterNodeWrapper(cls):
    """Typed attributes that are kept in a parameter node, and their binding to widgets."""
    kinds = typing.get_type_hints(cls, include_extras=True)
    for name, kind in kinds.items():
        setattr(cls, name, _Parameter(name, kind, getattr(cls, name, None)))

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode
        self._bound, self._showing = {}, False

    cls.__init__ = __init__
    cls.allParameters = kinds
    cls.connectGui, cls.disconnectGui = _connect_gui, _disconnect_gui
    for name in ("AddObserver", "RemoveObserver"):
        setattr(cls, name, _of_the_node(name))
    return cls


def _of_the_node(name):
    return lambda self, *arguments: getattr(self.parameterNode, name)(*arguments)


class _Parameter:
    """One typed attribute: a node reference, or a value stored as text."""

    def __init__(self, name, annotated, default):
        self.name = name
        kind, *notes = typing.get_args(annotated) or (annotated,)
        self.kind = kind
        self.range = next((note for note in notes if isinstance(note, WithinRange)), None)
        self.is_node = issubclass(kind, slicer.vtkMRMLNode)
        self.default = default if default is not None or self.is_node else kind()

    def __get__(self, wrapper, owner=None):
        if wrapper is None:
            return self
        node = wrapper.parameterNode
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if not node.HasParameter(self.name) or (self.kind is not str and text == ""):
            return self.default
        if issubclass(self.kind, enum.Enum):
            return self.kind[text]
        return text == "True" if self.kind is bool else self.kind(text)

    def __set__(self, wrapper, value):
        if self.is_node:
            wrapper.parameterNode.SetNodeReferenceID(self.name, value and value.GetID())
            return
        if self.range and not self.range.minimum <= value <= self.range.maximum:
            raise ValueError(f"{self.name}: {value} is not within {self.range}")
        text = value.name if isinstance(value, enum.Enum) else str(value)
        wrapper.parameterNode.SetParameter(self.name, text)


# For a widget class the types it can show, how it is read and written, and its signal.
class _Binding(typing.NamedTuple):
    kinds: tuple[type, ...]
    read: typing.Callable
    write: typing.Callable
    signal: str


BINDINGS = {
    "QCheckBox": _Binding(
        (bool,),
        lambda widget, kind: widget.checked,
        lambda widget, value: setattr(widget, "checked", value),
        "toggled(bool)",
    ),
    "ctkSliderWidget": _Binding(
        (float,),
        lambda widget, kind: widget.value,
        lambda widget, value: setattr(widget, "value", value),
        "valueChanged(double)",
    ),
    "QComboBox": _Binding(
        (enum.Enum,),
        lambda widget, kind: list(kind)[widget.currentIndex],
        lambda widget, value: setattr(widget, "currentIndex", list(type(value)).index(value)),
        "currentIndexChanged(int)",
    ),
    "qMRMLNodeComboBox": _Binding(
        (slicer.vtkMRMLNode,),
        lambda widget, kind: widget.currentNode(),
        lambda widget, value: widget.setCurrentNode(value),
        "currentNodeChanged(vtkMRMLNode*)",
    ),
}


def _connect_gui(self, ui):
    """Bind each widget with a dynamic property SlicerParameterName; its name must be declared."""
    bound = []
    for widget in vars(ui).values():
        name = widget.property("SlicerParameterName")
        if not name:
            continue
        if name not in self.allParameters:
            raise ValueError(f"{widget.objectName()}: there is no parameter {name!r}")
        parameter = getattr(type(self), name)
        binding = BINDINGS.get(type(widget).__name__)
        if binding is None or not issubclass(parameter.kind, binding.kinds):
            raise TypeError(f"{widget.objectName()} cannot show {name!r}, {parameter.kind}")
        if issubclass(parameter.kind, enum.Enum):
            widget.clear()
            for member in parameter.kind:
                widget.addItem(member.label())
        if parameter.range:
            widget.minimum, widget.maximum = parameter.range

        def changed(*_, widget=widget, binding=binding, parameter=parameter):
            if not self._showing:
                setattr(self, parameter.name, binding.read(widget, parameter.kind))

        bound.append((widget, binding, parameter, changed))

    def show(caller=None, event=None):
        if self._showing:
            return
        self._showing = True
        for widget, binding, parameter, _ in bound:
            binding.write(widget, getattr(self, parameter.name))
        self._showing = False

    show()
    for widget, binding, _, changed in bound:
        widget.connect(binding.signal, changed)
    tag = self.parameterNode.AddObserver("ModifiedEvent", show)
    self._bound[tag] = bound
    return tag


def _disconnect_gui(self, tag):
    self.parameterNode.RemoveObserver(tag)
    for widget, binding, _, changed in self._bound.pop(tag):
        widget.disconnect(binding.signal, changed)


def install(slicer_source: str | None = None) -> None:
    """Make `slicer.ScriptedLoadableModule`, `.parameterNodeWrapper` and `.i18n` importable.

    Args:
        slicer_source: a Slicer source tree whose own files are to be used, which need `qt` and
            `ctk`. None: those of this file.
    """
    if "slicer.i18n" in sys.modules:
        return
    if slicer_source:
        folder = Path(slicer_source) / "Base" / "Python" / "slicer"
        if not (folder / "ScriptedLoadableModule.py").is_file():
            raise FileNotFoundError(f"{slicer_source} is no Slicer source tree: no {folder}")
        slicer.__path__.append(str(folder))
        return
    _add_module(
        "ScriptedLoadableModule",
        ScriptedLoadableModule=ScriptedLoadableModule,
        ScriptedLoadableModuleWidget=ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic=ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest=ScriptedLoadableModuleTest,
    )
    _add_module(
        "parameterNodeWrapper", parameterNodeWrapper=parameterNodeWrapper, WithinRange=WithinRange
    )
    _add_module("i18n", tr=lambda text: text, translate=lambda context, text: text)


def _add_module(name: str, **content) -> None:
    module = types.ModuleType(f"slicer.{name}")
    vars(module).update(content)
    sys.modules[module.__name__] = module
    setattr(slicer, name, module)
