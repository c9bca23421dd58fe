"""Learning rates, the best epoch and the end of a run, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from LiverTumorSegLib.recipe import Constant, Cosine, Plateau, Poly, Step
from LiverTumorSegLib.recipe import Training as Settings
from LiverTumorSegLib.recipes import RECIPES
from Training.schedule import HeldOut, best_of, has_stalled, learning_rate, reductions

PAPER = RECIPES["elanres-msca-liver"].training
MSA = RECIPES["msa-unet"].training
Schedule = Constant | Step | Cosine | Poly | Plateau


def with_schedule(schedule: Schedule, epochs: int = 200) -> Settings:
    return replace(PAPER, learning_rate=1e-3, epochs=epochs, schedule=schedule)


def history(values: list[float], every: int = 1) -> list[HeldOut]:
    return [HeldOut(every * (i + 1), value) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("schedule", "epoch", "share"),
    [
        (Constant(), 0, 1.0),
        (Constant(), 199.9, 1.0),
        (Step(30, 0.8), 0, 1.0),
        (Step(30, 0.8), 29.99, 1.0),
        (Step(30, 0.8), 30, 0.8),
        (Step(30, 0.8), 60, 0.64),
        (Step(30, 0.8), 95.5, 0.512),
        (Step(30, 0.8), 180, 0.262144),
        (Cosine(0), 0, 1.0),
        (Cosine(0), 50, 0.5 + 0.5**0.5 / 2),
        (Cosine(0), 100, 0.5),
        (Cosine(0), 200, 0.0),
        (Poly(0.9), 0, 1.0),
        (Poly(0.9), 100, 0.5**0.9),
        (Poly(0.9), 150, 0.25**0.9),
        (Poly(0.9), 200, 0.0),
        (Poly(1.0), 50, 0.75),
        (Plateau(8, 0.5), 199.9, 1.0),
    ],
)
def test_learning_rate(schedule: Schedule, epoch: float, share: float) -> None:
    rate = learning_rate(with_schedule(schedule), epoch, [])
    assert rate == pytest.approx(1e-3 * share, abs=1e-15)


def test_learning_rate_rises_linearly_while_warming_up() -> None:
    settings = with_schedule(Cosine(4))
    rates = [learning_rate(settings, epoch, []) for epoch in (0, 1, 2, 3, 3.999)]
    assert rates[0] == pytest.approx(1e-3 * 0.1 / 4.1)  # not 0: the first step shall count
    assert rates[1] - rates[0] == pytest.approx(rates[3] - rates[2])
    assert rates[4] == pytest.approx(1e-3, rel=1e-3)
    assert learning_rate(settings, 4, []) == learning_rate(with_schedule(Cosine(0)), 4, [])


def test_the_papers_own_schedules() -> None:
    """Adam 1e-4, reduced by 20 % every 30 epochs; and nnU-Net's poly over DPC-Net's 1000."""
    rates = [learning_rate(PAPER, epoch, []) for epoch in (0, 30, 199)]
    assert rates == pytest.approx([1e-4, 0.8e-4, 0.8**6 * 1e-4])
    dpc = RECIPES["dpc-net"].training
    assert learning_rate(dpc, 500, []) == pytest.approx(1e-4 * 0.5**0.9)


# What the held-out cases decide


def test_the_best_is_the_largest_dice_or_the_smallest_loss_and_the_first_of_equals() -> None:
    values = history([0.3, 0.7, 0.2, 0.7, 0.2])
    assert best_of(replace(PAPER, monitor="dice"), values) == HeldOut(2, 0.7)
    assert best_of(replace(PAPER, monitor="loss"), values) == HeldOut(3, 0.2)
    assert best_of(PAPER, []) is None


def test_a_plateau_halves_on_the_8th_epoch_without_improvement() -> None:
    """MSA-UNet: on the 8th and 16th after the best; it would stop on the 20th."""
    losses = [1.0, *[1.5] * 19]
    rates = [learning_rate(MSA, epoch, history(losses[:epoch])) for epoch in range(21)]
    assert rates == [1e-3] * 9 + [5e-4] * 8 + [2.5e-4] * 4
    stalled = [has_stalled(MSA, history(losses[:epoch]), epoch) for epoch in range(21)]
    assert stalled == [False] * 21
    assert has_stalled(MSA, history([*losses, 1.5]), 21)


def test_an_improvement_starts_the_count_anew_and_keeps_the_rate() -> None:
    losses = [1.0, *[1.5] * 7, 0.9, *[1.0] * 8, *[0.95] * 7, 0.8, *[0.9] * 7]
    assert [reductions(MSA, MSA.schedule, history(losses[:n])) for n in (8, 9, 16, 17)] == [
        0,
        0,
        0,
        1,
    ]
    assert reductions(MSA, MSA.schedule, history(losses)) == 1


def test_a_loss_as_low_as_the_best_is_no_improvement() -> None:
    assert reductions(MSA, MSA.schedule, history([1.0] * 9)) == 1


@pytest.mark.parametrize("monitor", ["dice", "loss"])
def test_a_plateau_is_torchs(monitor: str) -> None:
    """ReduceLROnPlateau, whose patience of 7 reduces on the 8th epoch without improvement."""
    settings = replace(MSA, monitor=monitor)
    values = torch.rand(120, generator=torch.Generator().manual_seed(1)).tolist()
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    mode = {"dice": "max", "loss": "min"}[monitor]
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, factor=0.5, patience=7, threshold=0.0, threshold_mode="abs", eps=0.0
    )
    for epoch, value in enumerate(values, start=1):
        theirs.step(value)
        ours = learning_rate(settings, epoch, history(values[:epoch]))
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert ours < 1e-5


def test_a_plateau_counts_epochs_also_where_few_are_validated() -> None:
    values = [1.0, 2.0, 2.0, 2.0]
    found = [reductions(MSA, MSA.schedule, history(values[:n], every=5)) for n in range(1, 5)]
    assert found == [0, 0, 1, 1]  # after epochs 5, 10, 15, 20


@pytest.mark.parametrize(
    ("patience", "done", "best", "stalled"),
    [(None, 99, 1, False), (30, 30, 1, False), (30, 31, 1, True), (1, 5, 5, False)],
)
def test_patience(patience: int | None, done: int, best: int, stalled: bool) -> None:
    values = [HeldOut(epoch, float(epoch == best)) for epoch in range(1, done + 1)]
    assert has_stalled(replace(PAPER, early_stop_epochs=patience), values, done) == stalled


def test_nothing_held_out_never_stalls() -> None:
    assert not has_stalled(PAPER, [], 99)
