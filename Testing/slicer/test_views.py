"""What a user sees: pixels of Slicer's own views after a run and after a review's actions."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import slicer.util
import views
from grids import DIRECTIONS, rotation
from scipy import ndimage

from LiverTumorSegGUI import nodes
from LiverTumorSegGUI.review import Review
from LiverTumorSegLib.measure import measure
from LiverTumorSegLib.seg_nrrd import LIVER_RGB, TUMOR_RGB

pytestmark = pytest.mark.skipif(
    not views.available(), reason="no off-screen rendering: libegl1 and libgl1-mesa-dri are missing"
)

SHAPE = (24, 60, 64)
SIZE = (320, 300)


@pytest.fixture
def labels():
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[3:21, 8:52, 8:56] = 1
    array[8:16, 14:28, 14:28] = 2
    array[9:14, 34:44, 36:46] = 2
    return array


@pytest.fixture
def shown(add_ct, add_node, labels, application):
    """Function that shows a result; returns volume, segmentation, review and slice view."""
    reviews, open_views = [], []

    def show(direction=DIRECTIONS["usual"], transform=None):
        volume = add_ct(np.full(SHAPE, 40, np.int16), direction, spacing=(0.8, 0.9, 2.5))
        if transform is not None:
            volume.SetAndObserveTransformNodeID(transform.GetID())
        volume.CreateDefaultDisplayNodes()
        segmentation = add_node("vtkMRMLSegmentationNode", "Result")
        _, lesion_map = measure(nodes.volume_from_node(volume), labels)
        nodes.write_segments(labels, lesion_map, volume, segmentation)
        probability = np.where(labels == 2, 0.9, 0.0)
        probability[10:14, 40:48, 14:24] = 0.3
        reviews.append(Review(volume, segmentation, None, probability.astype(np.float16)))
        view = views.SliceView(application, volume, SIZE)
        reviews[0].jump("tumor_2")  # the slice shows both
        open_views.append(view)
        return volume, segmentation, reviews[0], view

    yield show
    for view in open_views:
        view.close()
    for review in reviews:
        review.close()


def like(picture, rgb, tolerance=40):
    """Pixels of a color's hue: fills are blended with the gray CT below them."""
    gray = picture.min(axis=-1, keepdims=True).astype(int)
    strength = np.maximum(picture.max(axis=-1, keepdims=True) - gray, 1)
    hue = (picture - gray) * 255 / strength
    wanted = (np.array(rgb) - min(rgb)) * 255 / (max(rgb) - min(rgb))
    return (strength[..., 0] > 25) & (np.abs(hue - wanted).max(axis=-1) < tolerance)


def projected(volume_node, view, mask):
    """Where the view's slice cuts the voxels of a mask, from geometry alone; bool (row, column)."""
    height, width = view.node.GetDimensions()[1], view.node.GetDimensions()[0]
    xy_to_ras = slicer.util.arrayFromVTKMatrix(view.node.GetXYToRAS())
    rows, columns = np.mgrid[:height, :width]
    flat = np.stack([columns, height - 1 - rows, 0 * rows, 1 + 0 * rows], axis=-1).reshape(-1, 4)
    ras = (flat @ xy_to_ras.T)[:, :3]
    transform = volume_node.GetParentTransformNode()
    if transform is not None:
        to_world = slicer.util.arrayFromVTKMatrix(transform.GetMatrixTransformToParent())
        ras = (np.c_[ras, np.ones(len(ras))] @ np.linalg.inv(to_world).T)[:, :3]
    ijk_to_ras = slicer.util.vtkMatrixFromArray(np.eye(4))
    volume_node.GetIJKToRASMatrix(ijk_to_ras)
    to_ijk = np.linalg.inv(slicer.util.arrayFromVTKMatrix(ijk_to_ras))
    ijk = np.rint((np.c_[ras, np.ones(len(ras))] @ to_ijk.T)[:, :3]).astype(int)
    inside = ((ijk >= 0) & (ijk < mask.shape[::-1])).all(axis=1)
    found = np.zeros(len(ijk), bool)
    found[inside] = mask[tuple(ijk[inside][:, ::-1].T)]
    return found.reshape(height, width)


def assert_shows(view, volume, mask):
    """Tumor-colored pixels lie where the mask is, but for the width of its outline."""
    colored = like(view.picture(), TUMOR_RGB)
    expected = projected(volume, view, mask)
    assert expected.sum() > 500
    assert colored[ndimage.binary_erosion(expected, iterations=3)].mean() > 0.99
    assert not colored[~ndimage.binary_dilation(expected, iterations=3)].any()


def moved(add_node):
    node = add_node("vtkMRMLLinearTransformNode", "Moved")
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(2, 35) @ rotation(0, 10)
    matrix[:3, 3] = (30, -20, 10)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


@pytest.mark.parametrize("name", ["usual", "left-handed", "oblique"])
def test_tumors_are_shown_where_they_are(shown, labels, name):
    volume, _, _, view = shown(DIRECTIONS[name])
    assert_shows(view, volume, labels == 2)


def test_tumors_of_a_moved_ct_are_shown_where_it_was_moved(shown, labels, add_node):
    volume, segmentation, _, view = shown(transform=moved(add_node))
    assert_shows(view, volume, labels == 2)
    segmentation.SetAndObserveTransformNodeID(None)  # the check can fail
    with pytest.raises(AssertionError):
        assert_shows(view, volume, labels == 2)


def test_the_liver_has_its_color_around_the_tumors(shown, labels):
    volume, _, _, view = shown()
    colored = like(view.picture(), LIVER_RGB)
    expected = projected(volume, view, labels == 1)
    assert colored[ndimage.binary_erosion(expected, iterations=3)].mean() > 0.99


def test_a_rejected_tumor_disappears_and_comes_back_when_accepted(shown, labels):
    volume, _, review, view = shown()
    first, rest = labels == 2, labels == 2
    first[:, :, 30:] = False
    rest = rest & ~first
    review.reject(["tumor_1"])
    assert_shows(view, volume, rest)
    review.accept(["tumor_1"])
    assert_shows(view, volume, labels == 2)
    review.reject(["tumor_2"])
    assert_shows(view, volume, first)
    review.undo()
    assert_shows(view, volume, labels == 2)


def test_the_threshold_is_seen_at_once(shown, labels):
    volume, _, review, view = shown()
    review.threshold(0.25)
    more = labels == 2
    more[10:14, 40:48, 14:24] = True
    assert_shows(view, volume, more)
    review.threshold(0.5)
    assert_shows(view, volume, labels == 2)


def test_the_long_axis_is_drawn_between_its_ends(shown):
    _, segmentation, review, view = shown()
    segmentation.GetDisplayNode().SetVisibility(False)
    review.jump("tumor_1")
    before = view.picture().astype(int)
    review.show_diameters(["tumor_1"])
    (line,) = slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")
    line.GetDisplayNode().SetPropertiesLabelVisibility(False)
    drawn = np.argwhere(np.abs(view.picture() - before).max(axis=-1) > 60)
    ends = [view.pixel_of(p) for p in slicer.util.arrayFromMarkupsControlPoints(line, world=True)]
    assert len(drawn) > np.linalg.norm(np.subtract(*ends)) / 2
    low, high = np.min(ends, axis=0), np.max(ends, axis=0)
    assert drawn.min(axis=0) == pytest.approx(low, abs=12)
    assert drawn.max(axis=0) == pytest.approx(high, abs=12)


def test_3d_shows_the_tumors_through_the_liver(shown, application, scene):
    _, segmentation, review, _ = shown()
    segmentation.GetDisplayNode().SetSegmentOpacity3D("liver", 0.3)
    segmentation.CreateClosedSurfaceRepresentation()
    view = views.ThreeDView(application, scene, SIZE)
    view.look_from_front()
    both = like(view.picture(), TUMOR_RGB, 60)
    liver = like(view.picture(), LIVER_RGB, 60)
    assert liver.sum() > both.sum() > 300
    assert ndimage.label(ndimage.binary_opening(both))[1] == 2
    review.reject(["tumor_2"])
    one = like(view.picture(), TUMOR_RGB, 60)
    assert ndimage.label(ndimage.binary_opening(one))[1] == 1
    view.close()
