"""Folds by patient, the cache of prepared cases, and a data set that is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.preprocess import prepare, prepare_labels
from LiverTumorSegLib.recipe import Recipe
from LiverTumorSegLib.recipes import RECIPES
from Testing.phantom import make_data_set
from Training.dataset import (
    Case,
    DataSet,
    cache_key,
    output_scale,
    prepared_case,
    read_data_set,
    split,
    write_cases,
)

GRID = Geometry((4, 5, 6), (3.0, 1.0, 1.0))
LIVER = RECIPES["unet3d-liver"].with_override("preprocessing.shape", "[12, 20, 24]")
TUMOR = RECIPES["elanres-msca-tumor"]


def case_of(name: str, patient: str) -> Case:
    return Case(name, patient, GRID, liver_ml=1.0, tumor_ml=0.0, lesions=0, sha256="")


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return read_data_set(make_data_set(tmp_path, patients=2))


# Folds


@st.composite
def cases_and_count(draw: st.DrawFn) -> tuple[tuple[Case, ...], int]:
    """Cases of some patients, one or several each, and a number of folds that fits."""
    several = st.lists(st.sampled_from("abcdefg"), min_size=2).filter(lambda p: len(set(p)) > 1)
    patients = draw(several)
    cases = tuple(case_of(f"case{i}", patient) for i, patient in enumerate(patients))
    return cases, draw(st.integers(2, len(set(patients))))


@settings(max_examples=100, deadline=None)
@given(cases_and_count())
def test_every_case_is_held_out_once_and_no_patient_is_on_both_sides(
    drawn: tuple[tuple[Case, ...], int],
) -> None:
    cases, count = drawn
    all_held_out = []
    for number in range(1, count + 1):
        training, held_out = split(cases, f"{number}/{count}")
        assert training
        assert held_out
        assert {c.patient for c in training}.isdisjoint(c.patient for c in held_out)
        assert sorted(c.name for c in training + held_out) == sorted(c.name for c in cases)
        all_held_out += held_out
    assert sorted(c.name for c in all_held_out) == sorted(c.name for c in cases)


def test_as_many_folds_as_patients_leave_one_patient_out() -> None:
    cases = (case_of("a1", "a"), case_of("c1", "c"), case_of("b1", "b"), case_of("a2", "a"))
    held_out = [[c.name for c in split(cases, f"{k}/3")[1]] for k in (1, 2, 3)]
    assert held_out == [["a1", "a2"], ["b1"], ["c1"]]


def test_the_order_of_the_cases_does_not_change_the_folds() -> None:
    cases = tuple(case_of(name, name) for name in "badc")
    for fold in ("1/2", "2/2"):
        names = {c.name for c in split(cases, fold)[1]}
        assert {c.name for c in split(cases[::-1], fold)[1]} == names


def test_without_a_fold_everything_trains() -> None:
    cases = (case_of("a", "a"), case_of("b", "b"))
    assert split(cases, None) == (list(cases), [])


@pytest.mark.parametrize(
    "fold", ["0/2", "3/2", "-1/2", "1/3", "1/1", "1/0", "1", "", "1/2/2", "a/b"]
)
def test_a_fold_that_cannot_be_is_refused(fold: str) -> None:
    cases = (case_of("a1", "a"), case_of("a2", "a"), case_of("b1", "b"))
    with pytest.raises(InputError, match=rf"--fold {fold}: expected K/N .* 2, the number"):
        split(cases, fold)


# Prepared cases and their cache


@pytest.mark.parametrize("recipe", [LIVER, TUMOR], ids=lambda recipe: recipe.name)
def test_a_prepared_case_is_what_the_engine_prepares(data: DataSet, recipe: Recipe) -> None:
    for case in data.cases:
        got = prepared_case(data, case, recipe)
        labels = data.labels(case)
        expected = prepare(data.volume(case), recipe.preprocessing, labels > 0)
        assert np.array_equal(got.image, expected.image)
        assert got.image.dtype == np.float32
        scale = output_scale(recipe)
        assert np.array_equal(got.labels, prepare_labels(labels, expected.grid, scale))
        assert got.labels.shape == tuple(np.multiply(got.image.shape, scale))
        assert got.spacing_mm == expected.spacing_mm
        if recipe.preprocessing.liver_crop:
            assert np.array_equal(got.liver_distance_mm, expected.liver_distance_mm)
        else:
            assert got.liver_distance_mm is None


@pytest.mark.parametrize("recipe", [LIVER, TUMOR], ids=lambda recipe: recipe.name)
def test_the_second_call_reads_the_cache(data: DataSet, recipe: Recipe) -> None:
    first = prepared_case(data, data.cases[0], recipe)
    (cached,) = (data.folder / "cache").iterdir()
    for path in data.folder.glob("*.npy"):
        path.unlink()  # so that preparing again would fail
    second = prepared_case(data, data.cases[0], recipe)
    assert np.array_equal(second.image, first.image)
    assert np.array_equal(second.labels, first.labels)
    assert second.spacing_mm == first.spacing_mm
    assert (second.liver_distance_mm is None) == (first.liver_distance_mm is None)
    if first.liver_distance_mm is not None:
        assert np.array_equal(second.liver_distance_mm, first.liver_distance_mm)
    assert [*(data.folder / "cache").iterdir()] == [cached]


def test_another_preprocessing_is_prepared_again(data: DataSet) -> None:
    wider = LIVER.with_override("preprocessing.clip_hu", "[-200, 400]")
    first = prepared_case(data, data.cases[0], LIVER)
    second = prepared_case(data, data.cases[0], wider)
    assert not np.array_equal(first.image, second.image)
    assert len([*(data.folder / "cache").iterdir()]) == 2


def test_the_cache_key_follows_all_that_a_prepared_case_depends_on() -> None:
    case, settings_, scale = case_of("a", "a"), LIVER.preprocessing, (1, 1, 1)
    turned = replace(GRID, direction=((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)))
    keys = {
        cache_key(case, settings_, scale),
        cache_key(replace(case, sha256="other"), settings_, scale),
        cache_key(replace(case, geometry=turned), settings_, scale),
        cache_key(replace(case, geometry=replace(GRID, spacing_mm=(2.0, 1, 1))), settings_, scale),
        cache_key(case, replace(settings_, antialias=True), scale),
        cache_key(case, settings_, (1, 2, 2)),
    }
    assert len(keys) == 6
    assert cache_key(case_of("b", "b"), settings_, scale) in keys  # the name says nothing


# Reading


def test_what_was_written_is_read(tmp_path: Path) -> None:
    cases = [case_of("a", "p"), case_of("b", "q")]
    write_cases(tmp_path, cases)
    assert read_data_set(tmp_path) == DataSet(tmp_path, tuple(cases))
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_a_folder_that_is_no_data_set_is_refused_with_the_way_to_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path}: expected .*Training\.prepare DATA -o"):
        read_data_set(tmp_path)


def cut_off(text: str) -> bytes:
    return text[: len(text) // 2].encode()


def without_a_field(text: str) -> bytes:
    plain = json.loads(text)
    del plain["cases"][0]["patient"]
    return json.dumps(plain).encode()


def with_a_text_for_a_number(text: str) -> bytes:
    plain = json.loads(text)
    plain["cases"][0]["lesions"] = "two"
    return json.dumps(plain).encode()


def with_a_grid_that_is_none(text: str) -> bytes:
    plain = json.loads(text)
    plain["cases"][0]["geometry"]["spacing_mm"] = [0.0, 1.0, 1.0]
    return json.dumps(plain).encode()


def a_list(text: str) -> bytes:
    return b"[]"


def an_empty_object(text: str) -> bytes:
    return b"{}"


def no_text(text: str) -> bytes:
    return b"\xff\xfe\x00"


@pytest.mark.parametrize(
    "damage",
    [
        cut_off,
        without_a_field,
        with_a_text_for_a_number,
        with_a_grid_that_is_none,
        a_list,
        an_empty_object,
        no_text,
    ],
)
def test_a_damaged_description_is_refused(tmp_path: Path, damage: Callable[[str], bytes]) -> None:
    write_cases(tmp_path, [case_of("a", "p")])
    path = tmp_path / "dataset.json"
    path.write_bytes(damage(path.read_text()))
    with pytest.raises(InputError, match=rf"{path}: cannot be read .* Prepare the data again"):
        read_data_set(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_a_missing_or_damaged_array_is_named(data: DataSet, content: bytes | None) -> None:
    case = data.cases[0]
    for what, read in (("hu", data.volume), ("labels", data.labels)):
        path = data.folder / f"{case.name}_{what}.npy"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{path}: cannot be read .* Prepare the data again"):
            read(case)


def test_an_array_cut_off_is_named(data: DataSet) -> None:
    path = data.folder / f"{data.cases[0].name}_hu.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"{path}: cannot be read"):
        data.volume(data.cases[0])
