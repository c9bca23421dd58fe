"""Losses by table, by property, and against MONAI where it computes the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from Training.losses import LOSSES, Loss, weighted_loss

P = (0.9, 0.2, 0.7, 0.1)
G = (1.0, 0.0, 1.0, 1.0)
# By hand for P and G: I = 1.7, sum p^2 = 1.35, sum g^2 = 3, FP = 0.2, FN = 1.3.
EXPECTED = {
    "dice": 0.2183926014,
    "tversky": 0.3632982648,
    "bce": 0.7469410260,
    "hybrid": 0.9653336274,
    "jaccard": 0.3584929868,
    "sensitivity_specificity": 0.0531662361,
    "el_dice": 0.6568915045,
    "advanced_combo": 0.4478016157,
}
BLIND_WITHOUT_TARGET = ("dice", "tversky", "jaccard", "el_dice")
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
SHAPE = (1, 1, 8, 9, 10)
TARGETS = {
    "empty": torch.zeros(SHAPE).double(),
    "full": torch.ones(SHAPE).double(),
    "mixed": (torch.arange(720) % 3 == 0).double().reshape(SHAPE),
}


def column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, -1)


def gradient(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    loss(logits, target).backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize(("name", "expected"), EXPECTED.items())
def test_value_by_hand(name: str, expected: float) -> None:
    got = LOSSES[name](column(P).logit(), column(G)).item()
    assert got == pytest.approx(expected, abs=1e-9)


def test_the_table_covers_every_loss() -> None:
    assert sorted(EXPECTED) == sorted(LOSSES)


def test_advanced_combo_is_the_sum_of_its_parts_by_hand() -> None:
    # Smoothing 1: dice 1 - 4.4 / 5.9, Tversky index 2.7 / (1.7 + 0.7 * 1.3 + 0.3 * 0.2 + 1).
    dice, index, bce = 1 - 4.4 / 5.9, 2.7 / 3.67, 0.7469410260
    expected = 0.3 * dice + 0.3 * bce + 0.4 * (1 - index) ** 0.75
    got = LOSSES["advanced_combo"](column(P).logit(), column(G)).item()
    assert got == pytest.approx(expected, abs=1e-9)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_value_and_gradient_are_finite(loss: Loss, dtype: torch.dtype, target: Tensor) -> None:
    """Perfect, inverted and undecided predictions of an empty, a full and a mixed target."""
    target = target.to(dtype)
    for certainty in (-100.0, -20.0, 0.0, 20.0, 100.0):
        logits = certainty * (2 * target - 1)
        assert loss(logits, target).isfinite()
        assert loss(logits, target) >= -1e-7
        assert gradient(loss, logits, target).isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target", ["full", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_for_a_perfect_prediction_and_large_for_an_inverted_one(
    name: str, target: str, dtype: torch.dtype
) -> None:
    g = TARGETS[target].to(dtype)
    floor = 0.01 if name == "el_dice" else 1e-4  # its clamp: (1e-7) ^ 0.3 = 0.008
    assert LOSSES[name](40 * (2 * g - 1), g).item() <= floor
    worst = 0.04 if name == "sensitivity_specificity" and target == "full" else 0.9
    assert LOSSES[name](-40 * (2 * g - 1), g).item() >= worst


@every_loss
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_order_of_voxels_does_not_matter(loss: Loss, data: st.DataObject) -> None:
    voxels = data.draw(st.lists(st.tuples(st.floats(-9, 9), st.booleans()), min_size=1))
    shuffled = data.draw(st.permutations(voxels))

    def value(pairs: list[tuple[float, bool]]) -> float:
        logits, target = zip(*pairs, strict=True)
        return loss(column(logits), column(target)).item()

    assert value(voxels) >= -1e-12
    assert value(shuffled) == pytest.approx(value(voxels), abs=1e-12)


@every_loss
def test_a_batch_is_the_mean_of_its_samples(loss: Loss) -> None:
    logits = torch.randn(3, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    target = (logits.roll(1, 0) > 0.5).double()
    alone = [loss(logits[i : i + 1], target[i : i + 1]) for i in range(3)]
    assert loss(logits, target).item() == pytest.approx(torch.stack(alone).mean().item(), abs=1e-12)


@every_loss
def test_a_step_down_the_gradient_lowers_the_loss(loss: Loss) -> None:
    logits, target = column(P).logit(), column(G)
    better = logits - 1e-4 * gradient(loss, logits, target)
    assert loss(better, target) < loss(logits, target)


@pytest.mark.parametrize("name", LOSSES)
def test_who_learns_from_a_window_without_target(name: str) -> None:
    """The trap: an overlap alone gives no gradient where there is nothing to overlap with."""
    slope = gradient(LOSSES[name], torch.zeros(1, 1, 2, 3, 4), torch.zeros(1, 1, 2, 3, 4))
    if name in BLIND_WITHOUT_TARGET:
        assert (slope == 0).all()
    else:
        assert (slope > 0).all()  # a step down the gradient lowers every false probability


def test_monai_agrees() -> None:
    from monai import losses as monai

    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 1, 4, 5, 6, generator=generator).double()
    target = (torch.rand(2, 1, 4, 5, 6, generator=generator) > 0.7).double()

    def agrees(name: str, oracle: torch.nn.Module) -> None:
        expected = oracle(logits, target).item()
        assert LOSSES[name](logits, target).item() == pytest.approx(expected, abs=1e-9), name

    squared = {"sigmoid": True, "squared_pred": True, "smooth_nr": 0.0}
    agrees("dice", monai.DiceLoss(**squared, smooth_dr=1e-5))
    # MONAI doubles the whole fraction, so its smoothing counts half.
    agrees("jaccard", monai.DiceLoss(**squared, jaccard=True, smooth_dr=2e-5))
    weights = {"alpha": 0.3, "beta": 0.7}  # on false positives, on false negatives
    agrees("tversky", monai.TverskyLoss(sigmoid=True, **weights, smooth_nr=0, smooth_dr=1e-5))

    smooth = {"sigmoid": True, "smooth_nr": 1.0, "smooth_dr": 1.0, "reduction": "none"}
    focal = monai.TverskyLoss(**smooth, **weights)(logits, target) ** 0.75
    combo = 0.3 * monai.DiceLoss(**smooth)(logits, target) + 0.4 * focal
    expected = combo.mean() + 0.3 * F.binary_cross_entropy_with_logits(logits, target)
    got = LOSSES["advanced_combo"](logits, target)
    assert got.item() == pytest.approx(expected.item(), abs=1e-9)


def test_weighted_loss_sums_its_terms() -> None:
    got = weighted_loss({"hybrid": 0.5, "tversky": 0.25}, column(P).logit(), column(G)).item()
    expected = 0.5 * EXPECTED["hybrid"] + 0.25 * EXPECTED["tversky"]
    assert got == pytest.approx(expected, abs=1e-6)


def test_an_unknown_loss_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"\['focal'\].*'advanced_combo'.*'tversky'"):
        weighted_loss({"dice": 1.0, "focal": 1.0}, column(P), column(G))


def test_arithmetic_is_float32_under_autocast() -> None:
    """Sums over a million voxels: in bfloat16, whose step is 1/256, they would be far off."""
    logits = torch.linspace(-3, 3, 2**20).reshape(1, 1, -1).bfloat16().requires_grad_()
    target = (torch.arange(2**20) % 7 == 0).float().reshape(1, 1, -1)
    with torch.autocast("cpu", torch.bfloat16):
        got = weighted_loss({"hybrid": 0.5, "tversky": 0.5}, logits, target)
    assert got.dtype == torch.float32
    exact = logits.detach().double()
    expected = 0.5 * LOSSES["hybrid"](exact, target) + 0.5 * LOSSES["tversky"](exact, target)
    assert got.item() == pytest.approx(expected.item(), abs=1e-5)
    got.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0
