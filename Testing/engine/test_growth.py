"""Growth of findings: sums and limits by hand, and how often balls are misjudged."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from LiverTumorSegLib.growth import Extent, extent_of, growth_of
from LiverTumorSegLib.matching import Finding
from LiverTumorSegLib.measure import Lesion
from LiverTumorSegLib.shape import volume_uncertainty_percent

PAIR = Finding(((1, 1),))
LESION = Lesion(
    **dict.fromkeys((field.name for field in dataclasses.fields(Lesion)), 0.0)
    | {
        "volume_ml": 2.0,
        "long_axis_mm": 20.0,
        "short_axis_mm": 15.0,
        "volume_uncertainty_percent": 3.0,
    }
)


def extent(volume_ml: float, uncertainty_ml: float = 0.0) -> Extent:
    return Extent(volume_ml, uncertainty_ml, 0.0, 0.0)


def counted(ml: float, spacing_mm: tuple[float, float, float]) -> Extent:
    """The extent of a lesion of this volume in voxels of this size."""
    return extent(ml, ml * volume_uncertainty_percent(ml, spacing_mm) / 100)


@pytest.mark.parametrize("spacing_mm", [(5.0, 0.8, 0.8), (2.5, 0.8, 0.8), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("diameter_mm", [8.0, 15.0, 30.0])
def test_a_ball_measured_twice_is_seldom_called_grown_or_shrunk(
    spacing_mm: tuple[float, float, float], diameter_mm: float
) -> None:
    random = np.random.default_rng(7)
    changes = []
    for _ in range(60):
        extents = [counted(ball_ml(diameter_mm, spacing_mm, random), spacing_mm) for _ in "12"]
        changes.append(growth_of(PAIR, *extents).change)
    assert sum(change != "stable" for change in changes) <= 0.05 * len(changes)


def ball_ml(
    diameter_mm: float, spacing_mm: tuple[float, float, float], random: np.random.Generator
) -> float:
    """Volume of a ball at a random place, as a scan counts it."""
    places = [
        np.arange(-math.ceil(diameter_mm / mm), math.ceil(diameter_mm / mm) + 1) * mm
        + random.uniform(0, mm)
        for mm in spacing_mm
    ]
    squared = sum(axis**2 for axis in np.ix_(*places))
    return np.count_nonzero(squared <= (diameter_mm / 2) ** 2) * math.prod(spacing_mm) / 1000


def test_a_ball_that_doubled_has_grown_in_any_usual_scan() -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        small, large = (ball_ml(d, (5.0, 0.8, 0.8), random) for d in (15.0, 15.0 * 2 ** (1 / 3)))
        extents = [counted(ml, (5.0, 0.8, 0.8)) for ml in (small, large)]
        assert growth_of(PAIR, *extents).change == "grown"
        assert growth_of(PAIR, *extents[::-1]).change == "shrunk"


def test_sums_over_the_lesions_of_a_finding_by_hand() -> None:
    other = dataclasses.replace(
        LESION, volume_ml=1.0, long_axis_mm=10.0, short_axis_mm=8, volume_uncertainty_percent=4.0
    )
    both = extent_of([LESION, other])
    assert both.volume_ml == 3.0
    assert both.long_axis_mm == 30.0
    assert both.product_mm2 == 20 * 15 + 10 * 8
    assert both.uncertainty_ml == pytest.approx(math.sqrt(0.06**2 + 0.04**2))
    assert extent_of([]) == Extent(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("after_ml", "change"),
    [(10.0, "stable"), (15.0, "stable"), (15.01, "grown"), (5.0, "stable"), (4.99, "shrunk")],
)
def test_a_change_at_the_limit_is_stable(after_ml: float, change: str) -> None:
    """Uncertainties of 3 and 4 mL make 5."""
    growth = growth_of(PAIR, extent(10.0, 3.0), extent(after_ml, 4.0))
    assert growth.uncertainty_ml == 5.0
    assert growth.change == change
    assert growth.volume_change_ml == after_ml - 10.0


@pytest.mark.parametrize(
    ("finding", "change"),
    [
        (Finding(((1, None),)), "gone"),
        (Finding(((None, 1),)), "new"),
        (Finding(((1, None),), shown=False), "not shown"),
        (Finding(((None, 1),), shown=False), "not shown"),
    ],
)
def test_what_has_no_partner(finding: Finding, change: str) -> None:
    assert growth_of(finding, extent(1.0), extent(0.0)).change == change


@given(*[st.floats(0.001, 1000)] * 2, st.tuples(*[st.floats(0.3, 8)] * 3))
def test_exchanged_dates_exchange_grown_and_shrunk(
    one_ml: float, other_ml: float, spacing_mm: tuple[float, float, float]
) -> None:
    one, other = (counted(ml, spacing_mm) for ml in (one_ml, other_ml))
    forth, back = growth_of(PAIR, one, other), growth_of(PAIR, other, one)
    mirrored = {"grown": "shrunk", "shrunk": "grown", "stable": "stable"}
    assert back.change == mirrored[forth.change]
    assert back.uncertainty_ml == forth.uncertainty_ml
    assert growth_of(PAIR, one, one).change == "stable"
