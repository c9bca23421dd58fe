"""Training windows: bit for bit the product's input without augmentation, sound ones with it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.preprocess import network_input, prepare, prepare_labels
from LiverTumorSegLib.recipe import Augmentation, LiverCrop, Recipe, Sampling
from LiverTumorSegLib.recipes import NO_AUGMENTATION, RECIPES
from LiverTumorSegLib.segment import run_stage
from Testing.phantom import ball, make_data_set
from Training.augment import (
    Source,
    change_hu,
    draw_center,
    draw_field,
    draw_matrix,
    draw_sample,
    exact_window,
    make_source,
    window_grid,
)
from Training.dataset import DataSet, PreparedCase, output_scale, prepared_case, read_data_set
from Training.metrics import dice

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

EVERYTHING = Augmentation(
    flips=(0, 1, 2),
    rotation_degrees=30.0,
    scale=(0.75, 1.35),
    stretch=(0.9, 1.1),
    shift=0.1,
    elastic_voxels=2.0,
    contrast=(0.8, 1.25),
    brightness_hu=40.0,
    liver_contrast_hu=50.0,
    noise_hu=20.0,
    blur_voxels=1.0,
)
MOVES = replace(
    EVERYTHING,
    contrast=(1.0, 1.0),
    brightness_hu=0.0,
    liver_contrast_hu=0.0,
    noise_hu=0.0,
    blur_voxels=0.0,
)
LIVER = RECIPES["starter-liver"].with_override("preprocessing.shape", "[24, 32, 32]")
TUMOR = RECIPES["starter-tumor"].with_override("patch", "[24, 24, 24]")
BOTH = pytest.mark.parametrize("recipe", [LIVER, TUMOR], ids=lambda recipe: recipe.name)


def with_augmentation(recipe: Recipe, augmentation: Augmentation) -> Recipe:
    return replace(recipe, training=replace(recipe.training, augmentation=augmentation))


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
    preprocessing = replace(recipe.preprocessing, pad_minimum=(16, 32, 32))
    if preprocessing.shape:
        preprocessing = replace(preprocessing, shape=(24, 29, 26))
    return replace(recipe, patch=recipe.patch and (32, 48, 16), preprocessing=preprocessing)


def draw(source: Source, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor]:
    return draw_sample(source, recipe, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder: Path = tmp_path_factory.mktemp("augment")
    return read_data_set(make_data_set(folder, patients=2))


def target_case(recipe: Recipe) -> PreparedCase:
    """A ball of a tumor in a ball of a liver, tumor and liver bright, on the recipe's grids."""
    shape, spacing_mm = (24, 32, 32), (3.0, 2.0, 2.0)
    liver = ball((11.5, 15.5, 15.5), (10, 14, 14), shape)
    tumor = ball((10.5, 14.5, 17.5), (5, 7.5, 7.5), shape)
    image = np.where(liver, np.float32(0.4), np.float32(0.1))
    image[tumor if recipe.target == "tumor" else liver] = 0.9
    distance = ndimage.distance_transform_edt(~liver, sampling=spacing_mm).astype(np.float32)
    labels = (liver.astype(np.uint8) + tumor).repeat(output_scale(recipe)[1], 1)
    labels = labels.repeat(output_scale(recipe)[2], 2)
    return PreparedCase("ball", image, distance, labels, spacing_mm)


def coarse(target: Tensor, recipe: Recipe) -> np.ndarray:
    """A target on the image's grid: voxels that are at least half foreground."""
    return F.avg_pool3d(target[None], output_scale(recipe))[0, 0].numpy() >= 0.5


# Without augmentation: the input of the product


class Recorder(nn.Module):
    """Keeps what it is given to predict."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.clone()
        return torch.zeros_like(x)


@pytest.mark.parametrize("name", [name for name, r in RECIPES.items() if r.patch is None])
def test_a_whole_grid_is_what_the_product_feeds_its_network(data: DataSet, name: str) -> None:
    recipe = on_small_grids(without_chance(RECIPES[name]))
    for case in data.cases:
        image, _ = draw(make_source(prepared_case(data, case, recipe)), recipe, seed=0)
        network = Recorder()
        model = Model(recipe.name, recipe, {}, "", network)
        cpu = torch.device("cpu")
        run_stage(data.volume(case), model, cpu, "torch", False, False, lambda fraction: None)
        assert network.seen.shape == (1, 1, 24, 32, 32)
        assert torch.equal(image, network.seen[0])
        assert 0 < image.mean() < 1


@pytest.mark.parametrize("name", RECIPES)
def test_a_window_is_a_slice_of_what_the_product_prepares(data: DataSet, name: str) -> None:
    """Image, blanking, padding and target, for every recipe; only where the window lies is drawn.

    Where that is tells a second source, whose voxels are their own numbers.
    """
    recipe = on_small_grids(without_chance(RECIPES[name]))
    scale = output_scale(recipe)
    for case, seed in itertools.product(data.cases, range(2)):
        labels = data.labels(case)
        prepared = prepare(data.volume(case), recipe.preprocessing, labels > 0)
        crop = recipe.preprocessing.liver_crop
        seen = network_input(prepared, crop.mask_mm if crop else None)
        wanted = prepare_labels(labels, prepared.grid, scale)

        source = make_source(prepared_case(data, case, recipe))
        image, target = draw(source, recipe, seed)
        numbers = np.arange(1, prepared.image.size + 1).reshape(prepared.image.shape)
        own_number = torch.from_numpy((numbers / 2**24).astype(np.float32))
        numbered = torch.stack([own_number, source.image[0, 1].max().expand(own_number.shape)])
        found, _ = draw(replace(source, image=numbered[None]), recipe, seed)
        inside = np.argwhere(found[0].numpy())
        assert len(inside)
        number = int(found[0].numpy()[tuple(inside[0])] * 2**24) - 1
        start = np.array(np.unravel_index(number, numbers.shape)) - inside[0]

        patch = np.array(image.shape[1:])
        assert np.array_equal(patch, recipe.patch or seen.shape)
        padding = [before for before, _ in prepared.grid.padding]
        window = slice_at(np.pad(seen, patch[:, None]), start + padding + patch, patch)
        assert np.array_equal(image[0].numpy(), window)
        assert window.any()
        margin = patch * scale
        wide = np.pad(wanted, margin[:, None])
        mask = slice_at(wide, (start + patch) * scale, patch * scale)
        expected = mask == 2 if recipe.target == "tumor" else mask > 0
        assert np.array_equal(target[0].numpy(), expected.astype(np.float32))


def slice_at(array: np.ndarray, start: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return array[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*[st.integers(-9, 9)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.integers(1, 6)] * 3),
)
def test_an_exact_window_is_a_slice_with_zeros_around(
    start: tuple[int, ...], shape: tuple[int, ...], size: tuple[int, ...]
) -> None:
    volume = np.arange(1.0, 2 * np.prod(size) + 1, dtype=np.float32).reshape(2, *size)
    got = exact_window(torch.from_numpy(volume)[None], np.array(start), np.array(shape))
    wide = np.pad(volume, [(0, 0), *[(20, 20)] * 3])
    expected = [slice_at(channel, np.array(start) + 20, np.array(shape)) for channel in wide]
    assert np.array_equal(got.numpy(), expected)


# Resampling


@pytest.mark.parametrize("start", [(2, 3, 1), (-3, 5, -2), (6, -4, 9)])
@pytest.mark.parametrize("factor", [(1, 1, 1), (1, 2, 2)])
def test_resampling_by_the_identity_is_the_exact_window(
    start: tuple[int, int, int], factor: tuple[int, int, int]
) -> None:
    random = np.random.default_rng(0)
    size, patch = (14, 20, 18), (8, 16, 16)
    volume = torch.from_numpy(random.random((1, 1, *np.multiply(size, factor)))).float()
    grid = window_grid(patch, factor, size, np.array(start), np.eye(3), None)
    expected = exact_window(volume, np.multiply(start, factor), np.multiply(patch, factor))
    smooth = F.grid_sample(volume, grid, mode="bilinear", align_corners=False)[0]
    assert (smooth - expected).abs().max() <= 1e-5
    nearest = F.grid_sample(volume, grid, mode="nearest", align_corners=False)[0]
    assert torch.equal(nearest, expected)


@BOTH
def test_flips_are_exact(recipe: Recipe) -> None:
    source = make_source(target_case(recipe))
    plain = without_chance(recipe)
    only_flips = with_augmentation(plain, replace(NO_AUGMENTATION, flips=(0, 1, 2)))
    seen = set()
    for seed in range(40):
        image, target = draw(source, plain, seed)
        flipped, flipped_target = draw(source, only_flips, seed)
        random = np.random.default_rng(seed)
        draw_center(source, only_flips, random)
        matrix = draw_matrix(only_flips.training.augmentation, source.spacing_mm, random)
        axes = [axis + 1 for axis in range(3) if matrix[axis, axis] < 0]
        assert torch.equal(flipped_target, target.flip(axes))
        assert (flipped - image.flip(axes)).abs().max() <= 1e-5
        seen.add(tuple(axes))
    assert len(seen) == 8  # every combination came up


@BOTH
def test_the_target_moves_with_the_image(recipe: Recipe) -> None:
    source = make_source(target_case(recipe))
    moving = with_augmentation(recipe, MOVES)
    still = with_augmentation(recipe, NO_AUGMENTATION)
    checked = 0
    for seed in range(20):
        image, target = draw(source, moving, seed)
        mask = coarse(target, recipe)
        if mask.sum() < 300:
            continue  # too little of the target in this window to compare by Dice
        checked += 1
        assert dice(image[0].numpy() > 0.65, mask) > 0.9
        assert dice(coarse(draw(source, still, seed)[1], recipe), mask) < 0.95
    assert checked >= 10


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_scale_is_the_factor_of_size(factor: float) -> None:
    source = make_source(target_case(LIVER))
    scaled = with_augmentation(LIVER, replace(NO_AUGMENTATION, scale=(factor, factor)))
    volumes = [draw(source, r, 0)[1].sum().item() for r in (scaled, without_chance(LIVER))]
    assert volumes[0] / volumes[1] == pytest.approx(min(factor**3, 24 * 32 * 32), rel=0.05)


def test_rotation_is_one_in_millimeters() -> None:
    """On a grid of 5x1x1 mm a rotation must not shear: in mm the matrix stays orthogonal."""
    turning = replace(NO_AUGMENTATION, rotation_degrees=30.0)
    millimeters = np.diag([5.0, 1.0, 1.0])
    angles = []
    for seed in range(50):
        matrix = draw_matrix(turning, (5.0, 1.0, 1.0), np.random.default_rng(seed))
        rotation = millimeters @ matrix @ np.linalg.inv(millimeters)
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
        angles.append(np.degrees(np.arccos((np.trace(rotation) - 1) / 2)))
    assert 15 < max(angles) <= 30 + 2 * 15
    assert np.std(angles) > 2


def test_stretch_keeps_the_axes_apart() -> None:
    stretching = replace(NO_AUGMENTATION, stretch=(0.5, 2.0))
    matrix = draw_matrix(stretching, (3.0, 1.0, 1.0), np.random.default_rng(0))
    factors = 1 / np.diag(matrix)
    assert np.allclose(matrix, np.diag(np.diag(matrix)))
    assert ((factors > 0.5) & (factors < 2)).all()
    assert len(set(factors)) == 3


def test_shift_moves_whole_voxels_within_its_share() -> None:
    source = make_source(target_case(LIVER))
    shifting = with_augmentation(LIVER, replace(NO_AUGMENTATION, shift=0.25))
    ramp = torch.arange(24.0).reshape(1, 1, 24, 1, 1).expand(1, 2, 24, 32, 32) / 32 + 1 / 32
    ramp = replace(source, image=ramp.contiguous())
    shifts = []
    for seed in range(30):
        image, _ = draw(ramp, shifting, seed)
        line = image[0].amax((1, 2)).numpy() * 32
        inside = np.flatnonzero(line)
        (shift,) = {round(line[z]) - 1 - z for z in inside}
        shifts.append(shift)
    assert max(np.abs(shifts)) <= np.ceil(0.25 * 24)
    assert min(shifts) < -2
    assert max(shifts) > 2


def test_elastic_change_is_as_large_as_said_and_smooth() -> None:
    bending = replace(NO_AUGMENTATION, elastic_voxels=2.0)
    ramp = (torch.arange(32.0) / 32).reshape(1, 1, 1, 1, 32).expand(1, 2, 24, 32, 32)
    ramp = replace(make_source(target_case(LIVER)), image=ramp.contiguous())
    moved = []
    for seed in range(20):
        image, _ = draw(ramp, with_augmentation(LIVER, bending), seed)
        displacement = (image[0] * 32 - torch.arange(32.0))[3:-3, 3:-3, 3:-3]
        assert displacement.abs().max() <= 2 + 1e-3
        assert displacement.diff(dim=0).abs().max() < 1
        moved.append(displacement.abs().max().item())
    assert max(moved) > 1
    none = sum(draw_field(2.0, np.random.default_rng(seed)) is None for seed in range(200))
    assert 70 < none < 130  # half of them, standard deviation 7
    assert draw_field(0.0, np.random.default_rng(0)) is None


# HU


def hu_changed(seed: int, **changes: object) -> tuple[Tensor, Tensor, Tensor]:
    """An image of 0.5 with texture, what it became, and its labels; clip range 340 HU."""
    generator = torch.Generator().manual_seed(0)
    image = 0.4 + 0.2 * torch.rand((1, 4, 16, 16), generator=generator)
    labels = torch.zeros_like(image)
    labels[..., 4:12, 4:12] = 1
    labels[..., 6:8, 6:8] = 2
    recipe = with_augmentation(LIVER, replace(NO_AUGMENTATION, **changes))
    return image, change_hu(image.clone(), labels, recipe, np.random.default_rng(seed)), labels


def test_no_change_of_hu_changes_no_bit() -> None:
    image, changed, _ = hu_changed(0)
    assert torch.equal(image, changed)


def test_contrast_turns_about_the_middle_of_the_window() -> None:
    image, changed, _ = hu_changed(0, contrast=(1.2, 1.2))
    assert torch.allclose(changed, (image - 0.5) * 1.2 + 0.5)


def test_brightness_shifts_all_voxels_within_its_range() -> None:
    shifts = []
    for seed in range(30):
        image, changed, _ = hu_changed(seed, brightness_hu=34.0)
        difference = changed - image
        assert difference.max() - difference.min() < 1e-6
        shifts.append(difference.mean().item())
    assert max(np.abs(shifts)) <= 0.1 + 1e-6
    assert min(shifts) < -0.05
    assert max(shifts) > 0.05


def test_liver_contrast_shifts_liver_and_tumor_alone() -> None:
    shifts = []
    for seed in range(30):
        image, changed, labels = hu_changed(seed, liver_contrast_hu=34.0)
        difference = changed - image
        assert difference[labels == 0].abs().max() < 1e-6
        assert difference[labels > 0].max() - difference[labels > 0].min() < 1e-6
        shifts.append(difference[labels > 0].mean().item())
    assert max(np.abs(shifts)) <= 0.1 + 1e-6
    assert min(shifts) < -0.05
    assert max(shifts) > 0.05


def test_noise_has_mean_zero_and_the_deviation_said() -> None:
    deviations = []
    for seed in range(30):
        image, changed, _ = hu_changed(seed, noise_hu=34.0)
        assert abs((changed - image).mean()) < 0.02
        deviations.append((changed - image).std().item())
    assert max(deviations) <= 0.11
    assert max(deviations) > 0.07
    assert min(deviations) < 0.03


def test_blur_stays_in_the_slice() -> None:
    recipe = with_augmentation(LIVER, replace(NO_AUGMENTATION, blur_voxels=1.0))
    image = torch.zeros(1, 5, 15, 15)
    image[0, 2, 7, 7] = 1.0
    spread = 0
    for seed in range(10):
        changed = change_hu(
            image.clone(), torch.zeros_like(image), recipe, np.random.default_rng(seed)
        )
        assert changed[0, [0, 1, 3, 4]].abs().max() == 0
        assert changed.sum() == pytest.approx(1, abs=1e-4)
        spread += changed[0, 2, 7, 8] > 0.01
    assert spread >= 5


# All together


@BOTH
def test_a_sample_is_a_function_of_its_generator(recipe: Recipe) -> None:
    source = make_source(target_case(recipe))
    augmented = with_augmentation(recipe, EVERYTHING)
    before = source.image.clone()
    for seed in range(3):
        first, second = draw(source, augmented, seed), draw(source, augmented, seed)
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert not torch.equal(first[0], draw(source, augmented, seed + 100)[0])
    assert torch.equal(source.image, before)


@BOTH
def test_values_stay_in_the_range_of_the_network(recipe: Recipe) -> None:
    source = make_source(target_case(recipe))
    for seed in range(20):
        image, target = draw(source, with_augmentation(recipe, EVERYTHING), seed)
        assert image.shape[1:] == (recipe.patch or (24, 32, 32))
        assert target.shape[1:] == tuple(np.multiply(image.shape[1:], output_scale(recipe)))
        assert image.dtype == target.dtype == torch.float32
        assert image.min() >= 0
        assert image.max() <= 1
        assert set(target.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("mask_mm", [(0.0, 0.0), (5.0, 5.0), (0.0, 6.0)])
def test_what_is_far_from_the_liver_is_exactly_0(mask_mm: tuple[float, float]) -> None:
    """Also after noise and brightness, which come first: inference has plain 0 there."""
    crop = LiverCrop(margin_voxels=(4, 16, 16), mask_mm=3.0, training_mask_mm=mask_mm)
    recipe = replace(TUMOR, preprocessing=replace(TUMOR.preprocessing, liver_crop=crop))
    noisy = replace(NO_AUGMENTATION, noise_hu=5.0, brightness_hu=15.0)
    case = target_case(TUMOR)
    for seed in range(10):
        random = np.random.default_rng(seed)
        source = make_source(case)
        image, _ = draw_sample(source, with_augmentation(recipe, noisy), random)
        distance = torch.from_numpy(case.liver_distance_mm)[None, None]
        start = np.ceil(draw_center(source, recipe, np.random.default_rng(seed)) * (24, 32, 32))
        window = exact_window(distance + 1, start.astype(int) - 12, np.array((24, 24, 24))) - 1
        far = (window > mask_mm[1]) | (window < 0)  # or beyond the image
        assert far.any()
        assert (image[far] == 0).all()
        near = (window >= 0) & (window <= mask_mm[0])
        assert (image[near] > 0).float().mean() > 0.95


# Where the windows lie


def point_source(lesions: tuple[np.ndarray, ...], liver: np.ndarray) -> Source:
    image = torch.zeros(1, 2, 40, 40, 40)
    return Source(image, torch.zeros(1, 1, 40, 80, 80), (1.0, 1.0, 1.0), lesions, liver)


def centers(source: Source, recipe: Recipe, **sampling: float) -> np.ndarray:
    chosen = Sampling(**{"liver_share": 0.0, "liver_margin_slices": 0, **sampling})
    recipe = replace(recipe, training=replace(recipe.training, sampling=chosen))
    random = np.random.default_rng(0)
    return np.array([draw_center(source, recipe, random) for _ in range(2000)])


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_the_share_of_windows_on_a_target(share: float) -> None:
    small = TUMOR.with_override("patch", "[16, 16, 16]")
    source = point_source((np.full((1, 3), 0.9),), np.full((1, 3), 0.1))
    found = centers(source, small, target_share=share)
    on_target = found[:, 0] > 0.5
    assert on_target.mean() == pytest.approx(share, abs=0.04)  # standard deviation 0.011
    assert np.abs(found[on_target] - 0.9).max(initial=0) <= 0.3 * 16 / 40 + 1e-9  # inside it
    assert np.allclose(found[~on_target], 0.1)


def test_small_lesions_are_drawn_as_often_as_large_ones() -> None:
    lesions = (np.full((1000, 3), 0.1), np.full((1, 3), 0.9))
    found = centers(point_source(lesions, np.full((1, 3), 0.5)), TUMOR, target_share=1.0)
    assert (found[:, 0] > 0.5).mean() == pytest.approx(0.5, abs=0.05)


def test_without_lesions_the_window_lies_on_the_liver() -> None:
    found = centers(point_source((), np.full((3, 3), 0.3)), TUMOR, target_share=1.0)
    assert np.allclose(found, 0.3)


def test_the_share_of_windows_in_the_range_of_the_liver() -> None:
    liver = np.array([[0.4, 0.2, 0.2], [0.6, 0.8, 0.8]])
    recipe = RECIPES["elanres-msca-liver"]
    inside = {"liver_margin_slices": 4, "target_share": 0.0}
    found = centers(point_source((), liver), recipe, liver_share=1.0, **inside)
    assert found[:, 0].min() >= 0.3 - 1e-9
    assert found[:, 0].max() <= 0.7 + 1e-9
    assert np.ptp(found[:, 0]) > 0.39
    assert (found[:, 1:] == 0.5).all()
    found = centers(point_source((), liver), recipe, liver_share=0.5, **inside)
    share = ((found[:, 0] >= 0.3) & (found[:, 0] <= 0.7)).mean()
    assert share == pytest.approx(0.5 + 0.5 * 0.4, abs=0.04)


def test_a_source_knows_every_lesion_and_the_liver(data: DataSet) -> None:
    case = prepared_case(data, data.cases[0], TUMOR)
    source = make_source(case)
    shape = np.array(case.labels.shape)
    assert len(source.lesions) == 2
    voxels = np.concatenate([np.floor(lesion * shape).astype(int) for lesion in source.lesions])
    assert sorted(map(tuple, voxels)) == sorted(map(tuple, np.argwhere(case.labels == 2)))
    for z, y, x in np.floor(source.liver * shape).astype(int):
        assert case.labels[z, y, x] > 0
