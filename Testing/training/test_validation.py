"""What the held-out cases score, by networks whose answers are known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from LiverTumorSegLib.preprocess import network_input, prepare, prepare_labels
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.recipes import RECIPES
from Testing.phantom import LIVER_HU, TUMOR_HU, make_data_set
from Training.cache import output_scale, prepared_folder, read_prepared
from Training.dataset import DataSet, read_data_set
from Training.losses import encode, total_loss
from Training.sampling import window_shape
from Training.validation import Windows, for_network, held_out_dice, held_out_loss, starts, validate

CPU = torch.device("cpu")


def on_own_voxels(recipe: Recipe, patch: tuple[int, int, int] | None) -> Recipe:
    preprocessing = replace(recipe.preprocessing, resampling=None, pad_minimum=patch or (1, 1, 1))
    return replace(recipe, patch=patch, preprocessing=preprocessing)


SLICES = on_own_voxels(RECIPES["rmau-net"], (1, 20, 40))
TUMOR = on_own_voxels(RECIPES["elanres-msca-tumor"], (12, 8, 8))
GRID = RECIPES["unet3d-liver"].with_override("preprocessing.resampling.shape", "[12, 20, 24]")
ALL = pytest.mark.parametrize("recipe", [SLICES, TUMOR, GRID], ids=lambda recipe: recipe.name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return read_data_set(make_data_set(tmp_path_factory.mktemp("validation"), patients=2))


def folders_of(data: DataSet, recipe: Recipe) -> list[Path]:
    return [prepared_folder(data, case, recipe) for case in data.cases]


class Thresholds(nn.Module):
    """Liver and tumor by their brightness: logits of the HU above 65 and above 155."""

    dimensions = 2

    def __init__(self) -> None:
        super().__init__()
        limits = torch.tensor([(20 + LIVER_HU) / 2, (LIVER_HU + TUMOR_HU) / 2]) / 200
        self.register_buffer("limits", limits.reshape(1, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return 100 * (x - self.limits)


class Constant(nn.Module):
    """The same logit everywhere."""

    dimensions = 3

    def __init__(self, logit: float, scale: tuple[int, int, int]) -> None:
        super().__init__()
        self.logit, self.head_scale = logit, scale

    def forward(self, x: Tensor) -> Tensor:
        shape = [n * s for n, s in zip(x.shape[2:], self.head_scale, strict=True)]
        return torch.full((len(x), 1, *shape), self.logit)


# Dice


def test_dice_of_each_target_by_the_products_inference(data: DataSet) -> None:
    """On the CT's own voxels: all of the tumor is found, and the liver with it."""
    recipe = replace(SLICES, inference=replace(SLICES.inference, prepass=None))
    network = Thresholds()
    scores = held_out_dice(recipe, network, data, list(data.cases), CPU)
    assert scores == {"liver": 1.0, "tumor": 1.0}
    network.limits[0, 1] += 10  # now no tumor is found
    dices = replace(recipe, training=replace(recipe.training, monitor="dice"))
    scores = validate(dices, network, data, list(data.cases), CPU)
    assert scores == {"held_out_liver_dice": 1.0, "held_out_tumor_dice": 0.0}
    assert [*scores][-1] == "held_out_tumor_dice"  # what decides


def test_tumors_are_searched_in_the_true_liver(data: DataSet) -> None:
    """A network that sees tumor everywhere finds the whole liver, and nothing beyond it."""
    found = held_out_dice(TUMOR, Constant(1.0, (1, 2, 2)), data, list(data.cases), CPU)
    expected = []
    for case in data.cases:
        labels = data.labels(case)
        tumor, liver = (labels == 2).sum(), (labels > 0).sum()
        expected.append(2 * tumor / (tumor + liver))
    assert found == {"tumor": pytest.approx(np.mean(expected))}


# Loss


def box_at(start: np.ndarray, shape: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))


@ALL
def test_windows_side_by_side_are_what_inference_sees(data: DataSet, recipe: Recipe) -> None:
    """Every voxel of every case is in some window, and not in many."""
    windows = Windows(folders_of(data, recipe), recipe)
    scale = output_scale(recipe)
    count = 0
    for case, folder in zip(data.cases, folders_of(data, recipe), strict=True):
        labels = data.labels(case)
        prepared = prepare(data.volume(case), recipe.preprocessing, labels > 0)
        crop, low = recipe.preprocessing.liver_crop, prepared.scale.low
        seen = network_input(prepared, crop.mask_mm if crop else None)
        wanted = prepare_labels(labels, prepared.grid, scale, "nearest")
        shape = np.array(window_shape(read_prepared(folder), recipe))
        padding = np.array([before for before, _ in prepared.grid.padding])
        seen = np.pad(seen, shape[:, None], constant_values=low)
        wanted = np.pad(wanted, (shape * scale)[:, None])
        covered = np.zeros(prepared.image.shape, int)
        for start in starts(read_prepared(folder), recipe):
            image, found = windows[count]
            count += 1
            box = box_at(start + padding + shape, shape)
            assert np.array_equal(image[0].numpy(), seen[box])
            box = box_at((start + shape) * scale, shape * scale)
            assert np.array_equal(found[0].numpy(), wanted[box])
            covered[box_at(np.maximum(start, 0), shape + np.minimum(start, 0))] += 1
        assert covered.min() == 1
        assert covered.mean() < 3
    assert count == len(windows)


def test_all_slices_are_covered_once_along_z(data: DataSet) -> None:
    found = starts(read_prepared(folders_of(data, SLICES)[0]), SLICES)
    assert [start.tolist() for start in found[:3]] == [[0, 0, -4], [0, 12, -4], [1, 0, -4]]
    assert len(found) == 2 * 32


@ALL
def test_the_loss_is_the_mean_over_the_windows(data: DataSet, recipe: Recipe) -> None:
    """Of the predicting output alone, whatever the deep supervision; batches differ in size."""
    size = 1 if recipe.patch is None else 5
    recipe = replace(recipe, training=replace(recipe.training, batch_size=size))
    network = Thresholds() if recipe.target == "both" else Constant(0.3, output_scale(recipe))
    folders = folders_of(data, recipe)
    windows = Windows(folders, recipe)
    assert len(windows) % size or size == 1
    settings = replace(recipe.training, deep_supervision=None)
    losses = []
    for first in range(0, len(windows), size):
        pairs = [windows[i] for i in range(first, min(first + size, len(windows)))]
        batch = (torch.stack(part) for part in zip(*pairs, strict=True))
        image, labels = (for_network(network, part) for part in batch)
        target = encode(labels, recipe.targets, recipe.inference.activation)
        loss = total_loss(settings, {"heads": [network(image)]}, target, 0)
        losses += [loss.item()] * len(pairs)
    found = held_out_loss(recipe, network, folders, CPU)
    assert found == pytest.approx(np.mean(losses), rel=1e-6)


def test_the_cross_entropy_of_a_coin_is_ln_2(data: DataSet) -> None:
    training = replace(GRID.training, loss={"bce": 1.0}, monitor="loss")
    recipe = replace(GRID, training=training)
    scores = validate(recipe, Constant(0.0, (1, 1, 1)), data, list(data.cases), CPU)
    assert scores == {"held_out_loss": pytest.approx(math.log(2))}


def test_slices_lose_their_axis_only_for_networks_of_slices() -> None:
    batch = torch.zeros(2, 1, 1, 4, 5)
    assert for_network(Thresholds(), batch).shape == (2, 1, 4, 5)
    assert for_network(Constant(0.0, (1, 1, 1)), batch).shape == (2, 1, 1, 4, 5)
