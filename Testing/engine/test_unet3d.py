"""3D U-Net of the AdvancedComboLoss paper: dropout, slope, poolings."""

from __future__ import annotations

import torch
from torch import nn

from Testing.engine.network_cases import (
    assert_starts_with_maximum,
    small,
)


def test_dropout_acts_in_training_only() -> None:
    network = small("unet3d", dropout=0.5)
    image = torch.rand(1, 1, 16, 16, 16)
    assert not torch.equal(network(image)["heads"][0], network(image)["heads"][0])
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(image), network(image))
    drops = [module for module in network.modules() if isinstance(module, nn.Dropout3d)]
    assert [drop.p for drop in drops] == [0.5] * 7


def test_leaky_relu_has_torch_s_default_slope() -> None:
    slopes = {m.negative_slope for m in small("unet3d").modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.01}


def test_three_poolings_make_the_divisor_eight() -> None:
    assert small("unet3d").divisor == 8
    assert small("unet3d", channels=[4, 8]).divisor == 2


def test_each_level_starts_with_the_maximum_of_the_one_above() -> None:
    assert_starts_with_maximum(small("unet3d"), "encoders.0", "encoders.1")
