"""Weights files: a network's tensors with its recipe and model card, in safetensors.

Nothing in such a file is ever executed. The file's metadata holds the recipe and the card as JSON,
and a digest of both and of the tensors, which is checked before they are used. Weights have names
where they lie in one of two folders: the embedded ones, and those a user adds to
`folders.models_folder`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.folders import models_folder
from LiverTumorSegLib.recipe import Recipe, from_plain

if TYPE_CHECKING:
    from torch import Tensor, nn

    from LiverTumorSegLib.backends import Predictor

FORMAT = "LiverTumorSeg-1"
WEIGHTS_FOLDER = Path(__file__).parent / "weights"
OTHER_WEIGHTS = (".pt", ".pth", ".ckpt", ".onnx")
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

    @property
    def embedded(self) -> bool:
        """Whether the file came with this program."""
        return self.path.parent == WEIGHTS_FOLDER


@dataclass(frozen=True)
class Model:
    """A network with its weights, in evaluation mode, and what it was made with.

    `predictors` keeps what was last made of the network (see `stage.slice_predictor`), because
    OpenVINO may take seconds to make one.
    """

    name: str
    recipe: Recipe
    card: Card
    sha256: str
    network: nn.Module
    predictors: dict[object, Predictor] = field(default_factory=dict, repr=False, compare=False)


def identity(model: Model | ModelInfo) -> dict[str, Any]:
    """What a report tells of a model.

    Returns:
        name; sha256; and of its card, each None where it is not told: license, training_cases (how
        many), mean_dice (mean over cases that it had not seen, 0 to 1).
    """
    license_text, cases, scores = (
        model.card.get(key) for key in ("license", "training_cases", "scores")
    )
    dice = scores.get("mean_dice") if isinstance(scores, dict) else None
    return {
        "name": model.name,
        "sha256": model.sha256,
        "license": license_text if isinstance(license_text, str) else None,
        "training_cases": len(cases) if isinstance(cases, list) else None,
        "mean_dice": dice if isinstance(dice, float) else None,
    }


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
                f"{path.name}: expected finite weights that fit half precision, found others in "
                f"{key}. The training has diverged; train again, with a lower learning rate."
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
    listed: dict[str, Path] = {}
    for path in _weights_files():
        listed.setdefault(path.stem, path)
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
    """The weights that have names: the embedded ones, then the user's, each by name.

    Files that cannot be used are left out. Imports no torch.
    """
    return survey_models()[0]


def survey_models() -> tuple[tuple[ModelInfo, ...], tuple[str, ...]]:
    """The weights that have names, and what is wrong with each other file beside them.

    A file of the user's that is called as an embedded one has no name. Imports no torch.
    """
    found: dict[str, ModelInfo] = {}
    faults: list[str] = []
    for path in _weights_files():
        try:
            info = read_info(path)
        except InputError as error:
            faults.append(str(error))
            continue
        if info.name in found:
            faults.append(
                f"{path}: expected a name of its own, but embedded weights are called "
                f"{info.name}. Rename the file, or give its path."
            )
        found.setdefault(info.name, info)
    others = (path for path in models_folder().glob("*") if path.suffix in OTHER_WEIGHTS)
    faults += (
        f"{path}: expected a .safetensors weights file, found {path.suffix}, which is never read "
        "from here. `python -m Training.export` makes weights files."
        for path in sorted(others)
    )
    return tuple(found.values()), tuple(faults)


def _weights_files() -> Iterator[Path]:
    """All .safetensors files of both folders, the embedded ones first."""
    for folder in (WEIGHTS_FOLDER, models_folder()):
        yield from sorted(folder.glob("*.safetensors"))


def default_model_name(target: str) -> str:
    """Name of the weights used when none are asked for.

    Only embedded weights are ever used unasked, so that what a user adds changes no result; those
    for the target alone come before those for both, then the first by name.

    Raises:
        InputError: no weights for this target are embedded.
    """
    models, faults = survey_models()
    fitting = [info for info in models if info.embedded and target in info.recipe.targets]
    if not fitting:
        raise InputError(
            " ".join(
                (
                    f"No {target} weights are embedded in {WEIGHTS_FOLDER}; ask for those of "
                    "another name that `models` lists, or give a .safetensors path.",
                    *faults,
                )
            )
        )
    return min(fitting, key=lambda info: (info.target != target, info.name)).name


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
