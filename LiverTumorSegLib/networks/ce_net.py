"""CE-Net (Gu et al. 2019, doi 10.1109/TMI.2019.2903562): context encoder network for slices.

A ResNet-34 encodes; a dense atrous convolution block (DAC) and residual multi-kernel pooling (RMP)
see the context of its coarsest features; a light decoder adds the encoder's features on its way up.
28,996,821 parameters with one logit.

Facts that the paper's text leaves open are those of the authors' published program: the DAC block's
convolutions are shared between its branches, RMP's 1x1 convolution between its poolings, nothing is
normalized in DAC, RMP and head, and skips are added, not concatenated.

Our departures from that program:
  - no ImageNet weights, so that all networks of a comparison start equal: Kaiming's normal weights
    and zero biases;
  - the final sigmoid lives in the loss and in the predictor: the network returns logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.networks.blocks import check_input, initialize_he

DEPTHS = (3, 4, 6, 3)
"""Basic blocks in the four stages of a ResNet-34."""


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions, the first of which may halve the resolution.

    The shortcut is a strided 1x1 convolution with its own norm where the shape changes.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` to `(B, out_channels, H / stride, W / stride)`."""
        return F.relu(self.residual(x) + self.shortcut(x))


class DAC(nn.Module):
    """Dense atrous convolution: four branches of growing reach, added to the input.

    With 3x3 convolutions a, b, c of dilations 1, 3, 5 and a 1x1 convolution p, each one and the
    same wherever it stands: `x + r(a) + r(p b) + r(p b a) + r(p c b a)`, where r is ReLU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dilated_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.dilated_3 = nn.Conv2d(channels, channels, 3, padding=3, dilation=3)
        self.dilated_5 = nn.Conv2d(channels, channels, 3, padding=5, dilation=5)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        a = self.dilated_1(x)
        ba = self.dilated_3(a)
        projected = (self.dilated_3(x), ba, self.dilated_5(ba))
        return x + F.relu(a) + sum(F.relu(self.project(branch)) for branch in projected)


class RMP(nn.Module):
    """Residual multi-kernel pooling: one more channel for each size of pooling, before the input's.

    Each is the maximum over squares of that size, projected to one channel and brought back.
    """

    def __init__(self, channels: int, sizes: Sequence[int] = (2, 3, 5, 6)) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.project = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)`, no side smaller than the largest size, to `(B, C + sizes, H, W)`."""
        context = [
            F.interpolate(
                self.project(F.max_pool2d(x, size)),
                size=x.shape[2:],
                mode="bilinear",
                align_corners=False,
            )
            for size in self.sizes
        ]
        return torch.cat([*context, x], dim=1)


def decoder_stage(in_channels: int, out_channels: int) -> nn.Sequential:
    """Doubles the resolution with a quarter of the channels: 1x1, transposed 3x3, 1x1."""
    narrow = in_channels // 4
    return nn.Sequential(
        nn.Conv2d(in_channels, narrow, 1),
        nn.BatchNorm2d(narrow),
        nn.ReLU(),
        nn.ConvTranspose2d(narrow, narrow, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(narrow),
        nn.ReLU(),
        nn.Conv2d(narrow, out_channels, 1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class CENet(nn.Module):
    """The whole network, of resolutions 1 to 1/32.

    Args:
        in_channels: channels of the input.
        out_channels: logits a pixel; 1 for a liver mask.
        width: channels of the encoder's first stage, 64 in a ResNet-34; each further stage doubles
            them.
    """

    dimensions = 2
    divisor = 32
    minimum = 192  # RMP's largest pooling needs 6 pixels at 1/32

    def __init__(self, *, in_channels: int = 1, out_channels: int = 1, width: int = 64) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = [width * 2**stage for stage in range(len(DEPTHS))]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.encoders = nn.ModuleList(
            nn.Sequential(
                BasicBlock(ci, co, stride=1 if ci == co else 2),
                *(BasicBlock(co, co, stride=1) for _ in range(depth - 1)),
            )
            for ci, co, depth in zip([width, *channels[:-1]], channels, DEPTHS, strict=True)
        )
        pooling = RMP(channels[-1])
        self.context = nn.Sequential(DAC(channels[-1]), pooling)
        inputs = [channels[-1] + len(pooling.sizes), *channels[-2::-1]]
        outputs = [*channels[-2::-1], width]
        self.decoders = nn.ModuleList(
            decoder_stage(ci, co) for ci, co in zip(inputs, outputs, strict=True)
        )
        self.head = nn.Sequential(
            nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 2, width // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 2, out_channels, 3, padding=1),
        )
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor | dict[str, list[Tensor]]:
        """`(B, in_channels, H, W)` to logits `(B, out_channels, H, W)`.

        Raises:
            ValueError: a size is no multiple of 32 or less than 192.
        """
        check_input(x, self.in_channels, self.divisor, dimensions=2, minimum=self.minimum)
        x = self.stem(x)
        features: list[Tensor] = []
        for encoder in self.encoders:
            x = encoder(x)
            features.append(x)
        x = self.context(features.pop())
        for decoder in self.decoders:
            x = decoder(x)
            if features:
                x = x + features.pop()
        logits = self.head(x)
        return {"heads": [logits]} if self.training else logits
