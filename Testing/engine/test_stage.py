"""One network over one CT: networks of slices, the first look, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from LiverTumorSegLib.backends import Predictor, predictor
from LiverTumorSegLib.checkpoint import Model
from LiverTumorSegLib.errors import Cancelled, InputError
from LiverTumorSegLib.recipe import FixedShape, PixelRange, Prepass, Spacing
from LiverTumorSegLib.segment import segment
from LiverTumorSegLib.sliding_window import flip_sets
from LiverTumorSegLib.stage import Found, StageResult, Way, run_stage, with_less_and_less_memory
from LiverTumorSegLib.volume import Volume
from Testing.engine.known_networks import (
    AIR,
    BODY,
    LESION,
    LIVER,
    LIVER_FROM,
    Threshold,
    both_targets,
    joint_model,
    liver_model,
    long_phantom,
    phantom,
    simple,
    tumor_model,
    volume_of,
)
from Testing.engine.network_cases import randomize_norms, small

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower

CPU = torch.device("cpu")
EVERY_FOURTH = Prepass(every_slices=4, margin_slices=6)


def run(
    volume: Volume,
    model: Model,
    liver: np.ndarray | None = None,
    *,
    flips: bool = False,
    on_progress: Callable[[float], None] = lambda done: None,
) -> StageResult:
    return run_stage(volume, model, CPU, "torch", flips, True, on_progress, liver)


def slices_seen(model: Model) -> int:
    """Slices that a network of slices has seen, in the four windows of each."""
    count, rest = divmod(len(model.network.inputs), 4)
    assert rest == 0
    return count


def slice_tumor_model(**preprocessing: object) -> Model:
    """A network of slices for the tumor alone."""
    recipe = simple("rmau-net", prepass=None)
    recipe = replace(
        recipe, target="tumor", preprocessing=replace(recipe.preprocessing, **preprocessing)
    )
    network = Threshold(0.675, above=(False,), dimensions=2).eval()
    return Model("slices", recipe, {}, "", network)


# The papers' networks, small, against the network called by hand


def real_model(name: str, recipe_name: str, **inference: object) -> Model:
    """Random weights; the whole plane, or volume, is one window."""
    recipe = simple(recipe_name, prepass=None, flips=(1, 2), **inference)
    divisor = 128 if name == "msa" else 16
    flat = (1, divisor, divisor) if name != "dpc" else (divisor,) * 3
    preprocessing = replace(recipe.preprocessing, pad_multiple=flat, pad_minimum=(1, 1, 1))
    channels = {"sigmoid": len(recipe.targets), "softmax": 3}[recipe.inference.activation]
    network = randomize_norms(small(name, out_channels=channels)).eval()
    recipe = replace(recipe, patch=None, preprocessing=preprocessing)
    return Model(name, recipe, {}, "one file", network)


def by_hand(model: Model, hu: np.ndarray, flips: tuple[int, ...]) -> np.ndarray:
    """Mean probabilities (C, z, y, x) of the mirrored images."""
    image = torch.from_numpy((np.clip(hu, -200, 200) + 200) / 400)
    activation = {"sigmoid": torch.sigmoid, "softmax": lambda logits: logits.softmax(1)}
    results = []
    for axes in flip_sets(flips):
        turned = image.flip(axes)
        with torch.inference_mode():
            if model.network.dimensions == 2:
                logits = torch.cat([model.network(piece[None, None]) for piece in turned])
                logits = logits.transpose(0, 1)[None]
            else:
                logits = model.network(turned[None, None])
        values = activation[model.recipe.inference.activation](logits)[0]
        results.append(values.flip([axis + 1 for axis in axes]))
    return torch.stack(results).mean(dim=0).numpy()


REAL = pytest.mark.parametrize(
    ("name", "recipe", "shape"),
    [
        ("rmau", "rmau-net", (3, 32, 48)),
        ("msa", "msa-unet", (2, 128, 128)),
        ("dpc", "dpc-net", (16, 32, 48)),
    ],
)


@REAL
@pytest.mark.parametrize("flips", [(), (1, 2)], ids=["plain", "flips"])
def test_a_stage_gives_what_the_network_called_by_hand_gives(
    name: str, recipe: str, shape: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    hu = np.random.default_rng(0).uniform(-250, 250, shape).astype(np.float32)
    model = real_model(name, recipe)
    values = by_hand(model, hu, flips)
    if len(values) == 3:
        liver, tumor = values[1] + values[2], values[2]
        expected = {"liver": values.argmax(axis=0) > 0, "tumor": values.argmax(axis=0) == 2}
    else:
        # Half of the voxels on each side of the threshold, whatever the random weights.
        threshold = float(np.median(values))
        model = real_model(name, recipe, threshold=threshold)
        liver, tumor = values[0], values[-1]
        expected = {
            "liver": liver >= threshold,
            "tumor": (liver >= threshold) & (tumor >= threshold),
        }
    result = run(volume_of(hu), model, flips=bool(flips))
    assert list(result.masks) == list(model.recipe.targets)
    for target, probability in (("liver", liver), ("tumor", tumor)):
        if target in model.recipe.targets:
            np.testing.assert_allclose(result.probabilities[target], probability, atol=1e-3)
            wrong = result.masks[target] != expected[target]
            assert wrong.mean() < 1e-3, "but for rounding at the threshold"
            assert 0 < result.masks[target].sum() < hu.size


@pytest.mark.parametrize(("name", "recipe"), [("rmau", "rmau-net"), ("dpc", "dpc-net")])
def test_the_papers_joint_networks_serve_in_all_roles(name: str, recipe: str) -> None:
    hu = np.random.default_rng(1).uniform(-250, 250, (16, 32, 48)).astype(np.float32)
    volume, model = volume_of(hu), real_model(name, recipe)
    if model.recipe.inference.activation == "sigmoid":
        threshold = float(np.median(by_hand(model, hu, ())))
        model = real_model(name, recipe, threshold=threshold)
    other = replace(model, sha256="another file")
    once = segment(volume, model, model, device="cpu", backend="torch", probabilities=True)
    twice = segment(volume, model, other, device="cpu", backend="torch", probabilities=True)
    assert {0, 1, 2} == set(np.unique(once.labels))
    assert np.array_equal(once.labels, twice.labels)
    assert np.array_equal(once.liver_probability, twice.liver_probability)
    assert (len(once.timings_s), len(twice.timings_s)) == (1, 2)

    alone = segment(volume, liver_model(), model, device="cpu", backend="torch")
    in_liver = segment(volume, liver_model(), tumor_model(), device="cpu", backend="torch").labels
    assert np.array_equal(alone.labels > 0, in_liver > 0)
    both = (once.labels > 0) & (alone.labels > 0)
    assert both.any()
    assert np.array_equal((alone.labels == 2)[both], (once.labels == 2)[both])


# Any grid


@pytest.mark.parametrize("shape", [(1, 40, 48), (1, 200, 300), (3, 200, 300), (2, 33, 31)])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_single_slices_and_planes_of_any_size_are_taken(
    shape: tuple[int, int, int], activation: str
) -> None:
    """In windows of 256x256 as RMAU-Net has them, whatever is smaller padded with air."""
    hu = np.full(shape, BODY, np.float32)
    hu[:, 5:-6, 7:-3] = LIVER
    hu[:, 8:12, 9:14] = LESION
    model = joint_model(2, activation)
    recipe = model.recipe
    preprocessing = replace(recipe.preprocessing, pad_minimum=(1, 256, 256))
    model = replace(model, recipe=replace(recipe, patch=(1, 256, 256), preprocessing=preprocessing))
    masks = run(volume_of(hu), model).masks
    assert np.array_equal(masks["liver"], hu != BODY)
    assert np.array_equal(masks["tumor"], hu == LESION)
    windows = 2 if shape[2] > 256 else 1
    assert len(model.network.inputs) == windows * shape[0]
    assert model.network.inputs[0].shape == (1, 1, 256, 256)


def test_openvino_runs_networks_of_slices() -> None:
    volume, labels = phantom()
    model = joint_model(2)
    result = segment(volume, model, model, device="cpu", backend="openvino")
    assert np.array_equal(result.labels, labels)


# The first look


@settings(max_examples=25, deadline=None)
@given(
    first=st.integers(0, 36),
    length=st.integers(4, 12),
    activation=st.sampled_from(["sigmoid", "softmax"]),
)
def test_a_first_look_changes_nothing_for_a_liver_as_thick_as_its_steps(
    first: int, length: int, activation: str
) -> None:
    hu = np.full((40, 20, 24), BODY, np.float32)
    hu[first : first + length, 5:15, 6:18] = LIVER
    hu[first + 1 : first + length - 1, 8:10, 9:12] = LESION
    volume = volume_of(hu)
    plain = run(volume, joint_model(2, activation))
    looked = run(volume, joint_model(2, activation, prepass=EVERY_FOURTH))
    for target in ("liver", "tumor"):
        assert np.array_equal(looked.masks[target], plain.masks[target])
    assert plain.masks["liver"].any()


def test_a_first_look_spares_what_is_far_from_the_liver() -> None:
    """80 slices, the liver on 34 to 43: looked at are 0, 4, ..., 76, then 36 - 6 to 40 + 6."""
    volume, labels = long_phantom(80)
    model = joint_model(2, prepass=EVERY_FOURTH)
    result = run(volume, model)
    assert np.array_equal(result.masks["liver"], labels > 0)
    assert np.array_equal(result.masks["tumor"], labels == 2)
    assert len(model.network.inputs) == 4 * 20 + 17, "the liver fits into one window"
    # The body around the liver is tumor to this network, where it was looked at.
    seen = np.flatnonzero(result.probabilities["tumor"].any(axis=(1, 2)))
    assert (seen[0], seen[-1]) == (30, 46)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_beyond_the_liver_s_surroundings_everything_is_background(activation: str) -> None:
    """The liver's rows 10 to 27 and columns 12 to 33 fit with 4 around into one window of 32."""
    volume, labels = long_phantom(80)
    model = joint_model(2, activation, prepass=EVERY_FOURTH)
    result = run(volume, model)
    assert np.array_equal(result.masks["liver"], labels > 0)
    assert model.network.inputs[-1].shape == (1, 1, 32, 32)
    if activation == "sigmoid":  # to which all that is darker than liver is tumor
        shown = np.argwhere(result.probabilities["tumor"] > 0.5)
        assert shown.min(axis=0).tolist() == [30, 3, 7]
        assert shown.max(axis=0).tolist() == [46, 34, 38]


def test_a_larger_liver_is_covered_by_several_windows() -> None:
    volume, _ = long_phantom(80)
    volume.hu[30:50, 5:36, 5:44] = LIVER
    volume.hu[38:41, 30:33, 38:42] = LESION
    model = joint_model(2, prepass=EVERY_FOURTH)
    result = run(volume, model)
    assert np.array_equal(result.masks["liver"], np.isin(volume.hu, (LIVER, LESION)))
    assert np.array_equal(result.masks["tumor"], volume.hu == LESION)


def test_a_first_look_that_finds_nothing_ends_the_search() -> None:
    volume, labels = long_phantom(80)
    volume.hu[labels > 0] = BODY
    model = joint_model(2, prepass=EVERY_FOURTH)
    result = run(volume, model)
    assert not any(mask.any() for mask in result.masks.values())
    assert slices_seen(model) == 20


def test_a_short_scan_is_looked_at_in_full() -> None:
    """Twice the margin or less: a liver on any slice would need them all."""
    hu = np.full((12, 40, 48), BODY, np.float32)
    hu[6, 10:20, 12:24] = LIVER
    model = joint_model(2, prepass=EVERY_FOURTH)
    assert np.array_equal(run(volume_of(hu), model).masks["liver"], hu == LIVER)
    assert slices_seen(model) == 12


def test_networks_of_volumes_take_no_first_look() -> None:
    volume, labels = long_phantom(80)
    model = joint_model(3, prepass=EVERY_FOURTH)
    assert np.array_equal(run(volume, model).masks["liver"], labels > 0)
    assert len(model.network.inputs) == 4 * 9, "windows of 16 slices by 8"


def test_progress_rises_over_the_first_look_and_the_rest() -> None:
    volume, _ = long_phantom(80)
    heard: list[float] = []
    run(volume, joint_model(2, prepass=EVERY_FOURTH), on_progress=heard.append)
    assert heard == sorted(heard)
    assert (heard[0], heard[-1]) == (0, 1)
    assert heard.count(1) == 1
    # A quarter of the slices is looked at: a quarter of the progress.
    assert sum(0 < fraction < 0.25 for fraction in heard) == 4 * 20 - 1
    assert sum(0.25 < fraction < 1 for fraction in heard) == 17 - 1


def test_the_first_look_can_be_cancelled() -> None:
    volume, _ = long_phantom(80)
    model = joint_model(2, prepass=EVERY_FOURTH)

    def cancel(fraction: float) -> None:
        if fraction > 0.1:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(volume, model, on_progress=cancel)
    assert 0 < len(model.network.inputs) < 4 * 20


# A liver that is given


@pytest.mark.parametrize(
    "preprocessing",
    [
        {},
        {"resampling": Spacing((1.0, None, None))},
        {"resampling": Spacing((4.0, 1.2, 1.2))},
        {"resampling": PixelRange(smallest_mm=0.5, largest_mm=0.7, target_mm=0.6)},
        {"resampling": FixedShape((15, 32, 64))},
        {"orientation": "LPI", "pad_minimum": (27, 32, 64)},
    ],
    ids=["as it is", "finer", "coarser", "plane", "fixed", "upside down"],
)
def test_a_network_of_slices_sees_only_those_that_the_liver_lies_on(
    preprocessing: dict[str, object],
) -> None:
    """And the result is that of all slices."""
    volume, labels = phantom()
    liver = labels > 0
    every, spared = slice_tumor_model(**preprocessing), slice_tumor_model(**preprocessing)
    expected = run(volume, every).masks["tumor"] & liver
    found = run(volume, spared, liver)
    assert list(found.masks) == ["tumor"]
    assert np.array_equal(found.masks["tumor"], expected)
    assert expected.any()
    assert len(spared.network.inputs) < 0.7 * len(every.network.inputs)


def test_a_first_look_is_not_taken_where_the_liver_is_given() -> None:
    volume, labels = long_phantom(80)
    model = joint_model(2, prepass=EVERY_FOURTH)
    result = run(volume, model, labels > 0)
    assert list(result.masks) == ["tumor"]
    assert np.array_equal(result.masks["tumor"], labels == 2)
    assert len(model.network.inputs) == 10, "the liver fits into one window"


def test_a_network_of_volumes_sees_all_of_the_ct() -> None:
    """Its windows, and so its answer, would be others on a part of it."""
    volume, labels = phantom()
    model = joint_model(3)
    assert np.array_equal(run(volume, model, labels > 0).masks["tumor"], labels == 2)
    assert len(model.network.inputs) == 4 * 3


# What does not fit


@pytest.mark.parametrize(
    ("activation", "network", "words"),
    [
        ("softmax", both_targets(3), ("expected 3 channel(s)", "softmax", "[2, 16, 32, 32]")),
        ("sigmoid", Threshold(LIVER_FROM), ("expected 2 channel(s)", "liver and tumor", "[1, 16")),
    ],
)
def test_other_channels_than_the_recipe_s_are_refused(
    activation: str, network: Threshold, words: tuple[str, ...]
) -> None:
    volume, _ = phantom()
    model = replace(joint_model(3, activation), network=network.eval())
    with pytest.raises(InputError, match="Model fake-both-a: ") as caught:
        run(volume, model)
    assert all(word in str(caught.value) for word in words)


def test_several_channels_for_one_target_are_refused() -> None:
    volume, _ = phantom()
    with pytest.raises(InputError, match=r"Model fake-liver: expected 1 channel.*\[2, "):
        run(volume, liver_model(network=both_targets().eval()))


def test_air_alone_asks_no_network() -> None:
    for dimensions in (2, 3):
        model = joint_model(dimensions, prepass=EVERY_FOURTH)
        heard: list[float] = []
        result = run(volume_of(np.full((30, 20, 20), AIR)), model, on_progress=heard.append)
        assert not any(mask.any() for mask in result.masks.values())
        assert not any(values.any() for values in result.probabilities.values())
        assert model.network.inputs == []
        assert heard[-1] == 1


# Less and less memory. There is no GPU here: a fake runs out of the memory of one.


CUDA = torch.device("cuda")


def model_with_batch(batch: int) -> Model:
    model = liver_model()
    made = Predictor(lambda x: x, CUDA, batch, "")
    return replace(model, predictors={"any": made})


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried", "MPS backend out of memory"])
def test_fewer_windows_then_sums_on_the_cpu_then_all_there(
    message: str, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[Way] = []

    def attempt(way: Way) -> Found:
        tried.append(way)
        if way.device.type != "cpu":
            raise torch.OutOfMemoryError(message)
        return {"liver": np.ones(1)}, {}

    masks, _ = with_less_and_less_memory(attempt, model_with_batch(5), CUDA)
    assert masks.keys() == {"liver"}
    assert tried == [
        Way(CUDA),
        Way(CUDA, 2),
        Way(CUDA, 1),
        Way(CUDA, 1, sums_on_cpu=True),
        Way(CPU),
    ]
    told = [record.message for record in caplog.records]
    assert [text.split("; now ")[1] for text in told] == [
        "2 window(s) at a time",
        "1 window(s) at a time",
        "1 window(s) at a time, added up on the CPU",
        "all on the CPU",
    ]
    assert all("out of memory" in text for text in told)


@pytest.mark.parametrize(
    ("device", "error"),
    [(CPU, torch.OutOfMemoryError("out of memory")), (CUDA, RuntimeError("no kernel"))],
)
def test_what_less_memory_cannot_mend_is_told(device: torch.device, error: RuntimeError) -> None:
    def attempt(way: Way) -> Found:
        raise error

    with pytest.raises(RuntimeError) as caught:
        with_less_and_less_memory(attempt, model_with_batch(4), device)
    assert caught.value is error


def test_a_stage_runs_as_many_windows_at_a_time_as_its_predictor_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And gives what single windows give."""
    volume, _ = phantom()
    model = liver_model()
    alone = run(volume, model)
    seen = {len(image) for image in model.network.inputs}
    assert seen == {1}

    def three_at_a_time(*arguments: object) -> Predictor:
        return replace(predictor(*arguments), batch=3)

    monkeypatch.setattr("LiverTumorSegLib.stage.predictor", three_at_a_time)
    model = liver_model()
    together = run(volume, model)
    assert max(len(image) for image in model.network.inputs) == 3
    assert (together.masks["liver"] == alone.masks["liver"]).all()
    assert (together.probabilities["liver"] == alone.probabilities["liver"]).all()
