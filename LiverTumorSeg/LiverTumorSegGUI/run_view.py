"""Shows a run: Apply that becomes Cancel, the measured share done, the time left, the outcome."""

from __future__ import annotations

import time

from slicer.i18n import tr as _

STAGES = {
    "Load": _("Loading the models"),
    "Liver": _("Finding the liver"),
    "Tumor": _("Finding tumors"),
    "Liver and tumor": _("Finding liver and tumors"),
}
FIRST_GUESS_S, FIRST_GUESS_SHARE = 1.0, 0.05
"""What must be measured of a stage before its rest is estimated."""


class RunView:
    """The widgets between Apply and the review."""

    def __init__(self, ui, clock=time.monotonic) -> None:
        """clock: seconds that only grow."""
        self._ui = ui
        self._clock = clock
        self._stage = ""
        self._began = (0.0, 0.0)  # clock and fraction from which the stage's speed is measured
        self.end("")

    def begin(self, text: str) -> None:
        """A run starts: no choices can be changed, Apply cancels."""
        ui = self._ui
        self._stage = ""
        ui.inputs.enabled = ui.outputs.enabled = ui.review.enabled = False
        ui.applyButton.text = _("Cancel")
        ui.applyButton.toolTip = _("Stop; the scene stays as it is")
        ui.applyButton.enabled = True
        ui.reasonLabel.visible = False
        ui.progressBar.value = 0
        ui.progressBar.visible = True
        self.tell(text)

    def progress(self, stage: str, fraction: float) -> None:
        """Share done (0 to 1) of a stage, as the engine counted it."""
        now = self._clock()
        if stage != self._stage or self._began[1] == 0:  # the first window waits for the network
            self._stage, self._began = stage, (now, fraction)
        self._ui.progressBar.value = round(100 * fraction)
        text = STAGES.get(stage, stage)
        seconds, done = now - self._began[0], fraction - self._began[1]
        if fraction < 1 and done >= FIRST_GUESS_SHARE and seconds >= FIRST_GUESS_S:
            text += ", " + time_left(seconds / done * (1 - fraction))
        self.tell(text)

    def cancelling(self) -> None:
        """The user pressed Cancel; the engine stops between two windows."""
        self._ui.applyButton.enabled = False
        self.tell(_("Canceling..."))

    def end(self, text: str) -> None:
        """The run is over, whatever became of it."""
        ui = self._ui
        ui.inputs.enabled = ui.outputs.enabled = True
        ui.applyButton.text = _("Apply")
        ui.progressBar.visible = False
        self.tell(text)

    def tell(self, text: str) -> None:
        """Show a sentence below Apply; empty: no room is taken."""
        self._ui.statusLabel.text = text
        self._ui.statusLabel.visible = bool(text)


def time_left(seconds: float) -> str:
    """How long a stage will take, no finer than it can be known."""
    if seconds < 10:
        return _("a few seconds left")
    if seconds < 90:
        return _("about {seconds} s left").format(seconds=10 * round(seconds / 10))
    return _("about {minutes} min left").format(minutes=round(seconds / 60))
