"""RMAU-Net and the parts it shares with MSA-UNet: closed forms, and MONAI as an oracle."""

from __future__ import annotations

import math

import pytest
import torch
from monai.networks.blocks import ChannelSELayer
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.networks import build
from LiverTumorSegLib.networks.blocks import UpConcat, conv_norm, double_conv, initialize_he
from LiverTumorSegLib.networks.rmau import (
    ASPP,
    MAB,
    ChannelAttention,
    ResSEBlock,
    SpatialAttention,
    SqueezeExcitation,
)
from Testing.engine.network_cases import (
    NO_MAB,
    NO_RES_SE,
    assert_same,
    assert_starts_as_he,
    input_shapes,
    openvino_logits,
    parameters,
    randomize_norms,
    small,
)

RMAU = "rmau"


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def reach(module: nn.Module, channels: int = 1, size: int = 33) -> set[tuple[int, int]]:
    """Offsets (y, x) from an output pixel of the input pixels that it depends on."""
    x = torch.rand(1, channels, size, size, requires_grad=True)
    module.eval()(x)[..., size // 2, size // 2].sum().backward()
    seen = x.grad.abs().sum((0, 1)).nonzero() - size // 2
    return {(int(y), int(x)) for y, x in seen}


def square(offsets: list[int]) -> set[tuple[int, int]]:
    return {(y, x) for y in offsets for x in offsets}


@pytest.mark.parametrize(
    ("part", "count"),
    [
        (ResSEBlock(1, 64, 6), 39_242),
        (ResSEBlock(64, 128, 6), 235_669),
        (ResSEBlock(128, 64, 6), 120_522),
        (ResSEBlock(512, 1024, 6), 15_035_562),
        (SqueezeExcitation(64, 6), 1_354),
        (ASPP(64, (1, 2, 4, 8)), 41_216),
        (ChannelAttention(64), 580),
        (SpatialAttention(), 99),
        (MAB(64, (1, 2, 4, 8)), 41_895),
        (ASPP(1024, (1, 2, 4, 8)), 10_489_856),
        (ChannelAttention(1024), 132_160),
        (MAB(1024, (1, 2, 4, 8)), 10_622_115),
    ],
)
def test_parts_have_the_stated_parameters(part: nn.Module, count: int) -> None:
    assert parameters(part) == count


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 2), (3, 8)])
def test_a_convolution_keeps_the_size_and_is_normalized(kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    chain = randomize_norms(conv_norm(3, 5, kernel, dilation=dilation)).double().eval()
    conv, norm = chain
    x = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    border = dilation * (kernel - 1) // 2
    y = F.conv2d(F.pad(x, [border] * 4), conv.weight, dilation=dilation)
    mean, variance, weight, bias = (
        p[:, None, None] for p in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    with torch.no_grad():
        assert_same((y - mean) / (variance + 1e-5).sqrt() * weight + bias, chain(x), 1e-12)


def test_an_activation_follows_the_norm() -> None:
    kinds = [nn.Conv2d, nn.BatchNorm2d]
    assert [type(module) for module in conv_norm(2, 3, 3)] == kinds
    activated = conv_norm(2, 3, 3, activation=nn.LeakyReLU(0.01))
    assert [type(module) for module in activated] == [*kinds, nn.LeakyReLU]


def test_the_baseline_s_block_sees_five_pixels_and_ends_with_relu() -> None:
    torch.manual_seed(0)
    block = double_conv(2, 16).eval()
    assert reach(block, 2) == square([-2, -1, 0, 1, 2])
    with torch.no_grad():
        values = block(torch.randn(1, 2, 8, 8))
    assert values.min() == 0 < values.max()
    assert [type(part[-1]) for part in block] == [nn.ReLU, nn.ReLU]


def test_a_decoder_stage_puts_the_skip_before_the_upsampled() -> None:
    torch.manual_seed(0)
    stage = UpConcat(3, 6, nn.Identity())
    low, high = torch.randn(2, 3, 4, 6), torch.randn(2, 6, 2, 3)
    with torch.no_grad():
        found = stage(low, high)
        # Kernel equals stride: every pixel becomes its own square of 2x2.
        squares = torch.einsum("bchw,coij->bohiwj", high, stage.up.weight).reshape(2, 3, 4, 6)
        assert torch.equal(found[:, :3], low)
        assert_same(squares + stage.up.bias[:, None, None], found[:, 3:], 1e-5)


@pytest.mark.parametrize(("channels", "reduction"), [(64, 6), (16, 6), (8, 2)])
def test_squeeze_and_excitation_is_monai_s(channels: int, reduction: int) -> None:
    torch.manual_seed(0)
    ours = SqueezeExcitation(channels, reduction)
    theirs = ChannelSELayer(spatial_dims=2, in_channels=channels, r=reduction)
    theirs.fc.load_state_dict(ours.mlp.state_dict())
    x = torch.randn(2, channels, 5, 7)
    with torch.no_grad():
        assert_same(theirs(x), ours(x), 1e-6)


def test_fewer_channels_than_the_reduction_leave_one_hidden_feature() -> None:
    assert SqueezeExcitation(4, 6).mlp[0].out_features == 1
    assert ChannelAttention(8).mlp[0].out_features == 1


@pytest.mark.parametrize(("logit", "factor"), [(50.0, 1.0), (0.0, 0.5), (-50.0, 0.0)])
def test_a_residual_block_adds_the_excited_features_to_the_shortcut(
    logit: float, factor: float
) -> None:
    """y = x + u s with s set by hand; negative sums stay, since nothing follows."""
    torch.manual_seed(0)
    block = randomize_norms(ResSEBlock(4, 4, 2)).eval()
    block.shortcut = nn.Identity()
    nn.init.zeros_(block.excite.mlp[2].weight)
    nn.init.constant_(block.excite.mlp[2].bias, logit)
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        found = block(x)
        assert_same(x + factor * block.convs(x), found, 1e-6)
    assert found.min() < -0.5


def test_a_residual_block_s_convolutions_are_leaky_and_its_shortcut_is_linear() -> None:
    block = ResSEBlock(3, 8, 2)
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert [[type(part) for part in chain] for chain in block.convs] == [kinds, kinds]
    assert {chain[2].negative_slope for chain in block.convs} == {0.01}
    assert [type(part) for part in block.shortcut] == kinds[:2]
    assert reach(block.convs, 3) == square([-2, -1, 0, 1, 2])
    assert reach(block.shortcut, 3) == {(0, 0)}


def test_channel_attention_merges_mean_and_maximum_through_one_mlp() -> None:
    attention = ChannelAttention(2)
    first, _, second = attention.mlp
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -1.0]]))
        first.bias.fill_(0.5)
        second.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        second.bias.copy_(torch.tensor([0.0, 1.0]))
        x = torch.tensor([[[[0.0, 4.0], [0.0, 0.0]], [[3.0, 1.0], [2.0, 2.0]]]])
        # Means 1, 2: hidden relu(1 - 2 + 0.5) = 0. Maxima 4, 3: hidden relu(4 - 3 + 0.5) = 1.5.
        factors = torch.tensor([sigmoid(2 * 1.5), sigmoid((0 + 1) + (-1.5 + 1))])
        assert_same(x * factors[:, None, None], attention(x), 1e-6)


def test_spatial_attention_gives_one_factor_a_pixel_from_mean_and_maximum() -> None:
    attention = SpatialAttention()
    nn.init.zeros_(attention.conv.weight)
    with torch.no_grad():
        attention.conv.weight[0, 0, 3, 6] = 2.0  # the mean three pixels to the right
        attention.conv.weight[0, 1, 3, 3] = -1.0  # the maximum here
        attention.conv.bias.fill_(0.5)
        torch.manual_seed(0)
        x = torch.randn(2, 3, 4, 8)
        mean = torch.zeros(2, 4, 8)
        mean[..., :-3] = (x[:, 0] + x[:, 1] + x[:, 2])[..., 3:] / 3
        factor = torch.sigmoid(2 * mean - x.max(dim=1).values + 0.5)
        assert_same(x * factor[:, None], attention(x), 1e-6)


@pytest.mark.parametrize("dilations", [(1, 2, 4, 8), (3, 5)])
def test_the_pyramid_sees_as_far_as_its_dilations(dilations: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    pyramid = ASPP(16, dilations)
    for branch, dilation in zip(pyramid.branches, dilations, strict=True):
        assert branch[0].out_channels == 4
        assert reach(branch, 16) == square([-dilation, 0, dilation])
    expected = set().union(*(square([-dilation, 0, dilation]) for dilation in dilations))
    assert reach(pyramid, 16) == expected


def test_an_mab_has_no_residual_around_it() -> None:
    """Both attentions set to one half: a quarter of what the pyramid gives."""
    torch.manual_seed(0)
    mab = MAB(16, (1, 2, 4, 8)).eval()
    pyramid, channels, places = mab
    for layer in (channels.mlp[2], places.conv):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        assert_same(pyramid(x) / 4, mab(x), 1e-6)


def test_an_mab_weighs_the_places_by_channels_already_weighed() -> None:
    torch.manual_seed(0)
    mab = MAB(2, (1,)).eval()
    mab[0] = nn.Identity()
    nn.init.zeros_(mab[1].mlp[2].weight)
    nn.init.constant_(mab[1].mlp[2].bias[:1], 50.0)  # channel 0 stays,
    nn.init.constant_(mab[1].mlp[2].bias[1:], -50.0)  # channel 1 vanishes
    nn.init.zeros_(mab[2].conv.weight)
    nn.init.zeros_(mab[2].conv.bias)
    nn.init.ones_(mab[2].conv.weight[:, :, 3, 3])
    x = torch.rand(1, 2, 4, 4)
    factor = torch.sigmoid(x[:, :1] / 2 + x[:, :1])  # mean and maximum over (x0, 0)
    with torch.no_grad():
        assert_same(torch.cat([x[:, :1] * factor, 0 * x[:, 1:]], dim=1), mab(x), 1e-6)


def test_stages_have_the_channels_and_resolutions_of_the_u_net() -> None:
    network = small(RMAU).eval()
    names = ["encoder_attention", "decoder_attention", "head"]
    names += [f"{stages}.{i}" for stages, n in (("encoders", 5), ("decoders", 4)) for i in range(n)]
    image = torch.rand(1, 1, 48, 80)
    assert input_shapes(network, names, image) == {
        "encoders.0": [(1, 48, 80)],
        "encoders.1": [(8, 24, 40)],
        "encoders.2": [(16, 12, 20)],
        "encoders.3": [(32, 6, 10)],
        "encoders.4": [(64, 3, 5)],
        "encoder_attention": [(128, 3, 5)],
        "decoders.0": [(64, 6, 10), (128, 3, 5)],
        "decoders.1": [(32, 12, 20), (64, 6, 10)],
        "decoders.2": [(16, 24, 40), (32, 12, 20)],
        "decoders.3": [(8, 48, 80), (16, 24, 40)],
        "decoder_attention": [(8, 48, 80)],
        "head": [(8, 48, 80)],
    }
    with torch.no_grad():
        assert network(image).shape == (1, 2, 48, 80)


def test_poolings_take_the_maximum_of_every_square() -> None:
    network = small(RMAU, in_channels=8).eval()
    given: list[Tensor] = []
    network.encoders[0] = nn.Identity()
    network.encoders[1].register_forward_pre_hook(lambda _, x: given.append(x[0]))
    image = torch.rand(1, 8, 16, 32)
    with torch.no_grad():
        network(image)
    assert torch.equal(given[0], image.reshape(1, 8, 8, 2, 16, 2).amax(dim=(3, 5)))


@pytest.mark.parametrize("res_se", [False, True])
@pytest.mark.parametrize("mab", [False, True])
def test_switches_choose_the_parts(res_se: bool, mab: bool) -> None:
    network = small(RMAU, res_se=res_se, mab=mab)
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(ResSEBlock) == (9 if res_se else 0)
    assert kinds.count(MAB) == (2 if mab else 0)


def test_reduction_and_dilations_reach_the_parts() -> None:
    network = small(RMAU, base_channels=16, se_reduction=4, mab_dilations=[2, 3])
    assert network.encoders[0].excite.mlp[0].out_features == 4
    for attention in (network.encoder_attention, network.decoder_attention):
        assert [branch[0].dilation for branch in attention[0].branches] == [(2, 2), (3, 3)]


def test_weights_start_as_he_et_al_s() -> None:
    torch.manual_seed(0)
    assert_starts_as_he(build(RMAU, base_channels=16), negative_slope=0.01)


def test_a_start_for_a_steep_slope_has_less_variance() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Linear(50, 50) for _ in range(6)))
    initialize_he(layers, negative_slope=1.0)
    assert_starts_as_he(layers, negative_slope=1.0)


@pytest.mark.parametrize("form", [{}, NO_RES_SE | NO_MAB], ids=["whole", "baseline"])
def test_openvino_gives_the_logits_of_torch(form: dict) -> None:
    pytest.importorskip("openvino")
    network = randomize_norms(small(RMAU, **form)).eval()
    image = torch.rand(1, 1, 48, 32) * 2 - 1
    with torch.no_grad():
        assert_same(network(image), openvino_logits(network, image), 1e-4)
