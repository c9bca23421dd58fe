"""Statistics from counted HU, against numpy on the voxels themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import measure
from LiverTumorSegLib.volume import Volume
from Testing.phantom import phantom
from Training.dataset import Case
from Training.fingerprint import (
    HIGHEST_HU,
    LOWEST_HU,
    PERCENTILES,
    HuCounts,
    count_hu,
    fingerprint_json,
    fingerprint_of,
    spread,
    statistics,
)

HU = st.lists(st.integers(LOWEST_HU, HIGHEST_HU), min_size=1, max_size=60)


def counted(hu: list[int]) -> HuCounts:
    row = np.array([[hu]])
    return count_hu(row, np.ones(row.shape, bool))


@settings(max_examples=60, deadline=None)
@given(st.lists(HU, min_size=1, max_size=4))
def test_statistics_are_those_of_all_voxels(cases: list[list[int]]) -> None:
    voxels = np.concatenate(cases)
    found = statistics([counted(hu) for hu in cases])
    assert found is not None
    assert found["voxels"] == len(voxels)
    assert found["mean"] == pytest.approx(voxels.mean(), abs=1e-3)
    assert found["sd"] == pytest.approx(voxels.std(), abs=2e-3)
    for percent in PERCENTILES:
        expected = np.percentile(voxels, percent, method="inverted_cdf")
        assert found[f"p{percent:g}"] == expected


def test_by_hand() -> None:
    found = statistics([counted([10] * 3 + [20])])
    assert found == {
        **{"voxels": 4, "mean": 12.5, "sd": 4.33, "p0.5": 10, "p5": 10, "p50": 10},
        **{"p95": 20, "p99.5": 20},
    }


def test_only_the_mask_counts_and_fractions_are_rounded() -> None:
    hu = np.array([[[1.4, 1.6, 50.0]], [[-2000.0, 1e9, 7.0]]], np.float32)
    mask = np.array([[[True, True, False]], [[True, True, False]]])
    counts = count_hu(hu, mask)
    assert counts.lowest == LOWEST_HU
    found = {counts.lowest + i: n for i, n in enumerate(counts.counts) if n}
    assert found == {LOWEST_HU: 1, 1: 1, 2: 1, HIGHEST_HU: 1}


def test_without_a_voxel_there_are_none() -> None:
    assert statistics([]) is None
    assert statistics([count_hu(np.zeros((1, 1, 2)), np.zeros((1, 1, 2), bool))]) is None
    assert statistics([HuCounts(0, ()), counted([5])])["p50"] == 5
    assert spread([]) is None


def case_of(
    volume: Volume, labels: np.ndarray, name: str, synthetic: bool = False
) -> tuple[Case, object]:
    measurement, _ = measure(volume, labels)
    case = Case(
        name,
        name,
        synthetic,
        volume.geometry,
        True,
        measurement.liver_volume_ml,
        float(measurement.tumor_volume_ml),
        len(measurement.lesions),
        "",
    )
    return case, fingerprint_of(volume.hu, labels, measurement)


def test_synthetic_cases_are_described_but_not_among_all() -> None:
    scanned, made = case_of(*phantom(0), "a"), case_of(*phantom(1, 0), "b", synthetic=True)
    alone = fingerprint_json(*zip(scanned, strict=True))
    both = fingerprint_json(*zip(scanned, made, strict=True))
    assert both["all"] == alone["all"]
    assert [*both["cases"]] == ["a", "b"]


def test_the_file_describes_each_case_and_all() -> None:
    described = [case_of(*phantom(n, tumors), f"c{n}") for n, tumors in ((0, 2), (1, 0), (2, 1))]
    cases, prints = zip(*described, strict=True)
    plain = json.loads(json.dumps(fingerprint_json(cases, prints), allow_nan=False))
    volume, labels = phantom(0, 2)
    first = plain["cases"]["c0"]
    assert first["shape"] == list(volume.geometry.shape)
    assert first["liver_hu"]["mean"] == pytest.approx(volume.hu[labels > 0].mean(), abs=1e-2)
    assert first["tumor_hu"]["voxels"] == np.count_nonzero(labels == 2)
    assert [lesion["volume_ml"] for lesion in first["lesions"]] == pytest.approx(
        [123 * volume.geometry.voxel_ml, 33 * volume.geometry.voxel_ml], abs=1e-4
    )
    assert plain["cases"]["c1"]["tumor_hu"] is None
    assert plain["cases"]["c1"]["lesions"] == []
    total = plain["all"]
    assert (total["cases"], total["cases_with_tumor"], total["lesions"]) == (3, 2, 3)
    assert total["spacing_mm"]["median"] == [3.0, 2.5, 2.5]
    hu = [v.hu[drawn > 0] for v, drawn in (phantom(0, 2), phantom(1, 0), phantom(2, 1))]
    assert total["liver_hu"]["p50"] == np.percentile(np.concatenate(hu), 50, method="inverted_cdf")


def test_spread_goes_along_each_axis() -> None:
    values = [(1.0, 5.0, 2.0), (3.0, 1.0, 2.0), (2.0, 9.0, 2.0)]
    assert spread(values) == {"min": [1, 1, 2], "median": [2, 5, 2], "max": [3, 9, 2]}
    assert spread([4.0, 1.0]) == {"min": 1.0, "median": 2.5, "max": 4.0}
    assert Geometry((4, 5, 6), (1.0, 5.0, 2.0)).spacing_mm == values[0]
