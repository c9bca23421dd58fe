"""CE-Net: its encoder against MONAI's ResNet, its context blocks by hand-written formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.nets import ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.networks import build
from LiverTumorSegLib.networks.ce_net import DAC, RMP
from Testing.engine.network_cases import assert_same, parameters, randomize_norms, small


def monai_resnet_34(width: int) -> nn.Sequential:
    """Stem and stages of MONAI's, as a chain."""
    resnet = ResNet(
        "basic",
        [3, 4, 6, 3],
        [width, 2 * width, 4 * width, 8 * width],
        spatial_dims=2,
        n_input_channels=1,
        conv1_t_size=7,
        conv1_t_stride=2,
        shortcut_type="B",
        bias_downsample=False,
        feed_forward=False,
    )
    stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.act, resnet.maxpool)
    return nn.Sequential(stem, resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)


def test_the_encoder_is_a_resnet_34() -> None:
    network = randomize_norms(small("ce_net", width=8)).double().eval()
    ours = nn.Sequential(network.stem, *network.encoders)
    theirs = monai_resnet_34(width=8).double().eval()
    values = ours.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    x = torch.rand(2, 1, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        y = x
        for stage, same_stage in zip(ours, theirs, strict=True):
            x, y = stage(x), same_stage(y)
            assert_same(y, x, 1e-12)
    assert x.shape == (2, 64, 2, 3)


def test_the_encoder_has_the_parameters_of_a_resnet_34_without_its_classifier() -> None:
    with torch.device("meta"):
        network = build("ce_net")
        count = parameters(network.stem) + parameters(network.encoders)
        assert count == parameters(monai_resnet_34(64)) == 21_278_400


def convolved(conv: nn.Conv2d, x: Tensor, dilation: int) -> Tensor:
    """3x3 convolution as the nine shifted products it is."""
    padded = F.pad(x, [dilation] * 4)
    height, width = x.shape[2:]
    y = conv.bias[:, None, None].expand(len(x), -1, height, width)
    for row in range(3):
        for column in range(3):
            top, left = row * dilation, column * dilation
            shifted = padded[:, :, top : top + height, left : left + width]
            y = y + torch.einsum("oi,bihw->bohw", conv.weight[:, :, row, column], shifted)
    return y


def test_dac_adds_its_four_branches_to_its_input() -> None:
    torch.manual_seed(0)
    block = DAC(3).double()
    x = torch.randn(2, 3, 11, 13, dtype=torch.float64)
    with torch.no_grad():

        def projected(y: Tensor) -> Tensor:
            weight = block.project.weight[:, :, 0, 0]
            mixed = torch.einsum("oi,bihw->bohw", weight, y)
            return (mixed + block.project.bias[:, None, None]).clamp(min=0)

        a = convolved(block.dilated_1, x, 1)
        ba = convolved(block.dilated_3, a, 3)
        cba = convolved(block.dilated_5, ba, 5)
        alone = convolved(block.dilated_3, x, 3)
        expected = x + a.clamp(min=0) + projected(alone) + projected(ba) + projected(cba)
        assert_same(expected, block(x), 1e-12)


def test_dac_reaches_nine_pixels() -> None:
    """Dilations 1, 3 and 5 in a row."""
    torch.manual_seed(0)
    block = DAC(4).double()
    x = torch.randn(1, 4, 1, 25, dtype=torch.float64, requires_grad=True)
    block(x)[0, :, 0, 12].sum().backward()
    reached = x.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    assert (reached.min().item(), reached.max().item()) == (12 - 9, 12 + 9)


def bilinear(size: int, new_size: int) -> np.ndarray:
    """The matrix that interpolates between the centers of pixels and repeats the outermost."""
    centers = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    columns = [np.interp(centers, np.arange(size), one) for one in np.eye(size)]
    return np.stack(columns, axis=1)


def test_rmp_puts_pooled_and_enlarged_projections_before_its_input() -> None:
    torch.manual_seed(0)
    block = RMP(2).double()
    x = torch.randn(1, 2, 6, 13, dtype=torch.float64)
    with torch.no_grad():
        got = block(x)[0].numpy()
        weight, bias = block.project.weight[0, :, 0, 0].numpy(), block.project.bias.item()
    image = x[0].numpy()
    for channel, size in enumerate((2, 3, 5, 6)):
        rows, columns = 6 // size, 13 // size  # what does not fill a square is left out
        whole = image[:, : rows * size, : columns * size]
        pooled = whole.reshape(2, rows, size, columns, size).max(axis=(2, 4))
        plane = np.tensordot(weight, pooled, axes=1) + bias
        enlarged = bilinear(rows, 6) @ plane @ bilinear(columns, 13).T
        np.testing.assert_allclose(got[channel], enlarged, atol=1e-12)
    np.testing.assert_array_equal(got[4:], image)


def test_the_decoder_adds_the_encoder_s_features_but_to_its_last_stage() -> None:
    network = randomize_norms(small("ce_net")).eval()
    for decoder in network.decoders:  # silent: nothing but the skips is left
        nn.init.zeros_(decoder[-2].weight)
        nn.init.zeros_(decoder[-2].bias)
    features, received = [], []
    for encoder in network.encoders:
        encoder.register_forward_hook(lambda m, i, output: features.append(output))
    for stage in [*network.decoders[1:], network.head]:
        stage.register_forward_pre_hook(lambda m, inputs: received.append(inputs[0]))
    with torch.no_grad():
        network(torch.rand(1, 1, 192, 192))
    assert all(
        torch.equal(got, skip) for got, skip in zip(received[:3], features[2::-1], strict=True)
    )
    assert all(skip.std() > 0 for skip in features)
    assert received[3].abs().max() == 0


@pytest.mark.parametrize("spatial", [(160, 192), (256, 96)])
def test_slices_too_small_for_the_largest_pooling_are_refused(spatial: tuple[int, int]) -> None:
    network = small("ce_net").eval()
    fitting = tuple(max(192, size) for size in spatial)
    with pytest.raises(ValueError, match="at least 192") as caught:
        network(torch.rand(1, 1, *spatial))
    assert f"pad the input to {fitting}" in str(caught.value)


def test_a_fresh_network_predicts_within_reason() -> None:
    network = small("ce_net", width=16)
    with torch.no_grad():
        assert network(torch.rand(2, 1, 192, 192))["heads"][0].abs().max() < 20
