"""Segmentation from end to end, on a phantom CT, with networks whose answer is known exactly.

`Threshold` stands in for a trained network: everything around it (preprocessing, windows, the way
back, post-processing, warnings) is the product's own, so every voxel of the result is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.errors import Cancelled, InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.recipe import Inference, Recipe
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.segment import (
    Segmentation,
    pick_device,
    postprocess,
    segment,
    touches_border,
)
from LiverTumorSegLib.volume import Volume

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

AIR, BODY, LIVER, LESION = -1000.0, 0.0, 100.0, 40.0
SPACING = (2.5, 0.8, 0.8)
SHAPE = (20, 40, 48)
# In the window of -200 to 200 HU: body 0.5, lesion 0.6, liver 0.75.
LIVER_FROM, LESION_UP_TO = 0.55, 0.675


class Threshold(nn.Module):
    """Certain of everything above a threshold, or below it, at `scale` times the input's size."""

    def __init__(
        self, threshold: float, above: bool = True, scale: tuple[int, int, int] = (1, 1, 1)
    ) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))
        self.sign = 1.0 if above else -1.0
        self.scale = scale
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x.clone())
        logits = self.sign * 1e4 * (x - self.threshold)
        for axis, factor in enumerate(self.scale):
            logits = logits.repeat_interleave(factor, dim=axis + 2)
        return logits


def simple(name: str, **inference: object) -> Recipe:
    """A recipe of the papers on the CT's own grid, in windows of 16x32x32."""
    recipe = RECIPES[name]
    preprocessing = replace(
        recipe.preprocessing, body_crop=None, halve_in_plane=False, pad_minimum=(16, 32, 32)
    )
    return replace(
        recipe,
        patch=(16, 32, 32),
        preprocessing=preprocessing,
        inference=replace(recipe.inference, **inference),
    )


def liver_model(recipe: Recipe | None = None, network: nn.Module | None = None) -> Model:
    recipe = recipe or simple("elanres-msca-liver")
    return Model("fake-liver", recipe, {}, "", network or Threshold(LIVER_FROM).eval())


def tumor_model(recipe: Recipe | None = None, network: nn.Module | None = None) -> Model:
    recipe = recipe or simple("elanres-msca-tumor")
    network = network or Threshold(LESION_UP_TO, above=False).eval()
    return Model("fake-tumor", recipe, {}, "", network)


def phantom(shape: tuple[int, int, int] = SHAPE) -> tuple[Volume, np.ndarray]:
    """A body in air, a liver in it with two lesions, and the labels that must be found."""
    labels = np.zeros(shape, np.uint8)
    labels[4:14, 10:28, 12:34] = 1
    labels[6:9, 14:18, 16:22] = 2
    labels[11:12, 22:24, 28:30] = 2
    hu = np.full(shape, AIR, np.float32)
    hu[:, 4:36, 4:44] = BODY
    hu[labels == 1] = LIVER
    hu[labels == 2] = LESION
    return volume_of(hu), labels


def volume_of(hu: np.ndarray) -> Volume:
    return Volume(hu.astype(np.float32), Geometry(hu.shape, SPACING))


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
        liver_model(liver, Threshold(LIVER_FROM, scale=(1, 2, 2))),
        tumor_model(tumor, Threshold(LESION_UP_TO, above=False, scale=(1, 2, 2))),
    )
    assert np.array_equal(result.labels, labels)


def test_a_network_of_a_fixed_shape_finds_the_liver_to_its_own_voxels() -> None:
    volume, labels = phantom()
    recipe = RECIPES["unet3d-liver"].with_override("preprocessing.shape", "[16, 40, 48]")
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
    tumor = Threshold(LESION_UP_TO, above=False)
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
    network = Threshold(LESION_UP_TO, above=False)
    whole = replace(simple("elanres-msca-tumor"), patch=None)
    found(volume, tumor=tumor_model(whole, network))
    (seen,) = network.inputs
    assert seen.unique().tolist() == pytest.approx([0, 0.5, 0.6, 0.75])
    shown = np.argwhere(seen[0, 0].numpy() > 0)
    assert (np.ptp(shown, axis=0) + 1).tolist() == [10 + 2, 18 + 6, 22 + 6]


def test_closing_a_cavity_of_a_tumor_does_not_leave_the_liver() -> None:
    """A gap in the liver, all around it tumor: filling the tumor must not fill the gap."""
    volume, labels = phantom()
    volume.hu[6:9, 14:18, 16:22] = LESION
    volume.hu[7, 15:17, 18:20] = BODY
    labels[7, 15:17, 18:20] = 0
    liver = liver_model(simple("elanres-msca-liver", fill_holes=False))
    tumor = tumor_model(simple("elanres-msca-tumor", fill_holes=True))
    assert np.array_equal(found(volume, liver, tumor).labels, labels)


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


def test_a_mask_near_the_border_does_not_touch_it() -> None:
    mask = np.zeros((4, 5, 6), dtype=bool)
    assert not touches_border(mask)
    mask[1:-1, 1:-1, 1:-1] = True
    assert not touches_border(mask)
    mask[1, 4, 2] = True
    assert touches_border(mask)


# Post-processing


def post(**options: object) -> Inference:
    off = {"largest_component": False, "fill_holes": False, "min_lesion_mm3": 0.0}
    return replace(RECIPES["elanres-msca-liver"].inference, **{**off, **options})


def test_only_the_largest_liver_is_kept() -> None:
    volume, labels = phantom()
    volume.hu[16:18, 10:14, 12:16] = LIVER
    volume.hu[15:16, 28:29, 34:35] = LIVER  # near, not touching
    assert np.array_equal(found(volume).labels, labels)
    every = liver_model(simple("elanres-msca-liver", largest_component=False))
    assert (found(volume, every).labels[16:18, 10:14, 12:16] == 1).all()


def test_parts_that_share_a_corner_are_one_liver() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    kept = postprocess(mask, post(largest_component=True), 1.0)
    assert np.argwhere(kept).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_cavities_of_the_liver_are_filled() -> None:
    """A cavity far darker than liver belongs to it, and a tumor may lie there."""
    volume, labels = phantom()
    volume.hu[5:7, 20:22, 24:26] = AIR
    labels[5:7, 20:22, 24:26] = 2
    assert np.array_equal(found(volume).labels, labels)
    holed = liver_model(simple("elanres-msca-liver", fill_holes=False))
    assert not found(volume, holed).labels[5:7, 20:22, 24:26].any()


def test_a_cavity_open_to_the_outside_is_not_filled() -> None:
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask[1:4, 1:4, 1:4] = True
    mask[2, 2, 2] = False
    assert postprocess(mask.copy(), post(fill_holes=True), 1.0).sum() == 27
    mask[2, 2, 3] = False
    assert np.array_equal(postprocess(mask.copy(), post(fill_holes=True), 1.0), mask)
    mask[2, 2, 3] = True
    assert np.array_equal(postprocess(mask.copy(), post(), 1.0), mask)


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


def test_a_lesion_of_exactly_the_smallest_volume_is_kept() -> None:
    mask = np.zeros((1, 3, 9), dtype=bool)
    mask[0, 0, 0:4] = mask[0, 2, 6:9] = True
    kept = postprocess(mask.copy(), post(min_lesion_mm3=2.0), 0.5)
    assert np.argwhere(kept).tolist() == [[0, 0, x] for x in range(4)]


@pytest.mark.parametrize(
    "options",
    [{}, {"largest_component": True}, {"fill_holes": True}, {"min_lesion_mm3": 5.0}],
)
def test_an_empty_mask_stays_empty(options: dict[str, object]) -> None:
    assert not postprocess(np.zeros((3, 4, 5), dtype=bool), post(**options), 1.0).any()


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
        networks = Threshold(LIVER_FROM), Threshold(LESION_UP_TO, above=False)
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
    assert liver.network.threshold.item() == pytest.approx(LIVER_FROM)
    assert tumor.network.threshold.item() == pytest.approx(LESION_UP_TO)
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


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "cuda:-1", "cpu:1", "xpu", "meta", "CPU"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        pick_device(name)
    assert repr(name) in str(caught.value)


def test_absent_devices_are_refused() -> None:
    with pytest.raises(InputError, match="--device auto"):
        pick_device(f"cuda:{torch.cuda.device_count()}")
    if not torch.backends.mps.is_available():
        with pytest.raises(InputError, match="has 0 such"):
            pick_device("mps")


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


def test_auto_takes_what_there_is() -> None:
    device = pick_device("auto")
    assert pick_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert device.type == "cuda"
    elif torch.backends.mps.is_available():
        assert device.type == "mps"
    else:
        assert device.type == "cpu"
