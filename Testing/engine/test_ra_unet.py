"""RA-UNet: its blocks by hand-written formulas, and how the network joins them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.networks.ra_unet import AttentionModule, Hourglass, ResidualBlock
from Testing.engine.network_cases import assert_same, parameters, randomize_norms, small


def doubled(x: Tensor) -> Tensor:
    """Every pixel four times."""
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@pytest.mark.parametrize("channels", [(8, 8), (5, 12)])
def test_a_residual_block_normalizes_before_it_convolves(channels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = randomize_norms(ResidualBlock(*channels)).double().eval()
    norm_1, _, conv_1, norm_2, _, conv_2, norm_3, _, conv_3 = block.residual
    x = torch.randn(2, channels[0], 5, 6, dtype=torch.float64)

    def activated(norm: nn.BatchNorm2d, y: Tensor) -> Tensor:
        per_channel = [p[:, None, None] for p in (norm.running_mean, norm.running_var)]
        scaled = (y - per_channel[0]) / (per_channel[1] + norm.eps).sqrt()
        return (scaled * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)

    with torch.no_grad():
        y = F.conv2d(activated(norm_1, x), conv_1.weight, conv_1.bias)
        y = F.conv2d(activated(norm_2, y), conv_2.weight, conv_2.bias, padding=1)
        y = F.conv2d(activated(norm_3, y), conv_3.weight, conv_3.bias)
        raw = F.conv2d(x, block.shortcut.weight, block.shortcut.bias)
        assert_same(y + raw, block(x), 1e-12)
    assert [conv.out_channels for conv in (conv_1, conv_2)] == [channels[1] // 4] * 2


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_an_hourglass_adds_on_its_way_up_what_it_had_on_its_way_down(depth: int) -> None:
    """With blocks that pass everything, on whole numbers: equal to the recursion, exactly."""
    hourglass = Hourglass(4, depth)
    counts = {name: len(blocks) for name, blocks in hourglass.named_children()}
    assert counts == {"downs": depth, "skips": depth - 1, "ups": depth, "mask": 2}
    for blocks in hourglass.children():
        for place in range(len(blocks)):
            blocks[place] = nn.Identity()

    def recursion(x: Tensor, depth: int) -> Tensor:
        batch, channels, height, width = x.shape
        squares = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
        pooled = squares.amax(dim=(3, 5))
        return doubled(pooled + recursion(pooled, depth - 1) if depth > 1 else pooled)

    torch.manual_seed(0)
    x = torch.randint(0, 100, (2, 4, 32, 16)).float()
    assert torch.equal(hourglass(x), recursion(x, depth))


@pytest.mark.parametrize(("logit", "factor"), [(-math.inf, 1.0), (0.0, 1.5), (math.inf, 2.0)])
def test_attention_multiplies_the_trunk_by_one_to_two(logit: float, factor: float) -> None:
    torch.manual_seed(0)
    module = randomize_norms(AttentionModule(8, 2)).double().eval()
    nn.init.zeros_(module.hourglass.mask[-1].weight)
    nn.init.constant_(module.hourglass.mask[-1].bias, logit)
    x = torch.randn(2, 8, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = module.after(factor * module.trunk(module.before(x)))
        assert_same(expected, module(x), 1e-12)


def test_mask_and_trunk_start_from_the_same_features() -> None:
    torch.manual_seed(0)
    module = randomize_norms(AttentionModule(8, 1)).eval()
    x = torch.randn(1, 8, 4, 6)
    with torch.no_grad():
        start = module.before(x)
        mask = module.hourglass(start).sigmoid()
        torch.testing.assert_close(module(x), module.after((1 + mask) * module.trunk(start)))
    assert mask.std() > 0.01


@pytest.mark.parametrize(("channels", "depth"), [(16, 4), (32, 3), (64, 2), (128, 1)])
def test_an_attention_module_has_three_blocks_a_pooling_and_three_more(
    channels: int, depth: int
) -> None:
    with torch.device("meta"):
        block = parameters(ResidualBlock(channels, channels))
        assert block == (33 * channels**2 + 88 * channels) // 16
        blocks = (3 * depth + 3) * block
        assert parameters(AttentionModule(channels, depth)) == blocks + 2 * channels * (
            channels + 1
        )


def test_every_hourglass_reaches_the_coarsest_resolution() -> None:
    network = small("ra_unet").eval()
    seen = []
    for attention in network.attentions:
        attention.hourglass.downs[-1].register_forward_hook(
            lambda m, i, output: seen.append(tuple(output.shape[2:]))
        )
    network.bottom.register_forward_hook(lambda m, i, output: seen.append(tuple(output.shape[2:])))
    with torch.no_grad():
        network(torch.rand(1, 1, 64, 96))
    assert seen == [(2, 3)] * 5


def test_the_decoder_joins_the_coarser_features_with_the_skip() -> None:
    network = randomize_norms(small("ra_unet")).eval()
    stages = {"stem": network.stem, "bottom": network.bottom, "last": network.last}
    for kind in ("encoder", "attention", "decoder"):
        parts = getattr(network, f"{kind}s")
        stages |= {f"{kind} {level}": part for level, part in enumerate(parts)}
    inputs, outputs = {}, {}

    def watch(name: str, stage: nn.Module) -> None:
        stage.register_forward_pre_hook(lambda m, given: inputs.update({name: given[0]}))
        stage.register_forward_hook(lambda m, given, output: outputs.update({name: output}))

    for name, stage in stages.items():
        watch(name, stage)
    with torch.no_grad():
        network(torch.rand(1, 1, 32, 64))
    above = ["bottom", "decoder 3", "decoder 2", "decoder 1", "decoder 0"]
    skips = ["attention 3", "attention 2", "attention 1", "attention 0", "stem"]
    joined = ["decoder 3", "decoder 2", "decoder 1", "decoder 0", "last"]
    for coarse, skip, stage in zip(above, skips, joined, strict=True):
        expected = torch.cat([doubled(outputs[coarse]), outputs[skip]], dim=1)
        assert torch.equal(inputs[stage], expected), stage
    for level in range(4):
        assert torch.equal(inputs[f"attention {level}"], outputs[f"encoder {level}"])
    for level, coarse in enumerate(["stem", *(f"encoder {level}" for level in range(4))]):
        assert torch.equal(inputs[f"encoder {level}"], F.max_pool2d(outputs[coarse], 2)), level


def test_fresh_masks_are_not_saturated() -> None:
    network = small("ra_unet", width=16)
    masks = []
    for attention in network.attentions:
        attention.hourglass.register_forward_hook(lambda m, i, output: masks.append(output))
    with torch.no_grad():
        logits = network(torch.rand(2, 1, 64, 64))["heads"][0]
    slopes = [(mask.sigmoid() * (1 - mask.sigmoid())).mean().item() for mask in masks]
    assert min(slopes) > 0.1, "of at most 0.25"
    assert logits.abs().max() < 20
