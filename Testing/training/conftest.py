"""What several files of trainer tests ask for by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from Testing.own_folders import folders_of_their_own as folders_of_their_own


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, so that runs can agree to the bit; and faster on tiny tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
