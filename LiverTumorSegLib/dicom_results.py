"""The DICOM results of a run: a segmentation and a report that refers to it."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
from highdicom.seg import Segmentation
from highdicom.sr import Comprehensive3DSR

from LiverTumorSegLib.dicom_extra import without_their_warnings
from LiverTumorSegLib.dicom_identity import identity_of
from LiverTumorSegLib.dicom_report import report_dataset
from LiverTumorSegLib.dicom_seg import segmentation_dataset
from LiverTumorSegLib.dicom_source import SourceSeries, read_source
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.measure import Measurement
from LiverTumorSegLib.report import DICOM_REPORT, DICOM_SEG

logger = logging.getLogger(__name__)


@without_their_warnings()
def source_of_results(folder: Path) -> SourceSeries:
    """The headers of a folder's CT series, once results that refer to them have been tried.

    Headers can be wrong in more ways than can be listed, and after the computing it is too late.

    Raises:
        InputError: No CT series, or one that no results can refer to.
    """
    source = read_source(folder)
    header = source.headers[0]
    labels = np.zeros((len(source.headers), int(header.Rows), int(header.Columns)), np.uint8)
    labels[0, 0, 0] = 1
    models = dict.fromkeys(("liver", "tumor"), {"name": "trial", "sha256": ""})
    try:
        for dataset in _datasets(
            source, models, labels, Measurement(1.0, 0.0, 0.0, ()), labels // 2
        ):
            dataset.save_as(io.BytesIO())
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        logger.info("%s: %r", folder, error)
        raise InputError(
            f"{folder}: expected headers that DICOM results can take up, found some that break the "
            "rules of DICOM (--verbose tells which). Export the series again, or leave out --seg "
            "dicom."
        ) from error
    return source


@without_their_warnings()
def write_dicom(
    folder: Path,
    source: SourceSeries,
    models: dict[str, dict[str, str]],
    labels: np.ndarray,
    measurement: Measurement,
    lesion_map: np.ndarray,
) -> tuple[str, ...]:
    """Write SEG and SR, unless no liver was found: there would be nothing to outline.

    Args:
        folder: an existing one.
        source: the CT.
        models: for "liver" and "tumor" the name and sha256 of the weights.
        labels: integer (z, y, x) on the CT's grid: 0 background, 1 liver, 2 tumor.
        measurement: the numbers of these labels.
        lesion_map: int (z, y, x) as `measure` returns it.

    Returns:
        Sentences that a user should read.
    """
    if not labels.any():
        return (f"Without a liver there is no {DICOM_SEG} and no {DICOM_REPORT}.",)
    segmentation, report = _datasets(source, models, labels, measurement, lesion_map)
    segmentation.save_as(folder / DICOM_SEG)
    report.save_as(folder / DICOM_REPORT)
    return source.warnings


def _datasets(
    source: SourceSeries,
    models: dict[str, dict[str, str]],
    labels: np.ndarray,
    measurement: Measurement,
    lesion_map: np.ndarray,
) -> tuple[Segmentation, Comprehensive3DSR]:
    identity = identity_of(source, models, measurement.lesions)
    segmentation = segmentation_dataset(labels, lesion_map, identity)
    return segmentation, report_dataset(measurement, segmentation, identity)
