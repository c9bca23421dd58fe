"""Values that the recipes of several papers share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from LiverTumorSegLib.recipe import (
    Augmentation,
    Network,
    PixelRange,
    Prepass,
    Recipe,
    Split,
    WindowSampling,
)


@dataclass(frozen=True)
class Reported:
    """What a paper prints for a recipe; nothing here was measured by this project.

    Attributes:
        data: on which cases.
        figures: name, with its unit, to mean value.
    """

    data: str
    figures: dict[str, float]


def with_args(recipe: Recipe, name: str, **args: Any) -> Recipe:
    """The recipe with other arguments of its network: an ablation."""
    network = replace(recipe.network, args={**recipe.network.args, **args})
    return replace(recipe, name=name, network=network)


def with_network(recipe: Recipe, name: str, network: str, **args: Any) -> Recipe:
    """Another network, for the same channels, under the recipe's conditions."""
    channels = {key: recipe.network.args[key] for key in ("in_channels", "out_channels")}
    return replace(recipe, name=name, network=Network(network, {**channels, **args}))


def with_loss(recipe: Recipe, name: str, **loss: float) -> Recipe:
    """The recipe with another weighted sum of losses."""
    return replace(recipe, name=name, training=replace(recipe.training, loss=loss))


NO_AUGMENTATION = Augmentation(
    flips=(),
    flip_probability=0.5,
    rotation_degrees=(0.0, 0.0, 0.0),
    rotation_probability=1.0,
    scale=(1.0, 1.0),
    scale_probability=1.0,
    stretch=(1.0, 1.0),
    crop=(1.0, 1.0),
    shift=0.0,
    elastic=None,
    synthetic_tumors=None,
    contrast=(1.0, 1.0),
    brightness_hu=0.0,
    liver_contrast_hu=0.0,
    noise_hu=0.0,
    blur_voxels=0.0,
)
WHOLE_GRID = WindowSampling(
    samples=1,
    per="case",
    liver_share=0.0,
    liver_margin_slices=0,
    in_plane="center",
    target_share=0.0,
    target_by="lesion",
    jitter=0.0,
    synthetic_share=None,
)
# Cases 27 to 46 of LiTS are tested on; a part of the other 111 chooses the epoch.
LITS_27_46 = Split(
    data="LiTS", test_numbers=(27, 46), test_share=0.0, validation_share=0.2, folds=None
)
# Slices as scanners store them; only pixels far from the usual are resampled. The look at every
# eighth slice first is ours, for the CPU.
NATIVE_PIXELS = PixelRange(smallest_mm=0.5, largest_mm=1.1, target_mm=0.75)
EVERY_EIGHTH_SLICE = Prepass(every_slices=8, margin_slices=24)
# The widths of its paper.
UNET_PLUS_PLUS = {"features": [32, 64, 128, 256, 512, 32]}
