"""The product's command line, which also knows the networks of `painted`, and can count windows.

    python -m Testing.benchmarks.product_job [--count FILE.json] segment CT -o OUT ...

With --count the file gets how many windows the networks predicted and what they cost, in
floating-point operations; a painted network is then not computed, for what it finds does not depend
on it. Counting needs the torch backend. The numbers hold for every backend, since the windows do.
"""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from LiverTumorSegLib import cli
from LiverTumorSegLib.networks import NETWORKS
from Testing.benchmarks import painted
from Training.catalog import window_gflop


class NotComputed(painted.Painted):
    """A painted network, but for the network."""

    def forward(self, image: Tensor) -> Tensor:
        """The logits that the thresholds give alone."""
        scale = (1, *getattr(self, "head_scale", (1, 1, 1)))[-self.dimensions :]
        size = [length * factor for length, factor in zip(image.shape[2:], scale, strict=True)]
        return self.painted_logits(image, size)


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    painted.register()
    if argv[:1] != ["--count"]:
        return cli.main(argv)
    NETWORKS[painted.NAME] = NotComputed
    calls: Counter[tuple[nn.Module, tuple[int, ...], int]] = Counter()

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if hasattr(module, "divisor"):  # a whole network, not a part of one
            image = inputs[0]
            calls[module, tuple(image.shape[2:]), len(image)] += 1

    with register_module_forward_pre_hook(count):
        code = cli.main(argv[2:])
    Path(argv[1]).write_text(json.dumps(cost_of(calls)))
    return code


def cost_of(calls: Counter[tuple[nn.Module, tuple[int, ...], int]]) -> dict[str, float]:
    """Windows, and 10^9 floating-point operations, of calls by network, window and batch."""
    windows, gflop = 0, 0.0
    for (module, window, batch), times in calls.items():
        network = module.network if isinstance(module, painted.Painted) else module
        windows += batch * times
        gflop += batch * times * window_gflop(copy.deepcopy(network).to("meta"), window)
    return {"windows": windows, "gflop": gflop}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
