"""The curves of a run: what the picture shows, and what TensorBoard reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from Training import curves
from Training.run_folder import Row
from Training.schedule import HeldOut

ROWS: list[Row] = [
    {"epoch": 1, "loss": 0.9, "learning_rate": 1e-3},
    {"epoch": 2, "loss": 0.5, "learning_rate": 1e-3, "held_out_liver_dice": 0.6},
    {"epoch": 3, "loss": 0.4, "learning_rate": 5e-4},
    {"epoch": 4, "loss": 0.3, "learning_rate": 5e-4, "held_out_liver_dice": 0.8},
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are made."""
    made = []

    class Remembered(Figure):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr(curves, "Figure", Remembered)
    return made


def test_every_curve_is_drawn_where_it_has_values(tmp_path: Path, drawn: list[Figure]) -> None:
    curves.draw(tmp_path, ROWS, "a recipe, 4 of 9 epochs", HeldOut(4, 0.8))
    loss, dice, rate = drawn[0].axes
    assert loss.get_title() == "a recipe, 4 of 9 epochs"
    (line,) = [line for line in dice.lines if line.get_label() == "held-out liver Dice"]
    assert list(line.get_xdata()) == [2, 4]
    assert list(line.get_ydata()) == [0.6, 0.8]
    assert list(loss.lines[0].get_ydata()) == [0.9, 0.5, 0.4, 0.3]
    assert list(rate.lines[0].get_ydata()) == [1e-3, 1e-3, 5e-4, 5e-4]
    for axes in (loss, dice):
        assert axes.lines[-1].get_label() == "best epoch 4"
        assert list(axes.lines[-1].get_xdata()) == [4, 4]
    with Image.open(tmp_path / "curve.png") as image:
        assert image.width > image.height / 2 > 200
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_a_held_out_loss_lies_beside_the_loss(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [{**row, "held_out_loss": row["loss"] + 0.1} for row in ROWS[::2]]
    curves.draw(tmp_path, rows, "", None)
    loss, _ = drawn[0].axes
    assert [line.get_label() for line in loss.lines] == ["loss", "held-out loss"]


@pytest.mark.parametrize(("last", "scale"), [(1e-4, "linear"), (1e-5, "log"), (0.0, "linear")])
def test_a_rate_that_falls_far_is_drawn_by_its_powers(
    tmp_path: Path, drawn: list[Figure], last: float, scale: str
) -> None:
    curves.draw(tmp_path, [*ROWS, {"epoch": 5, "loss": 0.2, "learning_rate": last}], "", None)
    assert drawn[0].axes[-1].get_yscale() == scale


def test_tensorboard_holds_each_epoch_once_after_a_resumption(tmp_path: Path) -> None:
    for known in (0, 2):
        with curves.open_board(tmp_path, ROWS[:known]) as board:
            assert board is not None
            for row in ROWS[known:]:
                curves.show(board, row)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("loss", "learning_rate", "held_out_liver_dice"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(row["epoch"], pytest.approx(row[name])) for row in ROWS if name in row]
        assert found == expected
