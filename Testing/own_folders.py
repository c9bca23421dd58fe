"""A fixture for every conftest: tests leave the folders of whoever runs them alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from LiverTumorSegLib.folders import CACHE_VARIABLE, MODELS_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def folders_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes that tests start inherit them."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder / "cache"))
        patch.setenv(MODELS_VARIABLE, str(folder / "models"))
        yield
