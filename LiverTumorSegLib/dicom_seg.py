"""A DICOM segmentation (SEG) of the liver and of each lesion, on the slices of the CT."""

from __future__ import annotations

from typing import Any

import numpy as np
from highdicom import UID
from highdicom.color import CIELabColor
from highdicom.content import PlanePositionSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription

from LiverTumorSegLib import __version__
from LiverTumorSegLib.dicom_identity import (
    ABNORMALITY,
    ANATOMY,
    DISCLAIMER,
    LIVER,
    MASS,
    NAME,
    Identity,
    seg_algorithm,
)
from LiverTumorSegLib.seg_nrrd import LIVER_RGB, TUMOR_RGB

LIVER_SEGMENT = 1
SERIES_NUMBER = 9001  # high, so that viewers list it after the scans


class _Nested(Segmentation):
    """A SEG made from one map, 1 in the liver and n + 1 in lesion n: the liver holds its lesions.

    highdicom takes such maps for segments side by side, or a whole array for each of overlapping
    ones, 80 MB a lesion in a long CT.
    """

    @staticmethod
    def _get_segment_pixel_array(
        pixel_array: np.ndarray, segment_number: int, *_: Any, **__: Any
    ) -> np.ndarray:
        if segment_number == LIVER_SEGMENT:
            return (pixel_array > 0).astype(np.uint8)
        return (pixel_array == segment_number).astype(np.uint8)


def segmentation_dataset(
    labels: np.ndarray, lesion_map: np.ndarray, identity: Identity
) -> Segmentation:
    """The SEG: binary, segment 1 the liver with its lesions, segment n + 1 lesion n.

    It has a frame only where a segment has voxels, at the positions of the CT's slices.

    Args:
        labels: integer (z, y, x): 0 background, 1 liver, 2 tumor; not all 0.
        lesion_map: int (z, y, x) as `measure` returns it.
        identity: of this result; the CT's slices are those of the arrays.
    """
    headers = identity.source.headers
    first, last = np.flatnonzero(labels.any(axis=(1, 2)))[[0, -1]]
    covered = slice(first, last + 1)
    inside, lesion = labels[covered] > 0, lesion_map[covered]
    nested = inside.astype(np.uint8 if len(identity.lesions) < 255 else np.uint16)
    np.add(lesion, 1, out=nested, where=lesion > 0, casting="unsafe")
    dataset = _Nested(
        source_images=headers,
        pixel_array=nested,
        plane_positions=[
            PlanePositionSequence("PATIENT", header.ImagePositionPatient)
            for header in headers[covered]
        ],
        segmentation_type="BINARY",
        segment_descriptions=_descriptions(identity),
        series_instance_uid=UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=__version__,
        device_serial_number=__version__,
        content_label="LIVER_TUMORS",
        content_description=DISCLAIMER,
        content_qualification="RESEARCH",
        series_description=f"Liver and tumors. {DISCLAIMER}",
    )
    if identity.lesions:
        dataset.SegmentsOverlap = "YES"
    _check_voxels(dataset, np.count_nonzero(inside) + np.count_nonzero(lesion))
    return dataset


def _check_voxels(dataset: Segmentation, expected: int) -> None:
    """See that highdicom has asked `_Nested`, which nothing but its tests promises."""
    bits = dataset.NumberOfFrames * dataset.Rows * dataset.Columns
    packed = dataset.PixelData[: -(-bits // 8)]  # a byte to make it even may follow
    written = int.from_bytes(packed, "little").bit_count()
    if written != expected:
        raise RuntimeError(f"the DICOM SEG holds {written} voxels, expected {expected}")


def _descriptions(identity: Identity) -> list[SegmentDescription]:
    liver = SegmentDescription(
        LIVER_SEGMENT,
        "Liver",
        ANATOMY,
        LIVER,
        SegmentAlgorithmTypeValues.AUTOMATIC,
        seg_algorithm(identity.models["liver"]),
        identity.liver.uid,
        identity.liver.text,
        display_color=CIELabColor.from_rgb(*LIVER_RGB),
    )
    lesions = (
        SegmentDescription(
            LIVER_SEGMENT + number,
            f"Tumor {number}",
            ABNORMALITY,
            MASS,
            SegmentAlgorithmTypeValues.AUTOMATIC,
            seg_algorithm(identity.models["tumor"]),
            tracking.uid,
            tracking.text,
            anatomic_regions=[LIVER],
            display_color=CIELabColor.from_rgb(*TUMOR_RGB),
        )
        for number, tracking in enumerate(identity.lesions, start=1)
    )
    return [liver, *lesions]
