"""Untrained networks that find a given liver and tumors, so that all of a recipe's work is done.

No paper's weights exist here. Random weights find rubbish, and what is found decides how much is
done: which slices the first look leaves, how large the liver's box is, how many lesions there are.
So the liver and the tumors are painted into a CT, brighter than all else, and each network's logits
become those of a threshold on its own input, with its true output added, squashed and faint. The
network is computed in full; the rest of the engine works as after a trained one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from LiverTumorSegLib import networks
from LiverTumorSegLib.checkpoint import save_model
from LiverTumorSegLib.intensity import to_network_values
from LiverTumorSegLib.networks import NETWORKS, build
from LiverTumorSegLib.recipe import Network, Recipe
from LiverTumorSegLib.volume import Volume, image_on_grid

NAME = "painted"
LIVER_HU, TUMOR_HU, TEXTURE_HU = 120, 190, 8
REST_HU = 40  # nothing else is brighter than this
# Equalization makes a slice's brightest value 1 and lifts what is bright near by. So the rest is
# made darker, each slice gets the same brightest value in a corner, and that is taken for no liver.
EQUALIZED_REST_HU, MARK_HU, MARK = -150, 300, (slice(None), slice(2, 5), slice(2, 5))
EQUALIZED_BAND = (0.4, 0.97)
NO_CEILING = 1e6
STEEPNESS, FAINTNESS = 50.0, 1e-3


class Painted(nn.Module):
    """A network whose logits follow what is painted.

    Args:
        network: name and arguments of the real one, as a recipe has them.
        thresholds: network values above which a voxel is a target, one for each.
        ceiling: the network value above which it is none.
        softmax: logits of the background come first, and each target's lie above the one before.
    """

    def __init__(
        self, network: dict[str, Any], thresholds: list[float], ceiling: float, softmax: bool
    ) -> None:
        super().__init__()
        self.network = build(network["name"], **network["args"])
        self.thresholds, self.ceiling, self.softmax = thresholds, ceiling, softmax
        for name in ("dimensions", "in_channels", "divisor", "head_scale"):
            if hasattr(self.network, name):
                setattr(self, name, getattr(self.network, name))
        self.deployed = False

    def forward(self, image: Tensor) -> Tensor:
        """`(B, 1, *spatial)` to logits `(B, channels, *(spatial * head_scale))`."""
        logits = self.network(image)
        return self.painted_logits(image, logits.shape[2:]) + FAINTNESS * logits.tanh()

    def painted_logits(self, image: Tensor, size: torch.Size) -> Tensor:
        """The logits of the thresholds alone, of spatial sizes `size`."""
        if image.shape[2:] != size:
            image = F.interpolate(image, size=size, mode="nearest")
        above = [
            STEEPNESS * torch.minimum(image - threshold, self.ceiling - image)
            for threshold in self.thresholds
        ]
        if self.softmax:
            above = [torch.zeros_like(image), above[0], above[0] + above[1]]
        return torch.cat(above, dim=1)

    def extra_repr(self) -> str:
        """What the weights do not tell."""
        return f"thresholds={self.thresholds}, ceiling={self.ceiling}, softmax={self.softmax}"

    def deploy(self) -> Painted:
        """Deploy the network, where it has such a form."""
        if hasattr(self.network, "deploy"):
            self.network = self.network.deploy()
            self.deployed = True
        return self.eval()


# What the engine keeps of the product's networks, such as their conversions, it keeps of these too.
Painted.__module__ = f"{networks.__name__}.{NAME}"


def register() -> None:
    """Let weights files name such a network, in this process."""
    NETWORKS[NAME] = Painted


def write_painted_model(recipe: Recipe, folder: Path) -> Path:
    """A weights file of a recipe with random weights, always the same; its path."""
    register()
    *thresholds, ceiling = bands(recipe)
    args = {
        "network": {"name": recipe.network.name, "args": recipe.network.args},
        "thresholds": thresholds,
        "ceiling": ceiling,
        "softmax": recipe.inference.activation == "softmax",
    }
    torch.manual_seed(0)
    network = Painted(**args).deploy()
    path = folder / f"{recipe.name}.safetensors"
    card = {"license": "none", "note": "random weights, to measure time alone"}
    save_model(path, network, replace(recipe, network=Network(NAME, args)), card)
    return path


def bands(recipe: Recipe) -> list[float]:
    """Network values above which a voxel is each target, and above which it is none."""
    if recipe.preprocessing.clahe:
        assert recipe.target == "liver"  # equalization leaves no fixed value between both
        return [*EQUALIZED_BAND]
    of_target = {"liver": (REST_HU + LIVER_HU) / 2, "tumor": (LIVER_HU + TUMOR_HU) / 2}
    hu = np.array([[[of_target[target] for target in recipe.targets]]])
    values, _ = to_network_values(hu, recipe.preprocessing.intensity)
    return [*values[0, 0].tolist(), NO_CEILING]


def paint(volume: Volume, labels: np.ndarray, *, equalized: bool) -> np.ndarray:
    """The CT's HU, int16 (z, y, x), with the labels painted and all else darker.

    Args:
        volume: the CT.
        labels: 0 background, 1 liver, 2 tumor, on its grid.
        equalized: make it for a recipe that equalizes slices.
    """
    texture = np.random.default_rng(0).integers(-TEXTURE_HU, TEXTURE_HU + 1, volume.hu.shape)
    hu = np.minimum(volume.hu, EQUALIZED_REST_HU if equalized else REST_HU)
    for label, level_hu in ((1, LIVER_HU), (2, TUMOR_HU)):
        inside = labels == label
        hu[inside] = level_hu + texture[inside]
    if equalized:
        hu[MARK] = MARK_HU
    return np.rint(hu).astype(np.int16)


def write_painted_ct(volume: Volume, labels: np.ndarray, path: Path, *, equalized: bool) -> None:
    """Write the painted CT as NIfTI."""
    hu = paint(volume, labels, equalized=equalized)
    sitk.WriteImage(image_on_grid(hu, volume.geometry), str(path), useCompression=True)
