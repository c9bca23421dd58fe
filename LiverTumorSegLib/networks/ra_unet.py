"""RA-UNet (Jin, Meng, Sun, Cui, Su 2020, doi 10.3389/fbioe.2020.605132): its 2D network.

A U-Net of pre-activation residual blocks, whose skip connections below full resolution pass an
attention module: a small hourglass computes a mask that multiplies what a trunk computes. In the
paper this network finds the liver in slices, first of a cascade of three; a comparison in 2D can
train only this one.

Facts that the paper's text leaves open are those of the authors' published program (widths, order
within a block, where the residual blocks of the hourglass stand, biases). They give 737,897
parameters.

Our departures from that program:
  - BatchNorm2d has torch's momentum and epsilon, not those of Keras;
  - the final sigmoid lives in the loss and in the predictor: the network returns logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.networks.blocks import check_input


class ResidualBlock(nn.Module):
    """Pre-activation bottleneck: BatchNorm, ReLU before its 1x1, 3x3 and 1x1 convolutions.

    The shortcut is a 1x1 convolution of the block's raw input, also where the channels stay.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        narrow = out_channels // 4
        self.residual = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, narrow, 1),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, narrow, 3, padding=1),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, out_channels, 1),
        )
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, H, W)`."""
        return self.residual(x) + self.shortcut(x)


class Hourglass(nn.Module):
    """The mask branch: `depth` poolings and as many upsamplings back, a residual block at each.

    Between two poolings one more residual block carries the features over to where the upsampling
    comes back to their resolution, to be added there.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(channels, channels) for _ in range(count))

        self.downs = blocks(depth)
        self.skips = blocks(depth - 1)
        self.ups = blocks(depth)
        self.mask = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the mask's logits of the same shape."""
        carried: list[Tensor] = []
        for level, down in enumerate(self.downs):
            if level:
                carried.append(self.skips[level - 1](x))
            x = down(F.max_pool2d(x, 2))
        for up in self.ups:
            x = F.interpolate(up(x), scale_factor=2.0, mode="nearest")
            if carried:
                x = x + carried.pop()
        return self.mask(x)


class AttentionModule(nn.Module):
    """Residual attention: `(1 + sigmoid(mask)) * trunk` between two residual blocks."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.before = ResidualBlock(channels, channels)
        self.trunk = nn.Sequential(
            ResidualBlock(channels, channels), ResidualBlock(channels, channels)
        )
        self.hourglass = Hourglass(channels, depth)
        self.after = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)`, sizes multiples of 2 to the depth, to the same shape."""
        x = self.before(x)
        return self.after((1 + torch.sigmoid(self.hourglass(x))) * self.trunk(x))


def conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution, BatchNorm, ReLU: the first and the last layer at full resolution."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


class RAUNet(nn.Module):
    """The 2D network of RA-UNet, of six resolutions.

    Args:
        in_channels: channels of the input.
        out_channels: logits a pixel; 1 for a liver mask.
        width: channels at full and at half resolution, a multiple of 4; each further pooling
            doubles them.
    """

    dimensions = 2
    divisor = 32

    def __init__(self, *, in_channels: int = 1, out_channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = [width * 2**level for level in range(5)]
        self.stem = conv_norm_relu(in_channels, width)
        self.encoders = nn.ModuleList(
            ResidualBlock(ci, co) for ci, co in zip([width, *channels[:-1]], channels, strict=True)
        )
        self.bottom = ResidualBlock(channels[-1], channels[-1])
        # All hourglasses reach down to the coarsest resolution.
        self.attentions = nn.ModuleList(
            AttentionModule(co, depth)
            for co, depth in zip(channels[:-1], (4, 3, 2, 1), strict=True)
        )
        pairs = list(zip(channels[1:], channels[:-1], strict=True))
        self.decoders = nn.ModuleList(ResidualBlock(ci + co, co) for ci, co in pairs)
        self.last = conv_norm_relu(2 * width, width)
        self.head = nn.Conv2d(width, out_channels, 3, padding=1)
        self._initialize()

    def _initialize(self) -> None:
        """Glorot's uniform weights and zero biases.

        Kaiming's would double the variance with every shortcut, which no norm follows, and saturate
        the masks.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor | dict[str, list[Tensor]]:
        """`(B, in_channels, H, W)` to logits `(B, out_channels, H, W)`.

        Raises:
            ValueError: a size is no multiple of 32.
        """
        check_input(x, self.in_channels, self.divisor, dimensions=2)
        finest = self.stem(x)
        x = finest
        features: list[Tensor] = []
        for encoder in self.encoders:
            x = encoder(F.max_pool2d(x, 2))
            features.append(x)
        x = self.bottom(features.pop())
        for level in reversed(range(len(features))):
            skip = self.attentions[level](features[level])
            x = self.decoders[level](torch.cat([self._up(x), skip], dim=1))
        logits = self.head(self.last(torch.cat([self._up(x), finest], dim=1)))
        return {"heads": [logits]} if self.training else logits

    def _up(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
