"""Overlap and surface distances: by table, in closed form, and against other libraries.

MedPy, MONAI, SimpleITK, DeepMind's surface-distance and SciPy are the oracles. Where their surface
is another than ours they are given ours, or masks of which both see the same surface.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import surface_distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from medpy.metric import binary as medpy
from monai.metrics import compute_average_surface_distance, compute_iou, compute_surface_dice
from scipy import ndimage

from Training.metrics import (
    SURFACE_TOLERANCE_MM,
    SurfaceDistances,
    dice,
    overlap,
    surface,
    surface_distances,
)

MASKS = hnp.arrays(bool, (2, 3, 4))
SPACING_MM = (2.5, 0.8, 0.7)
SEEDS = range(4)


def mask(text: str) -> np.ndarray:
    return np.array([letter == "#" for letter in text])


def blobs(seed: int, shape: tuple[int, int, int] = (10, 18, 20)) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of smooth noise that share about half of their voxels and reach the border."""
    random = np.random.default_rng(seed)
    one, other = (ndimage.gaussian_filter(random.normal(size=shape), 1.5) for _ in range(2))
    return one > 0, one + other > 0


def box(shape: tuple[int, int, int], *edges: tuple[int, int]) -> np.ndarray:
    """A box from one voxel to before another along each axis."""
    result = np.zeros(shape, dtype=bool)
    result[tuple(slice(*edge) for edge in edges)] = True
    return result


# Voxels


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("##..", "##..", 1.0),
        ("##..", ".##.", 0.5),
        ("##..", "..##", 0.0),
        ("####", "#...", 0.4),
        ("....", "#...", 0.0),
        ("#...", "....", 0.0),
        ("....", "....", 1.0),
    ],
)
def test_dice_by_hand(prediction: str, reference: str, expected: float) -> None:
    assert dice(mask(prediction), mask(reference)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("prediction", "reference", "iou", "rvd", "precision", "recall", "accuracy"),
    [
        ("##..", "##..", 1, 0, 1, 1, 1),
        ("###.", ".##.", 2 / 3, 0.5, 2 / 3, 1, 0.75),  # too much is positive
        (".#..", "##..", 0.5, -0.5, 1, 0.5, 0.75),
        ("##..", "..##", 0, 0, 0, 0, 0),
        ("....", "##..", 0, -1, None, 0, 0.5),
        ("##..", "....", 0, None, 0, None, 0.5),
        ("....", "....", 1, None, None, None, 1),
    ],
)
def test_shares_by_hand(
    prediction: str,
    reference: str,
    iou: float,
    rvd: float | None,
    precision: float | None,
    recall: float | None,
    accuracy: float,
) -> None:
    voxels = overlap(mask(prediction), mask(reference))
    assert voxels.iou == pytest.approx(iou)
    assert voxels.voe == pytest.approx(1 - iou)
    got = (voxels.rvd, voxels.precision, voxels.recall, voxels.accuracy)
    assert got == (rvd, pytest.approx(precision), recall, accuracy)


@settings(max_examples=50, deadline=None)
@given(MASKS, MASKS)
def test_symmetric_and_tied_to_the_jaccard_index(a: np.ndarray, b: np.ndarray) -> None:
    assert dice(a, b) == dice(b, a)
    union = (a | b).sum()
    jaccard = (a & b).sum() / union if union else 1.0
    assert dice(a, b) == pytest.approx(2 * jaccard / (1 + jaccard))
    assert overlap(a, b).iou == jaccard
    assert overlap(a, b).precision == overlap(b, a).recall
    assert overlap(a, b).accuracy == pytest.approx((a == b).mean())


@settings(max_examples=50, deadline=None)
@given(MASKS, st.integers(0, 23))
def test_a_voxel_set_right_never_lowers_it(reference: np.ndarray, voxel: int) -> None:
    prediction = np.zeros_like(reference)
    better = prediction.copy()
    better.flat[voxel] = reference.flat[voxel]
    assert dice(better, reference) >= dice(prediction, reference)


def test_counts_do_not_overflow() -> None:
    everything = np.ones((70, 70, 70), dtype=bool)
    assert dice(everything, everything) == 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_are_those_of_other_libraries(seed: int) -> None:
    a, b = blobs(seed)
    voxels = overlap(a, b)
    measure = sitk.LabelOverlapMeasuresImageFilter()
    measure.Execute(*(sitk.GetImageFromArray(m.astype(np.uint8)) for m in (a, b)))
    assert voxels.dice == pytest.approx(measure.GetDiceCoefficient())
    assert voxels.iou == pytest.approx(measure.GetJaccardCoefficient())
    assert voxels.precision == pytest.approx(1 - measure.GetFalseDiscoveryRate())
    assert voxels.recall == pytest.approx(1 - measure.GetFalseNegativeError())
    assert voxels.dice == pytest.approx(medpy.dc(a, b))
    assert voxels.iou == pytest.approx(medpy.jc(a, b))
    assert voxels.rvd == pytest.approx(medpy.ravd(a, b))
    assert voxels.precision == pytest.approx(medpy.precision(a, b))
    assert voxels.recall == pytest.approx(medpy.recall(a, b))
    assert voxels.iou == pytest.approx(float(compute_iou(one_hot(a), one_hot(b))), rel=1e-6)


def one_hot(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)[None, None]


# Surfaces


def test_the_surface_of_a_corner() -> None:
    """A voxel whose only neighbor outside shares a corner is inside; one with an edge is not."""
    cube = np.ones((5, 5, 5), dtype=bool)
    corner, edge = cube.copy(), cube.copy()
    corner[1, 1, 1] = False
    edge[1, 1, 2] = False
    assert not surface(corner)[2, 2, 2]
    assert surface(edge)[2, 2, 2]


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)))
def test_the_surface_is_what_erosion_by_18_neighbors_takes(array: np.ndarray) -> None:
    neighbors = ndimage.generate_binary_structure(3, 2)
    assert np.array_equal(surface(array), array & ~ndimage.binary_erosion(array, neighbors))


def test_equal_masks_have_no_distance() -> None:
    cube = box((6, 6, 6), (1, 5), (1, 5), (1, 5))
    assert surface_distances(cube, cube, SPACING_MM) == SurfaceDistances(0, 0, 0, 0, 1)


@pytest.mark.parametrize(
    ("found", "true", "surface_dice"),
    [(False, False, 1.0), (True, False, 0.0), (False, True, 0.0)],
)
def test_an_empty_mask_has_no_distance(found: bool, true: bool, surface_dice: float) -> None:
    masks = (np.full((3, 4, 5), found), np.full((3, 4, 5), true))
    expected = SurfaceDistances(None, None, None, None, surface_dice)
    assert surface_distances(*masks, SPACING_MM) == expected


def test_plates_at_a_distance() -> None:
    """Two parallel plates one voxel thick: every distance is the same."""
    low, high = (box((8, 4, 4), (z, z + 1), (0, 4), (0, 4)) for z in (1, 5))
    d = 4 * 2.5
    assert surface_distances(low, high, SPACING_MM) == SurfaceDistances(
        *[pytest.approx(d)] * 4, surface_dice=0
    )


def test_two_points_and_one() -> None:
    """Distances are counted in both directions."""
    two, one = np.zeros((1, 1, 12), bool), np.zeros((1, 1, 12), bool)
    two[..., [0, 10]] = True
    one[..., 1] = True
    got = surface_distances(two, one, (1.0, 1.0, 1.0))
    distances = [1, 9, 1]  # both of two, and back
    assert got.assd_mm == pytest.approx(np.mean(distances))
    assert got.rmsd_mm == pytest.approx(math.sqrt(np.mean(np.square(distances))))
    assert got.hd_mm == 9
    assert got.hd95_mm == pytest.approx(1 + 0.9 * 8)
    assert got.surface_dice == pytest.approx(2 / 3)


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_a_shifted_cube(shift: int) -> None:
    """A cube of n voxels, its surface one voxel thick, moved along z by s.

    Its sides stay in line: n - s of their n layers lie on the other's, and each layer beyond is
    1, 2, ... s steps off the other's nearest end. Of an end plate the inner (n-2)^2 voxels are s
    off the other's end plate, or nearer to its sides.
    """
    n, step = 7, 3.0
    a = box((20, 9, 9), (2, 2 + n), (1, 1 + n), (1, 1 + n))
    b = np.roll(a, shift, axis=0)
    got = surface_distances(a, b, (step, 1.0, 1.0))
    rim = n * n - (n - 2) ** 2
    sides = rim * sum(step * k for k in range(1, shift + 1))
    inner = range(1, n - 1)
    depth = [min(y, n - 1 - y, x, n - 1 - x) for y in inner for x in inner]
    outer = step * shift * len(depth)  # beyond the other cube's end
    within = sum(min(step * shift, d) for d in depth)  # inside the other cube
    voxels = 2 * (n**3 - (n - 2) ** 3)
    assert got.assd_mm == pytest.approx(2 * (sides + outer + within) / voxels)
    assert got.hd_mm == pytest.approx(step * shift)


@pytest.mark.parametrize("seed", SEEDS)
def test_distances_are_medpys_of_that_surface(seed: int) -> None:
    a, b = blobs(seed)
    got = surface_distances(a, b, SPACING_MM)
    shells = surface(a), surface(b)
    both = np.concatenate([distances_by_scipy(*shells), distances_by_scipy(*shells[::-1])])
    assert got.rmsd_mm == pytest.approx(np.sqrt((both**2).mean()))
    assert got.surface_dice == pytest.approx((both <= SURFACE_TOLERANCE_MM).mean())
    assert got.assd_mm == pytest.approx(medpy.assd(a, b, SPACING_MM, 2))
    assert got.hd95_mm == pytest.approx(medpy.hd95(a, b, SPACING_MM, 2))
    assert got.hd_mm == pytest.approx(medpy.hd(a, b, SPACING_MM, 2))


def distances_by_scipy(surface_from: np.ndarray, surface_to: np.ndarray) -> np.ndarray:
    """By the distance transform of the whole array."""
    return ndimage.distance_transform_edt(~surface_to, sampling=SPACING_MM)[surface_from]


@pytest.mark.parametrize("seed", SEEDS)
def test_hausdorff_is_simpleitks(seed: int) -> None:
    """SimpleITK's is of whole masks; hollow ones have the same surface as themselves."""
    shells = [surface(m) for m in blobs(seed)]
    images = [sitk.GetImageFromArray(m.astype(np.uint8)) for m in shells]
    for image in images:
        image.SetSpacing(SPACING_MM[::-1])
    measure = sitk.HausdorffDistanceImageFilter()
    measure.Execute(*images)
    got = surface_distances(*shells, SPACING_MM)
    assert got.hd_mm == pytest.approx(measure.GetHausdorffDistance())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # theirs
@pytest.mark.parametrize("seed", SEEDS)
def test_monai_agrees_on_shells(seed: int) -> None:
    """Its surface leaves no voxel out of a mask in which each has a free face, as in ours."""
    random = np.random.default_rng(seed)
    a, b = (sparse(random) for _ in range(2))
    got = surface_distances(a, b, SPACING_MM)
    options = {"include_background": True, "spacing": SPACING_MM}
    there, back = (
        float(compute_average_surface_distance(one_hot(x), one_hot(y), **options))
        for x, y in ((a, b), (b, a))
    )
    assert got.assd_mm == pytest.approx(
        (there * a.sum() + back * b.sum()) / (a.sum() + b.sum()), rel=1e-5
    )
    nsd = compute_surface_dice(one_hot(a), one_hot(b), [SURFACE_TOLERANCE_MM], **options)
    assert got.surface_dice == pytest.approx(float(nsd), rel=1e-6)


def sparse(random: np.random.Generator) -> np.ndarray:
    """Single voxels, away from the border."""
    result = np.zeros((9, 13, 14), bool)
    result[1:-1:2, 1:-1:2, 1:-1:2] = random.random((4, 6, 6)) > 0.8
    return result


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs
@pytest.mark.parametrize("radius", [6.0, 9.0])
def test_deepminds_surface_of_a_sphere_lies_within_half_a_voxel(radius: float) -> None:
    """Theirs is weighed by area and lies on voxel corners; of balls both are near the truth."""
    axes = np.ogrid[:24, :24, :24]
    far = np.sqrt(sum((axis - 11.5) ** 2 for axis in axes))
    small, large = far <= radius, far <= radius + 2
    theirs = surface_distance.compute_surface_distances(small, large, (1.0, 1.0, 1.0))
    there, back = surface_distance.compute_average_surface_distance(theirs)
    got = surface_distances(small, large, (1.0, 1.0, 1.0))
    assert got.assd_mm == pytest.approx(2, abs=0.5)
    assert (there + back) / 2 == pytest.approx(got.assd_mm, abs=0.5)


SHAPES = st.tuples(*[st.integers(1, 5)] * 3)
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape)))


def close(one: SurfaceDistances, other: SurfaceDistances, factor: float = 1.0) -> None:
    """Equal but for rounding, all distances `factor` times as long."""
    for name in ("assd_mm", "rmsd_mm", "hd_mm", "hd95_mm"):
        value = getattr(one, name)
        assert getattr(other, name) == (None if value is None else pytest.approx(value * factor))


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.sampled_from([0, 1, 2]))
def test_distances_know_no_order_and_no_side(
    pair: tuple[np.ndarray, np.ndarray], axis: int
) -> None:
    a, b = pair
    got = surface_distances(a, b, SPACING_MM)
    for other in (
        surface_distances(b, a, SPACING_MM),
        surface_distances(np.flip(a, axis), np.flip(b, axis), SPACING_MM),
        surface_distances(a.T, b.T, SPACING_MM[::-1]),
        surface_distances(np.pad(a, 2), np.pad(b, 2), SPACING_MM),
    ):
        close(got, other)
        assert other.surface_dice == pytest.approx(got.surface_dice)


@settings(max_examples=30, deadline=None)
@given(PAIRS, st.floats(0.1, 10))
def test_distances_grow_with_the_spacing(
    pair: tuple[np.ndarray, np.ndarray], factor: float
) -> None:
    scaled = tuple(factor * s for s in SPACING_MM)
    close(surface_distances(*pair, SPACING_MM), surface_distances(*pair, scaled), factor)


def test_the_tolerance_counts() -> None:
    """Plates 2 mm apart are within 2 mm, whatever rounding makes of ten steps of 0.2 mm."""
    low, high = (box((12, 3, 3), (z, z + 1), (0, 3), (0, 3)) for z in (0, 10))
    assert surface_distances(low, high, (0.2, 1.0, 1.0)).surface_dice == 1
    assert surface_distances(low, high, (0.21, 1.0, 1.0)).surface_dice == 0
