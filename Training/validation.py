"""What the weights score on the held-out cases."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset, SequentialSampler

from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.labels import BACKGROUND, masks_of
from LiverTumorSegLib.preprocess import blank_far
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.sliding_window import window_starts
from LiverTumorSegLib.stage import run_stage
from Training.augment import BEYOND_MM, plain_window
from Training.cache import PreparedCase, output_scale, prepared_folder, read_prepared
from Training.dataset import Case, DataSet
from Training.loading import load
from Training.losses import encode, total_loss
from Training.metrics import dice
from Training.sampling import centered, window_shape


def validate(
    recipe: Recipe,
    network: nn.Module,
    data: DataSet,
    cases: list[Case],
    device: torch.device,
) -> dict[str, float]:
    """What the recipe monitors, by its names in the log.

    Raises:
        InputError: a case's arrays are missing or damaged.
        ResourceError: the disk is full.
    """
    network.eval()
    if recipe.training.monitor == "loss":
        folders = [prepared_folder(data, case, recipe) for case in cases]
        return {"held_out_loss": held_out_loss(recipe, network, folders, device)}
    dices = held_out_dice(recipe, network, data, cases, device)
    return {f"held_out_{target}_dice": dices[target] for target in recipe.targets}


def deciding(recipe: Recipe) -> str:
    """The name in the log of the value that chooses the best epoch; of two targets, the tumor's."""
    if recipe.training.monitor == "loss":
        return "held_out_loss"
    return f"held_out_{recipe.targets[-1]}_dice"


def held_out_dice(
    recipe: Recipe, network: nn.Module, data: DataSet, cases: list[Case], device: torch.device
) -> dict[str, float]:
    """Mean whole-volume Dice of each target, by the product's own inference.

    A network for the tumor alone gets the true liver; `Training.evaluate` measures both stages
    together.
    """
    # A copy, because inference may lay the weights out in memory as it likes.
    model = Model(recipe.name, recipe, {}, "", copy.deepcopy(network))
    scores: dict[str, list[float]] = {target: [] for target in recipe.targets}
    for case in cases:
        references = masks_of(data.labels(case))
        liver = references["liver"] if recipe.preprocessing.liver_crop else None
        result = run_stage(data.volume(case), model, device, "torch", liver=liver)
        for target in recipe.targets:
            scores[target].append(dice(result.masks[target], references[target]))
    return {target: float(np.mean(values)) for target, values in scores.items()}


@torch.inference_mode()
def held_out_loss(
    recipe: Recipe, network: nn.Module, folders: list[Path], device: torch.device
) -> float:
    """Mean loss of the output that predicts, over all windows of the cases, not augmented.

    The windows cover each case side by side: every slice, every volume. The network is in
    evaluation mode.
    """
    settings = replace(recipe.training, deep_supervision=None)
    windows = Windows(folders, recipe)
    batches = BatchSampler(SequentialSampler(windows), settings.batch_size, drop_last=False)
    total = 0.0
    for image, labels in load(windows, batches, device):
        logits = network(for_network(network, image).to(device))
        labels = for_network(network, labels).to(device)
        target = encode(labels, recipe.targets, recipe.inference.activation)
        loss = total_loss(settings, {"heads": [logits]}, target, epoch=0)
        total += loss.item() * len(image)
    return total / len(windows)


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of whole cases as inference sees them, side by side, and their labels."""

    def __init__(self, folders: list[Path], recipe: Recipe) -> None:
        self.folders, self.recipe = folders, recipe
        self.cases = [read_prepared(folder) for folder in folders]
        self.places = [
            (number, start)
            for number, case in enumerate(self.cases)
            for start in starts(case, recipe)
        ]

    def __reduce__(self) -> tuple[type[Windows], tuple[list[Path], Recipe]]:
        """A process that does not share our memory maps the cases anew."""
        return Windows, (self.folders, self.recipe)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        number, start = self.places[index]
        case, scale = self.cases[number], np.array(output_scale(self.recipe))
        shape = window_shape(case, self.recipe)
        image = plain_window(case.image, start, shape, case.scale.low)
        crop = self.recipe.preprocessing.liver_crop
        if crop is not None and case.liver_distance_mm is not None:
            distance = plain_window(case.liver_distance_mm, start, shape, BEYOND_MM)
            image = blank_far(image, distance, crop.mask_mm, case.scale.low)
        labels = plain_window(case.labels, start * scale, shape * scale, BACKGROUND)
        return torch.from_numpy(image)[None], torch.from_numpy(labels)[None]


def starts(case: PreparedCase, recipe: Recipe) -> list[np.ndarray]:
    """First voxels (z, y, x) of windows side by side; the last along an axis ends with the case."""
    axes = [
        window_starts(size, length, 0.0) if length < size else [centered(size, length)]
        for size, length in zip(case.image.shape, window_shape(case, recipe), strict=True)
    ]
    return [np.array(start) for start in itertools.product(*axes)]


def for_network(network: nn.Module, batch: Tensor) -> Tensor:
    """A batch (B, 1, z, y, x) as the network takes it: without z where it takes slices."""
    return batch.squeeze(2) if network.dimensions == 2 else batch
