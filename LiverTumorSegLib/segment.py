"""The main job in two stages: the liver in the CT, then the tumors in the liver."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage

from LiverTumorSegLib.backends import pick_backend, predictor
from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.components import bounding_box, lesion_components
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.preprocess import (
    network_input,
    prepare,
    restore_mask,
    restore_probability,
)
from LiverTumorSegLib.recipe import Inference
from LiverTumorSegLib.sliding_window import sliding_window
from LiverTumorSegLib.volume import Volume

ProgressHook = Callable[[str, float], None]
LIVER, TUMOR = 1, 2


@dataclass(frozen=True)
class Segmentation:
    """Result on the CT's own grid.

    Attributes:
        labels: uint8 (z, y, x); 0 background, 1 liver, 2 tumor.
        warnings: sentences a user should read.
        timings_s: seconds of each stage.
        liver_probability: float16 (z, y, x) if asked for.
        tumor_probability: the same; 0 outside the liver's surroundings.
    """

    labels: np.ndarray
    warnings: tuple[str, ...] = ()
    timings_s: dict[str, float] = field(default_factory=dict)
    liver_probability: np.ndarray | None = None
    tumor_probability: np.ndarray | None = None


@dataclass(frozen=True)
class StageResult:
    """Mask, and probabilities if asked for, of one stage on the CT's grid."""

    mask: np.ndarray
    probability: np.ndarray | None


def segment(
    volume: Volume,
    liver_model: Model,
    tumor_model: Model,
    *,
    device: str = "auto",
    backend: str = "auto",
    flips: bool = False,
    probabilities: bool = False,
    on_progress: ProgressHook | None = None,
) -> Segmentation:
    """Segment liver and tumors.

    Args:
        volume: a CT in HU.
        liver_model: weights with target "liver".
        tumor_model: weights with target "tumor".
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        backend: "auto", "torch" or "openvino" (CPU only); the same masks but for rounding.
        flips: average mirrored predictions (slower) along the axes the recipes name.
        probabilities: also return probabilities.
        on_progress: called with ("Liver" or "Tumor", share done); cancels by raising.

    Raises:
        InputError: a model of the wrong target, or a device or backend that is not there.
    """
    for model, target in ((liver_model, "liver"), (tumor_model, "tumor")):
        if model.recipe.target != target:
            raise InputError(
                f"Model {model.name}: expected weights for the {target}, found weights for the "
                f"{model.recipe.target}. Choose another with --{target}."
            )
    report = on_progress or (lambda stage, fraction: None)
    torch_device = pick_device(device)
    backend = pick_backend(backend, torch_device)
    timings_s: dict[str, float] = {}
    warnings: list[str] = []
    labels = np.zeros(volume.hu.shape, dtype=np.uint8)

    start = time.perf_counter()
    liver = run_stage(
        volume,
        liver_model,
        torch_device,
        backend,
        flips,
        probabilities,
        lambda f: report("Liver", f),
    )
    timings_s["liver"] = time.perf_counter() - start
    if not liver.mask.any():
        warnings.append(
            "No liver was found, so no tumor was searched for. Is this an abdominal CT?"
        )
        return Segmentation(labels, tuple(warnings), timings_s, liver.probability, None)
    labels[liver.mask] = LIVER
    if touches_border(liver.mask):
        warnings.append(
            "The liver touches the border of the image: it may be cut off and its volume too small."
        )

    start = time.perf_counter()
    tumor = run_stage(
        volume,
        tumor_model,
        torch_device,
        backend,
        flips,
        probabilities,
        lambda f: report("Tumor", f),
        liver.mask,
    )
    timings_s["tumor"] = time.perf_counter() - start
    labels[tumor.mask] = TUMOR
    return Segmentation(labels, tuple(warnings), timings_s, liver.probability, tumor.probability)


def run_stage(
    volume: Volume,
    model: Model,
    device: torch.device,
    backend: str,
    flips: bool,
    probabilities: bool,
    on_progress: Callable[[float], None],
    liver: np.ndarray | None = None,
) -> StageResult:
    """One network over one CT: prepare, predict, restore, post-process.

    Along an axis where the padded image is smaller than the recipe's patch, so is the window.

    Args:
        volume: the CT.
        model: its weights and recipe.
        device: where to run.
        backend: "torch" or "openvino".
        flips: average mirrored predictions.
        probabilities: also restore the probabilities.
        on_progress: told the share of windows done; cancels by raising.
        liver: bool (z, y, x), for recipes that crop to the liver; the mask stays inside it.
    """
    recipe = model.recipe
    on_progress(0.0)
    prepared = prepare(volume, recipe.preprocessing, liver)
    liver_crop = recipe.preprocessing.liver_crop
    image = network_input(prepared, liver_crop.mask_mm if liver_crop else None)
    window = [min(sizes) for sizes in zip(recipe.patch or image.shape, image.shape, strict=True)]
    output = sliding_window(
        predictor(model.network, window, backend, device),
        image,
        window,
        overlap=recipe.inference.overlap,
        blend=recipe.inference.blend,
        flips=recipe.inference.flips if flips else (),
        device=device,
        on_progress=on_progress,
    )[0]
    shape = volume.hu.shape
    mask = restore_mask(output, prepared.grid, recipe.inference.threshold, shape)
    if liver is not None:
        mask &= liver
    mask = postprocess(mask, recipe.inference, volume.geometry.voxel_ml * 1000.0)
    if liver is not None:
        mask &= liver  # filling may have closed a gap in the liver
    probability = restore_probability(output, prepared.grid, shape) if probabilities else None
    return StageResult(mask, probability)


def touches_border(mask: np.ndarray) -> bool:
    """Whether a voxel of the mask lies on a face of its array, whichever way it was scanned."""
    faces = (mask.take(end, axis=axis) for axis in range(mask.ndim) for end in (0, -1))
    return any(face.any() for face in faces)


def postprocess(mask: np.ndarray, recipe: Inference, voxel_mm3: float) -> np.ndarray:
    """Keep the largest component, fill cavities, drop small components, as the recipe says.

    Args:
        mask: bool (z, y, x); it may be changed in place.
        recipe: what to do.
        voxel_mm3: volume of a voxel.
    """
    if recipe.largest_component:
        mask = lesion_components(mask)[0] == 1
    box = bounding_box(mask)
    if recipe.fill_holes and box is not None:
        mask[box] = ndimage.binary_fill_holes(mask[box])
    if recipe.min_lesion_mm3 > 0:
        components, count = lesion_components(mask)
        sizes = np.bincount(components.ravel(), minlength=count + 1) * voxel_mm3
        mask = (components > 0) & (sizes >= recipe.min_lesion_mm3)[components]
    return mask


def pick_device(name: str) -> torch.device:
    """The torch device of a name; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: unknown name, or no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = name.split(":")[0]
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if kind not in present or device is None:
        raise InputError(f"Device {name!r}: expected auto, cpu, cuda, cuda:N or mps.")
    if (device.index or 0) >= present[kind]:
        raise InputError(
            f"Device {name!r}: this machine has {present[kind]} such device(s). Use --device auto."
        )
    return device
