"""The harness itself: what a panel could get wrong must not pass in silence."""

from __future__ import annotations

import pytest
import qt
import slicer
import slicer.util
from desktop import settle

UI = """<?xml version="1.0"?>
<ui version="4.0"><class>Top</class>
 <widget class="qMRMLWidget" name="Top">
  <layout class="QVBoxLayout" name="layout">
   <item><widget class="{kind}" name="part"><property name="{name}"><bool>false</bool></property>
   </widget></item>
  </layout>
 </widget>
 <connections><connection>
  <sender>Top</sender><signal>{signal}</signal><receiver>{receiver}</receiver>
  <slot>setMRMLScene(vtkMRMLScene*)</slot>
 </connection></connections>
</ui>
"""
GOOD = {
    "kind": "qMRMLNodeComboBox",
    "name": "addEnabled",
    "signal": "mrmlSceneChanged(vtkMRMLScene*)",
    "receiver": "part",
}


@pytest.fixture
def load(scene, app, tmp_path):
    def load(**changes):
        path = tmp_path / "Top.ui"
        path.write_text(UI.format(**{**GOOD, **changes}))
        return slicer.util.loadUI(str(path))

    return load


def test_a_ui_is_loaded_and_connected(load, scene):
    top = load()
    part = slicer.util.childWidgetVariables(top).part
    top.setMRMLScene(scene)
    part.nodeTypes = ["vtkMRMLTableNode"]
    table = scene.AddNewNodeByClass("vtkMRMLTableNode")
    settle()
    assert part.currentNode() is table
    assert part.addEnabled is False


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "qMRMLNodeComboBoks"},
        {"name": "adEnabled"},
        {"signal": "mrmlSceneChangd(vtkMRMLScene*)"},
        {"receiver": "prt"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_misspelled_ui_does_not_load(load, changes):
    with pytest.raises((RuntimeError, AttributeError)):
        load(**changes)


def test_properties_are_attributes_and_signals_have_signatures(app):
    button, clicks = qt.QPushButton(), []
    button.name, button.text, button.checkable = "go", "Go", True
    assert (button.name, button.text, button.objectName()) == ("go", "Go", "go")
    button.connect("clicked(bool)", clicks.append)
    button.click()
    button.disconnect("clicked(bool)", clicks.append)
    button.click()
    assert clicks == [True]


def test_what_pythonqt_does_not_have_raises(app):
    button = qt.QPushButton()
    with pytest.raises(AttributeError, match="txt"):
        button.txt = "Go"
    with pytest.raises(AttributeError, match="cliked"):
        button.connect("cliked(bool)", print)
    with pytest.raises(TypeError, match="enabled"):
        button.enabled = object()


def test_an_exception_in_a_slot_is_a_complaint(app, complaints):
    button = qt.QPushButton()
    button.connect("clicked(bool)", lambda checked: 1 / 0)
    button.click()
    assert [text.partition(":")[0] for text in complaints] == ["ZeroDivisionError"]
    complaints.clear()


def test_an_exception_in_an_observer_is_a_complaint(scene, complaints):
    node = scene.AddNewNodeByClass("vtkMRMLTableNode")
    node.AddObserver("ModifiedEvent", lambda caller, event: 1 / 0)
    node.Modified()
    assert [text.partition(":")[0] for text in complaints] == ["ZeroDivisionError"]
    complaints.clear()
