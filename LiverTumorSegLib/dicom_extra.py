"""The packages of the extra `dicom`: how to get them, and how to keep them quiet."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from LiverTumorSegLib.errors import InputError


@contextlib.contextmanager
def dicom_packages() -> Iterator[None]:
    """For an import of what needs pydicom and highdicom: says how to install them.

    Raises:
        InputError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("highdicom", "pydicom"):
            raise
        raise InputError(
            f"DICOM SEG and SR: expected the Python packages pydicom and highdicom, found no "
            f"{package}; `pip install highdicom` adds both."
        ) from error


@contextlib.contextmanager
def without_their_warnings() -> Iterator[None]:
    """Keep back what they warn of, because they quote the patient's name and other values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
