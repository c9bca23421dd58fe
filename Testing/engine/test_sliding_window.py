"""Sliding windows: blends worked out by hand, and networks whose answer is known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from LiverTumorSegLib.errors import Cancelled
from LiverTumorSegLib.sliding_window import (
    as_channels_last,
    blend_weights,
    flip_sets,
    probabilities,
    sliding_window,
    window_starts,
)

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


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
    network = Numbered(0.2, 0.4, 0.9)
    result = sliding_window(network, np.ones(7, np.float32), (4,), overlap=0.5, blend="uniform")
    expected = [0.2, 0.2, 0.3, 0.5, 0.65, 0.65, 0.9]
    np.testing.assert_allclose(result, [expected], rtol=1e-6)
    assert result.dtype == np.float32


def test_a_gaussian_blend_by_hand() -> None:
    """Sigma is half a voxel: weights a = exp(-0.5) and b = exp(-4.5) inside and at the ends."""
    inner, outer = math.exp(-0.5), math.exp(-4.5)
    network = Numbered(0.2, 0.8)
    result = sliding_window(network, np.ones(6, np.float32), (4,), overlap=0.5, blend="gaussian")
    left = (inner * 0.2 + outer * 0.8) / (inner + outer)
    right = (outer * 0.2 + inner * 0.8) / (inner + outer)
    np.testing.assert_allclose(result, [[0.2, 0.2, left, right, 0.8, 0.8]], rtol=1e-6)


def test_a_blend_in_the_plane_by_hand() -> None:
    """Windows of 2x2 one apart on 3x3: corners once, edges twice, the middle four times."""
    network = Numbered(0.1, 0.2, 0.3, 0.8)
    result = sliding_window(
        network, np.ones((3, 3), np.float32), (2, 2), overlap=0.5, blend="uniform"
    )
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
    result = sliding_window(identity, image, window, overlap=0.6, blend=blend)
    assert result.shape == (1, *shape)
    np.testing.assert_allclose(result[0], sigmoid(image), atol=1e-6)


def test_windows_come_in_order_with_the_image_s_values() -> None:
    image = np.arange(1, 7, dtype=np.float32)
    network = Numbered(0.5, 0.5)
    sliding_window(network, image, (4,), overlap=0.5, blend="uniform")
    assert [seen.tolist() for seen in network.seen] == [[1, 2, 3, 4], [3, 4, 5, 6]]


# Empty windows


def test_windows_of_nothing_are_not_predicted() -> None:
    """Only windows 0-1 and 4-5 hold something; the answer between them is 0."""
    image = np.array([0, 1, 0, 0, 2, 0], np.float32)
    network = Numbered(0.6, 0.7)
    result = sliding_window(network, image, (2,), overlap=0.0, blend="uniform")
    np.testing.assert_allclose(result, [[0.6, 0.6, 0, 0, 0.7, 0.7]], rtol=1e-6)
    assert len(network.seen) == 2


def test_a_skipped_window_does_not_dilute_its_neighbors() -> None:
    image = np.array([1, 0, 0], np.float32)
    network = Numbered(0.6)
    result = sliding_window(network, image, (2,), overlap=0.5, blend="uniform")
    np.testing.assert_allclose(result, [[0.6, 0.6, 0]], rtol=1e-6)


def test_an_empty_image_needs_no_network() -> None:
    fractions: list[float] = []
    result = sliding_window(
        Numbered(),
        np.zeros((4, 6), np.float32),
        (2, 2),
        overlap=0.5,
        blend="gaussian",
        on_progress=fractions.append,
    )
    assert result.shape == (1, 4, 6)
    assert result.dtype == np.float32
    assert not result.any()
    assert fractions == [1.0]


# Outputs


class Doubled(nn.Module):
    """Logits on twice the columns, as the head of a network on a halved grid."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=3)


@pytest.mark.parametrize("blend", ["gaussian", "uniform"])
def test_an_output_may_be_finer_than_the_image(blend: str) -> None:
    image = noise((5, 7))
    result = sliding_window(Doubled(), image, (4, 4), overlap=0.5, blend=blend)
    assert result.shape == (1, 5, 14)
    np.testing.assert_allclose(result[0], sigmoid(image).repeat(2, axis=1), atol=1e-6)


def test_several_channels_are_a_softmax() -> None:
    image = noise((5,))
    result = sliding_window(
        lambda x: torch.cat([x, 2 * x, 0 * x], dim=1), image, (4,), overlap=0.5, blend="gaussian"
    )
    exponentials = np.exp([image, 2 * image, 0 * image])
    np.testing.assert_allclose(result, exponentials / exponentials.sum(axis=0), atol=1e-6)


def test_one_channel_is_a_sigmoid() -> None:
    logits = torch.tensor([-1.0, 0.0, 3.0]).reshape(1, 1, 3)
    expected = [1 / (1 + math.e), 0.5, 1 / (1 + math.exp(-3))]
    torch.testing.assert_close(probabilities(logits).flatten(), torch.tensor(expected))


def test_half_precision_logits_become_float32_probabilities() -> None:
    image = noise((4,))
    result = sliding_window(
        lambda x: x.to(torch.bfloat16), image, (4,), overlap=0.5, blend="uniform"
    )
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
    plain = sliding_window(position, image, (2, 2), overlap=0.5, blend="uniform")
    np.testing.assert_allclose(plain[0], [[0.2, 0.8]] * 2, rtol=1e-6)
    rows = sliding_window(position, image, (2, 2), overlap=0.5, blend="uniform", flips=(0,))
    np.testing.assert_allclose(rows[0], [[0.2, 0.8]] * 2, rtol=1e-6)
    both = sliding_window(position, image, (2, 2), overlap=0.5, blend="uniform", flips=(0, 1))
    np.testing.assert_allclose(both[0], [[0.5, 0.5]] * 2, rtol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.sets(st.integers(0, 2)))
def test_flips_change_nothing_for_a_network_without_a_preferred_side(axes: set[int]) -> None:
    image = noise((3, 4, 5))
    result = sliding_window(
        identity, image, (2, 3, 4), overlap=0.5, blend="gaussian", flips=sorted(axes)
    )
    np.testing.assert_allclose(result[0], sigmoid(image), atol=1e-6)


# Progress


def test_progress_rises_from_0_to_1_in_even_steps() -> None:
    fractions: list[float] = []
    sliding_window(
        identity,
        np.ones(10, np.float32),
        (4,),
        overlap=0.5,
        blend="uniform",
        on_progress=fractions.append,
    )
    assert fractions == [0, 0.25, 0.5, 0.75, 1]


def test_raising_in_the_hook_stops_before_the_next_window() -> None:
    network = Numbered(*[0.5] * 9)

    def cancel(fraction: float) -> None:
        if fraction >= 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        sliding_window(
            network,
            np.ones(10, np.float32),
            (4,),
            overlap=0.5,
            blend="uniform",
            on_progress=cancel,
        )
    assert len(network.seen) == 2


@pytest.mark.parametrize("shape", [(3, 8), (8, 3)])
def test_an_image_smaller_than_the_window_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="smaller than the window") as caught:
        sliding_window(identity, np.ones(shape, np.float32), (4, 4), overlap=0, blend="uniform")
    assert str(shape) in str(caught.value)
    assert "(4, 4)" in str(caught.value)


def test_other_dimensions_than_the_window_s_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        sliding_window(identity, np.ones((4, 4), np.float32), (4,), overlap=0, blend="uniform")


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
