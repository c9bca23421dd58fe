"""What the tests must know of each network: small arguments, outputs, and the stated counts."""

from __future__ import annotations

import functools
import importlib
import warnings
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.backends import _import_openvino
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
        needs: a package that not every machine can import; without it the tests are skipped.
        idle: starts of the names of parameters that a library makes and does not use.
    """

    small: Arguments
    outputs: dict[str, list[int]]
    counts: list[tuple[Arguments, int, int | None]]
    variants: list[Arguments] = field(default_factory=list)
    needs: str = ""
    idle: tuple[str, ...] = ()


PLAIN, NO_MSCA, THIN = {"block": "double"}, {"msca_levels": []}, {"width": 16}
NO_RES_SE, NO_MAB = {"res_se": False}, {"mab": False}
NO_MSRB, NO_AASPP, NO_RASM = {"msrb": False}, {"aaspp": False}, {"rasm": False}
BASE_32, BASE_64 = {"base_channels": 32}, {"base_channels": 64}
BASELINE, LITERAL = {"encoder": "baseline"}, {"profile": "literal"}
NO_ATTENTION, SPA, SEM, SEM_SPA, AG, DAF = (
    {"attention": kind} for kind in ("none", "spa", "sem", "sem+spa", "ag", "daf")
)

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
    "rmau": NetworkCase(
        small={"base_channels": 8, "se_reduction": 2},
        outputs={"heads": [1]},
        counts=[
            ({}, 43_681_138, None),
            (NO_RES_SE, 41_700_556, None),
            (NO_MAB, 33_017_128, None),
            (NO_RES_SE | NO_MAB, 31_036_546, None),
            (BASE_32, 10_926_875, None),
            (BASE_32 | NO_RES_SE, 10_430_026, None),
            (BASE_32 | NO_MAB, 8_259_347, None),
            (BASE_32 | NO_RES_SE | NO_MAB, 7_762_498, None),
            ({"out_channels": 1}, 43_681_073, None),
            ({"out_channels": 3}, 43_681_203, None),
            ({"se_reduction": 16}, 43_320_388, None),
        ],
        variants=[NO_RES_SE, NO_MAB, NO_RES_SE | NO_MAB],
    ),
    "msa": NetworkCase(
        small={"base_channels": 2},
        outputs={"heads": [1]},
        counts=[
            ({}, 14_053_809, None),
            (NO_MSRB | NO_AASPP | NO_RASM, 1_942_289, None),
            (NO_AASPP | NO_RASM, 2_555_217, None),
            (NO_MSRB | NO_RASM, 11_389_201, None),
            (NO_MSRB | NO_AASPP, 3_993_969, None),
            (BASE_32, 56_170_337, None),
            (BASE_32 | NO_MSRB | NO_AASPP | NO_RASM, 7_762_465, None),
            (BASE_32 | NO_AASPP | NO_RASM, 10_207_905, None),
            (BASE_32 | NO_MSRB | NO_RASM, 45_530_657, None),
            (BASE_32 | NO_MSRB | NO_AASPP, 15_956_705, None),
            (BASE_64, 224_591_553, None),
            (BASE_64 | NO_MSRB | NO_AASPP | NO_RASM, 31_036_481, None),
            (BASE_64 | NO_AASPP | NO_RASM, 40_805_697, None),
            (BASE_64 | NO_MSRB | NO_RASM, 182_070_337, None),
            (BASE_64 | NO_MSRB | NO_AASPP, 63_788_481, None),
            ({"aaspp_branch_channels": 64}, 5_592_753, None),
            (BASE_32 | {"aaspp_branch_channels": 128}, 22_339_937, None),
            (BASE_64 | {"aaspp_branch_channels": 256}, 89_297_601, None),
        ],
        variants=[
            NO_MSRB | NO_AASPP | NO_RASM,
            NO_AASPP | NO_RASM,
            NO_MSRB | NO_RASM,
            NO_MSRB | NO_AASPP,
        ],
    ),
    "dpc": NetworkCase(
        small={"width": 4},
        outputs={"sem": [1, 2, 4, 8], "pyramid": [1, 2, 4, 8, 16], "spa": [2, 4, 8, 16]},
        counts=[
            ({}, 17_578_083, None),
            (LITERAL, 18_081_451, None),
            (NO_ATTENTION, 17_246_799, None),
            (BASELINE, 23_104_003, None),
            (BASELINE | LITERAL, 23_688_203, None),
            (BASELINE | NO_ATTENTION, 22_584_175, None),
            (BASELINE | SPA, 23_014_911, None),
            (BASELINE | SEM, 22_673_267, None),
            (BASELINE | SEM_SPA, 23_104_003, None),
            (BASELINE | AG, 23_607_090, None),
            (BASELINE | DAF, 23_269_094, None),
        ],
        variants=[
            LITERAL,
            NO_ATTENTION,
            SPA,
            SEM,
            SEM_SPA,
            {"spa_pool": "max", "sem_pool": "avg"},
            {"spa_pool": "avg", "sem_pool": "max"},
            BASELINE,
            BASELINE | AG,
            BASELINE | DAF,
        ],
    ),
    "ce_net": NetworkCase(
        small={"width": 4},
        outputs={"heads": [1]},
        counts=[({}, 28_996_821, None)],
    ),
    "ra_unet": NetworkCase(
        small={"width": 4},
        outputs={"heads": [1]},
        counts=[({}, 737_897, None)],
    ),
    "unet_plus_plus": NetworkCase(
        small={"features": [4, 8, 8, 16, 16, 8]},
        outputs={"heads": [1]},
        counts=[({}, 9_118_756, None), ({"out_channels": 2}, 9_118_888, None)],
        idle=("network.final_conv_0_1.", "network.final_conv_0_2.", "network.final_conv_0_3."),
    ),
    "attention_unet": NetworkCase(
        small={"channels": [4, 8, 8, 8, 16]},
        outputs={"heads": [1]},
        counts=[({}, 31_739_185, None)],
    ),
    "deeplabv3_plus": NetworkCase(
        small={"encoder_name": "resnet18"},
        outputs={"heads": [1]},
        counts=[
            ({}, 45_663_441, None),
            ({"encoder_name": "resnet50"}, 26_671_313, None),
            ({"encoder_name": "resnet34"}, 22_431_185, None),
        ],
        needs="segmentation_models_pytorch",
    ),
}


@functools.cache
def importable(package: str) -> bool:
    """Whether the package is there and whole."""
    try:
        importlib.import_module(package)
    except Exception:  # a package that does not fit the others may fail in any way
        return False
    return True


def case_of(name: str, *values: object) -> Any:
    """Parameters of a test of this network, to be skipped where the package it needs is missing."""
    needs = CASES[name].needs
    missing = bool(needs) and not importable(needs)
    skip = pytest.mark.skipif(missing, reason=f"{needs} cannot be imported")
    return pytest.param(name, *values, marks=skip)


COUNTS = [case_of(name, *count) for name, case in CASES.items() for count in case.counts]
# Every network as its small arguments make it, and every variant of it.
FORMS = [case_of(name, form) for name, case in CASES.items() for form in ({}, *case.variants)]


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


PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)]
)


def assert_same(before: Tensor, after: Tensor, tolerance: float) -> None:
    """Equal within a share of the largest value, and not by being constant."""
    assert after.shape == before.shape
    assert (after - before).abs().max() <= tolerance * max(1.0, before.abs().max().item())
    assert before.std() > 0.01


def assert_starts_as_he(network: nn.Module, negative_slope: float) -> None:
    """Normal weights of variance 2 / (1 + slope^2) / fan-in, zero biases, norms of torch's start.

    The fan-in of a transposed convolution is counted as torch does, from its second axis on.
    """
    seen = 0
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name
        elif parameter.numel() > 2000:
            seen += 1
            gain = parameter * ((1 + negative_slope**2) * parameter[0].numel() / 2) ** 0.5
            assert abs(gain.std() - 1) < 0.08, name
            assert (gain.abs() > 1.96).float().mean() == pytest.approx(0.05, abs=0.02), name
    assert seen > 5


def assert_starts_with_maximum(network: nn.Module, above: str, below: str) -> None:
    """The module named `below` is given the maxima over 2x2x2 voxels of what `above` gives."""
    seen = {}
    randomize_norms(network).eval()
    network.get_submodule(above).register_forward_hook(lambda m, i, out: seen.update(above=out))
    network.get_submodule(below).register_forward_pre_hook(lambda m, i: seen.update(below=i[0]))
    with torch.no_grad():
        network(torch.rand(1, 1, *smallest(network)))
    assert torch.equal(seen["below"], F.max_pool3d(seen["above"], 2))


def input_shapes(network: nn.Module, names: list[str], *inputs: Tensor) -> dict[str, list]:
    """Shapes of what each of these modules was given, without the batch, in a call of `network`."""
    shapes: dict[str, list] = {}
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: shapes.update({name: [tuple(x.shape[1:]) for x in given]})
        )
        for name in names
    ]
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return shapes


def openvino_logits(network: nn.Module, image: Tensor) -> Tensor:
    """What the network gives for this image once OpenVINO has converted it for its shape."""
    openvino = _import_openvino()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of checks of sizes, which are fixed here
        model = openvino.convert_model(network, example_input=image, input=image.shape)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(compiled(image.numpy())[0].copy())
