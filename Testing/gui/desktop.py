"""Plays the Slicer desktop: `qt`, `ctk`, `slicer.app`, the module manager and the module's panel.

The scene, the .ui and the widget class are real; Qt is PySide6's, drawn offscreen.
"""
# ruff: noqa: N801, N802, N815  (the names are those of Qt and Slicer)

from __future__ import annotations

import os
import sys
import time
import types
from pathlib import Path

import miniscene
import slicer
import slicer.util
import standins
from PySide6 import QtCore, QtWidgets
from pythonqt import QT, make_qt
from slicer_widgets import MRML, NAMED_ONLY_MRML, UiLoader, forget, make_ctk, qMRMLWidget

ROOT = Path(__file__).resolve().parents[2]


def qt_application() -> QtWidgets.QApplication:
    """The one QApplication, in Qt's plainest style so that pictures are the same everywhere."""
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["tests"])
    application.setStyle("Fusion")
    return application


def install() -> None:
    """Make `qt`, `ctk` and the module importable as in Slicer.

    Where the environment variable SLICER_SOURCE names a Slicer source tree, its own Python files
    play the base classes, the parameter node and its binding to widgets, else those of standins.py.
    """
    qt_application()
    sys.modules.setdefault("qt", make_qt(UiLoader))
    sys.modules.setdefault("ctk", make_ctk())
    for kind in MRML:
        setattr(slicer, kind.__name__, kind)
    for name in NAMED_ONLY_MRML:
        setattr(slicer, name, type(name, (), {}))
    standins.install(os.environ.get("SLICER_SOURCE"))
    if str(ROOT / "LiverTumorSeg") not in sys.path:
        sys.path.append(str(ROOT / "LiverTumorSeg"))  # Slicer does this for a module's folder


class ModuleManager(QT.QObject):
    moduleAboutToBeUnloaded = QtCore.Signal(str)
    signals = {"moduleAboutToBeUnloaded(QString)": "moduleAboutToBeUnloaded"}


class App:
    """What modules ask of `slicer.app`."""

    applicationName = "Slicer"

    def __init__(self, folder: Path) -> None:
        self.temporaryPath = str(folder)
        self._settings = QtCore.QSettings(str(folder / "s.ini"), QtCore.QSettings.Format.IniFormat)
        self._manager = ModuleManager()
        self.slots = {}

    def connect(self, signature, slot):
        self.slots[signature] = slot

    def processEvents(self):
        QtWidgets.QApplication.processEvents()

    def testingEnabled(self):
        return False

    def moduleManager(self):
        return self._manager

    def applicationLogic(self):
        return miniscene.start()

    def userSettings(self):
        return self._settings

    settings = userSettings

    def setOverrideCursor(self, cursor):
        QtWidgets.QApplication.setOverrideCursor(cursor)

    def restoreOverrideCursor(self):
        QtWidgets.QApplication.restoreOverrideCursor()

    def translate(self, context, text):
        return text

    def moduleDocumentationUrl(self, name):
        return f"https://slicer.readthedocs.io/{name}"


class Panel:
    """The module's widget in a window, as after its first opening by the user."""

    def __init__(self, module: types.ModuleType) -> None:
        path = module.__file__
        slicer.modules.livertumorseg = types.SimpleNamespace(path=path, name="LiverTumorSeg")
        self.window = qMRMLWidget()
        self.window.setLayout(QT.QVBoxLayout())
        self.window.setMRMLScene(slicer.mrmlScene)
        self.widget = module.LiverTumorSegWidget(self.window)
        try:
            self.widget.setup()
            self.ui = self.widget.ui
            self.enter()
        except BaseException:
            self.widget.removeObservers()
            forget(self.window)
            raise

    @property
    def parameters(self):
        return self.widget._parameterNode

    def enter(self) -> None:
        self.window.isEntered = True
        self.widget.enter()

    def leave(self) -> None:
        self.window.isEntered = False
        self.widget.exit()

    def close(self) -> None:
        """What happens when Slicer exits or reloads the module."""
        if self.window.isEntered:
            self.leave()
        self.widget.cleanup()
        slicer.modules.__dict__.pop("livertumorseg", None)
        forget(self.window)
        self.window.delete()
        QtWidgets.QApplication.processEvents()


def wait_until(condition, seconds: float = 60) -> None:
    """Let Qt work until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still waiting after {seconds} s"
        QtWidgets.QApplication.processEvents()
        time.sleep(0.005)


def settle(seconds: float = 0.0) -> None:
    """Let Qt work off what is due."""
    end = time.monotonic() + seconds
    while True:
        for _ in range(5):
            QtWidgets.QApplication.processEvents()
        if time.monotonic() >= end:
            return
        time.sleep(0.005)
