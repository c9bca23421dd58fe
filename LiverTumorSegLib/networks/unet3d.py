"""The liver network of "3D U-Net with AdvancedComboLoss": a small 3D U-Net with dropout.

Tables 1 to 3 of the paper (four resolutions, three poolings) win over its prose, which speaks of
four downsamplings. Input (B, 1, 80, 160, 160): the paper's 160x160x80 in (z, y, x) order; the
order of axes only permutes the kernels' weights.

Not given by the paper, so chosen: LeakyReLU slope 0.01, convolution biases on (torch's default).
The final sigmoid lives in the loss and in the predictor: the network returns logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.networks.blocks import check_input


def double_conv(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    """Conv, BatchNorm, LeakyReLU, Dropout, Conv, BatchNorm, LeakyReLU: the paper's block."""
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm3d(out_channels),
        nn.LeakyReLU(0.01),
        nn.Dropout3d(dropout),
        nn.Conv3d(out_channels, out_channels, 3, padding=1),
        nn.BatchNorm3d(out_channels),
        nn.LeakyReLU(0.01),
    )


class UNet3D(nn.Module):
    """3D U-Net of four resolutions.

    Args:
        in_channels: channels of the input.
        out_channels: logits a voxel; 1 for a liver mask.
        channels: features at each resolution, finest first.
        dropout: probability of dropping a channel inside every block.
    """

    dimensions = 3

    def __init__(
        self,
        *,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128, 256),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.divisor = 2 ** (len(channels) - 1)
        inputs = (in_channels, *channels[:-1])
        self.encoders = nn.ModuleList(
            double_conv(ci, co, dropout) for ci, co in zip(inputs, channels, strict=True)
        )
        pairs = list(zip(channels[1:], channels[:-1], strict=True))[::-1]
        self.ups = nn.ModuleList(nn.ConvTranspose3d(ci, co, 2, stride=2) for ci, co in pairs)
        self.decoders = nn.ModuleList(double_conv(2 * co, co, dropout) for _, co in pairs)
        self.head = nn.Conv3d(channels[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor | dict[str, list[Tensor]]:
        """`(B, in_channels, D, H, W)` to logits `(B, out_channels, D, H, W)`.

        Raises:
            ValueError: a size is no multiple of 2 to the number of poolings.
        """
        check_input(x, self.in_channels, self.divisor)
        skips: list[Tensor] = []
        for level, encoder in enumerate(self.encoders):
            x = encoder(F.max_pool3d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(torch.cat([up(x), skips.pop()], dim=1))
        logits = self.head(x)
        return {"heads": [logits]} if self.training else logits
