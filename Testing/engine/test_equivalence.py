"""What a user gets does not depend on the backend: whole stages, on every network's recipe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from LiverTumorSegLib.backends import BACKENDS
from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.stage import StageResult, run_stage
from Testing.engine.network_cases import case_of, smallest
from Testing.phantom import phantom
from Testing.recipe_cases import small_recipe

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

CPU = torch.device("cpu")
EXACT = [backend for backend in BACKENDS if backend not in ("auto", "torch", "openvino-bf16")]
FIRST = {(recipe.network.name, recipe.target): name for name, recipe in RECIPES.items()}
"""A recipe for each network and target."""


def decided_network(recipe: Recipe) -> nn.Module:
    """Untrained, with outputs on either side of one half."""
    torch.manual_seed(0)
    network = build(recipe.network.name, **recipe.network.args)
    for key, value in network.named_parameters():
        if key.startswith("head") and key.endswith("weight"):
            nn.init.normal_(value, 0, 3)
    network.train()
    with torch.no_grad():  # so that the norms know inputs like these
        for _ in range(10):
            network(torch.rand(2, 1, *smallest(network)))
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize(
    ("network", "name"), [case_of(network, name) for (network, _), name in FIRST.items()]
)
def test_every_backend_gives_the_labels_of_torch(network: str, name: str, backend: str) -> None:
    """99.9 % of the voxels that either calls foreground; probabilities within 0.001."""
    recipe = small_recipe(RECIPES[name])
    inference = replace(recipe.inference, prepass=None)  # which may find nothing to go on with
    recipe = replace(recipe, inference=inference)
    model = Model(name, recipe, {}, "", decided_network(recipe))
    volume, labels = phantom(0)
    liver = labels > 0 if recipe.preprocessing.liver_crop else None

    def found(by: str) -> StageResult:
        return run_stage(volume, model, CPU, by, probabilities=True, liver=liver)

    expected, got = found("torch"), found(backend)
    assert expected.computed_by == "torch float32 on cpu"
    assert got.computed_by != expected.computed_by
    for target, mask in expected.masks.items():
        either = mask | got.masks[target]
        differing = np.count_nonzero(mask != got.masks[target])
        assert differing <= 0.001 * np.count_nonzero(either)
        probability = expected.probabilities[target].astype(np.float32)
        assert np.abs(probability - got.probabilities[target]).max() <= 1e-3
        assert 0.01 < probability.mean() < 0.99, "a network that says nothing"
