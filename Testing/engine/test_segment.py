"""Segmentation from end to end, on a phantom CT, with networks whose answer is known exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.errors import Cancelled, InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.segment import Segmentation, segment
from LiverTumorSegLib.volume import Volume
from Testing.engine.known_networks import (
    AIR,
    BODY,
    LESION,
    LESION_UP_TO,
    LIVER,
    LIVER_FROM,
    SHAPE,
    SPACING,
    Threshold,
    joint_model,
    liver_model,
    phantom,
    simple,
    tumor_model,
    volume_of,
)

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower


def found(
    volume: Volume, liver: Model | None = None, tumor: Model | None = None, **options: object
) -> Segmentation:
    liver, tumor = liver or liver_model(), tumor or tumor_model()
    return segment(volume, liver, tumor, **{"device": "cpu", "backend": "torch", **options})


# The whole way


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_liver_and_lesions_are_found_to_the_voxel(backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    volume, labels = phantom()
    result = found(volume, backend=backend)
    assert np.array_equal(result.labels, labels)
    assert result.labels.dtype == np.uint8
    assert result.warnings == ()
    assert sorted(result.timings_s) == ["liver", "tumor"]
    assert min(result.timings_s.values()) > 0
    assert result.liver_probability is None
    assert result.tumor_probability is None


def test_the_papers_grids_change_nothing() -> None:
    """Body crop, halving in the plane, heads that double it again; all edges on even voxels."""
    volume, labels = phantom()
    liver = RECIPES["elanres-msca-liver"]
    tumor = RECIPES["elanres-msca-tumor"]
    result = found(
        volume,
        liver_model(liver, Threshold(LIVER_FROM, head_scale=(1, 2, 2))),
        tumor_model(tumor, Threshold(LESION_UP_TO, above=(False,), head_scale=(1, 2, 2))),
    )
    assert np.array_equal(result.labels, labels)


def test_a_network_of_a_fixed_shape_finds_the_liver_to_its_own_voxels() -> None:
    volume, labels = phantom()
    recipe = RECIPES["unet3d-liver"].with_override("preprocessing.resampling.shape", "[16, 40, 48]")
    result = found(volume, liver_model(recipe, Threshold(0.25)))  # -100 to 400 HU: liver 0.4
    wrong = (result.labels > 0) != (labels > 0)
    inside, outside = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)
    inside[6:12, 11:27, 13:33] = outside[3:15, 9:29, 11:35] = True
    assert not wrong[inside].any()
    assert not wrong[~outside].any()


@pytest.mark.parametrize(
    ("order", "back"),
    [
        ((0, 1, 2), (False, True, True)),
        ((1, 0, 2), (True, False, False)),
        ((2, 1, 0), (False, True, False)),
        ((2, 0, 1), (True, True, True)),
    ],
)
def test_the_scan_s_orientation_does_not_matter(
    order: tuple[int, int, int], back: tuple[bool, bool, bool]
) -> None:
    volume, labels = phantom()
    mirrored = tuple(slice(None, None, -1 if b else 1) for b in back)
    columns = np.eye(3)[:, ::-1][:, list(order)] * np.where(back, -1, 1)
    hu = np.ascontiguousarray(volume.hu.transpose(order)[mirrored])
    geometry = Geometry(
        hu.shape,
        tuple(SPACING[axis] for axis in order),
        direction=tuple(map(tuple, columns[:, ::-1].tolist())),
    )
    result = found(Volume(hu, geometry))
    assert np.array_equal(result.labels, labels.transpose(order)[mirrored])


@pytest.mark.parametrize("shape", [(15, 33, 37), (3, 40, 48), (17, 31, 47)])
def test_images_smaller_than_the_window_and_of_odd_sizes_are_taken(
    shape: tuple[int, int, int],
) -> None:
    hu = np.full(shape, BODY, np.float32)
    hu[1:-1, 5:25, 3:20] = LIVER
    hu[1, 9:12, 8:14] = LESION
    liver = replace(simple("elanres-msca-liver"), patch=(48, 256, 256))
    tumor = replace(simple("elanres-msca-tumor"), patch=(48, 256, 256))
    result = found(volume_of(hu), liver_model(liver), tumor_model(tumor))
    expected = np.select([hu == LIVER, hu == LESION], [1, 2])
    assert np.array_equal(result.labels, expected)


# What may be missing


def test_without_a_liver_nothing_is_labeled_and_the_user_is_told() -> None:
    volume = volume_of(np.full(SHAPE, BODY))
    stages: list[str] = []
    tumor = Threshold(LESION_UP_TO, above=(False,))
    result = found(
        volume,
        tumor=tumor_model(network=tumor),
        probabilities=True,
        on_progress=lambda stage, fraction: stages.append(stage),
    )
    assert not result.labels.any()
    assert result.labels.shape == SHAPE
    (warning,) = result.warnings
    assert "No liver was found" in warning
    assert set(stages) == {"Liver"}
    assert tumor.inputs == []
    assert list(result.timings_s) == ["liver"]
    assert not result.liver_probability.any()
    assert result.tumor_probability is None


def test_nothing_but_air_is_no_error() -> None:
    result = found(volume_of(np.full(SHAPE, AIR)))
    assert not result.labels.any()
    assert len(result.warnings) == 1


def test_a_liver_without_tumor_is_a_result_without_warning() -> None:
    volume, labels = phantom()
    volume.hu[labels == 2] = LIVER
    result = found(volume)
    assert np.array_equal(result.labels, (labels > 0).astype(np.uint8))
    assert result.warnings == ()


def test_tumors_are_looked_for_in_the_liver_only() -> None:
    """Everything but healthy liver looks like tumor to this network."""
    volume, labels = phantom()
    result = found(volume, tumor=tumor_model(simple("elanres-msca-tumor", threshold=0.0)))
    assert np.array_equal(result.labels == 2, labels > 0)
    assert np.array_equal(result.labels > 0, labels > 0)


def test_the_tumor_network_sees_the_liver_s_surroundings_alone() -> None:
    """3 mm reach one slice of 2.5 mm and three voxels of 0.8 mm; what lies farther is 0."""
    volume, _ = phantom()
    network = Threshold(LESION_UP_TO, above=(False,))
    whole = replace(simple("elanres-msca-tumor"), patch=None)
    found(volume, tumor=tumor_model(whole, network))
    (seen,) = network.inputs
    assert seen.unique().tolist() == pytest.approx([0, 0.5, 0.6, 0.75])
    shown = np.argwhere(seen[0, 0].numpy() > 0)
    assert (np.ptp(shown, axis=0) + 1).tolist() == [10 + 2, 18 + 6, 22 + 6]


def test_only_livers_are_filled_and_reduced_to_their_largest_part() -> None:
    """A ring of tumor stays a ring, and the smaller tumor stays."""
    volume, labels = phantom()
    volume.hu[7, 15:17, 18:20] = LIVER
    labels[7, 15:17, 18:20] = 1
    tumor = tumor_model(simple("elanres-msca-tumor", fill_holes=True, largest_component=True))
    assert np.array_equal(found(volume, tumor=tumor).labels, labels)


@pytest.mark.parametrize(
    ("axis", "end"), list(itertools.product(range(3), (0, -1))), ids=lambda value: str(value)
)
def test_a_liver_at_the_image_s_border_is_flagged(axis: int, end: int) -> None:
    volume, labels = phantom()
    reach = [slice(5, 10), slice(12, 20), slice(14, 20)]
    reach[axis] = slice(0, 12) if end == 0 else slice(10, None)
    volume.hu[tuple(reach)] = LIVER
    result = found(volume)
    (warning,) = result.warnings
    assert "border" in warning
    assert (result.labels[tuple(reach)] == 1).all()


# One network for both


JOINT = pytest.mark.parametrize(
    ("dimensions", "activation"), list(itertools.product((2, 3), ("sigmoid", "softmax")))
)


def windows_of(model: Model) -> int:
    return len(model.network.inputs)


@JOINT
def test_one_file_for_liver_and_tumor_runs_once(dimensions: int, activation: str) -> None:
    volume, labels = phantom()
    model = joint_model(dimensions, activation)
    heard: list[tuple[str, float]] = []
    result = found(
        volume,
        model,
        replace(model, name="the same again"),
        on_progress=lambda stage, fraction: heard.append((stage, fraction)),
    )
    assert np.array_equal(result.labels, labels)
    assert list(result.timings_s) == ["liver_and_tumor"]
    assert {stage for stage, _ in heard} == {"Liver and tumor"}
    fractions = [fraction for _, fraction in heard]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    # 40x48 pixels in windows of 32x32; 20 slices one by one, or padded to 32 in windows of 16.
    assert windows_of(model) == 4 * (20 if dimensions == 2 else 3)


@JOINT
@pytest.mark.parametrize("role", ["liver", "tumor", "two files"])
def test_a_network_for_both_serves_as_either_stage(
    dimensions: int, activation: str, role: str
) -> None:
    volume, labels = phantom()
    liver = tumor = None
    if role != "tumor":
        liver = joint_model(dimensions, activation, sha256="a")
    if role != "liver":
        tumor = joint_model(dimensions, activation, sha256="b")
    result = found(volume, liver, tumor)
    assert np.array_equal(result.labels, labels)
    assert list(result.timings_s) == ["liver", "tumor"]
    if tumor and dimensions == 2:
        assert windows_of(tumor) == 10, "the liver's slices, of which it fits into one window"


def test_files_that_share_a_digest_by_chance_are_not_taken_for_one() -> None:
    """Models that were never saved have none, and segment one target each."""
    volume, labels = phantom()
    liver, tumor = liver_model(), tumor_model()
    assert liver.sha256 == tumor.sha256
    assert np.array_equal(found(volume, liver, tumor).labels, labels)


@JOINT
def test_a_tumor_outside_the_liver_that_is_kept_is_none(dimensions: int, activation: str) -> None:
    """A second liver-like part, which the largest component drops with the lesion in it."""
    volume, labels = phantom()
    volume.hu[16:19, 12:20, 14:22] = LIVER
    volume.hu[17, 14:17, 16:19] = LESION
    model = joint_model(dimensions, activation)
    assert np.array_equal(found(volume, model, model).labels, labels)
    both_parts = joint_model(dimensions, activation, largest_component=False)
    labels[16:19, 12:20, 14:22] = 1
    labels[17, 14:17, 16:19] = 2
    assert np.array_equal(found(volume, both_parts, both_parts).labels, labels)


@pytest.mark.parametrize(("activation", "label"), [("sigmoid", 2), ("softmax", 1)])
def test_what_fills_a_cavity_is_liver_and_tumor_if_it_was_found_to_be(
    activation: str, label: int
) -> None:
    """The sigmoid's tumor channel takes the dark cavity for tumor; the softmax for background."""
    volume, labels = phantom()
    volume.hu[5:7, 20:22, 24:26] = BODY
    labels[5:7, 20:22, 24:26] = label
    model = joint_model(3, activation)
    assert np.array_equal(found(volume, model, model).labels, labels)


@JOINT
def test_small_tumors_of_a_joint_network_are_dropped(dimensions: int, activation: str) -> None:
    volume, labels = phantom()
    labels[11:12, 22:24, 28:30] = 1
    model = joint_model(dimensions, activation, min_lesion_mm3=7.0)
    assert np.array_equal(found(volume, model, model).labels, labels)


@JOINT
@pytest.mark.parametrize("hu", [AIR, BODY])
def test_a_joint_network_that_finds_no_liver_finds_no_tumor(
    dimensions: int, activation: str, hu: float
) -> None:
    model = joint_model(dimensions, activation)
    result = found(volume_of(np.full(SHAPE, hu)), model, model)
    assert not result.labels.any()
    assert len(result.warnings) == 1
    assert (windows_of(model) == 0) == (hu == AIR)


@JOINT
def test_probabilities_of_both_targets_come_from_one_run(dimensions: int, activation: str) -> None:
    volume, labels = phantom()
    model = joint_model(dimensions, activation)
    result = found(volume, model, model, probabilities=True)
    assert np.array_equal(result.liver_probability, (labels > 0).astype(np.float16))
    assert np.array_equal((result.tumor_probability > 0.5) & (labels > 0), labels == 2)


# Post-processing


def test_only_the_largest_liver_is_kept() -> None:
    volume, labels = phantom()
    volume.hu[16:18, 10:14, 12:16] = LIVER
    volume.hu[15:16, 28:29, 34:35] = LIVER  # near, not touching
    assert np.array_equal(found(volume).labels, labels)
    every = liver_model(simple("elanres-msca-liver", largest_component=False))
    assert (found(volume, every).labels[16:18, 10:14, 12:16] == 1).all()


def test_cavities_of_the_liver_are_filled() -> None:
    """A cavity far darker than liver belongs to it, and a tumor may lie there."""
    volume, labels = phantom()
    volume.hu[5:7, 20:22, 24:26] = AIR
    labels[5:7, 20:22, 24:26] = 2
    assert np.array_equal(found(volume).labels, labels)
    holed = liver_model(simple("elanres-msca-liver", fill_holes=False))
    assert not found(volume, holed).labels[5:7, 20:22, 24:26].any()


@pytest.mark.parametrize(("minimum", "kept"), [(0.0, 2), (6.3, 2), (6.5, 1), (115.1, 1), (116, 0)])
def test_lesions_below_the_smallest_volume_are_dropped(minimum: float, kept: int) -> None:
    """Voxels of 2.5 x 0.8 x 0.8 = 1.6 mm3; lesions of 4 and 72 voxels, 6.4 and 115.2 mm3."""
    volume, labels = phantom()
    recipe = simple("elanres-msca-tumor", min_lesion_mm3=minimum)
    if kept < 2:
        labels[11:12, 22:24, 28:30] = 1
    if kept < 1:
        labels[6:9, 14:18, 16:22] = 1
    assert np.array_equal(found(volume, tumor=tumor_model(recipe)).labels, labels)


# Probabilities


def test_probabilities_lie_on_the_ct_s_grid_in_half_precision() -> None:
    volume, labels = phantom()
    result = found(volume, probabilities=True)
    for probability in (result.liver_probability, result.tumor_probability):
        assert probability.shape == SHAPE
        assert probability.dtype == np.float16
    assert np.array_equal(result.liver_probability, (labels > 0).astype(np.float16))
    assert np.array_equal((result.tumor_probability > 0.5) & (labels > 0), labels == 2)
    assert (result.tumor_probability[0] == 1).all(), "within the margin, before the mask"
    assert not result.tumor_probability[14 + 4 :].any(), "beyond the liver's margin"


def test_probabilities_do_not_change_labels() -> None:
    volume, labels = phantom()
    assert np.array_equal(found(volume, probabilities=True).labels, labels)


# Flips


def test_flips_are_those_of_the_recipes_and_only_on_request() -> None:
    volume, labels = phantom()
    calls = {}
    for flips in (False, True):
        networks = Threshold(LIVER_FROM), Threshold(LESION_UP_TO, above=(False,))
        models = (
            liver_model(simple("elanres-msca-liver", flips=(1, 2)), networks[0]),
            tumor_model(simple("elanres-msca-tumor", flips=(2,)), networks[1]),
        )
        assert np.array_equal(found(volume, *models, flips=flips).labels, labels)
        calls[flips] = [len(network.inputs) for network in networks]
    assert calls[True] == [4 * calls[False][0], 2 * calls[False][1]]


# Progress


def test_progress_runs_from_0_to_1_in_each_stage() -> None:
    volume, _ = phantom()
    heard: list[tuple[str, float]] = []
    found(volume, on_progress=lambda stage, fraction: heard.append((stage, fraction)))
    assert [stage for stage, _ in itertools.groupby(heard, key=lambda h: h[0])] == [
        "Liver",
        "Tumor",
    ]
    for stage in ("Liver", "Tumor"):
        fractions = [fraction for name, fraction in heard if name == stage]
        assert fractions[0] == 0
        assert fractions[-1] == 1
        assert fractions == sorted(fractions)
        assert len(set(fractions)) > 2


@pytest.mark.parametrize("stage", ["Liver", "Tumor"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_hook_that_raises_stops_the_run(stage: str, share: float) -> None:
    volume, _ = phantom()
    heard: list[tuple[str, float]] = []

    def cancel(name: str, fraction: float) -> None:
        heard.append((name, fraction))
        if name == stage and fraction >= share:
            raise Cancelled

    with pytest.raises(Cancelled):
        found(volume, on_progress=cancel)
    assert heard[-1][0] == stage
    assert [h for h in heard if h[0] == stage and h[1] >= share] == heard[-1:]


# What is given stays as it is


def test_a_run_changes_neither_the_ct_nor_the_models() -> None:
    volume, labels = phantom()
    hu = volume.hu.copy()
    liver, tumor = liver_model(), tumor_model()
    recipes = liver.recipe.to_json(), tumor.recipe.to_json()
    first = found(volume, liver, tumor, probabilities=True)
    second = found(volume, liver, tumor, probabilities=True)
    assert np.array_equal(volume.hu, hu)
    assert (liver.recipe.to_json(), tumor.recipe.to_json()) == recipes
    assert liver.network.thresholds.item() == pytest.approx(LIVER_FROM)
    assert tumor.network.thresholds.item() == pytest.approx(LESION_UP_TO)
    assert not liver.network.training
    assert not any(parameter.grad for parameter in liver.network.parameters())
    for a, b in (
        (first.labels, second.labels),
        (first.liver_probability, second.liver_probability),
        (first.tumor_probability, second.tumor_probability),
        (first.labels, labels),
    ):
        assert np.array_equal(a, b)


def test_a_read_only_ct_is_enough() -> None:
    volume, labels = phantom()
    volume.hu.setflags(write=False)
    assert np.array_equal(found(volume).labels, labels)


# Refused


def test_an_unknown_backend_is_answered_with_the_choices() -> None:
    volume, _ = phantom()
    with pytest.raises(InputError, match="'tensorrt'.*auto, torch, openvino"):
        found(volume, backend="tensorrt")


@pytest.mark.parametrize(
    ("swap", "words"),
    [
        (lambda liver, tumor: (tumor, tumor), ("fake-tumor", "--liver")),
        (lambda liver, tumor: (liver, liver), ("fake-liver", "--tumor")),
        (lambda liver, tumor: (tumor, liver), ("fake-tumor", "--liver")),
    ],
)
def test_weights_of_the_wrong_target_are_refused(
    swap: Callable[[Model, Model], tuple[Model, Model]], words: tuple[str, ...]
) -> None:
    volume, _ = phantom()
    with pytest.raises(InputError) as caught:
        found(volume, *swap(liver_model(), tumor_model()))
    assert all(word in str(caught.value) for word in words)


def test_an_absent_device_is_refused_before_any_work() -> None:
    volume, _ = phantom()
    stages: list[str] = []
    with pytest.raises(InputError):
        segment(
            volume,
            liver_model(),
            tumor_model(),
            device="cuda:99",
            on_progress=lambda stage, fraction: stages.append(stage),
        )
    assert stages == []
