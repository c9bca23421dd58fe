"""The papers' networks by name. Adding one: a file here, a line in NETWORKS, its recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from LiverTumorSegLib.networks.ce_net import CENet
from LiverTumorSegLib.networks.dpc import DPCNet
from LiverTumorSegLib.networks.elanres_msca import ELANResMSCAUNet
from LiverTumorSegLib.networks.libraries import attention_unet, deeplabv3_plus, unet_plus_plus
from LiverTumorSegLib.networks.msa import MSAUNet
from LiverTumorSegLib.networks.ra_unet import RAUNet
from LiverTumorSegLib.networks.rmau import RMAUNet
from LiverTumorSegLib.networks.unet3d import UNet3D

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet3d": UNet3D,
    "elanres_msca": ELANResMSCAUNet,
    "rmau": RMAUNet,
    "msa": MSAUNet,
    "dpc": DPCNet,
    "ce_net": CENet,
    "ra_unet": RAUNet,
    "unet_plus_plus": unet_plus_plus,
    "attention_unet": attention_unet,
    "deeplabv3_plus": deeplabv3_plus,
}


def build(name: str, **network_args: Any) -> nn.Module:
    """Build a network from the words a recipe uses.

    Every network maps `(B, in_channels, *spatial)` to logits. In evaluation mode it returns the one
    tensor that predicts; in training mode a dict of lists of logits, each from fine to coarse, that
    deep supervision compares with the labels. Its attributes say what it takes: `dimensions` (3 for
    volumes, 2 for slices), `in_channels` and `divisor`, of which every spatial size is a multiple;
    where the logits are finer than the input, `head_scale` says by which factor along each axis.

    Args:
        name: a key of NETWORKS.
        **network_args: keyword arguments of that network's constructor.

    Raises:
        ValueError: the network is unknown, or an argument's value does not fit.
        TypeError: the network has no such argument.

    >>> sum(p.numel() for p in build("unet3d").parameters())
    5602529
    """
    if name not in NETWORKS:
        raise ValueError(f"Unknown network {name!r}; choose one of {sorted(NETWORKS)}.")
    return NETWORKS[name](**network_args)
