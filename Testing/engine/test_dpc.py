"""DPC-Net: its modules by hand-written formulas, how they are joined, and what is left out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.backends import predictor
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.networks.dpc import (
    DAF,
    AttentionGate,
    AttentionGates,
    SemCor,
    SpaCor,
    log_mean_probability,
)
from Testing.engine.network_cases import (
    assert_same,
    assert_starts_as_he,
    parameters,
    randomize_norms,
    small,
)

POOLS = pytest.mark.parametrize("pool", ["avg", "max", "both"])
MERGES = pytest.mark.parametrize("concat", [False, True], ids=["sum", "concat"])
GRID = (16, 16, 32)
BASELINE = {"encoder": "baseline"}


def twice(x: Tensor) -> Tensor:
    """Trilinear interpolation to twice the size: three quarters of the nearer voxel's value.

    One axis after the other; beyond the border the last voxel goes on.
    """
    for axis in (2, 3, 4):
        size = x.shape[axis]
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, size - 1, 1)
        before = torch.cat([first, x.narrow(axis, 0, size - 1)], axis)
        after = torch.cat([x.narrow(axis, 1, size - 1), last], axis)
        pair = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.flatten(axis, axis + 1)
    return x


def halved(x: Tensor) -> Tensor:
    """Trilinear interpolation to half the size: the paper's "down-sampled to its original size"."""
    return F.interpolate(x, scale_factor=0.5, mode="trilinear", align_corners=False)


def merged(pooled: dict[str, Tensor], pool: str, concat: bool) -> Tensor:
    """The poolings asked for, side by side or added."""
    if pool != "both":
        return pooled[pool]
    return torch.cat([pooled["avg"], pooled["max"]], 1) if concat else pooled["avg"] + pooled["max"]


def random(module: nn.Module) -> nn.Module:
    """Weights and biases that all count, in float64."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    return module.double()


def spa_cor(pool: str = "both", concat: bool = True, channels: int = 6) -> SpaCor:
    return random(SpaCor(channels, pool, concat))


def sem_cor(pool: str = "both", concat: bool = False, **changes: Any) -> SemCor:
    settings = {"channels": 4, "high_channels": 6, "reduction": 2, "recalibrate": False, **changes}
    return random(SemCor(pool=pool, concat=concat, **settings))


def features(*channels: int, finest: tuple[int, int, int] = (4, 8, 6)) -> list[Tensor]:
    """Random features of a batch of two, each at half the resolution of the one before."""
    torch.manual_seed(1)
    sizes = [[size // 2**level for size in finest] for level in range(len(channels))]
    return [
        torch.randn(2, count, *size, dtype=torch.float64)
        for count, size in zip(channels, sizes, strict=True)
    ]


def constant(sequence: nn.Sequential, value: float) -> None:
    """Let the last layer before the sigmoid give this everywhere."""
    nn.init.zeros_(sequence[-1].weight)
    nn.init.constant_(sequence[-1].bias, value)


def watch(network: nn.Module) -> tuple[dict[str, tuple[Tensor, ...]], dict[str, Any]]:
    """Inputs and outputs, by name, of every module that later calls of the network reach."""
    inputs: dict[str, tuple[Tensor, ...]] = {}
    outputs: dict[str, Any] = {}

    def add(name: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda _, given: inputs.update({name: given}))
        module.register_forward_hook(lambda _, given, output: outputs.update({name: output}))

    for name, module in network.named_modules():
        add(name, module)
    return inputs, outputs


# --- SpaCor


@MERGES
@POOLS
def test_spa_cor_is_the_formula_with_everything_concatenated(pool: str, concat: bool) -> None:
    """Equations 4 to 6, in the paper's order: upsample F_i, concatenate, gate, downsample."""
    module = spa_cor(pool, concat)
    low, high = features(4, 6)
    first, _, second = module.attention
    g = module.recalibrate
    with torch.no_grad():
        joined = torch.cat([twice(high), low], 1)
        pooled = {"avg": joined.mean(1, keepdim=True), "max": joined.amax(1, keepdim=True)}
        hidden = F.conv3d(merged(pooled, pool, concat), first.weight, first.bias, padding=1)
        hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
        gate = 1 / (1 + torch.exp(-F.conv3d(hidden, second.weight, second.bias, padding=1)))
        mapped = torch.einsum("oi,bidhw->bodhw", g.weight.flatten(1), twice(high))
        mapped = mapped + g.bias[:, None, None, None]
        assert_same(halved(gate * mapped), module(high, low), 1e-12)


@pytest.mark.parametrize(("logit", "factor"), [(-math.inf, 0.0), (0.0, 0.5), (math.inf, 1.0)])
def test_an_even_map_scales_the_recalibrated_features(logit: float, factor: float) -> None:
    module = spa_cor()
    constant(module.attention, logit)
    low, high = features(4, 6)
    with torch.no_grad():
        expected = factor * halved(twice(module.recalibrate(high)))
        torch.testing.assert_close(module(high, low), expected, rtol=0, atol=1e-12)


@POOLS
def test_spa_cor_multiplies_all_channels_by_one_map_in_0_1(pool: str) -> None:
    module = spa_cor(pool)
    nn.init.zeros_(module.recalibrate.weight)
    nn.init.constant_(module.recalibrate.bias, 3.0)
    low, high = features(4, 6)
    with torch.no_grad():
        gate = module(high, low) / 3
    assert gate.min() > 0
    assert gate.max() < 1
    assert gate.std() > 0.01
    assert_same(gate[:, :1].expand_as(gate), gate, 1e-12)


def test_the_maximum_passes_its_gradient_to_one_channel() -> None:
    """And the mean to all alike, weighted by nothing but the number of channels."""
    low, high = (x.requires_grad_() for x in features(4, 6))
    spa_cor("max").squeeze(high, low).sum().backward()
    assert ((low.grad != 0).sum(1) <= 1).all()
    assert low.grad.sum() + high.grad.sum() == pytest.approx(low[:, 0].numel())
    low, high = (x.requires_grad_() for x in features(4, 6))
    spa_cor("avg").squeeze(high, low).sum().backward()
    torch.testing.assert_close(low.grad, torch.full_like(low, 0.1))
    torch.testing.assert_close(high.grad, torch.full_like(high, 0.8))


def test_squeezing_keeps_no_upsampled_features_for_the_backward_pass() -> None:
    """At 128^3 voxels those of one level alone would be 512 MiB a sample."""
    low, high = (x.requires_grad_() for x in features(40, 60))
    given = {x.untyped_storage().data_ptr() for x in (low, high)}
    kept = []

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in given:
            kept.append(x.nbytes)
        return x

    module = spa_cor()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        squeezed = module.squeeze(high, low)
    assert squeezed.requires_grad
    assert 0 < sum(kept) < 0.1 * 8 * high.nbytes


# --- SemCor


@pytest.mark.parametrize("recalibrate", [False, True])
@MERGES
@POOLS
def test_sem_cor_is_the_formula_with_everything_concatenated(
    pool: str, concat: bool, recalibrate: bool
) -> None:
    """Equations 7 to 9; both poolings are over all voxels of F_i and F_{i+1}."""
    module = sem_cor(pool, concat, recalibrate=recalibrate)
    low, high = features(4, 6)
    first, _, second = module.attention
    with torch.no_grad():
        voxels = [x.flatten(2) for x in (low, high)]
        pooled = {
            "avg": torch.cat([x.sum(2) / x.shape[2] for x in voxels], 1),
            "max": torch.cat([x.sort(2).values[..., -1] for x in voxels], 1),
        }
        hidden = merged(pooled, pool, concat) @ first.weight.T + first.bias
        hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
        gate = 1 / (1 + torch.exp(-(hidden @ second.weight.T + second.bias)))
        mapped = low
        if recalibrate:
            g = module.recalibrate
            mapped = torch.einsum("oi,bidhw->bodhw", g.weight.flatten(1), low)
            mapped = mapped + g.bias[:, None, None, None]
        expected = torch.einsum("bc,bcdhw->bcdhw", gate, mapped)
        assert_same(expected, module(low, high), 1e-12)


def test_sem_cor_multiplies_each_channel_by_one_factor_in_0_1() -> None:
    low, high = features(4, 6)
    with torch.no_grad():
        gate = sem_cor()(low, high) / low
    assert_same(gate[:, :, :1, :1, :1].expand_as(gate), gate, 1e-12)
    assert gate.min() > 0
    assert gate.max() < 1


@pytest.mark.parametrize(("reduction", "hidden"), [(1, 8), (4, 2)])
def test_sem_cor_has_one_hidden_layer(reduction: int, hidden: int) -> None:
    module = sem_cor(channels=8, reduction=reduction)
    kinds = [type(layer) for layer in module.attention]
    assert kinds == [nn.Linear, nn.LeakyReLU, nn.Linear]
    assert module.attention[0].out_features == hidden


# --- What the parts weigh


@pytest.mark.parametrize("channels", [64, 128, 256, 320, 512])
@pytest.mark.parametrize(
    ("pool", "concat", "maps"), [("both", True, 2), ("both", False, 1), ("avg", True, 1)]
)
def test_spa_cor_has_c_squared_and_29_c_and_27_c_a_map(
    channels: int, pool: str, concat: bool, maps: int
) -> None:
    with torch.device("meta"):
        count = parameters(SpaCor(channels, pool, concat))
    assert count == channels**2 + (29 + 27 * maps) * channels + 1


@pytest.mark.parametrize(("channels", "high"), [(32, 64), (256, 512)])
def test_sem_cor_has_two_layers_and_perhaps_a_third(channels: int, high: int) -> None:
    with torch.device("meta"):
        counted = parameters(SemCor(channels, high, "both", False, 4, False))
        literal = parameters(SemCor(channels, high, "both", True, 1, True))
    quarter = channels // 4
    assert counted == quarter * (channels + high + 1) + channels * (quarter + 1)
    assert literal == channels * (2 * (channels + high) + 1) + 2 * channels * (channels + 1)


@pytest.mark.parametrize(
    ("arguments", "spa", "sem"),
    [
        ({}, 427_844, 87_640),
        ({"profile": "literal"}, 401_924, 697_760),
        ({"spa_pool": "avg"}, 401_924, 87_640),
        ({"spa_pool": "max", "sem_pool": "avg"}, 401_924, 87_640),
        ({"sem_pool": "max"}, 427_844, 87_640),
        ({"attention": "sem+spa"}, 427_844, 87_640),
        ({"attention": "spa"}, 427_844, 0),
        ({"attention": "sem"}, 0, 87_640),
    ],
)
def test_the_modules_on_the_baseline_weigh_what_the_paper_says(
    arguments: dict, spa: int, sem: int
) -> None:
    """0.43 M in SpaCor and 0.09 M in SemCor; the printed equations, "literal", have other sizes."""
    with torch.device("meta"):
        network = build("dpc", **BASELINE, **arguments)
    assert (parameters(network.spa), parameters(network.sem)) == (spa, sem)


def test_the_methods_compared_with_weigh_what_the_paper_says() -> None:
    with torch.device("meta"):
        assert parameters(AttentionGates([32, 64, 128, 256, 512])) == 1_022_915
        assert parameters(DAF([32, 64, 128, 256], 32, 3)) == 684_919


# --- The encoders


@pytest.mark.parametrize(("encoder", "deepest"), [("pfe", 320), ("baseline", 512)])
def test_channels_double_up_to_the_encoder_s_cap(encoder: str, deepest: int) -> None:
    with torch.device("meta"):
        network = build("dpc", encoder=encoder)
    wanted = [32, 64, 128, 256, deepest]
    assert [block[-1][0].out_channels for block in network.encoder.encoders] == wanted
    assert [block[-1][0].out_channels for block in network.encoder.decoders] == wanted[:-1]
    assert [head.in_channels for head in network.pyramid_heads] == wanted
    assert [head.in_channels for head in network.spa_heads] == wanted[1:]
    assert [head.in_channels for head in network.sem_heads] == wanted[:-1]


def test_the_pfe_has_instance_norms_leaky_relus_and_strided_convolutions() -> None:
    encoder = small("dpc", attention="none").encoder
    kinds = [type(layer) for layer in encoder.modules() if not isinstance(layer, nn.Sequential)]
    norms = [m for m in encoder.modules() if isinstance(m, nn.InstanceNorm3d)]
    slopes = {m.negative_slope for m in encoder.modules() if isinstance(m, nn.LeakyReLU)}
    assert nn.BatchNorm3d not in kinds
    assert nn.ReLU not in kinds
    assert slopes == {0.01}
    assert len(norms) == 2 * 9 + 4
    assert all(norm.affine and norm.eps == 1e-5 for norm in norms)
    for down in encoder.downs:
        conv = down[0]
        assert (conv.kernel_size, conv.stride, conv.padding) == ((2,) * 3, (2,) * 3, (0,) * 3)
        assert conv.in_channels == conv.out_channels
    for up in encoder.ups:
        assert (up.kernel_size, up.stride) == ((2,) * 3, (2,) * 3)


def test_the_baseline_has_batch_norms_relus_and_poolings() -> None:
    network = randomize_norms(small("dpc", **BASELINE)).eval()
    kinds = {type(m) for m in network.encoder.modules()}
    assert {nn.BatchNorm3d, nn.ReLU, nn.MaxPool3d} < kinds
    assert not {nn.InstanceNorm3d, nn.LeakyReLU} & kinds
    inputs, outputs = watch(network)
    with torch.no_grad():
        network(torch.rand(1, 1, *GRID))
    for level in range(1, 5):
        (given,) = inputs[f"encoder.encoders.{level}"]
        above = outputs[f"encoder.encoders.{level - 1}"]
        assert torch.equal(given, F.max_pool3d(above, 2)), level


@pytest.mark.parametrize("encoder", ["pfe", "baseline"])
def test_the_pyramid_is_the_decoder_s_outputs_and_the_bottleneck(encoder: str) -> None:
    network = small("dpc", encoder=encoder, attention="none")
    inputs, outputs = watch(network)
    network(torch.rand(2, 1, *GRID))
    pyramid = outputs["encoder"]
    deepest = {"pfe": 40, "baseline": 64}[encoder]
    assert [x.shape[1] for x in pyramid] == [4, 8, 16, 32, deepest]
    assert [tuple(x.shape[2:]) for x in pyramid] == [
        tuple(size // 2**level for size in GRID) for level in range(5)
    ]
    assert torch.equal(pyramid[4], outputs["encoder.encoders.4"])
    for level in range(4):
        assert torch.equal(pyramid[level], outputs[f"encoder.decoders.{level}"])
        (joined,) = inputs[f"encoder.decoders.{level}"]
        up, skip = (outputs[f"encoder.{name}.{level}"] for name in ("ups", "encoders"))
        assert torch.equal(joined, torch.cat([up, skip], 1)), level
        assert torch.equal(inputs[f"encoder.ups.{level}"][0], pyramid[level + 1]), level


# --- How the modules are joined


def test_spa_cor_reads_raw_features_and_sem_cor_spa_cor_s() -> None:
    """Equations 4 and 7; level 0 has no SpaCor and the last level no SemCor."""
    network = small("dpc")
    inputs, outputs = watch(network)
    network(torch.rand(2, 1, *GRID))
    raw = outputs["encoder"]
    spa = [raw[0], *(outputs[f"spa.{i}"] for i in range(4))]
    for level in range(1, 5):
        high, low = inputs[f"spa.{level - 1}"]
        assert torch.equal(high, raw[level])
        assert torch.equal(low, raw[level - 1])
        assert torch.equal(inputs[f"spa_heads.{level - 1}"][0], spa[level])
    for level in range(4):
        low, high = inputs[f"sem.{level}"]
        assert torch.equal(low, spa[level])
        assert torch.equal(high, spa[level + 1])
        assert torch.equal(inputs[f"sem_heads.{level}"][0], outputs[f"sem.{level}"])
    for level in range(5):
        assert torch.equal(inputs[f"pyramid_heads.{level}"][0], raw[level])


def test_sem_cor_first_reads_raw_features_and_spa_cor_sem_cor_s() -> None:
    network = small("dpc", attention="sem+spa")
    inputs, outputs = watch(network)
    network(torch.rand(2, 1, *GRID))
    raw = outputs["encoder"]
    sem = [*(outputs[f"sem.{i}"] for i in range(4)), raw[4]]
    for level in range(4):
        low, high = inputs[f"sem.{level}"]
        assert torch.equal(low, raw[level])
        assert torch.equal(high, raw[level + 1])
    for level in range(1, 5):
        high, low = inputs[f"spa.{level - 1}"]
        assert torch.equal(high, sem[level])
        assert torch.equal(low, sem[level - 1])


@pytest.mark.parametrize("attention", ["spa", "sem"])
def test_a_module_alone_reads_raw_features(attention: str) -> None:
    network = small("dpc", attention=attention)
    inputs, outputs = watch(network)
    network(torch.rand(2, 1, *GRID))
    raw = outputs["encoder"]
    for level in range(4):
        fine_to_coarse = inputs[f"{attention}.{level}"][:: 1 if attention == "sem" else -1]
        wanted = zip(fine_to_coarse, raw[level : level + 2], strict=True)
        assert all(torch.equal(given, features) for given, features in wanted)


@pytest.mark.parametrize(
    ("attention", "wanted"),
    [
        ("none", {"pyramid": range(5)}),
        ("spa", {"pyramid": range(5), "spa": range(1, 5)}),
        ("sem", {"sem": range(4), "pyramid": range(5)}),
        ("spa+sem", {"sem": range(4), "pyramid": range(5), "spa": range(1, 5)}),
        ("sem+spa", {"sem": range(4), "pyramid": range(5), "spa": range(1, 5)}),
        ("ag", {"pyramid": range(5)}),
        (
            "daf",
            {"daf": [0], "refined": [1] * 4, "reduced": [1, 1, 2, 3], "pyramid": range(5)},
        ),
    ],
)
def test_training_mode_gives_every_module_s_levels(attention: str, wanted: dict) -> None:
    """Of modules that are there; the list that predicts comes first."""
    outputs = small("dpc", attention=attention)(torch.rand(2, 1, *GRID))
    assert list(outputs) == list(wanted)
    for key, levels in wanted.items():
        shapes = [tuple(logits.shape) for logits in outputs[key]]
        assert shapes == [(2, 3, *(size // 2**level for size in GRID)) for level in levels], key


def test_heads_come_finest_first() -> None:
    network = small("dpc")
    for kind in ("pyramid", "spa", "sem"):
        for level, head in enumerate(getattr(network, f"{kind}_heads")):
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, level)
    for found in network(torch.rand(2, 1, *GRID)).values():
        assert [logits.unique().tolist() for logits in found] == [[i] for i in range(len(found))]


def test_a_profile_and_the_pools_reach_every_module() -> None:
    network = small("dpc", profile="literal", spa_pool="max", sem_pool="avg")
    assert {(m.pool, m.concat) for m in network.spa} == {("max", False)}
    assert {(m.pool, m.concat) for m in network.sem} == {("avg", True)}
    assert all(isinstance(m.recalibrate, nn.Conv3d) for m in network.sem)
    network = small("dpc", spa_pool="avg", sem_pool="max")
    assert {(m.pool, m.concat) for m in network.spa} == {("avg", True)}
    assert {(m.pool, m.concat) for m in network.sem} == {("max", False)}
    assert all(isinstance(m.recalibrate, nn.Identity) for m in network.sem)


# --- What predicts, and what is left out in evaluation


@pytest.mark.parametrize(
    ("attention", "computed"),
    [
        ("none", {"pyramid_heads.0"}),
        ("spa", {"spa.0", "spa_heads.0", "pyramid_heads.0"}),
        ("sem", {"sem.0", "sem_heads.0"}),
        ("spa+sem", {"spa.0", "sem.0", "sem_heads.0"}),
        ("sem+spa", {"sem.0", "sem_heads.0"}),
        ("ag", {"pyramid_heads.0"}),
        ("daf", set()),
    ],
)
def test_evaluation_computes_what_can_reach_the_output_and_no_more(
    attention: str, computed: set[str]
) -> None:
    """spa.0 is the SpaCor of level 1. Whatever is computed does reach the output."""
    network = small("dpc", attention=attention).eval()
    lists = ("spa", "sem", "spa_heads", "sem_heads", "pyramid_heads")
    optional = {f"{name}.{i}" for name in lists for i in range(len(getattr(network, name)))}
    optional |= {f"daf.{name}.{i}" for name in ("refined_heads", "reduced_heads") for i in range(4)}
    inputs, _ = watch(network)
    logits = network(torch.rand(1, 1, *GRID))
    assert optional & set(inputs) == computed
    logits.square().sum().backward()
    reaching = {
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    assert all(any(name.startswith(f"{one}.") for name in reaching) for one in computed)


@pytest.mark.parametrize("attention", ["none", "sem", "spa+sem", "sem+spa", "daf"])
def test_evaluation_gives_the_finest_of_the_list_that_predicts(attention: str) -> None:
    """Leaving out changes nothing: the PFE has no BatchNorm, so that both modes are comparable."""
    network = small("dpc", attention=attention).double()
    image = torch.rand(2, 1, *GRID, dtype=torch.float64)
    with torch.no_grad():
        outputs = network(image)
        predicting = next(iter(outputs.values()))[0]
        assert_same(predicting, network.eval()(image), 1e-12)


def test_in_training_too_only_two_modules_reach_the_finest_output() -> None:
    network = small("dpc")
    network(torch.rand(2, 1, *GRID))["sem"][0].square().sum().backward()
    reached = {
        ".".join(name.split(".")[:2])
        for name, parameter in network.named_parameters()
        if not name.startswith("encoder") and parameter.grad is not None
    }
    assert reached == {"spa.0", "sem.0", "sem_heads.0"}


def test_spa_cor_alone_predicts_the_mean_of_two_probabilities() -> None:
    network = small("dpc", attention="spa").double()
    image = torch.rand(2, 1, *GRID, dtype=torch.float64)
    with torch.no_grad():
        outputs = network(image)
        fine, coarse = (outputs[key][0].softmax(1) for key in ("pyramid", "spa"))
        expected = (fine + twice(coarse)) / 2
        logits = network.eval()(image)
    assert_same(expected, logits.softmax(1), 1e-12)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones_like(logits[:, 0]))


def test_the_mean_of_certain_probabilities_stays_finite() -> None:
    """By hand: (1, 0, 0) and (0, 1, 0) make (1/2, 1/2, 0)."""
    fine = torch.tensor([1e4, 0.0, 0.0])[None, :, None, None, None].expand(1, 3, 2, 2, 2)
    coarse = torch.tensor([0.0, 1e4, 0.0])[None, :, None, None, None]
    logits = log_mean_probability(fine, coarse)
    assert logits.isfinite().all()
    wanted = torch.tensor([0.5, 0.5, 0.0])[None, :, None, None, None].expand_as(logits)
    torch.testing.assert_close(logits.softmax(1), wanted)


@pytest.mark.parametrize("attention", ["spa", "spa+sem"])
@torch.inference_mode()
def test_openvino_gives_the_logits_of_torch(attention: str) -> None:
    network = randomize_norms(small("dpc", attention=attention)).eval()
    cpu = torch.device("cpu")
    image = torch.rand(1, 1, 16, 16, 32)
    expected = predictor(network, image.shape[2:], "torch", cpu)(image)
    got = predictor(network, image.shape[2:], "openvino", cpu)(image)
    assert_same(expected, got, 1e-4)


# --- Methods compared with


@pytest.mark.parametrize("scale", [1, 2])
def test_an_attention_gate_is_the_published_formula(scale: int) -> None:
    gate = randomize_norms(random(AttentionGate(4, 5, scale))).eval()
    (skip,) = features(4, finest=(4, 8, 12))
    signal = torch.randn(2, 5, *(s // 2 // scale for s in skip.shape[2:]), dtype=torch.float64)
    conv, norm = gate.out

    def pointwise(layer: nn.Conv3d, x: Tensor) -> Tensor:
        weight = layer.weight.flatten(1)
        return torch.einsum("oi,bidhw->bodhw", weight, x) + layer.bias[:, None, None, None]

    with torch.no_grad():
        blocks = skip.reshape(2, 4, 2, 2, 4, 2, 6, 2)
        theta = torch.einsum("oixyz,bidxhywz->bodhw", gate.theta.weight, blocks)
        wanted = pointwise(gate.phi, signal)
        wanted = twice(wanted) if scale == 2 else wanted
        alpha = 1 / (1 + torch.exp(-pointwise(gate.psi, (theta + wanted).clamp(min=0))))
        assert alpha.min() > 0
        assert alpha.max() < 1
        assert_same(norm(pointwise(conv, twice(alpha) * skip)), gate(skip, signal), 1e-12)


def test_one_signal_gates_the_skips_of_levels_1_to_3() -> None:
    network = randomize_norms(small("dpc", attention="ag", **BASELINE)).eval()
    inputs, outputs = watch(network)
    with torch.no_grad():
        network(torch.rand(1, 1, *GRID))
    signal = outputs["encoder.skips.signal"]
    assert tuple(signal.shape[1:]) == (32, 1, 1, 2)
    for level in range(4):
        (joined,) = inputs[f"encoder.decoders.{level}"]
        raw = outputs[f"encoder.encoders.{level}"]
        if level:
            skip, given = inputs[f"encoder.skips.gates.{level - 1}"]
            assert given is signal
            assert torch.equal(skip, raw)
            raw = outputs[f"encoder.skips.gates.{level - 1}"]
        assert torch.equal(joined[:, raw.shape[1] :], raw), level
    assert torch.equal(inputs["encoder.skips.signal"][0], outputs["encoder.encoders.4"])
    assert torch.equal(inputs["encoder.ups.3"][0], outputs["encoder.encoders.4"])


def test_daf_is_wired_as_published_at_half_resolution() -> None:
    daf = random(DAF([4, 8, 16, 32], 4, 3)).eval()
    pyramid = features(4, 8, 16, 32, finest=(16, 32, 16))
    with torch.no_grad():
        blocks = pyramid[0].reshape(2, 4, 8, 2, 16, 2, 8, 2)
        inputs = [blocks.mean((3, 5, 7)), *pyramid[1:]]
        r0, r1, r2, r3 = (unit(x) for unit, x in zip(daf.reduce, inputs, strict=True))
        r2 = r2 + twice(r3)
        r1 = r1 + twice(r2)
        r0 = r0 + r1
        four = F.interpolate(r3, scale_factor=4, mode="trilinear")
        levels = [r0, r1, twice(r2), four]
        fused = daf.fuse(torch.cat(levels, 1))
        refined = []
        for level, x in enumerate(levels):
            attention = daf.gates[level](torch.cat([x, fused], 1))
            assert attention.min() > 0
            assert attention.max() < 1
            refined.append(daf.refine[level](torch.cat([x, attention * fused], 1)))
        y = daf.merge(torch.cat(refined, 1))
        y = daf.project(torch.cat([branch(y) for branch in daf.pyramid], 1))
        expected = twice(daf.head(y))
        assert_same(expected, daf(pyramid), 1e-12)
        outputs = daf.train()(pyramid)
        for key, heads, found in (
            ("reduced", daf.reduced_heads, [r0, r1, r2, r3]),
            ("refined", daf.refined_heads, refined),
        ):
            for head, x, logits in zip(heads, found, outputs[key], strict=True):
                assert_same(head(x), logits, 1e-12)


def test_the_layers_of_daf() -> None:
    with torch.device("meta"):
        daf = build("dpc", attention="daf", **BASELINE).daf
    convs = [branch[0] for branch in daf.pyramid]
    assert [conv.dilation for conv in convs] == [(1, r, r) for r in (1, 6, 12, 18)]
    assert all(conv.padding == conv.dilation for conv in convs)
    norms = [m for m in daf.modules() if isinstance(m, nn.GroupNorm)]
    assert {(norm.num_groups, norm.num_channels) for norm in norms} == {(32, 32), (32, 64)}
    assert [unit[0].in_channels for unit in daf.reduce] == [32, 64, 128, 256]
    for gate in daf.gates:
        flat = [m for m in gate.modules() if not isinstance(m, nn.Sequential)]
        unit = [nn.Conv3d, nn.GroupNorm, nn.PReLU]
        assert [type(m) for m in flat] == [*unit, *unit, nn.Conv3d, nn.Sigmoid]
        assert [m.kernel_size[0] for m in flat if isinstance(m, nn.Conv3d)] == [1, 3, 3]
    for refine in (daf.fuse, *daf.refine):
        convs = [m for m in refine.modules() if isinstance(m, nn.Conv3d)]
        assert [conv.kernel_size[0] for conv in convs] == [1, 3, 3]


# --- The rest


def test_weights_start_as_he_s_for_leaky_relus() -> None:
    assert_starts_as_he(small("dpc", width=8), 0.01)


@pytest.mark.parametrize("encoder", ["pfe", "baseline"])
@pytest.mark.parametrize("profile", ["counted", "literal"])
def test_fresh_gates_are_not_saturated(encoder: str, profile: str) -> None:
    """The slope of a sigmoid, of at most 0.25, is what a module learns by."""
    network = small("dpc", width=16, encoder=encoder, profile=profile)
    slopes = []
    for module in (*network.spa, *network.sem):
        module.attention.register_forward_hook(
            lambda _, given, logits: slopes.append((logits.sigmoid() * (-logits).sigmoid()).mean())
        )
    with torch.no_grad():
        outputs = network(torch.randn(2, 1, 32, 32, 32))
    assert len(slopes) == 8
    assert min(slopes) > 0.01
    assert max(logits.abs().max() for found in outputs.values() for logits in found) < 20


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        ({"encoder": "resnet"}, "encoder 'resnet'.*'baseline', 'pfe'"),
        ({"attention": "spa-sem"}, "attention 'spa-sem'.*'ag', 'daf', 'none', 'sem', 'sem.spa'"),
        ({"profile": "exact"}, "profile 'exact'.*'counted', 'literal'"),
        ({"spa_pool": "mean"}, "spa_pool 'mean'.*'avg', 'both', 'max'"),
        ({"sem_pool": "min"}, "sem_pool 'min'.*'avg', 'both', 'max'"),
        ({"out_channels": 1}, "2 or more out_channels.*got 1"),
    ],
)
def test_an_unknown_word_is_answered_with_the_choices(arguments: dict, choices: str) -> None:
    with pytest.raises(ValueError, match=choices):
        small("dpc", **arguments)
