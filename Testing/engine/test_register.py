"""Registration of livers: known maps of a liver of formulas, through all kinds of scans."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.register import (
    LARGEST_DISTANCE_MM,
    LARGEST_STRETCH,
    LEAST_DICE,
    Registration,
    check,
    register,
)
from Testing.engine.liver_phantom import affine, grid_around, in_liver, places_of, through

PLAIN = grid_around()
COARSE = grid_around(spacing_mm=(5.0, 4.0, 4.0))
GOOD = Registration(np.eye(4), LEAST_DICE, LARGEST_DISTANCE_MM, (1.0, 1.0, LARGEST_STRETCH), 0.0)


def scanned(matrix: np.ndarray, grid: Geometry) -> tuple[np.ndarray, Geometry]:
    """The liver after a map, as a scan shows it."""
    return in_liver(through(np.linalg.inv(matrix), places_of(grid))), grid


def polar(matrix: np.ndarray) -> np.ndarray:
    """The rotation of a 4x4 matrix."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    return left @ right


def errors_mm(found: Registration, true: np.ndarray) -> np.ndarray:
    """How far places of the liver land from where they are."""
    places = places_of(PLAIN)[in_liver(places_of(PLAIN))][::50]
    return np.linalg.norm(found.to_followup(places) - through(true, places), axis=-1)


@pytest.mark.parametrize(
    ("true", "grid"),
    [
        (affine(move_mm=(30, -20, 40)), grid_around(center_mm=(30, -20, 40))),
        (affine(turn_degrees=(0, 0, 25)), grid_around(spacing_mm=(5.0, 3.0, 3.0))),
        (affine(stretch=(1.1, 0.92, 1.05)), PLAIN),
        (
            affine((8, -6, 12), (10, 5, 3), (1.1, 0.92, 1.05)),
            grid_around(spacing_mm=(5.0, 2.0, 2.0), turn_degrees=(20, 10, -15), mirrored=True),
        ),
    ],
    ids=["moved", "turned far, thick slices", "stretched", "all, oblique, left-handed"],
)
def test_a_known_map_is_found(true: np.ndarray, grid: Geometry) -> None:
    found = register(scanned(np.eye(4), PLAIN), scanned(true, grid))
    errors = errors_mm(found, true)
    assert errors.mean() < 1.5
    assert errors.max() < 4.0
    turn = np.degrees(np.arccos((np.trace(polar(true)) - 1) / 2))
    assert found.rotation_degrees == pytest.approx(turn, abs=1.5)
    assert found.dice > 0.96
    assert found.surface_distance_mm < 1.0
    np.testing.assert_allclose(found.stretches, np.sort(np.linalg.svd(true[:3, :3])[1]), atol=0.04)
    check(found)


def test_the_same_liver_stays_where_it_is() -> None:
    liver = scanned(np.eye(4), PLAIN)
    found = register(liver, liver)
    np.testing.assert_allclose(found.matrix, np.eye(4), atol=1e-9)
    assert found.dice == 1.0
    assert found.surface_distance_mm == 0.0
    assert found.rotation_degrees == pytest.approx(0.0, abs=1e-6)


def test_exchanged_dates_give_the_inverse_map() -> None:
    one = scanned(np.eye(4), COARSE)
    other = scanned(affine((5, 0, 8), (10, 0, 0), (1.05, 1.0, 0.97)), COARSE)
    forth, back = register(one, other), register(other, one)
    np.testing.assert_allclose(forth.matrix @ back.matrix, np.eye(4), atol=1e-9)
    assert (forth.dice, forth.surface_distance_mm) == (back.dice, back.surface_distance_mm)
    places = np.array([[1.0, 2.0, 3.0], [-40.0, 5.0, 60.0]])
    np.testing.assert_allclose(forth.to_followup(places), back.to_baseline(places), atol=1e-9)
    np.testing.assert_allclose(forth.to_baseline(forth.to_followup(places)), places, atol=1e-9)


def test_a_scan_that_cuts_the_liver_does_not_pull_it_along() -> None:
    true = affine(turn_degrees=(3, 0, 5), move_mm=(0, 4, 0))
    low = grid_around(center_mm=(0, 0, -50), size_mm=(170, 170, 230))  # the dome is missing
    liver = scanned(true, low)
    assert liver[0][-1].any(), "the phantom reaches the scan's last slice"
    found = register(scanned(np.eye(4), PLAIN), liver)
    assert errors_mm(found, true).mean() < 3.0
    assert found.dice > 0.95
    check(found)


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="empty mask"):
        register((np.zeros(PLAIN.shape, bool), PLAIN), scanned(np.eye(4), PLAIN))


def test_a_speck_for_a_liver_is_refused() -> None:
    speck = np.zeros(PLAIN.shape, dtype=bool)
    speck[20, 30, 40] = True
    with pytest.raises(InputError, match="too little in common|do not fit"):
        check(register(scanned(np.eye(4), COARSE), (speck, PLAIN)))


def test_another_organ_is_refused_with_the_numbers() -> None:
    box = np.zeros(PLAIN.shape, dtype=bool)
    box[5:15, 5:60, 5:85] = True  # 40 x 137 x 200 mm
    found = register(scanned(np.eye(4), PLAIN), (box, PLAIN))
    with pytest.raises(InputError, match=r"not the same patient") as told:
        check(found)
    if found.dice < LEAST_DICE:
        assert f"{found.dice:.2f}" in str(told.value)


def test_a_registration_at_the_limits_passes() -> None:
    check(GOOD)
    check(dataclasses.replace(GOOD, stretches=(1 / LARGEST_STRETCH, 1.0, 1.0)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dice": 0.8499}, r"overlap \(Dice\) 0.85"),
        ({"surface_distance_mm": 5.01}, "surfaces 5.0 mm apart"),
        ({"stretches": (1.0, 1.0, 1.2501)}, "stretch by 1.25"),
        ({"stretches": (0.79, 1.0, 1.0)}, "stretch by 1.27"),
    ],
)
def test_a_registration_beyond_a_limit_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check(dataclasses.replace(GOOD, **change))
