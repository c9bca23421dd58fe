"""Where SEG and SR lie in the patient, however the CT was scanned and stored."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.sr.codedict import codes

from LiverTumorSegLib.dicom_labels import read_segmentation_dcm
from LiverTumorSegLib.report import DICOM_SEG
from Testing.engine.dicom_series import FRAME, ORIENTATIONS, Written, dcmqi, marked, voxels_mm


@pytest.fixture(scope="module", params=ORIENTATIONS)
def turned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tmp_path_factory.mktemp("turned"), request.param, marked())


def test_every_voxel_lies_where_the_standard_says(turned: Written) -> None:
    found = voxels_mm(turned.seg())
    for number, mask in enumerate(turned.masks(), start=1):
        expected = turned.volume.geometry.lps_of(np.argwhere(mask))
        there = np.array(found[number])
        assert there.shape == expected.shape
        order = [np.lexsort(places.round(2).T) for places in (there, expected)]
        np.testing.assert_allclose(there[order[0]], expected[order[1]], atol=1e-4)


def test_centroids_are_those_of_the_lesions(turned: Written) -> None:
    found = voxels_mm(turned.seg())
    for lesion in turned.measurement.lesions:
        centroid = (lesion.centroid_x_mm, lesion.centroid_y_mm, lesion.centroid_z_mm)
        np.testing.assert_allclose(np.mean(found[lesion.lesion + 1], axis=0), centroid, atol=1e-4)


def test_highdicom_reads_the_same_voxels(turned: Written) -> None:
    seg = hd.seg.segread(turned.out / DICOM_SEG)
    for number, mask in enumerate(turned.masks(), start=1):
        volume = seg.get_volume(segment_numbers=[number])
        to_lps, index = np.asarray(volume.affine), np.argwhere(volume.array[..., 0])
        centroid = to_lps[:3, :3] @ index.mean(axis=0) + to_lps[:3, 3]
        expected = turned.volume.geometry.lps_of(np.argwhere(mask).mean(axis=0))
        np.testing.assert_allclose(centroid, expected, atol=1e-4)
        assert len(index) == mask.sum()


def test_dcmqi_reads_the_same_voxels(turned: Written, tmp_path: Path) -> None:
    seg = turned.out / DICOM_SEG
    arguments = ("--outputDirectory", tmp_path, "--outputType", "nrrd")
    dcmqi("segimage2itkimage", "--inputDICOM", seg, *arguments)
    for number, mask in enumerate(turned.masks(), start=1):
        image = sitk.ReadImage(str(tmp_path / f"{number}.nrrd"))
        index = np.argwhere(sitk.GetArrayFromImage(image)).mean(axis=0)
        centroid = image.TransformContinuousIndexToPhysicalPoint(index[::-1].tolist())
        expected = turned.volume.geometry.lps_of(np.argwhere(mask).mean(axis=0))
        np.testing.assert_allclose(centroid, expected, atol=1e-3)
        assert np.count_nonzero(sitk.GetArrayFromImage(image)) == mask.sum()


def test_a_frame_names_the_slice_that_it_lies_on(turned: Written) -> None:
    seg = turned.seg()
    positions = {
        str(header.SOPInstanceUID): header.ImagePositionPatient for header in turned.source.headers
    }
    for item in seg.PerFrameFunctionalGroupsSequence:
        (derived,) = item.DerivationImageSequence
        (slice_,) = derived.SourceImageSequence
        place = item.PlanePositionSequence[0].ImagePositionPatient
        assert positions[slice_.ReferencedSOPInstanceUID] == place


def test_the_axes_have_their_ends_in_the_patient(turned: Written) -> None:
    groups = turned.report().content.get_image_measurement_groups()
    for group, lesion in zip(groups, turned.measurement.lesions, strict=True):
        axes = {item.name: item for item in group.get_measurements()}
        for name, length_mm, ends_mm in (
            (codes.SCT.LongAxis, lesion.long_axis_mm, lesion.long_axis_ends_mm),
            (codes.SCT.ShortAxis, lesion.short_axis_mm, lesion.short_axis_ends_mm),
        ):
            (line,) = axes[name].referenced_coordinates
            assert axes[name].value == pytest.approx(length_mm, abs=0.01)
            assert line.frame_of_reference_uid == FRAME
            np.testing.assert_allclose(line.value, ends_mm, atol=0.01)


def test_read_back_it_is_the_labels_that_were_written(turned: Written) -> None:
    geometry = turned.volume.geometry
    read = read_segmentation_dcm(turned.out / DICOM_SEG, geometry, turned.source)
    np.testing.assert_array_equal(read.labels, turned.labels)
    np.testing.assert_array_equal(
        np.maximum(read.tumor_segments, 1) - 1, turned.lesion_map
    )  # the liver is segment 1
    assert read.names == {2: "Tumor 1", 3: "Tumor 2", 4: "Tumor 3"}
    assert read.warnings == ()
