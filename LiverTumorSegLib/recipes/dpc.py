"""DPC-Net (Zhang et al. 2022): background, liver and tumor at once, with all its tables.

What the paper leaves to nnU-Net is taken from there: 250 steps an epoch, a poly schedule, weight
decay, the ranges of the augmentation, Gaussian blending. The statistics of the HU are measured on
the training cases; until then they are those published for LiTS' livers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from LiverTumorSegLib.recipe import (
    Inference,
    Network,
    Paper,
    Poly,
    Preprocessing,
    PyramidSupervision,
    Recipe,
    SmoothedNoise,
    Spacing,
    Split,
    Statistics,
    Training,
    WindowSampling,
    ZScore,
)
from LiverTumorSegLib.recipes.common import NO_AUGMENTATION, Reported, with_args, with_loss

DPC_NET = Recipe(
    name="dpc-net",
    paper=Paper(
        citation=(
            "Zhang Y, Yang J, Liu Y, Tian J, Wang S, Zhong C, Shi Z, Zhang Y, He Z. Decoupled "
            "Pyramid Correlation Network for Liver Tumor Segmentation from CT images. Med. Phys. "
            "2022, 49(11), 7207-7221."
        ),
        doi="10.1002/mp.15723",
    ),
    target="both",
    network=Network(
        "dpc",
        {
            "in_channels": 1,
            "out_channels": 3,
            "width": 32,
            "encoder": "pfe",
            "attention": "spa+sem",
            "profile": "counted",
            "spa_pool": "both",
            "sem_pool": "both",
        },
    ),
    patch=(128, 128, 128),
    preprocessing=Preprocessing(
        orientation="LPS",
        body_crop=None,
        liver_crop=None,
        halve_in_plane=False,
        resampling=Spacing((2.47, 1.90, 1.90)),
        interpolation="cubic",
        label_interpolation="linear",
        resample_hu=False,
        intensity=ZScore(
            percentiles=(0.5, 99.5),
            statistics=Statistics(low_hu=-17.0, high_hu=201.0, mean_hu=99.40, sd_hu=39.36),
        ),
        clahe=None,
        pad_multiple=(1, 1, 1),
        pad_minimum=(128, 128, 128),
    ),
    training=Training(
        loss={"cross_entropy": 1.0, "class_dice": 1.0},
        deep_supervision=PyramidSupervision(levels=5),
        optimizer="adam",
        learning_rate=1e-4,
        weight_decay=3e-5,
        schedule=Poly(exponent=0.9),
        epochs=1000,
        batch_size=2,
        gradient_clip=12.0,
        ema_decay=None,
        validate_every_epochs=10,
        monitor="dice",
        early_stop_epochs=None,
        sampling=WindowSampling(
            samples=500,
            per="epoch",
            liver_share=0.0,
            liver_margin_slices=0,
            in_plane="random",
            target_share=1 / 3,
            target_by="voxel",
            jitter=0.0,
            synthetic_share=None,
        ),
        augmentation=replace(
            NO_AUGMENTATION,
            elastic=SmoothedNoise(alpha=(0.0, 900.0), sigma_voxels=(9.0, 13.0), probability=0.2),
            scale=(0.85, 1.25),
            scale_probability=0.2,
            rotation_degrees=(15.0, 15.0, 15.0),
            rotation_probability=0.2,
            flips=(0, 1, 2),
        ),
        split=Split(data="LiTS", test_numbers=None, test_share=0.0, validation_share=0.0, folds=4),
    ),
    inference=Inference(
        activation="softmax",
        overlap=0.5,
        blend="gaussian",
        threshold=0.5,
        flips=(),
        prepass=None,
        largest_component=False,
        fill_holes=False,
        min_lesion_mm3=0.0,
        confidence=None,
    ),
)


def baseline(name: str, attention: str, **args: Any) -> Recipe:
    """Modules on the baseline 3D U-Net, as in Tables 1, 2 and 4."""
    return with_args(DPC_NET, name, encoder="baseline", attention=attention, **args)


SPA_SEM = baseline("dpc-spa-sem", "spa+sem")

RECIPES = (
    DPC_NET,
    with_args(DPC_NET, "dpc-pfe", attention="none"),
    with_args(DPC_NET, "dpc-net-literal", profile="literal"),
    baseline("dpc-baseline", "none"),
    baseline("dpc-spa", "spa"),
    baseline("dpc-sem", "sem"),
    baseline("dpc-sem-avg", "sem", sem_pool="avg"),
    baseline("dpc-sem-max", "sem", sem_pool="max"),
    SPA_SEM,
    baseline("dpc-spa-avg-sem", "spa+sem", spa_pool="avg"),
    baseline("dpc-spa-max-sem", "spa+sem", spa_pool="max"),
    baseline("dpc-sem-spa", "sem+spa"),
    baseline("dpc-ag", "ag"),
    baseline("dpc-daf", "daf"),
    with_loss(SPA_SEM, "dpc-loss-ce", cross_entropy=1.0),
    with_loss(SPA_SEM, "dpc-loss-dice", class_dice=1.0),
)


def _lits(tumor_dice: float, liver_dice: float | None = None) -> Reported:
    figures = {"tumor Dice": tumor_dice}
    if liver_dice is not None:
        figures["liver Dice"] = liver_dice
    return Reported("LiTS, 4-fold cross-validation", figures)


REPORTED = {
    "dpc-net": _lits(0.6503, 0.9491),
    "dpc-pfe": _lits(0.5989, 0.9231),
    "dpc-baseline": _lits(0.5166, 0.8785),
    "dpc-spa": _lits(0.5511, 0.8867),
    "dpc-sem": _lits(0.5710, 0.9104),
    "dpc-sem-avg": _lits(0.5619, 0.9021),
    "dpc-sem-max": _lits(0.5507, 0.9009),
    "dpc-spa-sem": _lits(0.5876, 0.9229),
    "dpc-spa-avg-sem": _lits(0.5802, 0.9105),
    "dpc-spa-max-sem": _lits(0.5796, 0.9132),
    "dpc-sem-spa": _lits(0.5820),
    "dpc-ag": _lits(0.5241),
    "dpc-daf": _lits(0.5581),
    "dpc-loss-ce": _lits(0.5556, 0.9102),
    "dpc-loss-dice": _lits(0.5765, 0.9165),
}
