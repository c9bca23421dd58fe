"""A batch on a real Dask cluster of processes: workers die, cases are retried, Ctrl-C ends it."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

distributed = pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")  # which distributed needs

from LiverTumorSegLib import cli, cluster  # noqa: E402
from LiverTumorSegLib.checkpoint import save_model  # noqa: E402
from LiverTumorSegLib.networks import build  # noqa: E402
from LiverTumorSegLib.recipe import FixedShape  # noqa: E402
from LiverTumorSegLib.recipes import RECIPES  # noqa: E402
from LiverTumorSegLib.row import CASES, LESIONS  # noqa: E402
from Testing.engine.deadly_worker import Deadly  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
YES = 8.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options: a liver stage that takes all for liver, a tumor stage that takes all for tumor."""
    folder = tmp_path_factory.mktemp("weights")
    options = []
    small = {
        "liver": {"resampling": FixedShape((16, 32, 32))},
        "tumor": {"pad_minimum": (16, 32, 32)},
    }
    args = {"liver": {"channels": [4, 4, 4, 4]}, "tumor": {"width": 4}}
    for target in ("liver", "tumor"):
        recipe = RECIPES[f"starter-{target}"]
        network = dataclasses.replace(recipe.network, args={**recipe.network.args, **args[target]})
        recipe = dataclasses.replace(
            recipe,
            network=network,
            patch=None if target == "liver" else (16, 32, 32),
            preprocessing=dataclasses.replace(recipe.preprocessing, **small[target]),
        )
        module = build(network.name, **network.args)
        head = module.get_submodule("head" if target == "liver" else "heads.0")
        torch.nn.init.zeros_(head.weight)
        head.bias.data[:] = YES
        save_model(folder / f"{target}.safetensors", module, recipe, {})
        options += [f"--{target}", str(folder / f"{target}.safetensors")]
    return [*options, "--device", "cpu", "--backend", "torch"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three CTs of noise, and a file that is none."""
    folder = tmp_path / "in"
    for number in range(3):
        noise = np.random.default_rng(number).normal(60, 40, (12, 40, 44)).astype(np.int16)
        image = sitk.GetImageFromArray(noise)
        image.SetSpacing((2.0, 2.0, 5.0))
        (folder / f"ward{number % 2}").mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(folder / f"ward{number % 2}" / f"ct{number}.nii.gz"))
    (folder / "bad.nii").write_bytes(b"junk")
    return folder


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a cluster of two processes; ct1 kills its worker once, ct2 thrice."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as started,
        distributed.Client(started, set_as_default=False) as client,
    ):
        client.register_plugin(Deadly({"ward1__ct1": 1, "ward0__ct2": 99}, tmp_path))
        yield started.scheduler_address


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_workers_that_die_do_not_stop_the_batch(
    folder: Path,
    tmp_path: Path,
    address: str,
    models: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, alone = tmp_path / "out", tmp_path / "alone"
    arguments = ["batch", str(folder), *models, "--progress", "json"]
    assert cli.main([*arguments, "-o", str(out), "--dask", address]) == 2
    told = capsys.readouterr()
    assert "2 of 4 cases failed" in told.err
    events = [json.loads(line) for line in told.out.splitlines()]
    assert sorted(event["case"]["case"] for event in events if event["event"] == "case") == [
        "bad",
        "ward0__ct0",
        "ward0__ct2",
        "ward1__ct1",
    ]
    rows = {row["case"]: row for row in table(out / CASES)}
    assert {case for case, row in rows.items() if row["status"] == "done"} == {
        "ward0__ct0",
        "ward1__ct1",
    }
    assert "3 workers ended" in rows["ward0__ct2"]["message"]
    assert "bad.nii" in rows["bad"]["message"]
    starts = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [case for case, _ in starts].count("ward0__ct2") == 3
    assert [case for case, _ in starts].count("ward1__ct1") >= 2
    assert str(os.getpid()) not in {process for _, process in starts}

    # One process finds the same, and goes on with what the cluster did.
    assert cli.main([*arguments, "-o", str(alone)]) == 2
    same = {row["case"]: row for row in table(alone / CASES)}
    assert rows["ward1__ct1"]["tumor_ml"] == same["ward1__ct1"]["tumor_ml"]
    done = [row for row in table(alone / LESIONS) if row["case"] != "ward0__ct2"]
    assert done
    in_order = sorted(table(out / LESIONS), key=lambda row: (row["case"], int(row["lesion"])))
    assert in_order == sorted(done, key=lambda row: (row["case"], int(row["lesion"])))
    capsys.readouterr()
    assert cli.main([*arguments, "-o", str(out), "--resume"]) == 2
    assert "1 of 4 cases failed" in capsys.readouterr().err
    assert {row["case"] for row in table(out / CASES) if row["status"] == "failed"} == {"bad"}


def test_ctrl_c_ends_local_workers_and_keeps_what_is_done(
    folder: Path, tmp_path: Path, models: list[str]
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "LiverTumorSegLib", "batch", str(folder), "-o", str(out)]
    process = subprocess.Popen(
        [*command, *models, "--dask", "local:2", "--progress", "json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that run in the background of a script ignore Ctrl-C, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    first = next(json.loads(line) for line in process.stdout if '"case": {' in line)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    _, told = process.communicate(timeout=120)
    assert process.returncode == 3, told
    assert told.endswith("Cancelled.\n")
    assert "KeyboardInterrupt" not in told  # of which each process would tell by a traceback
    assert first["case"]["case"] in {row["case"] for row in table(out / CASES)}
    _, left = psutil.wait_procs(workers, timeout=20)
    assert not left
    assert not list(out.rglob("*.partial"))


@pytest.mark.parametrize(
    ("where", "cores", "gib", "expected"),
    [
        ("local:2", 2, 8, (2, 1)),
        ("local:3", 16, 8, (3, 5)),
        ("local:4", 2, 8, (4, 1)),
        ("local", 2, 25, (1, 2)),
        ("local", 32, 128, (16, 2)),
        ("local", 32, 9, (2, 16)),
        ("local", 1, 1, (1, 1)),
    ],
)
def test_workers_share_the_cores(
    where: str, cores: int, gib: int, expected: tuple[int, int]
) -> None:
    assert cluster.workers_and_threads(where, cores, gib * 1024**3) == expected
    assert expected[0] * expected[1] <= max(cores, expected[0])


def test_a_local_worker_has_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask.system.CPU_COUNT", 4)
    with cluster._connected("local:2", 1, {"GPU": 1}) as client:
        assert list(client.run(torch.get_num_threads).values()) == [2]  # Dask alone would say 1
        assert client.submit(abs, -1, resources={"GPU": 1}).result(timeout=20) == 1


def test_a_scheduler_that_does_not_answer(
    folder: Path,
    tmp_path: Path,
    models: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("LiverTumorSegLib.cluster._ANSWER_SECONDS", 1)
    arguments = ["batch", str(folder), "-o", str(tmp_path / "out"), *models]
    assert cli.main([*arguments, "--dask", "tcp://127.0.0.1:9"]) == 2
    told = capsys.readouterr().err
    assert "expected a Dask scheduler that answers" in told
    assert "Traceback" not in told, told


@pytest.mark.parametrize("where", ["local:0", "local:x", "here", "a b:1", "local:-1"])
def test_what_is_no_cluster_is_refused(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["batch", str(tmp_path), "-o", "out", "--dask", where]) == 2
    assert "expected local, local:N or the address" in capsys.readouterr().err


def test_without_dask_the_message_says_what_to_install(
    folder: Path,
    tmp_path: Path,
    models: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    arguments = ["batch", str(folder), "-o", str(tmp_path / "out"), *models]
    assert cli.main([*arguments, "--dask", "local"]) == 2
    assert "pip install 'dask[distributed]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
