"""The papers' recipes: each fits its network, is sound, and has the paper's numbers."""

from __future__ import annotations

import inspect

import pytest
import torch

from LiverTumorSegLib.networks import NETWORKS, build
from LiverTumorSegLib.recipe import FixedShape, Recipe, SliceSampling, Spacing, Window, ZScore
from LiverTumorSegLib.recipes import PAPERS, RECIPES, REPORTED
from Testing.engine.network_cases import case_of

ALL = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def window_of(recipe: Recipe) -> tuple[int, ...]:
    """The size that the network sees."""
    if recipe.patch is not None:
        return recipe.patch
    assert isinstance(recipe.preprocessing.resampling, FixedShape)
    return recipe.preprocessing.resampling.shape


def test_every_recipe_of_every_paper_is_listed_under_its_own_name() -> None:
    names = [recipe.name for paper in PAPERS for recipe in paper.RECIPES]
    assert sorted(names) == sorted(RECIPES)
    assert all(recipe.name == name for name, recipe in RECIPES.items())


def test_figures_are_reported_for_recipes_only_and_for_every_paper() -> None:
    assert set(REPORTED) <= set(RECIPES)
    assert {RECIPES[name].paper for name in REPORTED} == {r.paper for r in RECIPES.values()}
    for reported in REPORTED.values():
        assert reported.data
        assert all(
            0 < value <= 1 for name, value in reported.figures.items() if not name.endswith("mm")
        )


def test_every_network_has_a_recipe() -> None:
    assert {recipe.network.name for recipe in RECIPES.values()} == set(NETWORKS)


@ALL
def test_a_recipe_states_every_argument_of_its_network(recipe: Recipe) -> None:
    """So that a changed default cannot change what a weights file means."""
    arguments = inspect.signature(NETWORKS[recipe.network.name]).parameters
    assert set(recipe.network.args) == set(arguments)


@pytest.mark.parametrize(
    ("name", "recipe"), [case_of(recipe.network.name, recipe) for recipe in RECIPES.values()]
)
def test_a_recipe_s_sizes_fit_its_network(name: str, recipe: Recipe) -> None:
    with torch.device("meta"):
        network = build(name, **recipe.network.args).eval()
        window = window_of(recipe)
        image = torch.zeros(1, 1, *window[-network.dimensions :])
        logits = network(image)
    assert network.dimensions == 3 or window[0] == 1
    preprocessing = recipe.preprocessing
    # A window is never larger than the image, so both must be sizes that padding can make.
    for size, multiple, minimum in zip(
        window, preprocessing.pad_multiple, preprocessing.pad_minimum, strict=True
    ):
        assert size % multiple == 0
        assert minimum >= size or multiple % network.divisor == 0
    channels = {"sigmoid": len(recipe.targets), "softmax": 3}[recipe.inference.activation]
    assert logits.shape[:2] == (1, channels)
    scale = recipe.network.args.get("head_scale", [1] * network.dimensions)
    assert logits.shape[2:] == tuple(s * f for s, f in zip(image.shape[2:], scale, strict=True))


@ALL
def test_a_recipe_is_sound(recipe: Recipe) -> None:
    preprocessing, inference, training = recipe.preprocessing, recipe.inference, recipe.training
    assert sorted(preprocessing.orientation.translate(str.maketrans("RAI", "LPS"))) == [
        "L",
        "P",
        "S",
    ]
    if isinstance(preprocessing.intensity, Window):
        assert preprocessing.intensity.clip_hu[0] < preprocessing.intensity.clip_hu[1]
        assert preprocessing.intensity.output[0] < preprocessing.intensity.output[1]
    assert (preprocessing.liver_crop is not None) == (recipe.target == "tumor")
    assert min(preprocessing.pad_minimum) >= 1
    assert 0 <= inference.overlap < 1
    assert 0 < inference.threshold < 1
    assert set(inference.flips) <= {0, 1, 2}
    assert inference.min_lesion_mm3 >= 0
    assert set(training.augmentation.flips) <= {0, 1, 2}
    assert all(weight > 0 for weight in training.loss.values())
    slices = recipe.patch is not None and recipe.patch[0] == 1
    assert isinstance(training.sampling, SliceSampling) == slices
    assert inference.prepass is None or slices
    assert recipe.paper.citation


def test_an_ablation_changes_what_it_is_named_for_and_nothing_else() -> None:
    """Each variant differs from its paper's system in its network, or in one part of it."""
    heads = {"rmau": "rmau-net", "msa": "msa-unet", "dpc": "dpc-net"}
    changed_parts = {
        "rmau-loss-ce": "training",
        "rmau-loss-ce-dice": "training",
        "rmau-no-augmentation": "training",
    }
    for name, recipe in RECIPES.items():
        head = heads.get(name.split("-")[0])
        if head is None or "loss" in name or "no-" in name or name.endswith("half"):
            continue
        main = RECIPES[head]
        assert recipe.preprocessing == main.preprocessing, name
        assert recipe.training == main.training, name
        assert recipe.inference == main.inference, name
    for name, part in changed_parts.items():
        for other in ("network", "preprocessing", "inference"):
            assert getattr(RECIPES[name], other) == getattr(RECIPES["rmau-net"], other)
        assert getattr(RECIPES[name], part) != getattr(RECIPES["rmau-net"], part)


def test_the_numbers_of_unet3d() -> None:
    """Those of the papers' own text that a typing error would spoil unseen, here and below."""
    recipe = RECIPES["unet3d-liver"]
    assert recipe.preprocessing.intensity == Window((-100.0, 400.0), (0.0, 1.0))
    assert recipe.preprocessing.resampling == FixedShape((80, 160, 160))
    assert recipe.preprocessing.orientation == "RAS"
    assert (recipe.training.epochs, recipe.training.learning_rate) == (120, 1e-4)
    assert recipe.training.batch_size == 1


def test_the_numbers_of_elanres_msca() -> None:
    liver, tumor = RECIPES["elanres-msca-liver"], RECIPES["elanres-msca-tumor"]
    for recipe in (liver, tumor):
        assert recipe.preprocessing.intensity == Window((-200.0, 200.0), (0.0, 1.0))
        assert recipe.preprocessing.pad_minimum[1:] == (176, 176)
        assert recipe.training.learning_rate == 1e-4
        assert recipe.training.schedule.factor == 0.8
        assert recipe.patch[0] * (1 - recipe.inference.overlap) == 24
        assert recipe.training.split.test_numbers == (27, 46)
    assert liver.training.deep_supervision.alpha == 0.4
    assert liver.inference.largest_component
    assert not tumor.inference.largest_component
    assert tumor.preprocessing.liver_crop.margin_voxels == (4, 16, 16)
    assert tumor.preprocessing.liver_crop.mask_mm == 3.0


def test_the_numbers_of_rmau_net() -> None:
    recipe = RECIPES["rmau-net"]
    assert recipe.preprocessing.intensity == Window((-200.0, 200.0), (-1.0, 1.0))
    assert recipe.training.loss == {"focal": 0.5, "batch_dice": 1.0}
    assert (recipe.training.epochs, recipe.training.batch_size) == (250, 8)
    assert recipe.training.learning_rate == 1e-4
    augmentation = recipe.training.augmentation
    assert (augmentation.scale, augmentation.scale_probability) == ((0.8, 1.2), 0.5)
    assert (augmentation.rotation_degrees[0], augmentation.rotation_probability) == (30.0, 0.3)
    assert augmentation.flip_probability == 0.3
    assert recipe.training.split.test_numbers == (0, 26)


def test_the_numbers_of_msa_unet() -> None:
    recipe = RECIPES["msa-unet"]
    assert recipe.preprocessing.intensity == Window((-200.0, 250.0), (0.0, 1.0))
    assert recipe.training.loss == {"bce": 0.5, "smooth_dice": 1.0}
    assert (recipe.training.epochs, recipe.training.batch_size) == (300, 6)
    assert recipe.training.learning_rate == 1e-3
    assert recipe.training.schedule.patience_epochs == 8
    assert recipe.training.early_stop_epochs == 20
    assert recipe.training.augmentation.crop == (0.9, 1.0)
    assert recipe.training.augmentation.shift == 0.1


def test_the_numbers_of_dpc_net() -> None:
    recipe = RECIPES["dpc-net"]
    assert recipe.preprocessing.resampling == Spacing((2.47, 1.90, 1.90))
    assert isinstance(recipe.preprocessing.intensity, ZScore)
    assert recipe.preprocessing.intensity.percentiles == (0.5, 99.5)
    assert recipe.patch == (128, 128, 128)
    assert recipe.inference.overlap == 0.5
    assert (recipe.training.epochs, recipe.training.batch_size) == (1000, 2)
    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.sampling.target_share == pytest.approx(1 / 3)
    assert recipe.training.split.folds == 4
