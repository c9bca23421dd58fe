"""MSA-UNet: its modules in closed form, DropBlock's statistics, and how the network joins them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from LiverTumorSegLib.networks import build
from LiverTumorSegLib.networks.msa import AASPP, MSAM, MSRB, RASM, DropBlock, upsample
from Testing.engine.network_cases import (
    assert_same,
    assert_starts_as_he,
    input_shapes,
    openvino_logits,
    parameters,
    randomize_norms,
    small,
)

MSA = "msa"
DROP = (7, 0.9)


class Times(nn.Module):
    """Stands in for a part whose function is known."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def doubled(x: np.ndarray) -> np.ndarray:
    """Linear between pixel centers, the outer pixels repeated: SciPy's word for it."""
    return ndimage.zoom(x, (1, 1, 2, 2), order=1, mode="nearest", grid_mode=True)


def largest(x: np.ndarray, side: int) -> np.ndarray:
    batch, channels, height, width = x.shape
    squares = x.reshape(batch, channels, height // side, side, width // side, side)
    return squares.max(axis=(3, 5))


@pytest.mark.parametrize(
    ("part", "count"),
    [
        (MSRB(1, 16, *DROP), 3_280),
        (MSRB(128, 256, *DROP), 1_346_048),
        (MSAM(16), 7_280),
        (MSAM(256), 1_836_800),
        (AASPP(256, 256), 9_446_912),
        (RASM(128, 256, *DROP), 2_117_504),
        (RASM(64, 128, *DROP), 530_368),
        (RASM(32, 64, *DROP), 133_088),
        (RASM(16, 32, *DROP), 33_520),
    ],
)
def test_parts_have_the_stated_parameters(part: nn.Module, count: int) -> None:
    assert parameters(part) == count


def test_upsampling_is_linear_between_pixel_centers() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert_same(torch.from_numpy(doubled(x.numpy())), upsample(x), 1e-12)


def test_drop_block_changes_nothing_in_evaluation() -> None:
    x = torch.rand(1, 2, 16, 16)
    assert DropBlock(7, 0.1).eval()(x) is x


@pytest.mark.parametrize(("block_size", "shape"), [(7, (32, 32)), (7, (4, 16)), (3, (9, 20))])
def test_drop_block_zeroes_whole_squares_of_the_expected_share(
    block_size: int, shape: tuple[int, int]
) -> None:
    """A pixel that n squares can cover stays with probability (1 - rate)^n."""
    torch.manual_seed(0)
    maps = DropBlock(block_size, 0.9)(torch.ones(8, 250, *shape)).flatten(0, 1).numpy()
    side = min(block_size, *shape)
    zero = maps == 0
    assert (zero == ndimage.binary_opening(zero, np.ones((1, side, side)))).all()
    corners = [size - side + 1 for size in shape]
    rate = 0.1 / side**2 * np.prod(shape) / np.prod(corners)
    covering = np.outer(*(np.convolve(np.ones(n), np.ones(side)) for n in corners))
    dropped = 1 - (1 - rate) ** covering
    assert dropped.mean() == pytest.approx(0.1, abs=0.01)
    assert zero.mean() == pytest.approx(dropped.mean(), abs=0.006)
    assert np.abs(zero.mean(axis=0) - dropped).max() < 5 * np.sqrt(0.25 / len(zero))


def test_drop_block_drops_elsewhere_in_every_sample_and_channel() -> None:
    torch.manual_seed(0)
    zero = DropBlock(7, 0.5)(torch.ones(3, 4, 32, 32)).flatten(0, 1) == 0
    assert len(zero.unique(dim=0)) == 12


def test_drop_block_keeps_the_mean_of_a_constant() -> None:
    torch.manual_seed(0)
    found = DropBlock(7, 0.9)(torch.full((2, 5, 32, 32), 3.0, dtype=torch.float64))
    assert (found == 0).any()
    assert found.mean().item() == pytest.approx(3, rel=1e-6)
    assert len(found.unique()) == 2


def test_drop_block_scales_in_half_precision_too() -> None:
    torch.manual_seed(0)
    found = DropBlock(7, 0.9)(torch.ones((8, 16, 32, 32), dtype=torch.float16))
    assert found.dtype == torch.float16
    assert found.float().mean().item() == pytest.approx(1, abs=1e-3)


def test_drop_block_survives_dropping_all() -> None:
    torch.manual_seed(0)
    assert torch.equal(DropBlock(7, 1e-6)(torch.ones(1, 1, 7, 7)), torch.zeros(1, 1, 7, 7))


def test_drop_block_that_keeps_all_changes_nothing() -> None:
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(DropBlock(7, 1.0)(x), x)


@pytest.mark.parametrize("keep_prob", [0.0, -0.1, 1.1])
def test_an_impossible_share_to_keep_is_refused(keep_prob: float) -> None:
    with pytest.raises(ValueError, match="keep_prob"):
        build(MSA, base_channels=2, keep_prob=keep_prob)


def test_a_residual_block_adds_its_shortcut_to_the_fused_scales() -> None:
    """With parts that multiply: 2x and 3x concatenated, doubled, and -5x added. Nothing follows."""
    block = MSRB(4, 4, *DROP).eval()
    block.narrow, block.wide, block.shortcut = Times(2), Times(3), Times(-5)
    block.fuse = nn.Conv2d(8, 4, 1, bias=False)
    with torch.no_grad():
        block.fuse.weight.copy_(torch.cat([torch.eye(4), 10 * torch.eye(4)], 1)[..., None, None])
        x = torch.randn(2, 4, 5, 6)
        assert_same((2 + 30 - 5) * x, block(x), 1e-6)


def test_a_residual_block_s_convolutions_have_norms_and_the_inner_ones_relu() -> None:
    block = MSRB(3, 8, *DROP)
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    chains = [block.narrow, *block.wide, block.fuse, block.shortcut]
    assert [[type(part) for part in chain] for chain in chains] == [kinds] * 4 + [kinds[:2]]
    kernels = [chain[0].kernel_size for chain in chains]
    assert kernels == [(3, 3), (3, 3), (3, 3), (1, 1), (1, 1)]


def test_a_residual_block_ends_with_drop_block() -> None:
    torch.manual_seed(0)
    block = MSRB(3, 8, 5, 0.5)
    zero = (block(torch.randn(2, 3, 16, 16)) == 0).flatten(0, 1).numpy()
    assert 0.2 < zero.mean() < 0.6
    assert (zero == ndimage.binary_opening(zero, np.ones((1, 5, 5)))).all()


def test_attention_fuses_three_poolings_of_its_input_from_coarse_to_fine() -> None:
    """With convolutions that multiply by 2, 3, 5 and 0.1: equal to the formula in NumPy."""
    torch.manual_seed(0)
    attention = MSAM(3)
    attention.from_8, attention.from_4, attention.from_2 = Times(2), Times(3), Times(5)
    attention.project = Times(0.1)
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    features = x.numpy()
    by_4 = largest(features, 4) + doubled(2 * largest(features, 8))
    by_2 = largest(features, 2) + doubled(3 * by_4)
    expected = features / (1 + np.exp(-0.1 * doubled(5 * by_2)))
    assert_same(torch.from_numpy(expected), attention(x), 1e-12)


def test_attention_convolves_before_it_upsamples() -> None:
    names = ["from_8", "from_4", "from_2", "project"]
    shapes = input_shapes(MSAM(4).eval(), names, torch.rand(1, 4, 32, 48))
    assert [shapes[name] for name in names] == [
        [(4, 4, 6)],
        [(4, 8, 12)],
        [(4, 16, 24)],
        [(4, 32, 48)],
    ]


def test_attention_may_weaken_and_without_weights_halves() -> None:
    torch.manual_seed(0)
    attention = MSAM(4).eval()
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    chains = [attention.from_8, attention.from_4, attention.from_2]
    assert [[type(part) for part in chain] for chain in chains] == [kinds] * 3
    assert type(attention.project) is nn.Conv2d
    x = torch.rand(1, 4, 16, 16) + 0.1
    with torch.no_grad():
        factors = attention(x) / x
        assert 0 < factors.min() < 0.5 < factors.max() < 1
        assert factors.std(dim=1).min() > 0, "every channel has factors of its own"
        nn.init.zeros_(attention.project.weight)
        nn.init.zeros_(attention.project.bias)
        assert torch.equal(attention(x), x / 2)


def test_the_pyramid_has_attention_after_every_branch() -> None:
    pyramid = AASPP(8, 4)
    convs = [branch[0][0] for branch in pyramid.branches]
    assert [conv.kernel_size[0] for conv in convs] == [1, 3, 3, 3]
    assert [conv.dilation[0] for conv in convs] == [1, 2, 4, 8]
    assert [type(branch[1]) for branch in pyramid.branches] == [MSAM] * 4
    pyramid.fuse = nn.Identity()
    for factor, branch in enumerate(pyramid.branches, start=1):
        branch[0], branch[1] = Times(factor), Times(10)
    x = torch.randn(1, 8, 8, 8)
    assert_same(torch.cat([10 * x, 20 * x, 30 * x, 40 * x], dim=1), pyramid(x), 1e-6)


def test_a_skip_module_adds_both_shortcuts_to_what_it_fuses() -> None:
    module = RASM(4, 4, *DROP).eval()
    module.low_shortcut, module.high_shortcut = Times(-2), Times(3)
    module.fuse = nn.Conv2d(8, 4, 1, bias=False)
    low, high = torch.randn(2, 4, 8, 16), torch.randn(2, 4, 4, 8)
    with torch.no_grad():
        # 10 of the first four channels, 100 of the others: the upsampled come first.
        weight = torch.cat([10 * torch.eye(4), 100 * torch.eye(4)], 1)[..., None, None]
        module.fuse.weight.copy_(weight)
        up = torch.from_numpy(doubled(high.numpy()))
        assert_same((100 - 2) * low + (10 + 3) * up, module(low, high), 1e-5)


def test_a_skip_module_fuses_with_two_residual_blocks_and_attention() -> None:
    module = RASM(4, 8, 5, 0.7)
    assert [type(part) for part in module.fuse] == [MSRB, MSRB, MSAM]
    first, second, _ = module.fuse
    assert {(part.drop.block_size, part.drop.keep_prob) for part in (first, second)} == {(5, 0.7)}
    kinds = [nn.Conv2d, nn.BatchNorm2d]
    for shortcut in (module.low_shortcut, module.high_shortcut):
        assert [type(part) for part in shortcut] == kinds
        assert shortcut[0].kernel_size == (1, 1)
    shapes = input_shapes(
        module.eval(), ["fuse.0", "fuse.1"], torch.rand(1, 4, 8, 8), torch.rand(1, 8, 4, 4)
    )
    assert shapes == {"fuse.0": [(12, 8, 8)], "fuse.1": [(4, 8, 8)]}


def test_stages_have_the_channels_and_resolutions_of_the_u_net() -> None:
    network = small(MSA).eval()
    names = ["context", "head"]
    names += [f"{stages}.{i}" for stages, n in (("encoders", 5), ("decoders", 4)) for i in range(n)]
    image = torch.rand(1, 1, 128, 256)
    assert input_shapes(network, names, image) == {
        "encoders.0": [(1, 128, 256)],
        "encoders.1": [(2, 64, 128)],
        "encoders.2": [(4, 32, 64)],
        "encoders.3": [(8, 16, 32)],
        "encoders.4": [(16, 8, 16)],
        "context": [(32, 8, 16)],
        "decoders.0": [(16, 16, 32), (32, 8, 16)],
        "decoders.1": [(8, 32, 64), (16, 16, 32)],
        "decoders.2": [(4, 64, 128), (8, 32, 64)],
        "decoders.3": [(2, 128, 256), (4, 64, 128)],
        "head": [(2, 128, 256)],
    }
    with torch.no_grad():
        assert network(image).shape == (1, 1, 128, 256)


@pytest.mark.parametrize("msrb", [False, True])
@pytest.mark.parametrize("aaspp", [False, True])
@pytest.mark.parametrize("rasm", [False, True])
def test_switches_choose_the_parts(msrb: bool, aaspp: bool, rasm: bool) -> None:
    network = small(MSA, msrb=msrb, aaspp=aaspp, rasm=rasm)
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(MSRB) == 5 * msrb + 8 * rasm
    assert kinds.count(MSAM) == 4 * aaspp + 4 * rasm
    assert (kinds.count(AASPP), kinds.count(RASM)) == (aaspp, 4 * rasm)
    assert network.divisor == 128


def test_drop_block_s_numbers_reach_every_block() -> None:
    drops = [m for m in small(MSA).modules() if isinstance(m, DropBlock)]
    assert [(drop.block_size, drop.keep_prob) for drop in drops] == [(7, 0.9)] * 13
    drops = [
        m for m in small(MSA, block_size=5, keep_prob=0.8).modules() if isinstance(m, DropBlock)
    ]
    assert [(drop.block_size, drop.keep_prob) for drop in drops] == [(5, 0.8)] * 13


def test_both_papers_baselines_are_the_same_u_net() -> None:
    baseline = small(MSA, msrb=False, aaspp=False, rasm=False, base_channels=8)
    other = small("rmau", res_se=False, mab=False, out_channels=1)
    randomize_norms(baseline)
    other.load_state_dict(baseline.state_dict())
    image = torch.rand(1, 1, 128, 128)
    with torch.no_grad():
        assert torch.equal(baseline.eval()(image), other.eval()(image))


def test_weights_start_as_he_et_al_s() -> None:
    torch.manual_seed(0)
    assert_starts_as_he(build(MSA, base_channels=8), negative_slope=0.0)


def test_openvino_gives_the_logits_of_torch() -> None:
    pytest.importorskip("openvino")
    network = randomize_norms(small(MSA)).eval()
    image = torch.rand(1, 1, 128, 256)
    with torch.no_grad():
        assert_same(network(image), openvino_logits(network, image), 1e-4)
