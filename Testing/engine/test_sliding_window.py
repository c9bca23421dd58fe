"""Sliding windows: blends worked out by hand, and networks whose answer is known beforehand."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from LiverTumorSegLib.errors import Cancelled
from LiverTumorSegLib.sliding_window import (
    ACTIVATIONS,
    Output,
    as_channels_last,
    blend_weights,
    flip_sets,
    predict_slices,
    window_starts,
)

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def predict(
    network: Callable[[Tensor], Tensor],
    image: np.ndarray,
    window: Sequence[int],
    *,
    output: Output | None = None,
    low: float = 0.0,
    overlap: float = 0.5,
    blend: str = "uniform",
    **options: object,
) -> np.ndarray:
    """All slices in one array (C, *image.shape * scale); one sigmoid channel by default."""
    output = output or Output("sigmoid", 1, (1,) * image.ndim)
    settings = {"low": low, "overlap": overlap, "blend": blend, **options}
    return np.stack([*predict_slices(network, image, window, output, **settings)], axis=1)


class Numbered:
    """A network whose n-th window is filled with the n-th of the given probabilities."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.seen: list[np.ndarray] = []

    def __call__(self, x: Tensor) -> Tensor:
        value = self.values[len(self.seen)]
        self.seen.append(x[0, 0].numpy().copy())
        return torch.full_like(x, logit(value))


def identity(x: Tensor) -> Tensor:
    return x


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-2, 2, shape).astype(np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# Windows


@pytest.mark.parametrize(
    ("size", "window", "overlap", "starts"),
    [
        (48, 48, 0.5, [0]),
        (49, 48, 0.5, [0, 1]),
        (72, 48, 0.5, [0, 24]),
        (73, 48, 0.5, [0, 24, 25]),
        (100, 48, 0.5, [0, 24, 48, 52]),
        (10, 4, 0.0, [0, 4, 6]),
        (12, 4, 0.0, [0, 4, 8]),
        (12, 4, 0.75, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (5, 2, 0.99, [0, 1, 2, 3]),
        (24, 10, 0.8, [0, 2, 4, 6, 8, 10, 12, 14]),
        (10, 5, 0.5, [0, 2, 4, 5]),
    ],
)
def test_window_starts(size: int, window: int, overlap: float, starts: list[int]) -> None:
    assert window_starts(size, window, overlap) == starts


@given(st.integers(1, 200), st.integers(0, 150), st.floats(0, 0.99))
def test_windows_cover_everything_and_end_at_the_end(
    window: int, more: int, overlap: float
) -> None:
    size = window + more
    starts = window_starts(size, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == size - window
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= max(1, window - math.floor(window * overlap))).all()


def test_the_paper_s_number_of_windows() -> None:
    """n = ceil((Z - 48) / 24) + 1 for windows of 48 slices at half overlap."""
    for slices in range(48, 300):
        assert len(window_starts(slices, 48, 0.5)) == math.ceil((slices - 48) / 24) + 1


# Weights


def test_uniform_weights_are_1() -> None:
    assert (blend_weights((2, 3), "uniform") == np.ones((2, 3))).all()


def test_gaussian_weights_are_the_product_of_bells_of_an_eighth() -> None:
    weights = blend_weights((4, 8), "gaussian")
    rows = np.exp(-0.5 * ((np.arange(4) - 1.5) / 0.5) ** 2)
    columns = np.exp(-0.5 * (np.arange(8) - 3.5) ** 2)
    np.testing.assert_allclose(weights, np.maximum(np.outer(rows, columns), weights.max() * 1e-4))
    assert weights.dtype == np.float32


def test_gaussian_weights_never_vanish() -> None:
    """A corner that only one window covers must still divide by something."""
    weights = blend_weights((64, 64, 64), "gaussian")
    assert weights.min() == pytest.approx(weights.max() * 1e-4)


def test_an_unknown_blend_is_answered_with_the_choices() -> None:
    with pytest.raises(ValueError, match="'median'.*'gaussian'.*'uniform'"):
        blend_weights((4,), "median")


# Blending


def test_a_uniform_blend_by_hand() -> None:
    """Windows 0-3, 2-5 and 3-6 of a line of seven."""
    result = predict(Numbered(0.2, 0.4, 0.9), np.ones(7, np.float32), (4,))
    expected = [0.2, 0.2, 0.3, 0.5, 0.65, 0.65, 0.9]
    np.testing.assert_allclose(result, [expected], rtol=1e-6)
    assert result.dtype == np.float32


def test_a_gaussian_blend_by_hand() -> None:
    """Sigma is half a voxel: weights a = exp(-0.5) and b = exp(-4.5) inside and at the ends."""
    inner, outer = math.exp(-0.5), math.exp(-4.5)
    result = predict(Numbered(0.2, 0.8), np.ones(6, np.float32), (4,), blend="gaussian")
    left = (inner * 0.2 + outer * 0.8) / (inner + outer)
    right = (outer * 0.2 + inner * 0.8) / (inner + outer)
    np.testing.assert_allclose(result, [[0.2, 0.2, left, right, 0.8, 0.8]], rtol=1e-6)


def test_a_blend_in_the_plane_by_hand() -> None:
    """Windows of 2x2 one apart on 3x3: corners once, edges twice, the middle four times."""
    result = predict(Numbered(0.1, 0.2, 0.3, 0.8), np.ones((3, 3), np.float32), (2, 2))
    expected = [[[0.1, 0.15, 0.2], [0.2, 0.35, 0.5], [0.3, 0.55, 0.8]]]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("blend", ["gaussian", "uniform"])
@pytest.mark.parametrize(
    ("shape", "window"), [((9,), (4,)), ((7, 10), (4, 5)), ((5, 6, 7), (4, 6, 3))]
)
def test_an_identity_network_returns_the_image(
    shape: tuple[int, ...], window: tuple[int, ...], blend: str
) -> None:
    """Whatever the windows, their blend of equal values is that value: nothing is displaced."""
    image = noise(shape)
    result = predict(identity, image, window, low=-3.0, overlap=0.6, blend=blend)
    assert result.shape == (1, *shape)
    np.testing.assert_allclose(result[0], sigmoid(image), atol=1e-6)


def test_windows_come_in_order_with_the_image_s_values() -> None:
    image = np.arange(1, 7, dtype=np.float32)
    network = Numbered(0.5, 0.5)
    predict(network, image, (4,))
    assert [seen.tolist() for seen in network.seen] == [[1, 2, 3, 4], [3, 4, 5, 6]]


class Placed:
    """Logits that depend on the values, their place in the window, the channel and the mean.

    Each voxel is repeated by the scale. A window that is displaced, mirrored or weighted wrongly
    shows in every voxel.
    """

    def __init__(self, output: Output) -> None:
        self.output = output

    def __call__(self, x: Tensor) -> Tensor:
        place = torch.arange(x[0, 0].numel()).reshape(x[0, 0].shape) / x[0, 0].numel()
        logits = [c * place + (c + 1) * x - x.mean() for c in range(self.output.channels)]
        result = torch.cat(logits, dim=1)
        for axis, factor in enumerate(self.output.scale):
            result = result.repeat_interleave(factor, dim=axis + 2)
        return result


def brute_force(
    image: np.ndarray,
    window: Sequence[int],
    output: Output,
    low: float,
    overlap: float,
    blend: str,
    flips: Sequence[int],
) -> np.ndarray:
    """The definition, in double precision and with whole arrays."""
    network = Placed(output)
    shape = [size * factor for size, factor in zip(image.shape, output.scale, strict=True)]
    total, weights = np.zeros((output.channels, *shape)), np.zeros(shape)
    bells = [
        [math.exp(-0.5 * ((i - (w * f - 1) / 2) / (w * f / 8)) ** 2) for i in range(w * f)]
        for w, f in zip(window, output.scale, strict=True)
    ]
    weight = np.array(1.0)
    for bell in bells:
        weight = np.multiply.outer(weight, bell if blend == "gaussian" else np.ones(len(bell)))
    weight = np.maximum(weight, 1e-4 * weight.max())
    for corner in itertools.product(
        *(window_starts(s, w, overlap) for s, w in zip(image.shape, window, strict=True))
    ):
        seen = image[tuple(slice(a, a + w) for a, w in zip(corner, window, strict=True))]
        if (seen <= low).all():
            continue
        probabilities = []
        for axes in flip_sets(flips):
            mirrored = torch.from_numpy(np.flip(seen, axes).copy())[None, None]
            logits = np.exp(network(mirrored)[0].double().numpy())
            one = logits.sum(axis=0) if output.activation == "softmax" else 1 + logits
            probabilities.append(np.flip(logits / one, [axis + 1 for axis in axes]))
        place = tuple(
            slice(a * f, (a + w) * f) for a, w, f in zip(corner, window, output.scale, strict=True)
        )
        total[(slice(None), *place)] += np.mean(probabilities, axis=0) * weight
        weights[place] += weight
    nothing = np.zeros(output.channels)
    nothing[0] = output.activation == "softmax"
    result = np.moveaxis(np.broadcast_to(nothing, (*shape, output.channels)), -1, 0).copy()
    np.divide(total, weights, out=result, where=weights > 0)
    return result


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_windows_give_what_the_definition_gives(data: st.DataObject) -> None:
    axes = range(data.draw(st.integers(1, 3), "axes"))
    window = [data.draw(st.integers(1, 4), "window") for _ in axes]
    shape = [size + data.draw(st.integers(0, 6), "more") for size in window]
    scale = tuple(data.draw(st.integers(1, 2), "scale") for _ in axes)
    activation = data.draw(st.sampled_from(["sigmoid", "softmax"]))
    output = Output(activation, data.draw(st.integers(1, 3), "channels"), scale)
    overlap = data.draw(st.floats(0, 0.9), "overlap")
    blend = data.draw(st.sampled_from(["gaussian", "uniform"]))
    flips = sorted(data.draw(st.sets(st.sampled_from(axes)), "flips"))
    random = np.random.default_rng(data.draw(st.integers(0, 999), "seed"))
    low = data.draw(st.sampled_from([-1.5, 0.0]), "low")
    image = np.maximum(random.uniform(-1, 1, shape).astype(np.float32), np.float32(low))
    air = data.draw(st.integers(0, shape[0]), "slices of air")
    image[:air] = low

    result = predict(
        Placed(output),
        image,
        window,
        output=output,
        low=low,
        overlap=overlap,
        blend=blend,
        flips=flips,
    )
    expected = brute_force(image, window, output, low, overlap, blend, flips)
    assert result.shape == expected.shape
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)


# Slice by slice


def test_a_slice_comes_as_soon_as_no_window_reaches_it() -> None:
    """Windows 0-3, 2-5 and 4-7 of eight slices, of which each becomes two."""
    network = Numbered(*[0.5] * 3)
    slices = predict_slices(
        lambda x: network(x).repeat_interleave(2, dim=2),
        np.ones((8, 3), np.float32),
        (4, 3),
        Output("sigmoid", 1, (2, 1)),
        low=0.0,
        overlap=0.5,
        blend="uniform",
    )
    seen = [len(network.seen) for _ in slices]
    assert seen == [1] * 4 + [2] * 4 + [3] * 8


def test_memory_does_not_grow_with_the_number_of_slices() -> None:
    """Beyond one window's depth, a hundred slices take no more than twenty."""

    def held_slices(count: int) -> float:
        image = np.ones((count, 64, 64), np.float32)
        before, most = tensor_bytes(), 0
        for index, _ in enumerate(
            predict_slices(
                lambda x: torch.cat([x, x], dim=1),
                image,
                (8, 64, 64),
                Output("sigmoid", 2, (1, 1, 1)),
                low=0.0,
                overlap=0.5,
                blend="uniform",
            )
        ):
            if index % 8 == 1:
                most = max(most, tensor_bytes() - before)
        return most / image[0].nbytes

    few = held_slices(20)
    assert few > 7 * 3, "two channels and the weights of one window"
    assert held_slices(100) <= few


def tensor_bytes() -> int:
    """Of all tensors that are alive, each memory counted once."""
    alive = [value for value in gc.get_objects() if issubclass(type(value), Tensor)]
    memories = {tensor.untyped_storage().data_ptr(): tensor for tensor in alive}
    return sum(tensor.untyped_storage().nbytes() for tensor in memories.values())


# Batches


@given(data=st.data(), batch=st.integers(2, 7))
@settings(max_examples=30, deadline=None)
def test_batches_change_nothing(data: st.DataObject, batch: int) -> None:
    """Whole rows, parts of rows, and the rest: the same sums, in the same order."""
    shape = data.draw(st.tuples(st.integers(3, 9), st.integers(3, 8)))
    window = (data.draw(st.integers(1, 3)), data.draw(st.integers(2, 3)))
    image = noise(shape)
    output = Output("softmax", 3, (1, 2))
    sizes = []

    def network(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return torch.cat([Placed(output)(one[None]) for one in x])

    settings = {"output": output, "low": 0.0, "overlap": 0.4, "flips": (1,)}
    one_by_one = predict(network, image, window, **settings)
    windows = len(sizes) // 2
    sizes.clear()
    assert (predict(network, image, window, batch=batch, **settings) == one_by_one).all()
    assert sum(sizes) == 2 * windows
    assert set(sizes[:-2]) <= {batch}


def test_a_batch_is_told_and_given_away_as_a_whole() -> None:
    """Windows 0-1, 1-2, ..., 4-5 of six slices, two at a time."""
    network, told = Numbered(*[0.5] * 3), []
    slices = predict_slices(
        network,
        np.ones((6,), np.float32),
        (2,),
        Output("sigmoid", 1, (1,)),
        low=0.0,
        overlap=0.5,
        blend="uniform",
        batch=2,
        on_progress=told.append,
    )
    seen = [len(network.seen) for _ in slices]
    assert seen == [1, 1, 2, 2, 3, 3]
    assert told == [0.0, 0.4, 0.8, 1.0]


# Empty windows


def test_windows_of_nothing_are_not_predicted() -> None:
    """Only windows 0-1 and 4-5 hold something; the answer between them is 0."""
    image = np.array([0, 1, 0, 0, 2, 0], np.float32)
    network = Numbered(0.6, 0.7)
    result = predict(network, image, (2,), overlap=0.0)
    np.testing.assert_allclose(result, [[0.6, 0.6, 0, 0, 0.7, 0.7]], rtol=1e-6)
    assert len(network.seen) == 2


@pytest.mark.parametrize("low", [-1.0, 0.25])
def test_nothing_is_what_is_not_above_the_value_of_air(low: float) -> None:
    image = np.array([low - 0.5, low, low, low + 0.5], np.float32)
    result = predict(Numbered(0.6), image, (2,), low=low, overlap=0.0)
    np.testing.assert_allclose(result, [[0, 0, 0.6, 0.6]], rtol=1e-6)


def test_nothing_is_background_after_a_softmax() -> None:
    image = np.array([0, 0, 1, 1], np.float32)
    output = Output("softmax", 3, (1,))
    result = predict(lambda x: torch.cat([x, x, x], dim=1), image, (2,), output=output, overlap=0.0)
    third = 1 / 3
    expected = [[1, 1, third, third], [0, 0, third, third], [0, 0, third, third]]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_a_skipped_window_does_not_dilute_its_neighbors() -> None:
    image = np.array([1, 0, 0], np.float32)
    result = predict(Numbered(0.6), image, (2,))
    np.testing.assert_allclose(result, [[0.6, 0.6, 0]], rtol=1e-6)


@pytest.mark.parametrize("output", [Output("sigmoid", 2, (1, 2)), Output("softmax", 3, (1, 1))])
def test_an_empty_image_needs_no_network(output: Output) -> None:
    fractions: list[float] = []
    result = predict(
        Numbered(),
        np.zeros((4, 6), np.float32),
        (2, 2),
        output=output,
        on_progress=fractions.append,
    )
    assert result.shape == (output.channels, 4, 6 * output.scale[1])
    assert result.dtype == np.float32
    assert (result[0] == (output.activation == "softmax")).all()
    assert not result[1:].any()
    assert fractions == [1.0]


# Outputs


class Doubled(nn.Module):
    """Logits on twice the columns, as the head of a network on a halved grid."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=3)


@pytest.mark.parametrize("blend", ["gaussian", "uniform"])
def test_an_output_may_be_finer_than_the_image(blend: str) -> None:
    image = noise((5, 7))
    output = Output("sigmoid", 1, (1, 2))
    result = predict(Doubled(), image, (4, 4), output=output, low=-3.0, blend=blend)
    assert result.shape == (1, 5, 14)
    np.testing.assert_allclose(result[0], sigmoid(image).repeat(2, axis=1), atol=1e-6)


def test_channels_after_a_softmax_share_1_and_after_a_sigmoid_stand_alone() -> None:
    logits = torch.tensor([[-1.0], [0.0], [3.0]])[None]
    alone = [1 / (1 + math.e), 0.5, 1 / (1 + math.exp(-3))]
    total = math.exp(-1) + 1 + math.exp(3)
    shared = [math.exp(-1) / total, 1 / total, math.exp(3) / total]
    for name, expected in (("sigmoid", alone), ("softmax", shared)):
        got = ACTIVATIONS[name](logits).flatten()
        torch.testing.assert_close(got, torch.tensor(expected))


def test_half_precision_logits_become_float32_probabilities() -> None:
    image = noise((4,))
    result = predict(lambda x: x.to(torch.bfloat16), image, (4,), low=-3.0)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0], sigmoid(image), atol=0.01)


# Flips


def test_all_subsets_of_axes_are_mirrored() -> None:
    assert list(flip_sets(())) == [()]
    assert list(flip_sets((1, 2))) == [(), (1,), (2,), (1, 2)]
    assert len(list(flip_sets((0, 1, 2)))) == 8


def test_mirrored_predictions_are_turned_back_and_averaged() -> None:
    """A network that answers with the position: 0.2 at the start of a line, 0.8 at its end."""

    def position(x: Tensor) -> Tensor:
        line = torch.tensor([logit(0.2), logit(0.8)])
        return line.expand_as(x)

    image = np.ones((2, 2), np.float32)
    plain = predict(position, image, (2, 2))
    np.testing.assert_allclose(plain[0], [[0.2, 0.8]] * 2, rtol=1e-6)
    rows = predict(position, image, (2, 2), flips=(0,))
    np.testing.assert_allclose(rows[0], [[0.2, 0.8]] * 2, rtol=1e-6)
    both = predict(position, image, (2, 2), flips=(0, 1))
    np.testing.assert_allclose(both[0], [[0.5, 0.5]] * 2, rtol=1e-6)


def test_probabilities_are_averaged_and_not_logits() -> None:
    """0.1 and 0.6 have the mean 0.35; their logits' would be 0.29."""

    def position(x: Tensor) -> Tensor:
        return torch.tensor([logit(0.1), logit(0.6)]).expand_as(x)

    result = predict(position, np.ones(2, np.float32), (2,), flips=(0,))
    np.testing.assert_allclose(result, [[0.35, 0.35]], rtol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.sets(st.integers(0, 2)))
def test_flips_change_nothing_for_a_network_without_a_preferred_side(axes: set[int]) -> None:
    image = noise((3, 4, 5))
    options = {"low": -3.0, "blend": "gaussian", "flips": sorted(axes)}
    result = predict(identity, image, (2, 3, 4), **options)
    np.testing.assert_allclose(result[0], sigmoid(image), atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.sets(st.integers(0, 2)))
def test_with_flips_a_mirrored_image_gives_the_mirrored_result(axes: set[int]) -> None:
    """Of any network, here of random convolutions; without flips it does not.

    The windows lie alike from both ends, for they are even and so are the steps.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1)).eval()
    image = noise((6, 8, 10))
    options = {"output": Output("sigmoid", 2, (1, 1, 1)), "low": -3.0, "blend": "gaussian"}
    mirror = sorted(axes)
    turned = [axis + 1 for axis in mirror]
    for flips, equivariant in (((0, 1, 2), True), ((), not axes)):
        plain = predict(network, image, (4, 4, 4), flips=flips, **options)
        mirrored = predict(network, np.flip(image, mirror), (4, 4, 4), flips=flips, **options)
        same = np.allclose(mirrored, np.flip(plain, turned), atol=1e-6)
        assert same == equivariant


# Progress


def test_progress_rises_from_0_to_1_in_even_steps() -> None:
    fractions: list[float] = []
    predict(identity, np.ones(10, np.float32), (4,), on_progress=fractions.append)
    assert fractions == [0, 0.25, 0.5, 0.75, 1]


def test_progress_counts_predicted_windows_only() -> None:
    fractions: list[float] = []
    image = np.array([0, 0, 1, 1, 0, 0, 1, 1, 0, 0], np.float32)
    predict(identity, image, (2,), overlap=0.0, on_progress=fractions.append)
    assert fractions == [0, 0.5, 1]


def test_raising_in_the_hook_stops_before_the_next_window() -> None:
    network = Numbered(*[0.5] * 9)

    def cancel(fraction: float) -> None:
        if fraction >= 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        predict(network, np.ones(10, np.float32), (4,), on_progress=cancel)
    assert len(network.seen) == 2


@pytest.mark.parametrize("shape", [(3, 8), (8, 3)])
def test_an_image_smaller_than_the_window_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="smaller than the window") as caught:
        predict(identity, np.ones(shape, np.float32), (4, 4))
    assert str(shape) in str(caught.value)
    assert "(4, 4)" in str(caught.value)


def test_other_dimensions_than_the_window_s_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        predict(identity, np.ones((4, 4), np.float32), (4,))


# Layout


def test_channels_last_is_a_layout_and_keeps_the_weights() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(2, 3, 3), nn.ConvTranspose3d(3, 2, 2, stride=2))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = torch.randn(1, 2, 5, 5, 5)
    with torch.no_grad():
        expected = network(x)
        assert as_channels_last(network) is network
        torch.testing.assert_close(network(x), expected)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    for module in network:
        assert module.weight.is_contiguous(memory_format=torch.channels_last_3d)
