"""A function in a process of its own: its memory ends with it, and it ends with this process."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable

from LiverTumorSegLib.errors import Cancelled

GRACE_S = 20.0


def run_alone(function: Callable[..., int], *arguments: object) -> int:
    """Run a function and wait for it.

    Ctrl-C reaches both processes; the other one is given time to end in its own way.

    Args:
        function: of a module, so that the other process can import it; returns an exit code.
        arguments: that can be pickled.

    Returns:
        Its exit code; minus the signal if it was killed, 1 if it raised an exception.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_end_with_parent, args=(function, *arguments)
    )
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.join(GRACE_S)
        raise
    finally:
        if process.is_alive():
            process.terminate()
            process.join()
    assert process.exitcode is not None
    return process.exitcode


def _end_with_parent(function: Callable[..., int], *arguments: object) -> None:
    """Run the function, and end at once when the process that waits for it is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(Cancelled.exit_code)

    threading.Thread(target=watch, daemon=True).start()
    try:
        code = function(*arguments)
    except KeyboardInterrupt:
        code = Cancelled.exit_code
    sys.exit(code)
