"""A real MRML scene without the desktop: what `slicer.mrmlScene` and `slicer.modules` need."""

from __future__ import annotations

import functools
import types

import slicer
import slicer.util
from vtkmodules.vtkCommonCore import vtkCollection, vtkOutputWindow

MODULE_LOGICS = {
    "volumes": slicer.vtkSlicerVolumesLogic,
    "segmentations": slicer.vtkSlicerSegmentationsModuleLogic,
    "subjecthierarchy": slicer.vtkSlicerSubjectHierarchyModuleLogic,
    "markups": slicer.vtkSlicerMarkupsLogic,
    "tables": slicer.vtkSlicerTablesLogic,
    "transforms": slicer.vtkSlicerTransformLogic,
}


@functools.cache
def start():
    """The application logic; sets `slicer.mrmlScene` and `slicer.modules` as the desktop does."""
    window = vtkOutputWindow()
    window.SetDisplayModeToAlwaysStdErr()
    vtkOutputWindow.SetInstance(window)
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    color_logic = logic.GetColorLogic()
    color_logic.SetMRMLScene(scene)
    color_logic.AddDefaultColorNodes()
    logic.SetModuleLogic("Colors", color_logic)
    logic.SetSliceLogics(vtkCollection())
    logic.SetViewLogics(vtkCollection())
    slicer.modules = types.SimpleNamespace()
    for name, logic_class in MODULE_LOGICS.items():
        module_logic = logic_class()
        module_logic.SetMRMLScene(scene)  # registers the node classes of the module
        module_logic.SetMRMLApplicationLogic(logic)
        logic.SetModuleLogic(name.capitalize(), module_logic)
        module = types.SimpleNamespace(logic=lambda module_logic=module_logic: module_logic)
        setattr(slicer.modules, name, module)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    slicer.mrmlScene = scene
    return logic
