"""Training samples: bit for bit the product's input without augmentation, sound ones with it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.intensity import Scale
from LiverTumorSegLib.preprocess import network_input, prepare, prepare_labels
from LiverTumorSegLib.recipe import (
    Augmentation,
    ControlPoints,
    FixedShape,
    LiverCrop,
    Recipe,
    SliceSampling,
    SmoothedNoise,
)
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.recipes.common import NO_AUGMENTATION
from LiverTumorSegLib.stage import run_stage
from Testing.phantom import ball, make_data_set
from Testing.training.prepared_cases import prepared_case
from Training.augment import (
    BEYOND_MM,
    Place,
    change_hu,
    draw_displacement,
    draw_matrix,
    draw_place,
    draw_sample,
    look_up,
    part_of,
    plain_window,
)
from Training.cache import (
    PreparedCase,
    output_scale,
    prepared_folder,
    read_prepared,
    with_measured_statistics,
)
from Training.dataset import DataSet, read_data_set
from Training.metrics import dice

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

MOVES = replace(
    NO_AUGMENTATION,
    flips=(0, 1, 2),
    rotation_degrees=(30.0, 15.0, 15.0),
    scale=(0.75, 1.35),
    stretch=(0.9, 1.1),
    crop=(0.8, 1.0),
    shift=0.1,
    elastic=ControlPoints(voxels=2.0, probability=0.5),
)
EVERYTHING = replace(
    MOVES,
    contrast=(0.8, 1.25),
    brightness_hu=40.0,
    liver_contrast_hu=50.0,
    noise_hu=20.0,
    blur_voxels=1.0,
)
LIVER = RECIPES["starter-liver"].with_override("preprocessing.resampling.shape", "[24, 32, 32]")
TUMOR = RECIPES["starter-tumor"].with_override("patch", "[24, 24, 24]")
SLICES = replace(
    RECIPES["rmau-net"],
    patch=(1, 24, 24),
    training=replace(
        RECIPES["rmau-net"].training,
        sampling=SliceSampling(liver_only=True, other_share=0.0, class_ratios=None),
    ),
)
VOLUMES = pytest.mark.parametrize("recipe", [LIVER, TUMOR], ids=lambda recipe: recipe.name)
ALL = pytest.mark.parametrize("recipe", [LIVER, TUMOR, SLICES], ids=lambda recipe: recipe.name)
# One of each way to prepare and to sample.
NAMES = [
    "starter-liver",
    "starter-tumor",
    "unet3d-liver",
    "elanres-msca-liver",
    "elanres-msca-tumor",
    "rmau-net",
    "rmau-net-half",
    "msa-unet",
    "dpc-net",
]


def with_augmentation(recipe: Recipe, augmentation: Augmentation) -> Recipe:
    return replace(recipe, training=replace(recipe.training, augmentation=augmentation))


def changing(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with this augmentation alone."""
    return with_augmentation(recipe, replace(NO_AUGMENTATION, **changes))


def without_chance(recipe: Recipe) -> Recipe:
    """No augmentation, and the liver's surroundings kept as far as at inference."""
    recipe = with_augmentation(recipe, NO_AUGMENTATION)
    crop = recipe.preprocessing.liver_crop
    if crop is None:
        return recipe
    fixed = replace(crop, training_mask_mm=(crop.mask_mm, crop.mask_mm))
    return replace(recipe, preprocessing=replace(recipe.preprocessing, liver_crop=fixed))


def on_small_grids(recipe: Recipe) -> Recipe:
    """The recipe with a window that is quick to compare, two of its sizes in need of padding."""
    flat = recipe.patch is not None and recipe.patch[0] == 1
    preprocessing = replace(recipe.preprocessing, pad_minimum=(1, 32, 48) if flat else (16, 32, 32))
    if isinstance(preprocessing.resampling, FixedShape):
        preprocessing = replace(preprocessing, resampling=FixedShape((24, 29, 26)))
    patch = (1, 20, 48) if flat else (32, 48, 16)
    return replace(recipe, patch=recipe.patch and patch, preprocessing=preprocessing)


def draw(case: PreparedCase, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor]:
    z = 12 if isinstance(recipe.training.sampling, SliceSampling) else None
    return draw_sample(case, recipe, np.random.default_rng(seed), z)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder: Path = tmp_path_factory.mktemp("augment")
    return read_data_set(make_data_set(folder, patients=2))


def target_case(recipe: Recipe) -> PreparedCase:
    """A ball of a tumor in a ball of a liver, the first target bright, on the recipe's grids.

    Air is -2 and bright 2, as some z-score would have it.
    """
    shape, spacing_mm = (24, 32, 32), (3.0, 2.0, 2.0)
    liver = ball((11.5, 15.5, 15.5), (10, 14, 14), shape)
    tumor = ball((10.5, 14.5, 17.5), (5, 7.5, 7.5), shape)
    image = np.where(liver, np.float32(-0.4), np.float32(-1.6))
    image[tumor if recipe.target == "tumor" else liver] = 1.6
    distance = ndimage.distance_transform_edt(~liver, sampling=spacing_mm).astype(np.float32)
    labels = liver.astype(np.uint8) + tumor
    for axis, times in enumerate(output_scale(recipe)):
        labels = labels.repeat(times, axis)
    return prepared_case(image, labels, recipe, distance, spacing_mm, Scale(-2.0, 2.0, 0.01))


def target_of(labels: Tensor, recipe: Recipe) -> np.ndarray:
    """The recipe's (first) target on the image's grid: voxels that are at least half target."""
    target = (labels == 2 if recipe.target == "tumor" else labels > 0).float()
    return F.avg_pool3d(target[None], output_scale(recipe))[0, 0].numpy() >= 0.5


# Without augmentation: the input of the product


class Recorder(nn.Module):
    """Keeps what it is given to predict."""

    dimensions = 3

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.clone()
        return torch.zeros_like(x)


@pytest.mark.parametrize("name", ["starter-liver", "unet3d-liver"])
def test_a_whole_grid_is_what_the_product_feeds_its_network(data: DataSet, name: str) -> None:
    recipe = on_small_grids(without_chance(RECIPES[name]))
    for case in data.cases:
        image, _ = draw(read_prepared(prepared_folder(data, case, recipe)), recipe, seed=0)
        network = Recorder()
        model = Model(recipe.name, recipe, {}, "", network)
        cpu = torch.device("cpu")
        run_stage(data.volume(case), model, cpu, "torch", False, False, lambda fraction: None)
        assert network.seen.shape == (1, 1, 24, 32, 32)
        assert torch.equal(image, network.seen[0])
        assert 0 < image.mean() < 1


@pytest.mark.parametrize("name", NAMES)
def test_a_window_is_a_part_of_what_the_product_prepares(data: DataSet, name: str) -> None:
    """Image, blanking, padding and labels; only where the window lies is drawn.

    Where that is tells a second case, whose voxels are their own numbers.
    """
    recipe = on_small_grids(without_chance(RECIPES[name]))
    recipe = with_measured_statistics(recipe, data, list(data.cases))
    scale = output_scale(recipe)
    for case, seed in itertools.product(data.cases, range(2)):
        labels = data.labels(case)
        prepared = prepare(data.volume(case), recipe.preprocessing, labels > 0)
        low = prepared.scale.low
        crop = recipe.preprocessing.liver_crop
        seen = network_input(prepared, crop.mask_mm if crop else None)
        method = recipe.preprocessing.label_interpolation
        wanted = prepare_labels(labels, prepared.grid, scale, method)

        stored = read_prepared(prepared_folder(data, case, recipe))
        image, found_labels = draw(stored, recipe, seed)
        numbers = np.arange(1, prepared.image.size + 1).reshape(prepared.image.shape)
        distance = stored.liver_distance_mm
        numbered = replace(
            stored,
            image=(numbers / 2**24).astype(np.float32),
            liver_distance_mm=None if distance is None else np.zeros_like(distance),
            scale=Scale(0.0, 1.0, 1.0),
        )
        found = draw(numbered, recipe, seed)[0][0].numpy()
        inside = np.argwhere(found)
        assert len(inside)
        number = int(found[tuple(inside[0])] * 2**24) - 1
        start = np.array(np.unravel_index(number, numbers.shape)) - inside[0]

        patch = np.array(image.shape[1:])
        assert np.array_equal(patch, recipe.patch or seen.shape)
        padding = [before for before, _ in prepared.grid.padding]
        around_it = np.pad(seen, patch[:, None], constant_values=low)
        window = part(around_it, start + padding + patch, patch)
        assert np.array_equal(image[0].numpy(), window)
        assert (window > low).any()
        margin = patch * scale
        expected = part(np.pad(wanted, margin[:, None]), (start + patch) * scale, margin)
        assert found_labels.dtype == torch.uint8
        assert np.array_equal(found_labels[0].numpy(), expected)


def part(array: np.ndarray, start: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return array[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*[st.integers(-9, 9)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.integers(1, 6)] * 3),
)
def test_a_plain_window_is_a_part_with_fill_around(
    start: tuple[int, ...], shape: tuple[int, ...], size: tuple[int, ...]
) -> None:
    volume = np.arange(1.0, np.prod(size) + 1, dtype=np.float32).reshape(size)
    got = plain_window(volume, np.array(start), shape, -3.0)
    wide = np.pad(volume, 20, constant_values=-3.0)
    assert np.array_equal(got, part(wide, np.array(start) + 20, np.array(shape)))


# Looking up


def moved(place: Place) -> Place:
    """The same window by way of interpolation."""
    return replace(place, matrix=np.eye(3))


def place_at(start: tuple[int, int, int], shape: tuple[int, int, int]) -> Place:
    pivot = np.array(start) + np.array(shape) / 2
    return Place(np.array(start), shape, pivot, pivot, None, None)


@pytest.mark.parametrize("start", [(2, 3, 1), (-3, 5, -2), (6, -4, 9), (40, 0, 0)])
@pytest.mark.parametrize("scale", [(1, 1, 1), (1, 2, 2)])
def test_interpolation_by_the_identity_is_the_plain_window(
    start: tuple[int, int, int], scale: tuple[int, int, int]
) -> None:
    random = np.random.default_rng(0)
    volume = random.random(np.multiply((14, 20, 18), scale)).astype(np.float32)
    place = place_at(start, (8, 16, 16))
    expected = look_up(volume, place, scale, -7.0, "bilinear")
    smooth = look_up(volume, moved(place), scale, -7.0, "bilinear")
    assert smooth.shape == expected.shape == tuple(np.multiply((8, 16, 16), scale))
    assert np.abs(smooth - expected).max() <= 1e-5
    nearest = look_up(volume, moved(place), scale, -7.0, "nearest")
    assert np.array_equal(nearest, expected)


def test_a_moved_window_is_what_scipy_makes_of_it() -> None:
    """Rotated, scaled, off the middle and bent, partly beyond the volume, whose fill is -1."""
    random = np.random.default_rng(0)
    volume = ndimage.gaussian_filter(random.random((14, 20, 18)), 1).astype(np.float32)
    shape = (9, 14, 12)
    matrix = draw_matrix(MOVES, (3.0, 1.0, 1.5), False, np.random.default_rng(3))
    field = draw_displacement(replace(MOVES.elastic, probability=1.0), shape, random)
    place = replace(
        place_at((7, -3, 5), shape),
        matrix=matrix,
        origin=np.array([10.3, 5.1, 9.7]),
        displacement=field,
    )
    middles = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij"))
    offsets = middles - np.array(shape)[:, None, None, None] / 2
    positions = np.einsum("ij,jzyx->izyx", matrix, offsets)
    positions = positions + place.origin[:, None, None, None] + field[0].numpy() - 0.5
    expected = ndimage.map_coordinates(
        np.pad(volume, 20, constant_values=-1.0), positions + 20, order=1
    )
    found = look_up(volume, place, (1, 1, 1), -1.0, "bilinear")
    assert np.abs(found - expected).max() <= 1e-5
    assert (expected == -1).any()
    assert (expected > 0).any()


@pytest.mark.parametrize("bent", [False, True])
def test_a_part_of_a_window_is_looked_up_at_the_same_positions(bent: bool) -> None:
    """So a window of a slice is the same whether it is cut out before or after interpolation."""
    random = np.random.default_rng(0)
    volume = random.random((5, 30, 40)).astype(np.float32)
    elastic = SmoothedNoise(alpha=(90.0, 90.0), sigma_voxels=(5.0, 5.0), probability=float(bent))
    changes = replace(MOVES, rotation_degrees=(30.0, 0.0, 0.0), elastic=elastic)
    place = draw_place(changes, np.array([2, 0, 0]), (1, 30, 40), (3.0, 1.0, 1.0), random)
    assert (place.displacement is not None) == bent
    whole = look_up(volume, place, (1, 1, 1), 0.0, "bilinear")
    smaller = part_of(place, np.array([0, 7, 12]), (1, 16, 20))
    cut = look_up(volume, smaller, (1, 1, 1), 0.0, "bilinear")
    assert np.abs(cut - whole[:, 7:23, 12:32]).max() <= 1e-5


# Changes of place


@ALL
def test_flips_are_exact(recipe: Recipe) -> None:
    case, plain = target_case(recipe), without_chance(recipe)
    only_flips = with_augmentation(plain, replace(NO_AUGMENTATION, flips=(0, 1, 2)))
    seen = set()
    for seed in range(40):
        image, labels = draw(case, plain, seed)
        flipped, flipped_labels = draw(case, only_flips, seed)
        fitting = [
            axes
            for count in range(4)
            for axes in itertools.combinations((1, 2, 3), count)
            if torch.equal(flipped, image.flip(axes))
            and torch.equal(flipped_labels, labels.flip(axes))
        ]
        assert fitting
        seen.update(fitting)
    assert len(seen) == 8  # every combination came up


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flips_are_as_frequent_as_said(probability: float) -> None:
    flipping = changing(LIVER, flips=(2,), flip_probability=probability)
    case = target_case(LIVER)
    ramp = np.arange(32, dtype=np.float32) / 32
    case = replace(case, image=np.broadcast_to(ramp, case.image.shape))
    images = [draw(case, flipping, seed)[0][0, 0, 0] for seed in range(200)]
    flipped = np.mean([image[0].item() > image[-1].item() for image in images])
    assert flipped == pytest.approx(probability, abs=0.1)  # standard deviation 0.03


@ALL
def test_the_labels_move_with_the_image(recipe: Recipe) -> None:
    case = target_case(recipe)
    moving, still = with_augmentation(recipe, MOVES), changing(recipe)
    unmoved = []
    for seed in range(20):
        image, labels = draw(case, moving, seed)
        mask = target_of(labels, recipe)
        if mask.sum() < 200:
            continue  # too little of the target in this window to compare by Dice
        assert dice(image[0].numpy() > 0.6, mask) > 0.9
        unmoved.append(dice(target_of(draw(case, still, seed)[1], recipe), mask))
    assert len(unmoved) >= 10
    assert np.median(unmoved) < 0.97
    assert min(unmoved) < 0.9


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_scale_is_the_factor_of_size(factor: float) -> None:
    case = target_case(LIVER)
    scaled = changing(LIVER, scale=(factor, factor))
    volumes = [(draw(case, r, 0)[1] > 0).sum().item() for r in (scaled, without_chance(LIVER))]
    assert volumes[0] / volumes[1] == pytest.approx(min(factor**3, 24 * 32 * 32), rel=0.05)


def factors(seeds: int, **changes: Any) -> np.ndarray:
    """Factors of size (z, y, x) of so many samples without rotation."""
    augmentation = replace(NO_AUGMENTATION, **changes)
    matrices = [
        draw_matrix(augmentation, (3.0, 1.0, 1.0), False, np.random.default_rng(seed))
        for seed in range(seeds)
    ]
    assert all(np.allclose(matrix, np.diag(np.diag(matrix))) for matrix in matrices)
    return np.array([1 / np.diag(matrix) for matrix in matrices])


def test_scale_is_one_factor_uniform_in_its_range() -> None:
    found = factors(600, scale=(0.8, 1.2))
    assert np.allclose(found, found[:, :1])
    quarters = np.histogram(found[:, 0], 4, (0.8, 1.2))[0]
    assert quarters.sum() == 600
    assert quarters.min() > 110  # 150 each, standard deviation 11


def test_stretch_has_a_uniform_factor_for_each_axis() -> None:
    found = factors(600, stretch=(0.5, 2.0))
    for axis in range(3):
        quarters = np.histogram(found[:, axis], 4, (0.5, 2.0))[0]
        assert quarters.sum() == 600
        assert quarters.min() > 110
    assert np.abs(np.corrcoef(found.T)[np.triu_indices(3, 1)]).max() < 0.2


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_scale_and_rotation_are_as_frequent_as_said(probability: float) -> None:
    found = factors(300, scale=(2.0, 3.0), scale_probability=probability)
    assert (found[:, 0] != 1).mean() == pytest.approx(probability, abs=0.1)
    turning = replace(
        NO_AUGMENTATION, rotation_degrees=(9.0, 9.0, 9.0), rotation_probability=probability
    )
    randoms = [np.random.default_rng(seed) for seed in range(300)]
    matrices = [draw_matrix(turning, (1.0, 1.0, 1.0), False, random) for random in randoms]
    turned = [not np.array_equal(matrix, np.eye(3)) for matrix in matrices]
    assert np.mean(turned) == pytest.approx(probability, abs=0.1)


def test_rotation_is_one_in_millimeters() -> None:
    """On a grid of 5x1x1 mm a rotation must not shear: in mm the matrix stays orthogonal."""
    turning = replace(NO_AUGMENTATION, rotation_degrees=(30.0, 15.0, 15.0))
    millimeters = np.diag([5.0, 1.0, 1.0])
    angles = []
    for seed in range(50):
        matrix = draw_matrix(turning, (5.0, 1.0, 1.0), False, np.random.default_rng(seed))
        rotation = millimeters @ matrix @ np.linalg.inv(millimeters)
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
        angles.append(np.degrees(np.arccos((np.trace(rotation) - 1) / 2)))
    assert 15 < max(angles) <= 30 + 2 * 15
    assert np.std(angles) > 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_has_its_own_largest_angle(axis: int) -> None:
    degrees = [0.0, 0.0, 0.0]
    degrees[axis] = 20.0
    turning = replace(NO_AUGMENTATION, rotation_degrees=tuple(degrees))
    found = []
    for seed in range(100):
        matrix = draw_matrix(turning, (1.0, 1.0, 1.0), False, np.random.default_rng(seed))
        assert np.array_equal(matrix[axis], np.eye(3)[axis])
        low, high = [i for i in range(3) if i != axis]
        found.append(np.degrees(np.arctan2(matrix[high, low], matrix[low, low])))
    assert np.abs(found).max() <= 20
    assert min(found) < -12
    assert max(found) > 12


def test_shift_moves_whole_voxels_within_its_share() -> None:
    ramp = np.arange(1, 25, dtype=np.float32)[:, None, None] / 32
    ramp = replace(target_case(LIVER), image=np.broadcast_to(ramp, (24, 32, 32)))
    shifts = []
    for seed in range(30):
        image, _ = draw(ramp, changing(LIVER, shift=0.25), seed)
        line = image[0].amax((1, 2)).numpy() * 32
        inside = np.flatnonzero(line > 0)
        (shift,) = {round(line[z]) - 1 - z for z in inside}
        assert (image[0, line < 0] == -2).all()  # air, where the window is beyond the image
        shifts.append(shift)
    assert max(np.abs(shifts)) <= 0.25 * 24
    assert min(shifts) < -2
    assert max(shifts) > 2


def test_a_crop_keeps_its_share_of_each_side_and_fills_the_window() -> None:
    """What a crop shows of an image whose values are the places, in the plane alone."""
    place = np.mgrid[:24, :32, :32].astype(np.float32)
    case = target_case(LIVER)
    kept, first = [], []
    for seed in range(40):
        seen = [
            draw(replace(case, image=coordinate), changing(LIVER, crop=(0.5, 0.8)), seed)[0][0]
            for coordinate in place
        ]
        inner = (..., slice(1, -1), slice(1, -1))  # the ends blend with what is beyond
        assert np.abs(seen[0].numpy() - place[0])[inner].max() < 1e-4
        y, x = seen[1][0, 1:-1, 16], seen[2][0, 16, 1:-1]
        steps = torch.stack([y.diff(), x.diff()])
        assert (steps - steps.mean(1, keepdim=True)).abs().max() < 1e-3
        kept.append(steps.mean(1).tolist())
        first.append([y[0].item() + 0.5 - 1.5 * kept[-1][0], x[0].item() + 0.5 - 1.5 * kept[-1][1]])
    kept, first = np.array(kept), np.array(first)
    assert kept.min() >= 0.5
    assert kept.max() <= 0.8
    assert (np.ptp(kept, axis=0) > 0.2).all()
    assert np.abs(kept[:, 0] - kept[:, 1]).max() > 0.1  # each side has its own
    assert (first > -1e-3).all()
    assert (first + 32 * kept < 32 + 1e-3).all()
    free = first / (32 * (1 - kept))
    assert free.min() < 0.1
    assert free.max() > 0.9


def test_control_points_displace_by_as_much_as_said_and_smoothly() -> None:
    elastic = ControlPoints(voxels=2.0, probability=0.5)
    drawn = [draw_displacement(elastic, (24, 32, 32), np.random.default_rng(s)) for s in range(200)]
    fields = [field for field in drawn if field is not None]
    assert 70 < len(fields) < 130  # half of them, standard deviation 7
    for field in fields[:10]:
        assert field.shape == (1, 3, 24, 32, 32)
        assert 1.5 < field.abs().max() <= 2
        assert max(field.diff(dim=axis).abs().max() for axis in (2, 3, 4)) < 1
    assert draw_displacement(None, (24, 32, 32), np.random.default_rng(0)) is None


@pytest.mark.parametrize("shape", [(40, 44, 48), (1, 120, 100)])
def test_smoothed_noise_is_what_smoothing_every_voxel_gives(shape: tuple[int, int, int]) -> None:
    """Noise of variance 1/3 under a Gaussian has variance 1 / 3 (2 sqrt(pi) sigma)^axes.

    Its correlation at a distance of d is exp(-d^2 / 4 sigma^2). Away from the border, where it
    fades as with zeros around.
    """
    sigma, alpha, axes = 4.0, 100.0, sum(n > 1 for n in shape)
    elastic = SmoothedNoise((alpha, alpha), (sigma, sigma), probability=1.0)
    fields = [draw_displacement(elastic, shape, np.random.default_rng(s))[0] for s in range(40)]
    values = torch.stack(fields)
    inner = values[..., 12:-12, 12:-12] if axes == 2 else values[..., 12:-12, 12:-12, 12:-12]
    moved = inner if axes == 3 else inner[:, 1:]
    expected = alpha * (1 / 3 / (2 * np.pi**0.5 * sigma) ** axes) ** 0.5
    assert moved.std().item() == pytest.approx(expected, rel=0.08)
    assert moved.mean().abs().item() < 0.1 * expected
    for distance in (4, 8):
        pairs = (moved[..., distance:] * moved[..., :-distance]).mean() / moved.square().mean()
        assert pairs.item() == pytest.approx(np.exp(-(distance**2) / 4 / sigma**2), abs=0.08)
    if axes == 2:
        assert (values[:, 0] == 0).all()


def test_smoothed_noise_draws_its_numbers_from_their_ranges() -> None:
    elastic = SmoothedNoise(alpha=(0.0, 900.0), sigma_voxels=(9.0, 13.0), probability=0.2)
    drawn = [draw_displacement(elastic, (32, 32, 32), np.random.default_rng(s)) for s in range(300)]
    fields = [field for field in drawn if field is not None]
    assert 38 < len(fields) < 82  # a fifth of them, standard deviation 7
    sizes = [field.std().item() for field in fields]
    assert max(sizes) > 3 * np.median(sizes) / 2
    assert min(sizes) < 0.4


# Slices

EVERY_MOVE_IN_A_SLICE = [
    {"flips": (0, 1, 2), "flip_probability": 1.0},
    {"rotation_degrees": (40.0, 40.0, 40.0)},
    {"scale": (0.5, 2.0)},
    {"stretch": (0.5, 2.0)},
    {"crop": (0.5, 1.0)},
    {"shift": 2.0},
    {"elastic": ControlPoints(3.0, 1.0)},
    {"elastic": SmoothedNoise((90.0, 90.0), (4.0, 4.0), 1.0)},
]


@pytest.mark.parametrize("class_ratios", [None, (1.0, 2.0, 1.0)])
@pytest.mark.parametrize("changes", EVERY_MOVE_IN_A_SLICE, ids=lambda changes: next(iter(changes)))
def test_nothing_moves_a_sample_to_another_slice(
    changes: dict[str, Any], class_ratios: tuple[float, float, float] | None
) -> None:
    """The slices next to it are so bright, and labeled tumor, that a trace of them would show."""
    z = 7
    image = np.full((16, 40, 40), 1e6, np.float32)
    image[z] = 0.5
    labels = np.full(image.shape, 2, np.uint8)
    labels[z] = 1
    case = prepared_case(image, labels, SLICES, scale=Scale(0.5, 1e6, 1.0), spacing_mm=(9.0, 1, 1))
    sampling = SliceSampling(liver_only=True, other_share=0.0, class_ratios=class_ratios)
    recipe = changing(SLICES, **changes)
    recipe = replace(recipe, training=replace(recipe.training, sampling=sampling))
    for seed in range(10):
        found, found_labels = draw_sample(case, recipe, np.random.default_rng(seed), z)
        assert (found - 0.5).abs().max() < 1e-5
        assert set(found_labels.unique().tolist()) <= {0, 1}


def slices_by_class(ratios: tuple[float, float, float], **changes: Any) -> Recipe:
    sampling = SliceSampling(liver_only=True, other_share=0.0, class_ratios=ratios)
    recipe = changing(SLICES, **changes)
    return replace(recipe, training=replace(recipe.training, sampling=sampling))


def test_a_window_on_a_class_is_cut_from_the_augmented_slice() -> None:
    """As if the whole slice had been interpolated first: where the window is, tells a search."""
    case = target_case(SLICES)
    random = np.random.default_rng(5)
    case = replace(case, image=random.random(case.image.shape).astype(np.float32))
    changes = {"rotation_degrees": (30.0, 0.0, 0.0), "scale": (0.8, 1.2)}
    recipe = slices_by_class((0.0, 1.0, 1.0), **changes)
    for seed in range(5):
        random = np.random.default_rng(seed)
        place = draw_place(
            recipe.training.augmentation, np.array([12, 0, 0]), (1, 32, 32), (3.0, 2.0, 2.0), random
        )
        whole = look_up(case.image, place, (1, 1, 1), case.scale.low, "bilinear")
        labels = look_up(case.labels, place, (1, 1, 1), 0, "nearest")
        found, found_labels = draw_sample(case, recipe, np.random.default_rng(seed), 12)
        fitting = [
            (y, x)
            for y, x in itertools.product(range(9), range(9))
            if np.abs(found[0].numpy() - whole[:, y : y + 24, x : x + 24]).max() < 1e-4
        ]
        assert len(fitting) == 1
        ((y, x),) = fitting
        assert np.array_equal(found_labels[0].numpy(), labels[:, y : y + 24, x : x + 24])


def test_a_window_on_a_class_stays_inside_the_slice() -> None:
    case = target_case(SLICES)  # all of it above air
    for seed in range(20):
        image, _ = draw_sample(
            case, slices_by_class((1.0, 0.0, 0.0)), np.random.default_rng(seed), 12
        )
        assert image.shape == (1, 1, 24, 24)
        assert image.min() > case.scale.low


def test_a_slice_smaller_than_the_window_is_padded_with_air() -> None:
    case = prepared_case(
        np.ones((3, 10, 30), np.float32),
        np.ones((3, 10, 30), np.uint8),
        SLICES,
        scale=Scale(-1, 1, 1),
    )
    for recipe in (changing(SLICES), slices_by_class((1.0, 1.0, 1.0))):
        image, labels = draw_sample(case, recipe, np.random.default_rng(0), 1)
        expected = np.full((24, 24), -1.0)
        expected[7:17] = 1
        assert np.array_equal(image[0, 0].numpy(), expected)
        assert np.array_equal(labels[0, 0].numpy(), expected > 0)


# HU


def hu_changed(seed: int, **changes: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image in the middle of a window of 400 HU from -1 to 1, what it became, and the liver."""
    image = np.random.default_rng(0).random((4, 16, 16), dtype=np.float32) * 0.4 - 0.2
    liver = np.zeros(image.shape, dtype=bool)
    liver[:, 4:12, 4:12] = True
    augmentation = replace(NO_AUGMENTATION, **changes)
    random = np.random.default_rng(seed)
    changed = change_hu(image.copy(), liver, augmentation, Scale(-1.0, 1.0, 0.005), random)
    assert changed.dtype == np.float32
    return image, changed, liver


def test_no_change_of_hu_changes_no_bit() -> None:
    image, changed, _ = hu_changed(0)
    assert np.array_equal(image, changed)


def test_contrast_turns_about_the_middle_of_the_window() -> None:
    image, changed, _ = hu_changed(0, contrast=(1.2, 1.2))
    assert np.allclose(changed, image * 1.2)
    scale = Scale(-0.75, 3.75, 0.04)  # the middle is 1.5
    augmentation = replace(NO_AUGMENTATION, contrast=(2.0, 2.0))
    image = np.array([[[1.0, 1.5, 2.5, 3.0]]], np.float32)
    random = np.random.default_rng(0)
    changed = change_hu(image, image > 9, augmentation, scale, random)
    assert np.allclose(changed, [[[0.5, 1.5, 3.5, 3.75]]])  # the last one clamped


def test_brightness_shifts_all_voxels_within_its_range() -> None:
    shifts = []
    for seed in range(30):
        image, changed, _ = hu_changed(seed, brightness_hu=40.0)
        difference = changed - image
        assert np.ptp(difference) < 1e-6
        shifts.append(difference.mean())
    assert max(np.abs(shifts)) <= 0.2 + 1e-6
    assert min(shifts) < -0.1
    assert max(shifts) > 0.1


def test_liver_contrast_shifts_liver_and_tumor_alone() -> None:
    shifts = []
    for seed in range(30):
        image, changed, liver = hu_changed(seed, liver_contrast_hu=40.0)
        difference = changed - image
        assert np.abs(difference[~liver]).max() < 1e-6
        assert np.ptp(difference[liver]) < 1e-6
        shifts.append(difference[liver].mean())
    assert max(np.abs(shifts)) <= 0.2 + 1e-6
    assert min(shifts) < -0.1
    assert max(shifts) > 0.1


def test_liver_contrast_follows_the_labels() -> None:
    for recipe in (LIVER, TUMOR, SLICES):
        case = replace(target_case(recipe), image=np.zeros((24, 32, 32), np.float32))
        case = replace(case, liver_distance_mm=None)
        brighter = changing(recipe, liver_contrast_hu=100.0)
        image, labels = draw(case, brighter, 0)
        scale = output_scale(recipe)
        liver = labels[:, :: scale[0], :: scale[1], :: scale[2]] > 0
        values = image[liver].unique()
        assert len(values) == 1
        assert abs(values.item()) > 0.01


def test_noise_has_mean_zero_and_the_deviation_said() -> None:
    deviations = []
    for seed in range(30):
        image, changed, _ = hu_changed(seed, noise_hu=40.0)
        assert abs((changed - image).mean()) < 0.03
        deviations.append((changed - image).std())
    assert max(deviations) <= 0.22
    assert max(deviations) > 0.14
    assert min(deviations) < 0.06


def test_blur_stays_in_the_slice() -> None:
    augmentation = replace(NO_AUGMENTATION, blur_voxels=1.0)
    image = np.zeros((5, 15, 15), np.float32)
    image[2, 7, 7] = 1.0
    spread = 0
    for seed in range(10):
        random = np.random.default_rng(seed)
        changed = change_hu(image.copy(), image > 9, augmentation, Scale(-1.0, 1.0, 1.0), random)
        assert np.abs(changed[[0, 1, 3, 4]]).max() == 0
        assert changed.sum() == pytest.approx(1, abs=1e-4)
        spread += changed[2, 7, 8] > 0.01
    assert spread >= 5


# All together


@ALL
def test_a_sample_is_a_function_of_its_generator(recipe: Recipe) -> None:
    case = target_case(recipe)
    augmented = with_augmentation(recipe, EVERYTHING)
    before = case.image.copy()
    for seed in range(3):
        first, second = draw(case, augmented, seed), draw(case, augmented, seed)
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert not torch.equal(first[0], draw(case, augmented, seed + 100)[0])
    assert np.array_equal(case.image, before)


@ALL
def test_values_stay_in_the_range_of_the_network(recipe: Recipe) -> None:
    case = target_case(recipe)
    for seed in range(20):
        image, labels = draw(case, with_augmentation(recipe, EVERYTHING), seed)
        assert image.shape[1:] == (recipe.patch or (24, 32, 32))
        assert labels.shape[1:] == tuple(np.multiply(image.shape[1:], output_scale(recipe)))
        assert image.dtype == torch.float32
        assert labels.dtype == torch.uint8
        assert image.min() >= -2
        assert image.max() <= 2
        assert set(labels.unique().tolist()) <= {0, 1, 2}


def test_a_sample_reads_a_case_that_is_not_to_be_written() -> None:
    case = target_case(SLICES)
    for array in (case.image, case.labels):
        array.flags.writeable = False
    image, labels = draw(case, changing(SLICES), 0)
    image += 1
    labels += 1


@pytest.mark.parametrize("mask_mm", [(0.0, 0.0), (5.0, 5.0), (0.0, 6.0)])
def test_what_is_far_from_the_liver_is_exactly_air(mask_mm: tuple[float, float]) -> None:
    """Also after noise and brightness, which come first: inference has plain air there."""
    crop = LiverCrop(
        margin_voxels=(4, 16, 16), mask_mm=3.0, training_mask_mm=mask_mm, median_hu=None
    )
    whole_grid = replace(TUMOR.preprocessing, liver_crop=crop, pad_minimum=(32, 40, 40))
    recipe = replace(TUMOR, patch=None, preprocessing=replace(whole_grid, pad_multiple=(1, 1, 1)))
    noisy = changing(recipe, noise_hu=5.0, brightness_hu=15.0)
    case = target_case(TUMOR)
    distance = plain_window(case.liver_distance_mm, np.array([-4] * 3), (32, 40, 40), BEYOND_MM)
    kept = []
    for seed in range(10):
        values = draw(case, noisy, seed)[0][0].numpy()
        assert (values[distance > mask_mm[1]] == -2).all()
        assert (values[distance <= mask_mm[0]] > -2).all()
        kept.append((values > -2).sum())
    assert (len(set(kept)) > 1) == (mask_mm[0] < mask_mm[1])
