"""What it means for the user that a request to the engine, or the engine itself, failed. No Qt."""

from __future__ import annotations

from slicer.i18n import tr as _

_KILLED = (9, 137, 247)  # signal 9, as Qt, as a shell and as an unsigned byte of -9 tell of it


def why_failed(kind: str, message: str) -> str:
    """The sentence for an error that the engine told of.

    Args:
        kind: "input", "resources" or "bug" (see LiverTumorSegLib.protocol).
        message: the engine's own.
    """
    if kind != "bug":
        return message
    return _(
        "The segmentation failed because of a bug: {message}. Please report it with the log."
    ).format(message=message.rstrip("."))


def why_ended(exit_code: int) -> str:
    """The sentence for an engine that ended in the middle of a request, without a word."""
    if exit_code in _KILLED:
        return _(
            "The system ended the segmentation, most likely because the memory ran out. Close "
            "other programs or crop the CT, and try again."
        )
    return _(
        "The segmentation engine ended unexpectedly (exit code {code}). The log may tell why. "
        "Often the memory ran out: close other programs and try again."
    ).format(code=exit_code)


def why_not_started(program: str) -> str:
    """The sentence for an interpreter that is not there or cannot be run."""
    return _(
        "The segmentation engine could not be started: {program} is missing or may not be run. "
        "Install Slicer again."
    ).format(program=program)
