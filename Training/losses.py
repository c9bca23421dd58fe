"""Losses of the papers on logits, one function each, and the sum that a training step minimizes.

Every loss takes logits `(B, C, *spatial)` and a floating target of the same shape that holds 0 and
1, and returns a scalar. Those of SIGMOID_LOSSES treat every channel as a mask of its own and return
the mean over channels; where the text says nothing of the batch, they sum over the voxels of a
sample and return the mean over samples too. Those of SOFTMAX_LOSSES take one channel each for
background, liver and tumor, of which every voxel is one. p is the probability, g the target,
I = sum p g, FP = sum p (1 - g), FN = sum (1 - p) g, eps = 1e-5.

The focal loss is MONAI's, imported when first used because that takes seconds. Its DiceLoss is not
called: it sums squares by way of norms, which in float32 put it off by 7e-4 and its gradient by
half a percent on two patches of 128^3 voxels on the CPU, and it fails on the meta device, on which
recipes are tried.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.labels import masks_of
from LiverTumorSegLib.recipe import AlphaSupervision, PyramidSupervision
from LiverTumorSegLib.recipe import Training as Settings

EPSILON = 1e-5
Loss = Callable[[Tensor, Tensor], Tensor]
Activation = Literal["sigmoid", "softmax"]


def _flat(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return logits.sigmoid().flatten(2), target.flatten(2)


def _squared_dice(p: Tensor, g: Tensor, *over: int, smoothing: float = 0.0) -> Tensor:
    """D = (2 I + smoothing) / (sum p^2 + sum g^2 + eps), with sums over these of (B, C, voxels)."""
    overlap, squares = (p * g).sum(over), (p * p).sum(over) + (g * g).sum(over)
    return (2 * overlap + smoothing) / (squares + EPSILON)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - D of each sample (ELANRes-MSCA-UNet, Table 1, squares as its lineage)."""
    return (1 - _squared_dice(*_flat(logits, target), 2)).mean()


def tversky(logits: Tensor, target: Tensor) -> Tensor:
    """1 - I / (I + 0.3 FP + 0.7 FN + eps) (ELANRes-MSCA-UNet, Table 1)."""
    p, g = _flat(logits, target)
    overlap = (p * g).sum(2)
    false_positive = (p * (1 - g)).sum(2)
    false_negative = ((1 - p) * g).sum(2)
    denominator = overlap + 0.3 * false_positive + 0.7 * false_negative + EPSILON
    return (1 - overlap / denominator).mean()


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits, target)


def hybrid(logits: Tensor, target: Tensor) -> Tensor:
    """(1 - D) + BCE (ELANRes-MSCA-UNet, Table 1, lambda = 1)."""
    return dice(logits, target) + bce(logits, target)


def jaccard(logits: Tensor, target: Tensor) -> Tensor:
    """1 - I / (sum p^2 + sum g^2 - I + eps); the paper's Table 1 prints only 1 - Intersection."""
    p, g = _flat(logits, target)
    overlap = (p * g).sum(2)
    union = (p * p).sum(2) + (g * g).sum(2) - overlap
    return (1 - overlap / (union + EPSILON)).mean()


def sensitivity_specificity(logits: Tensor, target: Tensor) -> Tensor:
    """0.05 s1 + 0.95 s2 (ELANRes-MSCA-UNet, Table 1, "SSLoss").

    s1 is the mean squared error over the target, s2 over the background.
    """
    p, g = _flat(logits, target)
    error = (p - g) ** 2
    inside = (error * g).sum(2) / (g.sum(2) + EPSILON)
    outside = (error * (1 - g)).sum(2) / ((1 - g).sum(2) + EPSILON)
    return (0.05 * inside + 0.95 * outside).mean()


def el_dice(logits: Tensor, target: Tensor) -> Tensor:
    """(-ln D)^0.3 (ELANRes-MSCA-UNet, Table 1); D is clamped, since D + eps > 1 would give NaN."""
    d = _squared_dice(*_flat(logits, target), 2).clamp(EPSILON, 1 - 1e-7)
    return ((-d.log()) ** 0.3).mean()


def smooth_dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 I + 1) / (sum p + sum g + 1) of each image (MSA-UNet, Eq. 6).

    The smoothing is ours: without it a slice that does not show the target would teach nothing.
    """
    p, g = _flat(logits, target)
    return (1 - (2 * (p * g).sum(2) + 1) / (p.sum(2) + g.sum(2) + 1)).mean()


def advanced_combo(logits: Tensor, target: Tensor) -> Tensor:
    """0.3 Dice + 0.3 BCE + 0.4 focal Tversky, smoothing 1 (3D U-Net + AdvancedComboLoss, Eq. 4).

    Focal Tversky is (1 - TI)^0.75 with false negatives weighted 0.7 and false positives 0.3, as
    Abraham and Khan define it; the base is clamped at 1e-7, where its slope would be infinite.
    """
    p, g = _flat(logits, target)
    overlap = (p * g).sum(2)
    false_negative, false_positive = g.sum(2) - overlap, p.sum(2) - overlap
    index = (overlap + 1) / (overlap + 0.7 * false_negative + 0.3 * false_positive + 1)
    focal_tversky = ((1 - index).clamp(min=1e-7) ** 0.75).mean()
    return 0.3 * smooth_dice(logits, target) + 0.3 * bce(logits, target) + 0.4 * focal_tversky


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of a (1 - q)^2 (-ln q) (RMAU-Net, Eqs. 6-8), by MONAI.

    q is the probability of the truth; a is 0.25 in the target and 0.75 elsewhere. The paper gives
    no numbers: these are of Lin et al. MONAI's class FocalLoss would round to float32.

    Raises:
        InputError: MONAI is missing.
    """
    try:
        from monai.losses.focal_loss import sigmoid_focal_loss
    except ImportError as error:
        raise InputError(
            f"The loss focal needs MONAI, which cannot be imported ({error}). In the folder of "
            "LiverTumorSeg, `pip install '.[train]'` adds it."
        ) from error
    return sigmoid_focal_loss(logits, target, gamma=2.0, alpha=0.25).mean()


def batch_dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - D of the whole batch, smoothing eps (RMAU-Net, Eq. 9, whose N is all voxels)."""
    return (1 - _squared_dice(*_flat(logits, target), 0, 2, smoothing=EPSILON)).mean()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of -sum g ln p over the classes (DPC-Net, Eq. 11)."""
    return F.cross_entropy(logits, target)


def _classes(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return logits.softmax(1).flatten(2), target.flatten(2)


def class_dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - mean D of liver and tumor, each of the whole batch, smoothing eps (DPC-Net).

    Eq. 12 prints one fraction for all classes together, see `joint_dice`. With that a tumor of
    0.2 % of the voxels would be worth 0.002, which the paper's "not sensitive to the size of
    targets" and its Table 3 contradict.
    """
    p, g = _classes(logits, target)
    return (1 - _squared_dice(p[:, 1:], g[:, 1:], 0, 2, smoothing=EPSILON)).mean()


def joint_dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - D of all classes and the whole batch together (DPC-Net, Eq. 12, background included)."""
    return 1 - _squared_dice(*_classes(logits, target), 0, 1, 2, smoothing=EPSILON)


def joint_foreground_dice(logits: Tensor, target: Tensor) -> Tensor:
    """As `joint_dice`, if the C classes of Eq. 12 are liver and tumor only."""
    p, g = _classes(logits, target)
    return 1 - _squared_dice(p[:, 1:], g[:, 1:], 0, 1, 2, smoothing=EPSILON)


SIGMOID_LOSSES: dict[str, Loss] = {
    "dice": dice,
    "tversky": tversky,
    "bce": bce,
    "hybrid": hybrid,
    "jaccard": jaccard,
    "sensitivity_specificity": sensitivity_specificity,
    "el_dice": el_dice,
    "smooth_dice": smooth_dice,
    "advanced_combo": advanced_combo,
    "focal": focal,
    "batch_dice": batch_dice,
}
SOFTMAX_LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "class_dice": class_dice,
    "joint_dice": joint_dice,
    "joint_foreground_dice": joint_foreground_dice,
}
LOSSES = {**SIGMOID_LOSSES, **SOFTMAX_LOSSES}


def check_names(weights: dict[str, float], activation: Activation) -> None:
    """Refuse what cannot be a loss of logits that this activation turns into probabilities.

    Raises:
        ValueError: no loss, an unknown name, or a loss for the other activation.
    """
    fitting = SIGMOID_LOSSES if activation == "sigmoid" else SOFTMAX_LOSSES
    choices = f"choose from {sorted(fitting)}."
    if not weights:
        raise ValueError(f"A recipe needs a loss; {choices}")
    unknown = sorted(set(weights) - set(LOSSES))
    if unknown:
        raise ValueError(f"Unknown losses {unknown}; {choices}")
    unfit = sorted(set(weights) - set(fitting))
    if unfit:
        raise ValueError(f"Losses {unfit} do not fit inference.activation {activation}; {choices}")


def encode(labels: Tensor, targets: tuple[str, ...], activation: Activation) -> Tensor:
    """Labels as the target channels that a network's logits are compared with.

    Args:
        labels: `(B, 1, *spatial)`, 0 background, 1 liver, 2 tumor.
        targets: "liver" and "tumor", or one of them, in the order of the channels.
        activation: "sigmoid", for a mask of each target, the liver with its tumors; or "softmax",
            for background, liver and tumor, of which every voxel is one.

    Returns:
        float32 `(B, C, *spatial)` of 0 and 1.

    Raises:
        ValueError: a softmax over classes that are not all to be segmented.
    """
    if activation == "softmax":
        if targets != ("liver", "tumor"):
            raise ValueError(f'A softmax is of recipes whose target is "both", not {targets}.')
        return torch.cat([labels == value for value in range(3)], 1).float()
    masks = masks_of(labels)
    return torch.cat([masks[name] for name in targets], 1).float()


def weighted_loss(weights: dict[str, float], logits: Tensor, target: Tensor) -> Tensor:
    """Weighted sum of losses by their names in LOSSES, computed in float32.

    Raises:
        ValueError: logits and target differ in shape.
    """
    if logits.shape != target.shape:
        raise ValueError(
            f"The target has the shape {tuple(target.shape)}, the network's output "
            f"{tuple(logits.shape)}; both must be the same."
        )
    # Within autocast too, which rounds products of matrices and convolutions, and no loss has any.
    # Its switch would make sure, but fails on the meta device.
    logits, target = logits.float(), target.float()
    terms = [weight * LOSSES[name](logits, target) for name, weight in weights.items()]
    return torch.stack(terms).sum()


def total_loss(
    settings: Settings, outputs: dict[str, list[Tensor]], target: Tensor, epoch: int
) -> Tensor:
    """The loss of all outputs that the recipe supervises.

    Args:
        settings: names the losses and the supervision. Without deep supervision, the first output
            of the first list counts alone: the one that predicts.
        outputs: lists of logits `(B, C, *spatial)`, each from fine to coarse.
        target: `(B, C, *full)` of 0 and 1.
        epoch: from 0.

    Raises:
        ValueError: the outputs are not those that the supervision is about.
    """
    members = [logits for fine_to_coarse in outputs.values() for logits in fine_to_coarse]
    supervision = settings.deep_supervision
    if supervision is None:
        return weighted_loss(settings.loss, members[0], target)
    if len(members) < 2:
        raise ValueError(
            "training.deep_supervision needs two or more outputs; this network has one."
        )
    if isinstance(supervision, PyramidSupervision):
        return _pyramid_loss(settings.loss, supervision, members, target)
    if len(outputs) > 1:
        raise ValueError(
            f"AlphaSupervision is of one list of outputs; this network has {list(outputs)}."
        )
    return _alpha_loss(settings.loss, supervision, members, target, epoch)


def _alpha_loss(
    weights: dict[str, float],
    supervision: AlphaSupervision,
    members: list[Tensor],
    target: Tensor,
    epoch: int,
) -> Tensor:
    """loss3 + alpha (loss0 + loss1 + loss2), all at full size (ELANRes-MSCA-UNet, Eqs. 1 and 2)."""
    finest, *coarser = (weighted_loss(weights, logits, target) for logits in members)
    alpha = supervision.alpha * supervision.decay ** (epoch // supervision.period_epochs)
    return finest + alpha * torch.stack(coarser).sum()


def _pyramid_loss(
    weights: dict[str, float],
    supervision: PyramidSupervision,
    members: list[Tensor],
    target: Tensor,
) -> Tensor:
    """Sum of W_i L_i over all outputs, W_i = 1 / (2^i levels) (DPC-Net, Eq. 13)."""
    terms = []
    for logits in members:
        size = logits.shape[2:]
        level = _level(size, target.shape[2:], supervision.levels)
        # "nearest" would take the corner of each block of 2^i voxels, "nearest-exact" its middle.
        coarse = F.interpolate(target, size=size, mode="nearest-exact")
        terms.append(weighted_loss(weights, logits, coarse) / (2**level * supervision.levels))
    return torch.stack(terms).sum()


def _level(size: torch.Size, full: torch.Size, levels: int) -> int:
    """How often the full size must be halved to give this one.

    Raises:
        ValueError: as often as the pyramid has levels, or no number of times does.
    """
    for level in range(levels):
        if tuple(full) == tuple(length * 2**level for length in size):
            return level
    raise ValueError(
        f"PyramidSupervision of {levels} levels needs outputs of the target's size {tuple(full)}, "
        f"halved at most {levels - 1} times; this network has one of {tuple(size)}."
    )
