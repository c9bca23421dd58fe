"""The real .ui and the real widget class on a real scene, with PySide6 in the place of PythonQt.

Shown by these tests: that the .ui is whole and bound, when Apply is enabled and why not, a run with
its progress, Cancel and every way it can end, the table, the life cycle. Not shown, because these
are stand-ins: Slicer's own widgets, its style, PythonQt's ownership of objects, the views.

Any exception in a slot or an observer, and any warning of Qt, fails the test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "slicer"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

import desktop  # noqa: E402
import miniscene  # noqa: E402
import slicer  # noqa: E402
import slicer.util  # noqa: E402
import slicer_widgets  # noqa: E402
from PySide6 import QtCore  # noqa: E402

from Testing.own_folders import folders_of_their_own as folders_of_their_own  # noqa: E402
from Testing.report_schema import (  # noqa: E402
    reports_that_fit_the_schema as reports_that_fit_the_schema,
)

desktop.install()


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.path).parent == HERE:
            item.add_marker(pytest.mark.slicer)


@pytest.fixture(autouse=True)
def complaints(monkeypatch):
    """What went wrong where no caller could see it: in slots, observers, and Qt itself."""
    found = []

    def on_exception(kind, error, traceback):
        found.append(f"{kind.__name__}: {error}")
        sys.__excepthook__(kind, error, traceback)

    monkeypatch.setattr(sys, "excepthook", on_exception)
    # What the offscreen platform lacks is fine, and nothing else.
    harmless = ("This plugin does not support", "propagateSizeHints")
    before = QtCore.qInstallMessageHandler(
        lambda kind, context, text: None if text.startswith(harmless) else found.append(text)
    )
    yield found
    QtCore.qInstallMessageHandler(before)
    assert found == []


@pytest.fixture
def scene():
    """The scene, empty but for its singletons."""
    miniscene.start()
    slicer.mrmlScene.Clear()
    yield slicer.mrmlScene
    slicer_widgets.stop_observing()
    slicer.mrmlScene.Clear()


class Dialogs:
    """Every dialog that was shown, and what the user answers."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []
        self.answer = True

    def texts(self, kind: str) -> list[str]:
        return [text for shown, text in self.shown if shown == kind]

    def ask(self, text, *arguments, **options):
        self.shown.append(("question", text))
        return self.answer

    def tell(self, kind):
        return lambda text, *arguments, **options: self.shown.append((kind, text))


@pytest.fixture(autouse=True)
def dialogs(monkeypatch):
    """Slicer's dialogs, which would wait for a click."""
    recorder = Dialogs()
    for name in ("confirmOkCancelDisplay", "confirmYesNoDisplay"):
        monkeypatch.setattr(slicer.util, name, recorder.ask)
    for kind in ("error", "warning", "info"):
        monkeypatch.setattr(slicer.util, f"{kind}Display", recorder.tell(kind))
    return recorder


@pytest.fixture
def app(monkeypatch, tmp_path):
    """`slicer.app`, for this test only: elsewhere its absence is what slicer-core has."""
    application = desktop.App(tmp_path)
    monkeypatch.setattr(slicer, "app", application, raising=False)
    return application


@pytest.fixture
def panel(scene, app):
    """The panel, opened."""
    import LiverTumorSeg

    opened = desktop.Panel(LiverTumorSeg)
    yield opened
    opened.close()
