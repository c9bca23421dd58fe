"""Cross-validations of tiny recipes on phantoms: every case is measured by who never saw it."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from LiverTumorSegLib.checkpoint import read_info
from LiverTumorSegLib.errors import ResourceError
from LiverTumorSegLib.recipes import RECIPES
from Testing.phantom import make_data_set
from Testing.training.tiny_runs import TINY
from Training import cross_validate
from Training.budget import Speed, changes_within
from Training.probabilities import read_probability
from Training.scores import read_scores

torch.set_num_threads(1)  # tiny tensors: on a busy machine a second thread makes them slower
STAGES = ("starter-liver", "starter-tumor")


@pytest.fixture(scope="module", autouse=True)
def _inline() -> Iterator[None]:
    """Everything in this process, and torch alone: OpenVINO takes seconds for each network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("Training.loading.worker_count", lambda: 0)
        patch.setattr("LiverTumorSegLib.segment.pick_backend", lambda backend, device: "torch")
        patch.setattr(cross_validate, "run_alone", lambda function, *rest: function(*rest))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_set(tmp_path_factory.mktemp("crossval"), patients=3)


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All folds of both stages, for an epoch each. Not to be written to."""
    output = tmp_path_factory.mktemp("done") / "out"
    assert run(data, output, *STAGES) == 0
    return output


def words(data: Path, output: Path, *recipes: str, epochs: int | None = 1) -> list[str]:
    changes = [f"{recipe}.{change}" for recipe in recipes for change in TINY[recipe]]
    changes += [] if epochs is None else [f"training.epochs={epochs}"]
    settings = [word for change in changes for word in ("--set", change)]
    return [*recipes, "--data", str(data), "-o", str(output), "--device", "cpu", *settings]


def run(
    data: Path, output: Path, *recipes: str, options: tuple[str, ...] = (), epochs: int | None = 1
) -> int:
    return cross_validate.main([*words(data, output, *recipes, epochs=epochs), *options])


def no_process(*_: object) -> int:
    raise AssertionError("nothing was left to do")


# What it does


def test_every_case_is_measured_by_weights_that_had_not_seen_it(done: Path) -> None:
    scores = read_scores(done / "scores" / "scores.csv")
    assert sorted((score.target, score.case) for score in scores) == [
        (target, f"case{number}") for target in ("liver", "tumor") for number in range(3)
    ]
    assert not any(score.seen for score in scores)
    assert {score.liver_from for score in scores} == {"prediction"}
    for score in scores:
        for name, digest in (label.split("@") for label in score.weights.split()):
            info = read_info(done / "weights" / f"{name}.safetensors")
            assert info.sha256.startswith(digest)
            assert info.card["held_out_cases"] == [score.case]
            assert score.case not in {case["name"] for case in info.card["training_cases"]}


def test_probabilities_are_kept_of_every_case(done: Path) -> None:
    weights = {
        score.case: score.weights
        for score in read_scores(done / "scores" / "scores.csv")
        if score.target == "tumor"
    }
    for case in ("case0", "case1", "case2"):
        kept = read_probability(done / "probabilities", case)
        assert kept is not None
        assert kept.weights == weights[case]


def test_the_budget_tells_of_every_training(done: Path) -> None:
    budget = json.loads((done / "budget.json").read_text())
    assert budget["minutes"] is None
    assert [(t["recipe"], t["fold"], t["epochs"]) for t in budget["trainings"]] == [
        (recipe, fold, 1) for fold in (1, 2, 3) for recipe in STAGES
    ]
    assert [t["held_out"] for t in budget["trainings"][::2]] == [["case0"], ["case1"], ["case2"]]
    for training in budget["trainings"]:
        assert 0 < training["training_minutes"] < 1
        assert 0 < training["validation_minutes"] < 1
        assert "no GPU, torch" in training["machine"]


def test_the_summary_tells_of_all(done: Path) -> None:
    text = (done / "summary.md").read_text()
    assert "`starter-liver` and `starter-tumor`" in text
    assert "3 folds of 3 cases" in text
    assert "folds are done" not in text
    for score in read_scores(done / "scores" / "scores.csv"):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {score.case} |"))
        assert f"{score.dice:.3f}" in line
    assert "### Tumor, 3 cases" in text


def test_what_is_done_is_not_done_again(
    data: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_validate, "run_alone", no_process)
    assert run(data, done, *STAGES) == 0


def test_a_case_whose_probabilities_are_lost_is_measured_again(
    data: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Path(shutil.copytree(done, tmp_path / "out"))
    (output / "probabilities" / "case1.npz").unlink()
    asked = []

    def noted(function: Callable[..., int], *arguments: object) -> int:
        asked.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(cross_validate, "run_alone", noted)
    assert run(data, output, *STAGES) == 0
    ((command,),) = asked
    assert command[command.index("--cases") + 1] == "case1"
    assert command[command.index("--cases") + 2] == "-o"
    assert read_probability(output / "probabilities", "case1") is not None


def test_tumors_alone_are_searched_in_the_true_liver(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "out", "starter-tumor", options=("--only", "2")) == 0
    (score,) = read_scores(tmp_path / "out" / "scores" / "scores.csv")
    assert (score.case, score.target, score.liver_from) == ("case1", "tumor", "reference")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "**1 of 3 folds are done.**" in text


def test_a_network_of_both_targets_is_a_system(data: Path, tmp_path: Path) -> None:
    options = ("--folds", "2", "--only", "2")
    assert run(data, tmp_path / "out", "rmau-net", options=options) == 0
    scores = read_scores(tmp_path / "out" / "scores" / "scores.csv")
    assert [(s.target, s.case) for s in scores] == [("liver", "case1"), ("tumor", "case1")]
    assert read_probability(tmp_path / "out" / "probabilities", "case1") is not None


# Minutes


def test_all_folds_get_the_epochs_that_were_measured_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    options = ("--only", "1", "2", "--minutes", "0.01")
    assert run(data, output, "starter-liver", options=options, epochs=None) == 0
    assert capsys.readouterr().out.count("measuring") == 1
    budget = json.loads((output / "budget.json").read_text())
    speed = Speed(**budget["speeds"]["starter-liver"])
    epochs = max(1, round(0.6 / (speed.step_s * speed.steps)))
    assert [training["epochs"] for training in budget["trainings"]] == [epochs, epochs]
    page = (output / "summary.md").read_text()
    assert "0.01 minutes" in page
    (line,) = (line for line in page.splitlines() if line.startswith("python -m Training.train"))
    command = shlex.split(line)
    assert f"training.epochs={epochs}" in command
    assert "network.args.channels=[4,4,4,4]" in command
    run_json = json.loads((output / "runs" / "starter-liver-2" / "run.json").read_text())
    assert run_json["recipe"]["training"]["validate_every_epochs"] == epochs
    log = (output / "runs" / "starter-liver-2" / "log.csv").read_text().splitlines()
    assert len(log) == epochs + 1


def changed(name: str, speed: Speed, minutes: float) -> dict[str, object]:
    changes = changes_within(RECIPES[name], speed, minutes)
    return {key: json.loads(value) for key, _, value in (c.partition("=") for c in changes)}


def test_epochs_fill_the_minutes_and_nothing_stops_early() -> None:
    """Ten steps of 2 s are an epoch of 20 s: 30 in ten minutes."""
    assert changed("unet3d-liver", Speed(2.0, 10, None), 10) == {
        "training.epochs": 30,
        "training.validate_every_epochs": 30,
        "training.early_stop_epochs": None,
    }


def test_what_is_counted_in_epochs_shrinks_alike() -> None:
    """20 of the paper's 200 epochs: its rate falls every 3 rather than every 30."""
    changes = changed("elanres-msca-tumor", Speed(3.0, 10, None), 10)
    assert changes["training.epochs"] == 20
    assert changes["training.schedule.period_epochs"] == 3
    assert changes["training.deep_supervision.period_epochs"] == 3


def test_a_plateau_is_validated_as_often_as_a_tenth_of_the_budget_allows() -> None:
    """60 s of validation, 10 s each: six in 150 of its 300 epochs."""
    changes = changed("msa-unet", Speed(0.4, 10, 10.0), 10)
    assert changes["training.epochs"] == 150
    assert changes["training.validate_every_epochs"] == 25
    assert changes["training.schedule.patience_epochs"] == 4


def test_an_epoch_is_trained_however_long_it_takes() -> None:
    changes = changed("msa-unet", Speed(10.0, 1000, 1000.0), 1)
    assert changes["training.epochs"] == changes["training.validate_every_epochs"] == 1


@pytest.mark.parametrize(("epochs", "decay"), [(2, 0.95), (100, 0.99)])
def test_weights_are_averaged_over_the_last_tenth_at_most(epochs: int, decay: float) -> None:
    """Of 200 steps the last 20: 1 - 1 / 20. Of 10,000 as the recipe says, about 100."""
    changes = changed("starter-liver", Speed(0.6, 100, None), epochs)
    assert changes["training.epochs"] == epochs
    assert changes["training.ema_decay"] == decay


# What it refuses


@pytest.mark.parametrize(
    ("recipes", "options", "told"),
    [
        (("starter-liver", "unet3d-liver"), (), "one for the liver and one for tumors"),
        (("rmau-net", "starter-tumor"), (), "one for the liver and one for tumors"),
        (("starter-liver",), ("--folds", "4"), "the number of patients"),
        (("starter-liver",), ("--only", "4"), "4/3"),
        (("starter-liver",), ("--minutes", "0"), "more than 0"),
        (("starter-liver",), ("--set", "training.epoch=1"), "no field"),
        (
            ("starter-liver",),
            ("--minutes", "1", "--set", "training.epochs=1"),
            "leave one out",
        ),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is(
    recipes: tuple[str, ...],
    options: tuple[str, ...],
    told: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = cross_validate.main(
        [*recipes, "--data", str(data), "-o", str(tmp_path / "out"), *options]
    )
    assert code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_cross_validation_is_not_mixed_in(
    data: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done / "cross_validation.json").read_bytes()
    assert run(data, done, *STAGES, epochs=2) == 2
    assert "another changes" in capsys.readouterr().err
    assert run(data, done, *STAGES, options=("--seed", "1")) == 2
    assert (done / "cross_validation.json").read_bytes() == before


def test_the_data_may_be_moved_but_not_changed(
    data: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(done, tmp_path / "out"))
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    assert run(moved, output, *STAGES) == 0
    assert json.loads((output / "cross_validation.json").read_text())["data"] == str(moved)
    text = (moved / "dataset.json").read_text()
    sha256 = json.loads(text)["cases"][0]["sha256"]
    (moved / "dataset.json").write_text(text.replace(sha256, "0" * 64))
    assert run(moved, output, *STAGES) == 2
    assert "another cases" in capsys.readouterr().err


def test_a_process_that_was_killed_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_validate, "run_alone", lambda *_: -signal.SIGKILL)
    with pytest.raises(ResourceError, match="signal 9.*goes on"):
        cross_validate.alone(no_process)


def test_the_code_of_a_process_that_failed_is_the_commands(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code in (2, 3, 4):
        monkeypatch.setattr(cross_validate, "run_alone", lambda *_, code=code: code)
        assert run(data, tmp_path / "out", "starter-liver") == code
