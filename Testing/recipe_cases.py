"""Recipes for tests: every one made small, the same kinds of parts on a phantom's scale."""

from __future__ import annotations

from dataclasses import replace

import torch

from LiverTumorSegLib.networks import build
from LiverTumorSegLib.recipe import (
    FixedShape,
    Network,
    PixelRange,
    Prepass,
    Preprocessing,
    Recipe,
    SliceSampling,
    Spacing,
    Triple,
    Window,
)
from Testing.engine.network_cases import CASES

# Nothing but an HU window.
PLAIN = Preprocessing(
    orientation="LPS",
    body_crop=None,
    liver_crop=None,
    halve_in_plane=False,
    resampling=None,
    interpolation="linear",
    label_interpolation="nearest",
    resample_hu=True,
    intensity=Window(clip_hu=(-200.0, 200.0), output=(0.0, 1.0)),
    clahe=None,
    pad_multiple=(1, 1, 1),
    pad_minimum=(1, 1, 1),
)
# The phantom's voxels are 3 x 2.5 x 2.5 mm.
PIXELS = PixelRange(smallest_mm=0.5, largest_mm=2.0, target_mm=2.2)
VOXELS = Spacing((3.5, 2.2, 2.2))


def small_recipe(recipe: Recipe) -> Recipe:
    """A recipe whose network, window and grid are small, and whose kinds of parts are the same."""
    args = {**recipe.network.args, **CASES[recipe.network.name].small}
    with torch.device("meta"):
        network = build(recipe.network.name, **args)
    side = max(network.divisor, getattr(network, "minimum", 1))
    window: Triple = (1, side, side) if network.dimensions == 2 else (side, side, 2 * side)
    preprocessing = recipe.preprocessing
    resampling = preprocessing.resampling
    if isinstance(resampling, FixedShape):
        resampling = FixedShape(window)
    elif isinstance(resampling, PixelRange):
        resampling = PIXELS
    elif isinstance(resampling, Spacing) and None not in resampling.spacing_mm:
        resampling = VOXELS
    sampling = recipe.training.sampling
    if not isinstance(sampling, SliceSampling):
        sampling = replace(sampling, samples=2, per="case", synthetic_share=None)
    multiple = (1, 1, 1) if recipe.patch else window
    prepass = recipe.inference.prepass and Prepass(every_slices=4, margin_slices=4)
    return replace(
        recipe,
        network=Network(recipe.network.name, args),
        patch=recipe.patch and window,
        preprocessing=replace(
            preprocessing, resampling=resampling, pad_minimum=window, pad_multiple=multiple
        ),
        training=replace(
            recipe.training, epochs=1, batch_size=2, validate_every_epochs=1, sampling=sampling
        ),
        inference=replace(recipe.inference, prepass=prepass),
    )
