"""What the tests must know of each network: small arguments, outputs, and the stated counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from LiverTumorSegLib.networks import build

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

Arguments = dict[str, Any]


@dataclass(frozen=True)
class NetworkCase:
    """One network of NETWORKS.

    Attributes:
        small: arguments that make it quick to test.
        outputs: training mode's lists of logits: for each the factors by which its members are
            coarser than the prediction.
        counts: (arguments, parameters to train, parameters deployed or None).
        variants: arguments, beside `small`, of the other forms that the contract is checked on.
    """

    small: Arguments
    outputs: dict[str, list[int]]
    counts: list[tuple[Arguments, int, int | None]]
    variants: list[Arguments] = field(default_factory=list)


PLAIN, NO_MSCA, THIN = {"block": "double"}, {"msca_levels": []}, {"width": 16}

CASES: dict[str, NetworkCase] = {
    "unet3d": NetworkCase(
        small={"channels": [4, 8, 8, 16]},
        outputs={"heads": [1]},
        counts=[({}, 5_602_529, None)],
    ),
    "elanres_msca": NetworkCase(
        small={"width": 4},
        outputs={"heads": [1, 1, 1, 1]},
        counts=[
            ({}, 19_181_572, 12_844_548),
            (NO_MSCA, 15_194_372, 8_857_348),
            (PLAIN, 26_565_924, 26_565_924),
            (PLAIN | NO_MSCA, 22_578_724, 22_578_724),
            (THIN, 4_839_428, 3_252_228),
            (THIN | NO_MSCA, 3_803_268, 2_216_068),
            (THIN | PLAIN, 6_682_772, 6_682_772),
            (THIN | PLAIN | NO_MSCA, 5_646_612, 5_646_612),
        ],
        variants=[PLAIN, NO_MSCA, PLAIN | NO_MSCA],
    ),
}
COUNTS = [(name, *count) for name, case in CASES.items() for count in case.counts]
# Every network as its small arguments make it, and every variant of it.
FORMS = [(name, form) for name, case in CASES.items() for form in ({}, *case.variants)]


def small(name: str, **changes: object) -> nn.Module:
    """The network, quick to test, from a fixed seed."""
    torch.manual_seed(0)
    return build(name, **{**CASES[name].small, **changes})


def scale_of(network: nn.Module) -> tuple[int, ...]:
    """How much finer the output's grid is than the input's."""
    return getattr(network, "head_scale", (1,) * network.dimensions)


def smallest(network: nn.Module) -> tuple[int, ...]:
    """A grid with two voxels along one axis, and one along the others, at the coarsest resolution.

    One voxel alone would leave an instance or batch norm nothing to normalize.
    """
    grid = [network.divisor] * network.dimensions
    grid[-2] *= 2
    return tuple(max(size, getattr(network, "minimum", 1)) for size in grid)


def parameters(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def randomize_norms(module: nn.Module) -> nn.Module:
    """BatchNorm statistics as far from those of a fresh network as a trained one's."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
            nn.init.normal_(norm.running_mean, 0, 0.2)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return module


def assert_same(before: Tensor, after: Tensor, tolerance: float) -> None:
    """Equal within a share of the largest value, and not by being constant."""
    assert after.shape == before.shape
    assert (after - before).abs().max() <= tolerance * max(1.0, before.abs().max().item())
    assert before.std() > 0.01
