"""ELANRes-MSCA-UNet: its blocks by hand-written formulas, and the exact collapse."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.networks.elanres_msca import (
    MSCA,
    ConvNorm,
    ELANResBlock,
    RepUnit,
    fold_batch_norm,
)
from Testing.engine.network_cases import (
    PRECISIONS,
    assert_same,
    assert_starts_with_maximum,
    parameters,
    randomize_norms,
    small,
)

ELANRES = "elanres_msca"


def test_no_batch_norm_or_fusion_is_left_in_the_elanres_blocks() -> None:
    network = small(ELANRES)
    assert any(isinstance(module, RepUnit) for module in network.modules())
    kinds = {type(module) for module in network.deploy().modules()}
    assert not kinds & {nn.BatchNorm3d, RepUnit, ConvNorm}
    assert nn.BatchNorm2d in kinds, "the attention keeps its own"


def test_the_plain_block_has_nothing_to_fold() -> None:
    network = randomize_norms(small(ELANRES, block="double"))
    before = copy.deepcopy(network.state_dict())
    after = network.deploy().state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@PRECISIONS
@pytest.mark.parametrize("bias", [False, True])
def test_batch_norm_folds_into_a_convolution(
    bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(1)
    conv = nn.Conv3d(3, 5, 3, padding=1, bias=bias).to(dtype)
    norm = randomize_norms(nn.BatchNorm3d(5)).to(dtype).eval()
    x = torch.randn(2, 3, 4, 5, 6, dtype=dtype)
    with torch.no_grad():
        weight, shift = fold_batch_norm(conv, norm)
        folded = F.conv3d(x, weight.to(dtype), shift.to(dtype), padding=1)
        assert weight.dtype == torch.float64
        assert_same(norm(conv(x)), folded, tolerance)


@PRECISIONS
@pytest.mark.parametrize("branches", [1, 2, 3])
def test_a_rep_unit_collapses_exactly_borders_included(
    branches: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(branches)
    unit = randomize_norms(RepUnit(6, branches)).to(dtype).eval()
    x = torch.randn(2, 6, 5, 4, 7, dtype=dtype)
    with torch.no_grad():
        before = unit(x)
        deployed = unit.deploy()
        after = deployed(x)
    assert [type(module) for module in deployed] == [nn.Conv3d, nn.ReLU]
    assert_same(before, after, tolerance)
    inner = (..., slice(1, -1), slice(1, -1), slice(1, -1))
    border = torch.ones_like(before, dtype=torch.bool)
    border[inner] = False
    assert_same(before[border], after[border], tolerance)


@pytest.mark.parametrize("channels", [(1, 8), (8, 8), (12, 8)])
def test_an_elan_block_has_a_residual_of_its_input(channels: tuple[int, int]) -> None:
    """With the fusion switched off the block is ReLU of its shortcut."""
    torch.manual_seed(0)
    block = randomize_norms(ELANResBlock(*channels)).eval()
    nn.init.zeros_(block.fuse.norm.weight)
    nn.init.zeros_(block.fuse.norm.bias)
    x = torch.randn(1, channels[0], 3, 4, 5)
    identity = channels[0] == channels[1]
    assert isinstance(block.shortcut, nn.Identity) == identity
    with torch.no_grad():
        shortcut = x if identity else block.shortcut.norm(block.shortcut.conv(x))
        torch.testing.assert_close(block(x), F.relu(shortcut))


def test_an_elan_block_chains_its_units_and_joins_all_four_paths() -> None:
    torch.manual_seed(0)
    block = randomize_norms(ELANResBlock(4, 6)).eval()

    def unit(u: RepUnit, x: Tensor) -> Tensor:
        first, second = (branch.norm(branch.conv(x)) for branch in u.branches)
        return F.relu(u.fuse.norm(u.fuse.conv(torch.cat([first, second], dim=1))))

    x = torch.randn(1, 4, 4, 5, 6)
    with torch.no_grad():
        a = F.relu(block.split_a.norm(block.split_a.conv(x)))
        b = F.relu(block.split_b.norm(block.split_b.conv(x)))
        u = unit(block.unit_1, b)
        v = unit(block.unit_2, u)
        y = block.fuse.norm(block.fuse.conv(torch.cat([a, b, u, v], dim=1)))
        expected = F.relu(y + block.shortcut.norm(block.shortcut.conv(x)))
        assert_same(expected, block(x), 1e-6)


@pytest.mark.parametrize("head_scale", [(1, 1, 1), (1, 2, 2)])
def test_the_head_scale_is_a_trilinear_upsampling(head_scale: tuple[int, int, int]) -> None:
    plain = randomize_norms(small(ELANRES, head_scale=(1, 1, 1))).eval()
    scaled = small(ELANRES, head_scale=head_scale).eval()
    scaled.load_state_dict(plain.state_dict())
    image = torch.rand(1, 1, 16, 16, 32)
    with torch.no_grad():
        logits = scaled(image)
        expected = F.interpolate(plain(image), scale_factor=head_scale, mode="trilinear")
    torch.testing.assert_close(logits, expected)


def test_heads_come_finest_first() -> None:
    network = small(ELANRES)
    for level, head in enumerate(network.heads):
        nn.init.zeros_(head.weight)
        nn.init.constant_(head.bias, level)
    heads = network(torch.rand(2, 1, 16, 16, 32))["heads"]
    assert [head.unique().tolist() for head in heads] == [[0], [1], [2], [3]]
    assert [head.in_channels for head in network.heads] == [4, 8, 16, 32]


def test_an_unknown_block_is_answered_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"triple.*double.*elanres"):
        small(ELANRES, block="triple")


@pytest.mark.parametrize(
    ("channels", "count"), [(64, 55_552), (128, 201_216), (256, 762_880), (512, 2_967_552)]
)
def test_msca_has_11_c_squared_and_164_c_parameters(channels: int, count: int) -> None:
    with torch.device("meta"):
        assert parameters(MSCA(channels)) == count == 11 * channels**2 + 164 * channels


def test_msca_is_the_formula_of_segnext_on_one_slice() -> None:
    """nets3d.md 1.1: strips start from the 5x5 output, attention multiplies q, z is a shortcut."""
    torch.manual_seed(0)
    m = randomize_norms(MSCA(3)).double().eval()
    for scale in (m.scale_1, m.scale_2):
        nn.init.uniform_(scale, 0.5, 1.5)
    y = torch.randn(1, 3, 24, 23, dtype=torch.float64)

    def depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
        rows, columns = conv.kernel_size
        padded = F.pad(x, (columns // 2, columns // 2, rows // 2, rows // 2))
        return F.conv2d(padded, conv.weight, conv.bias, groups=x.shape[1])

    with torch.no_grad():
        expected = y
        z = m.norm_1(expected)
        q = F.gelu(m.project_in(z))
        t = depthwise(m.square, q)
        strips = [depthwise(down, depthwise(across, t)) for across, down in m.strips]
        kernels = [(across.kernel_size, down.kernel_size) for across, down in m.strips]
        g = m.mix(t + strips[0] + strips[1] + strips[2]) * q
        expected = expected + m.scale_1 * (m.project_out(g) + z)
        wide, mixing, _, narrow = m.mlp
        inner = F.gelu(depthwise(mixing, wide(m.norm_2(expected))))
        expected = expected + m.scale_2 * narrow(inner)
        assert_same(expected[:, :, None], m(y[:, :, None]), 1e-12)
    assert kernels == [((1, k), (k, 1)) for k in (7, 11, 21)]


def test_msca_does_not_mix_slices() -> None:
    torch.manual_seed(0)
    attention = randomize_norms(MSCA(6)).double().eval()
    nn.init.ones_(attention.scale_1)
    nn.init.ones_(attention.scale_2)
    x = torch.randn(2, 6, 5, 12, 9, dtype=torch.float64)
    with torch.no_grad():
        whole = attention(x)
        slices = torch.cat([attention(x[:, :, z : z + 1]) for z in range(5)], dim=2)
    assert_same(whole, slices, 1e-12)


@pytest.mark.parametrize(("row", "column"), [(0, 10), (10, 0), (0, -10), (-10, 0)])
def test_msca_reaches_ten_voxels_along_each_axis_of_the_plane(row: int, column: int) -> None:
    """The longest strip has 21 taps; a change that far away arrives, in the same slice only."""
    torch.manual_seed(0)
    attention = randomize_norms(MSCA(2)).double().eval()
    nn.init.zeros_(attention.mlp[-1].weight)
    x = torch.randn(1, 2, 2, 25, 25, dtype=torch.float64)
    changed = x.clone()
    changed[0, :, 0, 12 + row, 12 + column] += 1
    with torch.no_grad():
        difference = (attention(changed) - attention(x)).abs()
    assert difference[0, :, 0, 12, 12].max() > 0
    assert difference[0, :, 1].max() == 0


def test_without_attention_every_level_is_an_identity() -> None:
    chosen = small(ELANRES, msca_levels=[2, 4]).attentions
    assert [isinstance(part, MSCA) for part in chosen] == [False, False, True, False, True]


def test_a_fresh_elanres_network_predicts_within_reason() -> None:
    """Kaiming initialization keeps the first logits near 0, so that training can start."""
    network = small(ELANRES, width=8)
    heads = network(torch.rand(2, 1, 16, 32, 32))["heads"]
    assert max(head.abs().max().item() for head in heads) < 20


def test_each_level_starts_with_the_maximum_of_the_one_above() -> None:
    assert_starts_with_maximum(small(ELANRES), "attentions.0", "encoders.1")
