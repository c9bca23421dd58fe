"""ELANRes-MSCA-UNet (Song, Wu, Wu 2025): liver, then tumors in it, and the paper's ablations."""

from __future__ import annotations

from dataclasses import replace

from LiverTumorSegLib.recipe import (
    AlphaSupervision,
    BodyCrop,
    Inference,
    LiverCrop,
    Network,
    Paper,
    Preprocessing,
    Recipe,
    Step,
    Training,
    Window,
)
from LiverTumorSegLib.recipes.common import (
    LITS_27_46,
    NO_AUGMENTATION,
    WHOLE_GRID,
    Reported,
    with_args,
)

PAPER = Paper(
    citation=(
        "Song Z, Wu W, Wu S. Multi-scale Convolutional Attention and Structural Re-parameterized "
        "Residual-based 3D U-Net for Liver and Liver Tumor Segmentation from CT. "
        "Preprints 2025; Sensors 2025, 25(6), 1814."
    ),
    doi="10.20944/preprints202501.1547.v1",
)

# Body crop, halved in the plane, 48-slice windows over the full plane.
LIVER = Recipe(
    name="elanres-msca-liver",
    paper=PAPER,
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
        resampling=None,
        interpolation="linear",
        label_interpolation="nearest",
        resample_hu=True,
        intensity=Window(clip_hu=(-200.0, 200.0), output=(0.0, 1.0)),
        clahe=None,
        pad_multiple=(16, 16, 16),
        pad_minimum=(16, 176, 176),
    ),
    training=Training(
        loss={"hybrid": 0.5, "tversky": 0.5},
        deep_supervision=AlphaSupervision(alpha=0.4, decay=0.8, period_epochs=30),
        optimizer="adam",
        learning_rate=1e-4,
        weight_decay=0.0,
        schedule=Step(period_epochs=30, factor=0.8),
        epochs=200,
        batch_size=2,
        gradient_clip=12.0,
        ema_decay=None,
        validate_every_epochs=1,
        monitor="dice",
        early_stop_epochs=30,
        sampling=replace(WHOLE_GRID, liver_share=0.8, liver_margin_slices=20),
        augmentation=replace(NO_AUGMENTATION, flips=(1, 2)),
        split=replace(LITS_27_46, validation_share=0.25),
    ),
    inference=Inference(
        activation="sigmoid",
        overlap=0.5,
        blend="uniform",
        threshold=0.5,
        flips=(1, 2),
        prepass=None,
        largest_component=True,
        fill_holes=True,
        min_lesion_mm3=0.0,
        confidence=None,
    ),
)

TUMOR = replace(
    LIVER,
    name="elanres-msca-tumor",
    target="tumor",
    preprocessing=replace(
        LIVER.preprocessing,
        liver_crop=LiverCrop(
            margin_voxels=(4, 16, 16), mask_mm=3.0, training_mask_mm=(0.0, 6.0), median_hu=None
        ),
    ),
    training=replace(
        LIVER.training,
        sampling=replace(WHOLE_GRID, target_share=0.5, jitter=0.3),
    ),
    inference=replace(LIVER.inference, largest_component=False, fill_holes=False),
)

RECIPES = (
    LIVER,
    TUMOR,
    with_args(LIVER, "elanres-liver", block="elanres", msca_levels=[]),
    with_args(TUMOR, "elanres-tumor", block="elanres", msca_levels=[]),
    with_args(LIVER, "msca-liver", block="double", msca_levels=[1, 2, 3, 4]),
    with_args(TUMOR, "msca-tumor", block="double", msca_levels=[1, 2, 3, 4]),
    with_args(LIVER, "elanres-msca-baseline-liver", block="double", msca_levels=[]),
    with_args(TUMOR, "elanres-msca-baseline-tumor", block="double", msca_levels=[]),
)


def _liver(dice: float, asd_mm: float) -> Reported:
    return Reported("20 cases of LiTS", {"liver Dice": dice, "liver ASD mm": asd_mm})


def _tumor(dice: float, asd_mm: float) -> Reported:
    return Reported("20 cases of LiTS", {"tumor Dice": dice, "tumor ASD mm": asd_mm})


REPORTED = {
    "elanres-msca-liver": _liver(0.972, 1.263),
    "elanres-msca-tumor": _tumor(0.729, 1.012),
    "elanres-liver": _liver(0.949, 2.369),
    "elanres-tumor": _tumor(0.620, 1.260),
    "msca-liver": _liver(0.953, 2.891),
    "msca-tumor": _tumor(0.631, 1.197),
    "elanres-msca-baseline-liver": _liver(0.937, 3.242),
    "elanres-msca-baseline-tumor": _tumor(0.583, 1.130),
}
