"""Compact recipes (ours): a small 3D U-Net a stage, for few cases and minutes on CPU cores.

What they learn from is made rather than collected: tumors are drawn into livers, the liver's HU are
brought to the same median, and CTs synthesized from label maps may join. The network is that of
"3D U-Net with AdvancedComboLoss", one resolution deeper and half as wide.
"""

from __future__ import annotations

from dataclasses import replace

from LiverTumorSegLib.recipe import (
    BodyCrop,
    Decoys,
    LiverCrop,
    Network,
    Recipe,
    Spacing,
    SyntheticTumors,
    Window,
)
from LiverTumorSegLib.recipes import starter
from LiverTumorSegLib.recipes.common import WHOLE_GRID, Reported

# The ranges were chosen by eye, beside real tumors in portal venous CTs.
TUMORS = SyntheticTumors(
    probability=0.5,
    most=4,
    diameter_mm=(5.0, 70.0),
    elongation=(1.0, 1.8),
    waviness=(0.04, 0.2),
    wave_length=(0.3, 0.7),
    edge_mm=(1.0, 6.0),
    darker_hu=(20.0, 80.0),
    brighter_hu=(20.0, 45.0),
    brighter_share=0.05,
    visible_hu_mm=300.0,
    mottle_hu=(0.0, 6.0),
    mottle_mm=(1.0, 4.0),
    fading=(0.7, 1.0),
    rim_share=0.25,
    rim_hu=(5.0, 25.0),
    rim_mm=(1.5, 4.0),
    core_share=0.35,
    core_from_mm=18.0,
    core_hu=(10.0, 35.0),
    core_size=(0.3, 0.75),
    decoys=Decoys(probability=0.3, most=2, thickness_mm=(1.5, 5.0), length_mm=(15.0, 60.0)),
)

# The starter recipes' training, on windows of voxels of the same size in every CT.
COMPACT_LIVER = replace(
    starter.STARTER_LIVER,
    name="compact-liver",
    network=Network(
        "unet3d",
        {
            "in_channels": 1,
            "out_channels": 1,
            "channels": [16, 32, 64, 128, 128],
            "dropout": 0.05,
        },
    ),
    patch=(48, 80, 80),
    preprocessing=replace(
        starter.STARTER_LIVER.preprocessing,
        body_crop=BodyCrop(threshold_hu=-500.0, opening_voxels=2, margin_voxels=4),
        resampling=Spacing((4.0, 4.0, 4.0)),
        pad_multiple=(16, 16, 16),
        pad_minimum=(48, 80, 80),
    ),
    training=replace(
        starter.STARTER_LIVER.training,
        loss={"bce": 1.0, "smooth_dice": 1.0},
        epochs=25,
        validate_every_epochs=25,
        sampling=replace(
            WHOLE_GRID,
            samples=48,
            per="epoch",
            liver_share=0.4,
            liver_margin_slices=6,
            in_plane="random",
            target_share=0.3,
            jitter=0.4,
            synthetic_share=0.5,
        ),
    ),
)

COMPACT_TUMOR = replace(
    COMPACT_LIVER,
    name="compact-tumor",
    target="tumor",
    preprocessing=replace(
        COMPACT_LIVER.preprocessing,
        orientation="LPS",
        body_crop=None,
        liver_crop=LiverCrop(
            margin_voxels=(4, 16, 16),
            mask_mm=5.0,
            training_mask_mm=(0.0, 10.0),
            median_hu=100.0,
        ),
        resampling=Spacing((2.0, 1.5, 1.5)),
        resample_hu=True,
        intensity=Window(clip_hu=(-60.0, 200.0), output=(0.0, 1.0)),
    ),
    training=replace(
        COMPACT_LIVER.training,
        loss={"bce": 1.0, "tversky": 1.0},
        sampling=replace(
            WHOLE_GRID,
            samples=48,
            per="epoch",
            target_share=0.6,
            jitter=0.3,
            synthetic_share=0.0,
        ),
        # The liver's HU are alike, so that less may change.
        augmentation=replace(
            starter.STARTER_TUMOR.training.augmentation,
            synthetic_tumors=TUMORS,
            brightness_hu=10.0,
            noise_hu=12.0,
        ),
    ),
    inference=replace(
        COMPACT_LIVER.inference,
        largest_component=False,
        fill_holes=False,
        flips=(1, 2),
        min_lesion_mm3=30.0,
    ),
)

RECIPES: tuple[Recipe, ...] = (COMPACT_LIVER, COMPACT_TUMOR)
REPORTED: dict[str, Reported] = {}
