"""One contract for every recipe: the way of a case into training and out again as masks.

Networks and grids are small (Testing/recipe_cases.py), all else is each recipe's own.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from LiverTumorSegLib.checkpoint import load_model, save_model
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.preprocess import network_input, prepare
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.recipes.common import NO_AUGMENTATION
from LiverTumorSegLib.stage import run_stage
from Testing.engine.network_cases import case_of
from Testing.phantom import make_data_set, phantom
from Testing.recipe_cases import small_recipe
from Training.augment import draw_sample
from Training.cache import prepared_folder, read_prepared
from Training.dataset import read_data_set
from Training.train import train

CPU = torch.device("cpu")
ALL = pytest.mark.parametrize(
    ("network", "name"), [case_of(recipe.network.name, name) for name, recipe in RECIPES.items()]
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_set(tmp_path_factory.mktemp("recipes"), patients=3)


@ALL
def test_a_recipe_trains_an_epoch_and_its_weights_segment(
    network: str, name: str, data: Path, tmp_path: Path
) -> None:
    recipe = small_recipe(RECIPES[name])
    run = tmp_path / "run"
    train(recipe, read_data_set(data), run, "1/3", 0, CPU, resume=False)
    torch.manual_seed(0)
    fresh = build(network, **recipe.network.args).state_dict()
    trained = torch.load(run / "last.pt", weights_only=True)["network"]
    assert all(value.isfinite().all() for value in trained.values())
    assert any(not torch.equal(value, fresh[key]) for key, value in trained.items())

    description = json.loads((run / "run.json").read_text())
    used = Recipe.from_json(json.dumps(description["recipe"]))
    made = build(network, **used.network.args)
    made.load_state_dict(trained)
    save_model(tmp_path / "model.safetensors", made.eval(), used, {"training_cases": []})
    model = load_model(str(tmp_path / "model.safetensors"))
    assert model.recipe == used
    volume, labels = phantom(0)
    liver = labels > 0 if recipe.preprocessing.liver_crop else None
    result = run_stage(volume, model, CPU, "torch", False, True, lambda fraction: None, liver)
    assert set(result.masks) == set(result.probabilities) == set(recipe.targets)
    for target in recipe.targets:
        assert result.masks[target].shape == volume.hu.shape
        assert result.masks[target].dtype == bool
        probability = result.probabilities[target]
        assert probability.shape == volume.hu.shape
        assert 0 <= probability.min() <= probability.max() <= 1
    if recipe.target == "both":
        assert not (result.masks["tumor"] & ~result.masks["liver"]).any()


@ALL
def test_training_sees_to_the_bit_what_inference_feeds_the_network(
    network: str, name: str, data: Path
) -> None:
    """Some window of an unaugmented case, which must be found in the padded input."""
    recipe = small_recipe(RECIPES[name])
    recipe = replace(recipe, training=replace(recipe.training, augmentation=NO_AUGMENTATION))
    data_set = read_data_set(data)
    case = data_set.cases[0]
    volume, labels = data_set.volume(case), data_set.labels(case)
    prepared = prepare(volume, recipe.preprocessing, labels > 0)
    z = None
    if recipe.patch is not None and recipe.patch[0] == 1:
        z = prepared.image.shape[0] // 2
    crop = recipe.preprocessing.liver_crop
    if crop is not None:  # with one distance of blanking, training's is that of inference
        crop = replace(crop, training_mask_mm=(crop.mask_mm, crop.mask_mm))
        recipe = replace(recipe, preprocessing=replace(recipe.preprocessing, liver_crop=crop))
        prepared = prepare(volume, recipe.preprocessing, labels > 0)
    fed = network_input(prepared, crop.mask_mm if crop else None)
    stored = read_prepared(prepared_folder(data_set, case, recipe))
    image, _ = draw_sample(stored, recipe, np.random.default_rng(0), z)
    window = image[0].numpy()
    # Its brightest voxel tells where the window would have to be in what is fed.
    peak = np.unravel_index(window.argmax(), window.shape)
    around = [(size, size) for size in window.shape]
    wide = np.pad(fed, around, constant_values=prepared.scale.low)
    starts = [place - peak for place in np.argwhere(wide == window.max()) if (place >= peak).all()]
    parts = [tuple(slice(a, a + n) for a, n in zip(s, window.shape, strict=True)) for s in starts]
    assert any(np.array_equal(wide[part], window) for part in parts)
    assert window.std() > 0
