"""How likely a marked lesion is real, fitted by logistic regression and checked on other patients.

A lesion is real if it touches a true one. Two features, its mean probability and the logarithm of
its volume, are standardized; their weights carry a ridge of 1, and the targets are Platt's (in
Advances in Large Margin Classifiers, 1999): (real + 1) / (real + 2) and 1 / (others + 2), so that a
handful of lesions cannot make any certain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from LiverTumorSegLib.recipe import LesionConfidence

RIDGE = 1.0
BIN_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class MarkedLesion:
    """A lesion that weights marked in a case that they had not seen.

    Attributes:
        case: its name.
        probability: mean over its voxels.
        volume_mm3: its volume.
        real: whether it touches a true lesion.
    """

    case: str
    probability: float
    volume_mm3: float
    real: bool


@dataclass(frozen=True)
class Bin:
    """Lesions of similar confidence: how many, the mean confidence, and the share that is real."""

    lesions: int
    confidence: float
    real: float


def fit(lesions: Sequence[MarkedLesion]) -> LesionConfidence:
    """The coefficients; one half for every lesion where there is none to learn from."""
    if not lesions:
        return LesionConfidence(0.0, 0.0, 0.0)
    features = np.array([(row.probability, math.log(row.volume_mm3)) for row in lesions])
    mean, sd = features.mean(axis=0), features.std(axis=0)
    sd[sd == 0] = 1.0
    columns = np.column_stack([np.ones(len(lesions)), (features - mean) / sd])
    real = np.array([row.real for row in lesions])
    targets = np.where(real, (real.sum() + 1) / (real.sum() + 2), 1 / ((~real).sum() + 2))
    ridge = np.array([0.0, RIDGE, RIDGE])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = columns @ weights
        value = np.logaddexp(0.0, logits).sum() - targets @ logits
        expected = 0.5 * (1 + np.tanh(0.5 * logits))
        gradient = columns.T @ (expected - targets) + ridge * weights
        return value + 0.5 * ridge @ weights**2, gradient

    weights = minimize(loss, np.zeros(3), jac=True, method="BFGS").x
    slopes = weights[1:] / sd
    return LesionConfidence(float(weights[0] - slopes @ mean), *map(float, slopes))


def brier(confidences: Sequence[float], real: Sequence[bool]) -> float:
    """Mean squared difference of confidence and truth, at least one lesion.

    >>> brier([0.5, 1.0], [True, True])
    0.125
    """
    return float(np.mean((np.array(confidences) - np.array(real, float)) ** 2))


def reliability(confidences: Sequence[float], real: Sequence[bool]) -> list[Bin]:
    """The bins that hold a lesion, from unlikely to likely."""
    values, truth = np.array(confidences, float), np.array(real, bool)
    places = np.digitize(values, BIN_EDGES[1:-1])
    return [
        Bin(int(here.sum()), float(values[here].mean()), float(truth[here].mean()))
        for place in range(len(BIN_EDGES) - 1)
        if (here := places == place).any()
    ]
