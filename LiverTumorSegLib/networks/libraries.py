"""Comparison networks that libraries already offer, under the contract of our own.

The papers compare with U-Net++, Attention U-Net and DeepLabv3+; the first two come from MONAI, the
third from segmentation_models_pytorch. Neither library is needed for anything else here, so each is
imported only when one of its networks is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.networks.blocks import check_input


def library(module: str, network: str) -> Any:
    """Import a module of a library, for the network of this name.

    Raises:
        InputError: the library is missing or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken installation fails in other ways than by ImportError
        package = module.split(".")[0]
        raise InputError(
            f"Network {network}: it needs the package {package}, which cannot be imported "
            f"({type(error).__name__}: {error}). In the folder of LiverTumorSeg, "
            "`pip install '.[comparison]'` adds it; if it is there, it or what it imports does not "
            "fit torch."
        ) from error


class LibraryNetwork(nn.Module):
    """A library's network for slices, with our checks and our outputs.

    Args:
        network: maps `(B, in_channels, H, W)` to logits of the same grid, or to a list of them.
        in_channels: channels of the input.
        divisor: what H and W must be multiples of.
    """

    dimensions = 2

    def __init__(self, network: nn.Module, in_channels: int, divisor: int) -> None:
        super().__init__()
        self.network = network
        self.in_channels = in_channels
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor | dict[str, list[Tensor]]:
        """`(B, in_channels, H, W)` to logits `(B, out_channels, H, W)`.

        Raises:
            ValueError: a size is no multiple of the divisor.
        """
        check_input(x, self.in_channels, self.divisor, dimensions=2)
        logits = self.network(x)
        if isinstance(logits, list):  # MONAI's U-Net++ has one for each of its outputs
            logits = logits[0]
        return {"heads": [logits]} if self.training else logits


def unet_plus_plus(
    *,
    in_channels: int = 1,
    out_channels: int = 1,
    features: Sequence[int] = (32, 64, 128, 256, 512, 32),
) -> LibraryNetwork:
    """U-Net++ (Zhou et al. 2018, doi 10.1007/978-3-030-00889-5_1) of MONAI.

    Without deep supervision, so that all networks of a comparison learn from one loss. MONAI builds
    the heads of the three shallower decoders all the same; they belong to its count of parameters,
    but nothing uses them.

    Args:
        in_channels: channels of the input.
        out_channels: logits a pixel; 1 for a liver mask.
        features: channels at the five resolutions, finest first, and before the head; the paper's.

    Raises:
        InputError: MONAI is missing.
    """
    nets = library("monai.networks.nets", "unet_plus_plus")
    network = nets.BasicUNetPlusPlus(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=out_channels,
        features=tuple(features),
        act=("relu", {"inplace": True}),
        norm="batch",
        deep_supervision=False,
    )
    return LibraryNetwork(network, in_channels, divisor=16)


def attention_unet(
    *,
    in_channels: int = 1,
    out_channels: int = 1,
    channels: Sequence[int] = (64, 128, 256, 512, 1024),
) -> LibraryNetwork:
    """Attention U-Net (Oktay et al. 2018, arXiv 1804.03999) of MONAI.

    MONAI halves the resolution by strided convolutions, where the paper has poolings.

    Args:
        in_channels: channels of the input.
        out_channels: logits a pixel; 1 for a liver mask.
        channels: features at each resolution, finest first; those of the first U-Net.

    Raises:
        InputError: MONAI is missing.
    """
    nets = library("monai.networks.nets", "attention_unet")
    halvings = len(channels) - 1
    network = nets.AttentionUnet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=tuple(channels),
        strides=(2,) * halvings,
    )
    return LibraryNetwork(network, in_channels, divisor=2**halvings)


def deeplabv3_plus(
    *,
    in_channels: int = 1,
    out_channels: int = 1,
    encoder_name: str = "resnet101",
) -> LibraryNetwork:
    """DeepLabv3+ (Chen et al. 2018, arXiv 1802.02611) of segmentation_models_pytorch.

    MSA-UNet's paper does not name the encoder it compares with; ResNet-101 is one of the two of
    DeepLabv3+'s paper. It starts without ImageNet weights, as all networks of a comparison do.

    Args:
        in_channels: channels of the input.
        out_channels: logits a pixel; 1 for a liver mask.
        encoder_name: one of the library's encoders, such as "resnet50".

    Raises:
        InputError: segmentation_models_pytorch is missing, or its torchvision does not fit torch.
    """
    models = library("segmentation_models_pytorch", "deeplabv3_plus")
    network = models.DeepLabV3Plus(
        encoder_name=encoder_name,
        encoder_weights=None,
        encoder_output_stride=16,
        in_channels=in_channels,
        classes=out_channels,
    )
    return LibraryNetwork(network, in_channels, divisor=16)
