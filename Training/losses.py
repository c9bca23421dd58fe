"""Losses on logits of binary masks, in float32: those of the papers, one function each.

Every loss takes logits `(B, 1, *spatial)` and a target of the same shape holding 0 and 1, sums over
all voxels of a sample and returns the mean over the batch. p is the sigmoid of the logits, g the
target, I = sum p g, FP = sum p (1 - g), FN = sum (1 - p) g.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-5
Loss = Callable[[Tensor, Tensor], Tensor]


def _flat(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return logits.sigmoid().flatten(1), target.to(logits.dtype).flatten(1)


def _squared_dice(p: Tensor, g: Tensor) -> Tensor:
    """D = 2 I / (sum p^2 + sum g^2 + eps) (ELANRes-MSCA-UNet, Table 1, squares as its lineage)."""
    return 2 * (p * g).sum(1) / ((p * p).sum(1) + (g * g).sum(1) + EPSILON)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - D (ELANRes-MSCA-UNet, Table 1)."""
    return (1 - _squared_dice(*_flat(logits, target))).mean()


def tversky(logits: Tensor, target: Tensor) -> Tensor:
    """1 - I / (I + 0.3 FP + 0.7 FN + eps) (ELANRes-MSCA-UNet, Table 1)."""
    p, g = _flat(logits, target)
    overlap = (p * g).sum(1)
    false_positive = (p * (1 - g)).sum(1)
    false_negative = ((1 - p) * g).sum(1)
    denominator = overlap + 0.3 * false_positive + 0.7 * false_negative + EPSILON
    return (1 - overlap / denominator).mean()


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


def hybrid(logits: Tensor, target: Tensor) -> Tensor:
    """(1 - D) + BCE (ELANRes-MSCA-UNet, Table 1, lambda = 1)."""
    return dice(logits, target) + bce(logits, target)


def jaccard(logits: Tensor, target: Tensor) -> Tensor:
    """1 - I / (sum p^2 + sum g^2 - I + eps); the paper's Table 1 prints only 1 - Intersection."""
    p, g = _flat(logits, target)
    overlap = (p * g).sum(1)
    union = (p * p).sum(1) + (g * g).sum(1) - overlap
    return (1 - overlap / (union + EPSILON)).mean()


def sensitivity_specificity(logits: Tensor, target: Tensor) -> Tensor:
    """0.05 s1 + 0.95 s2 (ELANRes-MSCA-UNet, Table 1, "SSLoss").

    s1 is the mean squared error over the target, s2 over the background.
    """
    p, g = _flat(logits, target)
    error = (p - g) ** 2
    inside = (error * g).sum(1) / (g.sum(1) + EPSILON)
    outside = (error * (1 - g)).sum(1) / ((1 - g).sum(1) + EPSILON)
    return (0.05 * inside + 0.95 * outside).mean()


def el_dice(logits: Tensor, target: Tensor) -> Tensor:
    """(-ln D)^0.3 (ELANRes-MSCA-UNet, Table 1); D is clamped, since D + eps > 1 would give NaN."""
    d = _squared_dice(*_flat(logits, target)).clamp(EPSILON, 1 - 1e-7)
    return ((-d.log()) ** 0.3).mean()


def advanced_combo(logits: Tensor, target: Tensor) -> Tensor:
    """0.3 Dice + 0.3 BCE + 0.4 focal Tversky, smoothing 1 (3D U-Net + AdvancedComboLoss, Eq. 4).

    Focal Tversky is (1 - TI)^0.75 with false negatives weighted 0.7 and false positives 0.3, as
    Abraham and Khan define it; the base is clamped at 1e-7, where its slope would be infinite.
    """
    p, g = _flat(logits, target)
    overlap, p_sum, g_sum = (p * g).sum(1), p.sum(1), g.sum(1)
    soft_dice = 1 - (2 * overlap + 1) / (p_sum + g_sum + 1)
    false_negative, false_positive = g_sum - overlap, p_sum - overlap
    index = (overlap + 1) / (overlap + 0.7 * false_negative + 0.3 * false_positive + 1)
    focal_tversky = (1 - index).clamp(min=1e-7) ** 0.75
    return (0.3 * soft_dice + 0.4 * focal_tversky).mean() + 0.3 * bce(logits, target)


LOSSES: dict[str, Loss] = {
    "dice": dice,
    "tversky": tversky,
    "bce": bce,
    "hybrid": hybrid,
    "jaccard": jaccard,
    "sensitivity_specificity": sensitivity_specificity,
    "el_dice": el_dice,
    "advanced_combo": advanced_combo,
}


def check_names(weights: dict[str, float]) -> None:
    """Refuse a loss that is not here.

    Raises:
        ValueError: an unknown name.
    """
    unknown = sorted(set(weights) - set(LOSSES))
    if unknown:
        raise ValueError(f"Unknown losses {unknown}; choose from {sorted(LOSSES)}.")


def weighted_loss(weights: dict[str, float], logits: Tensor, target: Tensor) -> Tensor:
    """Weighted sum of named losses, computed in float32.

    Raises:
        ValueError: an unknown name.
    """
    check_names(weights)
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        terms = [weight * LOSSES[name](logits, target) for name, weight in weights.items()]
    return torch.stack(terms).sum()
