"""Weights files: what is saved comes back, and all else is refused in a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import LiverTumorSegLib
from LiverTumorSegLib import checkpoint
from LiverTumorSegLib.checkpoint import (
    FORMAT,
    default_model_name,
    digest,
    list_models,
    load_model,
    load_models,
    read_info,
    save_model,
    survey_models,
)
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.folders import MODELS_VARIABLE
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.recipe import Network, Recipe
from LiverTumorSegLib.recipes import RECIPES
from Testing.recipe_cases import small_recipe

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

CARD = {"license": "CC BY 4.0", "notes": ["ä"], "scores": {"mean_dice": 0.75}, "seed": 7}
LIVER = replace(
    RECIPES["unet3d-liver"], network=Network("unet3d", {"channels": [2, 4], "dropout": 0.2})
)
TUMOR = replace(
    RECIPES["elanres-msca-tumor"],
    network=Network("elanres_msca", {"width": 2, "msca_levels": [1], "head_scale": [1, 2, 2]}),
)
BOTH = replace(
    RECIPES["rmau-net"], network=Network("rmau", {"out_channels": 2, "base_channels": 6})
)


def network_of(recipe: Recipe) -> nn.Module:
    """A network whose buffers are not those of a fresh one."""
    torch.manual_seed(3)
    network = build(recipe.network.name, **recipe.network.args)
    with torch.no_grad():
        for buffer in network.buffers():
            buffer.add_(1)
    return network.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    save_model(path, network_of(LIVER), LIVER, CARD)
    return path


def metadata_of(path: Path) -> dict[str, str]:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header["__metadata__"]


def rewrite(path: Path, change: Callable[[dict[str, str]], None]) -> None:
    """Save the same tensors with other metadata and its digest, as another program might."""
    tensors, metadata = load_file(path), metadata_of(path)
    change(metadata)
    if "sha256" in metadata:
        metadata["sha256"] = digest(metadata, tensors)
    save_file({key: value.clone() for key, value in tensors.items()}, path, metadata)


def assert_refused(path: Path | str, *words: str) -> None:
    """One sentence that names the file and says what to do; no other exception."""
    with pytest.raises(InputError) as caught:
        load_model(str(path))
    message = str(caught.value)
    assert str(path) in message
    assert "\n\n" not in message
    for word in words:
        assert word in message


# There and back


@pytest.mark.parametrize(("recipe", "deploy"), [(LIVER, False), (TUMOR, False), (TUMOR, True)])
def test_a_model_comes_back_as_it_was_in_half_precision(
    tmp_path: Path, recipe: Recipe, deploy: bool
) -> None:
    network = network_of(recipe)
    network = network.deploy() if deploy else network
    path = tmp_path / "some name.safetensors"
    sha256 = save_model(path, network, recipe, CARD)
    model = load_model(str(path))

    assert read_info(path).deployed == deploy
    assert (model.name, model.recipe, model.card) == ("some name", recipe, CARD)
    assert model.sha256 == sha256
    assert not model.network.training
    expected, found = network.state_dict(), model.network.state_dict()
    assert list(expected) == list(found)
    for key, value in expected.items():
        halved = value.half().float() if value.is_floating_point() else value
        assert torch.equal(found[key], halved), key
        assert found[key].dtype == value.dtype
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.network(image), network(image), rtol=0.02, atol=0.02)


def test_the_file_holds_half_precision_and_nothing_is_left_beside_it(saved: Path) -> None:
    kinds = {value.dtype for value in load_file(saved).values()}
    assert kinds == {torch.float16, torch.int64}
    assert [path.name for path in saved.parent.iterdir()] == ["mine.safetensors"]


def test_saving_leaves_the_network_alone(tmp_path: Path) -> None:
    network = network_of(LIVER)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    save_model(tmp_path / "a.safetensors", network, LIVER, CARD)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
        assert value.dtype == before[key].dtype


def test_saving_replaces_an_older_file(saved: Path) -> None:
    save_model(saved, network_of(TUMOR), TUMOR, {})
    assert load_model(str(saved)).recipe == TUMOR


def test_reading_the_information_reads_no_tensors(saved: Path) -> None:
    """A file with a damaged tensor block still tells what it is."""
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    info = read_info(saved)
    assert (info.name, info.path, info.target, info.recipe, info.card, info.deployed) == (
        "mine",
        saved,
        "liver",
        LIVER,
        CARD,
        False,
    )


def test_editing_the_recipes_does_not_change_weights(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = LIVER.with_override("preprocessing.intensity.clip_hu", "[0, 1]")
    monkeypatch.setitem(RECIPES, LIVER.name, edited)
    assert load_model(str(saved)).recipe == LIVER
    monkeypatch.delitem(RECIPES, LIVER.name)
    assert load_model(str(saved)).recipe == LIVER


def test_the_digest_sees_names_types_shapes_and_values() -> None:
    zeros = torch.zeros(2, 3)
    variants = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.half()},
        {"a": zeros.reshape(3, 2)},
        {"a": zeros - 1},
        {"a": zeros, "b": zeros},
    ]
    assert len({digest({}, variant) for variant in variants}) == len(variants)
    assert digest({}, {"a": zeros, "b": zeros - 1}) == digest({}, {"b": zeros - 1, "a": zeros})


def test_the_digest_sees_the_metadata_but_itself() -> None:
    variants = [{}, {"recipe": "1"}, {"recipe": "2"}, {"card": "1"}]
    assert len({digest(variant, {}) for variant in variants}) == len(variants)
    assert digest({"card": "1", "sha256": "2"}, {}) == digest({"card": "1"}, {})


def test_a_changed_recipe_is_found(saved: Path) -> None:
    content = saved.read_bytes()
    changed = content.replace(b"-100.0, 400.0", b"-100.0, 900.0")
    assert changed != content
    saved.write_bytes(changed)
    with pytest.raises(InputError, match=r"mine\.safetensors.*damaged"):
        load_model(str(saved))


# Refused when saving


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_weights_that_are_no_finite_half_precision_are_not_written(
    tmp_path: Path, value: float
) -> None:
    network = network_of(LIVER)
    nn.init.constant_(network.head.bias, value)
    with pytest.raises(InputError, match=r"head\.bias"):
        save_model(tmp_path / "a.safetensors", network, LIVER, CARD)
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_is_no_json_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="JSON"):
        save_model(tmp_path / "a.safetensors", network_of(LIVER), LIVER, {"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_half_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up while the file is written (it cannot be filled here)."""
    before = saved.read_bytes()

    def full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_model(saved, network_of(TUMOR), TUMOR, {})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


# Refused when loading


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.safetensors", "no such weights file", "models")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, "no such weights file")


@pytest.mark.parametrize("share", [0, 4, 8, 9, 200, 0.5, 0.9, -1])
def test_a_truncated_file_is_refused(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    length = int(share * len(content)) if 0 < share < 1 else int(share)
    saved.write_bytes(content[:length])
    assert_refused(saved, "damaged", "Copy it again")


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(np.random.default_rng(seed).bytes(1000))
    assert_refused(path, "damaged")


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    assert_refused(path, "safetensors")


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"format": "LiverTumorSeg-0"}])
def test_other_safetensors_files_are_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata)
    assert_refused(path, FORMAT, repr((metadata or {}).get("format")))


@pytest.mark.parametrize("place", [-1, -300, 0.5])
def test_a_changed_byte_among_the_tensors_is_noticed(saved: Path, place: float) -> None:
    content = bytearray(saved.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    index = start + int(place * (len(content) - start)) if place > 0 else int(place)
    content[index] ^= 0x10
    saved.write_bytes(content)
    assert_refused(saved, "sha256", "damaged")


@pytest.mark.parametrize("key", ["recipe", "card", "deployed", "sha256"])
def test_missing_metadata_are_refused(saved: Path, key: str) -> None:
    rewrite(saved, lambda metadata: metadata.pop(key))
    assert_refused(saved, key)


@pytest.mark.parametrize(
    ("key", "text", "word"),
    [
        ("card", "{'license': }", "line 1"),
        ("card", "[1, 2]", "card"),
        ("card", "5", "card"),
        ("recipe", "", "line 1"),
        ("recipe", "[]", "recipe"),
        ("deployed", "perhaps", "line 1"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(
    saved: Path, key: str, text: str, word: str
) -> None:
    rewrite(saved, lambda metadata: metadata.update({key: text}))
    assert_refused(saved, word, "Export it again")


def test_a_recipe_without_a_field_is_refused_by_name(saved: Path) -> None:
    def drop(metadata: dict[str, str]) -> None:
        recipe = json.loads(metadata["recipe"])
        del recipe["inference"]["threshold"]
        metadata["recipe"] = json.dumps(recipe)

    rewrite(saved, drop)
    assert_refused(saved, "recipe.inference", "threshold")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network.name", "unet4d"),
        ("network.args.channels", "[2, 6]"),
        ("network.args.channels", "[]"),
        ("network.args.channels", "3"),
        ("network.args.channels", '["a", "b"]'),
        ("network.args.dropout", "7"),
        ("network.args.depth", "3"),
        ("network.args.out_channels", "2"),
    ],
)
def test_weights_that_do_not_fit_their_recipe_are_refused(
    saved: Path, key: str, value: str
) -> None:
    recipe = LIVER.with_override(key, value)
    rewrite(saved, lambda metadata: metadata.update(recipe=recipe.to_json()))
    assert_refused(saved, "do not fit its recipe")


@pytest.mark.parametrize("recipe", [LIVER, TUMOR], ids=["liver", "tumor"])
def test_a_wrong_word_about_deployment_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "a.safetensors"
    save_model(path, network_of(recipe), recipe, CARD)
    rewrite(path, lambda metadata: metadata.update(deployed="true"))
    assert_refused(path, "do not fit its recipe")


# Installed weights


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", folder)
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "none"))  # not that of whoever runs this
    return folder


def test_without_weights_the_list_is_empty(installed: Path) -> None:
    assert list_models() == ()
    with pytest.raises(InputError, match="No liver weights"):
        default_model_name("liver")


def test_installed_weights_are_listed_by_name_and_found_by_it(installed: Path) -> None:
    save_model(installed / "z-liver.safetensors", network_of(LIVER), LIVER, CARD)
    save_model(installed / "b-tumor.safetensors", network_of(TUMOR).deploy(), TUMOR, {})
    (installed / "b-tumor.md").write_text("a card")
    assert [(info.name, info.target, info.deployed) for info in list_models()] == [
        ("b-tumor", "tumor", True),
        ("z-liver", "liver", False),
    ]
    assert default_model_name("liver") == "z-liver"
    assert default_model_name("tumor") == "b-tumor"
    model = load_model("z-liver")
    assert (model.name, model.recipe) == ("z-liver", LIVER)
    assert model.sha256 == list_models()[1].sha256


def test_the_first_name_is_the_default(installed: Path) -> None:
    for name in ("two", "one"):
        save_model(installed / f"{name}.safetensors", network_of(LIVER), LIVER, CARD)
    assert default_model_name("liver") == "one"


def test_weights_for_both_targets_are_found_for_each(installed: Path) -> None:
    save_model(installed / "n-both.safetensors", network_of(BOTH), BOTH, CARD)
    save_model(installed / "z-liver.safetensors", network_of(LIVER), LIVER, CARD)
    assert [(info.name, info.target) for info in list_models()] == [
        ("n-both", "both"),
        ("z-liver", "liver"),
    ]
    assert default_model_name("liver") == "z-liver", "made for the liver alone"
    assert default_model_name("tumor") == "n-both"


@pytest.fixture
def added(tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's models folder, beside embedded weights for each stage."""
    save_model(installed / "e-liver.safetensors", network_of(LIVER), LIVER, CARD)
    save_model(installed / "e-tumor.safetensors", network_of(TUMOR), TUMOR, CARD)
    folder = tmp_path / "my models"
    folder.mkdir()
    monkeypatch.setenv(MODELS_VARIABLE, str(folder))
    return folder


def test_weights_in_the_users_folder_are_listed_and_found_by_name(added: Path) -> None:
    save_model(added / "a-liver.safetensors", network_of(LIVER), LIVER, {"license": "CC0"})
    assert [(info.name, info.embedded) for info in list_models()] == [
        ("e-liver", True),
        ("e-tumor", True),
        ("a-liver", False),
    ]
    assert load_model("a-liver").card == {"license": "CC0"}
    assert survey_models()[1] == ()


def test_weights_that_a_user_adds_are_never_used_unasked(added: Path) -> None:
    """Nor when they would come first by name, or are all there is for a stage."""
    save_model(added / "a-both.safetensors", network_of(BOTH), BOTH, {})
    save_model(added / "a-tumor.safetensors", network_of(TUMOR), TUMOR, {})
    assert default_model_name("liver") == "e-liver"
    assert default_model_name("tumor") == "e-tumor"
    liver, tumor = load_models(None, "a-both")
    assert (liver.name, tumor.name) == ("e-liver", "a-both")
    (checkpoint.WEIGHTS_FOLDER / "e-tumor.safetensors").unlink()
    with pytest.raises(InputError, match="No tumor weights are embedded"):
        default_model_name("tumor")


def test_a_damaged_file_stops_no_other_weights(added: Path) -> None:
    (added / "a-liver.safetensors").write_bytes(b"no weights")
    (checkpoint.WEIGHTS_FOLDER / "a-tumor.safetensors").write_bytes(b"")
    save_model(added / "z-liver.safetensors", network_of(LIVER), LIVER, {})
    models, faults = survey_models()
    assert [info.name for info in models] == ["e-liver", "e-tumor", "z-liver"]
    assert [fault.split(":")[0] for fault in faults] == [
        str(checkpoint.WEIGHTS_FOLDER / "a-tumor.safetensors"),
        str(added / "a-liver.safetensors"),
    ]
    assert all("damaged" in fault for fault in faults)
    assert [model.name for model in load_models(None, None)] == ["e-liver", "e-tumor"]
    assert load_model("z-liver").name == "z-liver"
    with pytest.raises(InputError, match="damaged"):
        load_model("a-liver")


def test_where_the_only_weights_are_damaged_the_message_says_so(installed: Path) -> None:
    (installed / "e-liver.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"No liver weights.*e-liver\.safetensors.*damaged"):
        default_model_name("liver")


def test_the_name_of_embedded_weights_stays_theirs(added: Path) -> None:
    save_model(added / "e-liver.safetensors", network_of(LIVER), LIVER, {"license": "CC0"})
    models, (fault,) = survey_models()
    assert [(info.name, info.embedded) for info in models] == [("e-liver", True), ("e-tumor", True)]
    assert fault.startswith(str(added / "e-liver.safetensors"))
    assert "Rename" in fault
    assert load_model("e-liver").card == CARD
    assert load_model(str(added / "e-liver.safetensors")).card == {"license": "CC0"}


def test_other_files_in_the_users_folder_are_told_apart(added: Path) -> None:
    """Cards belong there, and files of the system; weights of other kinds are told of."""
    for name in ("a-liver.md", ".DS_Store", "old.pth", "net.onnx", "run.pt"):
        (added / name).write_bytes(b"")
    (added / "folder.safetensors").mkdir()
    save_file({"weight": torch.zeros(3)}, added / "other.safetensors", {"format": "pt"})
    models, faults = survey_models()
    assert [info.name for info in models] == ["e-liver", "e-tumor"]
    names = ["folder.safetensors", "other.safetensors", "net.onnx", "old.pth", "run.pt"]
    assert [Path(fault.split(":")[0]).name for fault in faults] == names


def test_a_users_folder_that_is_not_there_is_empty(
    added: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (added / "none", checkpoint.WEIGHTS_FOLDER / "e-liver.safetensors"):
        monkeypatch.setenv(MODELS_VARIABLE, str(folder))
        assert [info.name for info in list_models()] == ["e-liver", "e-tumor"]


def test_the_models_of_both_stages_come_together(installed: Path) -> None:
    save_model(installed / "z-liver.safetensors", network_of(LIVER), LIVER, CARD)
    save_model(installed / "b-tumor.safetensors", network_of(TUMOR), TUMOR, {})
    assert [model.name for model in load_models(None, None)] == ["z-liver", "b-tumor"]
    path = str(installed / "z-liver.safetensors")
    assert [model.name for model in load_models(path, "b-tumor")] == ["z-liver", "b-tumor"]
    with pytest.raises(InputError, match="no such weights file"):
        load_models(None, str(installed / "none.safetensors"))


def test_a_file_for_both_stages_is_read_once(installed: Path) -> None:
    save_model(installed / "n-both.safetensors", network_of(BOTH), BOTH, CARD)
    for other in (None, "n-both", str(installed / ".." / "weights" / "n-both.safetensors")):
        liver, tumor = load_models(None, other)
        assert liver is tumor
    (installed / "copy.safetensors").write_bytes((installed / "n-both.safetensors").read_bytes())
    liver, tumor = load_models("n-both", "copy")
    assert liver is not tumor
    assert liver.sha256 == tumor.sha256, "so that they still run once"


def test_an_unknown_name_is_answered_with_the_installed_ones(installed: Path) -> None:
    save_model(installed / "z-liver.safetensors", network_of(LIVER), LIVER, CARD)
    assert_refused("a-liver", "z-liver", ".safetensors")


def test_listing_imports_no_torch(saved: Path) -> None:
    code = (
        "import os, sys, pathlib; from LiverTumorSegLib import checkpoint, folders; "
        "checkpoint.WEIGHTS_FOLDER = pathlib.Path(sys.argv[1]); "
        "os.environ[folders.MODELS_VARIABLE] = 'none'; "
        "assert [info.name for info in checkpoint.list_models()] == ['mine']; "
        "assert checkpoint.default_model_name('liver') == 'mine'; "
        "assert 'torch' not in sys.modules"
    )
    root = Path(LiverTumorSegLib.__file__).parent.parent
    command = [sys.executable, "-c", code, str(saved.parent)]
    subprocess.run(command, cwd=root, check=True)


def test_a_network_of_a_missing_library_is_answered_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(RECIPES["rmau-unet-plus-plus"])
    network = build(recipe.network.name, **recipe.network.args).eval()
    save_model(tmp_path / "x.safetensors", network, recipe, {})
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(InputError, match="needs the package monai.*pip install"):
        load_model(str(tmp_path / "x.safetensors"))
