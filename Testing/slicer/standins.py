"""Stand-ins for the Python files of the Slicer desktop that the slicer-core wheel leaves out.

Written for these tests: the base classes of a scripted module, the parameter node decorator and the
translation functions, reduced to what a logic and a self test need. No widget is built on them.
"""
# ruff: noqa: N802, N803, N807

from __future__ import annotations

import sys
import types
import typing
import unittest

import slicer


class ScriptedLoadableModule:
    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        self.parent = parent

    def setup(self):
        pass

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


def parameterNodeWrapper(cls):
    """Typed attributes on a parameter node; node references go through the real node."""
    for name, kind in typing.get_type_hints(cls).items():
        if isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode):
            setattr(cls, name, _node_reference(name))
        elif not hasattr(cls, name):
            setattr(cls, name, kind())

    def __init__(self, parameterNode):
        self.parameterNode = parameterNode

    cls.__init__ = __init__
    return cls


def _node_reference(name):
    return property(
        lambda self: self.parameterNode.GetNodeReference(name),
        lambda self, node: self.parameterNode.SetNodeReferenceID(name, node and node.GetID()),
    )


def install() -> None:
    """Make `slicer.ScriptedLoadableModule`, `.parameterNodeWrapper` and `.i18n` importable."""
    _add_module(
        "ScriptedLoadableModule",
        ScriptedLoadableModule=ScriptedLoadableModule,
        ScriptedLoadableModuleWidget=ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic=ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest=ScriptedLoadableModuleTest,
    )
    _add_module("parameterNodeWrapper", parameterNodeWrapper=parameterNodeWrapper)
    _add_module("i18n", tr=lambda text: text, translate=lambda context, text: text)


def _add_module(name: str, **content) -> None:
    module = types.ModuleType(f"slicer.{name}")
    vars(module).update(content)
    sys.modules[module.__name__] = module
    setattr(slicer, name, module)
