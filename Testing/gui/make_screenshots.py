"""Draws the panel in its main states: choices made, running, lesions under review.

    .venv/bin/python Testing/gui/make_screenshots.py

runs the embedded models on the sample CT (minutes on two cores) and writes the pictures into
LiverTumorSeg/Resources/Screenshots. They are drawn by Qt in the test harness, in Qt's plainest
style: captions must say so. In Slicer the same panel has Slicer's style.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "slicer"))

import desktop
import miniscene
import slicer
import slicer.util

FOLDER = desktop.ROOT / "LiverTumorSeg" / "Resources" / "Screenshots"
SAMPLE = desktop.ROOT / "Testing" / "data" / "hcc006_arterial.nii.gz"
WIDTH = 480


def save(panel: desktop.Panel, name: str) -> None:
    """Write a picture of the panel, as high as it needs."""
    desktop.settle(0.2)
    panel.window.resize(WIDTH, 100)
    panel.window.show()
    desktop.settle(0.2)
    panel.window.resize(WIDTH, panel.window.sizeHint().height())
    desktop.settle(0.2)
    panel.window.grab().save(str(FOLDER / name))


def main() -> None:
    """Open the panel and use it."""
    desktop.install()
    import LiverTumorSeg as module

    miniscene.start()
    with tempfile.TemporaryDirectory() as folder:
        slicer.app = desktop.App(Path(folder))
        panel = desktop.Panel(module)
        ui, job = panel.ui, panel.widget._job
        slicer.modules.volumes.logic().AddArchetypeVolume(str(SAMPLE), "hcc006_arterial")
        desktop.settle()
        ui.inputDetailsButton.click()
        save(panel, "panel_input.png")
        ui.inputDetailsButton.click()
        ui.applyButton.click()
        desktop.wait_until(lambda: "Finding tumors, " in ui.statusLabel.text, 3600)
        save(panel, "panel_running.png")
        desktop.wait_until(lambda: not job.busy, 3600)
        ui.lesionTableWidget.selectRow(0)
        ui.acceptButton.click()
        save(panel, "panel_review.png")
        panel.close()


if __name__ == "__main__":
    main()
