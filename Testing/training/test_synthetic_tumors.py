"""Synthetic lesions: shapes of known volume, contrasts as drawn, and nothing beyond the liver."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from LiverTumorSegLib.intensity import Scale
from LiverTumorSegLib.labels import BACKGROUND, LIVER, TUMOR
from LiverTumorSegLib.recipe import Decoys, Recipe, SliceSampling, SyntheticTumors
from LiverTumorSegLib.recipes import RECIPES
from Testing.phantom import ball
from Testing.training.prepared_cases import prepared_case
from Training.augment import draw_sample
from Training.synthetic_tumors import (
    Box,
    Form,
    add_offset,
    depth_in,
    draw_axes,
    draw_contrast,
    draw_semi_axes,
    draw_tumors,
    new_canvas,
    share_of,
    smooth_noise,
)

torch.set_num_threads(1)

SCALE = Scale(0.0, 1.0, 1 / 400)  # a window of 400 HU
LIVER_VALUE = 0.5
SHAPE = (24, 40, 40)
NOISE_HU = 12
# One dark ball, wholly plain.
BALL = SyntheticTumors(
    probability=1.0,
    most=1,
    diameter_mm=(16.0, 16.0),
    elongation=(1.0, 1.0),
    waviness=(0.0, 0.0),
    wave_length=(0.5, 0.5),
    edge_mm=(1.0, 1.0),
    darker_hu=(40.0, 40.0),
    brighter_hu=(30.0, 30.0),
    brighter_share=0.0,
    visible_hu_mm=0.0,
    mottle_hu=(0.0, 0.0),
    mottle_mm=(2.0, 2.0),
    fading=(0.0, 0.0),
    rim_share=0.0,
    rim_hu=(20.0, 20.0),
    rim_mm=(3.0, 3.0),
    core_share=0.0,
    core_from_mm=0.0,
    core_hu=(25.0, 25.0),
    core_size=(0.5, 0.5),
    decoys=None,
)
DECOYS = Decoys(probability=1.0, most=3, thickness_mm=(2.0, 4.0), length_mm=(15.0, 30.0))
# All that there is, in wide ranges.
ALL = replace(
    BALL,
    most=4,
    diameter_mm=(4.0, 40.0),
    elongation=(1.0, 2.0),
    waviness=(0.0, 0.25),
    wave_length=(0.3, 0.7),
    edge_mm=(1.0, 6.0),
    darker_hu=(15.0, 80.0),
    brighter_share=0.3,
    visible_hu_mm=300.0,
    mottle_hu=(0.0, 8.0),
    mottle_mm=(1.0, 4.0),
    fading=(0.0, 1.0),
    rim_share=0.5,
    core_share=0.5,
    core_from_mm=15.0,
    decoys=DECOYS,
)
SEEDS = st.integers(0, 2**32 - 1)
SPACINGS = pytest.mark.parametrize(
    "spacing_mm", [(1.0, 1.0, 1.0), (2.0, 1.5, 1.5), (2.5, 0.8, 0.8)], ids=str
)


def liver_window(random: np.random.Generator, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A ball of liver in a window of other values, with a true tumor, in network values."""
    labels = ball((12, 20, 20), (17, 17, 17), SHAPE).astype(np.uint8) * LIVER
    labels[ball((12, 14, 20), (4, 4, 4), SHAPE)] = TUMOR
    image = np.where(labels == BACKGROUND, 0.2, LIVER_VALUE).astype(np.float32)
    image += noise * random.standard_normal(SHAPE, dtype=np.float32)
    return image.clip(0, 1), labels


def all_liver(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.full(shape, LIVER_VALUE, np.float32), np.full(shape, LIVER, np.uint8)


def noisy_liver() -> tuple[np.ndarray, np.ndarray]:
    image, labels = all_liver(SHAPE)
    noise = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    return image + NOISE_HU * np.float32(SCALE.units_per_hu) * noise, labels


def drawn(
    tumors: SyntheticTumors,
    image: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> tuple[np.ndarray, np.ndarray]:
    """HU that were added, and the new labels."""
    changed, new = image.copy(), labels.copy()
    draw_tumors(changed, new, tumors, spacing_mm, SCALE, np.random.default_rng(seed))
    return (changed - image) / SCALE.units_per_hu, new


def deep(tumor: np.ndarray, voxels: int) -> np.ndarray:
    """What is at least so many voxels from the outside of a mask."""
    for _ in range(voxels):
        padded = np.pad(tumor, 1)
        for axis in range(3):
            padded = padded & np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
        tumor = padded[1:-1, 1:-1, 1:-1]
    return tumor


# Shapes


@SPACINGS
@given(seed=SEEDS, semi_axes=st.tuples(*[st.floats(6, 14)] * 3))
@settings(max_examples=15, deadline=None)
def test_an_ellipsoid_has_its_volume(
    spacing_mm: tuple[float, float, float], semi_axes: tuple[float, float, float], seed: int
) -> None:
    random = np.random.default_rng(seed)
    shape = tuple(math.ceil(32 / spacing) for spacing in spacing_mm)
    form = Form(np.array(shape) / 2, np.array(semi_axes), draw_axes(random))
    inside = depth_in(form, Box((0, 0, 0), shape, spacing_mm)) >= 0
    volume = 4 / 3 * math.pi * math.prod(semi_axes)
    assert inside.sum() * math.prod(spacing_mm) == pytest.approx(volume, rel=0.04)


@SPACINGS
def test_the_depth_in_a_ball_is_the_distance_to_its_surface(
    spacing_mm: tuple[float, float, float],
) -> None:
    center = np.array([7.3, 9.1, 8.8])
    form = Form(center, np.array([6.0, 6.0, 6.0]), draw_axes(np.random.default_rng(0)))
    depth = depth_in(form, Box((2, 3, 1), (12, 10, 14), spacing_mm))
    voxels = np.moveaxis(np.indices((12, 10, 14)), 0, -1) + [2, 3, 1] + 0.5
    distance = np.linalg.norm((voxels - center) * spacing_mm, axis=-1)
    np.testing.assert_allclose(depth, 6 - distance, atol=1e-4)


def test_the_depth_at_the_very_middle_is_the_shortest_semi_axis() -> None:
    form = Form(np.array([2.5, 2.5, 2.5]), np.array([9.0, 4.0, 6.0]), np.eye(3))
    assert depth_in(form, Box((0, 0, 0), (5, 5, 5), (1.0, 1.0, 1.0)))[2, 2, 2] == 4


def test_a_bent_sheet_keeps_its_volume_and_leaves_its_plane() -> None:
    box = Box((0, 0, 0), (60, 60, 60), (0.5, 0.5, 0.5))
    center, semi_axes = np.array([30.0, 30.0, 30.0]), np.array([3.0, 10.0, 10.0])
    flat = depth_in(Form(center, semi_axes, np.eye(3)), box) >= 0
    bent = depth_in(Form(center, semi_axes, np.eye(3), np.array([4.0, 2.0])), box) >= 0
    assert bent.sum() == pytest.approx(flat.sum(), rel=0.01)
    # Its mean place stays: the middle goes the other way than the ends, by a third of both bends.
    assert np.flatnonzero(bent[:, 30, 30]).mean() + 0.5 == pytest.approx(30 + 6 / 3 / 0.5, abs=0.6)
    assert np.flatnonzero(flat[:, 30, 30]).mean() + 0.5 == pytest.approx(30, abs=0.1)


@given(seed=SEEDS, radius=st.floats(2, 30), longest=st.floats(1, 3))
def test_semi_axes_are_those_of_a_ball_as_large(seed: int, radius: float, longest: float) -> None:
    axes = draw_semi_axes(radius, (longest, longest), np.random.default_rng(seed))
    assert math.prod(axes) == pytest.approx(radius**3)
    assert axes.max() / axes.min() == pytest.approx(longest)


def test_half_of_a_voxel_at_the_surface_is_lesion_and_nine_tenths_half_an_edge_below() -> None:
    share = share_of(np.array([-20.0, -1.5, 0.0, 1.5, 20.0], np.float32), 3.0)
    np.testing.assert_allclose(share, [0, 0.1, 0.5, 0.9, 1], atol=1e-6)


def test_noise_has_deviation_1_everywhere_and_the_correlation_of_its_gaussian() -> None:
    random = np.random.default_rng(0)
    box = Box((0, 0, 0), (4, 6, 10), (2.0, 1.5, 1.0))
    fields = np.stack([smooth_noise(box, 2.0, random) for _ in range(2000)])
    assert fields.shape == (2000, 4, 6, 10)
    np.testing.assert_allclose(fields.std(axis=0), 1, atol=0.08)
    np.testing.assert_allclose(fields.mean(axis=0), 0, atol=0.1)
    along_z, along_y, along_x = fields[:, :2, 0, 0], fields[:, 0, :2, 0], fields[:, 0, 0, :4:3]
    for mm, pair in ((2.0, along_z), (1.5, along_y), (3.0, along_x)):
        found = np.corrcoef(pair.T)[0, 1]
        assert found == pytest.approx(math.exp(-((mm / 2.0) ** 2) / 4), abs=0.05)


# What becomes tumor


@SPACINGS
def test_a_plain_lesion_has_the_volume_that_was_drawn(
    spacing_mm: tuple[float, float, float],
) -> None:
    whole = 0
    shape = tuple(math.ceil(48 / spacing) for spacing in spacing_mm)
    for seed in range(30):
        _, new = drawn(BALL, *all_liver(shape), seed, spacing_mm)
        tumor = new == TUMOR
        if not any(np.take(tumor, end, axis).any() for axis in range(3) for end in (0, -1)):
            whole += 1
            volume = tumor.sum() * math.prod(spacing_mm)
            assert volume == pytest.approx(math.pi / 6 * 16**3, rel=0.03)
    assert whole >= 3


def test_labels_of_a_finer_grid_are_drawn_on_that_grid() -> None:
    image, _ = all_liver(SHAPE)
    labels = np.full(np.multiply(SHAPE, (1, 2, 2)), LIVER, np.uint8)
    for seed in range(8):
        hu, new = drawn(BALL, image, labels, seed, (2.0, 1.5, 1.5))
        coarse = drawn(BALL, *all_liver(SHAPE), seed, (2.0, 1.5, 1.5))
        np.testing.assert_array_equal(hu, coarse[0])
        assert (new == TUMOR).sum() == pytest.approx(4 * (coarse[1] == TUMOR).sum(), rel=0.04)
        repeated = np.repeat(np.repeat(coarse[1], 2, 1), 2, 2)
        assert (new != repeated).sum() < 0.15 * (new == TUMOR).sum()
        assert (new != repeated).any()


@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_nothing_but_the_liver_changes(seed: int) -> None:
    image, labels = liver_window(np.random.default_rng(seed), noise=0.05)
    hu, new = drawn(ALL, image, labels, seed, (2.0, 1.5, 1.5))
    assert (hu[labels != LIVER] == 0).all()
    assert (new[labels != LIVER] == labels[labels != LIVER]).all()
    assert set(np.unique(new[labels == LIVER])) <= {LIVER, TUMOR}


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_network_values_stay_within_their_scale(seed: int) -> None:
    image, labels = liver_window(np.random.default_rng(seed), noise=0.3)
    tumors = replace(ALL, darker_hu=(300.0, 400.0))
    draw_tumors(image, labels, tumors, (1.0, 1.0, 1.0), SCALE, np.random.default_rng(seed))
    assert image.dtype == np.float32
    assert image.min() >= SCALE.low
    assert image.max() <= SCALE.high


def test_without_liver_nothing_is_drawn() -> None:
    image, labels = liver_window(np.random.default_rng(0))
    labels[labels == LIVER] = BACKGROUND
    hu, new = drawn(ALL, image, labels)
    assert (hu == 0).all()
    np.testing.assert_array_equal(new, labels)


def test_what_is_full_of_lesions_takes_no_more() -> None:
    hu, new = drawn(replace(BALL, most=40), *all_liver((6, 6, 6)))
    assert (new == TUMOR).all()
    assert hu.min() >= -41


def test_decoys_darken_the_liver_and_leave_its_label() -> None:
    image, labels = all_liver(SHAPE)
    hu, new = drawn(replace(BALL, probability=0.0, decoys=DECOYS), image, labels)
    np.testing.assert_array_equal(new, labels)
    assert hu.min() == pytest.approx(-40, abs=2)
    assert 0.001 < (hu < -20).mean() < 0.1


# What is added to the image


@pytest.mark.parametrize(("brighter_share", "contrast"), [(0.0, -40.0), (1.0, 30.0)])
def test_a_lesion_has_the_contrast_that_was_drawn(brighter_share: float, contrast: float) -> None:
    image, labels = all_liver(SHAPE)
    hu, new = drawn(replace(BALL, brighter_share=brighter_share), image, labels)
    tumor = new == TUMOR
    np.testing.assert_allclose(hu[deep(tumor, 3)], contrast, atol=0.01)
    np.testing.assert_allclose(hu[deep(~tumor, 4)], 0, atol=0.01)
    assert (np.abs(hu[tumor]) >= abs(contrast) / 2 - 0.01).all()
    assert (np.abs(hu[~tumor]) <= abs(contrast) / 2 + 0.01).all()


def test_without_fading_the_noise_stays_as_it_is() -> None:
    image, labels = noisy_liver()
    hu, new = drawn(BALL, image, labels)
    np.testing.assert_allclose(hu[deep(new == TUMOR, 3)], -40, atol=0.01)


def test_with_fading_most_of_the_noise_stays() -> None:
    image, labels = noisy_liver()
    hu, new = drawn(replace(BALL, fading=(1.0, 1.0), diameter_mm=(24.0, 24.0)), image, labels)
    inside = deep(new == TUMOR, 3)
    found = image / SCALE.units_per_hu + hu
    assert 0.8 * NOISE_HU < found[inside].std() < NOISE_HU
    assert found[inside].mean() == pytest.approx(200 - 40, abs=1)


def test_vessels_fade() -> None:
    image, labels = noisy_liver()
    vessel = np.zeros(SHAPE, bool)
    vessel[:, ::10], vessel[:, 1::10] = True, True  # a fifth of the liver, 80 HU brighter
    image[vessel] += 80 * SCALE.units_per_hu
    hu, new = drawn(replace(BALL, fading=(1.0, 1.0), diameter_mm=(24.0, 24.0)), image, labels)
    inside = deep(new == TUMOR, 3)
    found = image / SCALE.units_per_hu + hu
    assert found[inside & vessel].mean() - found[inside & ~vessel].mean() < 0.5 * 80
    assert found[inside & ~vessel].mean() == pytest.approx(200 - 40, abs=8)


def test_the_median_of_the_liver_is_what_fading_leads_to() -> None:
    image, labels = all_liver(SHAPE)
    image[ball((12, 20, 20), (6, 6, 6), SHAPE)] += 60 * SCALE.units_per_hu
    canvas = new_canvas(image, labels, (1.0, 1.0, 1.0), SCALE)
    box = Box((0, 0, 0), SHAPE, (1.0, 1.0, 1.0))
    add_offset(canvas, box, np.ones(SHAPE, np.float32), np.float32(-40), fading=1.0)
    expected = LIVER_VALUE - 40 * SCALE.units_per_hu
    np.testing.assert_allclose(canvas.image, expected, atol=1e-6)


def test_two_lesions_over_each_other_leave_no_seam() -> None:
    image, labels = all_liver(SHAPE)
    canvas = new_canvas(image, labels, (1.0, 1.0, 1.0), SCALE)
    box = Box((0, 0, 0), SHAPE, (1.0, 1.0, 1.0))
    for side in (1, -1):  # together all of the window, each half in its own lesion
        depth = np.broadcast_to(side * (np.arange(40, dtype=np.float32) - 19.5) + 3, SHAPE)
        add_offset(canvas, box, share_of(depth, 2.0), np.float32(-40), fading=0.0)
    expected = LIVER_VALUE - 40 * SCALE.units_per_hu
    np.testing.assert_allclose(canvas.image, expected, atol=0.02 * 40 * SCALE.units_per_hu)


def test_rims_are_brighter_and_cores_are_darker_than_the_rest() -> None:
    image, labels = all_liver(SHAPE)
    tumors = replace(BALL, diameter_mm=(30.0, 30.0))
    plain, new = drawn(tumors, image, labels)
    rimmed, _ = drawn(replace(tumors, rim_share=1.0), image, labels)
    cored, _ = drawn(replace(tumors, core_share=1.0), image, labels)
    inside, shell = deep(new == TUMOR, 8), (new == TUMOR) & ~deep(new == TUMOR, 3)
    assert np.abs((rimmed - plain)[inside]).max() < 0.1
    assert (rimmed - plain)[shell].max() == pytest.approx(20, abs=2)
    assert (cored - plain)[inside].min() == pytest.approx(-25, abs=2)
    assert np.abs((cored - plain)[shell]).mean() < 4


def test_small_lesions_can_be_seen() -> None:
    tumors = replace(BALL, darker_hu=(20.0, 80.0), visible_hu_mm=300.0)
    random = np.random.default_rng(0)
    contrasts = {
        mm: [draw_contrast(tumors, mm, random) for _ in range(200)] for mm in (2, 5, 10, 40)
    }
    assert {mm: max(values) for mm, values in contrasts.items()} == pytest.approx(
        {2: -80, 5: -60, 10: -30, 40: -20}, abs=1
    )
    assert min(contrasts[40]) < -75


# In samples


def with_tumors(recipe: Recipe, tumors: SyntheticTumors | None) -> Recipe:
    training = recipe.training
    augmentation = replace(training.augmentation, synthetic_tumors=tumors)
    return replace(recipe, training=replace(training, augmentation=augmentation))


WINDOWS = RECIPES["starter-tumor"].with_override("patch", "[16, 24, 24]")
SLICES = replace(
    RECIPES["rmau-net"],
    patch=(1, 24, 24),
    training=replace(
        RECIPES["rmau-net"].training,
        sampling=SliceSampling(liver_only=True, other_share=0.0, class_ratios=(1.0, 1.0, 1.0)),
    ),
)


def sample(recipe: Recipe, tumors: SyntheticTumors | None, seed: int) -> tuple[np.ndarray, ...]:
    image, labels = liver_window(np.random.default_rng(1), noise=0.02)
    finer = recipe.network.args.get("head_scale", (1, 1, 1))
    for axis, times in enumerate(finer):
        labels = np.repeat(labels, times, axis)
    case = prepared_case(image, labels, recipe, None, (2.0, 1.5, 1.5), SCALE)
    z = 12 if recipe is SLICES else None
    random = np.random.default_rng(seed)
    found = draw_sample(case, with_tumors(recipe, tumors), random, z)
    return (*(tensor.numpy() for tensor in found), random.random(4))


RECIPES_OF_BOTH_KINDS = pytest.mark.parametrize(
    "recipe", [WINDOWS, SLICES], ids=lambda recipe: recipe.name
)


@RECIPES_OF_BOTH_KINDS
def test_a_probability_of_0_leaves_samples_and_randomness_as_they_are(recipe: Recipe) -> None:
    never = replace(ALL, probability=0.0, decoys=replace(DECOYS, probability=0.0))
    for seed in range(3):
        for a, b in zip(sample(recipe, None, seed), sample(recipe, never, seed), strict=True):
            np.testing.assert_array_equal(a, b)


@RECIPES_OF_BOTH_KINDS
def test_samples_have_more_tumor_and_are_equal_from_equal_seeds(recipe: Recipe) -> None:
    more = 0
    for seed in range(6):
        image, labels, rest = sample(recipe, ALL, seed)
        again = sample(recipe, ALL, seed)
        for a, b in zip((image, labels, rest), again, strict=True):
            np.testing.assert_array_equal(a, b)
        more += (labels == TUMOR).sum() > (sample(recipe, None, seed)[1] == TUMOR).sum()
    assert more >= 4


def test_recipes_carry_the_option() -> None:
    recipe = with_tumors(WINDOWS, ALL)
    assert Recipe.from_json(recipe.to_json()) == recipe
    changed = recipe.with_override("training.augmentation.synthetic_tumors.probability", "0.25")
    assert changed == with_tumors(WINDOWS, replace(ALL, probability=0.25))
