"""Where a user's files lie, on each system."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from LiverTumorSegLib.folders import CACHE_VARIABLE, MODELS_VARIABLE, cache_folder, models_folder


@pytest.mark.parametrize(
    ("platform", "variables", "models", "cache"),
    [
        ("linux", {}, "home/.local/share/LiverTumorSeg/models", "home/.cache/LiverTumorSeg"),
        (
            "linux",
            {"XDG_DATA_HOME": "data", "XDG_CACHE_HOME": "kept"},
            "data/LiverTumorSeg/models",
            "kept/LiverTumorSeg",
        ),
        (
            "darwin",
            {},
            "home/Library/Application Support/LiverTumorSeg/models",
            "home/Library/Caches/LiverTumorSeg",
        ),
        (
            "win32",
            {"LOCALAPPDATA": "local"},
            "local/LiverTumorSeg/models",
            "local/LiverTumorSeg/cache",
        ),
        (
            "win32",
            {},
            "home/AppData/Local/LiverTumorSeg/models",
            "home/AppData/Local/LiverTumorSeg/cache",
        ),
        (
            "linux",
            {MODELS_VARIABLE: "shared", CACHE_VARIABLE: "fast", "XDG_DATA_HOME": "data"},
            "shared",
            "fast",
        ),
    ],
)
def test_a_users_folders_are_where_the_system_keeps_such_things(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    variables: dict[str, str],
    models: str,
    cache: str,
) -> None:
    for name in (MODELS_VARIABLE, CACHE_VARIABLE, "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(sys, "platform", platform)
    assert models_folder() == tmp_path / models
    assert cache_folder() == tmp_path / cache
