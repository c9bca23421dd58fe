"""What tumor networks gave on cases that they had not seen, kept case by case in one folder.

From these files any threshold and smallest lesion can be tried without running a network again.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LiverTumorSegLib.components import bounding_box
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.staging import staged
from Training.scores import Provenance


@dataclass(frozen=True)
class TumorProbability:
    """Probabilities in the box of the liver in which tumors were searched.

    Attributes:
        weights: that made them, as `Provenance.weights`.
        box: first and last voxel + 1 of the box along each axis (z, y, x) of the CT; empty without
            a liver.
        liver: bool (z, y, x), in the box.
        tumor: float16, in the box; 0 outside of the liver.
    """

    weights: str
    box: tuple[slice, ...]
    liver: np.ndarray
    tumor: np.ndarray


def keep_probability(
    folder: Path, origin: Provenance, labels: np.ndarray, probability: np.ndarray | None
) -> None:
    """Write what was predicted of one case, whole or not at all.

    Args:
        folder: made if it is not there.
        origin: names the case and the weights.
        labels: uint8 (z, y, x) as predicted.
        probability: of the tumor, float16 (z, y, x); None where no liver was found.

    Raises:
        InputError: the folder cannot be written to.
        ResourceError: the disk is full.
    """
    box = bounding_box(labels) or (slice(0, 0),) * 3
    liver = labels[box] > 0
    inside = np.zeros(liver.shape, np.float16)
    if probability is not None:
        inside[liver] = probability[box][liver]
    file = path_of(folder, origin.case)
    with staged(folder, [file.name]) as staging:
        np.savez_compressed(
            staging / file.name,
            weights=np.array(origin.weights),
            box=np.array([(edge.start, edge.stop) for edge in box]),
            liver=liver,
            tumor=inside,
        )


def read_probability(folder: Path, case: str) -> TumorProbability | None:
    """What is kept of a case; None if nothing is.

    Raises:
        InputError: its file is damaged.
    """
    path = path_of(folder, case)
    if not path.exists():
        return None
    try:
        with np.load(path) as kept:
            return TumorProbability(
                weights=str(kept["weights"]),
                box=tuple(slice(int(start), int(stop)) for start, stop in kept["box"]),
                liver=kept["liver"],
                tumor=kept["tumor"],
            )
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: expected the tumor probabilities of a case, which cannot be read ({error}). "
            "Delete the file; they are then made again."
        ) from error


def path_of(folder: Path, case: str) -> Path:
    """The file of a case."""
    return folder / f"{case}.npz"
