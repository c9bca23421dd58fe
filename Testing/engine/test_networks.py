"""One contract for every network of NETWORKS and each of its variants."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from LiverTumorSegLib.networks import NETWORKS, build
from Testing.engine.network_cases import (
    CASES,
    COUNTS,
    FORMS,
    PRECISIONS,
    assert_same,
    case_of,
    parameters,
    randomize_norms,
    scale_of,
    small,
    smallest,
)

ALL = pytest.mark.parametrize("name", [case_of(name) for name in CASES])
EVERY_FORM = pytest.mark.parametrize(("name", "form"), FORMS)
DEPLOYABLE = pytest.mark.parametrize(
    "name", sorted(name for name in NETWORKS if hasattr(NETWORKS[name], "deploy"))
)


def in_a_row(chain: nn.Sequential, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The named modules of a chain, those of chains within it included."""
    for place, module in chain.named_children():
        if isinstance(module, nn.Sequential):
            yield from in_a_row(module, f"{name}.{place}")
        else:
            yield f"{name}.{place}", module


def biases_before_a_norm(network: nn.Module) -> set[str]:
    """Biases that a norm subtracts again, so that their gradient is 0 up to rounding."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    return {
        f"{before}.bias"
        for name, chain in network.named_modules()
        if isinstance(chain, nn.Sequential)
        for (before, _), (_, after) in itertools.pairwise(in_a_row(chain, name))
        if isinstance(after, norms)
    }


def test_every_network_has_a_stated_parameter_count() -> None:
    assert {name for name, case in CASES.items() if case.counts} == set(NETWORKS)


@pytest.mark.parametrize(("name", "arguments", "trained", "deployed"), COUNTS)
def test_parameter_counts_are_the_papers(
    name: str, arguments: dict, trained: int, deployed: int | None
) -> None:
    with torch.device("meta"):
        network = build(name, **arguments)
        assert parameters(network) == trained
        assert hasattr(network, "deploy") == (deployed is not None)
        if deployed is not None:
            assert parameters(network.deploy()) == deployed


@EVERY_FORM
def test_logits_have_the_input_s_grid_times_the_head_scale(name: str, form: dict) -> None:
    network = small(name, out_channels=2, **form).eval()
    grid = smallest(network)
    with torch.no_grad():
        logits = network(torch.rand(2, 1, *grid))
    assert logits.shape == (2, 2, *(g * s for g, s in zip(grid, scale_of(network), strict=True)))
    assert logits.isfinite().all()
    assert (logits < 0).any(), "a sigmoid belongs into the loss and the predictor"


@EVERY_FORM
def test_channels_in_and_out_are_the_arguments(name: str, form: dict) -> None:
    network = small(name, in_channels=2, out_channels=3, **form).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 2, *smallest(network))).shape[:2] == (1, 3)


@EVERY_FORM
def test_training_mode_returns_lists_of_logits_from_fine_to_coarse(name: str, form: dict) -> None:
    network = small(name, **form)
    grid = tuple(2 * size for size in smallest(network))  # so that no norm sees a single voxel
    image = torch.rand(2, 1, *grid)
    outputs = network(image)
    batch, channels, *fine = network.eval()(image).shape
    coarser = {
        key: [tuple(a / b for a, b in zip(fine, logits.shape[2:], strict=True)) for logits in found]
        for key, found in outputs.items()
    }
    assert all(
        logits.shape[:2] == (batch, channels) for found in outputs.values() for logits in found
    )
    assert all(len(set(factors)) == 1 for found in coarser.values() for factors in found)
    factors = {key: [factors[0] for factors in found] for key, found in coarser.items()}
    assert all(found == sorted(found) and found[0] >= 1 for found in factors.values())
    if not form:
        assert factors == CASES[name].outputs


@EVERY_FORM
def test_gradient_reaches_every_parameter(name: str, form: dict) -> None:
    network = small(name, **form)
    outputs = network(torch.rand(2, 1, *(2 * size for size in smallest(network))))
    sum(logits.square().mean() for found in outputs.values() for logits in found).backward()
    cancelled = biases_before_a_norm(network)
    for key, parameter in network.named_parameters():
        idle = key.startswith(CASES[name].idle)
        assert (parameter.grad is None) == idle, key
        if idle:
            continue
        assert parameter.grad.isfinite().all(), key
        assert key in cancelled or parameter.grad.abs().max() > 0, key


@EVERY_FORM
def test_items_of_a_batch_do_not_mix_in_evaluation(name: str, form: dict) -> None:
    network = randomize_norms(small(name, **form)).double().eval()
    images = torch.rand(3, 1, *smallest(network), dtype=torch.float64)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    assert_same(together, alone, 1e-12)


@EVERY_FORM
def test_a_seed_makes_the_same_network_again(name: str, form: dict) -> None:
    first, second = small(name, **form).state_dict(), small(name, **form).state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@ALL
@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_an_odd_size_is_refused_with_the_size_that_fits(name: str, axis: int) -> None:
    network = small(name).eval()
    if -axis > network.dimensions:
        pytest.skip("a network of slices")
    good = [2 * size for size in smallest(network)]
    bad = list(good)
    bad[axis] -= 1
    with pytest.raises(ValueError, match="multiple of") as caught:
        network(torch.rand(1, 1, *bad))
    assert str(tuple(bad)) in str(caught.value)
    assert str(tuple(good)) in str(caught.value)


@ALL
@pytest.mark.parametrize(
    ("channels", "more_axes"), [(2, 0), (1, -1), (1, 1)], ids=["channels", "an axis less", "more"]
)
def test_other_channels_and_dimensions_are_refused(
    name: str, channels: int, more_axes: int
) -> None:
    network = small(name).eval()
    axes = network.dimensions + more_axes
    with pytest.raises(ValueError, match=r"\(B, 1, (D, )?H, W\)"):
        network(torch.rand(1, channels, *[16] * axes))


def test_an_unknown_network_is_answered_with_the_choices() -> None:
    with pytest.raises(ValueError, match="unet4d") as caught:
        build("unet4d")
    assert all(name in str(caught.value) for name in NETWORKS)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="depth"):
        build("unet3d", depth=5)


@DEPLOYABLE
@PRECISIONS
def test_deploying_keeps_the_function(name: str, dtype: torch.dtype, tolerance: float) -> None:
    network = randomize_norms(small(name)).to(dtype).eval()
    image = torch.rand(2, 1, *smallest(network), dtype=dtype)
    with torch.no_grad():
        before = network(image)
        deployed = network.deploy()
        after = deployed(image)
    assert deployed is network
    assert not network.training
    assert after.dtype == dtype
    assert_same(before, after, tolerance)


@DEPLOYABLE
def test_deploying_twice_changes_nothing(name: str) -> None:
    network = randomize_norms(small(name)).deploy()
    once = copy.deepcopy(network.state_dict())
    twice = network.deploy().state_dict()
    assert list(once) == list(twice)
    assert all(torch.equal(value, twice[key]) for key, value in once.items())


@DEPLOYABLE
def test_a_deployed_network_cannot_be_trained(name: str) -> None:
    network = small(name).deploy()
    network.eval()
    with pytest.raises(RuntimeError, match="deployed"):
        network.train()
    assert not network.training
