"""Cases prepared once and mapped from the disk, and the statistics of their HU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.intensity import foreground_statistics
from LiverTumorSegLib.preprocess import prepare, prepare_labels
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.recipes import RECIPES
from Testing.phantom import make_data_set
from Training import cache
from Training.cache import (
    cache_key,
    count_voxels,
    find_lesions,
    output_scale,
    prepared_folder,
    read_prepared,
    with_measured_statistics,
)
from Training.dataset import DataSet, read_data_set

LIVER = RECIPES["unet3d-liver"].with_override("preprocessing.resampling.shape", "[12, 20, 24]")
TUMOR = RECIPES["elanres-msca-tumor"]
BOTH = RECIPES["dpc-net"]
THREE = pytest.mark.parametrize("recipe", [LIVER, TUMOR, BOTH], ids=lambda recipe: recipe.name)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return read_data_set(make_data_set(tmp_path, patients=2))


def cached(data: DataSet) -> list[Path]:
    return sorted((data.folder / "cache").iterdir())


@THREE
def test_a_prepared_case_is_what_the_engine_prepares(data: DataSet, recipe: Recipe) -> None:
    for case in data.cases:
        got = read_prepared(prepared_folder(data, case, recipe))
        labels = data.labels(case)
        expected = prepare(data.volume(case), recipe.preprocessing, labels > 0)
        assert np.array_equal(got.image, expected.image)
        assert got.image.dtype == np.float32
        scale, method = output_scale(recipe), recipe.preprocessing.label_interpolation
        assert np.array_equal(got.labels, prepare_labels(labels, expected.grid, scale, method))
        assert got.labels.dtype == np.uint8
        assert got.labels.shape == tuple(np.multiply(got.image.shape, scale))
        assert got.spacing_mm == expected.spacing_mm
        assert got.scale == expected.scale
        if recipe.preprocessing.liver_crop:
            assert np.array_equal(got.liver_distance_mm, expected.liver_distance_mm)
        else:
            assert got.liver_distance_mm is None


@THREE
def test_a_prepared_case_knows_its_slices_and_lesions(data: DataSet, recipe: Recipe) -> None:
    case = read_prepared(prepared_folder(data, data.cases[0], recipe))
    for z, counts in enumerate(case.slice_voxels):
        assert counts.tolist() == [(case.labels[z] == label).sum() for label in range(3)]
    assert len(case.slice_voxels) == len(case.image)
    components, count = lesion_components(case.labels == 2)
    assert len(case.lesion_ends) == count == 2
    for number, end in enumerate(case.lesion_ends, start=1):
        voxels = case.tumor_voxels[case.lesion_ends[number - 2] if number > 1 else 0 : end]
        assert np.array_equal(voxels, np.argwhere(components == number))


def test_finer_labels_are_counted_by_the_slices_of_the_image() -> None:
    labels = np.zeros((4, 2, 2), np.uint8)
    labels[1, 0, 0], labels[2] = 1, 2
    assert count_voxels(labels, 2).tolist() == [[7, 1, 0], [4, 0, 4]]


def test_a_case_without_tumors_has_no_lesions(tmp_path: Path) -> None:
    voxels, ends = find_lesions(np.ones((3, 3, 3), np.uint8))
    assert voxels.shape == (0, 3)
    assert ends.tolist() == []
    data = read_data_set(make_data_set(tmp_path, patients=1, tumors=0))
    case = read_prepared(prepared_folder(data, data.cases[0], BOTH))
    assert len(case.tumor_voxels) == len(case.lesion_ends) == 0


@THREE
def test_the_second_call_reads_the_cache(data: DataSet, recipe: Recipe) -> None:
    folder = prepared_folder(data, data.cases[0], recipe)
    assert cached(data) == [folder]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    for path in data.folder.glob("*.npy"):
        path.unlink()  # so that preparing again would fail
    assert prepared_folder(data, data.cases[0], recipe) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert cached(data) == [folder]


def test_large_arrays_stay_on_the_disk(data: DataSet) -> None:
    case = read_prepared(prepared_folder(data, data.cases[0], TUMOR))
    for array in (case.image, case.liver_distance_mm, case.labels):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_a_case_whose_preparation_was_interrupted_is_prepared_again(data: DataSet) -> None:
    folder = prepared_folder(data, data.cases[0], LIVER)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "case.json").unlink()  # what moves in last
    (folder / "image.npy").write_bytes(b"half")
    prepared_folder(data, data.cases[0], LIVER)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_another_preprocessing_is_prepared_again(data: DataSet) -> None:
    wider = LIVER.with_override("preprocessing.intensity.clip_hu", "[-200, 400]")
    first, second = (prepared_folder(data, data.cases[0], recipe) for recipe in (LIVER, wider))
    assert not np.array_equal(read_prepared(first).image, read_prepared(second).image)
    assert cached(data) == sorted([first, second])


def test_the_key_follows_all_that_a_prepared_case_depends_on(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = data.cases[0]
    grid = case.geometry
    turned = replace(grid, direction=((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)))
    thicker = replace(grid, spacing_mm=(2.0, 1, 1))
    keys = {
        cache_key(case, LIVER),
        cache_key(replace(case, sha256="other"), LIVER),
        cache_key(replace(case, geometry=turned), LIVER),
        cache_key(replace(case, geometry=thicker), LIVER),
        cache_key(case, LIVER.with_override("preprocessing.interpolation", "area")),
        cache_key(case, LIVER.with_override("preprocessing.label_interpolation", "linear")),
        cache_key(case, LIVER.with_override("network.args.head_scale", "[1, 2, 2]")),
    }
    assert len(keys) == 7
    assert cache_key(replace(case, name="b", patient="q"), LIVER) in keys
    assert cache_key(case, LIVER.with_override("training.epochs", "7")) in keys
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert cache_key(case, LIVER) not in keys


@pytest.mark.parametrize("name", ["image.npy", "labels.npy", "slice_voxels.npy", "case.json"])
def test_a_damaged_case_is_refused_with_the_way_out(data: DataSet, name: str) -> None:
    folder = prepared_folder(data, data.cases[0], LIVER)
    path = folder / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match=rf"{folder}: cannot be read .* Delete this folder"):
        read_prepared(folder)


# Statistics


def test_statistics_are_those_of_the_cases_livers_and_tumors(data: DataSet) -> None:
    """Of every tenth voxel; the phantom's liver has 110 HU, its tumors 200, with noise of 5."""
    both, one = list(data.cases), list(data.cases[:1])
    for cases in (both, one):
        hu = [data.volume(case).hu[data.labels(case) > 0][::10] for case in cases]
        expected = foreground_statistics(np.concatenate(hu), (0.5, 99.5))
        got = with_measured_statistics(BOTH, data, cases)
        assert got.preprocessing.intensity.statistics == expected
        assert 90 < expected.low_hu < 110 < expected.mean_hu < 130 < expected.high_hu < 220
        assert got == with_measured_statistics(got, data, cases)
        same_but = replace(got.preprocessing, intensity=BOTH.preprocessing.intensity)
        assert replace(got, preprocessing=same_but) == BOTH
    assert len(cached(data)) == 2


def test_statistics_are_of_real_cases(data: DataSet) -> None:
    """Of synthetic ones only where there are no others."""
    first, second = data.cases[:2]
    made = replace(second, synthetic=True)
    alone = with_measured_statistics(BOTH, data, [first])
    assert with_measured_statistics(BOTH, data, [first, made]) == alone
    assert with_measured_statistics(BOTH, data, [made]) != alone


def test_statistics_are_measured_once(data: DataSet) -> None:
    first = with_measured_statistics(BOTH, data, list(data.cases))
    for path in data.folder.glob("*.npy"):
        path.unlink()
    assert with_measured_statistics(BOTH, data, list(data.cases)) == first


@pytest.mark.parametrize(
    "recipe", [LIVER, BOTH.with_override("preprocessing.intensity.statistics", "null")]
)
def test_a_recipe_that_needs_no_statistics_stays_as_it_is(data: DataSet, recipe: Recipe) -> None:
    assert with_measured_statistics(recipe, data, list(data.cases)) is recipe
    assert not (data.folder / "cache").exists()


def test_damaged_statistics_are_refused_with_the_way_out(data: DataSet) -> None:
    with_measured_statistics(BOTH, data, list(data.cases))
    (path,) = cached(data)
    for content in ("{", json.dumps({"mean_hu": 3.0})):
        path.write_text(content)
        with pytest.raises(InputError, match=rf"{path}: cannot be read .* Delete it"):
            with_measured_statistics(BOTH, data, list(data.cases))
