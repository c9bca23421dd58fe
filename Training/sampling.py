"""What an epoch shows: which case or slice each sample is of, and where its window lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from LiverTumorSegLib.labels import LIVER, TUMOR
from LiverTumorSegLib.preprocess import padded_shape
from LiverTumorSegLib.recipe import Recipe, SliceSampling, Triple, WindowSampling
from Training.cache import PreparedCase, output_scale


def deal(
    slice_voxels: Sequence[np.ndarray],
    synthetic: Sequence[bool],
    recipe: Recipe,
    random: np.random.Generator,
) -> np.ndarray:
    """The samples of one epoch, shuffled.

    Args:
        slice_voxels: of each case, as in `PreparedCase`.
        synthetic: whether each case is, in the same order.
        recipe: its sampling.
        random: the only source of randomness.

    Returns:
        int (samples, 2): the number of the case, and the slice, which is -1 for windows.
    """
    sampling = recipe.training.sampling
    if isinstance(sampling, SliceSampling):
        dealt = deal_slices(slice_voxels, sampling, random)
    else:
        cases = deal_windows(np.array(synthetic), sampling, random)
        dealt = np.stack([cases, np.full_like(cases, -1)], axis=1)
    return random.permutation(dealt)


def deal_windows(
    synthetic: np.ndarray, sampling: WindowSampling, random: np.random.Generator
) -> np.ndarray:
    """The case of each window.

    Args:
        synthetic: bool, whether each case is.
        sampling: how many windows, and which share of them synthetic cases give.
        random: the only source of randomness.
    """
    cases, share = np.arange(len(synthetic)), sampling.synthetic_share
    if sampling.per == "case":
        return np.repeat(cases, sampling.samples)
    if share is None or synthetic.all() or not synthetic.any():
        return deal_evenly(cases, sampling.samples, random)
    made = round(share * sampling.samples)
    real = deal_evenly(cases[~synthetic], sampling.samples - made, random)
    return np.concatenate([real, deal_evenly(cases[synthetic], made, random)])


def deal_evenly(cases: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """So many of the cases: every one as often, the rest drawn."""
    every, rest = divmod(count, len(cases))
    drawn = random.choice(cases, rest, replace=False)
    return np.concatenate([np.repeat(cases, every), drawn])


def deal_slices(
    slice_voxels: Sequence[np.ndarray], sampling: SliceSampling, random: np.random.Generator
) -> np.ndarray:
    """Case and slice of each sample: all selected slices, and the share of the others."""
    slices = np.array([(case, z) for case, n in enumerate(slice_voxels) for z in range(len(n))])
    if not sampling.liver_only:
        return slices
    selected = np.concatenate([voxels[:, LIVER:].any(axis=1) for voxels in slice_voxels])
    others = slices[~selected]
    drawn = random.choice(len(others), round(sampling.other_share * len(others)), replace=False)
    return np.concatenate([slices[selected], others[drawn]])


def window_shape(case: PreparedCase, recipe: Recipe) -> Triple:
    """Voxels (z, y, x) of a window of the image: the patch, or the whole padded grid."""
    z, y, x = case.image.shape
    return recipe.patch or padded_shape((z, y, x), recipe.preprocessing)


def centered(size: int, length: int) -> int:
    """First voxel of a window in the middle of an axis; where it is longer, padded as inference.

    >>> centered(10, 4), centered(5, 8)
    (3, -1)
    """
    return -((length - size) // 2)


def draw_window(case: PreparedCase, recipe: Recipe, random: np.random.Generator) -> np.ndarray:
    """First voxel (z, y, x) of a window: on a target, on the liver, or as its slices are drawn.

    Without a patch the window is the whole grid. A window on a target has one of its voxels in the
    middle, but for the jitter. With a liver crop the image is the liver's box, so the other windows
    have a voxel of the liver in the middle. Else slices and place in the plane are drawn as
    `WindowSampling` says; an axis shorter than the window lies in its middle.
    """
    sampling, patch = recipe.training.sampling, recipe.patch
    middle = np.array([*map(centered, case.image.shape, window_shape(case, recipe))])
    if patch is None:
        return middle
    if random.random() < sampling.target_share:
        voxel = draw_target(case, recipe, random)
        if voxel is not None:
            jitter = random.uniform(-1, 1, 3) * sampling.jitter * patch
            return around(voxel + jitter, patch)
    if recipe.preprocessing.liver_crop:
        voxel = draw_voxel(case, (LIVER, TUMOR), recipe, random)
        return middle if voxel is None else around(voxel, patch)
    z_size, *plane = case.image.shape
    low, high = 0, z_size
    if random.random() < sampling.liver_share:
        low, high = liver_range(case, sampling.liver_margin_slices)
    start = [draw_between(low, high, patch[0], z_size, random)]
    for size, length, fixed in zip(plane, patch[1:], middle[1:], strict=True):
        anywhere = draw_between(0, size, length, size, random)
        start.append(anywhere if sampling.in_plane == "random" else fixed)
    return np.array(start)


def around(center: np.ndarray, shape: Triple) -> np.ndarray:
    """First voxel of the window whose middle is nearest to a place, in voxels from the edge."""
    return np.ceil(center - np.array(shape) / 2).astype(int)


def draw_between(low: int, high: int, length: int, size: int, random: np.random.Generator) -> int:
    """First voxel of a window within [low, high), or around it where that is shorter.

    The window stays within [0, size), and in the middle of it where it is longer.
    """
    if length >= size:
        return centered(size, length)
    first, last = sorted((low, high - length))
    return int(random.integers(max(first, 0), min(last, size - length) + 1))


def liver_range(case: PreparedCase, margin: int) -> tuple[int, int]:
    """Slices from the first to behind the last that shows the liver, widened; all if none does."""
    shows = case.slice_voxels[:, LIVER:].any(axis=1)
    found = np.flatnonzero(shows) if shows.any() else np.arange(len(shows))
    return max(int(found[0]) - margin, 0), min(int(found[-1]) + 1 + margin, len(shows))


def draw_target(
    case: PreparedCase, recipe: Recipe, random: np.random.Generator
) -> np.ndarray | None:
    """Place of a random target voxel in image voxels, or None where the case has no target.

    Of two targets one that is there is drawn first, the liver then without its tumors.
    """
    present = case.slice_voxels.any(axis=0)
    classes = {
        "liver": [(LIVER, TUMOR)],
        "tumor": [(TUMOR,)],
        "both": [(LIVER,), (TUMOR,)],
    }[recipe.target]
    there = [labels for labels in classes if present[list(labels)].any()]
    if not there:
        return None
    drawn = there[random.integers(len(there))]
    if drawn == (TUMOR,) and recipe.training.sampling.target_by == "lesion":
        return draw_lesion_voxel(case, recipe, random)
    return draw_voxel(case, drawn, recipe, random)


def draw_lesion_voxel(
    case: PreparedCase, recipe: Recipe, random: np.random.Generator
) -> np.ndarray:
    """Place of a voxel of a lesion, small lesions as often as large ones."""
    lesion = random.integers(len(case.lesion_ends))
    first = case.lesion_ends[lesion - 1] if lesion else 0
    voxel = case.tumor_voxels[random.integers(first, case.lesion_ends[lesion])]
    return (voxel + 0.5) / output_scale(recipe)


def draw_voxel(
    case: PreparedCase, labels: tuple[int, ...], recipe: Recipe, random: np.random.Generator
) -> np.ndarray | None:
    """Place of a voxel that has one of these labels, all equally likely, in image voxels.

    None where the case has none.
    """
    scale = output_scale(recipe)
    weights = case.slice_voxels[:, labels].sum(axis=1)
    if not weights.any():
        return None
    first = scale[0] * random.choice(len(weights), p=weights / weights.sum())
    slab = case.labels[first : first + scale[0]]
    places = np.argwhere(np.isin(slab, labels))
    return (places[random.integers(len(places))] + (first + 0.5, 0.5, 0.5)) / scale


def draw_class_window(
    labels: np.ndarray,
    shape: tuple[int, int],
    ratios: tuple[float, float, float],
    random: np.random.Generator,
) -> np.ndarray:
    """First pixel (y, x) of a window on a pixel of a class, moved to stay inside the slice.

    Args:
        labels: uint8 (y, x) of the whole slice, at least as large as the window.
        shape: of the window.
        ratios: how often background, liver and tumor are drawn, of those that the slice has.
        random: the only source of randomness.
    """
    present = np.bincount(labels.ravel(), minlength=3) > 0
    weights = present * np.array(ratios)
    weights = weights if weights.any() else present
    drawn = random.choice(3, p=weights / weights.sum())
    places = np.flatnonzero(labels == drawn)
    pixel = np.unravel_index(places[random.integers(len(places))], labels.shape)
    start = np.array(pixel) - np.array(shape) // 2
    return np.clip(start, 0, np.array(labels.shape) - shape)
