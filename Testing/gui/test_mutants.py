"""Planted bugs of the kind that panels have: the harness and one walk through the panel find each.

Without them a harness of stand-ins could be too forgiving to prove anything.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys

import desktop
import numpy as np
import pytest
import slicer
import slicer.util
from desktop import ROOT, settle

from LiverTumorSegLib.errors import InputError

SOURCE = ROOT / "LiverTumorSeg"
PY, UI = "LiverTumorSeg.py", "Resources/UI/LiverTumorSeg.ui"

SCENE_CONNECTION = re.compile(
    r"  <connection>\s*<sender>LiverTumorSeg</sender>\s*<signal>mrmlSceneChanged.*?</signal>\s*"
    r"<receiver>inputSelector</receiver>.*?</connection>\n",
    re.DOTALL,
)
# What is changed, and how that must show: file, old, new, pattern of the complaint.
MUTANTS = {
    "parameter name misspelled": (UI, ">inputVolume<", ">inputVolme<", "inputVolme"),
    "parameter of another widget": (UI, ">quality<", ">showDiameters<", r"False\) == .* True"),
    "scene connection missing": (UI, SCENE_CONNECTION, "", "assert None is .*ScalarVolume"),
    "widget renamed": (UI, 'name="applyButton"', 'name="runButton"', "applyButton"),
    "wrong kind of widget": (
        UI,
        'class="QCheckBox" name="quality',
        'class="QLabel" name="quality',
        "quality|QLabel",
    ),
    "signal misspelled": (
        PY,
        'applyButton.connect("clicked(',
        'applyButton.connect("cliked(',
        "cliked",
    ),
    "property misspelled": (PY, "ui.applyButton.toolTip", "ui.applyButton.tooltip", "tooltip"),
    "never unbound": (
        PY,
        "self._parameterNode.disconnectGui(self._parameterNodeGuiTag)",
        "pass",
        "assert 'auto' == 'cpu'",
    ),
    "scene close unnoticed": (PY, "scene.EndCloseEvent", "scene.StartSaveEvent", "inputVolume"),
    "observers left behind": (PY, "        self.removeObservers()\n", "", r"== \[\]"),
    "choice not passed on": (PY, "tta=parameters.quality", "tta=False", r"False\) == .* True"),
    "wrong card": (PY, '_showCard("tumor"', '_showCard("liver"', "Model starter-liver"),
}


def add_ct(name: str):
    hu = np.full((40, 50, 60), -1000, dtype=np.int16)
    hu[2:-2, 4:-4, 4:-4] = 60
    node = slicer.util.addVolumeFromArray(hu, np.diag([4.0, 4.0, 4.0, 1.0]), name)
    settle()
    return node


def walk(module, scene) -> None:
    """What every user does; asserts on the way."""
    panel = desktop.Panel(module)
    ui, started = panel.ui, []
    try:
        volume = add_ct("CT")
        assert panel.parameters.inputVolume is volume
        assert ui.applyButton.enabled
        ui.deviceSelector.currentIndex = 3
        ui.qualityCheckBox.checked = True
        assert (panel.parameters.device.value, panel.parameters.quality) == ("cpu", True)

        def begin(*arguments, **choices):
            started.append(choices)
            raise InputError("The disk is full.")

        panel.widget.logic.beginRun = begin
        ui.applyButton.click()
        assert (started[0]["device"], started[0]["tta"]) == ("cpu", True)
        assert ui.statusLabel.text == "The disk is full."
        ui.tumorCardButton.click()
        assert panel.widget._card.windowTitle == "Model starter-tumor"
        panel.widget._card.close()

        panel.leave()
        ui.deviceSelector.currentIndex = 0
        panel.enter()
        assert panel.parameters.device.value == "cpu"
        scene.Clear(0)
        settle()
        assert panel.parameters.inputVolume is None
        assert not ui.applyButton.enabled
        add_ct("next")
        assert panel.parameters.inputVolume.GetName() == "next"
    finally:
        panel.close()
    try:
        assert panel.widget.Observations == []
    finally:
        panel.widget.removeObservers()


def load(folder, name: str):
    """The module file of a folder, as Slicer loads it."""
    spec = importlib.util.spec_from_file_location(name, folder / PY)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Function that loads a copy of the module with one change."""
    from LiverTumorSegGUI import dependencies

    monkeypatch.setattr(dependencies, "ensure_dependencies", lambda path: None)
    folder = tmp_path / "LiverTumorSeg"
    shutil.copytree(SOURCE / "Resources", folder / "Resources")
    shutil.copy(SOURCE / PY, folder)

    def change(file, old, new):
        path = folder / file
        text = path.read_text(encoding="utf-8")
        old = old if isinstance(old, re.Pattern) else re.compile(re.escape(old))
        changed, count = old.subn(lambda match: new, text, count=1)
        assert count == 1, "the planted bug has no place any more"
        path.write_text(changed, encoding="utf-8")
        name = f"Mutant{abs(hash(tmp_path))}"
        monkeypatch.setitem(sys.modules, name, None)
        return load(folder, name)

    return change


def test_the_module_itself_passes(copy, scene, app):
    walk(copy(PY, '"""Slicer module', '"""Slicer module'), scene)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_is_found(mutant, copy, scene, app, complaints):
    *change, expected = MUTANTS[mutant]
    module = copy(*change)
    found = None
    try:
        walk(module, scene)
    except Exception as error:  # noqa: BLE001  (whatever way it is found)
        found = error
    settle()
    what = " ".join([f"{type(found).__name__}: {found}" if found else "", *complaints])
    assert re.search(expected, what), what
    complaints.clear()
