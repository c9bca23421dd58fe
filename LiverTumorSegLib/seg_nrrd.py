"""A Slicer segmentation file (.seg.nrrd): the liver, and one segment a lesion.

The liver contains its tumors, so the file holds two layers (a 4D array, the list axis first): the
liver as value 1 in the first, lesion n as value n + 1 in the second. Without a lesion there is one
layer and the array is 3D.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LiverTumorSegLib.components import bounding_box, lesion_boxes
from LiverTumorSegLib.geometry import Geometry

LIVER_RGB = (221, 130, 101)
TUMOR_RGB = (230, 159, 0)
ORIGIN_TAG = "LiverTumorSeg.Origin"  # marks the segments that a new run in Slicer may replace

_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
_REGIONS = "Anatomic codes - DICOM master list"
LIVER_TERMINOLOGY = (
    f"{_CONTEXT}~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~{_REGIONS}~^^~^^"
)
TUMOR_TERMINOLOGY = (
    f"{_CONTEXT}~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^"
    f"~{_REGIONS}~SCT^10200004^Liver~^^"
)


@dataclass(frozen=True)
class Segment:
    """What Slicer shows of one segment, and where its voxels are in the file."""

    id: str
    name: str
    rgb: tuple[int, int, int]
    terminology: str
    layer: int
    value: int
    box: tuple[slice, ...] | None


def segments_of(labels: np.ndarray, lesion_map: np.ndarray) -> tuple[Segment, ...]:
    """The segments of a labeled CT: liver, tumor_1, tumor_2, ... with the largest lesion first.

    Args:
        labels: integer (z, y, x): 0 background, 1 liver, 2 tumor.
        lesion_map: int (z, y, x) as `measure` returns it.
    """
    liver = Segment("liver", "Liver", LIVER_RGB, LIVER_TERMINOLOGY, 0, 1, bounding_box(labels))
    boxes = lesion_boxes(lesion_map)
    return (liver, *(tumor_segment(n, box) for n, box in enumerate(boxes, start=1)))


def tumor_segment(number: int, box: tuple[slice, ...] | None = None) -> Segment:
    """The segment of a lesion by its number."""
    name = f"Tumor {number}"
    return Segment(f"tumor_{number}", name, TUMOR_RGB, TUMOR_TERMINOLOGY, 1, number + 1, box)


def write_segmentation(
    path: Path, labels: np.ndarray, lesion_map: np.ndarray, geometry: Geometry
) -> None:
    """Write liver and lesions as a gzip-compressed .seg.nrrd.

    Args:
        path: the file; an existing one is overwritten in place.
        labels: integer (z, y, x): 0 background, 1 liver, 2 tumor.
        lesion_map: int (z, y, x) as `measure` returns it.
        geometry: the grid of both.
    """
    segments = segments_of(labels, lesion_map)
    layers = 1 + max(segment.layer for segment in segments)
    sample = np.dtype(np.uint8 if segments[-1].value < 256 else np.uint16).newbyteorder("<")
    deflate = zlib.compressobj(level=1, wbits=31)  # wbits 31: with a gzip header
    with path.open("wb") as file:
        file.write(_header(segments, layers, sample, geometry).encode())
        for slab in _interleaved(labels, lesion_map, layers, sample):
            file.write(deflate.compress(slab))
        file.write(deflate.flush())


def _interleaved(
    labels: np.ndarray, lesion_map: np.ndarray, layers: int, sample: np.dtype
) -> Iterator[bytes]:
    """The voxels as the file has them, slice by slice so that no second volume is held."""
    empty = bytes(labels[0].size * layers * sample.itemsize)
    for liver_slice, lesion_slice in zip(labels, lesion_map, strict=True):
        if not liver_slice.any():  # the most of a long CT
            yield empty
            continue
        voxels = np.zeros((*liver_slice.shape, layers), sample)
        voxels[..., 0] = liver_slice > 0
        if layers > 1:
            np.add(lesion_slice, 1, out=voxels[..., 1], where=lesion_slice > 0, casting="unsafe")
        yield voxels.tobytes()


def _header(
    segments: tuple[Segment, ...], layers: int, sample: np.dtype, geometry: Geometry
) -> str:
    columns = (geometry.index_to_lps()[:3, j] for j in range(3))
    directions = " ".join(f"({x!r},{y!r},{z!r})" for x, y, z in (c.tolist() for c in columns))
    origin = ",".join(repr(float(value)) for value in geometry.origin_mm)
    sizes = " ".join(str(n) for n in geometry.shape[::-1])
    listed = layers > 1
    fields = [
        "NRRD0004",
        f"type: {'unsigned char' if sample.itemsize == 1 else 'unsigned short'}",
        f"dimension: {4 if listed else 3}",
        "space: left-posterior-superior",
        f"sizes: {f'{layers} ' if listed else ''}{sizes}",
        f"space directions: {'none ' if listed else ''}{directions}",
        f"kinds: {'list ' if listed else ''}domain domain domain",
        *(["endian: little"] if sample.itemsize > 1 else []),
        "encoding: gzip",
        f"space origin: ({origin})",
        *(line for number, segment in enumerate(segments) for line in _keys(number, segment)),
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]
    return "\n".join(fields) + "\n\n"


def _keys(number: int, segment: Segment) -> Iterator[str]:
    box = segment.box or (slice(0, 0),) * 3
    values = {
        "ID": segment.id,
        "Name": segment.name,
        "NameAutoGenerated": "0",
        "Color": " ".join(f"{channel / 255:.6f}" for channel in segment.rgb),
        "ColorAutoGenerated": "0",
        "LabelValue": str(segment.value),
        "Layer": str(segment.layer),
        "Extent": " ".join(f"{edge.start} {edge.stop - 1}" for edge in reversed(box)),
        "Tags": f"TerminologyEntry:{segment.terminology}|{ORIGIN_TAG}:automatic|",
    }
    return (f"Segment{number}_{key}:={value}" for key, value in values.items())
