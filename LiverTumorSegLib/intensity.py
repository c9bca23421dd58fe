"""From HU to network values: windows, z-scores, and the equalization of slices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from skimage.exposure import equalize_adapthist

from LiverTumorSegLib.recipe import Clahe, Statistics, Window, ZScore

# HU come in whole numbers. Without a floor, a volume of one value would be divided by 0.
SMALLEST_SD_HU = 1.0
# Of a slice's values: less than this is rounding, not contrast.
SMALLEST_CONTRAST = 1e-6


@dataclass(frozen=True)
class Scale:
    """What network values mean.

    Attributes:
        low: value of the HU window's lower end, and so of air and of padding.
        high: value of its upper end.
        units_per_hu: how much one HU is inside the window.
    """

    low: float
    high: float
    units_per_hu: float


def to_network_values(
    hu: np.ndarray, intensity: Window | ZScore, out: np.ndarray | None = None
) -> tuple[np.ndarray, Scale]:
    """Clip HU and bring them to the network's scale.

    Args:
        hu: (z, y, x).
        intensity: a z-score without statistics is measured on this array.
        out: float32 (z, y, x) to write to; by default a new array.

    Returns:
        That array, between the scale's ends, and the scale.

    >>> to_network_values(np.array([[[0.0, 300]]]), Window((-200.0, 200.0), (-1.0, 1.0)))
    (array([[[0., 1.]]], dtype=float32), Scale(low=-1.0, high=1.0, units_per_hu=0.005))
    """
    if isinstance(intensity, Window):
        zero, one = ends = intensity.clip_hu
        output = intensity.output
    else:
        statistics = intensity.statistics or volume_statistics(hu, intensity.percentiles)
        ends = statistics.low_hu, statistics.high_hu
        zero = statistics.mean_hu
        one = zero + max(statistics.sd_hu, SMALLEST_SD_HU)
        output = 0.0, 1.0

    def rescale(hu: np.ndarray, out: np.ndarray) -> np.ndarray:
        for piece, values in zip(hu, out, strict=True):  # slices stay in the processor's cache
            np.clip(piece.astype(np.float32, copy=False), *ends, out=values)
            values -= np.float32(zero)
            values /= np.float32(one - zero)
            values *= np.float32(output[1] - output[0])
            values += np.float32(output[0])
        return out

    # The ends take the voxels' way, so that air and padding are equal to the bit.
    low, high = rescale(np.array([ends]), np.empty((1, 2), np.float32))[0].tolist()
    out = np.empty(hu.shape, np.float32) if out is None else out
    return rescale(hu, out), Scale(low, high, (output[1] - output[0]) / (one - zero))


def volume_statistics(hu: np.ndarray, percentiles: tuple[float, float]) -> Statistics:
    """Percentiles of all voxels, mean and standard deviation of the HU clipped to them.

    Clipped first, as the voxels themselves are: metal and padding would set the deviation else.

    Args:
        hu: (z, y, x).
        percentiles: lower and upper, 0 to 100.
    """
    low, high = map(float, np.percentile(hu, percentiles))

    def clipped() -> Iterator[np.ndarray]:
        # Slices, so that double precision needs no copy of the volume; in one order of summation.
        return (np.clip(piece, low, high, order="C") for piece in hu)

    mean = sum(float(piece.sum(dtype=float)) for piece in clipped()) / hu.size
    squares = (float(np.square(np.subtract(piece, mean, dtype=float)).sum()) for piece in clipped())
    return Statistics(low, high, mean, float(np.sqrt(sum(squares) / hu.size)))


def foreground_statistics(samples: np.ndarray, percentiles: tuple[float, float]) -> Statistics:
    """Percentiles, mean and standard deviation of the HU of liver and tumor voxels, not clipped.

    Args:
        samples: (n,) HU, of all training cases together.
        percentiles: lower and upper, 0 to 100.

    Raises:
        ValueError: there are no samples.
    """
    if not samples.size:
        raise ValueError("Statistics of the HU need voxels of liver or tumor.")
    low, high = map(float, np.percentile(samples, percentiles))
    return Statistics(low, high, float(samples.mean(dtype=float)), float(samples.std(dtype=float)))


def equalize_slices(image: np.ndarray, clahe: Clahe, out: np.ndarray | None = None) -> np.ndarray:
    """Contrast limited adaptive histogram equalization of each slice.

    A slice's darkest value becomes 0 and its brightest 1. A slice of one value stays as it is:
    scikit-image would make it all 1. The slices go one by one, because scikit-image takes a third
    axis of 3 or 4 for colors. Where a side is shorter than a tile, the tile is as long as the side.

    Args:
        image: float (z, y, x), 0 to 1.
        clahe: tiles, limit and bins.
        out: float32 (z, y, x) to write to, which may be the image; by default a new array.

    Returns:
        That array, 0 to 1.

    Raises:
        ValueError: values that are not 0 to 1, such as HU; scikit-image would rescale integers
            without a word.
    """
    low, high = float(image.min()), float(image.max())
    if image.dtype.kind != "f" or not -1e-5 <= low <= high <= 1 + 1e-5:
        raise ValueError(
            f"Equalization expects values from 0 to 1, got {image.dtype} from {low:g} to {high:g}."
        )
    tile = [min(clahe.tile_pixels, side) for side in image.shape[1:]]
    out = np.empty(image.shape, np.float32) if out is None else out
    for piece, equalized in zip(image, out, strict=True):
        piece = np.clip(piece, 0, 1)  # what rounding left
        if piece.max() - piece.min() < SMALLEST_CONTRAST:
            equalized[:] = piece
        else:
            equalized[:] = equalize_adapthist(
                piece, kernel_size=tile, clip_limit=clahe.clip_limit, nbins=clahe.bins
            )
    return out
