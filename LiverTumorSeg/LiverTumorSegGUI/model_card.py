"""Shows what a model was trained on, how well it does, and its license."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from LiverTumorSegLib.checkpoint import ModelInfo


def card_text(info: ModelInfo) -> str:
    """The card in Markdown: the file beside the weights, or what the weights say of themselves."""
    beside = info.path.with_suffix(".md")
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    lines = [f"# {info.name}", _("For research. Not for clinical use."), f"sha256: {info.sha256}"]
    lines += [f"**{key}**: {value}" for key, value in info.card.items()]
    return "\n\n".join(lines)


def show_card(info: ModelInfo, parent):
    """Open the card in a window of its own, which does not stop the user; returns it."""
    window = qt.QDialog(parent)
    window.setWindowTitle(_("Model {name}").format(name=info.name))
    window.setAttribute(qt.Qt.WA_DeleteOnClose)
    text = qt.QTextBrowser(window)
    text.setOpenExternalLinks(True)
    text.setMarkdown(card_text(info))
    layout = qt.QVBoxLayout()
    layout.addWidget(text)
    window.setLayout(layout)
    window.resize(640, 560)
    window.show()
    return window
