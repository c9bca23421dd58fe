"""Predict an array of any size by overlapping windows of the network's size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn


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


@torch.inference_mode()
def sliding_window(
    network: Callable[[Tensor], Tensor],
    image: np.ndarray,
    window: Sequence[int],
    *,
    overlap: float,
    blend: str,
    flips: Sequence[int] = (),
    device: torch.device | str = "cpu",
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> np.ndarray:
    """Foreground probabilities of an image of any number of dimensions.

    Windows that hold nothing but 0 (air, or blanked outside the liver) are not predicted: their
    probability is 0.

    Args:
        network: maps `(1, 1, *window)` to logits `(1, C, *window * scale)`, whole scales.
        image: float32, each size at least the window's.
        window: the network's input size.
        overlap: share of a window that the next covers again, in [0, 1).
        blend: "gaussian" or "uniform".
        flips: spatial axes whose mirrored predictions are averaged in, all combinations.
        device: where the network lives.
        on_progress: told the share done before each window; may raise to cancel.

    Returns:
        float32 `(C, *image.shape * scale)`; sigmoid for C = 1, else softmax.

    Raises:
        ValueError: the image is smaller than the window.
    """
    if any(size < wanted for size, wanted in zip(image.shape, window, strict=True)):
        raise ValueError(f"Image {image.shape} is smaller than the window {tuple(window)}.")
    starts = itertools.product(
        *(window_starts(s, w, overlap) for s, w in zip(image.shape, window, strict=True))
    )
    places = [
        tuple(slice(a, a + w) for a, w in zip(start, window, strict=True)) for start in starts
    ]
    places = [place for place in places if image[place].any()]
    total = weights_sum = None
    blending = np.empty(0)
    for done, place in enumerate(places):
        on_progress(done / len(places))
        tensor = torch.from_numpy(np.ascontiguousarray(image[place]))[None, None].to(device)
        probability = _average_flips(network, tensor, flips).float().cpu().numpy()[0]
        scale = [p // w for p, w in zip(probability.shape[1:], window, strict=True)]
        if total is None or weights_sum is None:
            shape = [size * s for size, s in zip(image.shape, scale, strict=True)]
            total = np.zeros((len(probability), *shape), dtype=np.float32)
            weights_sum = np.zeros(shape, dtype=np.float32)
            blending = blend_weights(probability.shape[1:], blend)
        target = tuple(slice(p.start * s, p.stop * s) for p, s in zip(place, scale, strict=True))
        for channel, values in zip(total, probability, strict=True):
            channel[target] += values * blending
        weights_sum[target] += blending
    on_progress(1.0)
    if total is None or weights_sum is None:
        return np.zeros((1, *image.shape), dtype=np.float32)
    np.divide(total, weights_sum, out=total, where=weights_sum > 0)
    return total


def _average_flips(
    network: Callable[[Tensor], Tensor], tensor: Tensor, flips: Sequence[int]
) -> Tensor:
    predictions = []
    for axes in flip_sets(flips):
        dims = [axis + 2 for axis in axes]
        predictions.append(probabilities(network(tensor.flip(dims))).flip(dims))
    return torch.stack(predictions).mean(dim=0)


def probabilities(logits: Tensor) -> Tensor:
    """Sigmoid of one output channel, softmax of several; `(B, C, *spatial)` both."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def as_channels_last(network: nn.Module) -> nn.Module:
    """Store 3D convolutions channels last, the faster layout for BatchNorm networks on CPUs."""
    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return network
