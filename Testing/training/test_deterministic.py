"""`--deterministic`: equal weights twice, with as many threads as the machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from Testing.phantom import make_data_set
from Testing.training.tiny_runs import assert_same_run, command
from Training import train
from Training.train import main, make_deterministic


@pytest.fixture(autouse=True)
def torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What --deterministic sets is for the whole process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    threads, fill = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_set(tmp_path_factory.mktemp("deterministic"), patients=2)


@pytest.mark.parametrize("name", ["starter-liver", "rmau-net"])
def test_a_deterministic_run_gives_equal_weights_twice(
    data: Path, tmp_path: Path, name: str
) -> None:
    """Volumes (bfloat16 where the processor has it) and slices, on two threads."""
    options = ["--fold", "1/2", "--deterministic", "--set", "training.validate_every_epochs=1"]
    if name == "starter-liver":
        options += ["--set", "preprocessing.resampling.shape=[24,16,16]"]
        options += ["--set", "training.sampling.samples=4"]
    for run in ("a", "b"):
        assert main(command(name, data, tmp_path / run, *options, epochs=1)) == 0
    assert torch.are_deterministic_algorithms_enabled()
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_run_is_resumed_as_it_was_started(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command("starter-tumor", data, tmp_path, epochs=1)
    assert main(arguments) == 0
    assert main([*arguments, "--deterministic", "--resume"]) == 2
    assert "was started with another deterministic" in capsys.readouterr().err


def test_a_network_that_cannot_be_deterministic_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch raises where it has no deterministic algorithm; on the CPU, for `put_`."""

    def loss_by_put(*given: Any) -> torch.Tensor:
        logits = given[1]["heads"][0].flatten()
        place = torch.zeros(1, dtype=torch.int64)
        return logits.sum().reshape(1).put(place, logits[:1]).sum()

    make_deterministic()
    monkeypatch.setattr(train, "total_loss", loss_by_put)
    arguments = command("starter-liver", data, tmp_path, epochs=1)
    assert main([*arguments, "--deterministic"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "error: --deterministic: on cpu" in line
    assert "does not have a deterministic implementation" in line
