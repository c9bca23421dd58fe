"""Several processes train as one does with their batches put together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from LiverTumorSegLib.recipes import RECIPES
from Testing.phantom import make_data_set
from Testing.training.tiny_runs import ROOT, assert_same_run, command, leaves, rows, state
from Training import parallel, train
from Training.cache import prepared_folder
from Training.dataset import read_data_set
from Training.losses import total_loss
from Training.parallel import from_all, from_first, joined, process_count, process_number
from Training.train import Samples, main, overridden, shares_of_batches

pytestmark = pytest.mark.usefixtures("one_thread")

# A norm of each sample and a loss of each sample, so that a batch can be divided; outputs that the
# loss leaves out; an average; two steps of four samples, and one sample that fills no batch.
DIVISIBLE = (
    "target=both",
    "network.name=dpc",
    'network.args={"out_channels":2,"width":4,"attention":"none"}',
    "preprocessing.resampling.shape=[32,32,32]",
    "training.sampling.samples=3",
    "training.deep_supervision=null",
    'training.loss={"dice":1.0,"bce":1.0}',
    "training.ema_decay=0.9",
    "training.validate_every_epochs=1",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_set(tmp_path_factory.mktemp("parallel"), patients=4)


def divisible(data: Path, run: Path, batch: int, *options: str, epochs: int = 2) -> list[str]:
    changes = (*DIVISIBLE, f"training.batch_size={batch}")
    words = [word for change in changes for word in ("--set", change)]
    return command("starter-liver", data, run, "--fold", "1/4", *words, *options, epochs=epochs)


def in_processes(count: int, work: Callable[[], int]) -> list[int]:
    """Do something in several copies of this process, joined as torchrun would; exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.environ |= {
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                }
                status = work()
            except SystemExit as exit_:
                status = int(exit_.code)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def assert_close_runs(one: Path, other: Path) -> None:
    """The same curves, and the same kernels after them, but for the order of sums.

    A norm takes the biases before it away, so that Adam moves them by rounding errors alone. Of
    Dice, rounding may bring single voxels to the other side of the threshold.
    """
    assert [row["epoch"] for row in rows(one)] == [row["epoch"] for row in rows(other)]
    for name, atol in (("loss", 0), ("learning_rate", 0), ("held_out_tumor_dice", 1e-4)):
        curves = [[float(row[name]) for row in rows(run)] for run in (one, other)]
        assert np.allclose(*curves, rtol=1e-5, atol=atol), name
    for part in ("network", "average"):
        left, right = (leaves(state(run)[part]) for run in (one, other))
        assert left.keys() == right.keys()
        for key, value in left.items():
            if value.ndim > 1:
                assert (value - right[key]).norm() < 2e-3 * value.norm(), key


def test_two_processes_under_torchrun_are_one_with_the_doubled_batch(
    data: Path, tmp_path: Path
) -> None:
    assert main(divisible(data, tmp_path / "one", batch=4)) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launch += ["-m", "Training.train", *divisible(data, tmp_path / "two", batch=2)]
    done = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 epochs in ") == 1  # the first process alone speaks
    assert_close_runs(tmp_path / "one", tmp_path / "two")
    first, last = (float(row["loss"]) for row in rows(tmp_path / "two"))
    assert last < first
    fresh = state(tmp_path / "two")["network"]["pyramid_heads.4.weight"]
    assert torch.equal(fresh, state(tmp_path / "one")["network"]["pyramid_heads.4.weight"])


def test_two_processes_that_were_stopped_go_on_to_the_bit(data: Path, tmp_path: Path) -> None:
    """With dropout, which each process draws by itself."""
    dropout = ("--set", "network.name=unet3d", "--set")
    dropout += ('network.args={"out_channels":2,"channels":[4,4],"dropout":0.5}',)
    whole, broken = (divisible(data, tmp_path / name, 2, *dropout) for name in ("a", "b"))

    def interrupted() -> int:
        def interrupt(*given: Any) -> torch.Tensor:
            if given[-1] == 1:
                raise KeyboardInterrupt
            return total_loss(*given)

        train.total_loss = interrupt
        return main(broken)

    assert in_processes(2, lambda: main(whole)) == [0, 0]
    assert in_processes(2, interrupted) == [3, 3]
    assert state(tmp_path / "b")["epoch"] == 1
    assert main([*broken, "--resume"]) == 2  # by one process it would be another run
    assert in_processes(2, lambda: main([*broken, "--resume"])) == [0, 0]
    assert_same_run(tmp_path / "a", tmp_path / "b")
    own = [generators["cpu"] for generators in state(tmp_path / "a")["generators"]]
    assert len(own) == 2
    assert not torch.equal(*own)


def test_an_error_of_the_first_process_ends_all_with_one_message(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tmp_path.joinpath("run").write_text("in the way")
    arguments = divisible(data, tmp_path / "run", 2)
    assert in_processes(2, lambda: main(arguments)) == [2, 2]
    assert capfd.readouterr().err.count("expected a folder") == 1


def test_processes_share_every_batch_and_leave_the_same_rest(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 11 samples in batches of 2, five batches for one; two of three twos for three."""
    changes = ["training.sampling.samples=11", "training.sampling.per=epoch"]
    recipe = overridden(RECIPES["starter-tumor"], [*changes, "patch=[16,16,16]"])
    data_set = read_data_set(data)
    folders = [prepared_folder(data_set, case, recipe) for case in data_set.cases]
    samples = Samples(folders, recipe, seed=0)
    assert [len(share) for share in shares_of_batches(samples, 0)] == [2] * 5
    order = samples.order(0)
    monkeypatch.setattr(train, "process_count", lambda: 3)
    monkeypatch.setattr(train, "process_number", lambda: 2)
    assert shares_of_batches(samples, 0) == [order[4:6]]
    monkeypatch.setattr(train, "process_number", lambda: 0)
    assert shares_of_batches(samples, 0) == [order[:2]]


def test_values_come_from_the_first_and_from_all() -> None:
    def work() -> int:
        with joined(torch.device("cpu")) as device:
            assert device == torch.device("cpu")
            assert process_count() == 3
            assert from_first(process_number) == 0
            assert from_all(process_number()) == [0, 1, 2]
        return 0

    assert in_processes(3, work) == [0, 0, 0]
    assert process_count() == 1
    assert process_number() == 0
    assert from_first(lambda: "mine") == "mine"
    assert from_all("mine") == ["mine"]


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda", "torchrun started 4 processes on a machine with 2 GPU"), ("mps", "Device mps")],
)
def test_devices_that_cannot_be_shared_are_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, message: str
) -> None:
    for name, value in (("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "4"), ("LOCAL_RANK", "3")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(parallel.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(parallel.InputError, match=message), joined(torch.device(device)):
        pytest.fail("was joined")
