"""Intensities: the papers' windows and scores by hand, and the traps of scikit-image's CLAHE."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import exposure

from LiverTumorSegLib.intensity import (
    Scale,
    equalize_slices,
    foreground_statistics,
    to_network_values,
    volume_statistics,
)
from LiverTumorSegLib.recipe import Clahe, Statistics, Window, ZScore
from LiverTumorSegLib.recipes import RECIPES

CLAHE = Clahe(tile_pixels=64, clip_limit=0.01, bins=256)
LITS = Statistics(low_hu=-17.0, high_hu=201.0, mean_hu=99.40, sd_hu=39.36)
PERCENTILES = (0.5, 99.5)


def noise(shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> np.ndarray:
    return np.random.default_rng(sum(shape)).uniform(low, high, shape).astype(np.float32)


def line(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 1, -1)


# Windows


@pytest.mark.parametrize(
    ("name", "hu", "expected"),
    [
        ("rmau-net", (-1000, -200, 0, 200, 3000), (-1, -1, 0, 1, 1)),
        ("msa-unet", (-1000, -200, 25, 250, 3000), (0, 0, 0.5, 1, 1)),
        ("unet3d-liver", (-1024, -100, 150, 400, 27600), (0, 0, 0.5, 1, 1)),
        ("elanres-msca-liver", (-10500, -200, 0, 200, 3000), (0, 0, 0.5, 1, 1)),
        ("starter-liver", (-1024, -100, 70, 240, 3000), (0, 0, 0.5, 1, 1)),
    ],
)
def test_the_papers_windows(name: str, hu: tuple[float, ...], expected: tuple[float, ...]) -> None:
    image, scale = to_network_values(line(*hu), RECIPES[name].preprocessing.intensity)
    assert image.dtype == np.float32
    assert image[0, 0].tolist() == list(expected)
    assert (scale.low, scale.high) == (expected[0], expected[-1])


def test_a_window_may_fall() -> None:
    """Any ends: dark where the HU are high."""
    window = Window(clip_hu=(0.0, 100.0), output=(3.0, -1.0))
    image, scale = to_network_values(line(-5, 0, 25, 100, 200), window)
    assert image[0, 0].tolist() == [3, 3, 2, -1, -1]
    assert scale == Scale(low=3.0, high=-1.0, units_per_hu=-0.04)


def test_one_hu_is_that_many_units() -> None:
    rmau = RECIPES["rmau-net"].preprocessing.intensity
    assert to_network_values(line(0), rmau)[1].units_per_hu == 1 / 200
    units = to_network_values(line(0), ZScore(PERCENTILES, LITS))[1].units_per_hu
    assert units == pytest.approx(1 / 39.36)


INTENSITIES = st.one_of(
    st.builds(
        lambda low, width, first, second: Window((low, low + width), (first, second)),
        st.floats(-500, 100),
        st.floats(1, 900),
        st.floats(-2, 2),
        st.floats(-2, 2),
    ),
    st.builds(
        lambda low, width, sd: ZScore(PERCENTILES, Statistics(low, low + width, low + 60, sd)),
        st.floats(-500, 100),
        st.floats(1, 900),
        st.floats(0, 90),
    ),
    st.just(ZScore(PERCENTILES, None)),
)


@settings(max_examples=100, deadline=None)
@given(INTENSITIES, st.integers(0, 99))
def test_air_is_the_scale_s_low_to_the_bit_and_nothing_lies_beyond_the_ends(
    intensity: Window | ZScore, seed: int
) -> None:
    hu = np.random.default_rng(seed).uniform(-1024, 3000, (3, 4, 5)).astype(np.float32)
    hu[0, 0, 0], hu[2, 3, 4] = -1024, 3000
    before = hu.copy()
    image, scale = to_network_values(hu, intensity)
    assert image[0, 0, 0] == np.float32(scale.low)
    assert image[2, 3, 4] == np.float32(scale.high)
    assert image.min() >= min(scale.low, scale.high)
    assert image.max() <= max(scale.low, scale.high)
    assert np.array_equal(hu, before)
    assert not np.shares_memory(image, hu)


def test_units_and_ends_fit_each_other() -> None:
    """Two voxels apart by some HU differ by so many units, everywhere inside the window."""
    for intensity, width in (
        (Window((-200.0, 250.0), (-0.5, 2.0)), 450),
        (ZScore(PERCENTILES, LITS), 218),
    ):
        image, scale = to_network_values(line(10, 20, 110), intensity)
        np.testing.assert_allclose(np.diff(image[0, 0]) / scale.units_per_hu, [10, 90], rtol=1e-4)
        assert (scale.high - scale.low) / scale.units_per_hu == pytest.approx(width, rel=1e-5)


# Z-scores


def test_a_z_score_of_given_statistics_by_hand() -> None:
    statistics = Statistics(low_hu=-20.0, high_hu=180.0, mean_hu=100.0, sd_hu=40.0)
    image, scale = to_network_values(
        line(-1000, -20, 100, 120, 900), ZScore(PERCENTILES, statistics)
    )
    assert image[0, 0].tolist() == [-3, -3, 0, 0.5, 2]
    assert scale == Scale(low=-3.0, high=2.0, units_per_hu=0.025)


def test_statistics_of_the_liver_s_voxels_are_not_of_the_clipped() -> None:
    """0 to 100, each once: percentile p is p; the standard deviation is that of all of them."""
    samples = np.random.default_rng(0).permutation(101).astype(np.float32)
    statistics = foreground_statistics(samples, (10.0, 95.0))
    assert statistics == Statistics(10.0, 95.0, 50.0, pytest.approx(np.sqrt((101**2 - 1) / 12)))


def test_statistics_take_whole_numbers_and_do_not_lose_precision() -> None:
    """A million voxels: float32 sums would be off in the fourth digit."""
    samples = np.tile(np.array([1000, 1001], np.int16), 500_000)
    statistics = foreground_statistics(samples, PERCENTILES)
    assert statistics == Statistics(1000.0, 1001.0, 1000.5, 0.5)
    assert statistics == volume_statistics(samples.reshape(10, 100, 1000), PERCENTILES)


def test_without_liver_voxels_there_are_no_statistics() -> None:
    with pytest.raises(ValueError, match="voxels of liver"):
        foreground_statistics(np.empty(0, np.float32), PERCENTILES)


def test_statistics_of_a_volume_are_of_its_clipped_voxels() -> None:
    """One metal voxel of 100: it moves neither the mean nor the deviation."""
    hu = np.concatenate([np.arange(99), [30000]]).reshape(4, 5, 5).astype(np.float32)
    statistics = volume_statistics(hu, (0.0, 98.0))
    high = 97 + 0.02  # sorted voxel number 0.98 * 99
    clipped = np.minimum(np.arange(100), high)
    expected = Statistics(0.0, pytest.approx(high), pytest.approx(clipped.mean()), 0.0)
    assert statistics.low_hu == expected.low_hu
    assert statistics.high_hu == expected.high_hu
    assert statistics.mean_hu == expected.mean_hu
    assert statistics.sd_hu == pytest.approx(clipped.std())


def test_a_z_score_of_the_volume_has_mean_0_and_deviation_1() -> None:
    hu = np.random.default_rng(0).normal(40, 300, (9, 30, 31)).astype(np.float32)
    image, scale = to_network_values(hu, ZScore(PERCENTILES, None))
    assert image.mean(dtype=float) == pytest.approx(0, abs=1e-6)
    assert image.std(dtype=float) == pytest.approx(1, rel=1e-6)
    assert np.mean(image == np.float32(scale.low)) == pytest.approx(0.005, abs=2e-4)
    assert np.mean(image == np.float32(scale.high)) == pytest.approx(0.005, abs=2e-4)


@pytest.mark.parametrize("value", [-1024.0, 40.0, 37.3])
def test_a_volume_of_one_value_becomes_0(value: float) -> None:
    image, scale = to_network_values(np.full((2, 3, 7), value, np.float32), ZScore((1, 99), None))
    np.testing.assert_allclose(image, 0, atol=1e-4)
    assert np.isfinite([scale.low, scale.high, scale.units_per_hu]).all()


# Equalization


def test_each_slice_is_scikit_image_s() -> None:
    image = noise((3, 130, 70))
    image[1] *= 0.2
    expected = [
        exposure.equalize_adapthist(piece, kernel_size=(64, 64), clip_limit=0.01, nbins=256)
        for piece in image
    ]
    assert np.array_equal(equalize_slices(image, CLAHE), np.array(expected, np.float32))


@pytest.mark.parametrize("change", [{"tile_pixels": 32}, {"clip_limit": 0.05}, {"bins": 64}])
def test_each_number_of_the_recipe_counts(change: dict) -> None:
    image = noise((1, 128, 128)) ** 3
    usual = equalize_slices(image, CLAHE)
    other = equalize_slices(image, Clahe(**{**vars(CLAHE), **change}))
    assert np.abs(usual - other).max() > 0.01


def test_contrast_within_a_tile_grows() -> None:
    """A faint disc of 10 HU of 450 in noise: what CLAHE is for."""
    y, x = np.indices((128, 128)) - 63.5
    disc = y**2 + x**2 <= 15**2
    image = (0.5 + 10 / 450 * disc + np.random.default_rng(0).normal(0, 0.01, disc.shape))[None]
    image[0, :4], image[0, -4:] = 0, 1  # both ends of the window are there already
    after = equalize_slices(image, CLAHE)[0]
    middle = slice(32, 96)
    disc = disc[middle, middle]
    before, after = (
        piece[middle, middle][disc].mean() - piece[middle, middle][~disc].mean()
        for piece in (image[0], after)
    )
    assert after > 2 * before


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_a_slice_of_one_value_stays(value: float) -> None:
    """Air beside the patient: scikit-image would make it bright, or a pattern of 0 and 1."""
    image = noise((3, 40, 50))
    image[1] = value
    assert (exposure.equalize_adapthist(image[1]) == 1).mean() > 0.5
    result = equalize_slices(image, CLAHE)
    assert (result[1] == np.float32(value)).all()
    assert np.array_equal(result[[0, 2]], equalize_slices(image[[0, 2]], CLAHE))


def test_a_slice_of_one_value_but_for_rounding_stays() -> None:
    image = np.full((1, 20, 20), 0.7, np.float32)
    image[0, 3, 4] += np.float32(2e-7)
    assert image.max() > image.min()
    assert np.array_equal(equalize_slices(image, CLAHE), image)


@pytest.mark.parametrize("columns", [3, 4])
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_few_columns_are_no_colors(depth: int, columns: int) -> None:
    image = noise((depth, 20, columns))
    result = equalize_slices(image, CLAHE)
    assert result.shape == image.shape
    for piece, equalized in zip(image, result, strict=True):
        padded = exposure.equalize_adapthist(piece, kernel_size=(20, columns), clip_limit=0.01)
        assert np.array_equal(equalized, padded.astype(np.float32))
    wrong = exposure.equalize_adapthist(image, kernel_size=(depth, 20), clip_limit=0.01)
    assert wrong.shape[-1] == 3  # what the third axis would have been taken for


@pytest.mark.parametrize("side", [1, 2, 5, 63, 64, 65])
def test_a_tile_is_at_most_the_slice(side: int) -> None:
    """On a short side the tile is that side; scikit-image would mirror the slice to fill it."""
    image = noise((1, side, 100))
    expected = exposure.equalize_adapthist(image[0], kernel_size=(min(64, side), 64))
    assert np.array_equal(equalize_slices(image, CLAHE)[0], expected.astype(np.float32))


@pytest.mark.parametrize(
    "image",
    [
        line(-100, 200),
        line(0, 1.01),
        line(-0.5, 0.5),
        line(0, np.nan),
        np.array([[[-1000, 40, 1000]]], np.int16),
        np.array([[[0, 1]]], np.uint8),
    ],
    ids=["HU", "above", "below", "NaN", "int16", "uint8"],
)
def test_only_values_of_0_to_1_are_equalized(image: np.ndarray) -> None:
    """scikit-image takes HU as int16 for gray values of a screen, and -0.5 for one of them too."""
    with pytest.raises(ValueError, match="from 0 to 1"):
        equalize_slices(image, CLAHE)


def test_what_rounding_puts_beyond_1_is_accepted() -> None:
    image = noise((1, 9, 9))
    image[0, 0, 0], image[0, 0, 1] = np.nextafter(np.float32(1), np.float32(2)), -1e-7
    result = equalize_slices(image, CLAHE)
    assert (result.min(), result.max()) == (0, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_result_is_float32_and_new(dtype: type) -> None:
    image = noise((2, 30, 30)).astype(dtype)
    before = image.copy()
    result = equalize_slices(image, CLAHE)
    assert result.dtype == np.float32
    assert np.array_equal(image, before)
    assert (result.min(axis=(1, 2)) == 0).all()
    assert (result.max(axis=(1, 2)) == 1).all()


# Imports


def test_lists_and_help_come_without_scikit_image() -> None:
    code = (
        "import sys, LiverTumorSegLib.recipes, LiverTumorSegLib.cli; "
        "sys.exit(not {'torch', 'scipy', 'skimage'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
