"""3D U-Net with AdvancedComboLoss (Srivastava, Pandey 2025): the liver at 160x160x80 voxels."""

from __future__ import annotations

from LiverTumorSegLib.recipe import (
    Constant,
    FixedShape,
    Inference,
    Network,
    Paper,
    Preprocessing,
    Recipe,
    Training,
    Window,
)
from LiverTumorSegLib.recipes.common import LITS_27_46, NO_AUGMENTATION, WHOLE_GRID, Reported

PAPER = Paper(
    citation=(
        "Srivastava M, Pandey G. An Efficient Deep Learning Approach for Liver Segmentation in "
        "Medical Imaging, 2025 (3D U-Net with AdvancedComboLoss)."
    ),
    doi=None,
)

# The whole volume at once, no augmentation, no post-processing.
UNET3D = Recipe(
    name="unet3d-liver",
    paper=PAPER,
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
        resampling=FixedShape((80, 160, 160)),
        interpolation="linear",
        label_interpolation="nearest",
        resample_hu=False,
        intensity=Window(clip_hu=(-100.0, 400.0), output=(0.0, 1.0)),
        clahe=None,
        pad_multiple=(8, 8, 8),
        pad_minimum=(8, 8, 8),
    ),
    training=Training(
        loss={"advanced_combo": 1.0},
        deep_supervision=None,
        optimizer="adam",
        learning_rate=1e-4,
        weight_decay=0.0,
        schedule=Constant(),
        epochs=120,
        batch_size=1,
        gradient_clip=None,
        ema_decay=None,
        validate_every_epochs=1,
        monitor="dice",
        early_stop_epochs=None,
        sampling=WHOLE_GRID,
        augmentation=NO_AUGMENTATION,
        split=LITS_27_46,
    ),
    inference=Inference(
        activation="sigmoid",
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

RECIPES = (UNET3D,)
REPORTED = {
    UNET3D.name: Reported(
        "validation cases of LiTS, on the network's grid",
        {"liver Dice": 0.9604, "voxel accuracy": 0.9979},
    )
}
