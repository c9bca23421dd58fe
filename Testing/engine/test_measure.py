"""Measurement: closed forms, tiny masks by hand, brute force, and SimpleITK as oracle."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import COLUMNS, Lesion, Measurement, axial_axis, diameters, measure
from LiverTumorSegLib.volume import Volume

IDENTITY = np.eye(3)
FLAT_MASKS = hnp.arrays(bool, st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 5)))
SPACINGS = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 2.5])] * 3)
SMALL_TURNS = st.tuples(*[st.floats(-20, 20)] * 3)


def grid(
    shape: tuple[int, ...],
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    direction: np.ndarray = IDENTITY,
    origin: tuple[float, ...] = (0.0, 0.0, 0.0),
) -> Geometry:
    return Geometry(shape, spacing, origin, tuple(map(tuple, direction.tolist())))


def measured(labels: np.ndarray, geometry: Geometry, hu: np.ndarray | None = None) -> Measurement:
    hu = np.zeros(labels.shape, np.float32) if hu is None else hu
    return measure(Volume(hu, geometry), labels)[0]


def flat(picture: str) -> np.ndarray:
    """A one-slice mask from rows of '.' and '#'."""
    rows = [line.strip() for line in picture.strip().splitlines()]
    return np.array([[[pixel == "#" for pixel in row] for row in rows]])


def oriented(
    array: np.ndarray, geometry: Geometry, order: tuple[int, ...], back: tuple[bool, ...]
) -> tuple[np.ndarray, Geometry]:
    """The same patient in an array with other axes: permuted to `order`, then mirrored."""
    columns = np.array(geometry.direction)[:, ::-1][:, list(order)]
    signs = np.where(back, -1, 1)
    first = np.zeros(3)
    for axis, mirrored in zip(order, back, strict=True):
        first[axis] = array.shape[axis] - 1 if mirrored else 0
    turned = array.transpose(order)[tuple(slice(None, None, s) for s in signs)]
    return np.ascontiguousarray(turned), Geometry(
        turned.shape,
        tuple(geometry.spacing_mm[axis] for axis in order),
        tuple(geometry.lps_of(first).tolist()),
        tuple(map(tuple, (columns * signs)[:, ::-1].tolist())),
    )


ORIENTATIONS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product([False, True], repeat=3))
)


# Volume, burden, HU, centroid


def test_a_cuboid_by_hand() -> None:
    labels = np.zeros((10, 20, 30), np.uint8)
    labels[1:9, 2:18, 3:27] = 1
    labels[2:5, 4:8, 6:11] = 2
    hu = np.full(labels.shape, 100, np.float32)
    hu[2:5, 4:8, 6:11] = 40
    hu[2, 4:8, 6:11] = 70
    result = measured(labels, grid(labels.shape, (2.5, 0.5, 0.8), origin=(-10, 5, 100)), hu)
    assert result.liver_volume_ml == pytest.approx(8 * 16 * 24 * 1e-3)
    assert result.tumor_volume_ml == pytest.approx(60 * 1e-3)
    assert result.tumor_burden_percent == pytest.approx(100 * 60 / 3072)
    (lesion,) = result.lesions
    assert lesion.lesion == 1
    assert lesion.volume_ml == pytest.approx(0.060)
    assert lesion.burden_percent == pytest.approx(100 * 60 / 3072)
    assert lesion.mean_hu == pytest.approx(50)
    assert lesion.sd_hu == pytest.approx(math.sqrt((20**2 + 2 * 10**2) / 3))
    assert lesion.centroid_x_mm == pytest.approx(-10 + 0.8 * 8)
    assert lesion.centroid_y_mm == pytest.approx(5 + 0.5 * 5.5)
    assert lesion.centroid_z_mm == pytest.approx(100 + 2.5 * 3)
    assert lesion.long_axis_mm == pytest.approx(math.hypot(3 * 0.5, 4 * 0.8))


def test_lesions_come_largest_first_and_their_burdens_add_up() -> None:
    labels = np.ones((4, 8, 8), np.uint8)
    labels[0, 0, 0] = labels[0, 4:6, 4:6] = labels[3, 7, 6:8] = 2
    result, lesion_map = measure(
        Volume(np.zeros(labels.shape, np.float32), grid(labels.shape)), labels
    )
    assert [round(lesion.volume_ml * 1000) for lesion in result.lesions] == [4, 2, 1]
    assert [lesion.lesion for lesion in result.lesions] == [1, 2, 3]
    burdens = sum(lesion.burden_percent for lesion in result.lesions)
    assert burdens == pytest.approx(result.tumor_burden_percent) == pytest.approx(700 / 256)
    assert (lesion_map[0, 4, 4], lesion_map[3, 7, 7], lesion_map[0, 0, 0]) == (1, 2, 3)
    assert lesion_map.dtype == np.int32


def test_without_tumor_there_are_no_lesions_and_no_burden() -> None:
    assert measured(np.ones((2, 2, 2), np.uint8), grid((2, 2, 2))) == Measurement(
        pytest.approx(0.008), 0.0, 0.0, (), 0.0, 0.0
    )


def test_without_any_label_all_numbers_are_zero() -> None:
    assert measured(np.zeros((2, 2, 2), np.uint8), grid((2, 2, 2))) == Measurement(0, 0, 0, ())


def test_a_liver_that_is_all_tumor_has_a_burden_of_100_percent() -> None:
    result = measured(np.full((2, 2, 2), 2, np.uint8), grid((2, 2, 2)))
    assert result.tumor_burden_percent == pytest.approx(100)


def test_the_livers_intensity_is_that_outside_of_its_tumors() -> None:
    labels = np.ones((2, 2, 2), np.uint8)
    labels[0, 0] = 2
    hu = np.array([[[5.0, 6.0], [90.0, 100.0]], [[110.0, 120.0], [130.0, 110.0]]], np.float32)
    result = measured(labels, grid((2, 2, 2)), hu)
    assert result.liver_mean_hu == pytest.approx(110.0)
    assert result.liver_sd_hu == pytest.approx(math.sqrt((400 + 100 + 100 + 400) / 6))
    assert measured(np.full((2, 2, 2), 2, np.uint8), grid((2, 2, 2))).liver_mean_hu is None


def test_the_percentiles_of_a_ramp_by_hand() -> None:
    labels = np.full((1, 1, 101), 2, np.uint8)
    hu = np.arange(101, dtype=np.float32)[None, None]
    (lesion,) = measured(labels, grid(labels.shape), hu).lesions
    assert (lesion.p5_hu, lesion.median_hu, lesion.p95_hu) == pytest.approx((5.0, 50.0, 95.0))


def test_a_reader_may_say_which_voxels_are_one_lesion() -> None:
    """Two that touch stay two, and keep their numbers although the second is larger."""
    labels = np.ones((1, 4, 6), np.uint8)
    labels[0, 1, 1:5] = 2
    lesion_map = np.zeros(labels.shape, np.uint8)
    lesion_map[0, 1] = [0, 1, 2, 2, 2, 0]
    volume = Volume(np.zeros(labels.shape, np.float32), grid(labels.shape))
    result, kept = measure(volume, labels, lesion_map=lesion_map)
    assert [round(les.volume_ml * 1000) for les in result.lesions] == [1, 3]
    assert kept is lesion_map
    assert len(measured(labels, volume.geometry).lesions) == 1


def test_couinaud_segments_are_shares_of_the_given_map_and_never_guessed() -> None:
    labels = np.ones((1, 4, 6), np.uint8)
    labels[0, 1, 1:5] = 2
    couinaud = np.full(labels.shape, 4, np.uint8)
    couinaud[:, :, 2:] = 8
    volume = Volume(np.zeros(labels.shape, np.float32), grid(labels.shape))
    (lesion,) = measure(volume, labels, couinaud=couinaud)[0].lesions
    assert lesion.couinaud == "VIII 75 %, IV 25 %"
    (lesion,) = measure(volume, labels)[0].lesions
    assert lesion.couinaud is None


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2, 3\).*\(2, 2, 2\)"):
        measure(Volume(np.zeros((2, 2, 2), np.float32), grid((2, 2, 2))), np.ones((2, 2, 3)))


@pytest.mark.parametrize("spacing", [(1.0, 0.75, 0.75), (5.0, 0.75, 0.75), (2.5, 0.6, 0.9)])
@pytest.mark.parametrize("turn", [(0, 0, 0), (12, -17, 25)])
def test_a_sphere_has_its_volume_and_diameter(
    spacing: tuple[float, ...], turn: tuple[float, ...]
) -> None:
    radius = 15.0
    shape = tuple(int(2 * radius / s) + 3 for s in spacing)
    middle = (np.array(shape) - 1) / 2
    index = np.moveaxis(np.indices(shape), 0, -1)
    inside = np.linalg.norm((index - middle) * spacing, axis=-1) <= radius
    turned = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    geometry = grid(shape, spacing, turned, (7.0, -8.0, 9.0))
    (lesion,) = measured(np.where(inside, 2, 0).astype(np.uint8), geometry).lesions
    assert lesion.volume_ml == pytest.approx(4 / 3 * math.pi * radius**3 / 1000, rel=0.04)
    voxel = math.hypot(*spacing[1:])
    assert 2 * radius - voxel <= lesion.long_axis_mm <= 2 * radius
    assert 2 * radius - 2 * voxel <= lesion.short_axis_mm <= lesion.long_axis_mm + 1e-6
    centroid = (lesion.centroid_x_mm, lesion.centroid_y_mm, lesion.centroid_z_mm)
    np.testing.assert_allclose(centroid, geometry.lps_of(middle), atol=1e-6)


# Probability, distance to the liver's surface, edge of the scan


def test_mean_probability_is_that_of_the_lesions_voxels() -> None:
    labels = np.ones((3, 4, 5), np.uint8)
    labels[1, 1, 1:4] = 2
    probability = np.full(labels.shape, 0.1, np.float16)
    probability[1, 1, 1:4] = (0.5, 0.75, 1.0)
    volume = Volume(np.zeros(labels.shape, np.float32), grid(labels.shape))
    (lesion,) = measure(volume, labels, probability)[0].lesions
    assert lesion.mean_probability == pytest.approx(0.75)
    (lesion,) = measure(volume, labels)[0].lesions
    assert lesion.mean_probability is None


def in_a_block(place: tuple[int, int, int]) -> Lesion:
    """A lesion of one voxel in a liver of 11 x 21 x 31 voxels, 5 away from the scan's end."""
    labels = np.zeros((21, 31, 41), np.uint8)
    labels[5:16, 5:26, 5:36] = 1
    labels[tuple(np.array(place) + 5)] = 2
    (lesion,) = measured(labels, grid(labels.shape, (3.0, 0.5, 2.0))).lesions
    return lesion


def test_the_surface_is_the_nearest_face_by_hand() -> None:
    assert in_a_block((5, 10, 15)).surface_distance_mm == pytest.approx(10 * 0.5)
    assert in_a_block((1, 10, 15)).surface_distance_mm == pytest.approx(1 * 3.0)
    assert in_a_block((5, 10, 29)).surface_distance_mm == pytest.approx(1 * 2.0)
    assert in_a_block((5, 20, 15)).surface_distance_mm == 0.0


def test_where_the_scan_ends_there_is_no_surface() -> None:
    labels = np.ones((9, 9, 9), np.uint8)
    labels[0, 4, 4] = 2
    (lesion,) = measured(labels, grid(labels.shape)).lesions
    assert lesion.surface_distance_mm is None
    assert lesion.touches_edge
    labels[:, :, 8] = 0
    (lesion,) = measured(labels, grid(labels.shape)).lesions
    assert lesion.surface_distance_mm == pytest.approx(3.0)


@pytest.mark.parametrize("depth", [3.0, 14.0, 25.0])
def test_a_ball_in_a_ball_has_the_distance_of_their_surfaces(depth: float) -> None:
    spacing, outer, inner = (1.5, 1.0, 1.0), 32.0, 6.0
    place = np.moveaxis(np.indices((45, 67, 67)), 0, -1) * spacing - [33.0, 33.0, 33.0]
    labels = (np.linalg.norm(place, axis=-1) <= outer).astype(np.uint8)
    center = np.array([0.36, 0.48, 0.8]) * (outer - inner - depth)
    labels[np.linalg.norm(place - center, axis=-1) <= inner] = 2
    (lesion,) = measured(labels, grid(labels.shape, spacing)).lesions
    # Both outermost layers of voxel centers lie up to a voxel within their balls.
    assert lesion.surface_distance_mm == pytest.approx(depth, abs=math.hypot(*spacing))


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.uint8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.sampled_from([0, 1, 1, 2])
    ),
    SPACINGS,
)
def test_surface_distance_and_edge_equal_those_of_brute_force(
    labels: np.ndarray, spacing: tuple[float, ...]
) -> None:
    geometry = grid(labels.shape, spacing)
    result, lesion_map = measure(Volume(np.zeros(labels.shape, np.float32), geometry), labels)
    steps = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    surface = [
        voxel
        for voxel in np.argwhere(labels > 0)
        for near in [voxel + steps]
        for inside in [near[((near >= 0) & (near < labels.shape)).all(axis=1)]]
        if (labels[tuple(inside.T)] == 0).any()
    ]
    for lesion in result.lesions:
        voxels = np.argwhere(lesion_map == lesion.lesion)
        distances = [np.linalg.norm((v - s) * spacing) for v in voxels for s in surface]
        assert lesion.surface_distance_mm == (
            pytest.approx(min(distances), abs=1e-9) if distances else None
        )
        last = np.array(labels.shape) - 1
        assert lesion.touches_edge == bool(((voxels == 0) | (voxels == last)).any())


def test_a_probability_map_of_another_shape_is_refused() -> None:
    volume = Volume(np.zeros((2, 2, 2), np.float32), grid((2, 2, 2)))
    with pytest.raises(ValueError, match=r"\(2, 2, 3\).*\(2, 2, 2\)"):
        measure(volume, np.ones((2, 2, 2), np.uint8), np.ones((2, 2, 3)))


@given(SMALL_TURNS, st.tuples(*[st.floats(-300, 300)] * 3), st.permutations(range(3)))
@settings(max_examples=25, deadline=None)
def test_the_ends_lie_on_the_lesion_in_the_patient(
    turn: tuple[float, ...], shift: tuple[float, ...], order: list[int]
) -> None:
    """A rod along y of 5 voxels 0.7 mm apart, from (2, 1, 3) on, in an array of any axes."""
    labels = np.ones((6, 7, 8), np.uint8)
    labels[2, 1:6, 3] = 2
    matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    geometry = grid(labels.shape, (2.5, 0.7, 0.9), matrix, shift)
    turned, turned_geometry = oriented(labels, geometry, tuple(order), (False, True, False))
    (lesion,) = measured(turned, turned_geometry).lesions
    expected = geometry.lps_of(np.array([[2, 1, 3], [2, 5, 3]]))
    found = np.array(lesion.long_axis_ends_mm)
    if np.linalg.norm(found[0] - expected[0]) > 1.0:
        found = found[::-1]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert math.dist(*lesion.short_axis_ends_mm) == pytest.approx(0.0, abs=1e-9)


# Long and short axis


def test_one_voxel_measures_zero() -> None:
    found = diameters(np.ones((1, 1, 1), bool), grid((1, 1, 1), (5.0, 0.7, 0.7)))
    assert (found.long_mm, found.short_mm) == (0.0, 0.0)
    assert found.long_ends == ((0.0, 0.0), (0.0, 0.0))


def test_a_line_has_length_but_no_width() -> None:
    picture = """
        #...
        .#..
        ..#.
        ...#"""
    found = diameters(flat(picture), grid((1, 4, 4), (5.0, 2.0, 1.5)))
    assert found.long_mm == pytest.approx(3 * 2.5)
    assert found.short_mm == 0.0


def test_a_right_triangle_has_its_altitude_as_short_axis() -> None:
    """Legs of 3 and 4 mm: the hypotenuse is 5 mm, the altitude on it 12 / 5 mm."""
    picture = """
        #####
        ###..
        ##...
        #...."""
    found = diameters(flat(picture), grid((1, 4, 5)))
    assert found.long_mm == pytest.approx(5.0)
    assert found.short_mm == pytest.approx(2.4)
    assert set(found.long_ends) == {(0.0, 4.0), (3.0, 0.0)}
    foot, corner = sorted(found.short_ends, reverse=True)
    assert corner == pytest.approx((0.0, 0.0))
    assert foot == pytest.approx((1.92, 1.44))


@pytest.mark.parametrize(("ny", "nx"), [(4, 7), (7, 4), (5, 5), (2, 9)])
def test_a_rectangle_has_its_diagonal_and_the_chord_across_it(ny: int, nx: int) -> None:
    """In a rectangle of sides a >= b with diagonal d the chord perpendicular to d is b d / a."""
    dy, dx = 0.8, 0.6
    b, a = sorted([(ny - 1) * dy, (nx - 1) * dx])
    found = diameters(np.ones((1, ny, nx), bool), grid((1, ny, nx), (3.0, dy, dx)))
    assert found.long_mm == pytest.approx(math.hypot(a, b))
    assert found.short_mm == pytest.approx(b * math.hypot(a, b) / a)


def test_an_ellipse_has_its_two_axes() -> None:
    y, x = np.mgrid[-60:61, -60:61] * 0.5
    angle = math.radians(30)
    along, across = (
        x * math.cos(angle) + y * math.sin(angle),
        y * math.cos(angle) - x * math.sin(angle),
    )
    inside = (along / 24) ** 2 + (across / 11) ** 2 <= 1
    found = diameters(inside[None], grid((1, 121, 121), (2.0, 0.5, 0.5)))
    assert found.long_mm == pytest.approx(48, abs=1.0)
    assert found.short_mm == pytest.approx(22, abs=1.0)


def test_a_dent_counts_as_filled_for_the_short_axis() -> None:
    picture = """
        #.....#
        #.....#
        #######"""
    found = diameters(flat(picture), grid((1, 3, 7)))
    full = diameters(np.ones((1, 3, 7), bool), grid((1, 3, 7)))
    assert (found.long_mm, found.short_mm) == pytest.approx((full.long_mm, full.short_mm))


def test_only_distances_within_a_slice_count() -> None:
    """A column through ten slices, 3 pixels wide in one of them, is 2 mm long, not 45 mm."""
    mask = np.zeros((10, 3, 3), bool)
    mask[:, 1, 1] = mask[6, 1, :] = True
    found = diameters(mask, grid(mask.shape, (5.0, 1.0, 1.0)))
    assert (found.long_mm, found.slice_index) == (2.0, 6)


def test_of_equally_long_axes_the_one_with_the_longest_short_axis_counts() -> None:
    mask = np.zeros((3, 5, 5), bool)
    mask[0, 0, :] = mask[1, 0, :] = mask[2, 0, :] = True
    mask[1, 1, 2] = True
    mask[2, :3, 2] = True
    found = diameters(mask, grid(mask.shape))
    assert (found.long_mm, found.short_mm, found.slice_index) == (4.0, 2.0, 2)


def test_the_same_holds_for_equally_long_axes_in_one_slice() -> None:
    """5 mm along the second row, with 3.5 mm across it; 5 mm aslant (3, 4), with 3 mm across."""
    picture = """
        ...#..
        #....#
        ......
        ......
        ....#."""
    found = diameters(flat(picture), grid((1, 5, 6)))
    assert (found.long_mm, found.short_mm) == pytest.approx((5.0, 3.5))


def test_an_empty_mask_has_no_diameter() -> None:
    with pytest.raises(ValueError, match="empty"):
        diameters(np.zeros((1, 2, 2), bool), grid((1, 2, 2)))


def brute_force(mask: np.ndarray, spacing: np.ndarray) -> tuple[float, float]:
    """Both axes of a one-slice mask from all pairs of pixels, without any convex hull."""
    points = np.argwhere(mask[0]) * spacing
    pairs = list(itertools.combinations(points, 2))
    long_mm = max((float(np.linalg.norm(b - a)) for a, b in pairs), default=0.0)
    short_mm = 0.0
    for start, end in pairs:
        if np.linalg.norm(end - start) < long_mm - 1e-9:
            continue
        along = (end - start) / long_mm
        s, t = (points - start) @ along, (points - start) @ [-along[1], along[0]]
        for position in s:
            heights = [
                t[i] + (t[j] - t[i]) * (position - s[i]) / (s[j] - s[i])
                for i, j in itertools.permutations(range(len(points)), 2)
                if s[i] <= position <= s[j] and s[j] - s[i] > 1e-9
            ]
            short_mm = max(short_mm, max(heights) - min(heights))
    return long_mm, short_mm


@settings(max_examples=60, deadline=None)
@given(FLAT_MASKS, SPACINGS)
def test_axes_equal_those_of_brute_force(
    mask: np.ndarray, spacing: tuple[float, float, float]
) -> None:
    assume(mask.any())
    found = diameters(mask, grid(mask.shape, spacing))
    assert (found.long_mm, found.short_mm) == pytest.approx(
        brute_force(mask, np.array(spacing[1:])), abs=1e-5
    )


@settings(deadline=None)
@given(FLAT_MASKS, SPACINGS)
def test_the_ends_lie_where_the_lengths_say_and_at_right_angles(
    mask: np.ndarray, spacing: tuple[float, float, float]
) -> None:
    assume(mask.any())
    found = diameters(mask, grid(mask.shape, spacing))
    long, short = (
        (np.array(ends[1]) - ends[0]) * spacing[1:] for ends in (found.long_ends, found.short_ends)
    )
    assert np.linalg.norm(long) == pytest.approx(found.long_mm)
    assert np.linalg.norm(short) == pytest.approx(found.short_mm, abs=1e-9)
    assert long @ short == pytest.approx(0, abs=1e-6)
    assert all(mask[0, int(y), int(x)] for y, x in found.long_ends)


# Orientation


def test_the_axial_axis_is_the_one_closest_to_the_patients_z() -> None:
    for order, back in ORIENTATIONS:
        _, geometry = oriented(np.zeros((2, 3, 4)), grid((2, 3, 4)), order, back)
        assert axial_axis(geometry) == order.index(0)


def test_all_48_orientations_give_the_same_numbers() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=(6, 7, 8), p=[0.3, 0.6, 0.1]).astype(np.uint8)
    hu = rng.normal(60, 20, labels.shape).astype(np.float32)
    turn = Rotation.from_euler("zyx", (20, 10, -15), degrees=True).as_matrix()
    geometry = grid(labels.shape, (2.5, 0.7, 0.9), turn, (1.0, 2.0, 3.0))
    expected = measured(labels, geometry, hu)
    for order, back in ORIENTATIONS:
        turned, turned_geometry = oriented(labels, geometry, order, back)
        result = measured(turned, turned_geometry, oriented(hu, geometry, order, back)[0])
        assert result.tumor_burden_percent == pytest.approx(expected.tumor_burden_percent)
        key = ("volume_ml", "centroid_x_mm", "centroid_y_mm", "centroid_z_mm")
        for got, want in zip(
            *(
                sorted(
                    (vars(les) for les in r.lesions), key=lambda v: [round(v[k], 5) for k in key]
                )
                for r in (result, expected)
            ),
            strict=True,
        ):
            unknown = ("lesion", "mean_probability", "confidence", "couinaud")
            single = [k for k in COLUMNS if k not in unknown]
            assert {k: got[k] for k in single} == pytest.approx(
                {k: want[k] for k in single}, rel=1e-5, abs=1e-4
            )
            for k in ("long_axis_ends_mm", "short_axis_ends_mm"):
                assert math.dist(*got[k]) == pytest.approx(got[k.replace("ends_mm", "mm")])


@given(SMALL_TURNS, SPACINGS, st.tuples(*[st.floats(-300, 300)] * 3))
@settings(max_examples=25, deadline=None)
def test_turning_and_moving_the_grid_changes_centroids_only(
    turn: tuple[float, ...], spacing: tuple[float, ...], shift: tuple[float, ...]
) -> None:
    labels = np.zeros((4, 6, 6), np.uint8)
    labels[1:3, 1:4, 2:6] = labels[2, 4, 3] = 2
    matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    (plain,) = measured(labels, grid(labels.shape, spacing)).lesions
    (moved,) = measured(labels, grid(labels.shape, spacing, matrix, shift)).lesions
    for name in ("volume_ml", "long_axis_mm", "short_axis_mm", "mean_hu", "sd_hu"):
        assert getattr(moved, name) == pytest.approx(getattr(plain, name))
    was, now = (
        np.array([les.centroid_x_mm, les.centroid_y_mm, les.centroid_z_mm])
        for les in (plain, moved)
    )
    np.testing.assert_allclose(now, matrix @ was + shift, atol=1e-6)


# SimpleITK as oracle


def shape_statistics(
    lesion_map: np.ndarray, geometry: Geometry
) -> sitk.LabelShapeStatisticsImageFilter:
    image = sitk.GetImageFromArray(lesion_map.astype(np.uint16))
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(np.array(geometry.direction).ravel().tolist())
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.ComputeFeretDiameterOn()
    statistics.Execute(image)
    return statistics


@pytest.mark.parametrize("turn", [(0, 0, 0), (15, -25, 100)])
def test_volume_and_centroid_agree_with_simpleitk(turn: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice(3, size=(8, 12, 12), p=[0.4, 0.52, 0.08]).astype(np.uint8)
    matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    geometry = grid(labels.shape, (3.0, 0.7, 0.8), matrix, (-30.0, 40.0, 500.0))
    result, lesion_map = measure(Volume(np.zeros(labels.shape, np.float32), geometry), labels)
    oracle = shape_statistics(lesion_map, geometry)
    assert len(result.lesions) == oracle.GetNumberOfLabels() > 3
    for lesion in result.lesions:
        assert lesion.volume_ml == pytest.approx(oracle.GetPhysicalSize(lesion.lesion) / 1000)
        centroid = (lesion.centroid_x_mm, lesion.centroid_y_mm, lesion.centroid_z_mm)
        assert centroid == pytest.approx(oracle.GetCentroid(lesion.lesion), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.just(1), st.integers(3, 12), st.integers(3, 12))), SPACINGS)
def test_long_axis_of_a_one_slice_lesion_is_simpleitks_feret_diameter(
    mask: np.ndarray, spacing: tuple[float, float, float]
) -> None:
    """SimpleITK measures between voxel centers too."""
    labels = np.where(mask, 2, 0).astype(np.uint8)
    geometry = grid(mask.shape, spacing)
    result, lesion_map = measure(Volume(np.zeros(mask.shape, np.float32), geometry), labels)
    assume(result.lesions)
    oracle = shape_statistics(lesion_map, geometry)
    for lesion in result.lesions:
        assert lesion.long_axis_mm == pytest.approx(oracle.GetFeretDiameter(lesion.lesion))


@pytest.mark.slow
def test_fifty_lesions_in_a_large_ct_take_three_seconds() -> None:
    shape = (300, 512, 512)
    labels = np.zeros(shape, np.uint8)
    labels[60:250, 100:380, 60:400] = 1
    rng = np.random.default_rng(0)
    centers = [
        (z, y, x) for z in (80, 155, 230) for y in (130, 230, 340) for x in range(85, 375, 48)
    ]
    for center in centers[:50]:
        radius = int(rng.integers(3, 23))
        ball = np.sum((np.indices([2 * radius + 1] * 3) - radius) ** 2, axis=0) <= radius**2
        labels[tuple(slice(c - radius, c + radius + 1) for c in center)][ball] = 2
    volume = Volume(np.zeros(shape, np.float32), grid(shape, (1.0, 0.75, 0.75)))
    start = time.process_time()
    result, _ = measure(volume, labels)
    assert time.process_time() - start < 3.0
    assert len(result.lesions) == 50
