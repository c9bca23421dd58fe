"""Recipes: nothing is lost on the way through JSON, nothing is guessed, and all of them fit."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import LiverTumorSegLib
from LiverTumorSegLib.recipe import (
    ControlPoints,
    FixedShape,
    Poly,
    PyramidSupervision,
    Recipe,
    SmoothedNoise,
    Spacing,
    ZScore,
)
from LiverTumorSegLib.recipes import RECIPES

UNET3D = RECIPES["unet3d-liver"]
ALL = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
# The recipe with every optional part, so that its fields are all there to be broken.
FULL = RECIPES["elanres-msca-tumor"]


def plain(recipe: Recipe = FULL) -> dict[str, Any]:
    return json.loads(recipe.to_json())


def fields(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all named fields of the plain recipe, down to arguments and losses."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*path, key)
            yield from fields(value, (*path, key))


def parent_of(node: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path[:-1]:
        node = node[key]
    return node


def refusal(node: Any) -> str:
    with pytest.raises(ValueError, match="recipe") as caught:
        Recipe.from_json(json.dumps(node))
    return str(caught.value)


def is_optional(path: tuple[str, ...]) -> bool:
    """Whether a field of the recipe may be None."""
    node: Any = FULL
    for key in path[:-1]:
        node = getattr(node, key)
    return type(None) in typing.get_args(typing.get_type_hints(type(node))[path[-1]])


PATHS = list(fields(plain()))
FREE = {("network", "args"), ("training", "loss")}
FIXED_PATHS = [path for path in PATHS if path[:-1] not in FREE]
OBJECTS = [
    (),
    *(path for path in FIXED_PATHS if isinstance(parent_of(plain(), path)[path[-1]], dict)),
]


# JSON


@ALL
def test_json_gives_an_equal_recipe_back(recipe: Recipe) -> None:
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.to_json() == recipe.to_json()


def test_json_keeps_tuples_and_floats_apart_from_lists_and_integers() -> None:
    again = Recipe.from_json(FULL.to_json())
    assert again.patch == (48, 256, 256)
    assert type(again.patch) is tuple
    assert type(again.preprocessing.liver_crop.training_mask_mm) is tuple
    node = plain()
    node["training"]["learning_rate"] = 1
    assert type(Recipe.from_json(json.dumps(node)).training.learning_rate) is float


def test_paths_cover_the_nested_fields() -> None:
    assert ("preprocessing", "liver_crop", "mask_mm") in FIXED_PATHS
    assert ("training", "augmentation", "noise_hu") in FIXED_PATHS
    assert ("training", "deep_supervision") in OBJECTS


@pytest.mark.parametrize("path", [p for p in FIXED_PATHS if not is_optional(p)], ids=".".join)
def test_a_missing_field_is_named(path: tuple[str, ...]) -> None:
    node = plain()
    del parent_of(node, path)[path[-1]]
    message = refusal(node)
    assert message.startswith(".".join(("recipe", *path[:-1])) + ": ")
    assert f"missing fields ['{path[-1]}']" in message


# So that weights made before a part was invented can be read.
@pytest.mark.parametrize("path", [p for p in FIXED_PATHS if is_optional(p)], ids=".".join)
def test_a_missing_part_that_may_be_none_is_none(path: tuple[str, ...]) -> None:
    lacking, stated = plain(), plain()
    del parent_of(lacking, path)[path[-1]]
    parent_of(stated, path)[path[-1]] = None
    assert Recipe.from_json(json.dumps(lacking)) == Recipe.from_json(json.dumps(stated))


@pytest.mark.parametrize("path", [path for path in OBJECTS if path not in FREE], ids=".".join)
def test_an_unknown_field_is_named(path: tuple[str, ...]) -> None:
    node = plain()
    parent_of(node, (*path, "new"))["new"] = 1
    message = refusal(node)
    assert message.startswith(".".join(("recipe", *path)) + ": ")
    assert "unknown fields ['new']" in message


@pytest.mark.parametrize("path", FIXED_PATHS, ids=".".join)
def test_a_value_of_the_wrong_type_is_named(path: tuple[str, ...]) -> None:
    node = plain()
    parent_of(node, path)[path[-1]] = [[]]
    message = refusal(node)
    assert message.startswith(".".join(("recipe", *path)))
    assert "expected" in message
    assert "[]" in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.epochs", True),
        ("training.epochs", 2.0),
        ("training.epochs", "2"),
        ("training.epochs", None),
        ("training.learning_rate", True),
        ("training.learning_rate", "1e-4"),
        ("training.loss.hybrid", "much"),
        ("training.optimizer", "sgd"),
        ("inference.blend", "Gaussian"),
        ("preprocessing.halve_in_plane", 1),
        ("preprocessing.intensity.clip_hu", [-200.0]),
        ("preprocessing.intensity.clip_hu", [-200.0, 0.0, 200.0]),
        ("preprocessing.intensity.clip_hu", -200.0),
        ("preprocessing.intensity", None),
        ("preprocessing.intensity", [0.5, 99.5]),
        ("preprocessing.pad_minimum", [16, 16, 16.0]),
        ("preprocessing.liver_crop", []),
        ("inference.flips", [1, "x"]),
        ("patch", [48, 256]),
        ("target", "spleen"),
        ("network.args", [["width", 16]]),
        ("paper.doi", 10),
    ],
)
def test_values_that_do_not_fit_are_refused(path: str, value: object) -> None:
    keys = tuple(path.split("."))
    node = plain()
    parent_of(node, keys)[keys[-1]] = value
    assert refusal(node).startswith(f"recipe.{path}")


@pytest.mark.parametrize("node", [None, 1, "recipe", [], {}])
def test_what_is_no_recipe_at_all_is_refused(node: object) -> None:
    assert "recipe: " in refusal(node)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1"):
        Recipe.from_json("{'name': }")


@settings(max_examples=25)
@given(st.text(), st.floats(allow_nan=False), st.integers(), st.lists(st.integers()))
def test_any_values_of_the_right_types_survive(
    name: str, rate: float, epochs: int, flips: list[int]
) -> None:
    recipe = dataclasses.replace(
        FULL,
        name=name,
        training=dataclasses.replace(FULL.training, learning_rate=rate, epochs=epochs),
        inference=dataclasses.replace(FULL.inference, flips=tuple(flips)),
    )
    assert Recipe.from_json(recipe.to_json()) == recipe


# Overrides


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("name", "mine", "mine"),
        ("training.epochs", "3", 3),
        ("training.learning_rate", "1", 1.0),
        ("training.monitor", "loss", "loss"),
        ("training.monitor", '"loss"', "loss"),
        ("training.schedule", '{"exponent": 0.9}', Poly(0.9)),
        ("preprocessing.resampling", '{"shape": [8, 8, 8]}', FixedShape((8, 8, 8))),
        ("training.gradient_clip", "null", None),
        ("preprocessing.intensity.clip_hu", "[-100, 240]", (-100.0, 240.0)),
        ("preprocessing.body_crop", "null", None),
        ("preprocessing.liver_crop.mask_mm", "5", 5.0),
        ("patch", "[16, 32, 32]", (16, 32, 32)),
        ("inference.flips", "[]", ()),
    ],
)
def test_an_override_changes_one_value(key: str, value: str, expected: object) -> None:
    changed = FULL.with_override(key, value)
    before, after = plain(FULL), plain(changed)
    found: Any = changed
    for part in key.split("."):
        found = getattr(found, part)
    assert found == expected
    assert type(found) is type(expected)
    *parents, last = key.split(".")
    for node in (before, after):
        parent_of(node, (*parents, last)).pop(last)
    assert before == after


def test_overrides_reach_arguments_and_losses_old_and_new() -> None:
    changed = (
        FULL.with_override("network.args.width", "16")
        .with_override("network.args.head_scale", "[1, 1, 1]")
        .with_override("network.args.extra", "true")
        .with_override("training.loss.dice", "2")
    )
    assert changed.network.args == {
        **FULL.network.args,
        "width": 16,
        "head_scale": [1, 1, 1],
        "extra": True,
    }
    assert changed.training.loss == {**FULL.training.loss, "dice": 2.0}


def test_an_override_leaves_the_recipe_alone() -> None:
    before = FULL.to_json()
    FULL.with_override("network.args.width", "8")
    assert FULL.to_json() == before


@pytest.mark.parametrize(
    "key",
    [
        "",
        "epochs",
        "training.epoch",
        "training.epochs.more",
        "training.loss.dice.weight",
        "network.args.head_scale.0",
        "network.arg.width",
        "nowhere.at.all",
    ],
)
def test_an_override_of_no_field_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="no field") as caught:
        FULL.with_override(key, "1")
    assert repr(key) in str(caught.value)


def test_a_part_that_is_off_has_no_fields_to_override() -> None:
    with pytest.raises(ValueError, match="no field"):
        UNET3D.with_override("preprocessing.body_crop.threshold_hu", "-500")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.epochs", "many"),
        ("training.epochs", "1.5"),
        ("target", "spleen"),
        ("preprocessing", "{}"),
        ("training.loss.dice", "heavy"),
        ("patch", "[1, 2]"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"^recipe\.{key}"):
        FULL.with_override(key, value)


# One of several kinds of part


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.deep_supervision", PyramidSupervision(levels=5)),
        ("training.augmentation.elastic", SmoothedNoise((0.0, 900.0), (9.0, 13.0), 0.2)),
        ("training.augmentation.elastic", ControlPoints(2.0, 0.5)),
        ("preprocessing.resampling", Spacing((2.47, None, 1.9))),
        ("preprocessing.intensity", ZScore((0.5, 99.5), None)),
    ],
)
def test_each_kind_of_a_part_is_known_by_its_fields(path: str, value: Any) -> None:
    text = json.dumps(dataclasses.asdict(value))
    found: Any = Recipe.from_json(FULL.with_override(path, text).to_json())
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_a_flaw_in_a_part_is_told_of_the_kind_that_was_meant() -> None:
    node = plain()
    node["preprocessing"]["resampling"] = {"spacing_mm": [1.0, 1.0, 1.0], "shap": [8, 8, 8]}
    message = refusal(node)
    assert "missing fields []" in message
    assert "unknown fields ['shap']" in message


# Imports


@pytest.mark.parametrize("module", ["recipe", "recipes", "checkpoint"])
def test_recipes_come_without_torch(module: str) -> None:
    code = f"import sys, LiverTumorSegLib.{module}; sys.exit('torch' in sys.modules)"
    root = Path(LiverTumorSegLib.__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_no_other_file_of_the_engine_reads_recipes() -> None:
    """Inference takes every number from the weights file; editing recipes.py cannot change it."""
    readers = []
    for path in Path(LiverTumorSegLib.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            names.append(getattr(node, "module", None) or "")
            if path.parent.name != "recipes" and any(
                "recipes" in name.split(".") for name in names
            ):
                readers.append(path.name)
    assert readers == []
