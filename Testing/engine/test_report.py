"""What a run leaves: all files or none, their numbers, the Slicer segmentation, the picture."""

from __future__ import annotations

import csv
import doctest
import errno
import importlib
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from PIL import Image
from scipy.spatial.transform import Rotation
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonCore import reference
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import Lesion, Measurement, measure
from LiverTumorSegLib.preview import render_preview
from LiverTumorSegLib.recipe import LesionConfidence
from LiverTumorSegLib.report import (
    DEFINITIONS,
    PROBABILITIES,
    REPORT,
    TABLE,
    Run,
    summary_of,
    table_text,
    write_outputs,
    write_table,
)
from LiverTumorSegLib.seg_nrrd import (
    LIVER_RGB,
    LIVER_TERMINOLOGY,
    TUMOR_RGB,
    TUMOR_TERMINOLOGY,
    write_segmentation,
)
from LiverTumorSegLib.segment import Segmentation
from LiverTumorSegLib.staging import staged
from LiverTumorSegLib.tiles import (
    ALERT_RGB,
    TILE_SIZE,
    display_axes,
)
from LiverTumorSegLib.volume import Volume, read_labels

TURNS = [
    np.eye(3)[list(order)] * signs
    for order, signs in itertools.product(
        itertools.permutations(range(3)), itertools.product([1, -1], repeat=3)
    )
]
OBLIQUE = Rotation.from_euler("xyz", (14, -21, 30), degrees=True).as_matrix()
MODEL = {"name": "l", "sha256": "0", "license": None, "training_cases": 7, "mean_dice": 0.9}
RUN = Run("ct.nii.gz", {"liver": MODEL}, "cpu", None)


def grid(shape: tuple[int, ...], direction: np.ndarray = TURNS[0]) -> Geometry:
    return Geometry(shape, (2.0, 0.7, 0.5), (1.0, -2.0, 3.0), tuple(map(tuple, direction.tolist())))


def two_tumors() -> np.ndarray:
    """A liver of 141 voxels with tumors of 8 and 1, the small one bulging out to the side."""
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[1:5, 2:7, 2:9] = 1
    labels[2:4, 3:5, 3:5] = 2
    labels[3, 5, 9] = 2
    return labels


def outputs(folder: Path, labels: np.ndarray, **result: object) -> Measurement:
    """Write all outputs of labels on a made-up CT."""
    hu = np.linspace(-100, 200, labels.size, dtype=np.float32).reshape(labels.shape)
    volume = Volume(hu, grid(labels.shape, OBLIQUE), "ct", ("a repair",))
    measurement, lesion_map = measure(volume, labels)
    segmentation = Segmentation(labels, **result)
    write_outputs(folder, RUN, volume, segmentation, measurement, lesion_map)
    return measurement


# All or nothing


NAMES = ("a.txt", "b.txt", "c.txt")


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_files_appear_in_a_new_folder_only_when_all_are_written(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deeper"
    with staged(target, NAMES) as folder:
        (folder / "a.txt").write_text("1")
        assert not (tmp_path / "new").exists()
        (folder / "b.txt").write_text("2")
    assert contents(tmp_path) == {"new/deeper/a.txt": "1", "new/deeper/b.txt": "2"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new"]


def test_earlier_results_are_replaced_or_removed_and_other_files_stay(tmp_path: Path) -> None:
    for name in (*NAMES, "mine.txt"):
        (tmp_path / name).write_text("old")
    with staged(tmp_path, NAMES) as folder:
        (folder / "a.txt").write_text("new")
    assert contents(tmp_path) == {"a.txt": "new", "mine.txt": "old"}


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_run_leaves_the_folder_as_it_was(
    tmp_path: Path, error: BaseException, exists: bool
) -> None:
    target = tmp_path / "out"
    if exists:
        target.mkdir()
        (target / "a.txt").write_text("old")
    before = sorted(tmp_path.rglob("*")), contents(tmp_path)

    def run() -> None:
        with staged(target, NAMES) as folder:
            (folder / "a.txt").write_text("new")
            raise error

    with pytest.raises(type(error)):
        run()
    assert (sorted(tmp_path.rglob("*")), contents(tmp_path)) == before


@pytest.mark.parametrize("exists", [True, False])
def test_a_file_that_cannot_be_replaced_undoes_the_moves_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    """As on Windows when a table is open in a spreadsheet; a lock that cannot be had here."""
    target = tmp_path / "out"
    if exists:
        target.mkdir()
        for name in NAMES:
            (target / name).write_text("old")
    before = sorted(tmp_path.rglob("*")), contents(tmp_path)
    replace = Path.replace

    def locked(source: Path, goal: Path) -> Path:
        if source.name == "c.txt":
            raise PermissionError(errno.EACCES, "Permission denied", str(source))
        return replace(source, goal)

    monkeypatch.setattr(Path, "replace", locked)

    def run() -> None:
        with staged(target, NAMES) as folder:
            for name in NAMES:
                (folder / name).write_text("new")

    with pytest.raises(InputError, match=r"out: expected .* Permission denied"):
        run()
    assert (sorted(tmp_path.rglob("*")), contents(tmp_path)) == before


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with (
        pytest.raises(ResourceError, match="out: the disk is full"),
        staged(target, NAMES),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_found_before_the_work(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for target in (taken, taken / "below"):
        with pytest.raises(InputError, match="taken: expected a folder"), staged(target, NAMES):
            pytest.fail("the work has begun")
    assert contents(tmp_path) == {"taken": "mine"}


def test_a_folder_in_place_of_a_file_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(InputError, match=r"b\.txt: expected a file"), staged(tmp_path, NAMES):
        pytest.fail("the work has begun")
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


# Table and report


def test_the_table_has_the_contracts_columns_and_the_measured_numbers(tmp_path: Path) -> None:
    measurement = outputs(tmp_path, two_tumors())
    lines = (tmp_path / TABLE).read_text().splitlines()
    assert lines[0] == (
        "lesion,volume_ml,long_axis_mm,short_axis_mm,mean_hu,sd_hu,"
        "centroid_x_mm,centroid_y_mm,centroid_z_mm,burden_percent,"
        "mean_probability,confidence,surface_distance_mm,touches_edge,"
        "feret_mm,equivalent_sphere_mm,surface_mm2,sphericity,p5_hu,median_hu,p95_hu,"
        "volume_uncertainty_percent,couinaud"
    )
    rows = list(csv.DictReader(lines))
    assert len(rows) == len(measurement.lesions) == 2
    for row, lesion in zip(rows, measurement.lesions, strict=True):
        for unknown in ("mean_probability", "confidence", "couinaud"):
            assert row.pop(unknown) == ""
        assert row.pop("touches_edge") == str(int(lesion.touches_edge))
        for name, text in row.items():
            assert float(text) == pytest.approx(getattr(lesion, name), abs=0.051)
    assert [row["lesion"] for row in rows] == ["1", "2"]
    assert [lesion.touches_edge for lesion in measurement.lesions] == [False, True]
    assert rows[0]["volume_ml"] == "0.0056"


def test_the_report_says_what_was_done_and_found(tmp_path: Path) -> None:
    by = {"liver": "OpenVINO f32"}
    measurement = outputs(
        tmp_path,
        two_tumors(),
        warnings=("a warning",),
        timings_s={"liver": 1.23456},
        computed_by=by,
    )
    report = json.loads((tmp_path / REPORT).read_text())
    timings_s = report.pop("timings_s")
    rows = list(csv.DictReader((tmp_path / TABLE).read_text().splitlines()))
    lesions = report.pop("lesions")
    for lesion in lesions:
        for axis in ("long", "short"):
            length_mm = math.dist(*lesion.pop(f"{axis}_axis_ends_mm"))
            assert length_mm == pytest.approx(lesion[f"{axis}_axis_mm"], abs=0.03)
    assert lesions == [{k: float(v) if v else None for k, v in row.items()} for row in rows]
    assert [lesion["touches_edge"] for lesion in lesions] == [False, True]
    assert report == {
        "schema": 1,
        "version": "0.1.0",
        "not_for_clinical_use": True,
        "input": "ct.nii.gz",
        "segmentation": None,
        "shape_zyx": [6, 8, 10],
        "spacing_zyx_mm": [2.0, 0.7, 0.5],
        "models": {"liver": MODEL},
        "device": "cpu",
        "computed_by": by,
        "liver": {
            "volume_ml": pytest.approx(141 * 0.7e-3),
            "mean_hu": pytest.approx(measurement.liver_mean_hu, abs=0.01),
            "sd_hu": pytest.approx(measurement.liver_sd_hu, abs=0.01),
        },
        "tumor_volume_ml": pytest.approx(9 * 0.7e-3),
        "tumor_burden_percent": pytest.approx(900 / 141, abs=1e-4),
        "warnings": ["a warning"],
        "repairs": ["a repair"],
        "definitions": DEFINITIONS,
    }
    assert timings_s.pop("liver") == 1.235
    files = ("write_labels", "write_segmentation", "write_table", "draw", "write_preview")
    assert list(timings_s) == [*files, "write_page"]
    assert min(timings_s.values()) >= 0


def test_with_a_probability_map_the_mean_probability_is_told(tmp_path: Path) -> None:
    labels = two_tumors()
    volume = Volume(np.zeros(labels.shape, np.float32), grid(labels.shape))
    probability = np.where(labels == 2, 0.7504, 0.1).astype(np.float32)
    measurement, _ = measure(volume, labels, probability)
    write_table(tmp_path / TABLE, measurement.lesions)
    rows = csv.DictReader((tmp_path / TABLE).read_text().splitlines())
    assert [row["mean_probability"] for row in rows] == ["0.75", "0.75"]


def test_a_confidence_is_told_where_the_recipe_has_one(tmp_path: Path) -> None:
    """Of 10 mm3 and 1 mm3 at 0.75 the logits are 3 - 3 + ln 10 and 3 - 3 + ln 1."""
    labels = np.zeros((3, 4, 20), np.uint8)
    labels[1, 1] = 1
    labels[1, 1, 2:12] = labels[1, 1, 15] = 2
    volume = Volume(np.zeros(labels.shape, np.float32), Geometry(labels.shape, (1.0, 1.0, 1.0)))
    probability = np.full(labels.shape, 0.75, np.float32)
    confidence = LesionConfidence(intercept=-3.0, probability=4.0, log_volume=1.0)
    measurement, _ = measure(volume, labels, probability, confidence)
    write_table(tmp_path / TABLE, measurement.lesions)
    rows = csv.DictReader((tmp_path / TABLE).read_text().splitlines())
    assert [row["confidence"] for row in rows] == [str(round(10 / 11, 3)), "0.5"]
    without_map, _ = measure(volume, labels, None, confidence)
    assert {lesion.confidence for lesion in without_map.lesions} == {None}


def test_without_lesions_the_table_has_its_head_only(tmp_path: Path) -> None:
    outputs(tmp_path, np.ones((3, 4, 5), np.uint8))
    assert len((tmp_path / TABLE).read_text().splitlines()) == 1
    report = json.loads((tmp_path / REPORT).read_text())
    assert (report["lesions"], report["tumor_burden_percent"]) == ([], 0.0)


def test_labels_and_probabilities_come_back_on_their_grid(tmp_path: Path) -> None:
    labels = two_tumors()
    liver = np.linspace(0, 1, labels.size).reshape(labels.shape).astype(np.float16)
    outputs(tmp_path, labels, liver_probability=liver, tumor_probability=liver[::-1])
    found, geometry = read_labels(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(found, labels)
    corners = np.array([[0, 0, 0], [5, 7, 9], [5, 0, 0]])
    expected = grid(labels.shape, OBLIQUE).lps_of(corners)
    np.testing.assert_allclose(geometry.lps_of(corners), expected, atol=1e-4)
    for name, wanted in zip(PROBABILITIES, (liver, liver[::-1]), strict=True):
        image = sitk.ReadImage(str(tmp_path / name))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), wanted.astype(np.float32))
        np.testing.assert_allclose(
            image.TransformIndexToPhysicalPoint((9, 7, 5)), expected[1], atol=1e-4
        )


def test_probabilities_are_written_only_if_there_are_any(tmp_path: Path) -> None:
    outputs(tmp_path, two_tumors())
    assert not any((tmp_path / name).exists() for name in PROBABILITIES)


def lesion(number: int, volume_ml: float) -> Lesion:
    ends = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    hu, centroid = (61.4, 20.6), (0.0, 0.0, 0.0)
    rest = (1.5, None, None, 2.5, False, 13.0, 11.0, 400.0, 0.9, 20.0, 60.0, 90.0, 3.0, None)
    return Lesion(number, volume_ml, 12.34, 5.6, *hu, *centroid, *rest, ends, ends)


def test_the_terminal_shows_summary_and_lesions() -> None:
    text = table_text(Measurement(1500.0, 12.5, 5 / 6, (lesion(1, 12.0), lesion(2, 0.5))))
    assert text.splitlines() == [
        "Liver 1500.0 mL. 2 tumors, 12.5 mL, burden 0.8 %.",
        "",
        "tumor  volume mL  long x short axis mm  HU mean +/- SD  burden %",
        "    1      12.00            12.3 x 5.6       61 +/- 21      1.50",
        "    2       0.50            12.3 x 5.6       61 +/- 21      1.50",
    ]
    assert text.isascii()


def test_the_terminal_is_spared_a_long_table() -> None:
    many = tuple(lesion(n, 1.0) for n in range(1, 31))
    lines = table_text(Measurement(1500.0, 30.0, 2.0, many)).splitlines()
    assert lines[-1] == "... and 10 smaller, in lesions.csv"
    assert len(lines) == 3 + 20 + 1


def test_nothing_found_is_said_in_words() -> None:
    assert table_text(Measurement(1500.0, 0.0, 0.0, ())) == "Liver 1500.0 mL. No tumor found."
    assert summary_of(Measurement(0.0, 0.0, 0.0, ())) == "No liver found."
    assert summary_of(Measurement(9.0, 1.0, 11.11, (lesion(1, 1.0),))) == (
        "Liver 9.0 mL. 1 tumor, 1.0 mL, burden 11.1 %."
    )


# The segmentation, read by Slicer


@pytest.fixture(scope="module")
def scene() -> slicer.vtkMRMLScene:
    scene = slicer.vtkMRMLScene()
    slicer.vtkSlicerSegmentationsModuleLogic().SetMRMLScene(scene)  # registers the node classes
    return scene


def read_in_slicer(scene: slicer.vtkMRMLScene, path: Path) -> slicer.vtkMRMLSegmentationNode:
    scene.Clear()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node) == 1
    return node


def points_of(node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> np.ndarray:
    """LPS mm of a segment's voxels in Slicer, sorted."""
    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(segment_id, image)
    x0, x1, y0, y1, z0, z1 = image.GetExtent()
    if x1 < x0:
        return np.zeros((0, 3))
    shape = (z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
    mask = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)
    matrix = vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    to_ras = np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])
    index_xyz = np.argwhere(mask)[:, ::-1] + [x0, y0, z0]
    return in_order((index_xyz @ to_ras[:3, :3].T + to_ras[:3, 3]) * [-1, -1, 1])


def in_order(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(np.round(points, 3).T)]


@pytest.mark.slicer
@pytest.mark.parametrize("direction", [*TURNS, OBLIQUE], ids=[*map(str, range(48)), "oblique"])
def test_slicer_reads_the_same_voxels_in_the_same_place(
    scene: slicer.vtkMRMLScene, tmp_path: Path, direction: np.ndarray
) -> None:
    """Left-handed grids too, which Slicer turns into right-handed ones."""
    labels = two_tumors()
    lesions, _ = lesion_components(labels == 2)
    geometry = grid(labels.shape, direction)
    path = tmp_path / "s.seg.nrrd"
    write_segmentation(path, labels, lesions, geometry)
    node = read_in_slicer(scene, path)
    masks = {"liver": labels > 0, "tumor_1": lesions == 1, "tumor_2": lesions == 2}
    for segment_id, mask in masks.items():
        expected = in_order(geometry.lps_of(np.argwhere(mask)))
        np.testing.assert_allclose(points_of(node, segment_id), expected, atol=1e-3)


@pytest.mark.slicer
def test_slicer_shows_our_names_colors_and_terminology(
    scene: slicer.vtkMRMLScene, tmp_path: Path
) -> None:
    labels = two_tumors()
    write_segmentation(
        tmp_path / "s.seg.nrrd", labels, lesion_components(labels == 2)[0], grid(labels.shape)
    )
    segmentation = read_in_slicer(scene, tmp_path / "s.seg.nrrd").GetSegmentation()
    assert segmentation.GetNumberOfLayers() == 2
    expected = {
        "liver": ("Liver", LIVER_RGB, LIVER_TERMINOLOGY),
        "tumor_1": ("Tumor 1", TUMOR_RGB, TUMOR_TERMINOLOGY),
        "tumor_2": ("Tumor 2", TUMOR_RGB, TUMOR_TERMINOLOGY),
    }
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    assert ids == list(expected)
    for segment_id, (name, rgb, terminology) in expected.items():
        segment = segmentation.GetSegment(segment_id)
        tag = reference("")
        assert segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), tag)
        assert (segment.GetName(), str(tag)) == (name, terminology)
        assert segment.GetColor() == pytest.approx([c / 255 for c in rgb], abs=1e-5)
        assert not segment.GetNameAutoGenerated()
        assert not segment.GetColorAutoGenerated()


@pytest.mark.slicer
@pytest.mark.parametrize("value", [0, 1])
def test_slicer_reads_a_segmentation_without_tumors(
    scene: slicer.vtkMRMLScene, tmp_path: Path, value: int
) -> None:
    labels = np.full((3, 4, 5), value, np.uint8)
    path = tmp_path / "s.seg.nrrd"
    write_segmentation(path, labels, np.zeros(labels.shape, np.int32), grid(labels.shape))
    node = read_in_slicer(scene, path)
    assert node.GetSegmentation().GetNumberOfSegments() == 1
    assert len(points_of(node, "liver")) == 60 * value


@pytest.mark.slicer
def test_slicer_reads_more_than_255_tumors(scene: slicer.vtkMRMLScene, tmp_path: Path) -> None:
    labels = np.ones((7, 15, 21), np.uint8)
    labels[::2, ::2, ::2] = 2
    lesions, count = lesion_components(labels == 2)
    assert count == 4 * 8 * 11
    path = tmp_path / "s.seg.nrrd"
    write_segmentation(path, labels, lesions, grid(labels.shape))
    node = read_in_slicer(scene, path)
    assert node.GetSegmentation().GetNumberOfSegments() == 1 + count
    expected = grid(labels.shape).lps_of(np.argwhere(lesions == 300))
    np.testing.assert_allclose(points_of(node, "tumor_300"), expected, atol=1e-3)


def test_simpleitk_reads_both_layers(tmp_path: Path) -> None:
    labels = two_tumors()
    lesions, _ = lesion_components(labels == 2)
    geometry = grid(labels.shape, OBLIQUE)
    write_segmentation(tmp_path / "s.seg.nrrd", labels, lesions, geometry)
    image = sitk.ReadImage(str(tmp_path / "s.seg.nrrd"))
    layers = sitk.GetArrayFromImage(image)
    np.testing.assert_array_equal(layers[..., 0], labels > 0)
    np.testing.assert_array_equal(layers[..., 1], np.where(lesions > 0, lesions + 1, 0))
    np.testing.assert_allclose(
        image.TransformIndexToPhysicalPoint((9, 7, 5)), geometry.lps_of(np.array([5, 7, 9]))
    )
    assert image.GetMetaData("Segment0_Extent") == "2 9 2 6 1 4"
    assert image.GetMetaData("Segment1_Extent") == "3 4 3 4 2 3"
    assert image.GetMetaData("Segment1_LabelValue") == "2"


# The picture


@pytest.mark.parametrize("direction", TURNS, ids=map(str, range(48)))
def test_the_display_shows_head_first_front_on_top_and_right_on_the_left(
    direction: np.ndarray,
) -> None:
    shape = (3, 4, 5)
    tilted = Rotation.from_euler("xyz", (10, -8, 12), degrees=True).as_matrix() @ direction
    geometry = grid(shape, tilted)
    axes = display_axes(geometry)
    lps = geometry.lps_of(np.moveaxis(np.indices(shape), 0, -1))
    shown = np.stack([axes.apply(lps[..., i]) for i in range(3)], axis=-1)
    step = shown[1, 1, 1] - shown[:2, :2, :2]
    assert step[0, 1, 1][2] < 0  # next slice: towards the feet
    assert step[1, 0, 1][1] > 0  # next row: towards the back
    assert step[1, 1, 0][0] > 0  # next column: towards the patient's left
    for voxel in [(0, 0, 0), (2, 1, 4), (1, 3, 2)]:
        place = tuple(axes.place(np.array(voxel), shape).astype(int))
        np.testing.assert_allclose(shown[place], geometry.lps_of(np.array(voxel)))


def picture(
    hu: np.ndarray, labels: np.ndarray, spacing: tuple[float, ...], direction: np.ndarray = TURNS[0]
) -> np.ndarray:
    geometry = Geometry(hu.shape, spacing, (0.0, 0.0, 0.0), tuple(map(tuple, direction.tolist())))
    volume = Volume(hu, geometry)
    measurement, lesion_map = measure(volume, labels)
    return np.asarray(render_preview(volume, labels, lesion_map, measurement)).astype(int)


def like(image: np.ndarray, rgb: tuple[int, ...]) -> np.ndarray:
    return np.abs(image - np.array(rgb)).max(axis=-1) < 12


def first_tile(image: np.ndarray) -> np.ndarray:
    """The CT of the first tile, below headline and caption."""
    return image[58 : 52 + TILE_SIZE[1], 6 : 6 + TILE_SIZE[0]]


def test_pixels_are_square_and_the_right_side_is_on_the_left() -> None:
    """A bright block of 40 x 40 mm in the patient's right front, voxels of 1 x 2 mm."""
    hu = np.full((3, 100, 200), 0, np.float32)
    hu[:, 5:25, 20:60] = 240
    image = picture(hu, np.zeros(hu.shape, np.uint8), (5.0, 2.0, 1.0))
    bright = first_tile(image).min(axis=-1) > 200
    bright[:, :20] = bright[:, -20:] = bright[-20:] = False  # letters and scale bar
    rows, columns = np.nonzero(bright)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert abs(height - width) <= 2
    assert width == pytest.approx(40 * TILE_SIZE[1] / 200, abs=2)
    assert rows.mean() < TILE_SIZE[1] / 3
    assert columns.mean() < TILE_SIZE[0] / 2


def test_the_same_patient_gives_the_same_picture_from_a_sagittal_array() -> None:
    rng = np.random.default_rng(0)
    hu = rng.normal(50, 60, (5, 30, 40)).astype(np.float32)
    labels = np.zeros(hu.shape, np.uint8)
    labels[1:4, 5:25, 8:30] = 1
    labels[2, 8:14, 10:20] = 2
    axial = picture(hu, labels, (4.0, 1.5, 1.0))
    # array axes (z, y, x) now run along the patient's x, z, y
    columns = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    sagittal = picture(hu.transpose(2, 0, 1), labels.transpose(2, 0, 1), (1.0, 4.0, 1.5), columns)
    np.testing.assert_array_equal(axial, sagittal)


def test_liver_tumor_and_axes_are_drawn_where_they_are() -> None:
    hu = np.zeros((4, 100, 100), np.float32)
    labels = np.zeros(hu.shape, np.uint8)
    labels[:, 20:80, 10:70] = 1
    labels[1:3, 40:60, 30:50] = 2
    image = picture(hu, labels, (5.0, 2.72, 2.72))  # 272 mm in 272 pixels
    tile = first_tile(image)
    assert not like(tile, TUMOR_RGB).any()  # the first slice has liver only
    rows, columns = np.nonzero(like(tile, LIVER_RGB))
    left = (TILE_SIZE[0] - 272) / 2
    assert (columns.min(), columns.max()) == pytest.approx(
        (left + 10 * 2.72, left + 70 * 2.72), abs=3
    )
    assert (rows.min(), rows.max()) == pytest.approx((20 * 2.72 - 4, 80 * 2.72 - 4), abs=3)
    closeup = image[-36 - TILE_SIZE[1] : -36, 6 : 6 + TILE_SIZE[0]]
    assert like(closeup, TUMOR_RGB).any()
    bluish = closeup[..., 2] - closeup[..., 0] > 60
    across_mm = 19 * 2.72  # from the center of the first to that of the last of 20 pixels
    seen_mm = max(90, 1.5 * math.sqrt(2) * across_mm)
    for positions in np.nonzero(bluish):
        assert np.ptp(positions) == pytest.approx(across_mm / seen_mm * TILE_SIZE[1], rel=0.05)
        assert np.median(positions) == pytest.approx(np.mean(positions), abs=2)


def test_the_picture_says_not_for_clinical_use_and_without_tumor_has_no_closeup() -> None:
    hu = np.zeros((4, 30, 30), np.float32)
    labels = np.ones(hu.shape, np.uint8)
    without = picture(hu, labels, (5.0, 2.0, 2.0))
    assert like(without[:34], ALERT_RGB).sum() > 100
    labels[1:3, 10:20, 10:20] = 2
    assert picture(hu, labels, (5.0, 2.0, 2.0)).shape[0] > without.shape[0]


@pytest.mark.parametrize("value", [0, 1, 2])
def test_a_single_voxel_can_be_drawn(value: int) -> None:
    one = np.full((1, 1, 1), value, np.uint8)
    assert picture(np.zeros(one.shape, np.float32), one, (5.0, 0.7, 0.7)).size > 0


def test_the_png_is_whole(tmp_path: Path) -> None:
    outputs(tmp_path, two_tumors())
    with Image.open(tmp_path / "preview.png") as image:
        image.load()
        assert image.mode == "RGB"


@pytest.mark.parametrize("name", ["components", "measure", "report", "tiles"])
def test_the_examples_in_the_docstrings_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"LiverTumorSegLib.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
