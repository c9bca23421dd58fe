"""Segment here: at any point the same as a whole run, with a lower threshold where it takes one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from LiverTumorSegLib.backends import Predictor, predictor
from LiverTumorSegLib.checkpoint import Model, load_model
from LiverTumorSegLib.components import lesion_components
from LiverTumorSegLib.errors import Cancelled, InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.protocol import Found
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.region import FLOOR, NEAR_MM, find_at, prepare_search
from LiverTumorSegLib.stage import run_stage
from LiverTumorSegLib.volume import Volume, read_volume
from Testing.engine.known_networks import (
    LESION,
    LESION_UP_TO,
    LIVER,
    Threshold,
    joint_model,
    liver_model,
    phantom,
    simple,
    tumor_model,
    volume_of,
)

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

CPU = torch.device("cpu")
SAMPLE = Path(__file__).resolve().parents[1] / "data" / "hcc006_arterial.nii.gz"
FIRST = (7, 16, 19)  # a voxel of the phantom's larger lesion, z 6 to 8, y 14 to 17, x 16 to 21


class Blurred(nn.Module):
    """A probability that depends on the neighborhood and on where in the window a voxel is."""

    dimensions = 3

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv3d(1, 1, 5, padding=2)
        torch.nn.init.uniform_(self.mix.weight, -0.2, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x) - 1.0


class Faint(nn.Module):
    """Of one probability wherever it is darker than liver, and certain elsewhere."""

    dimensions = 3

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.logit = float(np.log(probability / (1 - probability)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x < LESION_UP_TO, self.logit, -20.0)


def found(
    volume: Volume, labels: np.ndarray, model: Model, at: object, **options: object
) -> Found | None:
    """The lesion at a voxel (z, y, x)."""
    search = prepare_search(volume, model, labels > 0)
    point = volume.geometry.lps_of(np.array(at))
    return find_at(search, point, CPU, "torch", **options)  # type: ignore[arg-type]


MODELS = {
    "volumes": tumor_model(),
    "slices": joint_model(2),
    "softmax": joint_model(3, "softmax"),
    "softmax slices": joint_model(2, "softmax"),
    "halved, upsampled, other axes": tumor_model(
        RECIPES["elanres-msca-tumor"],
        Threshold(LESION_UP_TO, above=(False,), head_scale=(1, 2, 2)),
    ),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_the_lesion_at_a_point_is_found_to_the_voxel(model: Model) -> None:
    volume, labels = phantom()
    lesions, _ = lesion_components(labels == 2)
    for number, at in ((1, FIRST), (2, (11, 23, 29))):
        result = found(volume, labels, model, at)
        assert result is not None
        assert np.array_equal(result.whole(labels.shape), lesions == number)
        assert result.threshold == model.recipe.inference.threshold
        assert result.mean_probability == pytest.approx(1.0)


def test_a_device_out_of_memory_is_left_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: a fake runs out of the memory of one."""

    def full(network: nn.Module, window: object, backend: str, device: torch.device) -> Predictor:
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return predictor(network, window, backend, device)

    monkeypatch.setattr("LiverTumorSegLib.stage.predictor", full)
    volume, labels = phantom()
    search = prepare_search(volume, tumor_model(), labels > 0)
    point = volume.geometry.lps_of(np.array(FIRST))
    result = find_at(search, point, torch.device("cuda"), "torch")
    assert result is not None
    assert np.array_equal(result.whole(labels.shape), lesion_components(labels == 2)[0] == 1)


DIRECTIONS = {
    "usual": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "permuted": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "left-handed": np.diag([1.0, 1.0, -1.0]),
}


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
@pytest.mark.parametrize("orientation", ["LPS", "RAS"])
def test_any_orientation_lands_on_the_ct(direction: np.ndarray, orientation: str) -> None:
    volume, labels = phantom()
    geometry = Geometry(
        volume.hu.shape,
        volume.geometry.spacing_mm,
        (-40.0, 12.0, 300.0),
        tuple(map(tuple, direction.tolist())),
    )
    recipe = simple("elanres-msca-tumor")
    preprocessing = replace(recipe.preprocessing, orientation=orientation)
    model = tumor_model(replace(recipe, preprocessing=preprocessing))
    result = found(replace(volume, geometry=geometry), labels, model, FIRST)
    assert result is not None
    assert np.array_equal(result.whole(labels.shape), lesion_components(labels == 2)[0] == 1)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), pick=st.floats(0, 1), overlap=st.sampled_from([0.25, 0.5, 0.8]))
def test_it_is_the_lesion_of_a_whole_run(seed: int, pick: float, overlap: float) -> None:
    """With a network that sees the edges of its windows: the same windows, the same lesion."""
    torch.manual_seed(seed)
    volume, labels = phantom((20, 50, 60))
    labels[2:18, 6:46, 8:54] = 1
    noise = np.random.default_rng(seed).normal(LIVER, 60, volume.hu.shape)
    volume = volume_of(noise.astype(np.float32))
    recipe = simple("elanres-msca-tumor", overlap=overlap, min_lesion_mm3=0.0)
    model = tumor_model(recipe, Blurred().eval())
    whole = run_stage(volume, model, CPU, "torch", probabilities=True, liver=labels > 0)
    lesions, count = lesion_components(whole.masks["tumor"])
    if count == 0:
        return
    voxels = np.argwhere(lesions > 0)
    at = tuple(voxels[int(pick * (len(voxels) - 1))])
    result = found(volume, labels, model, at)
    assert result is not None
    lesion = lesions == lesions[at]
    assert np.array_equal(result.whole(labels.shape), lesion)
    mean = whole.probabilities["tumor"][lesion].astype(np.float32).mean()
    assert result.mean_probability == pytest.approx(mean, abs=1e-3)


def test_a_lesion_larger_than_the_windows_is_found_whole() -> None:
    volume, labels = phantom((20, 60, 90))
    labels[:] = 0
    labels[2:18, 4:56, 4:86] = 1
    labels[5:12, 10:50, 10:80] = 2
    hu = np.full(labels.shape, LIVER, np.float32)
    hu[labels == 2] = LESION
    passes: list[float] = []
    result = found(volume_of(hu), labels, tumor_model(), (8, 12, 12), on_progress=passes.append)
    assert result is not None
    assert np.array_equal(result.whole(labels.shape), labels == 2)
    assert passes.count(1.0) > 1  # it took more than one part


def test_only_the_windows_at_the_point_are_predicted() -> None:
    labels = np.zeros((20, 100, 120), np.uint8)
    labels[2:18, 4:96, 4:116] = 1
    volume, model = volume_of(np.full(labels.shape, LIVER, np.float32)), tumor_model()
    found(volume, labels, model, (9, 50, 60))
    here = len(model.network.inputs)
    run_stage(volume, model, CPU, "torch", liver=labels > 0)
    everywhere = len(model.network.inputs) - here
    assert 0 < here <= 2 * 3 * 3
    assert everywhere > 3 * here


def test_what_is_near_the_point_counts_and_what_is_far_does_not() -> None:
    volume, labels = phantom()  # voxels of 2.5 x 0.8 x 0.8 mm
    lesions, _ = lesion_components(labels == 2)
    voxels_near = int(NEAR_MM / 0.8)
    near = found(volume, labels, tumor_model(), (7, 16, 21 + voxels_near))
    assert near is not None
    assert np.array_equal(near.whole(labels.shape), lesions == 1)
    assert found(volume, labels, tumor_model(), (12, 12, 14)) is None


def test_outside_of_the_liver_nothing_is_found_and_nothing_predicted() -> None:
    volume, labels = phantom()
    model = tumor_model()
    seen: list[float] = []
    assert found(volume, labels, model, (1, 38, 2), on_progress=seen.append) is None
    assert model.network.inputs == []
    assert seen[-1] == 1.0


@pytest.mark.parametrize(
    ("probability", "threshold"), [(0.9, 0.5), (0.45, 0.4), (0.31, 0.3), (0.11, 0.1), (0.09, None)]
)
def test_the_threshold_is_lowered_step_by_step_to_its_floor(
    probability: float, threshold: float | None
) -> None:
    volume, labels = phantom()
    result = found(volume, labels, tumor_model(network=Faint(probability).eval()), FIRST)
    if threshold is None:
        assert result is None
        return
    assert result is not None
    assert result.threshold == pytest.approx(threshold)
    assert result.threshold >= FLOOR
    assert np.array_equal(result.whole(labels.shape), lesion_components(labels == 2)[0] == 1)
    assert result.mean_probability == pytest.approx(probability, abs=1e-3)


def test_a_lesion_is_as_large_as_the_recipe_says() -> None:
    volume, labels = phantom()
    voxel_mm3 = volume.geometry.voxel_ml * 1000
    size = np.count_nonzero(lesion_components(labels == 2)[0] == 1) * voxel_mm3
    at_least = tumor_model(simple("elanres-msca-tumor", min_lesion_mm3=size - 1e-6))
    more = tumor_model(simple("elanres-msca-tumor", min_lesion_mm3=size + voxel_mm3))
    assert found(volume, labels, at_least, FIRST) is not None
    assert found(volume, labels, more, FIRST) is None


def test_a_lesion_that_begins_at_the_point_is_measured_whole() -> None:
    """Around the point it has too few voxels, but it goes on."""
    labels = np.zeros((20, 40, 120), np.uint8)
    labels[2:18, 4:36, 4:116] = 1
    labels[9:11, 20:22, 40:104] = 2
    hu = np.full(labels.shape, LIVER, np.float32)
    hu[labels == 2] = LESION
    volume = volume_of(hu)
    size_mm3 = np.count_nonzero(labels == 2) * volume.geometry.voxel_ml * 1000
    model = tumor_model(simple("elanres-msca-tumor", min_lesion_mm3=0.9 * size_mm3))
    result = found(volume, labels, model, (9, 20, 40))
    assert result is not None
    assert result.threshold == model.recipe.inference.threshold
    assert np.array_equal(result.whole(labels.shape), labels == 2)


def test_the_lesion_ends_where_the_liver_ends() -> None:
    volume, labels = phantom()
    labels[:, :15] = 0  # the user's liver is smaller than the CT's
    result = found(volume, labels, tumor_model(), FIRST)
    assert result is not None
    expected = lesion_components(labels == 2)[0] == 1
    assert np.array_equal(result.whole(labels.shape), expected)


def test_cancel() -> None:
    volume, labels = phantom()

    def cancel(fraction: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        found(volume, labels, tumor_model(), FIRST, on_progress=cancel)


def test_what_cannot_be_searched_is_refused() -> None:
    volume, labels = phantom()
    with pytest.raises(InputError, match="expected weights for the tumor, found weights for the"):
        prepare_search(volume, liver_model(), labels > 0)
    with pytest.raises(InputError, match="expected a liver on the grid of the CT, found none"):
        prepare_search(volume, tumor_model(), labels > 9)
    with pytest.raises(InputError, match="found shape"):
        prepare_search(volume, tumor_model(), labels[1:] > 0)
    with pytest.raises(InputError, match="outside of the CT"):
        found(volume, labels, tumor_model(), (7, 16, 48))


@pytest.mark.slow
def test_the_embedded_weights_find_the_lesions_of_a_whole_run_in_the_sample() -> None:
    """In a block of 50 x 75 x 117 mm inside the liver, three windows long."""
    ct = read_volume(SAMPLE)
    block = np.ascontiguousarray(ct.hu[30:50, 120:216, 90:240])
    volume = Volume(block, replace(ct.geometry, shape=block.shape))
    model = load_model("starter-tumor")
    liver = np.ones(block.shape, dtype=bool)
    whole = run_stage(volume, model, CPU, "torch", probabilities=True, liver=liver)
    lesions, count = lesion_components(whole.masks["tumor"])
    assert count > 0
    search = prepare_search(volume, model, liver)
    lesion = lesions == 1
    at = np.argwhere(lesion)[0]
    result = find_at(search, volume.geometry.lps_of(at), CPU, "torch")
    assert result is not None
    mask = result.whole(block.shape)
    assert 2 * (mask & lesion).sum() / (mask.sum() + lesion.sum()) > 0.99
    mean = whole.probabilities["tumor"][lesion].astype(np.float32).mean()
    assert result.mean_probability == pytest.approx(mean, abs=0.01)
