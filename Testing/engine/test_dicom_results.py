"""What SEG and SR say, and what they refuse to be made from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom import _standard_utils
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from LiverTumorSegLib import __version__, dicom_seg
from LiverTumorSegLib.dicom_identity import identity_of
from LiverTumorSegLib.dicom_labels import read_segmentation_dcm
from LiverTumorSegLib.dicom_results import source_of_results
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.measure import measure
from LiverTumorSegLib.report import DICOM_REPORT, DICOM_SEG
from LiverTumorSegLib.volume import Volume
from Testing.engine.dicom_series import (
    FRAME,
    MODELS,
    SERIES,
    SHAPE,
    STUDY,
    Written,
    dcmqi,
    grid_of,
    marked,
    voxels_mm,
    write_series,
)


@pytest.fixture(scope="module")
def axial(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tmp_path_factory.mktemp("axial"), "axial", marked())


# What the SEG says


def test_frames_only_where_a_segment_has_voxels(axial: Written) -> None:
    seg = axial.seg()
    frames = [
        item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for item in seg.PerFrameFunctionalGroupsSequence
    ]
    expected = [mask.any(axis=(1, 2)).sum() for mask in axial.masks()]
    assert [frames.count(n) for n in range(1, 5)] == expected
    assert seg.pixel_array.any(axis=(1, 2)).all()


def test_the_liver_holds_its_lesions(axial: Written) -> None:
    seg = axial.seg()
    assert (seg.SegmentationType, seg.SegmentsOverlap) == ("BINARY", "YES")
    found = {n: {tuple(p.round(2)) for p in places} for n, places in voxels_mm(seg).items()}
    assert found[2] | found[3] | found[4] < found[1]


def test_segments_are_named_coded_and_attributed(axial: Written) -> None:
    liver, *tumors = axial.seg().SegmentSequence
    assert (liver.SegmentNumber, liver.SegmentLabel) == (1, "Liver")
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert [t.SegmentLabel for t in tumors] == ["Tumor 1", "Tumor 2", "Tumor 3"]
    for tumor in tumors:
        assert tumor.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
        assert tumor.SegmentedPropertyTypeCodeSequence[0].CodeValue == "4147007"
        assert tumor.AnatomicRegionSequence[0].CodeValue == "10200004"
        (algorithm,) = tumor.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (
            "LiverTumorSeg",
            __version__,
        )
        assert algorithm.AlgorithmParameters == "weights=my-tumor,sha256=def"
    assert {s.SegmentAlgorithmType for s in (liver, *tumors)} == {"AUTOMATIC"}


@pytest.mark.parametrize("name", [DICOM_SEG, DICOM_REPORT])
def test_both_belong_to_the_patient_and_study_of_the_ct(axial: Written, name: str) -> None:
    data = pydicom.dcmread(axial.out / name)
    assert (data.PatientID, str(data.PatientName)) == ("SECRET-ID", "Secret^Name")
    assert (data.StudyInstanceUID, data.StudyDate) == (STUDY, "20250102")
    assert data.SeriesInstanceUID != SERIES
    assert data.ContentQualification == "RESEARCH"
    assert "not for clinical use" in data.SeriesDescription


def test_the_seg_refers_to_every_slice_and_its_frame_of_reference(axial: Written) -> None:
    seg = axial.seg()
    (series,) = seg.ReferencedSeriesSequence
    instances = {header.SOPInstanceUID for header in axial.source.headers}
    assert series.SeriesInstanceUID == SERIES
    assert {r.ReferencedSOPInstanceUID for r in series.ReferencedInstanceSequence} == instances
    assert seg.FrameOfReferenceUID == FRAME


# What the report says


def values(group: hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations) -> dict[str, float]:
    found = {}
    for item in group.get_measurements():
        named = f"{item.derivation.meaning} {item.name.meaning}" if item.derivation else item.name
        found[str(getattr(named, "meaning", named))] = item.value
    return found


def test_the_report_has_the_numbers_of_every_lesion(axial: Written) -> None:
    groups = axial.report().content.get_volumetric_roi_measurement_groups()
    liver, *lesions = groups
    numbers = axial.measurement
    assert values(liver) == {
        "Volume": pytest.approx(numbers.liver_volume_ml, abs=1e-4),
        "Tumor burden: volume of all tumors in the liver's": pytest.approx(
            numbers.tumor_burden_percent, abs=1e-4
        ),
    }
    assert len(lesions) == len(numbers.lesions) == 3
    for group, lesion in zip(lesions, numbers.lesions, strict=True):
        assert values(group) == {
            "Volume": pytest.approx(lesion.volume_ml, abs=1e-4),
            "Long axis": pytest.approx(lesion.long_axis_mm, abs=0.01),
            "Short axis": pytest.approx(lesion.short_axis_mm, abs=0.01),
            "Mean Attenuation Coefficient": pytest.approx(lesion.mean_hu, abs=0.01),
            "Standard Deviation Attenuation Coefficient": pytest.approx(lesion.sd_hu, abs=0.01),
            "Share of the liver's volume": pytest.approx(lesion.burden_percent, abs=1e-4),
        }
        assert group.finding_type == Code("4147007", "SCT", "Mass")
        assert group.finding_sites[0].topographical_modifier is None
        assert group.finding_sites[0].value == Code("10200004", "SCT", "Liver")


def test_the_report_refers_to_the_segments_by_number_and_tracking_uid(axial: Written) -> None:
    seg, report = axial.seg(), axial.report()
    groups = report.content.get_volumetric_roi_measurement_groups()
    for segment, group in zip(seg.SegmentSequence, groups, strict=True):
        referred = group.referenced_segment
        assert referred.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert referred.referenced_segment_numbers == [segment.SegmentNumber]
        assert group.tracking_uid == segment.TrackingUID
        assert group.tracking_identifier == segment.TrackingID
    evidence = {
        instance.ReferencedSOPInstanceUID
        for sequence in ("Current", "Pertinent")
        for study in report.get(EVIDENCE[sequence], [])
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    slices = {header.SOPInstanceUID for header in axial.source.headers}
    assert evidence == {seg.SOPInstanceUID, *slices}


EVIDENCE = {
    "Current": "CurrentRequestedProcedureEvidenceSequence",
    "Pertinent": "PertinentOtherEvidenceSequence",
}


def test_the_report_says_what_computed_and_that_it_is_no_clinical_result(axial: Written) -> None:
    report = axial.report()
    tree = report.to_json()
    assert "weights=my-tumor, sha256=def" in tree
    assert f'"{__version__}"' in tree
    (comment,) = (i for i in report.ContentSequence if i.name == codes.DCM.Comment)
    assert comment.value.startswith("Research only, not for clinical use. Liver 3.3 mL. 3 tumors")
    assert "voxel count times voxel volume" in comment.value
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert report.PreliminaryFlag == "PRELIMINARY"


@pytest.mark.parametrize("shape", [(4, 5, 5), (3, 7, 9)])
def test_frames_need_not_end_at_a_byte(shape: tuple[int, int, int], tmp_path: Path) -> None:
    labels = np.ones(shape, np.uint8)
    labels[1, 1:, 2:] = 2
    written = Written(tmp_path, "axial", labels)
    assert len(written.seg().PixelData) * 8 % (shape[1] * shape[2]) != 0
    geometry = written.volume.geometry
    read = read_segmentation_dcm(written.out / DICOM_SEG, geometry, written.source)
    np.testing.assert_array_equal(read.labels, labels)


def test_voxels_that_highdicom_drops_are_a_bug_and_not_a_result(
    axial: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(dicom_seg._Nested, "_get_segment_pixel_array")
    with pytest.raises(RuntimeError, match="expected"):
        axial.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_tumor_the_liver_is_reported(tmp_path: Path) -> None:
    written = Written(tmp_path, "axial", np.minimum(marked(), 1))
    assert [s.SegmentLabel for s in written.seg().SegmentSequence] == ["Liver"]
    (liver,) = written.report().content.get_volumetric_roi_measurement_groups()
    assert liver.get_measurements()[1].value == 0
    assert "No tumor found" in written.report().to_json()


def test_without_a_liver_nothing_is_written_and_that_is_told(tmp_path: Path) -> None:
    written = Written(tmp_path, "axial", np.zeros(SHAPE, np.uint8))
    assert list(written.out.iterdir()) == []
    assert written.warnings == ("Without a liver there is no segmentation.dcm and no report.dcm.",)


def test_dcmqi_reads_the_report(axial: Written, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    dcmqi("tid1500reader", "--inputDICOM", axial.out / DICOM_REPORT, "--outputMetadata", path)
    groups = json.loads(path.read_text())["Measurements"]
    on_segments = [group for group in groups if "ReferencedSegment" in group]
    assert [group["ReferencedSegment"] for group in on_segments] == [1, 2, 3, 4]
    volumes = [group["measurementItems"][0]["value"] for group in on_segments]
    numbers = axial.measurement
    expected = [numbers.liver_volume_ml, *(lesion.volume_ml for lesion in numbers.lesions)]
    assert [float(volume) for volume in volumes] == pytest.approx(expected, abs=1e-4)


# Conformance


ALTERNATIVES = ("segmentation-multi-frame-functional-groups", "sr-document-content")


def faults_of(data: Dataset) -> list[str]:
    """What the tables of the standard (PS3.3) ask for and an object lacks.

    Type 1 attributes must have a value, those of type 2 must be there; of all mandatory modules but
    two that are lists of alternatives, and inside sequences that are there.
    """
    iod = _standard_utils.get_sop_class_iod_map()[data.SOPClassUID]
    attributes = _standard_utils.get_module_attribute_map()
    found = []
    for module in _standard_utils.get_iod_module_map()[iod]:
        if module["usage"] != "M" or module["key"] in ALTERNATIVES:
            continue
        for attribute in attributes[module["key"]]:
            for item in _items(data, attribute["path"]):
                keyword, kind = attribute["keyword"], attribute["type"]
                lacks = keyword not in item or (kind == "1" and item[keyword].is_empty)
                if kind in ("1", "2") and lacks:
                    found.append("/".join([*attribute["path"], keyword]))
    return found


def _items(data: Dataset, path: list[str]) -> list[Dataset]:
    items = [data]
    for keyword in path:
        items = [inner for item in items if keyword in item for inner in item[keyword].value]
    return items


@pytest.mark.parametrize("name", [DICOM_SEG, DICOM_REPORT])
def test_nothing_that_the_standard_asks_for_is_missing(axial: Written, name: str) -> None:
    data = pydicom.dcmread(axial.out / name)
    assert faults_of(data) == []
    del data.PatientID, data.SeriesInstanceUID
    assert set(faults_of(data)) == {"PatientID", "SeriesInstanceUID"}


@pytest.mark.parametrize("name", [DICOM_SEG, DICOM_REPORT])
def test_dciodvfy_finds_no_error(axial: Written, name: str) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    told = subprocess.run([program, axial.out / name], capture_output=True, text=True, check=False)
    assert [line for line in told.stderr.splitlines() if line.startswith("Error")] == []


# Which lesion is which


def test_the_same_input_and_weights_have_the_same_lesions(axial: Written, tmp_path: Path) -> None:
    axial.write(tmp_path)
    again = pydicom.dcmread(tmp_path / DICOM_SEG)
    first = axial.seg()
    tracked = [[s.TrackingUID for s in seg.SegmentSequence] for seg in (first, again)]
    assert tracked[0] == tracked[1]
    assert len(set(tracked[0])) == 4
    assert all(len(uid) <= 64 and uid.startswith("2.25.") for uid in tracked[0])
    assert first.SOPInstanceUID != again.SOPInstanceUID


def test_a_lesion_is_the_same_without_its_neighbors(axial: Written) -> None:
    """So that a smaller lesion does not become a new one when a larger one is no longer found."""
    labels = np.where(axial.lesion_map == 1, np.uint8(1), axial.labels)
    lesions = measure(axial.volume, labels)[0].lesions
    before = identity_of(axial.source, MODELS, axial.measurement.lesions).lesions
    after = identity_of(axial.source, MODELS, lesions).lesions
    assert [t.uid for t in after] == [t.uid for t in before[1:]]


def test_other_weights_or_another_series_have_other_lesions(axial: Written) -> None:
    lesions = axial.measurement.lesions
    other = {**MODELS, "tumor": {"name": "my-tumor", "sha256": "changed"}}
    header = pydicom.Dataset()
    header.SeriesInstanceUID = "1.2.3.4"
    elsewhere = replace(axial.source, headers=(header,))
    uids = [
        {t.uid for t in identity_of(source, models, lesions).lesions}
        for source, models in ((axial.source, MODELS), (axial.source, other), (elsewhere, MODELS))
    ]
    assert len(set.union(*uids)) == 9


def test_lesions_around_one_center_are_told_apart(axial: Written) -> None:
    lesion = axial.measurement.lesions[0]
    shell = replace(lesion, lesion=2)
    tracked = identity_of(axial.source, MODELS, (lesion, shell)).lesions
    assert tracked[0].uid != tracked[1].uid


# Headers with faults


def series(folder: Path, **changes: object) -> Path:
    volume = Volume(np.zeros(SHAPE, np.float32), grid_of("axial", SHAPE))
    return write_series(folder / "ct", volume, **changes)


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        source_of_results(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}: expected")
    assert re.search("leave out --seg dicom|only DICOM SEG and SR need this", message)
    assert "ecret" not in message.lower()
    return message


def test_a_sound_series_needs_no_warning(tmp_path: Path) -> None:
    assert source_of_results(series(tmp_path)).warnings == ()


def test_without_a_frame_of_reference_there_is_one_made_from_the_series(tmp_path: Path) -> None:
    first, second = (
        Written(tmp_path / name, "axial", marked(), FrameOfReferenceUID=None) for name in "ab"
    )
    assert first.seg().FrameOfReferenceUID == second.seg().FrameOfReferenceUID
    assert first.seg().FrameOfReferenceUID.startswith("2.25.")
    (warning,) = first.warnings
    assert "no FrameOfReferenceUID" in warning
    (slice_, *_) = first.folder.iterdir()
    assert "FrameOfReferenceUID" not in pydicom.dcmread(slice_)


def test_what_an_anonymization_removed_stays_empty_and_is_told(tmp_path: Path) -> None:
    removed = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate")
    removed += ("StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
    written = Written(tmp_path, "axial", marked(), **dict.fromkeys(removed), SliceThickness=None)
    assert set(removed) == set(
        written.warnings[0].removeprefix("The series has no ").partition(":")[0].split(", ")
    )
    for name in (DICOM_SEG, DICOM_REPORT):
        data = pydicom.dcmread(written.out / name)
        assert [data[keyword].is_empty for keyword in removed] == [True] * len(removed)
        assert faults_of(data) == []


def test_what_is_no_date_or_sex_is_left_empty_and_not_repeated(tmp_path: Path) -> None:
    faulty = {"PatientBirthDate": "secret", "PatientSex": "secret", "StudyTime": "secret"}
    with pydicom.config.disable_value_validation():
        written = Written(tmp_path, "axial", marked(), **faulty)
    assert written.warnings == (
        "The series has a faulty PatientBirthDate, PatientSex, StudyTime: left empty in the DICOM "
        "results.",
    )


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPInstanceUID"])
def test_slices_that_nothing_can_refer_to_are_refused(keyword: str, tmp_path: Path) -> None:
    assert f"{keyword} in every slice" in refusal(series(tmp_path, **{keyword: None}))


def test_slices_under_one_uid_are_refused(tmp_path: Path) -> None:
    message = refusal(series(tmp_path, SOPInstanceUID="1.2.3"))
    assert "1 different UIDs in 11 slices" in message


@pytest.mark.parametrize(
    ("keyword", "finding"),
    [("FrameOfReferenceUID", "frame of reference, found 2"), ("StudyInstanceUID", "2 studies")],
)
def test_slices_of_two_studies_or_frames_are_refused(
    keyword: str, finding: str, tmp_path: Path
) -> None:
    folder = series(tmp_path)
    path = min(folder.iterdir())
    data = pydicom.dcmread(path)
    setattr(data, keyword, "1.2.3")
    data.save_as(path)
    assert finding in refusal(folder)


def test_headers_that_highdicom_cannot_take_are_refused_before_computing(tmp_path: Path) -> None:
    with pydicom.config.disable_value_validation(), pytest.warns(match="Unknown encoding"):
        folder = series(tmp_path, SpecificCharacterSet="SECRET 1")
    assert "break the rules of DICOM" in refusal(folder)


def test_nobody_is_named_on_the_screen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    Written(tmp_path, "axial", marked(), PatientName="SECRET", PatientID="SECRET")
    shown = capfd.readouterr()
    assert "SECRET" not in shown.out + shown.err + str([str(w.message) for w in recwarn])
