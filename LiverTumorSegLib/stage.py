"""One network over one CT: prepare, predict slice by slice, restore, post-process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from LiverTumorSegLib.backends import Predictor, predictor
from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.postprocess import clean_liver, clean_tumor
from LiverTumorSegLib.preprocess import network_input, prepare
from LiverTumorSegLib.recipe import Triple
from LiverTumorSegLib.restore import restore
from LiverTumorSegLib.shown_part import (
    Part,
    PredictSlices,
    Report,
    first_look,
    part_of,
    predict_part,
    whole,
    with_surroundings,
)
from LiverTumorSegLib.sliding_window import Output, predict_slices, window_within
from LiverTumorSegLib.volume import Volume

Found = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]  # masks and probabilities by target
Result = TypeVar("Result")


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """What one network finds, by target ("liver", "tumor"), on the CT's grid.

    Attributes:
        masks: bool (z, y, x).
        probabilities: float16 (z, y, x), before post-processing; empty if not asked for.
        computed_by: what the network ran by, as `Predictor.told`.
    """

    masks: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]
    computed_by: str


@dataclass(frozen=True)
class Way:
    """How much memory of a device windows may take.

    Attributes:
        device: where they are predicted.
        largest_batch: how many of them at most at a time; None: as the predictor says.
        sums_on_cpu: whether they are added up on the CPU instead.
    """

    device: torch.device
    largest_batch: int | None = None
    sums_on_cpu: bool = False

    def smaller(self, tried: int) -> Way:
        """The next way to try, after one with that many windows at a time ran out of memory."""
        batch = min(tried, self.largest_batch or tried)
        if batch > 1:
            return replace(self, largest_batch=batch // 2)
        if not self.sums_on_cpu:
            return replace(self, largest_batch=1, sums_on_cpu=True)
        return Way(torch.device("cpu"))

    def __str__(self) -> str:
        """For the log."""
        if self.device.type == "cpu":
            return "all on the CPU"
        windows = f"{self.largest_batch} window(s) at a time"
        return f"{windows}, added up on the CPU" if self.sums_on_cpu else windows


def run_stage(
    volume: Volume,
    model: Model,
    device: torch.device,
    backend: str,
    flips: bool = False,
    probabilities: bool = False,
    on_progress: Report = lambda fraction: None,
    liver: np.ndarray | None = None,
) -> StageResult:
    """Run a network over a CT.

    A network of slices is spared what cannot matter: what lies far from the liver given, or from
    where the recipe's first look finds something.

    Args:
        volume: the CT.
        model: its weights and recipe.
        device: where to run.
        backend: as `pick_backend` gives it.
        flips: average mirrored predictions.
        probabilities: also restore the probabilities.
        on_progress: told the share done; cancels by raising.
        liver: bool (z, y, x), in which tumors are searched; then only tumors are given, whatever
            else the network finds. Without it, tumors lie in the liver that the network finds, if
            it finds livers.

    Raises:
        InputError: the network has other channels than its recipe needs.
    """
    recipe = model.recipe
    masks, kept = predicted(
        volume, model, device, backend, flips, probabilities, on_progress, liver
    )
    if "liver" in masks:
        liver = masks["liver"] = clean_liver(masks["liver"], recipe.inference)
    if "tumor" in masks:
        tumor = masks["tumor"] if liver is None else masks["tumor"] & liver
        voxel_mm3 = volume.geometry.voxel_ml * 1000.0
        masks["tumor"] = clean_tumor(tumor, recipe.inference, voxel_mm3)
    (used,) = model.predictors.values()
    return StageResult(masks, kept, used.told)


def predicted(
    volume: Volume,
    model: Model,
    device: torch.device,
    backend: str,
    flips: bool,
    probabilities: bool,
    on_progress: Report,
    liver: np.ndarray | None,
) -> Found:
    """What `run_stage` post-processes; what the network saw of the CT is let go of before that."""
    recipe = model.recipe
    on_progress(0.0)
    prepared = prepare(volume, recipe.preprocessing, liver)
    grid, low = prepared.grid, prepared.scale.low
    liver_crop = recipe.preprocessing.liver_crop
    image = network_input(prepared, liver_crop.mask_mm if liver_crop else None)
    del prepared
    output = output_of(model)

    def attempt(way: Way) -> Found:
        predict = slice_predictor(model, image.shape, output, low, way, backend, flips)
        share = 0.0  # of the progress: what a first look takes
        part: Part | None = whole(image.shape)
        if model.network.dimensions == 2:
            prepass = recipe.inference.prepass
            if liver is not None:
                part = part_of(liver, grid)
            elif prepass and len(image) > 2 * prepass.margin_slices:
                share = 1 / prepass.every_slices
                part = first_look(predict, image, recipe, lambda done: on_progress(done * share))
            part = part and with_surroundings(part, recipe, image.shape)
        return restore(
            predict_part(
                predict, image, part, output, lambda done: on_progress(share + done * (1 - share))
            ),
            grid,
            output.scale,
            volume.hu.shape,
            recipe,
            recipe.targets if liver is None else ("tumor",),
            probabilities=probabilities,
        )

    return with_less_and_less_memory(attempt, model, device)


def with_less_and_less_memory(
    attempt: Callable[[Way], Result], model: Model, device: torch.device
) -> Result:
    """Try with fewer windows at a time, then adding them up on the CPU, then all on the CPU.

    Args:
        attempt: what to try; it is begun anew each time.
        model: whose predictor tells how many windows were tried at a time.
        device: where to begin.

    Raises:
        RuntimeError: what the attempt raises for another reason, or on the CPU.
    """
    way = Way(device)
    while True:
        try:
            return attempt(way)
        except RuntimeError as error:  # a torch.OutOfMemoryError is one, and all that MPS raises
            if way.device.type == "cpu" or "out of memory" not in str(error):
                raise
            tried = min((made.batch for made in model.predictors.values()), default=1)
            reason = str(error).splitlines()[0]
        # Outside of the handler, so that nothing holds what the attempt had on the device.
        way = way.smaller(tried)
        if way.device.type == "cpu":
            model.predictors.clear()
        torch.cuda.empty_cache()
        logger.warning("%s is out of memory (%s); now %s", device, reason, way)


def output_of(model: Model) -> Output:
    """What the network of a model must give for a window, by its recipe."""
    activation = model.recipe.inference.activation
    channels = 3 if activation == "softmax" else len(model.recipe.targets)
    scale = getattr(model.network, "head_scale", (1, 1, 1))
    return Output(activation, channels, (1, *scale)[-3:])


def slice_predictor(
    model: Model,
    shape: Triple,
    output: Output,
    low: float,
    way: Way,
    backend: str,
    flips: bool,
) -> PredictSlices:
    """A function from an image (z, y, x) to its probabilities, slice by slice.

    Args:
        model: weights and recipe.
        shape: of the padded image; along z the window of a network of slices is always one slice.
        output: what the network must give for a window.
        low: the image's value of air.
        way: where to run, with how much memory.
        backend: as `pick_backend` gives it.
        flips: average mirrored predictions.
    """
    inference = model.recipe.inference
    depth, height, width = window_within(model.recipe.patch, shape)
    window = (1 if model.network.dimensions == 2 else depth, height, width)
    made_for = (window, backend, way.device)
    if made_for not in model.predictors:
        model.predictors.clear()  # it moved the network; and there may be many sizes of CTs
        model.predictors[made_for] = predictor(model.network, window, backend, way.device)
    ready = model.predictors[made_for]
    network = checked(ready, model, output, window)

    def predict(image: np.ndarray, on_progress: Report) -> Iterator[np.ndarray]:
        return predict_slices(
            network,
            image,
            window,
            output,
            low=low,
            overlap=inference.overlap,
            blend=inference.blend,
            flips=inference.flips if flips else (),
            batch=min(ready.batch, way.largest_batch or ready.batch),
            buffers="cpu" if way.sums_on_cpu else ready.device,
            on_progress=on_progress,
        )

    return predict


def checked(
    predict: Predictor, model: Model, output: Output, window: Triple
) -> Callable[[Tensor], Tensor]:
    """The same function, which refuses logits of another shape than the recipe needs."""
    voxels = [size * factor for size, factor in zip(window, output.scale, strict=True)]
    wanted = [output.channels, *voxels]

    def checking(tensor: Tensor) -> Tensor:
        logits = predict(tensor)
        if list(logits.shape[1:]) != wanted:
            raise InputError(
                f"Model {model.name}: expected {output.channels} channel(s) for "
                f"{' and '.join(model.recipe.targets)} by {output.activation}, so an output of "
                f"{wanted}, found {list(logits.shape[1:])}. Export it with a recipe that fits."
            )
        return logits

    return checking
