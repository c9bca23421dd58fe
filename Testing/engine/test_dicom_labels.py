"""DICOM SEG of other producers as labels on the CT's grid, and which are refused."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
from pydicom.sr.coding import Code

from LiverTumorSegLib import cli
from LiverTumorSegLib.dicom_labels import read_segmentation_dcm
from LiverTumorSegLib.dicom_results import source_of_results
from LiverTumorSegLib.dicom_source import SourceSeries
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.volume import Volume, image_on_grid
from Testing.engine.dicom_series import SHAPE, Written, dcmqi, grid_of, marked, write_series

ORGAN = Code("123037004", "SCT", "Anatomical Structure")
LIVER = Code("10200004", "SCT", "Liver")
MASS = Code("4147007", "SCT", "Mass")
TISSUE = Code("85756007", "SCT", "Tissue")
SPLEEN = Code("78961009", "SCT", "Spleen")
KIDNEY = Code("64033007", "SCT", "Kidney")


@dataclass(frozen=True)
class Segment:
    """How a producer describes a segment."""

    label: str
    kind: Code
    region: Code | None = None


PLAIN = (Segment("Liver", LIVER), Segment("Tumor 1", MASS))
GRID = grid_of("oblique", SHAPE)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceSeries:
    folder = tmp_path_factory.mktemp("series") / "ct"
    return source_of_results(write_series(folder, Volume(np.zeros(SHAPE, np.float32), GRID)))


def made(
    path: Path,
    source: SourceSeries,
    labels: np.ndarray,
    segments: tuple[Segment, ...] = PLAIN,
    grid: Geometry = GRID,
    kind: str = "BINARY",
) -> Path:
    """A SEG by highdicom: value n of `labels` is segment n, or they are a stack (..., n)."""
    zyx = grid.index_to_lps()[:, [2, 1, 0, 3]]
    stacked = {"SegmentNumber": list(range(1, len(segments) + 1))} if labels.ndim == 4 else None
    seg = hd.seg.Segmentation(
        source_images=source.headers,
        pixel_array=hd.Volume(
            labels, zyx, "PATIENT", source.frame_of_reference_uid, channels=stacked
        ),
        segmentation_type=kind,
        segment_descriptions=[
            SegmentDescription(
                number,
                segment.label,
                ORGAN,
                segment.kind,
                SegmentAlgorithmTypeValues.MANUAL,
                anatomic_regions=[segment.region] if segment.region else None,
            )
            for number, segment in enumerate(segments, start=1)
        ],
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="another",
        manufacturer_model_name="another",
        software_versions="1",
        device_serial_number="1",
    )
    seg.save_as(path)
    return path


def refusal(path: Path, source: SourceSeries | None, grid: Geometry = GRID) -> str:
    with pytest.raises(InputError) as caught:
        read_segmentation_dcm(path, grid, source)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected")
    assert "\n" not in message
    assert "SECRET" not in message
    return message


# Which segment is what


@pytest.mark.parametrize(
    ("liver", "tumor"),
    [
        PLAIN,
        (Segment("A", LIVER), Segment("B", MASS, LIVER)),
        (
            Segment("a", Code("T-62000", "SRT", "Liver")),
            Segment("b", Code("M-03000", "SRT", "Mass")),
        ),
        (Segment("", LIVER), Segment("", Code("108369006", "SCT", "Neoplasm"))),
        (Segment("x", LIVER), Segment("y", Code("52988006", "SCT", "Lesion"))),
        (Segment("Liver", TISSUE), Segment("tumor_1", TISSUE)),
        (Segment("LIVER", TISSUE), Segment("Liver Tumour2", TISSUE)),
        (Segment("liver", Code("1", "99MINE", "Organ")), Segment("hepatic-lesion 12", TISSUE)),
        (Segment("a", LIVER), Segment("b", MASS, Code("1", "99X", "Right lobe of liver"))),
    ],
)
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_code_then_label_tell_liver_and_tumor(
    liver: Segment, tumor: Segment, kind: str, source: SourceSeries, tmp_path: Path
) -> None:
    path = made(tmp_path / "seg.dcm", source, marked(), (liver, tumor), kind=kind)
    read = read_segmentation_dcm(path, GRID, source)
    assert read.labels.dtype == np.uint8
    np.testing.assert_array_equal(read.labels, marked())
    assert read.warnings == ()


@pytest.mark.parametrize("slices", [[5], [0], [3, 6, 7]])
def test_slices_without_a_frame_are_empty(
    slices: list[int], source: SourceSeries, tmp_path: Path
) -> None:
    sparse = np.zeros(SHAPE, np.uint8)
    sparse[slices] = marked()[4]
    path = made(tmp_path / "seg.dcm", source, sparse)
    np.testing.assert_array_equal(read_segmentation_dcm(path, GRID, source).labels, sparse)


def test_lesions_may_lie_in_the_liver_segment_or_beside_it(
    source: SourceSeries, tmp_path: Path
) -> None:
    liver, tumor = marked() > 0, marked() == 2
    overlapping = np.stack([liver, tumor], axis=-1).astype(np.uint8)
    path = made(tmp_path / "seg.dcm", source, overlapping)
    np.testing.assert_array_equal(read_segmentation_dcm(path, GRID, source).labels, marked())


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
def test_tumors_that_touch_are_told_apart(kind: str, source: SourceSeries, tmp_path: Path) -> None:
    parts = (marked() > 0).astype(np.uint8)
    parts[4, 6:9, 7:9], parts[4, 6:9, 9:12] = 2, 3
    segments = (*PLAIN, Segment("metastasis 2", MASS))
    stored = np.stack([parts == n for n in (1, 2, 3)], -1).astype(np.uint8)
    path = made(tmp_path / "seg.dcm", source, stored, segments, kind=kind)
    read = read_segmentation_dcm(path, GRID, source)
    np.testing.assert_array_equal(read.tumor_segments, np.where(parts > 1, parts, 0))
    np.testing.assert_array_equal(read.labels, np.minimum(parts, 2))
    assert read.names == {2: "Tumor 1", 3: "metastasis 2"}


def test_other_structures_are_left_out_and_told(source: SourceSeries, tmp_path: Path) -> None:
    others = (Segment("Spleen", SPLEEN), Segment("Tumor", MASS, KIDNEY), Segment("Liver", SPLEEN))
    with_others = marked()
    with_others[1, 1, :3] = 3, 4, 5
    path = made(tmp_path / "seg.dcm", source, with_others, PLAIN + others)
    read = read_segmentation_dcm(path, GRID, source)
    np.testing.assert_array_equal(read.labels, marked())
    assert read.warnings == ("seg.dcm: segments left out: 3 'Spleen', 4 'Tumor', 5 'Liver'.",)


@pytest.mark.parametrize("label", ["Segment_3", "kidney tumor", "tumor rim", "liver vessels", ""])
def test_a_segment_that_nothing_tells_is_a_reason_to_refuse(
    label: str, source: SourceSeries, tmp_path: Path
) -> None:
    path = made(tmp_path / "seg.dcm", source, marked(), (PLAIN[0], Segment(label, TISSUE)))
    message = refusal(path, source)
    assert f"found 2 '{label}'" in message
    assert "Name them 'Liver' and 'Tumor 1'" in message


def test_without_a_liver_it_is_refused(source: SourceSeries, tmp_path: Path) -> None:
    tumor = (marked() == 2).astype(np.uint8)
    path = made(tmp_path / "seg.dcm", source, tumor, PLAIN[1:])
    assert "expected a segment of the liver, found none (tumors only)" in refusal(path, source)
    path = made(tmp_path / "two.dcm", source, tumor, (Segment("Spleen", SPLEEN),))
    assert "found none (1 'Spleen')" in refusal(path, source)


def test_an_empty_liver_is_refused(source: SourceSeries, tmp_path: Path) -> None:
    path = made(tmp_path / "seg.dcm", source, np.zeros(SHAPE, np.uint8))
    assert "expected a liver inside the CT, found none there" in refusal(path, source)


def test_a_fractional_one_is_cut_at_one_half_and_told(source: SourceSeries, tmp_path: Path) -> None:
    marks = marked()
    liver = np.select([marks > 0], [0.6], 0.4).astype(np.float32)
    tumor = np.select([marks == 2], [1.0], 0.0).astype(np.float32)
    path = made(tmp_path / "seg.dcm", source, np.stack([liver, tumor], -1), kind="FRACTIONAL")
    read = read_segmentation_dcm(path, GRID, source)
    np.testing.assert_array_equal(read.labels, marks)
    assert read.warnings == ("seg.dcm: a fractional segmentation, cut at one half.",)


# Of which CT


def test_a_seg_of_another_series_is_refused(source: SourceSeries, tmp_path: Path) -> None:
    path = made(tmp_path / "seg.dcm", source, marked())
    data = pydicom.dcmread(path)
    data.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4"
    data.save_as(path)
    message = refusal(path, source)
    assert f"refers to another series (1.2.3.4; the CT is {source.series_uid})" in message


def test_a_seg_of_another_frame_of_reference_is_refused(
    source: SourceSeries, tmp_path: Path
) -> None:
    path = made(tmp_path / "seg.dcm", source, marked())
    data = pydicom.dcmread(path)
    data.FrameOfReferenceUID = "1.2.3.4"
    data.save_as(path)
    assert "in the CT's frame of reference, found another" in refusal(path, source)


def test_on_a_ct_that_is_no_series_the_grid_must_be_its_own(
    source: SourceSeries, tmp_path: Path
) -> None:
    path = made(tmp_path / "seg.dcm", source, marked())
    read = read_segmentation_dcm(path, GRID, None)
    np.testing.assert_array_equal(read.labels, marked())
    assert read.warnings == ()
    shifted = replace(GRID, origin_mm=tuple(mm + 0.3 for mm in GRID.origin_mm))
    assert "no DICOM series that would tell where it lies" in refusal(path, None, shifted)


# On which grid


def stored(labels: np.ndarray, order: tuple[int, ...]) -> tuple[np.ndarray, Geometry]:
    """The same voxels along other axes with rows reversed, and slices as DICOM stacks them.

    That is along the cross product of row and column, so that their order may turn, too.
    """
    affine = GRID.index_to_lps()[:, [2, 1, 0, 3]][:, [*order, 3]]  # from the new index
    turned = labels.transpose(order)
    turns = np.linalg.det(affine[:3, [2, 1, 0]]) > 0  # reversed rows alone would be left-handed
    for axis in (0, 1) if turns else (1,):
        affine[:3, 3] += affine[:3, axis] * (turned.shape[axis] - 1)
        affine[:3, axis] *= -1
        turned = np.flip(turned, axis)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    rows = (affine[:3, :3] / spacing)[:, ::-1]
    return np.ascontiguousarray(turned), Geometry(
        turned.shape, tuple(spacing), tuple(affine[:3, 3]), tuple(map(tuple, rows))
    )


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_stored_along_other_axes_it_is_the_same(
    order: tuple[int, ...], source: SourceSeries, tmp_path: Path
) -> None:
    turned, grid = stored(marked(), order)
    path = made(tmp_path / "seg.dcm", source, turned, grid=grid)
    read = read_segmentation_dcm(path, GRID, source)
    np.testing.assert_array_equal(read.labels, marked())
    assert read.warnings == ()


def test_a_cut_out_part_of_the_grid_is_no_other_grid(source: SourceSeries, tmp_path: Path) -> None:
    part = marked()[1:, 3:, 2:-1]
    origin = tuple(GRID.lps_of(np.array([1, 3, 2])))
    grid = replace(GRID, shape=part.shape, origin_mm=origin)
    path = made(tmp_path / "seg.dcm", source, part, grid=grid)
    read = read_segmentation_dcm(path, GRID, source)
    np.testing.assert_array_equal(read.labels, marked())
    assert read.warnings == ()


def test_what_lies_outside_the_ct_is_counted(source: SourceSeries, tmp_path: Path) -> None:
    path = made(tmp_path / "seg.dcm", source, marked())
    smaller = replace(GRID, shape=(8, *SHAPE[1:]))
    read = read_segmentation_dcm(path, smaller, source)
    np.testing.assert_array_equal(read.labels, marked()[:8])
    lost = np.count_nonzero(marked()[8:])
    assert read.warnings == (f"seg.dcm: {lost} voxels lie outside the CT and are left out.",)


def test_another_grid_is_resampled_to_the_nearest_voxel_and_told(
    source: SourceSeries, tmp_path: Path
) -> None:
    coarse = replace(GRID, shape=(6, 13, 16), spacing_mm=(4.9, 1.55, 1.35))
    there = np.zeros(coarse.shape, np.uint8)
    there[1:5, 2:11, 3:14] = 1
    there[2:4, 4:7, 5:9] = 2
    path = made(tmp_path / "seg.dcm", source, there, grid=coarse)
    read = read_segmentation_dcm(path, GRID, source)
    assert read.warnings == ("seg.dcm: on another grid, resampled to the CT's (nearest neighbor).",)

    places = np.argwhere(np.ones(SHAPE, bool))
    scale = np.array(GRID.spacing_mm) / coarse.spacing_mm  # same origin and axes
    nearest = np.rint(places * scale).astype(int)
    inside = (nearest < there.shape).all(axis=1)
    expected = np.zeros(len(places), np.uint8)
    expected[inside] = there[tuple(nearest[inside].T)]
    np.testing.assert_array_equal(read.labels.ravel(), expected)


# Files that are none


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3000])


def without(keyword: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = pydicom.dcmread(path)
        delattr(data, keyword)
        data.save_as(path)

    return change


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda path: path.write_text("hello"), "no sound DICOM file"),
        (lambda path: path.write_bytes(b""), "no sound DICOM file"),
        (lambda path: path.unlink(), "No such file"),
        (truncated, "cannot be read"),
        (without("PixelData"), "cannot be read"),
        (without("SegmentSequence"), "cannot be read"),
        (without("SharedFunctionalGroupsSequence"), "cannot be read"),
        (without("PerFrameFunctionalGroupsSequence"), "cannot be read"),
    ],
)
def test_damaged_files_are_refused(
    change: Callable[[Path], object], finding: str, source: SourceSeries, tmp_path: Path
) -> None:
    path = made(tmp_path / "seg.dcm", source, marked())
    change(path)
    assert finding in refusal(path, source)


def test_another_kind_of_object_is_refused(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct", Volume(np.zeros(SHAPE, np.float32), GRID))
    assert "found CT Image Storage" in refusal(min(folder.iterdir()), None)


# dcmqi


def test_what_dcmqi_wrote_is_read(source: SourceSeries, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct", Volume(np.zeros(SHAPE, np.float32), GRID))
    masks = []
    for name, mask in (("liver", marked() > 0), ("tumor", marked() == 2)):
        masks.append(tmp_path / f"{name}.nrrd")
        sitk.WriteImage(image_on_grid(mask.astype(np.uint8), GRID), str(masks[-1]))
    description = tmp_path / "description.json"
    description.write_text(json.dumps(DCMQI))
    seg = tmp_path / "seg.dcm"
    dcmqi(
        "itkimage2segimage",
        *("--inputImageList", ",".join(map(str, masks))),
        *("--inputDICOMDirectory", folder),
        *("--inputMetadata", description),
        *("--outputDICOM", seg, "--skip"),
    )
    read = read_segmentation_dcm(seg, GRID, source_of_results(folder))
    np.testing.assert_array_equal(read.labels, marked())
    assert read.warnings == ()


def _code(value: str, scheme: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning}


DCMQI = {
    "ContentCreatorName": "Reader1",
    "SeriesDescription": "Segmentation",
    "SeriesNumber": "300",
    "InstanceNumber": "1",
    "segmentAttributes": [
        [
            {
                "labelID": 1,
                "SegmentLabel": label,
                "SegmentAlgorithmType": "MANUAL",
                "SegmentedPropertyCategoryCodeSequence": _code(*category),
                "SegmentedPropertyTypeCodeSequence": _code(*kind),
            }
        ]
        for label, category, kind in (
            ("a", ("123037004", "SCT", "Anatomical Structure"), ("T-62000", "SRT", "Liver")),
            ("b", ("49755003", "SCT", "Morphologically Abnormal"), ("4147007", "SCT", "Mass")),
        )
    ],
}


# measure


def measured(ct: Path, seg: Path, out: Path) -> list[dict[str, str]]:
    arguments = ["measure", str(ct), str(seg), "-o", str(out), "--progress", "none"]
    assert cli.main(arguments) == 0
    with (out / "lesions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_measure_gives_the_numbers_of_the_run_that_wrote_the_seg(tmp_path: Path) -> None:
    written = Written(tmp_path, "oblique", marked())
    rows = measured(written.folder, written.out / "segmentation.dcm", tmp_path / "measured")
    for row, lesion in zip(rows, written.measurement.lesions, strict=True):
        assert float(row["volume_ml"]) == pytest.approx(lesion.volume_ml, abs=1e-4)
        assert float(row["long_axis_mm"]) == pytest.approx(lesion.long_axis_mm, abs=0.01)
        assert float(row["mean_hu"]) == pytest.approx(lesion.mean_hu, abs=0.01)


def test_measure_keeps_segments_that_touch_apart(source: SourceSeries, tmp_path: Path) -> None:
    parts = (marked() > 0).astype(np.uint8)
    parts[4, 6:9, 7:9], parts[4, 6:9, 9:12] = 2, 3
    ct = tmp_path / "ct.nii.gz"
    sitk.WriteImage(image_on_grid(np.zeros(SHAPE, np.float32), GRID), str(ct))
    seg = made(tmp_path / "any name", source, parts, (*PLAIN, Segment("Tumor 2", MASS)))
    rows = measured(ct, seg, tmp_path / "out")
    assert [float(row["volume_ml"]) for row in rows] == pytest.approx(
        [9 * GRID.voxel_ml, 6 * GRID.voxel_ml], abs=1e-4
    )


def test_measure_refuses_a_seg_of_another_series(
    source: SourceSeries, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = Volume(np.zeros(SHAPE, np.float32), GRID)
    ct = write_series(tmp_path / "ct", volume, SeriesInstanceUID="1.2.3")
    seg = made(tmp_path / "seg.dcm", source, marked())
    assert cli.main(["measure", str(ct), str(seg), "-o", str(tmp_path / "out")]) == 2
    assert "refers to another series" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
