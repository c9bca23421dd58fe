"""What the worker and the program that starts it say to one another. No torch.

Requests and events are JSON objects, one a line, in ASCII. Arrays go through a folder: the CT as
its owner has it, value for value, and the results, each set of files whole or not at all.

A request is {"id", "do", "cancel", ...}: "do" is "segment" or "region" (each with "folder", the
latter with "point_lps_mm" too), "devices", "models" or "stop"; a file that appears at the path
"cancel" cancels it. Each event repeats the request's id: "progress" (stage, fraction) any number of
times, then one of "result" (data), "canceled" and "error" (message, kind). The first event of all
is "ready" (pid).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.recipe import LesionConfidence, from_plain
from LiverTumorSegLib.segmentation import Segmentation
from LiverTumorSegLib.staging import FULL, staged
from LiverTumorSegLib.volume import Volume, clean_hu

VOLUME, JOB, LIVER = "volume.npy", "job.json", "liver.npy"
LABELS, RESULT = "labels.npy", "result.json"
LIVER_PROBABILITY, TUMOR_PROBABILITY = "liver_probability.npy", "tumor_probability.npy"
LESION, FOUND = "lesion.npy", "lesion.json"

KINDS = {1: "bug", 2: "input", 4: "resources"}
"""Kind of an error by the exit code that the command line has for it."""


@dataclass(frozen=True)
class Choices:
    """What a user chose for a run; as for `segment.segment` and `checkpoint.load_models`."""

    liver_model: str | None = None
    tumor_model: str | None = None
    device: str = "auto"
    backend: str = "auto"
    flips: bool = False


@dataclass(frozen=True)
class Job:
    """What a folder asks for: a CT's grid and name, and the choices."""

    name: str
    geometry: Geometry
    choices: Choices


@dataclass(frozen=True)
class Found:
    """A lesion at a point.

    Attributes:
        corner: first voxel (z, y, x) of the lesion's box on the CT's grid.
        mask: bool (z, y, x), of that box.
        threshold: the tumor probability from which voxels count as the lesion's.
        mean_probability: of its voxels.
    """

    corner: tuple[int, int, int]
    mask: np.ndarray
    threshold: float
    mean_probability: float

    def whole(self, shape: tuple[int, int, int]) -> np.ndarray:
        """The mask on the CT's grid, bool (z, y, x)."""
        mask = np.zeros(shape, dtype=bool)
        box = zip(self.corner, self.mask.shape, strict=True)
        mask[tuple(slice(start, start + size) for start, size in box)] = self.mask
        return mask


@dataclass(frozen=True)
class Event:
    """One line of the worker."""

    event: str
    id: int | None = None
    stage: str = ""
    fraction: float = 0.0
    message: str = ""
    kind: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    pid: int = 0


class EventLines:
    """Events from a stream of bytes that comes in pieces; whatever else it holds is left over."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> tuple[list[Event], list[str]]:
        """The events of the lines that this piece ends, and the lines that are none, as text."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        events, others = [], []
        for line in lines:
            try:
                events.append(_event(line))
            except ValueError:
                text = line.decode("utf-8", "replace").rstrip()
                if text:
                    others.append(text)
        return events, others


def _event(line: bytes) -> Event:
    value = json.loads(line)
    if not isinstance(value, dict) or "event" not in value:
        raise ValueError("a line of something else")
    return from_plain(Event, {**dataclasses.asdict(Event("")), **value}, "event")


def write_job(folder: Path, voxels: np.ndarray, job: Job) -> None:
    """Write what a worker needs to segment a CT.

    Args:
        folder: made if it does not exist.
        voxels: (z, y, x) on the job's grid, of any number type, as the CT's owner has them.
        job: what is wanted.

    Raises:
        InputError: the folder cannot be written to.
        ResourceError: the disk is full.
    """
    with staged(folder, (VOLUME, JOB)) as partial:
        save_array(partial / VOLUME, voxels)
        (partial / JOB).write_text(json.dumps(dataclasses.asdict(job)), encoding="ascii")


def read_job(folder: Path) -> tuple[Volume, Job]:
    """The CT in HU and what is wanted of it.

    Raises:
        InputError: the folder does not hold a whole job.
    """
    try:
        plain = json.loads((folder / JOB).read_text(encoding="ascii"))
        job = from_plain(Job, plain, "job")
        voxels = read_array(folder / VOLUME)
        if voxels.shape != job.geometry.shape:
            raise ValueError(f"{VOLUME}: shape {voxels.shape}, not {job.geometry.shape}")
        hu, repairs = clean_hu(np.array(voxels, dtype=np.float32))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: expected a folder with a CT and what is wanted of it, found: {error}. "
            "Start the segmentation again."
        ) from error
    return Volume(hu, job.geometry, job.name, repairs), job


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file.

    Raises:
        ResourceError: the disk is full; numpy's own error does not say so.
    """
    try:
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    except OSError as error:
        if error.errno not in (None, *FULL):
            raise
        raise ResourceError(f"{path}: the disk is full. Free some space.") from error


def read_array(path: Path) -> np.ndarray:
    """A .npy file, memory-mapped, read only."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def write_result(folder: Path, segmentation: Segmentation, device: str) -> None:
    """Write a result: all of its files appear at once.

    Args:
        folder: of the job.
        segmentation: what was found.
        device: where the networks ran.

    Raises:
        ResourceError: the disk is full; the folder is as it was.
    """
    arrays = {
        LABELS: segmentation.labels,
        LIVER_PROBABILITY: segmentation.liver_probability,
        TUMOR_PROBABILITY: segmentation.tumor_probability,
    }
    plain = {
        "warnings": segmentation.warnings,
        "timings_s": segmentation.timings_s,
        "device": device,
        "computed_by": segmentation.computed_by,
        "confidence": segmentation.confidence and dataclasses.asdict(segmentation.confidence),
    }
    with staged(folder, (*arrays, RESULT)) as partial:
        for name, array in arrays.items():
            if array is not None:
                save_array(partial / name, array)
        (partial / RESULT).write_text(json.dumps(plain), encoding="ascii")


def read_result(folder: Path) -> Segmentation:
    """What `write_result` wrote; the arrays are memory-mapped."""
    plain = json.loads((folder / RESULT).read_text(encoding="ascii"))
    liver, tumor = (
        read_array(folder / name) if (folder / name).exists() else None
        for name in (LIVER_PROBABILITY, TUMOR_PROBABILITY)
    )
    confidence = plain["confidence"]
    return Segmentation(
        read_array(folder / LABELS),
        tuple(plain["warnings"]),
        plain["timings_s"],
        plain["computed_by"],
        liver,
        tumor,
        confidence and from_plain(LesionConfidence, confidence, "confidence"),
    )


def write_found(folder: Path, found: Found | None) -> None:
    """Write the lesion at a point, or that there is none; all files appear at once."""
    with staged(folder, (LESION, FOUND)) as partial:
        plain = None
        if found is not None:
            save_array(partial / LESION, found.mask)
            plain = {
                "corner": found.corner,
                "threshold": found.threshold,
                "mean_probability": found.mean_probability,
            }
        (partial / FOUND).write_text(json.dumps(plain), encoding="ascii")


def read_found(folder: Path) -> Found | None:
    """What `write_found` wrote."""
    plain = json.loads((folder / FOUND).read_text(encoding="ascii"))
    if plain is None:
        return None
    z, y, x = plain["corner"]
    mask = np.array(read_array(folder / LESION))
    return Found((z, y, x), mask, plain["threshold"], plain["mean_probability"])
