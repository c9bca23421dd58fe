"""A phantom CT, and networks whose answer on it is known, in place of trained ones.

Everything around such a network (preprocessing, windows, the way back, post-processing, warnings)
is the product's own, so every voxel of the result is known.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.volume import Volume

AIR, BODY, LIVER, LESION = -1000.0, 0.0, 100.0, 40.0
SPACING = (2.5, 0.8, 0.8)
SHAPE = (20, 40, 48)
# In the window of -200 to 200 HU: body 0.5, lesion 0.6, liver 0.75.
LIVER_FROM, LESION_UP_TO = 0.55, 0.675


class Threshold(nn.Module):
    """Certain of everything above a threshold, or below it, at `head_scale` times the input's size.

    With several thresholds, one channel for each. `inputs` keeps what it has seen.
    """

    def __init__(
        self,
        *thresholds: float,
        above: tuple[bool, ...] = (True,),
        head_scale: tuple[int, ...] = (1, 1, 1),
        dimensions: int = 3,
    ) -> None:
        super().__init__()
        self.thresholds = nn.Parameter(torch.tensor(thresholds))
        self.signs = [1.0 if up else -1.0 for up in above]
        self.head_scale = head_scale
        self.dimensions = dimensions
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x.clone())
        channels = zip(self.signs, self.thresholds, strict=True)
        logits = torch.cat([sign * 1e4 * (x - limit) for sign, limit in channels], dim=1)
        for axis, factor in enumerate(self.head_scale[-self.dimensions :]):
            logits = logits.repeat_interleave(factor, dim=axis + 2)
        return logits


class Classes(Threshold):
    """Certain of background, liver and tumor."""

    def __init__(self, dimensions: int = 3) -> None:
        super().__init__(0.0, dimensions=dimensions)

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x.clone())
        lesion = torch.minimum(x - LIVER_FROM, LESION_UP_TO - x)
        return 1e4 * torch.cat([LIVER_FROM - x, x - LESION_UP_TO, lesion], dim=1)


def both_targets(dimensions: int = 3) -> Threshold:
    """Liver, lesions included, and everything darker than liver."""
    return Threshold(LIVER_FROM, LESION_UP_TO, above=(True, False), dimensions=dimensions)


def simple(name: str, **inference: object) -> Recipe:
    """A recipe of the papers on the CT's own grid, in windows of 16x32x32 or, of slices, 32x32."""
    recipe = RECIPES[name]
    depth = 1 if recipe.patch and recipe.patch[0] == 1 else 16
    preprocessing = replace(
        recipe.preprocessing,
        body_crop=None,
        halve_in_plane=False,
        resampling=None,
        intensity=RECIPES["elanres-msca-liver"].preprocessing.intensity,
        clahe=None,
        pad_multiple=(1, 1, 1) if depth == 1 else (16, 16, 16),
        pad_minimum=(depth, 32, 32),
    )
    return replace(
        recipe,
        patch=(depth, 32, 32),
        preprocessing=preprocessing,
        inference=replace(recipe.inference, **inference),
    )


def liver_model(recipe: Recipe | None = None, network: nn.Module | None = None) -> Model:
    recipe = recipe or simple("elanres-msca-liver")
    return Model("fake-liver", recipe, {}, "", network or Threshold(LIVER_FROM).eval())


def tumor_model(recipe: Recipe | None = None, network: nn.Module | None = None) -> Model:
    recipe = recipe or simple("elanres-msca-tumor")
    network = network or Threshold(LESION_UP_TO, above=(False,)).eval()
    return Model("fake-tumor", recipe, {}, "", network)


def joint_model(
    dimensions: int = 3, activation: str = "sigmoid", sha256: str = "a", **inference: object
) -> Model:
    """One network for both targets; its post-processing keeps the largest liver."""
    settings = {"prepass": None, "largest_component": True, "fill_holes": True, **inference}
    recipe = simple("dpc-net", activation=activation, **settings)
    if dimensions == 2:
        recipe = simple("rmau-net", activation=activation, **settings)
    network = Classes(dimensions) if activation == "softmax" else both_targets(dimensions)
    return Model(f"fake-both-{sha256}", recipe, {}, sha256, network.eval())


def phantom(shape: tuple[int, int, int] = SHAPE) -> tuple[Volume, np.ndarray]:
    """A body in air, a liver in it with two lesions, and the labels that must be found."""
    labels = np.zeros(shape, np.uint8)
    labels[4:14, 10:28, 12:34] = 1
    labels[6:9, 14:18, 16:22] = 2
    labels[11:12, 22:24, 28:30] = 2
    hu = np.full(shape, AIR, np.float32)
    hu[:, 4:36, 4:44] = BODY
    hu[labels == 1] = LIVER
    hu[labels == 2] = LESION
    return volume_of(hu), labels


def long_phantom(slices: int = 80) -> tuple[Volume, np.ndarray]:
    """The same liver in the middle of a long scan."""
    volume, labels = phantom()
    hu = np.repeat(volume.hu[:1], slices, axis=0)
    start = slices // 2 - 10
    hu[start : start + 20] = volume.hu
    longer = np.zeros(hu.shape, np.uint8)
    longer[start : start + 20] = labels
    return volume_of(hu), longer


def volume_of(hu: np.ndarray) -> Volume:
    return Volume(hu.astype(np.float32), Geometry(hu.shape, SPACING))
