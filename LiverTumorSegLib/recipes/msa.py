"""MSA-UNet (Wu et al. 2021): the liver, slice by slice, with its ablations and comparisons.

Slices are 512x512; larger matrices are covered by overlapping windows of that size. CLAHE has
skimage's parameters, tiles of 64 pixels. Keras' meaning of patience and of augmentations without a
stated probability (every sample) is kept. The paper's averaging over flips is what `--tta` does.
"""

from __future__ import annotations

from dataclasses import replace

from LiverTumorSegLib.recipe import (
    Clahe,
    Inference,
    Network,
    Paper,
    Plateau,
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
    with_network,
)

MSA_UNET = Recipe(
    name="msa-unet",
    paper=Paper(
        citation=(
            "Wu J et al. U-Net combined "
            "with multi-scale attention mechanism for liver segmentation in CT images. BMC Med. "
            "Inform. Decis. Mak. 2021, 21, 283."
        ),
        doi="10.1186/s12911-021-01649-w",
    ),
    target="liver",
    network=Network(
        "msa",
        {
            "in_channels": 1,
            "out_channels": 1,
            "base_channels": 16,
            "msrb": True,
            "aaspp": True,
            "rasm": True,
            "aaspp_branch_channels": None,
            "block_size": 7,
            "keep_prob": 0.9,
        },
    ),
    patch=(1, 512, 512),
    preprocessing=Preprocessing(
        orientation="LPS",
        body_crop=None,
        liver_crop=None,
        halve_in_plane=False,
        resampling=NATIVE_PIXELS,
        interpolation="linear",
        label_interpolation="nearest",
        resample_hu=True,
        intensity=Window(clip_hu=(-200.0, 250.0), output=(0.0, 1.0)),
        clahe=Clahe(tile_pixels=64, clip_limit=0.01, bins=256),
        pad_multiple=(1, 1, 1),
        pad_minimum=(1, 512, 512),
    ),
    training=Training(
        loss={"bce": 0.5, "smooth_dice": 1.0},
        deep_supervision=None,
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        schedule=Plateau(patience_epochs=8, factor=0.5),
        epochs=300,
        batch_size=6,
        gradient_clip=None,
        ema_decay=None,
        validate_every_epochs=1,
        monitor="loss",
        early_stop_epochs=20,
        sampling=SliceSampling(liver_only=False, other_share=0.0, class_ratios=None),
        augmentation=replace(
            NO_AUGMENTATION, flips=(1, 2), flip_probability=0.5, crop=(0.9, 1.0), shift=0.1
        ),
        split=Split(
            data="3D-IRCADb-01 and SLIVER07, 20 patients each",
            test_numbers=None,
            test_share=0.1,
            validation_share=1 / 9,
            folds=None,
        ),
    ),
    inference=Inference(
        activation="sigmoid",
        overlap=0.5,
        blend="gaussian",
        threshold=0.5,
        flips=(1, 2),
        prepass=EVERY_EIGHTH_SLICE,
        largest_component=False,
        fill_holes=False,
        min_lesion_mm3=0.0,
        confidence=None,
    ),
)

RECIPES = (
    MSA_UNET,
    with_args(MSA_UNET, "msa-baseline", msrb=False, aaspp=False, rasm=False),
    with_args(MSA_UNET, "msa-msrb", msrb=True, aaspp=False, rasm=False),
    with_args(MSA_UNET, "msa-aaspp", msrb=False, aaspp=True, rasm=False),
    with_args(MSA_UNET, "msa-rasm", msrb=False, aaspp=False, rasm=True),
    with_network(MSA_UNET, "msa-unet-plus-plus", "unet_plus_plus", **UNET_PLUS_PLUS),
    with_network(MSA_UNET, "msa-deeplabv3-plus", "deeplabv3_plus", encoder_name="resnet101"),
    with_network(MSA_UNET, "msa-ce-net", "ce_net", width=64),
)


def _test(dice: float, iou: float, precision: float, recall: float) -> Reported:
    return Reported(
        "its test set, four patients",
        {"liver Dice": dice, "IoU": iou, "precision": precision, "recall": recall},
    )


REPORTED = {
    "msa-unet": _test(0.9800, 0.9608, 0.9717, 0.9885),
    "msa-baseline": _test(0.8923, 0.8093, 0.9297, 0.8649),
    "msa-msrb": _test(0.9710, 0.9438, 0.9576, 0.9852),
    "msa-aaspp": _test(0.9683, 0.9395, 0.9621, 0.9759),
    "msa-rasm": _test(0.9713, 0.9445, 0.9560, 0.9875),
    "msa-unet-plus-plus": _test(0.9210, 0.8556, 0.9349, 0.9123),
    "msa-deeplabv3-plus": _test(0.9694, 0.9419, 0.9542, 0.9863),
    "msa-ce-net": _test(0.9767, 0.9546, 0.9676, 0.9861),
}
