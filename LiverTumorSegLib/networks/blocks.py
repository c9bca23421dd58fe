"""Parts that more than one paper's network uses in the same way."""

from __future__ import annotations

from torch import Tensor


def check_input(x: Tensor, in_channels: int, divisor: int) -> None:
    """Refuse an input that a U-Net of these poolings cannot take.

    Args:
        x: `(B, in_channels, *spatial)`; every spatial size must be a multiple of `divisor`.
        in_channels: channels the first convolution takes.
        divisor: 2 to the number of poolings.

    Raises:
        ValueError: naming the shape got and the next shape that fits.
    """
    spatial = tuple(x.shape[2:])
    if x.ndim != 5 or x.shape[1] != in_channels:
        raise ValueError(
            f"Expected input of shape (B, {in_channels}, D, H, W), got {tuple(x.shape)}."
        )
    if any(size % divisor for size in spatial):
        fitting = tuple(-(-size // divisor) * divisor for size in spatial)
        raise ValueError(
            f"Every spatial size must be a multiple of {divisor}, got {spatial}; "
            f"pad the input to {fitting}."
        )
