"""What a weights file must know of itself: network, preprocessing, training and inference numbers.

Only the standard library is imported, so that lists of recipes and the help come at once. There are
no defaults: a recipe states every number, and a weights file that lacks one is refused. A part that
may be None and is not there is None: weights made before such a part was added can still be read.
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
        median_hu: HU are shifted so that the liver's median becomes this, whatever the scanner, the
            dose of contrast medium and its phase; None to keep them.
    """

    margin_voxels: Triple
    mask_mm: float
    training_mask_mm: tuple[float, float]
    median_hu: float | None


@dataclass(frozen=True)
class FixedShape:
    """Resample to this many voxels (z, y, x), the corner voxels kept."""

    shape: Triple


@dataclass(frozen=True)
class Spacing:
    """Resample to this voxel size, voxel edges kept; axes (z, y, x) with None stay as they are."""

    spacing_mm: tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class PixelRange:
    """Resample the plane of slices whose pixels are outside a range of sizes, voxel edges kept.

    Attributes:
        smallest_mm: pixels at least this large ...
        largest_mm: ... and at most this large stay as they are, others ...
        target_mm: ... are resampled to this size.
    """

    smallest_mm: float
    largest_mm: float
    target_mm: float


@dataclass(frozen=True)
class Window:
    """HU clipped to a window, whose ends become those of `output`."""

    clip_hu: tuple[float, float]
    output: tuple[float, float]


@dataclass(frozen=True)
class Statistics:
    """Of the HU of liver and tumor voxels of the training cases."""

    low_hu: float
    high_hu: float
    mean_hu: float
    sd_hu: float


@dataclass(frozen=True)
class ZScore:
    """HU clipped to two percentiles, then minus the mean and divided by the standard deviation.

    Attributes:
        percentiles: lower and upper, 0 to 100.
        statistics: the numbers to use, which the trainer measures on its training cases; None to
            measure them on each volume, over all of its voxels.
    """

    percentiles: tuple[float, float]
    statistics: Statistics | None


@dataclass(frozen=True)
class Clahe:
    """Contrast limited adaptive histogram equalization of each slice, after the HU window.

    Attributes:
        tile_pixels: side of a tile.
        clip_limit: share of a tile's pixels that one bin of its histogram may hold.
        bins: of the histogram.
    """

    tile_pixels: int
    clip_limit: float
    bins: int


@dataclass(frozen=True)
class Preprocessing:
    """From HU to the network's grid, in this order; what is None or False is not done.

    Attributes:
        orientation: patient directions in which the x, y and z index grow, such as "LPS".
        body_crop: crop to the body.
        liver_crop: crop to the liver (tumor stage).
        halve_in_plane: mean over 2x2 voxels of each slice.
        resampling: to other voxels.
        interpolation: of the CT; "area" is linear, averaged over the coarser voxel where the grid
            becomes coarser; "cubic" is a spline of order 3.
        label_interpolation: of training labels; "linear" interpolates each class and takes the
            largest share.
        resample_hu: resample before `intensity` rather than after it.
        intensity: HU to network values. Air beyond the image becomes what the window's lower end
            becomes.
        clahe: equalize each slice.
        pad_multiple: every size (z, y, x) is padded to a multiple of this ...
        pad_minimum: ... and to at least this, with the value of the window's lower end.
    """

    orientation: str
    body_crop: BodyCrop | None
    liver_crop: LiverCrop | None
    halve_in_plane: bool
    resampling: FixedShape | Spacing | PixelRange | None
    interpolation: Literal["linear", "area", "cubic"]
    label_interpolation: Literal["nearest", "linear"]
    resample_hu: bool
    intensity: Window | ZScore
    clahe: Clahe | None
    pad_multiple: Triple
    pad_minimum: Triple


@dataclass(frozen=True)
class ControlPoints:
    """Elastic change by 5x5x5 random displacements of at most `voxels`, interpolated between."""

    voxels: float
    probability: float


@dataclass(frozen=True)
class SmoothedNoise:
    """Elastic change by noise of -1 to 1 a voxel, smoothed by a Gaussian and multiplied.

    Attributes:
        alpha: range of the factor.
        sigma_voxels: range of the Gaussian's standard deviation.
        probability: of the change.
    """

    alpha: tuple[float, float]
    sigma_voxels: tuple[float, float]
    probability: float


@dataclass(frozen=True)
class Decoys:
    """Thin structures of a lesion's brightness that are no lesions: fissures, unfilled vessels.

    Half of them are sheets, half are tubes. They are as dark, or as bright, as synthetic lesions
    and keep the liver's label, so that a network must learn shapes as well.

    Attributes:
        probability: of a window to get any.
        most: a window gets from 1 to this many.
        thickness_mm: range, drawn evenly in its logarithm.
        length_mm: range of the longest diameter.
    """

    probability: float
    most: int
    thickness_mm: tuple[float, float]
    length_mm: tuple[float, float]


@dataclass(frozen=True)
class SyntheticTumors:
    """Lesions drawn into the liver of a training sample, which become tumor in its labels.

    A lesion is an ellipsoid with a wavy surface, within the liver and outside other tumors. Its
    contrast, its rim and core and a mottle are added to the image, which so keeps the CT's own
    noise. Ranges are uniform unless said otherwise.

    Attributes:
        probability: of a window that shows liver to get any.
        most: such a window gets from 1 to this many.
        diameter_mm: range of the diameter of a ball as large, drawn evenly in its logarithm.
        elongation: range of longest over shortest axis.
        waviness: range of the standard deviation of the surface's place, as a share of the radius.
        wave_length: range of what distance the surface varies over, as a share of the radius: the
            standard deviation of a Gaussian that smooths noise.
        edge_mm: range of the width of the edge, from a tenth to nine tenths of the lesion's share
            of a voxel, drawn evenly in its logarithm; at most the radius.
        darker_hu: range of how much darker than the liver lesions are ...
        brighter_hu: ... or how much brighter ...
        brighter_share: ... in this share of them.
        visible_hu_mm: contrast times diameter is at least this, as far as the range of HU goes:
            small lesions that are faint as well nobody sees, and nobody labels.
        mottle_hu: range of the standard deviation of the mottle.
        mottle_mm: range of the standard deviation of the Gaussian that smooths it.
        fading: range of the share by which vessels and spots fade inside a lesion.
        rim_share: share of the lesions with a rim ...
        rim_hu: ... range of how much brighter than the lesion it is ...
        rim_mm: ... and of its thickness.
        core_share: share of the lesions with a darker core, of those ...
        core_from_mm: ... with at least this diameter ...
        core_hu: ... range of how much darker than the lesion it is ...
        core_size: ... and of its radius as a share of the lesion's.
        decoys: thin structures that are no lesions.
    """

    probability: float
    most: int
    diameter_mm: tuple[float, float]
    elongation: tuple[float, float]
    waviness: tuple[float, float]
    wave_length: tuple[float, float]
    edge_mm: tuple[float, float]
    darker_hu: tuple[float, float]
    brighter_hu: tuple[float, float]
    brighter_share: float
    visible_hu_mm: float
    mottle_hu: tuple[float, float]
    mottle_mm: tuple[float, float]
    fading: tuple[float, float]
    rim_share: float
    rim_hu: tuple[float, float]
    rim_mm: tuple[float, float]
    core_share: float
    core_from_mm: float
    core_hu: tuple[float, float]
    core_size: tuple[float, float]
    decoys: Decoys | None


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training sample. Ranges are uniform; 0 or (1, 1) switches one off.

    Attributes:
        flips: axes of (z, y, x), each mirrored on its own ...
        flip_probability: ... with this probability.
        rotation_degrees: largest angle about the (z, y, x) axis ...
        rotation_probability: ... of the samples that are rotated.
        scale: range of a common factor of size ...
        scale_probability: ... of the samples that are scaled.
        stretch: range of a further factor for each axis.
        crop: range of the share of each side in the plane that is kept, at a random place, and
            enlarged to the whole window.
        shift: largest displacement, as a share of each axis of the window.
        elastic: smooth random displacement.
        synthetic_tumors: lesions drawn into the liver, after the changes of place and before those
            of HU.
        contrast: range of a factor on the window.
        brightness_hu: largest shift of all voxels.
        liver_contrast_hu: largest shift of the liver alone (contrast phase).
        noise_hu: largest standard deviation of added Gaussian noise.
        blur_voxels: largest standard deviation of a Gaussian blur in the plane.
    """

    flips: tuple[int, ...]
    flip_probability: float
    rotation_degrees: tuple[float, float, float]
    rotation_probability: float
    scale: tuple[float, float]
    scale_probability: float
    stretch: tuple[float, float]
    crop: tuple[float, float]
    shift: float
    elastic: ControlPoints | SmoothedNoise | None
    synthetic_tumors: SyntheticTumors | None
    contrast: tuple[float, float]
    brightness_hu: float
    liver_contrast_hu: float
    noise_hu: float
    blur_voxels: float


@dataclass(frozen=True)
class AlphaSupervision:
    """loss = finest + alpha * (sum of the coarser); alpha decays every `period_epochs`."""

    alpha: float
    decay: float
    period_epochs: int


@dataclass(frozen=True)
class PyramidSupervision:
    """loss = sum over all outputs of W_i loss_i, W_i = 1 / (2^i `levels`) at size / 2^i."""

    levels: int


@dataclass(frozen=True)
class Constant:
    """The learning rate stays."""


@dataclass(frozen=True)
class Step:
    """The learning rate is multiplied by `factor` every `period_epochs`."""

    period_epochs: int
    factor: float


@dataclass(frozen=True)
class Cosine:
    """The learning rate rises linearly for `warmup_epochs`, then falls to 0 as half a cosine."""

    warmup_epochs: int


@dataclass(frozen=True)
class Poly:
    """The learning rate is multiplied by (1 - epoch / epochs) ** `exponent`."""

    exponent: float


@dataclass(frozen=True)
class Plateau:
    """The learning rate is multiplied by `factor` whenever the monitored value has not improved.

    Attributes:
        patience_epochs: epochs without an improvement before each change.
        factor: of the learning rate.
    """

    patience_epochs: int
    factor: float


@dataclass(frozen=True)
class WindowSampling:
    """Which windows of the cases an epoch shows.

    Attributes:
        samples: how many windows ...
        per: ... of each case, or in the whole epoch, dealt evenly over the cases.
        liver_share: probability that the window's slices lie within the liver's range ...
        liver_margin_slices: ... widened by this many slices; else anywhere.
        in_plane: in the plane the window is in the center, or anywhere.
        target_share: probability that the window is centered on a voxel of the target, if any;
            where both liver and tumor are targets, one of them is drawn first.
        target_by: draw a lesion first and then its voxel, or a voxel at once.
        jitter: largest distance of that voxel from the center, as a share of the window.
        synthetic_share: share of an epoch's windows that synthetic cases give, where there are
            any, whatever their number; only for windows dealt over an epoch. None: every case
            gives as many.
    """

    samples: int
    per: Literal["case", "epoch"]
    liver_share: float
    liver_margin_slices: int
    in_plane: Literal["center", "random"]
    target_share: float
    target_by: Literal["lesion", "voxel"]
    jitter: float
    synthetic_share: float | None


@dataclass(frozen=True)
class SliceSampling:
    """Every slice once an epoch.

    Attributes:
        liver_only: only slices that show the liver ...
        other_share: ... and this share of the others, drawn anew each epoch.
        class_ratios: how often the window is centered on a pixel of background, liver and tumor,
            where the slice has them; None for the middle of the slice.
    """

    liver_only: bool
    other_share: float
    class_ratios: tuple[float, float, float] | None


@dataclass(frozen=True)
class Split:
    """Which cases the paper tested on; `Training.train --fold paper` keeps to it.

    Attributes:
        data: the data set, in words.
        test_numbers: first and last number, at the end of the case's name, that is tested on.
        test_share: else the share of the patients that is tested on.
        validation_share: share of the other patients that chooses the epoch.
        folds: cross-validation in this many folds instead.
    """

    data: str
    test_numbers: tuple[int, int] | None
    test_share: float
    validation_share: float
    folds: int | None


@dataclass(frozen=True)
class Training:
    """The training run. `loss` maps names of `Training.losses.LOSSES` to weights.

    Attributes:
        loss: weights of the losses that are added up.
        deep_supervision: how a network's further outputs enter.
        optimizer: Adam with torch's betas.
        learning_rate: at the start.
        weight_decay: L2 penalty as Adam has it.
        schedule: of the learning rate.
        epochs: at most.
        batch_size: samples a step.
        gradient_clip: largest norm of the gradient.
        ema_decay: of the averaged weights that predict.
        validate_every_epochs: on the held-out cases.
        monitor: what chooses the best epoch: held-out Dice (of the tumor, where both are targets)
            of whole volumes, or held-out loss.
        early_stop_epochs: stop after so many epochs without a better one.
        sampling: what an epoch shows.
        augmentation: random changes.
        split: of the paper.
    """

    loss: dict[str, float]
    deep_supervision: AlphaSupervision | PyramidSupervision | None
    optimizer: Literal["adam"]
    learning_rate: float
    weight_decay: float
    schedule: Constant | Step | Cosine | Poly | Plateau
    epochs: int
    batch_size: int
    gradient_clip: float | None
    ema_decay: float | None
    validate_every_epochs: int
    monitor: Literal["dice", "loss"]
    early_stop_epochs: int | None
    sampling: WindowSampling | SliceSampling
    augmentation: Augmentation
    split: Split


@dataclass(frozen=True)
class Prepass:
    """Look at every n-th slice first, and then only near those that show the liver.

    Attributes:
        every_slices: n.
        margin_slices: how far beyond the first and last of them the liver is looked for.
    """

    every_slices: int
    margin_slices: int


@dataclass(frozen=True)
class LesionConfidence:
    """How likely a lesion that a network marks is real: touches a true one.

    1 / (1 + exp(-(intercept + probability * p + log_volume * ln v))), p the mean tumor probability
    of the lesion's voxels and v its volume in mm3; fitted on cases that the network had not seen.
    """

    intercept: float
    probability: float
    log_volume: float


@dataclass(frozen=True)
class Inference:
    """From windows to masks.

    Attributes:
        activation: of the logits: "sigmoid", one channel for each target (the liver includes its
            tumors), or "softmax" over background, liver and tumor, of which the largest wins.
        overlap: share of a window that the next one covers again.
        blend: weights of overlapping windows.
        threshold: probability from which a voxel is foreground, after a sigmoid.
        flips: axes of (z, y, x) that the slower, flip-averaged mode mirrors.
        prepass: skip slices far from the liver, for networks of slices.
        largest_component: keep the largest 26-connected component of the liver only.
        fill_holes: fill cavities of the liver.
        min_lesion_mm3: drop smaller components of the tumor.
        confidence: of the lesions that are left; None: not known.
    """

    activation: Literal["sigmoid", "softmax"]
    overlap: float
    blend: Literal["gaussian", "uniform"]
    threshold: float
    flips: tuple[int, ...]
    prepass: Prepass | None
    largest_component: bool
    fill_holes: bool
    min_lesion_mm3: float
    confidence: LesionConfidence | None


@dataclass(frozen=True)
class Recipe:
    """One system: everything that training and inference must agree on.

    Attributes:
        name: unique; also the default name of its weights.
        paper: where the system comes from.
        target: what is segmented; "both" is the liver (with its tumors) and the tumor at once.
        network: the network and its arguments.
        patch: the window (z, y, x) that the network sees, one slice deep for networks of slices;
            None for the whole prepared grid.
        preprocessing: HU to network input.
        training: how the weights were made.
        inference: network output to mask.
    """

    name: str
    paper: Paper
    target: Literal["liver", "tumor", "both"]
    network: Network
    patch: Triple | None
    preprocessing: Preprocessing
    training: Training
    inference: Inference

    def to_json(self) -> str:
        """The recipe as JSON; `from_json` gives an equal recipe back."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @property
    def targets(self) -> tuple[str, ...]:
        """What is segmented: "liver", "tumor" or, in this order, both."""
        return ("liver", "tumor") if self.target == "both" else (self.target,)

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Read a recipe.

        Raises:
            ValueError: a field that may not be None is missing, or one is unknown or of the wrong
            type; the message names it.
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
        return typing.cast(T, from_plain(_member(arguments, value), value, where))
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
    hints = typing.get_type_hints(kind)
    needed = {name for name in names if type(None) not in typing.get_args(hints[name])}
    missing, unknown = sorted(needed - set(value)), sorted(set(value) - set(names))
    if missing or unknown:
        raise ValueError(f"{where}: missing fields {missing}, unknown fields {unknown}.")
    return kind(
        **{name: from_plain(hints[name], value.get(name), f"{where}.{name}") for name in names}
    )


def _member(kinds: tuple[Any, ...], value: Any) -> Any:
    """The dataclass of a union whose fields the value has most nearly, else its first type."""
    if not isinstance(value, dict):
        return kinds[0]

    def likeness(kind: Any) -> tuple[int, int]:
        names = {field.name for field in dataclasses.fields(kind)}
        return -len(names ^ set(value)), len(names & set(value))

    return max(filter(dataclasses.is_dataclass, kinds), key=likeness, default=kinds[0])


def _words(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
