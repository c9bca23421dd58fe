"""Starter recipes (ours): those of the embedded weights, made for minutes on two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from LiverTumorSegLib.recipe import (
    ControlPoints,
    Cosine,
    FixedShape,
    Network,
    Spacing,
    Window,
)
from LiverTumorSegLib.recipes import elanres_msca, unet3d
from LiverTumorSegLib.recipes.common import NO_AUGMENTATION, WHOLE_GRID, Reported

# The starter weights were trained in minutes on two CPU cores with seven CTs, three of them
# windowed to -160..240 HU and cut to the liver's range: hence the narrower window, the coarser
# grids, the higher learning rate with averaging, and the strong augmentation. AdvancedComboLoss
# alone starts slowly (train Dice 0.28 after 50 steps against 0.73), so Hybrid shares the weight.
STARTER_LIVER = replace(
    unet3d.UNET3D,
    name="starter-liver",
    network=Network(
        "unet3d",
        {"in_channels": 1, "out_channels": 1, "channels": [16, 32, 64, 128], "dropout": 0.1},
    ),
    preprocessing=replace(
        unet3d.UNET3D.preprocessing,
        intensity=Window(clip_hu=(-100.0, 240.0), output=(0.0, 1.0)),
        resampling=FixedShape((40, 80, 80)),
        interpolation="area",
    ),
    training=replace(
        unet3d.UNET3D.training,
        loss={"advanced_combo": 0.5, "hybrid": 0.5},
        learning_rate=2e-3,
        schedule=Cosine(warmup_epochs=1),
        epochs=36,
        batch_size=2,
        gradient_clip=12.0,
        ema_decay=0.99,
        validate_every_epochs=36,
        sampling=replace(WHOLE_GRID, samples=6),
        augmentation=replace(
            NO_AUGMENTATION,
            rotation_degrees=(15.0, 7.5, 7.5),
            scale=(0.85, 1.2),
            stretch=(0.85, 1.18),
            shift=0.1,
            elastic=ControlPoints(voxels=2.0, probability=0.5),
            contrast=(0.9, 1.1),
            brightness_hu=20.0,
            liver_contrast_hu=40.0,
            noise_hu=15.0,
            blur_voxels=0.7,
        ),
    ),
    inference=replace(unet3d.UNET3D.inference, largest_component=True, fill_holes=True),
)

STARTER_TUMOR = replace(
    elanres_msca.TUMOR,
    name="starter-tumor",
    network=Network("elanres_msca", {**elanres_msca.TUMOR.network.args, "width": 16}),
    patch=(48, 48, 48),
    preprocessing=replace(
        elanres_msca.TUMOR.preprocessing,
        body_crop=None,
        resampling=Spacing((3.0, None, None)),
        interpolation="area",
        intensity=Window(clip_hu=(-100.0, 240.0), output=(0.0, 1.0)),
        pad_minimum=(48, 48, 48),
    ),
    training=replace(
        elanres_msca.TUMOR.training,
        learning_rate=2e-3,
        schedule=Cosine(warmup_epochs=1),
        epochs=36,
        ema_decay=0.99,
        validate_every_epochs=36,
        early_stop_epochs=None,
        sampling=replace(WHOLE_GRID, samples=6, target_share=0.6, jitter=0.3),
        augmentation=replace(
            NO_AUGMENTATION,
            flips=(0, 1, 2),
            rotation_degrees=(20.0, 10.0, 10.0),
            scale=(0.8, 1.3),
            stretch=(0.9, 1.1),
            elastic=ControlPoints(voxels=2.0, probability=0.5),
            contrast=(0.85, 1.2),
            brightness_hu=25.0,
            liver_contrast_hu=0.0,
            noise_hu=15.0,
            blur_voxels=0.8,
        ),
    ),
    inference=replace(
        elanres_msca.TUMOR.inference, blend="gaussian", flips=(1, 2), min_lesion_mm3=30.0
    ),
)

RECIPES = (STARTER_LIVER, STARTER_TUMOR)
REPORTED: dict[str, Reported] = {}
