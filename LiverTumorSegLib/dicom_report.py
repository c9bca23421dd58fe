"""A DICOM structured report (TID 1500) of the liver's and the lesions' numbers.

Two measurement groups tell of a lesion, under one tracking UID: one on its segment (TID 1411) with
all numbers, and one without a region (TID 1501), which alone may hold the ends of the two axes.
"""

from __future__ import annotations

import highdicom as hd
import numpy as np
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.seg import Segmentation
from highdicom.sr import (
    Comprehensive3DSR,
    CoordinatesForMeasurement3D,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
)
from highdicom.sr import VolumetricROIMeasurementsAndQualitativeEvaluations as OnSegment
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from LiverTumorSegLib import __version__
from LiverTumorSegLib.dicom_identity import (
    ABNORMALITY,
    ANATOMY,
    DISCLAIMER,
    LIVER,
    MASS,
    NAME,
    Identity,
    Tracking,
    sr_algorithm,
)
from LiverTumorSegLib.dicom_seg import LIVER_SEGMENT, SERIES_NUMBER
from LiverTumorSegLib.dicom_source import SourceSeries, derived_uid
from LiverTumorSegLib.measure import Lesion
from LiverTumorSegLib.measure import Measurement as Result
from LiverTumorSegLib.report import DEFINITIONS, row_of, summary_of

_SCHEME = "99LIVERTUMORSEG"
BURDEN = Code("burden", _SCHEME, "Tumor burden: volume of all tumors in the liver's")
SHARE = Code("share", _SCHEME, "Share of the liver's volume")
ORGAN = Code("113343008", "SCT", "Organ")
_CM3, _MM, _HU = codes.UCUM.CubicCentimeter, codes.UCUM.Millimeter, codes.UCUM.HounsfieldUnit
_DEFINED = ("liver", "volume_ml", "long_axis_mm", "short_axis_mm", "sd_hu", "burden_percent")


def report_dataset(
    result: Result, segmentation: Segmentation, identity: Identity
) -> Comprehensive3DSR:
    """The SR: the liver's volume and burden, and of each lesion volume, axes, HU and share.

    Args:
        result: the numbers, rounded here as in the other outputs.
        segmentation: the SEG of the same result, whose segments the report refers to.
        identity: of the result.
    """
    groups: list[MeasurementsAndQualitativeEvaluations | OnSegment] = [
        _liver_group(result, segmentation, identity)
    ]
    for lesion, tracking in zip(result.lesions, identity.lesions, strict=True):
        groups.append(_lesion_group(lesion, tracking, segmentation, identity))
        groups.append(_axes_group(lesion, tracking, identity))
    report = MeasurementReport(
        observation_context=ObservationContext(_observer()),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
    )
    report[0].ContentSequence.append(_comment(result))
    return Comprehensive3DSR(
        evidence=[segmentation, *identity.source.headers],
        content=report[0],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER + 1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=__version__,
        device_serial_number=__version__,
        is_complete=True,
        content_qualification="RESEARCH",
        series_description=f"Measurements. {DISCLAIMER}",
        coding_schemes=[CodingSchemeIdentificationItem(_SCHEME, NAME, __version__)],
    )


def _liver_group(result: Result, segmentation: Segmentation, identity: Identity) -> OnSegment:
    return OnSegment(
        tracking_identifier=TrackingIdentifier(identity.liver.uid, identity.liver.text),
        referenced_segment=_segment(segmentation, LIVER_SEGMENT, identity.source),
        finding_category=ANATOMY,
        finding_type=ORGAN,
        finding_sites=[FindingSite(LIVER)],
        algorithm_id=sr_algorithm(identity.models["liver"]),
        measurements=[
            Measurement(codes.SCT.Volume, round(result.liver_volume_ml, 4), _CM3),
            Measurement(BURDEN, round(result.tumor_burden_percent, 4), codes.UCUM.Percent),
        ],
    )


def _lesion_group(
    lesion: Lesion, tracking: Tracking, segmentation: Segmentation, identity: Identity
) -> OnSegment:
    number, hu = row_of(lesion), codes.DCM.AttenuationCoefficient
    return OnSegment(
        tracking_identifier=TrackingIdentifier(tracking.uid, tracking.text),
        referenced_segment=_segment(segmentation, LIVER_SEGMENT + lesion.lesion, identity.source),
        finding_category=ABNORMALITY,
        finding_type=MASS,
        finding_sites=[FindingSite(LIVER)],
        algorithm_id=sr_algorithm(identity.models["tumor"]),
        measurements=[
            Measurement(codes.SCT.Volume, number["volume_ml"], _CM3),
            Measurement(codes.SCT.LongAxis, number["long_axis_mm"], _MM),
            Measurement(codes.SCT.ShortAxis, number["short_axis_mm"], _MM),
            Measurement(hu, number["mean_hu"], _HU, derivation=codes.SCT.Mean),
            Measurement(hu, number["sd_hu"], _HU, derivation=codes.SCT.StandardDeviation),
            Measurement(SHARE, number["burden_percent"], codes.UCUM.Percent),
        ],
    )


def _axes_group(
    lesion: Lesion, tracking: Tracking, identity: Identity
) -> MeasurementsAndQualitativeEvaluations:
    number = row_of(lesion)
    axes = ((codes.SCT.LongAxis, "long_axis"), (codes.SCT.ShortAxis, "short_axis"))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(tracking.uid, tracking.text),
        finding_category=ABNORMALITY,
        finding_type=MASS,
        finding_sites=[FindingSite(LIVER)],
        algorithm_id=sr_algorithm(identity.models["tumor"]),
        measurements=[
            Measurement(
                code,
                number[f"{name}_mm"],
                _MM,
                referenced_coordinates=[_line(number[f"{name}_ends_mm"], identity.source)],
            )
            for code, name in axes
        ],
    )


def _line(ends_mm: list[list[float]], source: SourceSeries) -> CoordinatesForMeasurement3D:
    return CoordinatesForMeasurement3D("POLYLINE", np.array(ends_mm), source.frame_of_reference_uid)


def _segment(segmentation: Segmentation, number: int, source: SourceSeries) -> ReferencedSegment:
    return ReferencedSegment(
        segmentation.SOPClassUID,
        segmentation.SOPInstanceUID,
        number,
        source_series=SourceSeriesForSegmentation(source.series_uid),
    )


def _observer() -> ObserverContext:
    return ObserverContext(
        codes.DCM.Device,
        DeviceObserverIdentifyingAttributes(
            derived_uid(NAME, __version__), NAME, NAME, NAME, __version__
        ),
    )


def _comment(result: Result) -> TextContentItem:
    """What is not a number: the disclaimer, the result in words and what the numbers mean."""
    defined = " ".join(f"{name}: {DEFINITIONS[name]}." for name in _DEFINED)
    text = f"{DISCLAIMER} {summary_of(result)} Definitions: {defined}"
    return TextContentItem(codes.DCM.Comment, text, "CONTAINS")
