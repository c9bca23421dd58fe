"""MSA-UNet (Wu et al. 2021, doi 10.1186/s12911-021-01649-w), Figures 1 to 5.

A 2D U-Net for the liver with three exchangeable parts: multi-scale residual blocks (MSRB) in the
encoder, an atrous pyramid whose branches carry attention (AASPP) between encoder and decoder, and
residual attention skip modules (RASM) as skips and decoder in one. Attention is always the MSAM.
14,053,809 parameters.

Read where the paper's text contradicts itself or is unclear:
  - "both" branches that emulate a 5x5 convolution are the two convolutions of one branch; MSRM and
    MRSB are the MSRB;
  - the MSAM's three poolings are all of its input, and each fusion is a convolution before the
    upsampling, as equation 2 writes the last one, then a sum;
  - its last 1x1 convolution has neither norm nor ReLU: a ReLU would keep every factor above 1/2;
  - the lowest level belongs to the encoder, so has an MSRB;
  - branches of the AASPP have as many channels as its input;
  - one logit; the background is what is left.

Not given by the paper, so chosen (our copy has no figures, which alone show the channels):
  - 16 to 256 channels, with which its six slices of 512x512 fit its card of 11 GB;
  - MSRB: as many channels in each branch as out of the block; DropBlock of 7x7 pixels that keeps
    0.9, the values of its paper for ResNet, from the first epoch on;
  - residual 1x1 convolutions have BatchNorm and no activation, and nothing follows a sum;
  - RASM: as many channels out as the skip has, as in U-Net;
  - the ablations' missing parts: U-Net's two convolutions, nothing, 2x2 transposed convolutions;
  - BatchNorm with torch's momentum and epsilon, not those of Keras; He's normal weights.
The final sigmoid lives in the loss and in the predictor: the network returns logits.
"""

from __future__ import annotations

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


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, dilation: int = 1
) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return conv_norm(in_channels, out_channels, kernel, dilation=dilation, activation=nn.ReLU())


def upsample(x: Tensor) -> Tensor:
    """`(B, C, H, W)` to `(B, C, 2H, 2W)`, bilinear between pixel centers."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class DropBlock(nn.Module):
    """In training, zeroes squares of every sample's and channel's map and scales up what is left.

    Ghiasi, Lin, Le 2018. On maps smaller than the square the square shrinks to the shorter side.

    Args:
        block_size: side of a square in pixels.
        keep_prob: share of pixels to keep on average if squares did not overlap, in (0, 1].

    Raises:
        ValueError: `keep_prob` is outside its range.
    """

    def __init__(self, block_size: int, keep_prob: float) -> None:
        super().__init__()
        if not 0 < keep_prob <= 1:
            raise ValueError(f"keep_prob must be in (0, 1], got {keep_prob}.")
        self.block_size = block_size
        self.keep_prob = keep_prob

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape; in evaluation mode `x` itself."""
        if not self.training:
            return x
        batch, channels, height, width = x.shape
        side = min(self.block_size, height, width)
        # Squares lie wholly within the map: these are the places of their first corner.
        rows, columns = height - side + 1, width - side + 1
        rate = (1 - self.keep_prob) / side**2 * (height * width) / (rows * columns)
        corners = torch.rand((batch, channels, rows, columns), device=x.device) < rate
        dropped = F.max_pool2d(F.pad(corners.to(x.dtype), [side - 1] * 4), side, stride=1)
        kept = 1 - dropped
        # In float32, since a sum over a batch overflows float16; at least one, since all may go.
        return x * kept * (kept.numel() / kept.sum(dtype=torch.float32).clamp(min=1))


class MSRB(nn.Module):
    """Multi-scale residual block (Figure 2, eq. 1): d(f1(F) + f1[f3(F); f3(f3(F))]).

    Args:
        in_channels: channels in.
        out_channels: channels out, and of each branch.
        block_size: side of DropBlock's squares in pixels.
        keep_prob: share of pixels that DropBlock keeps.
    """

    def __init__(
        self, in_channels: int, out_channels: int, block_size: int, keep_prob: float
    ) -> None:
        super().__init__()
        self.narrow = conv_norm_relu(in_channels, out_channels, 3)
        self.wide = nn.Sequential(
            conv_norm_relu(in_channels, out_channels, 3),
            conv_norm_relu(out_channels, out_channels, 3),
        )
        self.fuse = conv_norm_relu(2 * out_channels, out_channels, 1)
        self.shortcut = conv_norm(in_channels, out_channels, 1)
        self.drop = DropBlock(block_size, keep_prob)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, H, W)`."""
        scales = torch.cat([self.narrow(x), self.wide(x)], dim=1)
        return self.drop(self.shortcut(x) + self.fuse(scales))


class MSAM(nn.Module):
    """Multi-scale attention module (Figure 3, eq. 2): a factor in (0, 1) for every value."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.from_8 = conv_norm_relu(channels, channels, 3)
        self.from_4 = conv_norm_relu(channels, channels, 3)
        self.from_2 = conv_norm_relu(channels, channels, 3)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)`, sizes multiples of 8, to the same shape."""
        by_4 = F.max_pool2d(x, 4) + upsample(self.from_8(F.max_pool2d(x, 8)))
        by_2 = F.max_pool2d(x, 2) + upsample(self.from_4(by_4))
        return x * torch.sigmoid(self.project(upsample(self.from_2(by_2))))


class AASPP(nn.Module):
    """Attention atrous spatial pyramid pooling (Figure 4, eq. 3).

    A 1x1 and three 3x3 convolutions of dilations 2, 4 and 8, an MSAM after each, fused by a 1x1.

    Args:
        channels: channels in and out.
        branch_channels: channels of each of the four branches.
    """

    def __init__(self, channels: int, branch_channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                conv_norm_relu(channels, branch_channels, kernel, dilation), MSAM(branch_channels)
            )
            for kernel, dilation in ((1, 1), (3, 2), (3, 4), (3, 8))
        )
        self.fuse = conv_norm_relu(4 * branch_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)`, sizes multiples of 8, to the same shape."""
        return self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1))


class RASM(nn.Module):
    """Residual attention skip module (Figure 5, eq. 4): skip and decoder stage in one.

    Args:
        low_channels: channels of the encoder's features, and out.
        high_channels: channels of the features at half the resolution.
        block_size: side of DropBlock's squares in pixels.
        keep_prob: share of pixels that DropBlock keeps.
    """

    def __init__(
        self, low_channels: int, high_channels: int, block_size: int, keep_prob: float
    ) -> None:
        super().__init__()
        self.fuse = nn.Sequential(
            MSRB(high_channels + low_channels, low_channels, block_size, keep_prob),
            MSRB(low_channels, low_channels, block_size, keep_prob),
            MSAM(low_channels),
        )
        self.low_shortcut = conv_norm(low_channels, low_channels, 1)
        self.high_shortcut = conv_norm(high_channels, low_channels, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """`(B, low_channels, H, W)`, sizes multiples of 8, and `(B, high_channels, H/2, W/2)`.

        Returns:
            `(B, low_channels, H, W)`.
        """
        high = upsample(high)
        fused = self.fuse(torch.cat([high, low], dim=1))
        return self.low_shortcut(low) + self.high_shortcut(high) + fused


class MSAUNet(nn.Module):
    """The whole network (Figure 1) and, by its switches, the paper's ablations.

    Args:
        in_channels: channels of the input.
        out_channels: logits a pixel; 1 for a liver mask.
        base_channels: channels at full resolution; each of the four poolings doubles them.
        msrb: MSRBs in the encoder; else U-Net's two convolutions.
        aaspp: an AASPP between encoder and decoder; else nothing.
        rasm: RASMs; else U-Net's skips and decoder.
        aaspp_branch_channels: channels of each of the AASPP's branches; None for as many as the
            lowest level has.
        block_size: side of DropBlock's squares in pixels.
        keep_prob: share of pixels that DropBlock keeps, in (0, 1].
    """

    dimensions = 2
    levels = 5
    # The MSAMs of the lowest level, at 1/16, pool by 8. Ablations keep to it, for equal conditions.
    divisor = 128

    def __init__(
        self,
        *,
        in_channels: int = 1,
        out_channels: int = 1,
        base_channels: int = 16,
        msrb: bool = True,
        aaspp: bool = True,
        rasm: bool = True,
        aaspp_branch_channels: int | None = None,
        block_size: int = 7,
        keep_prob: float = 0.9,
    ) -> None:
        super().__init__()

        def encoder(ci: int, co: int) -> nn.Module:
            return MSRB(ci, co, block_size, keep_prob) if msrb else double_conv(ci, co)

        def decoder(low: int, high: int) -> nn.Module:
            if rasm:
                return RASM(low, high, block_size, keep_prob)
            return UpConcat(low, high, double_conv(2 * low, low))

        self.in_channels = in_channels
        channels = [base_channels * 2**level for level in range(self.levels)]
        self.encoders = nn.ModuleList(
            encoder(ci, co) for ci, co in zip([in_channels, *channels[:-1]], channels, strict=True)
        )
        lowest = channels[-1]
        self.context: nn.Module = nn.Identity()
        if aaspp:
            branch = lowest if aaspp_branch_channels is None else aaspp_branch_channels
            self.context = AASPP(lowest, branch)
        pairs = list(zip(channels[:-1], channels[1:], strict=True))[::-1]
        self.decoders = nn.ModuleList(decoder(low, high) for low, high in pairs)
        self.head = nn.Conv2d(base_channels, out_channels, 1)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor | dict[str, list[Tensor]]:
        """`(B, in_channels, H, W)` to logits `(B, out_channels, H, W)`.

        Raises:
            ValueError: a size is no multiple of 128.
        """
        check_input(x, self.in_channels, self.divisor, self.dimensions)
        skips: list[Tensor] = []
        for level, encoder in enumerate(self.encoders):
            x = encoder(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        x = self.context(skips.pop())
        for decoder in self.decoders:
            x = decoder(skips.pop(), x)
        logits = self.head(x)
        return {"heads": [logits]} if self.training else logits
