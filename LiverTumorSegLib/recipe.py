"""What a weights file must know of itself: network, preprocessing, training and inference numbers.

Only the standard library is imported, so that lists of recipes and the help come at once. There are
no defaults: a recipe states every number, and a weights file that lacks one is refused.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Triple = tuple[int, int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Paper:
    """Where the system was published."""

    citation: str
    doi: str | None


@dataclass(frozen=True)
class Network:
    """A key of `networks.NETWORKS` and its constructor's keyword arguments, JSON values only."""

    name: str
    args: dict[str, Any]


@dataclass(frozen=True)
class BodyCrop:
    """Crop in the plane to the body: HU above a threshold, opened, the largest component."""

    threshold_hu: float
    opening_voxels: int
    margin_voxels: int


@dataclass(frozen=True)
class LiverCrop:
    """Crop to the liver and blank what lies farther from it.

    Attributes:
        margin_voxels: added around the liver's box, along (z, y, x) of the image.
        mask_mm: voxels farther than this from the liver are blanked at inference.
        training_mask_mm: the range that training draws that distance from, to be robust against
            errors of the liver stage.
    """

    margin_voxels: Triple
    mask_mm: float
    training_mask_mm: tuple[float, float]


@dataclass(frozen=True)
class Preprocessing:
    """From HU to the network's grid, in this order; what is None or False is not done.

    Attributes:
        orientation: patient directions in which the x, y and z index grow, such as "LPS".
        body_crop: crop to the body.
        liver_crop: crop to the liver (tumor stage).
        halve_in_plane: mean over 2x2 voxels of each slice.
        z_spacing_mm: resample the slices to this distance, voxel edges kept.
        clip_hu: HU window; its ends become 0 and 1.
        shape: resample to this grid (z, y, x), corner voxels kept.
        antialias: average over the coarser voxel where `shape` or `z_spacing_mm` reduces.
        pad_multiple: every size is padded to a multiple of this ...
        pad_minimum: ... and to at least this (z, y, x), with 0, the window's lower end.
    """

    orientation: str
    body_crop: BodyCrop | None
    liver_crop: LiverCrop | None
    halve_in_plane: bool
    z_spacing_mm: float | None
    clip_hu: tuple[float, float]
    shape: Triple | None
    antialias: bool
    pad_multiple: int
    pad_minimum: Triple


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training sample. Ranges are uniform; 0 or (1, 1) switches one off.

    Attributes:
        flips: axes of (z, y, x), each mirrored with probability 0.5.
        rotation_degrees: largest angle about the z axis; about y and x half of it.
        scale: range of a common factor of size.
        stretch: range of a further factor for each axis.
        shift: largest displacement, as a share of each axis.
        elastic_voxels: largest displacement of a smooth random field.
        contrast: range of a factor on the window.
        brightness_hu: largest shift of all voxels.
        liver_contrast_hu: largest shift of the liver alone (contrast phase).
        noise_hu: largest standard deviation of added Gaussian noise.
        blur_voxels: largest standard deviation of a Gaussian blur in the plane.
    """

    flips: tuple[int, ...]
    rotation_degrees: float
    scale: tuple[float, float]
    stretch: tuple[float, float]
    shift: float
    elastic_voxels: float
    contrast: tuple[float, float]
    brightness_hu: float
    liver_contrast_hu: float
    noise_hu: float
    blur_voxels: float


@dataclass(frozen=True)
class DeepSupervision:
    """loss = finest + alpha * (sum of the coarser); alpha decays every `period_epochs`."""

    alpha: float
    decay: float
    period_epochs: int


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the epochs.

    Attributes:
        kind: "constant", "step" (times `factor` every `period_epochs`) or "cosine" (to 0).
        period_epochs: of "step".
        factor: of "step".
        warmup_epochs: linear rise at the start.
    """

    kind: Literal["constant", "step", "cosine"]
    period_epochs: int
    factor: float
    warmup_epochs: int


@dataclass(frozen=True)
class Sampling:
    """Which window of a case a sample shows.

    Attributes:
        liver_share: probability that the window's slices lie within the liver's range ...
        liver_margin_slices: ... widened by this many slices; else anywhere.
        target_share: probability that the window is centered near a voxel of the target, if any.
    """

    liver_share: float
    liver_margin_slices: int
    target_share: float


@dataclass(frozen=True)
class Training:
    """The training run. `loss` maps names of `Training.losses.LOSSES` to weights."""

    loss: dict[str, float]
    deep_supervision: DeepSupervision | None
    optimizer: Literal["adam"]
    learning_rate: float
    weight_decay: float
    schedule: Schedule
    epochs: int
    samples_per_case: int
    batch_size: int
    gradient_clip: float | None
    ema_decay: float | None
    validate_every_epochs: int
    early_stop_epochs: int | None
    sampling: Sampling
    augmentation: Augmentation


@dataclass(frozen=True)
class Inference:
    """From windows to a mask.

    Attributes:
        overlap: share of a window that the next one covers again.
        blend: weights of overlapping windows.
        threshold: probability from which a voxel is foreground.
        flips: axes of (z, y, x) that the slower, flip-averaged mode mirrors.
        largest_component: keep the largest 26-connected component only.
        fill_holes: fill cavities.
        min_lesion_mm3: drop smaller components of the tumor mask.
    """

    overlap: float
    blend: Literal["gaussian", "uniform"]
    threshold: float
    flips: tuple[int, ...]
    largest_component: bool
    fill_holes: bool
    min_lesion_mm3: float


@dataclass(frozen=True)
class Recipe:
    """One system: everything that training and inference must agree on.

    Attributes:
        name: unique; also the default name of its weights.
        paper: where the system comes from.
        target: what the mask means.
        network: the network and its arguments.
        patch: the window (z, y, x) that the network sees; None for the whole prepared grid.
        preprocessing: HU to network input.
        training: how the weights were made.
        inference: network output to mask.
    """

    name: str
    paper: Paper
    target: Literal["liver", "tumor"]
    network: Network
    patch: Triple | None
    preprocessing: Preprocessing
    training: Training
    inference: Inference

    def to_json(self) -> str:
        """The recipe as JSON; `from_json` gives an equal recipe back."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Read a recipe.

        Raises:
            ValueError: a field is missing, unknown or of the wrong type; the message names it.
        """
        return from_plain(Recipe, json.loads(text), "recipe")

    def with_override(self, key: str, value: str) -> Recipe:
        """A copy with one number changed.

        Args:
            key: dotted path, such as `training.epochs` or `network.args.width`.
            value: JSON; what is no JSON is taken as a string.

        Raises:
            ValueError: there is no such field, or the value does not fit its type.
        """
        plain = json.loads(self.to_json())
        *parents, last = key.split(".")
        node = plain
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or (
            last not in node and parents[-1:] not in (["args"], ["loss"])
        ):
            raise ValueError(f"A recipe has no field {key!r}.")
        try:
            node[last] = json.loads(value)
        except json.JSONDecodeError:
            node[last] = value
        return from_plain(Recipe, plain, "recipe")


def from_plain(kind: type[T], value: Any, where: str) -> T:
    """Build a typed value from JSON's plain ones, refusing what does not fit.

    Args:
        kind: a dataclass, tuple, dict, literal, union or scalar type.
        value: dicts, lists and scalars as `json.loads` returns them.
        where: path to this value, for messages.

    Raises:
        ValueError: naming the path, what was expected and what was found.
    """
    if dataclasses.is_dataclass(kind):
        return _dataclass_from_plain(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return typing.cast(T, None)
        return typing.cast(T, from_plain(arguments[0], value, where))
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            items = (
                from_plain(k, v, f"{where}[{i}]")
                for i, (k, v) in enumerate(zip(kinds, value, strict=True))
            )
            return typing.cast(T, tuple(items))
    elif origin is dict and isinstance(value, dict):
        if arguments[1] is Any:
            return typing.cast(T, value)
        items_ = {k: from_plain(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
        return typing.cast(T, items_)
    elif origin is Literal and value in arguments:
        return typing.cast(T, value)
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return typing.cast(T, float(value))
    elif isinstance(kind, type) and origin is None and type(value) is kind:
        return value
    raise ValueError(f"{where}: expected {_words(kind)}, got {value!r}.")


def _dataclass_from_plain(kind: type[T], value: Any, where: str) -> T:
    names = [field.name for field in dataclasses.fields(typing.cast(Any, kind))]
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object with {names}, got {value!r}.")
    missing, unknown = sorted(set(names) - set(value)), sorted(set(value) - set(names))
    if missing or unknown:
        raise ValueError(f"{where}: missing fields {missing}, unknown fields {unknown}.")
    hints = typing.get_type_hints(kind)
    return kind(**{name: from_plain(hints[name], value[name], f"{where}.{name}") for name in names})


def _words(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
