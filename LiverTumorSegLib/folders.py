"""The folders that a user's own weights and this program's cache lie in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

MODELS_VARIABLE = "LIVERTUMORSEG_MODELS"
CACHE_VARIABLE = "LIVERTUMORSEG_CACHE"
_NAME = "LiverTumorSeg"


def models_folder() -> Path:
    """The folder for a user's own weights files, which may not exist.

    It is the one that the environment variable LIVERTUMORSEG_MODELS names, else
    `LiverTumorSeg/models` where the system keeps what programs store for a user: %LOCALAPPDATA% on
    Windows, ~/Library/Application Support on macOS, else $XDG_DATA_HOME or ~/.local/share.
    """
    if named := os.environ.get(MODELS_VARIABLE):
        return Path(named)
    if sys.platform == "darwin":
        return _home() / "Library" / "Application Support" / _NAME / "models"
    return _local("XDG_DATA_HOME", ".local/share") / _NAME / "models"


def cache_folder() -> Path:
    """The folder for what can be made again, which may not exist.

    It is the one that the environment variable LIVERTUMORSEG_CACHE names, else
    `LiverTumorSeg/cache` in %LOCALAPPDATA% on Windows, `LiverTumorSeg` in ~/Library/Caches on
    macOS, else in $XDG_CACHE_HOME or ~/.cache.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / _NAME
    return _local("XDG_CACHE_HOME", ".cache") / _NAME / ("cache" if sys.platform == "win32" else "")


def _local(variable: str, below_home: str) -> Path:
    """Where Windows, or by a variable or its default any other system, keeps a user's files."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local")
    return Path(os.environ.get(variable) or _home() / below_home)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # an account that has none
        return Path("/")
