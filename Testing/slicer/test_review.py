"""Lesion review on real MRML: what each action does to segments, table and lines, and undo."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from grids import DIRECTIONS, TRANSFORMS, rigid_transform
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from LiverTumorSegGUI import nodes
from LiverTumorSegGUI.review import ACCEPTED, PENDING, REJECTED, Review
from LiverTumorSegGUI.segments import AUTOMATIC, EDITED, LABELMAP
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.measure import measure
from LiverTumorSegLib.recipe import LesionConfidence
from LiverTumorSegLib.seg_nrrd import ORIGIN_TAG, TUMOR_TERMINOLOGY

SHAPE = (20, 40, 48)
VOXEL_ML = 0.8 * 0.7 * 3.0 / 1000


def ball(center, radius, shape=SHAPE):
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    return (z - center[0]) ** 2 + (y - center[1]) ** 2 + (x - center[2]) ** 2 <= radius**2


@pytest.fixture
def labels():
    """A liver with three tumors: 1 the largest; 2; and 3, whose bar joins two blocks."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[2:18, 4:36, 4:44] = 1
    array[4:12, 6:18, 6:18] = 2
    array[4:9, 24:32, 8:16] = 2
    array[6:10, 10:14, 24:28] = array[6:10, 10:14, 34:38] = 2
    array[7, 11, 28:34] = 2
    return array


@pytest.fixture
def probability(labels):
    """0.9 in the tumors, 0.4 in a rim of a voxel around each, 0.3 in a new one, 0 elsewhere."""
    grown = np.zeros(SHAPE, dtype=bool)
    for axis in range(3):
        for shift in (-1, 1):
            grown |= np.roll(labels == 2, shift, axis)
    array = np.where(grown, 0.4, 0.0)
    array[14:17, 30:34, 30:34] = 0.3
    array[labels == 2] = 0.9
    return array.astype(np.float16)


@pytest.fixture
def volume_node(add_ct, labels):
    return add_ct(np.where(labels == 2, 60, np.where(labels == 1, 110, -50)).astype(np.int16))


@pytest.fixture
def segmentation(add_node, volume_node, labels):
    node = add_node("vtkMRMLSegmentationNode", "Result")
    fill(volume_node, node, labels)
    return node


def fill(volume_node, segmentation_node, labels):
    _, lesion_map = measure(nodes.volume_from_node(volume_node), labels)
    nodes.write_segments(labels, lesion_map, volume_node, segmentation_node)


@pytest.fixture
def table(add_node):
    return add_node("vtkMRMLTableNode", "Lesions")


@pytest.fixture
def review(volume_node, segmentation, table, probability):
    review = Review(volume_node, segmentation, table, probability)
    yield review
    review.close()


@pytest.fixture
def mask_of(segmentation, volume_node, read_back):
    """Function that returns a segment's voxels; None for a segment that is not there."""

    def mask(segment_id):
        if segmentation.GetSegmentation().GetSegment(segment_id) is None:
            return None
        return read_back(segmentation, segment_id, volume_node)

    return mask


@pytest.fixture
def paint(segmentation, volume_node):
    """Function that sets a segment's voxels, as an editor does."""

    def set_voxels(segment_id, mask):
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            mask.astype(np.uint8), segmentation, segment_id, volume_node
        )

    return set_voxels


def ids(review):
    return [row.segment_id for row in review.rows()]


def column(table_node, name):
    array = table_node.GetTable().GetColumnByName(name)
    return [array.GetValue(row) for row in range(table_node.GetNumberOfRows())]


def tag(segmentation_node, segment_id, name=ORIGIN_TAG):
    value = vtk.reference("")
    segmentation_node.GetSegmentation().GetSegment(segment_id).GetTag(name, value)
    return str(value)


def everything(review, segmentation_node, volume_node):
    """What undo must bring back: voxels, status, origin, order, numbers."""
    state = {}
    for id_ in segmentation_node.GetSegmentation().GetSegmentIDs():
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation_node, id_, volume_node)
        visible = segmentation_node.GetDisplayNode().GetSegmentVisibility(id_)
        state[id_] = (mask.tobytes(), tag(segmentation_node, id_), visible)
    return state, list(state), review.rows(), review.summary()


# ---- rows


def test_rows_tell_how_likely_lesions_are_real(
    volume_node, labels, probability, segmentation, table
):
    confidence = LesionConfidence(-2.0, 1.0, 0.5)
    review = Review(volume_node, segmentation, table, probability, confidence=confidence)
    volume = nodes.volume_from_node(volume_node)
    measurement, _ = measure(volume, labels, probability, confidence)
    assert [row.lesion for row in review.rows()] == list(measurement.lesions)
    assert all(0 < row.lesion.confidence < 1 for row in review.rows())
    assert len(column(table, "confidence")) == 3
    review.close()


def test_rows_have_the_numbers_of_the_run(review, volume_node, labels, probability, table):
    measurement, _ = measure(nodes.volume_from_node(volume_node), labels, probability)
    assert ids(review) == ["tumor_1", "tumor_2", "tumor_3"]
    assert [row.lesion for row in review.rows()] == list(measurement.lesions)
    assert [row.status for row in review.rows()] == [PENDING] * 3
    assert not any(row.edited for row in review.rows())
    assert review.measurement() == measurement
    assert column(table, "segment") == ["Tumor 1", "Tumor 2", "Tumor 3"]
    assert column(table, "mean_probability") == pytest.approx([0.9] * 3, abs=1e-3)


def test_labels_and_lesion_map_are_those_of_the_run(review, volume_node, labels):
    _, lesion_map = measure(nodes.volume_from_node(volume_node), labels)
    found, found_map = review.labels()
    assert np.array_equal(found, labels)
    assert np.array_equal(found_map, lesion_map)


def test_summary_says_how_much_and_what_is_left(review):
    review.accept(["tumor_1"])
    review.reject(["tumor_3"])
    liver_ml = 16 * 32 * 40 * VOXEL_ML
    tumor_ml = (8 * 12 * 12 + 5 * 8 * 8) * VOXEL_ML
    assert review.summary() == (
        f"Liver {liver_ml:.0f} mL. Tumors: 2, {tumor_ml:.1f} mL, "
        f"{100 * tumor_ml / liver_ml:.1f} % of the liver. 1 accepted, 1 rejected, 1 to review."
    )


def test_no_tumor_is_said(volume_node, segmentation, labels):
    fill(volume_node, segmentation, np.minimum(labels, 1))
    review = Review(volume_node, segmentation, None)
    assert review.rows() == ()
    assert review.summary().endswith("No tumor found.")
    assert review.measurement().tumor_burden_percent == 0
    review.close()


def test_a_segment_of_the_user_counts_when_its_terminology_says_lesion(
    review, segmentation, paint, volume_node
):
    add = segmentation.GetSegmentation().AddEmptySegment
    add("gall", "Gallbladder")
    add("mine", "My finding")
    mask = ball((13, 28, 28), 3)
    paint("gall", mask)
    paint("mine", mask)
    assert ids(review) == ["tumor_1", "tumor_2", "tumor_3"]
    terminology = slicer.vtkSegment.GetTerminologyEntryTagName()
    segmentation.GetSegmentation().GetSegment("mine").SetTag(terminology, TUMOR_TERMINOLOGY)
    review.update()
    row = review.row("mine")
    assert (row.lesion.lesion, row.edited) == (4, True)
    assert row.lesion.volume_ml == pytest.approx(mask.sum() * VOXEL_ML)
    nodes.check_segmentation_node(segmentation, volume_node)  # a new run leaves it alone
    while review.undo_text:
        review.undo()
    assert segmentation.GetSegmentation().GetSegment("mine") is not None


# ---- accept and reject


def test_accept_is_slicers_completed_and_reject_hides_and_flags(review, segmentation, table):
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segments, display = segmentation.GetSegmentation(), segmentation.GetDisplayNode()
    review.accept(["tumor_1"])
    review.reject(["tumor_2"])
    assert logic.GetSegmentStatus(segments.GetSegment("tumor_1")) == logic.Completed
    assert logic.GetSegmentStatus(segments.GetSegment("tumor_2")) == logic.Flagged
    assert display.GetSegmentVisibility("tumor_1")
    assert not display.GetSegmentVisibility("tumor_2")
    assert [row.status for row in review.rows()] == [ACCEPTED, REJECTED, PENDING]
    assert column(table, "status") == ["Accepted", "Rejected", "To review"]
    review.accept(["tumor_2"])
    assert display.GetSegmentVisibility("tumor_2")
    assert review.row("tumor_2").status == ACCEPTED


def test_a_rejected_lesion_keeps_its_voxels_but_does_not_count(review, labels, mask_of):
    before = mask_of("tumor_1")
    review.reject(["tumor_1"])
    assert np.array_equal(mask_of("tumor_1"), before)
    found, lesion_map = review.labels()
    assert (found == 2).sum() == (labels == 2).sum() - before.sum()
    assert lesion_map.max() == len(review.measurement().lesions) == 2
    assert (found[before] == 1).all()


def test_a_status_set_in_slicers_own_segment_list_is_taken_over(review, segmentation):
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segment = segmentation.GetSegmentation().GetSegment("tumor_2")
    logic.SetSegmentStatus(segment, logic.Completed)
    assert review.row("tumor_2").status == ACCEPTED
    assert not review.row("tumor_2").edited
    review.undo()
    assert review.row("tumor_2").status == PENDING


# ---- merge, split, add


def test_merge_joins_into_the_first_row(review, mask_of, segmentation):
    expected = mask_of("tumor_1") | mask_of("tumor_3")
    assert review.merge(["tumor_3", "tumor_1"]) == "tumor_1"
    assert ids(review) == ["tumor_1", "tumor_2"]
    assert np.array_equal(mask_of("tumor_1"), expected)
    assert mask_of("tumor_3") is None
    assert review.row("tumor_1").lesion.volume_ml == pytest.approx(expected.sum() * VOXEL_ML)
    assert review.row("tumor_1").edited
    assert tag(segmentation, "tumor_1") == EDITED
    assert tag(segmentation, "tumor_2") == AUTOMATIC


@pytest.mark.parametrize("chosen", [[], ["tumor_1"], ["liver", "tumor_1"]])
def test_merge_needs_two_lesions(review, chosen):
    with pytest.raises(InputError, match="Select two or more"):
        review.merge(chosen)
    assert review.undo_text == ""


def test_split_at_the_neck(review, mask_of):
    whole = mask_of("tumor_3")
    assert review.split("tumor_3") == ["tumor_3", "tumor_4"]
    one, other = mask_of("tumor_3"), mask_of("tumor_4")
    assert np.array_equal(one | other, whole)
    assert not (one & other).any()
    for block in (np.s_[6:10, 10:14, 24:28], np.s_[6:10, 10:14, 34:38]):
        assert one[block].all() != other[block].all()
    assert ids(review) == ["tumor_1", "tumor_2", "tumor_3", "tumor_4"]
    assert review.row("tumor_4").name == "Tumor 4"


def test_split_into_separate_parts(review, mask_of):
    review.merge(["tumor_1", "tumor_2"])
    whole = mask_of("tumor_1")
    assert len(review.split("tumor_1")) == 2
    assert np.array_equal(mask_of("tumor_1") | mask_of("tumor_4"), whole)
    assert mask_of("tumor_1").sum() == 8 * 12 * 12


def test_a_lesion_without_a_neck_is_not_split(review):
    with pytest.raises(InputError, match="Tumor 1 is in one piece without a neck.*Scissors"):
        review.split("tumor_1")
    assert (ids(review), review.undo_text) == (["tumor_1", "tumor_2", "tumor_3"], "")


def test_an_added_lesion_leaves_others_their_voxels(review, mask_of, labels):
    asked = ball((6, 24, 12), 5)
    segment_id = review.add_lesion(asked)
    assert segment_id == "tumor_4"
    assert np.array_equal(mask_of("tumor_4"), asked & ~mask_of("tumor_2"))
    assert review.row("tumor_4").edited


def test_nothing_is_added_where_a_lesion_is_already(review, mask_of):
    with pytest.raises(InputError, match="Tumor 2 is already there"):
        review.add_lesion(mask_of("tumor_2"))
    with pytest.raises(InputError, match="No tumor found here"):
        review.add_lesion(np.zeros(SHAPE, bool))
    review.reject(["tumor_2"])
    assert review.add_lesion(mask_of("tumor_2")) == "tumor_4"


# ---- threshold


def test_the_threshold_of_the_run_changes_nothing(
    review, segmentation, volume_node, labels, probability
):
    before = everything(review, segmentation, volume_node)
    review.threshold(0.6)
    assert everything(review, segmentation, volume_node) == before


def test_a_lower_threshold_grows_lesions_and_finds_new_ones(review, mask_of, probability, labels):
    review.threshold(0.35)
    assert ids(review) == ["tumor_1", "tumor_2", "tumor_3"]
    found = np.any([mask_of(id_) for id_ in ids(review)], axis=0)
    assert np.array_equal(found, (probability >= np.float16(0.35)) & (labels > 0))
    review.threshold(0.25)
    assert ids(review) == ["tumor_1", "tumor_2", "tumor_3", "tumor_4"]
    assert mask_of("tumor_4").sum() == 3 * 4 * 4
    assert not review.row("tumor_4").edited
    assert review.row("tumor_4").lesion.mean_probability == pytest.approx(0.3, abs=1e-3)


def test_there_and_back_again_gives_the_same_segments(review, segmentation, volume_node):
    review.threshold(0.6)
    before = everything(review, segmentation, volume_node)
    for value in (0.35, 0.95, 0.25, 0.6):
        review.threshold(value)
    assert everything(review, segmentation, volume_node) == before
    review.threshold(0.95)
    assert review.rows() == ()


def test_what_the_user_decided_or_made_stays_as_it_is(review, mask_of, paint):
    review.accept(["tumor_1"])
    review.reject(["tumor_2"])
    by_hand = mask_of("tumor_3")
    by_hand[7, 11, 28:34] = False
    paint("tumor_3", by_hand)
    added = review.add_lesion(ball((13, 12, 12), 2))
    before = {id_: mask_of(id_) for id_ in ids(review)}
    for value in (0.35, 0.25, 0.95):
        review.threshold(value)
        for id_, mask in before.items():
            assert np.array_equal(mask_of(id_), mask)
    assert ids(review) == ["tumor_1", "tumor_2", "tumor_3", added]
    review.threshold(0.25)  # no shell around what was kept
    assert len(ids(review)) == 5


def test_the_smallest_lesion_of_the_recipe_holds_for_the_threshold(
    volume_node, segmentation, probability
):
    review = Review(volume_node, segmentation, None, probability, smallest_mm3=49 * 1.68)
    review.threshold(0.25)
    assert ids(review) == ["tumor_1", "tumor_2", "tumor_3"]
    review.close()


def test_the_threshold_needs_a_map_and_a_liver(volume_node, segmentation, probability):
    review = Review(volume_node, segmentation, None)
    assert not review.has_probability
    with pytest.raises(InputError, match="no tumor probability"):
        review.threshold(0.5)
    review.close()
    segmentation.GetSegmentation().RemoveSegment("liver")
    review = Review(volume_node, segmentation, None, probability)
    with pytest.raises(InputError, match="no liver"):
        review.threshold(0.5)
    review.close()


def test_one_drag_of_the_slider_is_one_step_to_undo(review, segmentation, volume_node):
    before = everything(review, segmentation, volume_node)
    for value in (0.5, 0.4, 0.35, 0.3, 0.25):
        review.threshold(value)
    after = everything(review, segmentation, volume_node)
    review.undo()
    assert everything(review, segmentation, volume_node) == before
    assert review.undo_text == ""
    review.redo()
    assert everything(review, segmentation, volume_node) == after


# ---- by hand


def test_an_edit_by_hand_is_measured_at_once_and_marked(
    review, segmentation, paint, table, volume_node
):
    mask = ball((10, 20, 20), 4)
    others = [row for row in review.rows() if row.segment_id != "tumor_2"]
    paint("tumor_2", mask)
    assert review.row("tumor_2").lesion.volume_ml == pytest.approx(mask.sum() * VOXEL_ML)
    assert column(table, "volume_ml")[1] == pytest.approx(mask.sum() * VOXEL_ML)
    assert review.row("tumor_2").edited
    assert [row for row in review.rows() if row.segment_id != "tumor_2"] == others
    assert nodes.edited_segments(segmentation) == ["Tumor 2"]


def test_an_edit_of_the_liver_changes_burdens_and_depths(review, paint, mask_of):
    half = mask_of("liver")
    half[:, :, 40:] = False
    paint("liver", half)
    lesion = review.row("tumor_1").lesion
    assert lesion.burden_percent == pytest.approx(100 * 8 * 12 * 12 / half.sum())
    half[:, :, :8] = False  # a part of tumor 1 now lies outside the liver, and counts
    paint("liver", half)
    lesion = review.row("tumor_1").lesion
    with_tumor = half.sum() + 8 * 12 * 2
    assert lesion.burden_percent == pytest.approx(100 * 8 * 12 * 12 / with_tumor)
    assert lesion.surface_distance_mm == 0.0
    assert review.measurement().liver_volume_ml == pytest.approx(with_tumor * VOXEL_ML)


def test_an_edited_liver_is_known_and_not_replaced_unasked(review, paint, mask_of, segmentation):
    assert review.edited_liver() is None
    half = mask_of("liver")
    half[:, :, 40:] = False
    paint("liver", half)
    tumors = mask_of("tumor_1") | mask_of("tumor_2") | mask_of("tumor_3")
    assert np.array_equal(review.edited_liver(), half | tumors)
    assert nodes.edited_segments(segmentation) == ["Liver"]


def test_a_segment_on_another_grid_is_measured_on_the_cts(
    review, segmentation, volume_node, labels, read_back
):
    """A user may set a finer geometry for a segment in the Segment Editor."""
    fine = slicer.vtkOrientedImageData()
    segmentation.GetBinaryLabelmapRepresentation("tumor_1", fine)
    reference = slicer.vtkOrientedImageData()
    reference.DeepCopy(fine)
    reference.SetSpacing(*(s / 2 for s in fine.GetSpacing()))
    extent = fine.GetExtent()
    reference.SetExtent(*(2 * e + (n % 2) for n, e in enumerate(extent)))
    resample = slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage
    assert resample(fine, reference, reference)
    segment = segmentation.GetSegmentation().GetSegment("tumor_1")
    segmentation.GetSegmentation().SeparateSegmentLabelmap("tumor_1")
    segment.AddRepresentation(LABELMAP, reference)
    segment.SetLabelValue(1)
    review.update()
    on_ct = read_back(segmentation, "tumor_1", volume_node)
    assert on_ct.sum() > 1000
    assert review.row("tumor_1").lesion.volume_ml == pytest.approx(on_ct.sum() * VOXEL_ML)
    review.merge(["tumor_2", "tumor_3"])
    image = segment.GetRepresentation(LABELMAP)
    assert image.GetSpacing() == pytest.approx([s / 2 for s in fine.GetSpacing()])


def test_emptied_segments_have_no_row_and_come_back_by_undo(review, paint, mask_of):
    before = mask_of("tumor_2")
    paint("tumor_2", np.zeros(SHAPE, bool))
    assert ids(review) == ["tumor_1", "tumor_3"]
    review.undo()
    assert ids(review) == ["tumor_1", "tumor_2", "tumor_3"]
    assert np.array_equal(mask_of("tumor_2"), before)


def test_renaming_reaches_the_table_and_is_no_edit(review, segmentation, table):
    segmentation.GetSegmentation().GetSegment("tumor_2").SetName("Metastasis")
    assert review.row("tumor_2").name == "Metastasis"
    assert column(table, "segment")[1] == "Metastasis"
    assert nodes.edited_segments(segmentation) == []
    assert review.undo_text == ""


def test_quick_events_can_be_joined(volume_node, segmentation, paint):
    waiting, calls = [], []
    review = Review(
        volume_node,
        segmentation,
        None,
        on_change=lambda: calls.append(1),
        schedule=waiting.append,
    )
    paint("tumor_1", ball((8, 12, 12), 3))
    paint("tumor_2", ball((6, 28, 12), 2))
    assert len(waiting) > 1
    assert calls == []
    waiting[0]()
    assert len(calls) == 1
    assert review.row("tumor_1").lesion.volume_ml == pytest.approx(
        ball((8, 12, 12), 3).sum() * VOXEL_ML
    )
    review.undo()
    assert not any(row.edited for row in review.rows())
    review.close()


def test_only_what_changed_is_measured_again(review, paint, monkeypatch):
    from LiverTumorSegGUI import review as module

    measured = []
    real = module.measure_lesion
    monkeypatch.setattr(
        module, "measure_lesion", lambda n, *rest: (measured.append(n), real(n, *rest))[1]
    )
    paint("tumor_2", ball((6, 28, 12), 2))
    review.accept(["tumor_1"])
    assert measured == [2]


# ---- undo


def test_nothing_to_undo_does_nothing(review, segmentation, volume_node):
    before = everything(review, segmentation, volume_node)
    review.undo()
    review.redo()
    assert everything(review, segmentation, volume_node) == before


def test_undo_goes_back_through_buttons_and_edits_by_hand(review, segmentation, volume_node, paint):
    def changed(action):
        action()
        return everything(review, segmentation, volume_node)

    states = [everything(review, segmentation, volume_node)]
    states += [
        changed(action)
        for action in (
            lambda: review.accept(["tumor_1"]),
            lambda: review.merge(["tumor_1", "tumor_2"]),
            lambda: paint("tumor_1", ball((8, 12, 12), 5)),
            lambda: review.split("tumor_3"),
            lambda: review.threshold(0.25),
            lambda: segmentation.GetSegmentation().RemoveSegment("tumor_4"),
            lambda: review.reject(["tumor_3", "tumor_1"]),
            lambda: review.add_lesion(ball((12, 24, 36), 3)),
        )
    ]
    for state in reversed(states[:-1]):
        review.undo()
        assert everything(review, segmentation, volume_node) == state
    assert review.undo_text == ""
    for state in states[1:]:
        review.redo()
        assert everything(review, segmentation, volume_node) == state
    assert review.redo_text == ""


def test_a_new_action_ends_what_could_be_done_again(review):
    review.accept(["tumor_1"])
    review.undo()
    assert review.redo_text == "Accept Tumor 1"
    review.accept(["tumor_2"])
    assert review.redo_text == ""


def any_action(review, paint, data):
    some = data.draw(st.lists(st.sampled_from(ids(review) or ["liver"]), min_size=1, max_size=2))
    blob = ball([data.draw(st.integers(3, n - 4)) for n in SHAPE], 3)
    if some == ["liver"]:
        return review.add_lesion(blob)
    actions = {
        "accept": lambda: review.accept(some),
        "reject": lambda: review.reject(some),
        "merge": lambda: review.merge(some),
        "split": lambda: review.split(some[0]),
        "add": lambda: review.add_lesion(blob),
        "threshold": lambda: review.threshold(data.draw(st.floats(0.05, 0.95))),
        "paint": lambda: paint(some[0], blob),
    }
    return actions[data.draw(st.sampled_from(sorted(actions)))]()


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_actions_can_all_be_undone(volume_node, segmentation, labels, probability, paint, data):
    fill(volume_node, segmentation, labels)
    review = Review(volume_node, segmentation, None, probability)
    states = [everything(review, segmentation, volume_node)]
    for _ in range(data.draw(st.integers(1, 5))):
        steps = len(review._done)
        try:
            any_action(review, paint, data)
        except InputError:
            assert everything(review, segmentation, volume_node) == states[-1]
        if len(review._done) == steps and states:
            states[-1] = everything(review, segmentation, volume_node)
        else:
            states.append(everything(review, segmentation, volume_node))
    for state in reversed(states[:-1]):
        review.undo()
        assert everything(review, segmentation, volume_node) == state
    review.close()


# ---- layers, other segments, surfaces


def test_two_layers_hold_all_lesions_after_any_action(review, segmentation, paint):
    paint("tumor_1", ball((8, 12, 12), 4))
    review.merge(["tumor_2", "tumor_3"])
    review.threshold(0.25)
    review.split("tumor_2")
    assert segmentation.GetSegmentation().GetNumberOfLayers() == 2


def test_a_segment_in_the_same_layer_is_left_alone(
    review, segmentation, volume_node, paint, mask_of
):
    """As the Segment Editor does it, the user's segment shares the tumors' image."""
    segments = segmentation.GetSegmentation()
    segments.AddEmptySegment("mine", "Vessel")
    mine = np.zeros(SHAPE, bool)
    mine[15, 20:25, 20:25] = True
    paint("mine", mine)
    segments.CollapseBinaryLabelmaps(False)
    shared = segments.GetSegment("mine").GetRepresentation(LABELMAP)
    assert shared is segments.GetSegment("tumor_1").GetRepresentation(LABELMAP)
    before = {id_: mask_of(id_) for id_ in ids(review)}
    review.update()
    review.merge(["tumor_1", "tumor_3"])
    assert np.array_equal(mask_of("mine"), mine)
    assert np.array_equal(mask_of("tumor_1"), before["tumor_1"] | before["tumor_3"])
    segments.AddEmptySegment("other", "Other")
    assert not mask_of("other").any()


def test_a_3d_surface_follows(review, segmentation, paint):
    segmentation.CreateClosedSurfaceRepresentation()
    review.merge(["tumor_1", "tumor_2"])
    surface = vtk.vtkPolyData()
    segmentation.GetClosedSurfaceRepresentation("tumor_1", surface)
    bounds = surface.GetBounds()
    review.undo()
    segmentation.GetClosedSurfaceRepresentation("tumor_1", surface)
    assert surface.GetNumberOfPoints() > 50
    assert np.ptp(np.reshape(bounds, (3, 2))) > 0
    assert not np.allclose(surface.GetBounds(), bounds)


def test_an_edit_in_place_after_an_action_is_seen(review, segmentation):
    """The image that an action writes is followed as any other."""
    review.merge(["tumor_1", "tumor_2"])
    before = review.row("tumor_3").lesion.volume_ml
    segment = segmentation.GetSegmentation().GetSegment("tumor_3")
    image = segment.GetRepresentation(LABELMAP)
    scalars = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    scalars[np.flatnonzero(scalars == segment.GetLabelValue())[:10]] = 0
    image.Modified()
    assert review.row("tumor_3").lesion.volume_ml == pytest.approx(before - 10 * VOXEL_ML)


# ---- where things are


PLACES = [(name, None) for name in DIRECTIONS]
PLACES += [(name, t) for name in ("usual", "oblique left-handed") for t in TRANSFORMS]


@pytest.mark.parametrize(("direction", "transform"), PLACES)
def test_actions_and_lines_are_right_to_the_voxel_on_any_grid(
    add_ct, add_node, labels, probability, read_back, direction, transform
):
    node = add_ct(np.zeros(SHAPE, np.int16), DIRECTIONS[direction])
    if transform:
        node.SetAndObserveTransformNodeID(TRANSFORMS[transform](add_node).GetID())
    segmentation = add_node("vtkMRMLSegmentationNode")
    fill(node, segmentation, labels)
    review = Review(node, segmentation, None, probability)
    whole = read_back(segmentation, "tumor_3", node)
    review.split("tumor_3")
    one, other = (read_back(segmentation, id_, node) for id_ in ("tumor_3", "tumor_4"))
    assert np.array_equal(one | other, whole)
    assert one.any()
    assert other.any()
    review.threshold(0.25)
    new = np.zeros(SHAPE, bool)
    new[14:17, 30:34, 30:34] = True
    assert np.array_equal(read_back(segmentation, "tumor_5", node), new)

    review.show_diameters(["tumor_5"])
    (line,) = slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")
    ijk_to_ras = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(ijk_to_ras)
    to_index = np.linalg.inv(slicer.util.arrayFromVTKMatrix(ijk_to_ras))
    for point in range(2):
        world, local = [0.0] * 3, [0.0] * 3
        line.GetNthControlPointPositionWorld(point, world)
        node.TransformPointFromWorld(world, local)
        i, j, k = (to_index @ [*local, 1])[:3]
        assert [i, j, k] == pytest.approx(np.rint([i, j, k]), abs=0.01)  # a voxel's center
        assert new[round(k), round(j), round(i)]
    review.close()


def test_the_line_is_locked_named_and_as_long_as_the_table_says(
    review, segmentation, volume_node, scene
):
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = tree.CreateItem(tree.GetSceneItemID(), segmentation)
    review.show_diameters(["tumor_2", "tumor_1"])
    lines = {n.GetName(): n for n in slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")}
    assert sorted(lines) == ["Tumor 1 long axis", "Tumor 2 long axis"]
    for number in (1, 2):
        line = lines[f"Tumor {number} long axis"]
        length = line.GetMeasurement("length").GetValue()
        assert length == pytest.approx(review.row(f"tumor_{number}").lesion.long_axis_mm)
        assert line.GetLocked()
        assert tree.GetItemParent(tree.GetItemByDataNode(line)) == item


def test_lines_follow_edits_and_go_with_their_segments(review, segmentation, paint, scene):
    def lengths():
        lines = slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")
        return sorted(line.GetMeasurement("length").GetValue() for line in lines)

    review.show_diameters(["tumor_1", "tumor_2"])
    mask = np.zeros(SHAPE, bool)
    mask[8, 10:15, 10] = True
    paint("tumor_1", mask)
    assert lengths()[0] == pytest.approx(4 * 0.7)
    review.reject(["tumor_2"])
    assert len(lengths()) == 1
    review.undo()
    assert len(lengths()) == 2
    segmentation.GetSegmentation().RemoveSegment("tumor_1")
    assert len(lengths()) == 1
    scene.RemoveNode(slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")[0])
    review.accept(["tumor_2"])  # a line that the user deleted is drawn again
    assert len(lengths()) == 1
    review.show_diameters([])
    assert lengths() == []


def test_lines_of_a_loaded_scene_are_taken_over(review, volume_node, segmentation):
    review.show_diameters(["tumor_1", "tumor_2"])
    review.close()
    later = Review(volume_node, segmentation, None)
    later.show_diameters(["tumor_2"])
    (line,) = slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")
    assert line.GetName() == "Tumor 2 long axis"
    later.close()


@pytest.mark.parametrize("transformed", [False, True])
def test_jump_brings_the_slices_to_the_long_axis(
    add_node, review, volume_node, segmentation, scene, transformed
):
    if transformed:
        for node in (volume_node, segmentation):
            node.SetAndObserveTransformNodeID(rigid_transform(add_node).GetID())
    slice_node = add_node("vtkMRMLSliceNode", "Red")
    slice_node.SetLayoutName("Red")
    slice_node.SetOrientationToAxial()
    review.jump("tumor_3")
    review.show_diameters(["tumor_3"])
    (line,) = slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")
    ends = slicer.util.arrayFromMarkupsControlPoints(line, world=True)
    shown = [slice_node.GetSliceToRAS().GetElement(row, 3) for row in range(3)]
    assert shown == pytest.approx(ends.mean(axis=0), abs=1e-3)


# ---- the end


def test_after_close_nothing_is_followed(review, paint, table):
    rows = review.rows()
    review.close()
    review.close()
    paint("tumor_1", ball((8, 12, 12), 2))
    review.update()
    assert review.rows() == rows


def test_nodes_may_go_while_the_review_is_open(review, scene, segmentation, table):
    scene.RemoveNode(table)
    review.accept(["tumor_1"])
    scene.RemoveNode(segmentation)
    review.update()
    review.close()


def test_a_new_run_asks_for_what_was_decided_or_edited(review, segmentation, paint):
    assert nodes.edited_segments(segmentation) == []
    review.accept(["tumor_1"])
    paint("tumor_3", ball((8, 12, 30), 2))
    assert nodes.edited_segments(segmentation) == ["Tumor 1", "Tumor 3"]
    review.undo()
    review.undo()
    assert nodes.edited_segments(segmentation) == []


def test_a_new_run_under_an_open_review_is_no_edit(review, segmentation, volume_node, labels):
    more = labels.copy()
    more[14:17, 28:32, 28:34] = 2
    fill(volume_node, segmentation, more)
    assert len(review.rows()) == 4
    assert not any(row.edited for row in review.rows())
    assert nodes.edited_segments(segmentation) == []


def test_each_action_tells_once(volume_node, segmentation, probability):
    calls = []
    review = Review(volume_node, segmentation, None, probability, on_change=lambda: calls.append(1))
    actions = (
        lambda: review.accept(["tumor_1"]),
        lambda: review.merge(["tumor_1", "tumor_2"]),
        lambda: review.split("tumor_3"),
        lambda: review.threshold(0.25),
        review.undo,
        review.redo,
    )
    for number, action in enumerate(actions, start=1):
        action()
        assert len(calls) == number
    review.close()
