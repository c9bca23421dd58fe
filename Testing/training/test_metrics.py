"""Dice by table and by its relation to the Jaccard index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from Training.metrics import dice

MASKS = hnp.arrays(bool, (2, 3, 4))


def mask(text: str) -> np.ndarray:
    return np.array([letter == "#" for letter in text])


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("##..", "##..", 1.0),
        ("##..", ".##.", 0.5),
        ("##..", "..##", 0.0),
        ("####", "#...", 0.4),
        ("....", "#...", 0.0),
        ("#...", "....", 0.0),
        ("....", "....", 1.0),
    ],
)
def test_by_hand(prediction: str, reference: str, expected: float) -> None:
    assert dice(mask(prediction), mask(reference)) == pytest.approx(expected, abs=1e-15)


@settings(max_examples=50, deadline=None)
@given(MASKS, MASKS)
def test_symmetric_and_tied_to_the_jaccard_index(a: np.ndarray, b: np.ndarray) -> None:
    assert dice(a, b) == dice(b, a)
    union = (a | b).sum()
    jaccard = (a & b).sum() / union if union else 1.0
    assert dice(a, b) == pytest.approx(2 * jaccard / (1 + jaccard))


@settings(max_examples=50, deadline=None)
@given(MASKS, st.integers(0, 23))
def test_a_voxel_set_right_never_lowers_it(reference: np.ndarray, voxel: int) -> None:
    prediction = np.zeros_like(reference)
    better = prediction.copy()
    better.flat[voxel] = reference.flat[voxel]
    assert dice(better, reference) >= dice(prediction, reference)


def test_counts_do_not_overflow() -> None:
    everything = np.ones((70, 70, 70), dtype=bool)
    assert dice(everything, everything) == 1.0
