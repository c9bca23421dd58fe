"""Losses by table, by formula, by property, and against MONAI where it computes the same."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.recipe import AlphaSupervision, PyramidSupervision, Recipe, Training
from LiverTumorSegLib.recipes import RECIPES
from Training.losses import (
    LOSSES,
    SIGMOID_LOSSES,
    SOFTMAX_LOSSES,
    Activation,
    check_names,
    encode,
    total_loss,
    weighted_loss,
)

P = (0.9, 0.2, 0.7, 0.1)
G = (1.0, 0.0, 1.0, 1.0)
# Four voxels of one mask; three voxels of background, liver and tumor, one of each.
P_CLASSES = ((0.7, 0.2, 0.1), (0.1, 0.6, 0.3), (0.2, 0.3, 0.5))
G_CLASSES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
EXPECTED = {
    # By hand for P and G: I = 1.7, sum p^2 = 1.35, sum g^2 = 3, FP = 0.2, FN = 1.3.
    "dice": 0.2183926014,
    "tversky": 0.3632982648,
    "bce": 0.7469410260,
    "hybrid": 0.9653336274,
    "jaccard": 0.3584929868,
    "sensitivity_specificity": 0.0531662361,
    "el_dice": 0.6568915045,
    "advanced_combo": 0.4478016157,
    "focal": 0.1203140938,
    "batch_dice": 0.2183903026,  # 1 - (3.4 + 1e-5) / (4.35 + 1e-5)
    "smooth_dice": 0.2542372881,  # 1 - 4.4 / 5.9
    # By hand for the classes: I = 0.7, 0.6, 0.5; sum p^2 = 0.54, 0.49, 0.35; all sum g = 1.
    "cross_entropy": 0.5202159161,
    "class_dice": 0.2269434525,  # with 1e-5 in all four sums, as in the next two
    "joint_dice": 0.1780817852,
    "joint_foreground_dice": 0.2253513192,
}
BLIND_WITHOUT_TARGET = ("dice", "tversky", "jaccard", "el_dice")
SUM_OVER_THE_BATCH = ("batch_dice", "class_dice", "joint_dice", "joint_foreground_dice")
SHAPE = (1, 1, 8, 9, 10)
KINDS = ("empty", "full", "mixed")
every_loss = pytest.mark.parametrize("name", LOSSES)


def columns(voxels: tuple[tuple[float, ...], ...] | list[tuple[float, ...]]) -> Tensor:
    """`(1, C, voxels)` of one tuple of C values a voxel."""
    return torch.tensor(voxels, dtype=torch.float64).T[None]


def column(values: tuple[float, ...]) -> Tensor:
    return columns([(value,) for value in values])


def by_hand(name: str) -> tuple[Tensor, Tensor]:
    """Logits and target of the table."""
    if name in SIGMOID_LOSSES:
        return column(P).logit(), column(G)
    return columns(P_CLASSES).log(), columns(G_CLASSES)


def target_of(name: str, kind: str) -> Tensor:
    """No target, nothing but target (tumor, of three classes), or every third voxel."""
    if name in SIGMOID_LOSSES:
        masks = {
            "empty": torch.zeros(SHAPE),
            "full": torch.ones(SHAPE),
            "mixed": (torch.arange(720) % 3 == 0).reshape(SHAPE),
        }
        return masks[kind].double()
    labels = {
        "empty": torch.zeros(720).long(),
        "full": torch.full((720,), 2),
        "mixed": torch.arange(720) % 3,
    }
    return one_hot(labels[kind].reshape(1, *SHAPE[2:]))


def one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, 3).movedim(-1, 1).double()


def drawn(name: str, batch: int, channels: int = 2) -> tuple[Tensor, Tensor]:
    """Random logits and a target that they guess better than chance."""
    generator = torch.Generator().manual_seed(batch)
    if name in SIGMOID_LOSSES:
        target = (torch.rand(batch, channels, 4, 5, 6, generator=generator) > 0.7).double()
    else:
        target = one_hot(torch.randint(3, (batch, 4, 5, 6), generator=generator))
    noise = torch.randn(target.shape, generator=generator, dtype=torch.float64)
    return noise + target, target


def gradient(name: str, logits: Tensor, target: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    LOSSES[name](logits, target).backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize(("name", "expected"), EXPECTED.items())
def test_value_by_hand(name: str, expected: float) -> None:
    assert LOSSES[name](*by_hand(name)).item() == pytest.approx(expected, abs=1e-9)


def test_the_table_covers_every_loss() -> None:
    assert sorted(EXPECTED) == sorted(LOSSES)


@pytest.mark.parametrize(
    ("name", "unsmoothed"),
    [
        ("class_dice", 1 - (1.2 / 1.49 + 1 / 1.35) / 2),
        ("joint_dice", 1 - 3.6 / 4.38),
        ("joint_foreground_dice", 1 - 2.2 / 2.84),
        ("batch_dice", 1 - 3.4 / 4.35),
    ],
)
def test_the_smoothing_vanishes_in_a_large_volume(name: str, unsmoothed: float) -> None:
    logits, target = (x.repeat(1, 1, 20_000) for x in by_hand(name))
    assert LOSSES[name](logits, target).item() == pytest.approx(unsmoothed, abs=1e-9)


def test_the_papers_sums_by_hand() -> None:
    """RMAU-Net's 0.5 focal + 1.0 Dice, and MSA-UNet's 0.5 BCE + 1.0 Dice, of a 2x2 slice."""
    logits = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]]]).double()
    target = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]]).double()
    assert LOSSES["focal"](logits, target).item() == pytest.approx(0.248018, abs=5e-7)
    assert LOSSES["bce"](logits, target).item() == pytest.approx(1.115714, abs=5e-7)
    for name, weights in (("rmau-net", (0.5, 1.0)), ("msa-unet", (0.5, 1.0))):
        assert tuple(RECIPES[name].training.loss.values()) == weights
    rmau = weighted_loss(RECIPES["rmau-net"].training.loss, logits, target).item()
    assert rmau == pytest.approx(0.550649, abs=3e-6)  # that sum has no smoothing, ours 1e-5
    msa = weighted_loss(RECIPES["msa-unet"].training.loss, logits, target).item()
    assert msa == pytest.approx(0.965187, abs=6e-7)


def test_advanced_combo_is_the_sum_of_its_parts_by_hand() -> None:
    # Smoothing 1: dice 1 - 4.4 / 5.9, Tversky index 2.7 / (1.7 + 0.7 * 1.3 + 0.3 * 0.2 + 1).
    dice, index, bce = 1 - 4.4 / 5.9, 2.7 / 3.67, 0.7469410260
    expected = 0.3 * dice + 0.3 * bce + 0.4 * (1 - index) ** 0.75
    got = LOSSES["advanced_combo"](column(P).logit(), column(G)).item()
    assert got == pytest.approx(expected, abs=1e-9)


def _focal(p: np.ndarray, g: np.ndarray) -> float:
    q = np.where(g == 1, p, 1 - p)
    return float(np.mean(np.where(g == 1, 0.25, 0.75) * (1 - q) ** 2 * -np.log(q)))


# p and g are (B, C, voxels).
FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "focal": _focal,
    "cross_entropy": lambda p, g: float(np.mean(-np.log(p[g == 1]))),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_of_a_library_is_the_papers_formula(name: str) -> None:
    logits, target = drawn(name, batch=3)
    p = logits.sigmoid() if name in SIGMOID_LOSSES else logits.softmax(1)
    expected = FORMULAS[name](p.flatten(2).numpy(), target.flatten(2).numpy())
    assert LOSSES[name](logits, target).item() == pytest.approx(expected, abs=1e-12)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_are_finite(name: str, dtype: torch.dtype, kind: str) -> None:
    """Perfect, inverted and undecided predictions of an empty, a full and a mixed target."""
    target = target_of(name, kind).to(dtype)
    for certainty in (-100.0, -20.0, 0.0, 20.0, 100.0):
        logits = certainty * (2 * target - 1)
        assert LOSSES[name](logits, target).isfinite()
        assert LOSSES[name](logits, target) >= -1e-7
        assert gradient(name, logits, target).isfinite().all()


@every_loss
@pytest.mark.parametrize("kind", ["full", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_for_a_perfect_prediction_and_large_for_an_inverted_one(
    name: str, kind: str, dtype: torch.dtype
) -> None:
    g = target_of(name, kind).to(dtype)
    floor = 0.01 if name == "el_dice" else 1e-4  # its clamp: (1e-7) ^ 0.3 = 0.008
    assert LOSSES[name](40 * (2 * g - 1), g).item() <= floor
    worst = 0.04 if name == "sensitivity_specificity" and kind == "full" else 0.9
    assert LOSSES[name](-40 * (2 * g - 1), g).item() >= worst


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {*BLIND_WITHOUT_TARGET, "hybrid"}))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_finding_nothing_where_nothing_is_costs_nothing(name: str, dtype: torch.dtype) -> None:
    g = target_of(name, "empty").to(dtype)
    assert LOSSES[name](40 * (2 * g - 1), g).item() <= 1e-4
    assert LOSSES[name](-40 * (2 * g - 1), g).item() >= 0.9


@every_loss
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_order_of_voxels_does_not_matter(name: str, data: st.DataObject) -> None:
    logit = st.floats(-9, 9)
    sigmoid = st.tuples(st.tuples(logit), st.sampled_from([(0.0,), (1.0,)]))
    softmax = st.tuples(st.tuples(logit, logit, logit), st.sampled_from(G_CLASSES))
    voxels = data.draw(st.lists(sigmoid if name in SIGMOID_LOSSES else softmax, min_size=1))
    shuffled = data.draw(st.permutations(voxels))

    def value(pairs: list[tuple[tuple[float, ...], tuple[float, ...]]]) -> float:
        logits, target = zip(*pairs, strict=True)
        return LOSSES[name](columns(logits), columns(target)).item()

    assert value(voxels) >= -1e-12
    assert value(shuffled) == pytest.approx(value(voxels), abs=1e-12)


@every_loss
def test_a_batch_is_the_mean_of_its_samples_or_one_large_sample(name: str) -> None:
    logits, target = drawn(name, batch=3)
    alone = [LOSSES[name](logits[i : i + 1], target[i : i + 1]) for i in range(3)]
    mean = torch.stack(alone).mean().item()
    whole = LOSSES[name](*(torch.cat(list(x.split(1)), 2) for x in (logits, target))).item()
    got = LOSSES[name](logits, target).item()
    if name in SUM_OVER_THE_BATCH:
        assert got == pytest.approx(whole, abs=1e-12)
        assert got != pytest.approx(mean, abs=1e-4)
    else:
        assert got == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("name", SIGMOID_LOSSES)
def test_channels_are_masks_of_their_own(name: str) -> None:
    logits, target = drawn(name, batch=2)
    target[:, 1] *= torch.rand(target[:, 1].shape, generator=torch.Generator().manual_seed(5)) > 0.8
    alone = [LOSSES[name](logits[:, i : i + 1], target[:, i : i + 1]).item() for i in range(2)]
    assert alone[0] != pytest.approx(alone[1], abs=1e-3)
    assert LOSSES[name](logits, target).item() == pytest.approx(np.mean(alone), abs=1e-12)


@every_loss
def test_a_step_down_the_gradient_lowers_the_loss(name: str) -> None:
    logits, target = by_hand(name)
    better = logits - 1e-4 * gradient(name, logits, target)
    assert LOSSES[name](better, target) < LOSSES[name](logits, target)


@every_loss
def test_who_learns_from_a_window_without_target(name: str) -> None:
    """The trap: an overlap alone gives no gradient where there is nothing to overlap with."""
    target = target_of(name, "empty")
    slope = gradient(name, torch.zeros_like(target), target)
    if name in BLIND_WITHOUT_TARGET:
        assert (slope == 0).all()
    elif name in SIGMOID_LOSSES:
        assert (slope > 0).all()  # a step down the gradient lowers every false probability
    else:
        assert (slope[:, 0] < 0).all()
        assert (slope[:, 1:] > 0).all()


def test_monai_agrees() -> None:
    from monai import losses as monai

    def agrees(name: str, oracle: Callable[[Tensor, Tensor], Tensor]) -> None:
        logits, target = drawn(name, batch=2)
        expected = oracle(logits, target).item()
        assert LOSSES[name](logits, target).item() == pytest.approx(expected, abs=1e-9), name

    squared = {"sigmoid": True, "squared_pred": True, "smooth_nr": 0.0}
    agrees("dice", monai.DiceLoss(**squared, smooth_dr=1e-5))
    # MONAI doubles the whole fraction, so its smoothing counts half.
    agrees("jaccard", monai.DiceLoss(**squared, jaccard=True, smooth_dr=2e-5))
    weights = {"alpha": 0.3, "beta": 0.7}  # on false positives, on false negatives
    agrees("tversky", monai.TverskyLoss(sigmoid=True, **weights, smooth_nr=0, smooth_dr=1e-5))
    one_minus_d = monai.DiceLoss(**squared, smooth_dr=1e-5, reduction="none")
    agrees("el_dice", lambda z, g: ((-(1 - one_minus_d(z, g)).log()) ** 0.3).mean())

    smooth = {"sigmoid": True, "smooth_nr": 1.0, "smooth_dr": 1.0}
    soft_dice = monai.DiceLoss(**smooth)
    agrees("smooth_dice", soft_dice)
    index = monai.TverskyLoss(**smooth, **weights, reduction="none")
    bce = F.binary_cross_entropy_with_logits
    agrees(
        "advanced_combo",
        lambda z, g: 0.3 * soft_dice(z, g) + 0.3 * bce(z, g) + 0.4 * (index(z, g) ** 0.75).mean(),
    )

    batch = {"squared_pred": True, "batch": True, "smooth_nr": 1e-5, "smooth_dr": 1e-5}
    agrees("batch_dice", monai.DiceLoss(sigmoid=True, **batch))
    agrees("class_dice", monai.DiceLoss(softmax=True, include_background=False, **batch))

    def joint(z: Tensor, g: Tensor, first: int) -> Tensor:
        """All classes laid end to end, as if they were one mask."""
        p = z.softmax(1)[:, None, first:].flatten(2)
        return monai.DiceLoss(**batch)(p, g[:, None, first:].flatten(2))

    agrees("joint_dice", lambda z, g: joint(z, g, first=0))
    agrees("joint_foreground_dice", lambda z, g: joint(z, g, first=1))


def test_monai_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, Training.losses; print('monai' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr


def test_without_monai_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.losses.focal_loss", None)
    with pytest.raises(InputError, match=r"MONAI.*pip install '\.\[train\]'"):
        LOSSES["focal"](*by_hand("focal"))


def test_weighted_loss_sums_its_terms() -> None:
    got = weighted_loss({"hybrid": 0.5, "tversky": 0.25}, column(P).logit(), column(G)).item()
    expected = 0.5 * EXPECTED["hybrid"] + 0.25 * EXPECTED["tversky"]
    assert got == pytest.approx(expected, abs=1e-6)


def test_a_target_of_another_shape_is_refused_rather_than_broadcast() -> None:
    logits, target = torch.zeros(2, 2, 4, 4), torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\).*\(2, 2, 4, 4\)"):
        weighted_loss({"dice": 1.0}, logits, target)


@every_loss
def test_arithmetic_is_float32_under_autocast(name: str) -> None:
    """Sums over many voxels: in bfloat16, whose step is 1/256, they would be far off."""
    channels = 1 if name in SIGMOID_LOSSES else 3
    logits = torch.linspace(-3, 3, 3 * 2**16).reshape(1, channels, -1).bfloat16().requires_grad_()
    labels = torch.arange(logits.shape[2]) % 7
    target = (labels == 0)[None, None] if channels == 1 else one_hot(labels.clamp(max=2)[None])
    with torch.autocast("cpu", torch.bfloat16):
        got = weighted_loss({name: 2.0}, logits, target.float())
    assert got.dtype == torch.float32
    exact = 2 * LOSSES[name](logits.detach().double(), target.double()).item()
    assert got.item() == pytest.approx(exact, rel=1e-5)
    got.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0


@every_loss
def test_shapes_can_be_tried_without_numbers(name: str) -> None:
    """On the meta device, which is how a trainer learns at the start what does not fit."""
    with torch.device("meta"):
        labels = torch.zeros(2, 1, 16, 16)
        activation: Activation = "sigmoid" if name in SIGMOID_LOSSES else "softmax"
        target = encode(labels, ("liver", "tumor"), activation)
        heads = [torch.zeros(*target.shape[:2], 16 >> i, 16 >> i) for i in range(5)]
        got = total_loss(supervised({name: 1.0}, PYRAMID), {"heads": heads}, target, 0)
    assert got.is_meta
    assert got.shape == ()


def test_an_unknown_loss_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"\['fokal'\].*'advanced_combo'.*'tversky'\]"):
        check_names({"dice": 1.0, "fokal": 1.0}, "sigmoid")
    with pytest.raises(ValueError, match=r"\['fokal'\].*\['class_dice', 'cross_entropy'"):
        check_names({"fokal": 1.0}, "softmax")


def test_a_recipe_without_a_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a loss; choose from"):
        check_names({}, "sigmoid")


@every_loss
def test_a_loss_of_the_other_activation_is_refused(name: str) -> None:
    fits: Activation = "sigmoid" if name in SIGMOID_LOSSES else "softmax"
    other: Activation = "softmax" if name in SIGMOID_LOSSES else "sigmoid"
    check_names({name: 1.0}, fits)
    beside = next(iter(SOFTMAX_LOSSES if other == "softmax" else SIGMOID_LOSSES))
    with pytest.raises(ValueError, match=rf"\['{name}'\] do not fit .*{other}; choose from"):
        check_names({beside: 1.0, name: 1.0}, other)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_the_losses_of_every_recipe_fit(recipe: Recipe) -> None:
    check_names(recipe.training.loss, recipe.inference.activation)


LABELS = torch.tensor([[0, 1, 2], [2, 0, 1]], dtype=torch.uint8)[:, None]
LIVER, TUMOR = [[0, 1, 1], [1, 0, 1]], [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("targets", "activation", "expected"),
    [
        (("liver",), "sigmoid", [LIVER]),
        (("tumor",), "sigmoid", [TUMOR]),
        (("liver", "tumor"), "sigmoid", [LIVER, TUMOR]),
        (
            ("liver", "tumor"),
            "softmax",
            [[[1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1]], TUMOR],
        ),
    ],
)
@pytest.mark.parametrize("spatial", [(3,), (1, 3), (1, 1, 3)])
def test_encode(
    targets: tuple[str, ...],
    activation: Activation,
    expected: list[list[list[int]]],
    spatial: tuple[int, ...],
) -> None:
    got = encode(LABELS.reshape(2, 1, *spatial), targets, activation)
    assert got.dtype == torch.float32
    assert got.shape == (2, len(expected), *spatial)
    assert got.flatten(2).transpose(0, 1).tolist() == expected


def test_a_softmax_is_over_all_classes() -> None:
    with pytest.raises(ValueError, match='softmax.*"both"'):
        encode(LABELS, ("tumor",), "softmax")


def supervised(
    loss: dict[str, float], supervision: AlphaSupervision | PyramidSupervision | None
) -> Training:
    training = RECIPES["elanres-msca-liver"].training
    return replace(training, loss=loss, deep_supervision=supervision)


ALPHA = AlphaSupervision(alpha=0.4, decay=0.8, period_epochs=30)
PYRAMID = PyramidSupervision(levels=5)


def test_without_deep_supervision_the_first_output_counts_alone() -> None:
    logits, target = drawn("dice", batch=2)
    outputs = {"sem": [logits, logits + 1], "pfe": [logits - 1]}
    got = total_loss(supervised({"dice": 2.0}, None), outputs, target, 0).item()
    assert got == pytest.approx(2 * LOSSES["dice"](logits, target).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("epoch", "alpha"),
    [
        (0, 0.4),
        (29, 0.4),
        (30, 0.32),
        (60, 0.256),
        (90, 0.2048),
        (120, 0.16384),
        (150, 0.131072),
        (180, 0.1048576),
    ],
)
def test_coarser_outputs_weigh_alpha(epoch: int, alpha: float) -> None:
    logits, target = drawn("dice", batch=2)
    members = [logits + shift for shift in range(4)]
    finest, *coarser = (weighted_loss({"hybrid": 1.0}, x, target).item() for x in members)
    got = total_loss(supervised({"hybrid": 1.0}, ALPHA), {"heads": members}, target, epoch)
    assert (got.item() - finest) / sum(coarser) == pytest.approx(alpha, abs=1e-6)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    ("level", "weight"), [(0, 0.2), (1, 0.1), (2, 0.05), (3, 0.025), (4, 0.0125)]
)
def test_weights_of_the_pyramid(dimensions: int, level: int, weight: float) -> None:
    """All levels predict perfectly but one, which is undecided between the three classes."""
    generator = torch.Generator().manual_seed(level)
    labels = torch.randint(3, (2, 1, *(16, 32, 48)[:dimensions]), generator=generator)
    target = encode(labels, ("liver", "tumor"), "softmax")
    middles = [slice(2**i // 2, None, 2**i) for i in range(5)]
    outputs = [40 * target[(...,) + (middle,) * dimensions] for middle in middles]
    recipe = supervised({"cross_entropy": 1.0}, PYRAMID)
    assert total_loss(recipe, {"pfe": outputs}, target, 7).item() == pytest.approx(0, abs=1e-6)
    outputs[level] = torch.zeros_like(outputs[level])
    got = total_loss(recipe, {"pfe": outputs}, target, 7).item()
    assert got == pytest.approx(weight * math.log(3), abs=1e-6)


def test_the_pyramid_sums_over_all_lists() -> None:
    """DPC-Net: levels 0 to 4, then 1 to 4 and 0 to 3; an undecided output costs ln 3."""
    target = encode(torch.zeros(1, 1, 16, 16, 16), ("liver", "tumor"), "softmax")
    levels = {"sem": range(4), "pfe": range(5), "spa": range(1, 5)}
    outputs = {name: [torch.zeros(1, 3, *[16 >> i] * 3) for i in levels[name]] for name in levels}
    got = total_loss(supervised({"cross_entropy": 1.0}, PYRAMID), outputs, target, 0).item()
    assert got == pytest.approx((0.375 + 0.3875 + 0.1875) * math.log(3), abs=1e-6)


@pytest.mark.parametrize(
    ("supervision", "outputs", "message"),
    [
        (ALPHA, {"heads": [(8, 8)]}, "two or more outputs"),
        (PYRAMID, {"heads": [(8, 8)]}, "two or more outputs"),
        (ALPHA, {"pfe": [(8, 8)], "spa": [(8, 8)]}, r"one list.*\['pfe', 'spa'\]"),
        (ALPHA, {"heads": [(8, 8), (4, 4)]}, r"shape \(1, 1, 8, 8\).*\(1, 1, 4, 4\)"),
        (None, {"heads": [(4, 4), (8, 8)]}, r"shape \(1, 1, 8, 8\).*\(1, 1, 4, 4\)"),
        (PyramidSupervision(1), {"heads": [(8, 8), (4, 4)]}, r"of 1 levels.*\(4, 4\)"),
        (PYRAMID, {"heads": [(8, 8), (4, 8)]}, r"size \(8, 8\), halved at most 4.*\(4, 8\)"),
        (PYRAMID, {"heads": [(8, 8), (3, 3)]}, r"\(3, 3\)"),
        (PYRAMID, {"heads": [(8, 8), (16, 16)]}, r"\(16, 16\)"),
    ],
)
def test_supervision_that_the_outputs_cannot_give_is_refused(
    supervision: AlphaSupervision | PyramidSupervision | None,
    outputs: dict[str, list[tuple[int, int]]],
    message: str,
) -> None:
    logits = {name: [torch.zeros(1, 1, *size) for size in outputs[name]] for name in outputs}
    with pytest.raises(ValueError, match=message):
        total_loss(supervised({"bce": 1.0}, supervision), logits, torch.zeros(1, 1, 8, 8), 0)


def test_all_supervised_outputs_learn() -> None:
    target = (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    for supervision, sizes in ((ALPHA, (8, 8, 8)), (PYRAMID, (8, 4, 2))):
        heads = [torch.zeros(1, 1, size, size).bfloat16().requires_grad_() for size in sizes]
        with torch.autocast("cpu", torch.bfloat16):
            got = total_loss(supervised({"hybrid": 1.0}, supervision), {"heads": heads}, target, 0)
        assert got.dtype == torch.float32
        got.backward()
        assert all(head.grad is not None and head.grad.abs().max() > 0 for head in heads)
