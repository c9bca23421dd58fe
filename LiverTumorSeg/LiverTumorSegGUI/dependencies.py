"""Installs what the engine needs and Slicer lacks, and only when Apply is pressed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from pathlib import Path

import slicer
import slicer.util
from slicer.i18n import tr as _

TORCH_REQUIREMENT = ">=2.6"


def ensure_dependencies(requirements_path: str) -> None:
    """Ask the user and install what is missing; does nothing when all is there.

    PyTorch comes through the extension PyTorch, which picks the build for the computer's GPU, the
    rest through slicer.packaging.

    Args:
        requirements_path: file with one requirement a line, PyTorch not among them.

    Raises:
        RuntimeError: the user declined or must act first; the message says how.
    """
    _ensure_torch()
    if importlib.util.find_spec("slicer.packaging") is not None:
        import slicer.packaging

        requirements = slicer.packaging.load_requirements(requirements_path)
        slicer.packaging.pip_ensure(requirements, requester="LiverTumorSeg")
    else:
        _ensure_in_slicer_5_10(requirements_path)


def _ensure_torch() -> None:
    if importlib.util.find_spec("torch") is not None:
        return
    try:
        import PyTorchUtils
    except ModuleNotFoundError:
        _offer_pytorch_extension()
        raise RuntimeError(
            _(
                "PyTorch is needed, and the extension that installs it is missing: install the "
                "extension PyTorch in the Extensions Manager, restart Slicer and press Apply again."
            )
        ) from None
    torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
        askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT
    )
    if torch is None:
        raise RuntimeError(_("PyTorch is needed and was not installed: press Apply to be asked."))


def _offer_pytorch_extension() -> None:
    question = _(
        "LiverTumorSeg needs the extension PyTorch. Install it now and restart Slicer? "
        "Save your work first."
    )
    if slicer.util.confirmOkCancelDisplay(question):
        slicer.app.extensionsManagerModel().installExtensionFromServer("PyTorch")


def _ensure_in_slicer_5_10(requirements_path: str) -> None:
    """Slicer 5.10 has no slicer.packaging: ask, then its own pip_install for what is missing."""
    lines = Path(requirements_path).read_text(encoding="utf-8").splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    missing = [line for line in requirements if not _installed(re.match(r"[\w.-]+", line)[0])]
    if not missing:
        return
    question = _("LiverTumorSeg needs these Python packages: {packages}. Install them?").format(
        packages=", ".join(missing)
    )
    if not slicer.util.confirmOkCancelDisplay(question):
        raise RuntimeError(_("Python packages are missing: press Apply to be asked again."))
    slicer.util.pip_install(missing)


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
