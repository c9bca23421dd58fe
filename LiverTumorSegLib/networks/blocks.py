"""Parts that more than one paper's network uses in the same way."""

from __future__ import annotations

from torch import Tensor


def check_input(
    x: Tensor, in_channels: int, divisor: int, dimensions: int = 3, minimum: int = 1
) -> None:
    """Refuse an input that a network of these poolings cannot take.

    Args:
        x: `(B, in_channels, *spatial)`; every spatial size must be a multiple of `divisor`.
        in_channels: channels the first convolution takes.
        divisor: what every spatial size must be a multiple of, such as 2 to the number of poolings.
        dimensions: spatial axes, 3 for volumes and 2 for slices.
        minimum: smallest spatial size, a multiple of `divisor`.

    Raises:
        ValueError: naming the shape got and the next shape that fits.
    """
    spatial = tuple(x.shape[2:])
    axes = ", ".join(("D", "H", "W")[-dimensions:])
    if x.ndim != 2 + dimensions or x.shape[1] != in_channels:
        raise ValueError(
            f"Expected input of shape (B, {in_channels}, {axes}), got {tuple(x.shape)}."
        )
    if any(size % divisor or size < minimum for size in spatial):
        fitting = tuple(max(-(-size // divisor) * divisor, minimum) for size in spatial)
        least = f" and at least {minimum}" if minimum > divisor else ""
        raise ValueError(
            f"Every spatial size must be a multiple of {divisor}{least}, got {spatial}; "
            f"pad the input to {fitting}."
        )
