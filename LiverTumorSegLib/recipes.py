"""The recipes: each paper's numbers as values, and the starter recipes of the embedded weights."""

from __future__ import annotations

from dataclasses import replace

from LiverTumorSegLib.recipe import (
    Augmentation,
    BodyCrop,
    DeepSupervision,
    Inference,
    LiverCrop,
    Network,
    Paper,
    Preprocessing,
    Recipe,
    Sampling,
    Schedule,
    Training,
)

ELANRES_PAPER = Paper(
    citation=(
        "Song Z, Wu W, Wu S. Multi-scale Convolutional Attention and Structural Re-parameterized "
        "Residual-based 3D U-Net for Liver and Liver Tumor Segmentation from CT. "
        "Preprints 2025; Sensors 2025, 25(6), 1814."
    ),
    doi="10.20944/preprints202501.1547.v1",
)
COMBO_PAPER = Paper(
    citation=(
        "Srivastava M, Pandey G. An Efficient Deep Learning Approach for Liver Segmentation in "
        "Medical Imaging, 2025 (3D U-Net with AdvancedComboLoss)."
    ),
    doi=None,
)

NO_AUGMENTATION = Augmentation(
    flips=(),
    rotation_degrees=0.0,
    scale=(1.0, 1.0),
    stretch=(1.0, 1.0),
    shift=0.0,
    elastic_voxels=0.0,
    contrast=(1.0, 1.0),
    brightness_hu=0.0,
    liver_contrast_hu=0.0,
    noise_hu=0.0,
    blur_voxels=0.0,
)
CONSTANT = Schedule(kind="constant", period_epochs=1, factor=1.0, warmup_epochs=0)
ANYWHERE = Sampling(liver_share=0.0, liver_margin_slices=0, target_share=0.0)

# Seed 003: whole volume at 160x160x80, no augmentation, no post-processing.
UNET3D = Recipe(
    name="unet3d-liver",
    paper=COMBO_PAPER,
    target="liver",
    network=Network(
        "unet3d",
        {"in_channels": 1, "out_channels": 1, "channels": [32, 64, 128, 256], "dropout": 0.2},
    ),
    patch=None,
    preprocessing=Preprocessing(
        orientation="RAS",
        body_crop=None,
        liver_crop=None,
        halve_in_plane=False,
        z_spacing_mm=None,
        clip_hu=(-100.0, 400.0),
        shape=(80, 160, 160),
        antialias=False,
        pad_multiple=8,
        pad_minimum=(8, 8, 8),
    ),
    training=Training(
        loss={"advanced_combo": 1.0},
        deep_supervision=None,
        optimizer="adam",
        learning_rate=1e-4,
        weight_decay=0.0,
        schedule=CONSTANT,
        epochs=120,
        samples_per_case=1,
        batch_size=1,
        gradient_clip=None,
        ema_decay=None,
        validate_every_epochs=1,
        early_stop_epochs=None,
        sampling=ANYWHERE,
        augmentation=NO_AUGMENTATION,
    ),
    inference=Inference(
        overlap=0.5,
        blend="gaussian",
        threshold=0.5,
        flips=(),
        largest_component=False,
        fill_holes=False,
        min_lesion_mm3=0.0,
    ),
)

# Seed 000: body crop, halved in the plane, 48-slice windows over the full plane.
ELANRES_MSCA_LIVER = Recipe(
    name="elanres-msca-liver",
    paper=ELANRES_PAPER,
    target="liver",
    network=Network(
        "elanres_msca",
        {
            "in_channels": 1,
            "out_channels": 1,
            "width": 32,
            "block": "elanres",
            "msca_levels": [1, 2, 3, 4],
            "head_scale": [1, 2, 2],
        },
    ),
    patch=(48, 256, 256),
    preprocessing=Preprocessing(
        orientation="LPS",
        body_crop=BodyCrop(threshold_hu=-500.0, opening_voxels=2, margin_voxels=4),
        liver_crop=None,
        halve_in_plane=True,
        z_spacing_mm=None,
        clip_hu=(-200.0, 200.0),
        shape=None,
        antialias=False,
        pad_multiple=16,
        pad_minimum=(16, 176, 176),
    ),
    training=Training(
        loss={"hybrid": 0.5, "tversky": 0.5},
        deep_supervision=DeepSupervision(alpha=0.4, decay=0.8, period_epochs=30),
        optimizer="adam",
        learning_rate=1e-4,
        weight_decay=0.0,
        schedule=Schedule(kind="step", period_epochs=30, factor=0.8, warmup_epochs=0),
        epochs=200,
        samples_per_case=1,
        batch_size=2,
        gradient_clip=12.0,
        ema_decay=None,
        validate_every_epochs=1,
        early_stop_epochs=30,
        sampling=Sampling(liver_share=0.8, liver_margin_slices=20, target_share=0.0),
        augmentation=replace(NO_AUGMENTATION, flips=(1, 2)),
    ),
    inference=Inference(
        overlap=0.5,
        blend="uniform",
        threshold=0.5,
        flips=(1, 2),
        largest_component=True,
        fill_holes=True,
        min_lesion_mm3=0.0,
    ),
)

ELANRES_MSCA_TUMOR = replace(
    ELANRES_MSCA_LIVER,
    name="elanres-msca-tumor",
    target="tumor",
    preprocessing=replace(
        ELANRES_MSCA_LIVER.preprocessing,
        liver_crop=LiverCrop(margin_voxels=(4, 16, 16), mask_mm=3.0, training_mask_mm=(0.0, 6.0)),
    ),
    training=replace(
        ELANRES_MSCA_LIVER.training,
        sampling=Sampling(liver_share=0.0, liver_margin_slices=0, target_share=0.5),
    ),
    inference=replace(ELANRES_MSCA_LIVER.inference, largest_component=False, fill_holes=False),
)

# The starter weights were trained in minutes on two CPU cores with seven CTs, three of them
# windowed to -160..240 HU and cut to the liver's range: hence the narrower window, the coarser
# grids, the higher learning rate with averaging, and the strong augmentation. AdvancedComboLoss
# alone starts slowly (train Dice 0.28 after 50 steps against 0.73), so Hybrid shares the weight.
STARTER_LIVER = replace(
    UNET3D,
    name="starter-liver",
    network=Network(
        "unet3d",
        {"in_channels": 1, "out_channels": 1, "channels": [16, 32, 64, 128], "dropout": 0.1},
    ),
    preprocessing=replace(
        UNET3D.preprocessing, clip_hu=(-100.0, 240.0), shape=(40, 80, 80), antialias=True
    ),
    training=replace(
        UNET3D.training,
        loss={"advanced_combo": 0.5, "hybrid": 0.5},
        learning_rate=2e-3,
        schedule=Schedule(kind="cosine", period_epochs=1, factor=1.0, warmup_epochs=1),
        epochs=36,
        samples_per_case=6,
        batch_size=2,
        gradient_clip=12.0,
        ema_decay=0.99,
        validate_every_epochs=36,
        augmentation=Augmentation(
            flips=(),
            rotation_degrees=15.0,
            scale=(0.85, 1.2),
            stretch=(0.85, 1.18),
            shift=0.1,
            elastic_voxels=2.0,
            contrast=(0.9, 1.1),
            brightness_hu=20.0,
            liver_contrast_hu=40.0,
            noise_hu=15.0,
            blur_voxels=0.7,
        ),
    ),
    inference=replace(UNET3D.inference, largest_component=True, fill_holes=True),
)

STARTER_TUMOR = replace(
    ELANRES_MSCA_TUMOR,
    name="starter-tumor",
    network=Network("elanres_msca", {**ELANRES_MSCA_TUMOR.network.args, "width": 16}),
    patch=(48, 48, 48),
    preprocessing=replace(
        ELANRES_MSCA_TUMOR.preprocessing,
        body_crop=None,
        z_spacing_mm=3.0,
        clip_hu=(-100.0, 240.0),
        antialias=True,
        pad_minimum=(48, 48, 48),
    ),
    training=replace(
        ELANRES_MSCA_TUMOR.training,
        learning_rate=2e-3,
        schedule=Schedule(kind="cosine", period_epochs=1, factor=1.0, warmup_epochs=1),
        epochs=36,
        samples_per_case=6,
        ema_decay=0.99,
        validate_every_epochs=36,
        early_stop_epochs=None,
        sampling=Sampling(liver_share=0.0, liver_margin_slices=0, target_share=0.6),
        augmentation=Augmentation(
            flips=(0, 1, 2),
            rotation_degrees=20.0,
            scale=(0.8, 1.3),
            stretch=(0.9, 1.1),
            shift=0.0,
            elastic_voxels=2.0,
            contrast=(0.85, 1.2),
            brightness_hu=25.0,
            liver_contrast_hu=0.0,
            noise_hu=15.0,
            blur_voxels=0.8,
        ),
    ),
    inference=replace(
        ELANRES_MSCA_TUMOR.inference, blend="gaussian", flips=(1, 2), min_lesion_mm3=30.0
    ),
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        UNET3D,
        ELANRES_MSCA_LIVER,
        ELANRES_MSCA_TUMOR,
        STARTER_LIVER,
        STARTER_TUMOR,
    )
}
