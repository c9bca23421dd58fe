"""Which recipes cannot be trained, and why; said before anything is written."""

from __future__ import annotations

import torch

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.preprocess import padded_shape
from LiverTumorSegLib.recipe import FixedShape, Plateau, Recipe, SliceSampling, Triple
from LiverTumorSegLib.sliding_window import window_within
from Training.cache import output_scale
from Training.folds import Division
from Training.losses import check_names, encode, total_loss


def check(recipe: Recipe, division: Division) -> None:
    """Refuse a recipe whose parts do not fit each other or the cases.

    Raises:
        InputError: naming what does not fit.
    """
    try:
        check_names(recipe.training.loss, recipe.inference.activation)
        check_windows(recipe)
        check_cases(recipe, division)
        try_shapes(recipe)
    except (TypeError, ValueError) as error:
        raise InputError(f"Recipe {recipe.name} with its --set changes: {error}") from error


def check_windows(recipe: Recipe) -> None:
    """Refuse windows that are no slices where slices are sampled, that fill no batch or no share.

    Raises:
        ValueError: naming the field and what it needs.
    """
    if isinstance(recipe.training.sampling, SliceSampling) and not shows_slices(recipe):
        raise ValueError(f"sampling of slices needs a patch of [1, y, x], got {recipe.patch}.")
    share = getattr(recipe.training.sampling, "synthetic_share", None)
    if share is not None and not (0 <= share < 1 and recipe.training.sampling.per == "epoch"):
        raise ValueError(
            f'sampling.synthetic_share needs sampling.per "epoch" and a share from 0 to below 1, '
            f"got {recipe.training.sampling.per!r} and {share}."
        )
    fixed = isinstance(recipe.preprocessing.resampling, FixedShape)
    if recipe.patch is None and not fixed and recipe.training.batch_size > 1:
        raise ValueError(
            "without a patch, and without resampling to a fixed shape, cases differ in size and "
            "form no batch; set training.batch_size=1."
        )


def check_cases(recipe: Recipe, division: Division) -> None:
    """Refuse cases from which the recipe cannot learn.

    Raises:
        ValueError: no tumor to learn, or nothing held out for a schedule that follows it.
    """
    if "tumor" in recipe.targets and not any(case.tumor_ml for case in division.training):
        raise ValueError("no training case has a tumor; choose another --fold.")
    if isinstance(recipe.training.schedule, Plateau) and not division.held_out:
        raise ValueError(
            "its learning rate follows the held-out cases, and there are none; hold some out with "
            "--fold."
        )


def try_shapes(recipe: Recipe) -> None:
    """Do a training step and a prediction without numbers, on shapes alone.

    Raises:
        ValueError: the network, the window, the targets, the losses or the deep supervision do not
            fit; what does not is in the message.
        TypeError: the network has no such argument.
    """
    with torch.device("meta"):
        network = build(recipe.network.name, **recipe.network.args)
        if network.dimensions == 2 and not shows_slices(recipe):
            raise ValueError(
                f"network {recipe.network.name} takes slices and needs a patch of [1, y, x], got "
                f"{recipe.patch}."
            )
        batch = recipe.training.batch_size, 1
        largest, smallest = windows(recipe)
        outputs = network(torch.zeros(*batch, *largest[-network.dimensions :]))
        labels_shape = [n * s for n, s in zip(largest, output_scale(recipe), strict=True)]
        labels = torch.zeros(*batch, *labels_shape[-network.dimensions :])
        target = encode(labels, recipe.targets, recipe.inference.activation)
        total_loss(recipe.training, outputs, target, epoch=0)
        network.eval()
        network(torch.zeros(1, 1, *smallest[-network.dimensions :]))


def shows_slices(recipe: Recipe) -> bool:
    """Whether the window is a slice."""
    return recipe.patch is not None and recipe.patch[0] == 1


def windows(recipe: Recipe) -> tuple[Triple, Triple]:
    """The window of training and the smallest of inference, which is a small image's whole grid."""
    preprocessing = recipe.preprocessing
    fixed = preprocessing.resampling
    shape = fixed.shape if isinstance(fixed, FixedShape) else (1, 1, 1)
    grid = padded_shape(shape, preprocessing)
    return recipe.patch or grid, window_within(recipe.patch, grid)
