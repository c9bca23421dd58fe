"""Weights files: a network's tensors with its recipe and model card, in safetensors.

Nothing in such a file is ever executed. The file's metadata holds the recipe and the card as JSON,
and a digest of both and of the tensors, which is checked before they are used.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.recipe import Recipe, from_plain

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = "LiverTumorSeg-1"
WEIGHTS_FOLDER = Path(__file__).parent / "weights"
Card = dict[str, Any]


@dataclass(frozen=True)
class ModelInfo:
    """What a weights file says of itself; its tensors are not read."""

    name: str
    path: Path
    target: str
    recipe: Recipe
    card: Card
    sha256: str
    deployed: bool


@dataclass(frozen=True)
class Model:
    """A network with its weights, in evaluation mode, and what it was made with."""

    name: str
    recipe: Recipe
    card: Card
    sha256: str
    network: nn.Module


def save_model(path: Path, network: nn.Module, recipe: Recipe, card: Card) -> str:
    """Write a weights file in half precision, whole or not at all.

    Args:
        path: ends in .safetensors.
        network: what `networks.build` made from the recipe, deployed or not.
        recipe: how to build and use it.
        card: JSON values only.

    Returns:
        sha256 of tensors, recipe and card, hexadecimal.

    Raises:
        InputError: a weight that is no finite number in half precision; nothing is written.
    """
    from safetensors.torch import save_file

    tensors = {
        key: (value.half() if value.is_floating_point() else value).detach().contiguous().cpu()
        for key, value in network.state_dict().items()
    }
    for key, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(
                f"{path}: expected finite weights that fit half precision, found others in {key}. "
                "The training has diverged; train again, with a lower learning rate."
            )
    metadata = {
        "format": FORMAT,
        "recipe": recipe.to_json(),
        "card": json.dumps(card, sort_keys=True),
        "deployed": json.dumps(bool(getattr(network, "deployed", False))),
    }
    sha256 = digest(metadata, tensors)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, {**metadata, "sha256": sha256})
        partial.chmod(0o644)  # safetensors keeps its files private
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return sha256


def read_info(path: Path) -> ModelInfo:
    """Read what a weights file says of itself, with the standard library alone.

    Raises:
        InputError: missing, damaged, or not a weights file of LiverTumorSeg.
    """
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path}: expected weights made by this project's trainer (format {FORMAT}), found "
            f"format {metadata.get('format')!r}. Make one with `python -m Training.export`."
        )
    try:
        recipe = Recipe.from_json(metadata["recipe"])
        card = from_plain(Card, json.loads(metadata["card"]), "card")
        deployed = bool(json.loads(metadata["deployed"]))
        sha256 = metadata["sha256"]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: its recipe or card cannot be read ({error}). Was it made by another version? "
            "Export it again."
        ) from error
    return ModelInfo(path.stem, path, recipe.target, recipe, card, sha256, deployed)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a .safetensors file whose length fits its header.

    The file begins with the header's length (8 bytes, little-endian) and the header (JSON), which
    gives for each tensor where its bytes begin and end after the header.

    Raises:
        InputError: missing, cut off, or no .safetensors file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file. `models` lists what is installed.")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size - 8:
                raise ValueError("its header is cut off")
            header = json.loads(file.read(length))
        metadata = from_plain(dict[str, str], header.pop("__metadata__", {}), "metadata")
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        if path.stat().st_size != 8 + length + end:
            raise ValueError(f"its header tells of {8 + length + end} bytes")
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a whole .safetensors weights file, but it is damaged or of another "
            f"kind ({error}). Copy it again or choose one that `models` lists."
        ) from error
    return metadata


def load_model(name_or_path: str) -> Model:
    """Load weights by the name that `list_models` gives or by path, and check their digest.

    Raises:
        InputError: unknown name, a file that is damaged, not ours, or does not fit its recipe, or
            a network of a library that is not installed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from LiverTumorSegLib.networks import build

    info = read_info(find_model(name_or_path))
    try:
        tensors = load_file(info.path)
        whole = digest(read_metadata(info.path), tensors) == info.sha256
    except (SafetensorError, TypeError, ValueError) as error:
        raise InputError(
            f"{info.path}: its tensors cannot be read ({error}). Copy the file again."
        ) from error
    if not whole:
        raise InputError(
            f"{info.path}: its content is not what its sha256 was made of; it is damaged. "
            "Copy the file again."
        )
    try:
        network = build(info.recipe.network.name, **info.recipe.network.args)
        if info.deployed:
            network = network.deploy()  # type: ignore[operator]
        network.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        )
    except InputError:  # a library that the network comes from is missing
        raise
    except (ValueError, TypeError, RuntimeError, AttributeError, LookupError) as error:
        raise InputError(
            f"{info.path}: its weights do not fit its recipe ({error}). Export it again."
        ) from error
    network.eval()
    return Model(info.name, info.recipe, info.card, info.sha256, network)


def load_models(liver: str | None, tumor: str | None) -> tuple[Model, Model]:
    """The models of both stages, from names or paths; None for the installed ones.

    A file that is given for both is read once.

    Raises:
        InputError: as `load_model` and `default_model_name`.
    """
    names = liver or default_model_name("liver"), tumor or default_model_name("tumor")
    liver_path, tumor_path = map(find_model, names)
    liver_model = load_model(names[0])
    same = liver_path.resolve() == tumor_path.resolve()
    return liver_model, liver_model if same else load_model(names[1])


def find_model(name_or_path: str) -> Path:
    """Path of a listed name, or the path given.

    Raises:
        InputError: neither.
    """
    listed = {path.stem: path for path in sorted(WEIGHTS_FOLDER.glob("*.safetensors"))}
    if name_or_path in listed:
        return listed[name_or_path]
    path = Path(name_or_path)
    if path.suffix == ".safetensors" or path.exists():
        return path
    raise InputError(
        f"Model {name_or_path!r}: expected one of {sorted(listed)} or the path of a .safetensors "
        "weights file."
    )


def list_models() -> tuple[ModelInfo, ...]:
    """The installed weights, by name. Imports no torch."""
    return tuple(read_info(path) for path in sorted(WEIGHTS_FOLDER.glob("*.safetensors")))


def default_model_name(target: str) -> str:
    """Name of the weights used when none are asked for: the first that segment the target.

    Raises:
        InputError: no weights for this target are installed.
    """
    names = [info.name for info in list_models() if target in info.recipe.targets]
    if not names:
        raise InputError(
            f"No {target} weights are installed in {WEIGHTS_FOLDER}; give a .safetensors path."
        )
    return names[0]


def digest(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """sha256 over the metadata, but for the digest itself, and over all of the tensors."""
    result = hashlib.sha256()
    for key in sorted(set(metadata) - {"sha256"}):
        result.update(f"{key} {metadata[key]}\n".encode())
    for name in sorted(tensors):
        array = tensors[name].numpy()
        result.update(f"{name} {array.dtype} {array.shape}\n".encode())
        result.update(array.tobytes())
    return result.hexdigest()
