"""RMAU-Net (Jiang et al. 2023): liver and tumor at once, slice by slice, with all its tables.

What the paper leaves open is decided in the network's file and here: windows of 256x256 pixels at
native resolution (a fixed middle part would cut most livers), on slices that show the liver (its
19,080 slices of 131 volumes can be no others), a quarter of them centered on background, half on
liver, a quarter on tumor.
"""

from __future__ import annotations

from dataclasses import replace

from LiverTumorSegLib.recipe import (
    Constant,
    Inference,
    Network,
    Paper,
    PixelRange,
    Preprocessing,
    Recipe,
    SliceSampling,
    Split,
    Training,
    Window,
)
from LiverTumorSegLib.recipes.common import (
    EVERY_EIGHTH_SLICE,
    NATIVE_PIXELS,
    NO_AUGMENTATION,
    UNET_PLUS_PLUS,
    Reported,
    with_args,
    with_loss,
    with_network,
)

RMAU_NET = Recipe(
    name="rmau-net",
    paper=Paper(
        citation=(
            "Jiang L, Ou J, Liu R, Zou Y, Xie T, Xiao H, Bai T. RMAU-Net: Residual Multi-Scale "
            "Attention U-Net For liver and tumor segmentation in CT images. Comput. Biol. Med. "
            "2023, 158, 106838."
        ),
        doi="10.1016/j.compbiomed.2023.106838",
    ),
    target="both",
    network=Network(
        "rmau",
        {
            "in_channels": 1,
            "out_channels": 2,
            "base_channels": 64,
            "res_se": True,
            "mab": True,
            "se_reduction": 6,
            "mab_dilations": [1, 2, 4, 8],
        },
    ),
    patch=(1, 256, 256),
    preprocessing=Preprocessing(
        orientation="LPS",
        body_crop=None,
        liver_crop=None,
        halve_in_plane=False,
        resampling=NATIVE_PIXELS,
        interpolation="linear",
        label_interpolation="nearest",
        resample_hu=True,
        intensity=Window(clip_hu=(-200.0, 200.0), output=(-1.0, 1.0)),
        clahe=None,
        pad_multiple=(1, 1, 1),
        pad_minimum=(1, 256, 256),
    ),
    training=Training(
        loss={"focal": 0.5, "batch_dice": 1.0},
        deep_supervision=None,
        optimizer="adam",
        learning_rate=1e-4,
        weight_decay=0.0,
        schedule=Constant(),
        epochs=250,
        batch_size=8,
        gradient_clip=None,
        ema_decay=None,
        validate_every_epochs=1,
        monitor="loss",
        early_stop_epochs=None,
        sampling=SliceSampling(liver_only=True, other_share=0.0, class_ratios=(1.0, 2.0, 1.0)),
        augmentation=replace(
            NO_AUGMENTATION,
            scale=(0.8, 1.2),
            scale_probability=0.5,
            rotation_degrees=(30.0, 0.0, 0.0),
            rotation_probability=0.3,
            flips=(1, 2),
            flip_probability=0.3,
        ),
        split=Split(
            data="LiTS", test_numbers=(0, 26), test_share=0.0, validation_share=0.0, folds=None
        ),
    ),
    inference=Inference(
        activation="sigmoid",
        overlap=0.5,
        blend="gaussian",
        threshold=0.5,
        flips=(),
        prepass=EVERY_EIGHTH_SLICE,
        largest_component=False,
        fill_holes=False,
        min_lesion_mm3=0.0,
        confidence=None,
    ),
)


def without_augmentation(name: str, recipe: Recipe) -> Recipe:
    """Table 2."""
    training = replace(recipe.training, augmentation=NO_AUGMENTATION)
    return replace(recipe, name=name, training=training)


def without_window(name: str, recipe: Recipe) -> Recipe:
    """Table 1: the whole range of a 12-bit CT instead of the HU window, and no augmentation."""
    whole = Window(clip_hu=(-1024.0, 3071.0), output=(-1.0, 1.0))
    preprocessing = replace(recipe.preprocessing, intensity=whole)
    return replace(without_augmentation(name, recipe), preprocessing=preprocessing)


UNET = with_args(RMAU_NET, "rmau-baseline", res_se=False, mab=False)

RECIPES = (
    RMAU_NET,
    UNET,
    with_args(RMAU_NET, "rmau-res-se", res_se=True, mab=False),
    with_args(RMAU_NET, "rmau-mab", res_se=False, mab=True),
    with_loss(RMAU_NET, "rmau-loss-ce", bce=1.0),
    with_loss(RMAU_NET, "rmau-loss-ce-dice", bce=1.0, batch_dice=1.0),
    without_augmentation("rmau-no-augmentation", RMAU_NET),
    without_augmentation("rmau-baseline-no-augmentation", UNET),
    without_window("rmau-no-window", RMAU_NET),
    without_window("rmau-baseline-no-window", UNET),
    with_network(RMAU_NET, "rmau-unet-plus-plus", "unet_plus_plus", **UNET_PLUS_PLUS),
    with_network(RMAU_NET, "rmau-ra-unet", "ra_unet", width=16),
    # Not in the paper: a cheap attention network to compare with.
    with_network(
        RMAU_NET, "rmau-attention-unet", "attention_unet", channels=[64, 128, 256, 512, 1024]
    ),
    # Whole slices at half the resolution: a ninth of the work.
    replace(
        RMAU_NET,
        name="rmau-net-half",
        preprocessing=replace(
            RMAU_NET.preprocessing,
            halve_in_plane=True,
            resampling=PixelRange(smallest_mm=1.0, largest_mm=2.2, target_mm=1.5),
            label_interpolation="linear",
        ),
        training=replace(
            RMAU_NET.training,
            sampling=SliceSampling(liver_only=True, other_share=0.0, class_ratios=None),
        ),
    ),
)


def _lits(liver_dice: float, liver_voe: float, tumor_dice: float, tumor_voe: float) -> Reported:
    return Reported(
        "LiTS 0-26",
        {
            "liver Dice": liver_dice,
            "liver VOE": liver_voe,
            "tumor Dice": tumor_dice,
            "tumor VOE": tumor_voe,
        },
    )


REPORTED = {
    "rmau-net": _lits(0.9552, 0.0792, 0.7616, 0.3709),
    "rmau-baseline": _lits(0.9221, 0.1270, 0.6252, 0.5209),
    "rmau-res-se": _lits(0.9394, 0.1116, 0.6906, 0.4578),
    "rmau-mab": _lits(0.9472, 0.0981, 0.7257, 0.4140),
    "rmau-loss-ce": _lits(0.9471, 0.0872, 0.7415, 0.4008),
    "rmau-loss-ce-dice": _lits(0.9526, 0.0864, 0.7494, 0.3892),
    "rmau-no-augmentation": _lits(0.9521, 0.0826, 0.7594, 0.3837),
    "rmau-baseline-no-augmentation": _lits(0.9168, 0.1371, 0.6063, 0.5348),
    "rmau-no-window": _lits(0.9497, 0.0874, 0.7547, 0.3940),
    "rmau-baseline-no-window": _lits(0.8950, 0.1569, 0.5553, 0.5822),
    "rmau-unet-plus-plus": _lits(0.9399, 0.1092, 0.6903, 0.4629),
    "rmau-ra-unet": _lits(0.9450, 0.0992, 0.7021, 0.4427),
}
