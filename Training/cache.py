"""Cases on a recipe's grid, prepared once, kept in the data set's folder and mapped from there.

Mapped arrays cost no memory of their own: a sample reads the part of the file that it shows, so a
data set of a hundred whole CTs can be trained on with any amount of memory.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.intensity import Scale, foreground_statistics
from LiverTumorSegLib.labels import LIVER, TUMOR
from LiverTumorSegLib.preprocess import prepare, prepare_labels
from LiverTumorSegLib.recipe import Recipe, Statistics, Triple, ZScore, from_plain
from LiverTumorSegLib.staging import staged
from Training.dataset import Case, DataSet, real

# To be raised with every change of code that changes what is kept here, or cases prepared by the
# earlier code would still be used.
VERSION = 2
ARRAYS = ("image", "labels", "slice_voxels", "tumor_voxels", "lesion_ends")
DISTANCE = "liver_distance_mm"
FACTS = "case.json"
EVERY_NTH_VOXEL = 10


@dataclass(frozen=True)
class PreparedCase:
    """A case on the network's grid, unpadded.

    Attributes:
        image: float32 (z, y, x), network values.
        liver_distance_mm: float32, or None without a liver crop.
        labels: uint8 on the grid of the network's output.
        slice_voxels: int64 (z of the image, 3), how many voxels of background, liver and tumor each
            slice has in `labels`.
        tumor_voxels: int32 (n, 3), the places (z, y, x) of tumor in `labels`, lesion by lesion.
        lesion_ends: int64, where in `tumor_voxels` each lesion ends.
        spacing_mm: of the image, (z, y, x).
        scale: which network values HU become.
        synthetic: whether no scanner made the CT.
    """

    image: np.ndarray
    liver_distance_mm: np.ndarray | None
    labels: np.ndarray
    slice_voxels: np.ndarray
    tumor_voxels: np.ndarray
    lesion_ends: np.ndarray
    spacing_mm: tuple[float, float, float]
    scale: Scale
    synthetic: bool


def output_scale(recipe: Recipe) -> Triple:
    """Upsampling (z, y, x) of the network's output over its input."""
    z, y, x = recipe.network.args.get("head_scale", (1, 1, 1))
    return z, y, x


def prepared_folder(data: DataSet, case: Case, recipe: Recipe) -> Path:
    """The folder of a case as the recipe's preprocessing leaves it, made if it is not there.

    Raises:
        InputError: the case's arrays are missing or damaged, or the folder cannot be written to.
        ResourceError: the disk is full.
    """
    folder = data.folder / "cache" / f"{case.name}-{cache_key(case, recipe)}"
    if not (folder / FACTS).exists():
        labels = data.labels(case)
        prepared = prepare(data.volume(case), recipe.preprocessing, labels >= LIVER)
        scale = output_scale(recipe)
        grid = prepared.grid
        labels = prepare_labels(labels, grid, scale, recipe.preprocessing.label_interpolation)
        tumor_voxels, lesion_ends = find_lesions(labels)
        arrays = {
            "image": prepared.image,
            "labels": labels,
            "slice_voxels": count_voxels(labels, scale[0]),
            "tumor_voxels": tumor_voxels,
            "lesion_ends": lesion_ends,
        }
        if prepared.liver_distance_mm is not None:
            arrays[DISTANCE] = prepared.liver_distance_mm
        facts = {
            "spacing_mm": prepared.spacing_mm,
            "scale": asdict(prepared.scale),
            "synthetic": case.synthetic,
        }
        # The facts move in last: where they are, the rest is.
        names = [*(f"{name}.npy" for name in (*ARRAYS, DISTANCE)), FACTS]
        with staged(folder, names) as staging:
            for name, array in arrays.items():
                np.save(staging / f"{name}.npy", array)
            (staging / FACTS).write_text(json.dumps(facts))
    return folder


def read_prepared(folder: Path) -> PreparedCase:
    """Map what `prepared_folder` made.

    Raises:
        InputError: it is damaged.
    """
    try:
        facts = json.loads((folder / FACTS).read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        distance = folder / f"{DISTANCE}.npy"
        return PreparedCase(
            **arrays,
            liver_distance_mm=np.load(distance, mmap_mode="r") if distance.exists() else None,
            spacing_mm=from_plain(tuple[float, float, float], facts["spacing_mm"], "spacing_mm"),
            scale=from_plain(Scale, facts["scale"], "scale"),
            synthetic=from_plain(bool, facts["synthetic"], "synthetic"),
        )
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: cannot be read ({error}). Delete this folder; it is made again."
        ) from error


def cache_key(case: Case, recipe: Recipe) -> str:
    """Short digest of all that a prepared case depends on."""
    parts = [
        VERSION,
        case.sha256,
        case.synthetic,
        asdict(case.geometry),
        asdict(recipe.preprocessing),
        output_scale(recipe),
    ]
    return digest(parts)


def digest(parts: list[Any]) -> str:
    """Sixteen hexadecimal digits that stand for JSON values."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def count_voxels(labels: np.ndarray, z_scale: int) -> np.ndarray:
    """Voxels of background, liver and tumor in each slice of the image; int64 (z, 3).

    Args:
        labels: uint8 (z, y, x) on the output grid.
        z_scale: slices of the labels for each slice of the image.
    """
    slices = labels.reshape(-1, z_scale * labels.shape[1] * labels.shape[2])
    return np.stack([np.bincount(values, minlength=3) for values in slices])


def find_lesions(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of all tumor voxels, sorted by lesion, and where each of the lesions ends.

    See `PreparedCase`; the largest lesion comes first.
    """
    components, count = lesion_components(labels == TUMOR)
    voxels = np.argwhere(components).astype(np.int32)
    lesion = components[tuple(voxels.T)]
    order = np.argsort(lesion, kind="stable")
    return voxels[order], np.cumsum(np.bincount(lesion, minlength=count + 1)[1:])


def with_measured_statistics(recipe: Recipe, data: DataSet, cases: list[Case]) -> Recipe:
    """The recipe with the statistics of these cases' livers and tumors, where it uses statistics.

    Every tenth voxel of liver and tumor counts, of real cases where there are any. The result is
    kept in the data set's folder.

    Raises:
        InputError: a case's arrays are missing or damaged, or the folder cannot be written to.
        ResourceError: the disk is full.
    """
    intensity = recipe.preprocessing.intensity
    if not isinstance(intensity, ZScore) or intensity.statistics is None:
        return recipe
    cases = list(real(cases)) or cases
    key = digest([VERSION, [case.sha256 for case in cases], intensity.percentiles])
    path = data.folder / "cache" / f"statistics-{key}.json"
    if not path.exists():
        hu = np.concatenate([foreground_hu(data, case) for case in cases])
        measured = foreground_statistics(hu, intensity.percentiles)
        with staged(path.parent, [path.name]) as staging:
            (staging / path.name).write_text(json.dumps(asdict(measured)))
    try:
        statistics = from_plain(Statistics, json.loads(path.read_text()), "statistics")
    except ValueError as error:
        raise InputError(
            f"{path}: cannot be read ({error}). Delete it; it is made again."
        ) from error
    preprocessing = replace(
        recipe.preprocessing, intensity=replace(intensity, statistics=statistics)
    )
    return replace(recipe, preprocessing=preprocessing)


def foreground_hu(data: DataSet, case: Case) -> np.ndarray:
    """HU of every tenth voxel of a case's liver and tumors, 1D."""
    foreground = data.labels(case) >= LIVER
    return data.volume(case).hu[foreground][::EVERY_NTH_VOXEL]
