"""The main job: the liver in the CT and the tumors in the liver, by two networks or by one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from LiverTumorSegLib.backends import pick_backend, pick_device
from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.labels import LIVER, TUMOR
from LiverTumorSegLib.postprocess import touches_border
from LiverTumorSegLib.segmentation import Segmentation
from LiverTumorSegLib.stage import StageResult, run_stage
from LiverTumorSegLib.timing import timed
from LiverTumorSegLib.volume import Volume

ProgressHook = Callable[[str, float], None]


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
        liver_model: weights with target "liver" or "both".
        tumor_model: weights with target "tumor" or "both". Where both are the same weights for both
            targets, the network runs once.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        backend: one of `BACKENDS`; all but "openvino-bf16" give the same masks but for rounding.
        flips: average mirrored predictions (slower) along the axes the recipes name.
        probabilities: also return probabilities.
        on_progress: called with ("Liver" or "Tumor", share done), or with "Liver and tumor" where
            one run gives both; cancels by raising.

    Raises:
        InputError: a model of the wrong target or with other channels than its recipe needs, or a
            device or backend that is not there.
    """
    for model, target in ((liver_model, "liver"), (tumor_model, "tumor")):
        if target not in model.recipe.targets:
            raise InputError(
                f"Model {model.name}: expected weights for the {target}, found weights for the "
                f"{model.recipe.target}. Choose another with --{target}."
            )
    once = liver_model.recipe.target == "both" and liver_model.sha256 == tumor_model.sha256
    torch_device = pick_device(device)
    backend = pick_backend(backend, torch_device)
    timings_s: dict[str, float] = {}
    computed_by: dict[str, str] = {}

    def run(stage: str, model: Model, liver: np.ndarray | None = None) -> StageResult:
        def report(fraction: float) -> None:
            if on_progress is not None:
                on_progress(stage, fraction)

        name = stage.lower().replace(" ", "_")
        with timed(timings_s, name):
            result = run_stage(
                volume,
                model,
                torch_device,
                backend,
                flips=flips,
                probabilities=probabilities,
                on_progress=report,
                liver=liver,
            )
        computed_by[name] = result.computed_by
        return result

    found = run("Liver and tumor" if once else "Liver", liver_model)
    liver, liver_probability = found.masks["liver"], found.probabilities.get("liver")
    labels = liver * np.uint8(LIVER)
    if not liver.any():
        warning = "No liver was found, so no tumor was searched for. Is this an abdominal CT?"
        return Segmentation(labels, (warning,), timings_s, computed_by, liver_probability, None)
    warnings = []
    if touches_border(liver):
        warnings.append(
            "The liver touches the border of the image: it may be cut off and its volume too small."
        )
    if not once:
        found = run("Tumor", tumor_model, liver)
    labels[found.masks["tumor"]] = TUMOR
    return Segmentation(
        labels,
        tuple(warnings),
        timings_s,
        computed_by,
        liver_probability,
        found.probabilities.get("tumor"),
        tumor_model.recipe.inference.confidence,
    )
