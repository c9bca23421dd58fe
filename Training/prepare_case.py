"""Read, check and store one case of a data set, in a process that may be its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.measure import measure
from LiverTumorSegLib.preview import render_preview
from LiverTumorSegLib.volume import Volume
from Training.case_checks import (
    check_spacing,
    grid_faults,
    hu_faults,
    hu_warnings,
    label_faults,
    outside_warnings,
)
from Training.case_store import Record, store, writing
from Training.dataset import FORMAT, Case, Origin
from Training.fingerprint import fingerprint_of
from Training.layouts import Source
from Training.read_source import label_values, read_ct, read_reference

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """A case to prepare.

    Attributes:
        source: its files.
        data: the folder that they are named relative to.
        folder: where to store it.
        label_map: label values and what they become.
        stamp: see `stamp_of`.
    """

    source: Source
    data: Path
    folder: Path
    label_map: dict[int, int]
    stamp: str


def stamp_of(source: Source, label_map: dict[int, int]) -> str:
    """Digest of what a case is made from: its files' names, sizes and times, facts and mapping."""
    files = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for part in source.parts()
        for path in (sorted(part.iterdir()) if part.is_dir() else [part])
    ]
    said = asdict(source.facts)
    facts = [FORMAT, source.name, source.layout, said, files, sorted(label_map.items())]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def prepare_case(task: Task) -> Record | list[str]:
    """Read, check and store one case; gives its record or else all its faults.

    Raises:
        InputError: the folder cannot be written to.
        ResourceError: disk or memory ran out.
    """
    source, faults = task.source, []
    try:
        volume = tried(lambda: read_ct(source.ct), faults)
        reference = tried(lambda: read_reference(source.label), faults)
        if reference:
            faults += label_faults(reference.labels, task.label_map, reference.path)
        if volume and reference:
            faults += grid_faults(volume.geometry, reference.geometry, reference.path)
        if volume is None or reference is None or faults:
            return faults
        labels = mapped(reference.labels, task.label_map)
        faults = hu_faults(volume, labels, source.ct)
        return faults or store_case(task, volume, labels, reference.outside_liver)
    except MemoryError as error:
        raise ResourceError(
            f"{source.ct}: memory ran out. Close other programs or give fewer --workers."
        ) from error


def tried(read: Callable[[], T], faults: list[str]) -> T | None:
    """What `read` gives; None, and its message among the faults, if the file is at fault."""
    try:
        return read()
    except InputError as error:
        faults.append(str(error))
        return None


def store_case(task: Task, volume: Volume, labels: np.ndarray, outside_liver: int) -> Record:
    """Write a sound case's files.

    Args:
        task: what to call it and where to.
        volume: the CT as its file has it.
        labels: uint8 (z, y, x): 0 background, 1 liver, 2 tumor.
        outside_liver: voxels of tumor masks outside the liver's.

    Raises:
        InputError: the folder cannot be written to.
        ResourceError: the disk is full.
    """
    source = task.source
    spacing = check_spacing(volume.geometry, source.patient)
    volume = replace(volume, geometry=spacing.geometry, name=source.name)
    measurement, lesion_map = measure(volume, labels)
    warnings = [
        *spacing.warnings,
        *hu_warnings(volume),
        *outside_warnings(outside_liver, spacing.geometry),
    ]
    hu = small(volume.hu)
    ct_sha256, sha256 = digests(hu, labels)
    record = Record(
        stamp=task.stamp,
        case=Case(
            name=source.name,
            patient=source.patient,
            synthetic=source.facts.synthetic,
            geometry=spacing.geometry,
            spacing_known=spacing.known,
            liver_ml=measurement.liver_volume_ml,
            tumor_ml=float(measurement.tumor_volume_ml),
            lesions=len(measurement.lesions),
            sha256=sha256,
        ),
        origin=Origin(
            layout=source.layout,
            files=tuple(part.relative_to(task.data).as_posix() for part in source.parts()),
            ct_sha256=ct_sha256,
            repairs=(*volume.repairs, *spacing.repairs),
            warnings=tuple(warnings),
        ),
        fingerprint=fingerprint_of(hu, labels, measurement),
    )
    picture = render_preview(volume, labels, lesion_map, measurement)
    with writing(task.folder):
        store(task.folder, record, hu, labels, picture)
    return record


def small(hu: np.ndarray) -> np.ndarray:
    """HU as int16 where that keeps every value, looked at slice by slice for the sake of memory."""
    highest = np.iinfo(np.int16).max
    if all(plane.max() <= highest and np.array_equal(plane, np.rint(plane)) for plane in hu):
        return hu.astype(np.int16)
    return hu


def digests(hu: np.ndarray, labels: np.ndarray) -> tuple[str, str]:
    """sha256 of the HU, and of HU and labels."""
    digest = hashlib.sha256(np.ascontiguousarray(hu))
    ct_sha256 = digest.hexdigest()
    digest.update(np.ascontiguousarray(labels))
    return ct_sha256, digest.hexdigest()


def mapped(labels: np.ndarray, label_map: dict[int, int]) -> np.ndarray:
    """uint8 0, 1 and 2 of labels that are or become such."""
    result = np.zeros(labels.shape, dtype=np.uint8)
    for value in label_values(labels):
        result[labels == value] = label_map.get(value, value)
    return result
