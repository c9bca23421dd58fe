"""A plugin of Dask workers that ends their processes, to test what a batch makes of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from distributed import WorkerPlugin

from LiverTumorSegLib import batch, case


class Deadly(WorkerPlugin):
    """Ends the process of a worker amid some cases: by their number the first times, or always.

    Registered with the scheduler, it comes to each worker that is started, as to those that take
    the place of the dead.
    """

    def __init__(self, deaths: dict[str, int], memory: Path) -> None:
        self.deaths, self.memory = deaths, memory

    def setup(self, worker: object) -> None:
        whole = case.run_case

        def run_case(source: Path, outdir: Path, setup: object, on_progress: object) -> object:
            died = self.memory / outdir.name
            times = len(died.read_bytes()) if died.exists() else 0
            with (self.memory / "log").open("a") as log:
                log.write(f"{outdir.name} {os.getpid()}\n")

            def hook(stage: str, fraction: float) -> None:
                if stage == "Tumor" and times < self.deaths.get(outdir.name, 0):
                    with died.open("ab") as file:
                        file.write(b"x")
                    os.kill(os.getpid(), signal.SIGKILL)
                on_progress(stage, fraction)

            return whole(source, outdir, setup, hook)

        batch.run_case = run_case
