"""A network as an ONNX file, for programs that know neither torch nor this project.

The file maps `image`, float32 `(batch, 1, *window)` of network values, to `logits`. Any number of
windows may go in at once; their size is the recipe's. What turns HU into network values and logits
into masks is told by the recipe in the file's metadata, beside the card. The weights are those of
the .safetensors file whose sha256 stands there, as float32.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from LiverTumorSegLib.checkpoint import FORMAT, Model
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.preprocess import padded_shape
from LiverTumorSegLib.recipe import FixedShape, Recipe

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
LARGEST_DIFFERENCE = 1e-3


def check_installed() -> None:
    """See that the packages are there.

    Raises:
        InputError: one cannot be imported.
    """
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(
                f"--onnx: it needs the package {package}, which cannot be imported ({error}). In "
                "the folder of LiverTumorSeg, `pip install '.[onnx]'` adds it."
            ) from error


def export_onnx(model: Model, path: Path) -> float:
    """Write a model as ONNX and check it: its form, and what it computes.

    Args:
        model: on the CPU.
        path: of the file.

    Returns:
        Largest difference of its logits from torch's on random windows, one alone and two
        together, as a share of the largest logit.

    Raises:
        InputError: the recipe's windows have no fixed size, or the difference is above
            LARGEST_DIFFERENCE; no file is left.
    """
    import onnx

    window = window_of(model.recipe)[-model.network.dimensions :]  # type: ignore[operator]
    proto = converted(model, window)
    onnx.checker.check_model(proto, full_check=True)
    difference = round_trip(model, proto, window)
    if not difference <= LARGEST_DIFFERENCE:
        raise InputError(
            f"--onnx: expected the logits of {model.recipe.network.name} to differ by less than "
            f"{LARGEST_DIFFERENCE:g} of the largest after conversion, found {difference:g}. Leave "
            "--onnx out, and report it with the versions of torch and onnxruntime."
        )
    onnx.save_model(proto, path)
    return difference


def window_of(recipe: Recipe) -> tuple[int, int, int]:
    """Size (z, y, x) of what the network sees at once.

    Raises:
        InputError: it depends on the CT.
    """
    if recipe.patch is not None:
        return recipe.patch
    resampling = recipe.preprocessing.resampling
    if not isinstance(resampling, FixedShape):
        raise InputError(
            f"--onnx: expected windows of one size, but recipe {recipe.name} sees each CT whole, "
            "on a grid of its own size. Leave --onnx out."
        )
    return padded_shape(resampling.shape, recipe.preprocessing)


def converted(model: Model, window: tuple[int, ...]) -> Any:
    """The network as an ONNX ModelProto, with what it is in the metadata."""
    import onnx

    example = torch.zeros(2, 1, *window)  # a batch of one would be taken for the only size
    with quiet():
        program = torch.onnx.export(
            model.network,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["image"],
            output_names=["logits"],
            opset_version=OPSET,
            verbose=False,
        )
    proto = program.model_proto
    metadata = {
        "format": FORMAT,
        "recipe": model.recipe.to_json(),
        "card": json.dumps(model.card, sort_keys=True),
        "sha256": model.sha256,
    }
    onnx.helper.set_model_props(proto, metadata)
    return proto


def round_trip(model: Model, proto: Any, window: tuple[int, ...]) -> float:
    """Largest difference from torch, as a share of the largest logit or, if that is less, of 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    generator = torch.Generator().manual_seed(0)
    differences = []
    for batch in (1, 2):
        image = torch.randn(batch, 1, *window, generator=generator)
        with torch.inference_mode():
            expected: Tensor = model.network(image)
        (found,) = session.run(["logits"], {"image": image.numpy()})
        largest = max(1.0, float(expected.abs().max()))
        differences.append(float((torch.from_numpy(found) - expected).abs().max()) / largest)
    return max(differences)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's remarks on torchvision and on its own inner workings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
