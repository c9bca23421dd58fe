"""Masks that people have made: what is read from them, and on which grid they are measured."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from LiverTumorSegLib.cli import main
from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.marked import Marked, on_one_grid, read_couinaud, read_marked
from LiverTumorSegLib.report import DICOM_REPORT, DICOM_SEG, FILE_NAMES, PROBABILITIES
from LiverTumorSegLib.seg_nrrd import write_segmentation
from LiverTumorSegLib.volume import Volume, image_on_grid, write_labels

SHAPE = (10, 14, 16)
GRID = Geometry(SHAPE, (2.5, 0.8, 0.7), (-20.0, 15.0, 300.0))
OBLIQUE = replace(
    GRID,
    direction=tuple(
        map(tuple, Rotation.from_euler("xyz", (10, -20, 30), degrees=True).as_matrix().tolist())
    ),
)


def labels_of_two() -> np.ndarray:
    """A liver with a tumor of 12 voxels and one of 2."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:8, 3:11, 3:13] = 1
    labels[3:5, 4:6, 4:7] = 2
    labels[6, 8, 9:11] = 2
    return labels


def ct(geometry: Geometry = GRID) -> Volume:
    hu = np.linspace(-50, 150, np.prod(geometry.shape), dtype=np.float32).reshape(geometry.shape)
    return Volume(hu, geometry, "ct")


def write_ct(path: Path, geometry: Geometry = GRID) -> Path:
    sitk.WriteImage(image_on_grid(ct(geometry).hu, geometry), str(path))
    return path


def write_segments(
    path: Path, segments: list[tuple[str, str, np.ndarray]], geometry: Geometry = GRID
) -> Path:
    """A .seg.nrrd as 3D Slicer writes overlapping segments: a layer each."""
    stacked = np.stack([mask.astype(np.uint8) for _, _, mask in segments], axis=-1)
    image = image_on_grid(np.zeros(geometry.shape, np.uint8), geometry)
    layers = sitk.GetImageFromArray(stacked, isVector=True)
    layers.CopyInformation(image)
    for number, (name, tags, _) in enumerate(segments):
        told = {"Name": name, "Tags": tags, "Layer": str(number), "LabelValue": "1"}
        for field, value in told.items():
            layers.SetMetaData(f"Segment{number}_{field}", value)
    sitk.WriteImage(layers, str(path))
    return path


# What is read


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nrrd", "mask.mha"])
def test_a_label_map_has_its_connected_parts_as_lesions(name: str, tmp_path: Path) -> None:
    write_labels(tmp_path / name, labels_of_two(), GRID)
    marked = read_marked(tmp_path / name)
    np.testing.assert_array_equal(marked.labels, labels_of_two())
    np.testing.assert_array_equal(marked.lesion_map, lesion_components(labels_of_two() == 2)[0])
    assert marked.warnings == ()


def test_our_own_segmentation_is_read_back(tmp_path: Path) -> None:
    labels = labels_of_two()
    lesion_map, _ = lesion_components(labels == 2)
    write_segmentation(tmp_path / "a.seg.nrrd", labels, lesion_map, OBLIQUE)
    marked = read_marked(tmp_path / "a.seg.nrrd")
    np.testing.assert_array_equal(marked.labels, labels)
    np.testing.assert_array_equal(marked.lesion_map, lesion_map)
    np.testing.assert_allclose(
        marked.geometry.index_to_lps(), OBLIQUE.index_to_lps(), rtol=0, atol=1e-6
    )


def test_a_numbered_segment_is_one_lesion_and_the_parts_of_others_are_many(tmp_path: Path) -> None:
    """Numbered anew by size. What two segments share belongs to the smaller one."""
    liver = labels_of_two() > 0
    apart, whole, many = (np.zeros(SHAPE, bool) for _ in range(3))
    apart[3, 4, 4] = apart[6, 9, 9:12] = True
    whole[3, 4:6, 4:8] = True  # shares a voxel with `apart`
    many[7, 4, 4:6] = many[7, 9, 4] = True
    segments = [("Liver", "", liver), ("Tumor 1", "", apart), ("Tumor 2", "", whole)]
    path = write_segments(tmp_path / "a.seg.nrrd", [*segments, ("lesions", "", many)])
    marked = read_marked(path)
    sizes = np.bincount(marked.lesion_map.ravel())[1:].tolist()
    assert sizes == [7, 4, 2, 1]
    assert set(marked.lesion_map[apart].tolist()) == {2}
    assert set(marked.lesion_map[many].tolist()) == {3, 4}
    np.testing.assert_array_equal(marked.labels == 2, apart | whole | many)


def test_codes_count_as_names_do_and_what_is_neither_is_left_out(tmp_path: Path) -> None:
    liver, tumor = labels_of_two() > 0, labels_of_two() == 2
    coded = "TerminologyEntry:A~SCT^1^Category~SCT^{}^Type~^^~B~^^~^^|"
    path = write_segments(
        tmp_path / "a.seg.nrrd",
        [
            ("Leber", coded.format("10200004"), liver),
            ("Raumforderung", coded.format("4147007"), tumor),
            ("spleen", "", ~liver),
        ],
    )
    marked = read_marked(path)
    np.testing.assert_array_equal(marked.labels, labels_of_two())
    assert marked.warnings == ("Segments left out, neither liver nor tumor: spleen.",)


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        read_marked(path)
    assert all(part in str(caught.value) for part in (path.name, "expected", "found", *parts))


def test_masks_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    labels = labels_of_two()
    write_labels(tmp_path / "other.nii.gz", labels + 3, GRID)
    refused(tmp_path / "other.nii.gz", "3, 4, 5")
    write_labels(tmp_path / "empty.nii.gz", labels * 0, GRID)
    refused(tmp_path / "empty.nii.gz", "empty one")
    write_labels(tmp_path / "alone.nii.gz", np.where(labels == 2, labels, 0), GRID)
    refused(tmp_path / "alone.nii.gz", "tumors alone")
    tumor = ("Tumor 1", "", labels == 2)
    refused(write_segments(tmp_path / "none.seg.nrrd", [tumor]), "one segment called Liver")
    livers = [("Liver", "", labels > 0), ("liver", "", labels > 1)]
    refused(write_segments(tmp_path / "two.seg.nrrd", livers), "Liver, liver")
    image = image_on_grid(labels, GRID)
    sitk.WriteImage(image, str(tmp_path / "plain.seg.nrrd"))
    refused(tmp_path / "plain.seg.nrrd", "at least one segment")
    (tmp_path / "text.seg.nrrd").write_text("no image")
    refused(tmp_path / "text.seg.nrrd")
    refused(tmp_path / "missing.seg.nrrd")


# The grid


@given(first=st.tuples(*[st.integers(0, 3)] * 3), longer=st.tuples(*[st.integers(0, 6)] * 3))
@settings(max_examples=40, deadline=None)
def test_a_part_of_the_grid_is_put_in_its_place(
    first: tuple[int, ...], longer: tuple[int, ...]
) -> None:
    """As 3D Slicer saves it; the part may reach beyond the CT where nothing is marked."""
    labels = np.pad(labels_of_two(), [(0, 6)] * 3)
    start = np.minimum(first, 2)
    stop = np.array([8, 11, 13]) + longer
    part = labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    geometry = replace(OBLIQUE, shape=part.shape, origin_mm=tuple(OBLIQUE.lps_of(start).tolist()))
    marked = replace(read_like(part), geometry=geometry, lesion_map=lesion_components(part == 2)[0])
    volume = ct(OBLIQUE)
    placed, same = on_one_grid(marked, volume, Path("mask"))
    assert same is volume
    assert placed.geometry == OBLIQUE
    np.testing.assert_array_equal(placed.labels, labels_of_two())
    np.testing.assert_array_equal(placed.lesion_map, lesion_components(labels_of_two() == 2)[0])
    assert placed.warnings == ()


def read_like(labels: np.ndarray) -> Marked:
    return Marked(labels, lesion_components(labels == 2)[0], replace(GRID, shape=labels.shape))


def test_on_another_grid_the_ct_is_interpolated_and_the_mask_kept() -> None:
    """HU that rise linearly through the patient are found again on the other grid."""
    geometry = Geometry((20, 30, 30), (1.0, 1.0, 1.0))
    index = np.moveaxis(np.indices(geometry.shape), 0, -1)
    slope = np.array([1.0, -2.0, 3.0])
    volume = Volume((geometry.lps_of(index) @ slope).astype(np.float32), geometry)
    turn = Rotation.from_euler("z", 10, degrees=True).as_matrix()
    grid = Geometry((5, 6, 7), (1.5, 1.2, 0.9), (10.0, 9.0, 6.0), tuple(map(tuple, turn.tolist())))
    marked = replace(read_like(np.ones((5, 6, 7), np.uint8)), geometry=grid)
    same, moved = on_one_grid(marked, volume, Path("mask"))
    assert same.labels is marked.labels
    expected = grid.lps_of(np.moveaxis(np.indices(grid.shape), 0, -1)) @ slope
    np.testing.assert_allclose(moved.hu, expected, atol=1e-3)
    assert moved.geometry == grid
    assert "its own grid" in same.warnings[0]


@pytest.mark.parametrize("shift_mm", [6.0, 500.0])
def test_a_mask_of_another_scan_is_refused(shift_mm: float) -> None:
    x, y, z = GRID.origin_mm
    marked = replace(
        read_like(labels_of_two()), geometry=replace(GRID, origin_mm=(x + shift_mm, y, z + 0.3))
    )
    with pytest.raises(InputError, match=r"mask: expected a mask inside of the CT, found \d+%"):
        on_one_grid(marked, ct(), Path("mask"))


# The command


def test_measure_gives_what_segment_gives(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct.nii.gz")
    write_labels(tmp_path / "mask.nii.gz", labels_of_two(), GRID)
    couinaud = np.full(SHAPE, 5, np.uint8)
    couinaud[6:] = 6
    write_labels(tmp_path / "map.nii.gz", couinaud, GRID)
    arguments = ["measure", str(tmp_path / "ct.nii.gz"), str(tmp_path / "mask.nii.gz")]
    out = tmp_path / "out"
    options = ["-o", str(out), "--couinaud", str(tmp_path / "map.nii.gz"), "--progress", "none"]
    assert main([*arguments, *options]) == 0
    assert {path.name for path in out.iterdir()} == set(FILE_NAMES) - {
        *PROBABILITIES,
        DICOM_SEG,
        DICOM_REPORT,
    }
    report = json.loads((out / "report.json").read_text())
    assert (report["input"], report["segmentation"]) == ("ct.nii.gz", "mask.nii.gz")
    assert report["models"] == {}
    assert report["device"] is None
    assert report["liver"]["volume_ml"] == pytest.approx(480 * 2.5 * 0.8 * 0.7 / 1000, abs=1e-4)
    rows = list(csv.DictReader((out / "lesions.csv").read_text().splitlines()))
    assert [row["couinaud"] for row in rows] == ["V 100 %", "VI 100 %"]
    assert [float(row["volume_ml"]) for row in rows] == pytest.approx(
        [12 * 1.4e-3, 2 * 1.4e-3], abs=1e-4
    )
    # Once more, of the segmentation that was just written.
    again = ["measure", arguments[1], str(out / "segmentation.seg.nrrd"), "-o", str(tmp_path / "b")]
    assert main([*again, "--progress", "none"]) == 0
    second = json.loads((tmp_path / "b" / "report.json").read_text())
    for lesion in (*report["lesions"], *second["lesions"]):
        del lesion["couinaud"]
    assert second["lesions"] == report["lesions"]


def test_measure_refuses_to_overwrite_what_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct(tmp_path / "ct.nii.gz")
    write_labels(tmp_path / "labels.nii.gz", labels_of_two(), GRID)
    before = (tmp_path / "labels.nii.gz").read_bytes()
    command = ["measure", str(tmp_path / "ct.nii.gz"), str(tmp_path / "labels.nii.gz")]
    assert main([*command, "-o", str(tmp_path)]) == 2
    assert "Choose another OUTDIR" in capsys.readouterr().err
    assert (tmp_path / "labels.nii.gz").read_bytes() == before


# Couinaud


def test_couinaud_segments_come_from_labels_or_names(tmp_path: Path) -> None:
    labels = labels_of_two()
    numbers = np.where(np.arange(SHAPE[2]) < 8, 4, 8) * (labels > 0)
    write_labels(tmp_path / "map.nii.gz", numbers.astype(np.uint8), GRID)
    named = [("liver_segment_4", "", numbers == 4), ("Segment VIII", "", numbers == 8)]
    write_segments(tmp_path / "map.seg.nrrd", named)
    for name in ("map.nii.gz", "map.seg.nrrd"):
        np.testing.assert_array_equal(read_couinaud(tmp_path / name, GRID, labels), numbers)


def test_a_coarser_map_is_taken_where_it_is_nearest(tmp_path: Path) -> None:
    coarse = Geometry((5, 7, 8), (5.0, 1.6, 1.4), tuple(GRID.lps_of(np.full(3, 0.5)).tolist()))
    values = np.arange(280).reshape(coarse.shape) % 8 + 1
    write_labels(tmp_path / "map.nii.gz", values.astype(np.uint8), coarse)
    found = read_couinaud(tmp_path / "map.nii.gz", GRID, labels_of_two())
    expected = np.repeat(np.repeat(np.repeat(values, 2, 0), 2, 1), 2, 2)
    inside = (slice(1, -1),) * 3  # beyond the outermost centers SimpleITK tells nothing
    np.testing.assert_array_equal(found[inside], expected[inside])


def test_a_map_that_is_none_of_this_liver_is_refused(tmp_path: Path) -> None:
    labels = labels_of_two()
    write_labels(tmp_path / "many.nii.gz", labels + 9, GRID)
    with pytest.raises(InputError, match=r"many.nii.gz: expected the labels 1 to 8.*9 to 11"):
        read_couinaud(tmp_path / "many.nii.gz", GRID, labels)
    moved = replace(GRID, origin_mm=(500.0, 0.0, 0.0))
    write_labels(tmp_path / "far.nii.gz", labels, moved)
    with pytest.raises(InputError, match="found 0% of it in segments"):
        read_couinaud(tmp_path / "far.nii.gz", GRID, labels)
    path = write_segments(tmp_path / "a.seg.nrrd", [("spleen", "", labels > 0)])
    with pytest.raises(InputError, match="found 'spleen'"):
        read_couinaud(path, GRID, labels)
