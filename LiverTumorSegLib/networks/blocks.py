"""Parts that more than one paper's network uses in the same way."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def check_input(
    x: Tensor, in_channels: int, divisor: int, dimensions: int = 3, minimum: int = 1
) -> None:
    """Refuse an input that a network of these poolings cannot take.

    Args:
        x: `(B, in_channels, *spatial)`; every spatial size must be a multiple of `divisor`.
        in_channels: channels the first convolution takes.
        divisor: what every spatial size must be a multiple of, such as 2 to the number of poolings.
        dimensions: spatial axes, 3 for volumes and 2 for slices.
        minimum: smallest spatial size, a multiple of `divisor`.

    Raises:
        ValueError: naming the shape got and the next shape that fits.
    """
    spatial = tuple(x.shape[2:])
    axes = ", ".join(("D", "H", "W")[-dimensions:])
    if x.ndim != 2 + dimensions or x.shape[1] != in_channels:
        raise ValueError(
            f"Expected input of shape (B, {in_channels}, {axes}), got {tuple(x.shape)}."
        )
    if any(size % divisor or size < minimum for size in spatial):
        fitting = tuple(max(-(-size // divisor) * divisor, minimum) for size in spatial)
        least = f" and at least {minimum}" if minimum > divisor else ""
        raise ValueError(
            f"Every spatial size must be a multiple of {divisor}{least}, got {spatial}; "
            f"pad the input to {fitting}."
        )


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    dilation: int = 1,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """A convolution of slices that keeps their size, BatchNorm2d and, if given, an activation.

    The convolution has no bias: the norm would subtract it again.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        kernel: taps along each axis, odd.
        dilation: distance of the taps in pixels.
        activation: what follows the norm; None leaves the values linear.
    """
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False
    )
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, *([] if activation is None else [activation]))


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice 3x3 convolution, BatchNorm2d, ReLU: the block of the papers' U-Net baselines."""
    return nn.Sequential(
        conv_norm(in_channels, out_channels, 3, activation=nn.ReLU()),
        conv_norm(out_channels, out_channels, 3, activation=nn.ReLU()),
    )


class UpConcat(nn.Module):
    """A decoder stage as in the first U-Net: 2x2 transposed convolution, concatenation, block.

    Args:
        low_channels: channels of the skip at this resolution, which the upsampled features take on.
        high_channels: channels of the features at half this resolution.
        block: maps `2 * low_channels` to this stage's output.
    """

    def __init__(self, low_channels: int, high_channels: int, block: nn.Module) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(high_channels, low_channels, 2, stride=2)
        self.block = block

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """`(B, low_channels, H, W)` and `(B, high_channels, H/2, W/2)` to the block's output."""
        return self.block(torch.cat([low, self.up(high)], dim=1))


def initialize_he(network: nn.Module, negative_slope: float = 0.0) -> None:
    """He's normal weights by fan-in and zero biases, for every convolution and linear layer.

    Norms keep torch's start, weights 1 and biases 0.

    Args:
        network: changed in place.
        negative_slope: of the (leaky) ReLU that follows; 0 for ReLU.
    """
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d, nn.Linear)
    for module in network.modules():
        if isinstance(module, kinds):
            nn.init.kaiming_normal_(module.weight, a=negative_slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
