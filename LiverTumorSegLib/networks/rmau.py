"""RMAU-Net (Jiang et al. 2023, doi 10.1016/j.compbiomed.2023.106838), Figures 1 to 5.

A 2D U-Net whose blocks may be residual with squeeze and excitation (Res-SE-Block), and whose
encoder and decoder may each end with a multi-scale attention block (MAB). 43,681,138 parameters
with two logits.

Read where the paper's text contradicts itself or is unclear:
  - equation 3, y = x + u s, though the block changes the channels: x passes the 1x1 convolution of
    the text, and nothing follows the sum;
  - the spatial map of section 3.3 is 1 x H x W, not C x 1 x 1;
  - two MABs, one after the encoder and one after the decoder, without a residual around them;
  - within an MAB first the channels, then the places, as the paper describes them.

Not given by the paper, so chosen (our copy has no figures, which alone show the channels):
  - 64 to 1024 channels and 2x2 transposed convolutions, as in the first U-Net;
  - LeakyReLU slope 0.01; BatchNorm, but no activation, on the shortcut's 1x1 convolution;
  - squeeze and excitation: the channels over 6 (as the paper says) rounded down, biases on;
  - MAB: dilations 1, 2, 4 and 8 (DeepLab's 6, 12 and 18 would see mostly padding on the 16x16
    pixels of the lowest level), a quarter of the channels in each, then a 1x1 convolution;
  - channel attention: reduction 16 as in CBAM; spatial attention: no norm, as in equation 5;
  - the baseline's blocks: BatchNorm and ReLU, so that an ablation changes the block alone;
  - liver (tumors included) and tumor as two logits of one network;
  - He's normal weights.
The final sigmoid lives in the loss and in the predictor: the network returns logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.networks.blocks import (
    UpConcat,
    check_input,
    conv_norm,
    double_conv,
    initialize_he,
)

SLOPE = 0.01
"""Of every LeakyReLU."""

ATTENTION_REDUCTION = 16
"""Channels over hidden features in the channel attention's MLP."""


def conv_norm_leaky(
    in_channels: int, out_channels: int, kernel: int, dilation: int = 1
) -> nn.Sequential:
    """Convolution, BatchNorm, LeakyReLU."""
    activation = nn.LeakyReLU(SLOPE)
    return conv_norm(in_channels, out_channels, kernel, dilation=dilation, activation=activation)


def bottleneck(channels: int, reduction: int) -> nn.Sequential:
    """An MLP of one ReLU layer with `channels / reduction` features, rounded down, at least one."""
    hidden = max(1, channels // reduction)
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))


class SqueezeExcitation(nn.Module):
    """Each channel times a factor in (0, 1) computed from all channels' means (eqs. 1 and 2)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.mlp = bottleneck(channels, reduction)

    def forward(self, u: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        return u * torch.sigmoid(self.mlp(u.mean((2, 3))))[:, :, None, None]


class ResSEBlock(nn.Module):
    """Two 3x3 convolutions, squeeze and excitation, and a 1x1 shortcut: y = x + u s (eq. 3)."""

    def __init__(self, in_channels: int, out_channels: int, reduction: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            conv_norm_leaky(in_channels, out_channels, 3),
            conv_norm_leaky(out_channels, out_channels, 3),
        )
        self.excite = SqueezeExcitation(out_channels, reduction)
        self.shortcut = conv_norm(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, H, W)`."""
        return self.shortcut(x) + self.excite(self.convs(x))


class ASPP(nn.Module):
    """Atrous spatial pyramid: parallel 3x3 convolutions of several dilations, fused by a 1x1."""

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        width = max(1, channels // 4)
        self.branches = nn.ModuleList(
            conv_norm_leaky(channels, width, 3, dilation) for dilation in dilations
        )
        self.fuse = conv_norm_leaky(len(dilations) * width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        return self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1))


class ChannelAttention(nn.Module):
    """Each channel times sigmoid(MLP(mean) + MLP(maximum)), one MLP for both (eq. 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = bottleneck(channels, ATTENTION_REDUCTION)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        merged = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        return x * torch.sigmoid(merged)[:, :, None, None]


class SpatialAttention(nn.Module):
    """Each pixel times sigmoid of a 7x7 convolution of its channels' mean and maximum (eq. 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(pooled))


class MAB(nn.Sequential):
    """Multi-scale attention block (Figure 3): ASPP, then channel, then spatial attention.

    Args:
        channels: channels in and out.
        dilations: of the ASPP's branches, in pixels.
    """

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__(ASPP(channels, dilations), ChannelAttention(channels), SpatialAttention())


class RMAUNet(nn.Module):
    """The whole network (Figure 1) and, by its switches, the paper's ablations.

    Args:
        in_channels: channels of the input.
        out_channels: logits a pixel; the two are liver, tumors included, and tumor.
        base_channels: channels at full resolution; each of the four poolings doubles them.
        res_se: Res-SE-Blocks; else U-Net's two convolutions.
        mab: an MAB after the encoder and another after the decoder.
        se_reduction: channels over hidden features in squeeze and excitation.
        mab_dilations: dilations of the MAB's parallel convolutions, in pixels.
    """

    dimensions = 2
    levels = 5
    divisor = 16

    def __init__(
        self,
        *,
        in_channels: int = 1,
        out_channels: int = 2,
        base_channels: int = 64,
        res_se: bool = True,
        mab: bool = True,
        se_reduction: int = 6,
        mab_dilations: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        super().__init__()

        def block(ci: int, co: int) -> nn.Module:
            return ResSEBlock(ci, co, se_reduction) if res_se else double_conv(ci, co)

        def attention(channels: int) -> nn.Module:
            return MAB(channels, mab_dilations) if mab else nn.Identity()

        self.in_channels = in_channels
        channels = [base_channels * 2**level for level in range(self.levels)]
        self.encoders = nn.ModuleList(
            block(ci, co) for ci, co in zip([in_channels, *channels[:-1]], channels, strict=True)
        )
        self.encoder_attention = attention(channels[-1])
        pairs = list(zip(channels[:-1], channels[1:], strict=True))[::-1]
        self.decoders = nn.ModuleList(UpConcat(co, ci, block(2 * co, co)) for co, ci in pairs)
        self.decoder_attention = attention(base_channels)
        self.head = nn.Conv2d(base_channels, out_channels, 1)
        initialize_he(self, SLOPE)

    def forward(self, x: Tensor) -> Tensor | dict[str, list[Tensor]]:
        """`(B, in_channels, H, W)` to logits `(B, out_channels, H, W)`.

        Raises:
            ValueError: a size is no multiple of 16.
        """
        check_input(x, self.in_channels, self.divisor, self.dimensions)
        skips: list[Tensor] = []
        for level, encoder in enumerate(self.encoders):
            x = encoder(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        x = self.encoder_attention(skips.pop())
        for decoder in self.decoders:
            x = decoder(skips.pop(), x)
        logits = self.head(self.decoder_attention(x))
        return {"heads": [logits]} if self.training else logits
