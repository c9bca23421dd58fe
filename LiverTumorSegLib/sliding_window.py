"""Predict an array of any size by overlapping windows, and give the result slice by slice.

Windows come in order of the first axis. What they add up to is held for no more slices than a
window is deep, so memory does not grow with the number of slices.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from LiverTumorSegLib.recipe import Triple

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.softmax(dim=1),
}


@dataclass(frozen=True)
class Output:
    """What a network gives for a window.

    Attributes:
        activation: "sigmoid", each channel on its own, or "softmax", channel 0 being background.
        channels: number of logits a voxel.
        scale: how much finer the output's grid is than the window's, a whole number for each axis.
    """

    activation: str
    channels: int
    scale: Sequence[int]


@dataclass
class _Sums:
    """Of one output slice: weighted probabilities (C, *plane), and weights (*plane)."""

    total: Tensor
    weight: Tensor


def window_within(patch: Triple | None, shape: Triple) -> Triple:
    """The patch, along each axis no larger than the image; without a patch the whole image.

    >>> window_within((48, 256, 256), (80, 176, 256)), window_within(None, (80, 160, 160))
    ((48, 176, 256), (80, 160, 160))
    """
    z, y, x = (min(sizes) for sizes in zip(patch or shape, shape, strict=True))
    return z, y, x


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis: even steps, the last aligned to the end.

    >>> window_starts(100, 48, 0.5)
    [0, 24, 48, 52]
    """
    step = max(1, int(window * (1 - overlap) + 1e-6))  # 10 * (1 - 0.8) is a little less than 2
    return [*range(0, size - window, step), max(size - window, 0)]


def blend_weights(shape: Sequence[int], blend: str) -> np.ndarray:
    """Weight of each voxel of a window: a Gaussian of sigma size/8, or 1 everywhere.

    Raises:
        ValueError: unknown blend.
    """
    if blend == "uniform":
        return np.ones(tuple(shape), dtype=np.float32)
    if blend != "gaussian":
        raise ValueError(f"Unknown blend {blend!r}; choose 'gaussian' or 'uniform'.")
    weights = np.ones((), dtype=np.float32)
    for size in shape:
        distance = np.arange(size) - (size - 1) / 2
        line = np.exp(-0.5 * (distance / (size / 8)) ** 2)
        weights = weights[..., None] * line.astype(np.float32)
    return np.maximum(weights, weights.max() * np.float32(1e-4))


def flip_sets(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All subsets of the spatial axes to mirror, the empty one first."""
    for count in range(len(axes) + 1):
        yield from itertools.combinations(axes, count)


def predict_slices(
    network: Callable[[Tensor], Tensor],
    image: np.ndarray,
    window: Sequence[int],
    output: Output,
    *,
    low: float,
    overlap: float,
    blend: str,
    flips: Sequence[int] = (),
    batch: int = 1,
    buffers: torch.device | str = "cpu",
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Iterator[np.ndarray]:
    """Probabilities of an image of any number of dimensions, slice by slice of its first axis.

    Windows that hold nothing above `low` (air, or blanked outside the liver) are not predicted:
    they are background.

    Args:
        network: maps `(B, 1, *window)` to logits `(B, C, *window * scale)`.
        image: float32, each size at least the window's.
        window: the network's input size.
        output: what the network gives.
        low: the image's value of air.
        overlap: share of a window that the next covers again, in [0, 1).
        blend: "gaussian" or "uniform".
        flips: spatial axes whose mirrored predictions are averaged in, all combinations.
        batch: B, of the last perhaps fewer.
        buffers: where the windows' probabilities are added up.
        on_progress: told the share of windows done, before each batch and after the last; may raise
            to cancel.

    Yields:
        float32 `(C, *plane * scale)`, for each slice as many as the scale of its axis.

    Raises:
        ValueError: the image is smaller than the window.
    """
    if any(size < wanted for size, wanted in zip(image.shape, window, strict=True)):
        raise ValueError(f"Image {image.shape} is smaller than the window {tuple(window)}.")
    starts = [window_starts(s, w, overlap) for s, w in zip(image.shape, window, strict=True)]
    places = [
        tuple(slice(a, a + w) for a, w in zip(corner, window, strict=True))
        for corner in itertools.product(*starts)
    ]
    places = [place for place in places if (image[place] > low).any()]
    scales = output.scale
    bell = blend_weights([w * s for w, s in zip(window, scales, strict=True)], blend)
    weights = torch.from_numpy(bell).to(buffers)
    plane = [size * s for size, s in zip(image.shape[1:], scales[1:], strict=True)]
    held: dict[int, _Sums] = {}
    slices = range(len(image) * scales[0])
    finished = 0  # slices that were given away
    if not places:
        on_progress(1.0)
    for first in range(0, len(places), batch):
        on_progress(first / len(places))
        chosen = places[first : first + batch]
        windows = torch.from_numpy(np.stack([image[place] for place in chosen]))[:, None]
        for place, probability in zip(
            chosen, _average_flips(network, windows, flips, output.activation), strict=True
        ):
            _add(held, probability.to(buffers), weights, place, output, plane)
        following = places[first + batch : first + batch + 1]
        if not following:
            on_progress(1.0)
        # What lies before the next window is complete.
        stop = following[0][0].start * scales[0] if following else len(slices)
        for index in slices[finished:stop]:
            sums = held.pop(index, None)
            yield background(output, plane) if sums is None else _mean(sums, output.activation)
        finished = stop
    for _ in slices[finished:]:
        yield background(output, plane)


def _average_flips(
    network: Callable[[Tensor], Tensor], windows: Tensor, flips: Sequence[int], activation: str
) -> Tensor:
    """Mean probabilities (B, C, *spatial) of windows and their mirror images, turned back."""
    sets = list(flip_sets(flips))
    total: Tensor | None = None
    with torch.inference_mode():
        for axes in sets:
            dims = [axis + 2 for axis in axes]
            logits = network(windows.flip(dims)).float()
            probability = ACTIVATIONS[activation](logits).flip(dims)
            total = probability if total is None else total.add_(probability)
        assert total is not None  # the empty set is always there
        return total.div_(len(sets))


def _add(
    held: dict[int, _Sums],
    probability: Tensor,
    weights: Tensor,
    place: tuple[slice, ...],
    output: Output,
    plane: list[int],
) -> None:
    """Add a window's probabilities (C, *window) to the slices it lies on, making those missing."""
    target = tuple(
        slice(p.start * s, p.stop * s) for p, s in zip(place[1:], output.scale[1:], strict=True)
    )
    every_channel = (slice(None), *target)
    first = place[0].start * output.scale[0]
    for z, weight in enumerate(weights):
        if first + z not in held:
            total = probability.new_zeros((output.channels, *plane))
            held[first + z] = _Sums(total, probability.new_zeros(plane))
        sums = held[first + z]
        sums.total[every_channel].addcmul_(probability[:, z], weight)
        sums.weight[target] += weight


def background(output: Output, plane: Sequence[int]) -> np.ndarray:
    """The float32 probabilities (C, *plane) of a slice on which nothing is predicted."""
    values = np.zeros((output.channels, *plane), np.float32)
    if output.activation == "softmax":
        values[0] = 1
    return values


def _mean(sums: _Sums, activation: str) -> np.ndarray:
    """Weighted mean; background where no window was predicted."""
    mean, covered = sums.total, sums.weight > 0
    mean.div_(sums.weight.masked_fill(~covered, 1))
    if activation == "softmax":
        mean[0][~covered] = 1
    return mean.cpu().numpy()


def as_channels_last(network: nn.Module) -> nn.Module:
    """Store 3D convolutions channels last, the faster layout for BatchNorm networks on CPUs.

    2D ones stay: RMAU-Net and MSA-UNet would be slower by a tenth.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return network
