"""Synthetic lesions, and thin structures that are none, drawn into the liver of a sample.

All is drawn as an offset in HU that is added to the image, so that the noise of the CT, and the
structure of what lies beneath, stay where they are. A lesion is a depth in mm below its surface;
its label, its share of a voxel, its rim and its core are functions of that depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from LiverTumorSegLib.intensity import Scale
from LiverTumorSegLib.labels import BACKGROUND, LIVER, TUMOR
from LiverTumorSegLib.recipe import Decoys, SyntheticTumors

Floats = NDArray[np.float32]
Spacing = tuple[float, float, float]

# A logistic function goes from a tenth to nine tenths within this many of its scales.
TENTH_TO_NINE_TENTHS = 2 * math.log(9)
FAR = 4  # standard deviations of a Gaussian, which is cut off beyond
# Grain is smoothed away by this, and vessels are not; ...
GRAIN_SIGMA_MM = 1.5
# ... what differs by as many standard deviations of the noise is a vessel in any case.
BEYOND_NOISE = 2.0
SD_OF_MEDIAN_DEVIATION = 1.4826  # of normal noise, over its median absolute deviation
ENOUGH_FOR_MEDIAN = 4096  # voxels
# Of a core, as shares of the lesion's radius: its surface's standard deviation, its least edge.
CORE_WAVINESS = 0.2
CORE_EDGE = 0.3
# Fissures are sharp. Their ends lie off their middle's plane by at most this share of their length.
DECOY_EDGE_MM = 1.0
LARGEST_BEND = 0.25


@dataclass(frozen=True)
class Form:
    """An ellipsoid in a window; a bent one has its first axis displaced along the others.

    Attributes:
        center: voxels (z, y, x), from their outer edge.
        semi_axes_mm: (3,).
        axes: 3x3, rows are the directions of the axes in mm, (z, y, x).
        bend_mm: how far the ends of the second and of the third axis are displaced along the first.
    """

    center: np.ndarray
    semi_axes_mm: np.ndarray
    axes: np.ndarray
    bend_mm: np.ndarray = field(default_factory=lambda: np.zeros(2))


@dataclass(frozen=True)
class Box:
    """A part of a window.

    Attributes:
        start: first voxel (z, y, x).
        shape: of the part.
        spacing_mm: of its voxels.
    """

    start: tuple[int, ...]
    shape: tuple[int, ...]
    spacing_mm: Spacing

    def of(self, array: np.ndarray, finer: tuple[int, ...] = (1, 1, 1)) -> np.ndarray:
        """The part of an array of the whole window, which may be on a finer grid."""
        parts = zip(self.start, self.shape, finer, strict=True)
        return array[tuple(slice(a * s, (a + n) * s) for a, n, s in parts)]


@dataclass(frozen=True)
class Canvas:
    """A window that is drawn into.

    Attributes:
        image: float32 (z, y, x), network values; changed.
        labels: uint8, of the image's grid or a finer one; changed.
        finer: how much finer, (z, y, x).
        room: float32 (z, y, x), the share of each voxel that is free for the next lesion: 0 where
            the labels were no liver, else what the lesions drawn so far have left; changed.
        spacing_mm: of the image.
        scale: of its values, whose ends clamp what is changed.
    """

    image: Floats
    labels: np.ndarray
    finer: tuple[int, ...]
    room: Floats
    spacing_mm: Spacing
    scale: Scale


def draw_tumors(
    image: Floats,
    labels: np.ndarray,
    tumors: SyntheticTumors,
    spacing_mm: Spacing,
    scale: Scale,
    random: np.random.Generator,
) -> None:
    """Draw lesions and decoys into a window, where its labels are liver.

    With probabilities of 0 nothing is taken from the source of randomness either.

    Args:
        image: float32 (z, y, x), network values; changed.
        labels: uint8, of the image's grid or a finer one; changed.
        tumors: what is drawn.
        spacing_mm: of the image.
        scale: of its values.
        random: the only source of randomness.
    """
    canvas = new_canvas(image, labels, spacing_mm, scale)
    for _ in range(draw_count(tumors.probability, tumors.most, random)):
        draw_lesion(canvas, tumors, random)
    decoys = tumors.decoys
    if decoys is not None:
        for _ in range(draw_count(decoys.probability, decoys.most, random)):
            draw_decoy(canvas, tumors, decoys, random)


def new_canvas(image: Floats, labels: np.ndarray, spacing_mm: Spacing, scale: Scale) -> Canvas:
    """A window with room in all of its liver; arguments as `draw_tumors`."""
    finer = tuple(n // m for n, m in zip(labels.shape, image.shape, strict=True))
    liver = labels[tuple(slice(None, None, s) for s in finer)] == LIVER
    return Canvas(image, labels, finer, liver.astype(np.float32), spacing_mm, scale)


def draw_lesion(canvas: Canvas, tumors: SyntheticTumors, random: np.random.Generator) -> None:
    """Draw one lesion, if there is room."""
    center = draw_center(canvas.room, random)
    if center is None:
        return
    diameter = draw_evenly_in_log(tumors.diameter_mm, random)
    radius = diameter / 2
    form = Form(center, draw_semi_axes(radius, tumors.elongation, random), draw_axes(random))
    waviness = random.uniform(*tumors.waviness) * radius
    wave_mm = random.uniform(*tumors.wave_length) * radius
    edge_mm = min(draw_evenly_in_log(tumors.edge_mm, random), radius)
    contrast = draw_contrast(tumors, diameter, random)
    fading = random.uniform(*tumors.fading)

    box = box_around(form, 2 * waviness + edge_mm, canvas)
    depth = depth_in(form, box)
    if waviness:
        depth += np.float32(waviness) * smooth_noise(box, wave_mm, random)
    offset = contrast + draw_mottle(tumors, box, random)
    if happens(tumors.rim_share, random):
        offset += draw_rim(tumors, depth, random)
    if diameter >= tumors.core_from_mm and happens(tumors.core_share, random):
        offset += draw_core(tumors, depth, radius, edge_mm, box, random)
    add_offset(canvas, box, share_of(depth, edge_mm), offset, fading)
    part = box.of(canvas.labels, canvas.finer)
    part[(part == LIVER) & (on_finer_grid(depth, canvas.finer) >= 0)] = TUMOR


def draw_decoy(
    canvas: Canvas, tumors: SyntheticTumors, decoys: Decoys, random: np.random.Generator
) -> None:
    """Draw one sheet or tube, if there is room; it keeps the liver's label."""
    center = draw_center(canvas.room, random)
    if center is None:
        return
    thickness = draw_evenly_in_log(decoys.thickness_mm, random)
    length = max(random.uniform(*decoys.length_mm), thickness)
    width = max(length * random.uniform(0.5, 1), thickness) if happens(0.5, random) else thickness
    bends = random.uniform(-1, 1, 2) * LARGEST_BEND * (width - thickness, length - thickness)
    diameters = np.array([thickness, width, length])
    form = Form(center, diameters / 2, draw_axes(random), bends)
    contrast = np.float32(draw_contrast(tumors, thickness, random))
    box = box_around(form, float(np.abs(bends).sum()) + DECOY_EDGE_MM, canvas)
    add_offset(canvas, box, share_of(depth_in(form, box), DECOY_EDGE_MM), contrast, fading=0.0)


# What is drawn by chance


def draw_evenly_in_log(ends: tuple[float, float], random: np.random.Generator) -> float:
    """A number of a range, small and large ones alike often."""
    low, high = np.log(ends)
    return float(np.exp(random.uniform(low, high)))


def draw_count(probability: float, most: int, random: np.random.Generator) -> int:
    """From 1 to this many with a probability, else 0."""
    return int(random.integers(most)) + 1 if happens(probability, random) else 0


def happens(probability: float, random: np.random.Generator) -> bool:
    """Whether something of this probability happens; what never does takes no random number."""
    return probability > 0 and random.random() < probability


def draw_center(room: Floats, random: np.random.Generator) -> np.ndarray | None:
    """A place in a random voxel that is free for the most part, or None without any."""
    places = np.flatnonzero(room > 0.5)
    if not places.size:
        return None
    voxel = np.unravel_index(places[random.integers(places.size)], room.shape)
    return np.array(voxel) + random.uniform(0, 1, 3)


def draw_axes(random: np.random.Generator) -> np.ndarray:
    """Three perpendicular directions, all of them equally likely, as rows."""
    return np.linalg.qr(random.standard_normal((3, 3)))[0]


def draw_semi_axes(
    radius: float, elongation: tuple[float, float], random: np.random.Generator
) -> np.ndarray:
    """Those of an ellipsoid as large as the ball of this radius."""
    longest = math.log(random.uniform(*elongation))
    logs = np.array([0.0, longest * random.random(), longest])
    return radius * np.exp(logs - logs.mean())


def draw_contrast(tumors: SyntheticTumors, size_mm: float, random: np.random.Generator) -> float:
    """HU against the liver, at least what is visible at this size as far as the range goes."""
    brighter = random.random() < tumors.brighter_share
    low, high = tumors.brighter_hu if brighter else tumors.darker_hu
    contrast = max(random.uniform(low, high), min(tumors.visible_hu_mm / size_mm, high))
    return contrast if brighter else -contrast


def draw_mottle(tumors: SyntheticTumors, box: Box, random: np.random.Generator) -> Floats:
    """Smooth noise in HU."""
    deviation = random.uniform(*tumors.mottle_hu)
    return np.float32(deviation) * smooth_noise(box, random.uniform(*tumors.mottle_mm), random)


def draw_rim(tumors: SyntheticTumors, depth: Floats, random: np.random.Generator) -> Floats:
    """HU of a brighter rim just below the surface: a Gaussian of the depth."""
    thickness = random.uniform(*tumors.rim_mm)
    below = (depth - thickness / 2) / (thickness / 2)
    return np.float32(random.uniform(*tumors.rim_hu)) * np.exp(-(below**2))


def draw_core(
    tumors: SyntheticTumors,
    depth: Floats,
    radius: float,
    edge_mm: float,
    box: Box,
    random: np.random.Generator,
) -> Floats:
    """HU of a darker core with a wavy surface of its own."""
    below = radius * (1 - random.uniform(*tumors.core_size))
    waves = np.float32(CORE_WAVINESS * radius) * smooth_noise(box, radius / 3, random)
    share = share_of(depth - np.float32(below) + waves, max(edge_mm, CORE_EDGE * radius))
    return np.float32(-random.uniform(*tumors.core_hu)) * share


def smooth_noise(box: Box, sigma_mm: float, random: np.random.Generator) -> Floats:
    """Normal noise of mean 0 and deviation 1, smoothed by a Gaussian, float32 (z, y, x).

    The noise is drawn on nodes a sigma apart, whose Gaussians are summed axis by axis: few numbers
    and three small products of matrices, however smooth it is.
    """
    weights = []
    for n, spacing in zip(box.shape, box.spacing_mm, strict=True):
        places = np.arange(n) * (spacing / sigma_mm)
        nodes = np.arange(-FAR, math.ceil(places[-1]) + FAR + 1)
        apart = np.abs(places[:, None] - nodes)
        weight = np.where(apart <= FAR, np.exp(-0.5 * apart**2), 0)
        weight /= np.linalg.norm(weight, axis=1, keepdims=True)
        weights.append(torch.from_numpy(weight.astype(np.float32)))
    counts = [weight.shape[1] for weight in weights]
    noise = torch.from_numpy(random.standard_normal(counts, dtype=np.float32))
    # Each product moves its axis to the end, so that three restore them. By torch, as numpy's
    # products start threads of their own in every process that loads.
    for weight in weights:
        noise = torch.tensordot(noise, weight, dims=([0], [1]))
    result: Floats = noise.contiguous().numpy()
    return result


# What follows from it


def box_around(form: Form, margin_mm: float, canvas: Canvas) -> Box:
    """The part of a window that a form and a margin about it reach."""
    spans = np.sqrt(((form.semi_axes_mm[:, None] * form.axes) ** 2).sum(axis=0)) + margin_mm
    spans, shape = spans / canvas.spacing_mm, canvas.image.shape
    low = np.clip(np.floor(form.center - spans).astype(int), 0, np.array(shape) - 1)
    high = np.clip(np.ceil(form.center + spans).astype(int), low + 1, shape)
    return Box(tuple(low.tolist()), tuple((high - low).tolist()), canvas.spacing_mm)


def depth_in(form: Form, box: Box) -> Floats:
    """How deep each voxel's center lies below an ellipsoid's surface in mm, negative outside.

    Exactly 0 on the surface and with the right slope there; elsewhere near the true distance.
    """
    lines = [
        ((np.arange(n) + 0.5 + start - center) * spacing)
        for n, start, center, spacing in zip(
            box.shape, box.start, form.center, box.spacing_mm, strict=True
        )
    ]
    z, y, x = np.ix_(*lines)
    a, b, c = (
        (z * row[0]).astype(np.float32) + (y * row[1] + x * row[2]).astype(np.float32)
        for row in form.axes
    )
    for place, bend, semi_axis in zip((b, c), form.bend_mm, form.semi_axes_mm[1:], strict=True):
        if bend:
            a += np.float32(bend) * ((place / np.float32(semi_axis)) ** 2 - np.float32(1 / 3))
    shares = [(p / np.float32(s)) ** 2 for p, s in zip((a, b, c), form.semi_axes_mm, strict=True)]
    inverse = [np.float32(1 / s**2) for s in form.semi_axes_mm]
    reach = np.sqrt(shares[0] + shares[1] + shares[2])
    slope = np.sqrt(sum(share * i for share, i in zip(shares, inverse, strict=True)))
    tiny = np.float32(1e-6)
    result: Floats = reach * (1 - reach) / np.maximum(slope, tiny)
    # At the very middle both are 0.
    return np.where(reach < tiny, np.float32(form.semi_axes_mm.min()), result)


def share_of(depth: Floats, edge_mm: float) -> Floats:
    """How much of each voxel is lesion: a half at the surface, a logistic function of the depth."""
    half = np.float32(TENTH_TO_NINE_TENTHS / edge_mm / 2)
    return np.float32(0.5) + np.float32(0.5) * np.tanh(depth * half)


def add_offset(
    canvas: Canvas, box: Box, share: Floats, offset: Floats | np.float32, fading: float
) -> None:
    """Add HU in a box, where there is room, in proportion to a lesion's share of each voxel.

    At the liver's surface a voxel is liver in part only, and so is the change: the liver's share is
    taken to be that of the voxel and its neighbors in the labels.

    Args:
        canvas: the window.
        box: the part.
        share: of the lesion.
        offset: HU.
        fading: share by which structures within the lesion are pulled towards the liver's median.
    """
    image, room = box.of(canvas.image), box.of(canvas.room)
    free = room > 0
    change = offset * np.float32(canvas.scale.units_per_hu)
    if fading:
        change = change - np.float32(fading) * structures(image, room > 0.5, box.spacing_mm)
    classes = box.of(canvas.labels, canvas.finer)[tuple(slice(None, None, s) for s in canvas.finer)]
    liver = (classes != BACKGROUND).astype(np.float32)
    change = change * share * room * ndimage.uniform_filter(liver, 3, mode="nearest")
    image[free] = (image + change)[free].clip(canvas.scale.low, canvas.scale.high)
    room *= 1 - share


def structures(image: np.ndarray, liver: np.ndarray, spacing_mm: Spacing) -> Floats:
    """What differs from the liver's median by more than noise does; 0 outside the liver.

    What lies beyond the noise counts in full. Of the rest counts what smoothing leaves, so that
    faint vessels do and grain does not.
    """
    sample = image[liver]
    if not sample.size:
        return np.zeros_like(image)
    sample = sample[:: max(1, sample.size // ENOUGH_FOR_MEDIAN)]
    median = np.median(sample)
    noise = np.median(np.abs(sample - median)) * SD_OF_MEDIAN_DEVIATION
    differences = np.where(liver, image - median, np.float32(0))
    within = differences.clip(-BEYOND_NOISE * noise, BEYOND_NOISE * noise)
    sigmas = [GRAIN_SIGMA_MM / spacing for spacing in spacing_mm]
    return differences - within + ndimage.gaussian_filter(within, sigmas, truncate=2)


def on_finer_grid(depth: Floats, finer: tuple[int, ...]) -> Floats:
    """The depth at the voxels of a finer grid of the same extent, interpolated."""
    if max(finer) == 1:
        return depth
    found = F.interpolate(torch.from_numpy(depth)[None, None], scale_factor=finer, mode="trilinear")
    return found[0, 0].numpy()
