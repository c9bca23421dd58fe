"""How long the stages of a run take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


@contextlib.contextmanager
def timed(timings_s: dict[str, float], stage: str) -> Iterator[None]:
    """Note the seconds that the block takes, if it ends well.

    Args:
        timings_s: seconds by stage, in order; the stage is added.
        stage: its name.
    """
    start = time.perf_counter()
    yield
    timings_s[stage] = time.perf_counter() - start
