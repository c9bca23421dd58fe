"""The benchmark: its measuring, its painted networks, its counting, and the section it writes."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from LiverTumorSegLib.errors import ResourceError
from LiverTumorSegLib.preprocess import prepare
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.volume import Volume
from Testing.benchmarks import __main__ as driver
from Testing.benchmarks import measured_process, nnunet_env, speed_page
from Testing.benchmarks.floor import floor_s, torch_product
from Testing.benchmarks.measured_process import CommandError, Measured, measured, of_runs
from Testing.benchmarks.painted import Painted, bands, paint
from Testing.benchmarks.product_job import NotComputed, cost_of
from Testing.benchmarks.recipe_time import SETS
from Testing.benchmarks.scaling import multiple
from Testing.benchmarks.whole_job import dice, precision_of
from Testing.phantom import phantom
from Training.marked_section import around_marks

README = Path(__file__).resolve().parents[2] / "README.md"
MB = 2**20
RATES = {
    "load": 0.0,
    "side": 8,
    "gflops": {"f32": 100.0, "bf16": 400.0},
    "read_bytes_s": 1e9,
    "write_bytes_s": 5e8,
}


def ours(seconds: float, how: str) -> dict:
    return {
        "who": "ours",
        "how": how,
        "first_s": 12.0,
        "seconds": seconds,
        "rounds": 3,
        "peak_bytes": 2e9,
        "timings_s": {"liver": 1.0, "tumor": 3.0},
        "precision": "f32",
    }


def results() -> dict:
    row = {"slices": 100, "ct_bytes": 1e8, "seconds": 5.0, "peak_bytes": 1e9, "multiple": 2.5}
    row["timings_s"] = {"read": 1.0, "liver": 2.0}
    nnunet = {"who": "nnU-Net", "how": "without mirroring", "seconds": 250.0, "dice": 0.5}
    nnunet |= {"peak_bytes": 3e9, "windows": 200, "precision": "f32"}
    work = {"gflop": 200.0, "windows": 20, "read_bytes": 1e9, "written_bytes": 1e9}
    machine = {"processor": "P", "cores": 2, "memory_gb": 8.0, "device": "cpu", "system": "S"}
    return {
        "machine": {**machine, "versions": {"torch": "1.0"}},
        "parts": {
            "whole": {
                "load": 0.1,
                "ct": "a",
                "shape": [1, 2, 3],
                "rows": [ours(10.0, "auto"), ours(20.0, "torch"), nnunet],
                **work,
            },
            "windows": {
                "load": 0.2,
                "shape": [4, 5, 6],
                "rows": [
                    {"how": "MONAI, torch", "seconds": 15.0, "same": 1.0},
                    {"how": "ours, openvino", "seconds": 2.5, "same": 0.99999},
                ],
            },
            "recipes": {
                "load": 0.3,
                "ct": "a",
                "shape": [1, 2, 3],
                "rows": [
                    {
                        **ours(8.0, ""),
                        **work,
                        "title": "Net",
                        "faster_s": {"openvino-bf16": 6.0},
                    }
                ],
            },
            "scaling": {
                "load": 0.4,
                "baseline": {**row, "slices": 8, "ct_bytes": 8e6, "peak_bytes": 5e8},
                "rows": [row, {**row, "slices": 1500, "multiple": 2.9}],
            },
            "floor": RATES,
        },
    }


def test_a_process_tells_its_own_peak_and_not_that_of_who_started_it() -> None:
    ballast = np.ones(300 * MB, np.uint8)  # what the benchmark itself may hold
    small = measured([sys.executable, "-c", "pass"])
    large = measured([sys.executable, "-c", f"import time; b'1' * {200 * MB}; time.sleep(0.3)"])
    assert ballast.all()
    assert small.peak_bytes < 60 * MB
    assert 200 * MB <= large.peak_bytes < 260 * MB
    assert 0.3 <= large.seconds < 5


def test_a_command_that_fails_tells_what_it_said() -> None:
    with pytest.raises(CommandError, match="no such liver"):
        measured([sys.executable, "-c", "raise SystemExit('no such liver')"])


def test_runs_are_told_by_their_median_and_largest_peak() -> None:
    runs = [Measured(3.0, 5), Measured(1.0, 7), Measured(2.0, 6)]
    told = of_runs(Measured(9.0, 8), runs)
    assert told == {"first_s": 9.0, "seconds": 2.0, "rounds": 3, "peak_bytes": 8}


def test_what_is_long_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "pass"]
    first, runs = measured_process.repeated(command, 2)
    assert len(runs) == 2
    assert first not in runs
    monkeypatch.setattr(measured_process, "ENOUGH_S", 0.0)
    first, runs = measured_process.repeated(command, 2)
    assert runs == [first]


def test_every_paper_has_its_set_of_recipes() -> None:
    papers = {RECIPES[name].paper.citation for names in SETS.values() for name in names}
    assert papers == {recipe.paper.citation for recipe in RECIPES.values()}
    for liver, tumor in SETS.values():
        assert "liver" in RECIPES[liver].targets
        assert "tumor" in RECIPES[tumor].targets


@pytest.mark.parametrize("name", sorted({name for names in SETS.values() for name in names}))
def test_painted_values_tell_the_targets_apart(name: str) -> None:
    recipe = RECIPES[name]
    volume, labels = phantom()
    if recipe.preprocessing.clahe:  # its tiles are made for large slices
        volume = Volume(volume.hu.repeat(8, 1).repeat(8, 2), volume.geometry)
        labels = labels.repeat(8, 1).repeat(8, 2)
    equalized = recipe.preprocessing.clahe is not None
    hu = paint(volume, labels, equalized=equalized).astype(np.float32)
    asked = recipe.with_override("preprocessing.resampling", "null").preprocessing
    image = prepare(Volume(hu, volume.geometry), asked, labels > 0).image
    *thresholds, ceiling = bands(recipe)
    for target, threshold in zip(recipe.targets, thresholds, strict=True):
        found = int(np.count_nonzero((image > threshold) & (image < ceiling)))
        voxels = int(np.count_nonzero(labels >= ("liver", "tumor").index(target) + 1))
        if asked.halve_in_plane:
            voxels /= 4
        assert found == pytest.approx(voxels, rel=0.25), target


@pytest.mark.parametrize("softmax", [False, True])
def test_a_painted_network_decides_by_the_thresholds_and_computes_the_network(
    softmax: bool,
) -> None:
    args = {"in_channels": 1, "out_channels": 3 if softmax else 2, "channels": [4, 4, 4, 4]}
    real = {"name": "unet3d", "args": {**args, "dropout": 0.0}}
    network = Painted(real, [0.3, 0.7], 0.9, softmax).eval()
    image = torch.full((1, 1, 8, 8, 8), 0.1)
    image[..., 0], image[..., 1], image[..., 2] = 0.5, 0.8, 0.95
    called = []
    network.network.register_forward_pre_hook(lambda *_: called.append(1))
    with torch.no_grad():
        logits = network(image)[0, :, 0, 0]
    if softmax:
        assert logits.argmax(dim=0).tolist() == [1, 2, 0, 0, 0, 0, 0, 0]
    else:
        assert (logits > 0).int().tolist() == [[1, 1, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    assert called == [1]
    assert NotComputed(real, [0.3, 0.7], 0.9, softmax)(image).shape == (
        1,
        *logits.shape[:1],
        8,
        8,
        8,
    )


def test_the_cost_is_that_of_all_calls() -> None:
    network = torch.nn.Conv3d(1, 4, 3, padding=1)
    network.dimensions = 3
    cost = cost_of({(network, (8, 8, 8), 2): 5, (network, (4, 8, 8), 1): 1})
    assert cost["windows"] == 11
    assert cost["gflop"] == pytest.approx(2 * 27 * 4 * (10 * 8**3 + 4 * 8**2) / 1e9)


def test_memory_is_told_beyond_the_baseline() -> None:
    baseline = {"peak_bytes": 500, "ct_bytes": 10}
    assert multiple({"peak_bytes": 740, "ct_bytes": 110}, baseline) == pytest.approx(2.4)


def test_the_floor_is_operations_and_bytes_at_their_rates() -> None:
    job = {"gflop": 200.0, "precision": "bf16", "read_bytes": 1e9, "written_bytes": 1e9}
    assert floor_s(job, RATES) == pytest.approx(0.5 + 1 + 2)


def test_a_product_of_matrices_runs() -> None:
    assert torch_product(4, "bf16", torch.device("cpu"))() is None


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({}, "f32"),
        ({"computed_by": {"liver": "OpenVINO f32"}}, "f32"),
        ({"computed_by": {"liver": "OpenVINO bf16"}}, "bf16"),
        ({"computed_by": {"tumor": "torch float16 on cuda:0"}}, "f16"),
    ],
)
def test_the_precision_is_what_the_report_says(told: dict, kind: str) -> None:
    assert precision_of(told) == kind


def test_dice_of_nothing_is_whole() -> None:
    none, one = np.zeros(4, bool), np.array([True, True, False, False])
    assert dice(none, none) == 1
    assert dice(one, np.array([True, False, True, False])) == 0.5


def test_the_section_of_the_readme_is_what_was_measured() -> None:
    text = README.read_text()
    before, after = around_marks(text, speed_page.BEGIN, speed_page.END)
    written = speed_page.section(speed_page.RESULTS.values(), README.parent)
    assert f"{before}\n{written}\n{after}" == text, (
        "run python -m Testing.benchmarks --only --write README.md"
    )


def test_the_section_gives_ratios_and_shares() -> None:
    page = speed_page.page(results(), Path("p.png"))
    assert "on P, 2 cores, 8 GB, no GPU; S, torch 1.0." in page
    assert "load average 0.0 to 0.4" in page
    assert "| ours, f32 | 10.0 | 1.0 | 2.00 | 20 |" in page
    assert "| ours, `--backend torch`, f32 | 20.0 | 2.0 | 2.00 | 20 |" in page
    assert "| nnU-Net, without mirroring (f32) | 250 | 25.0 | 3.00 | 200 |" in page
    assert "200 GFLOP, its files 2000 MB: 5.0 s at this machine's rates, 50 % of" in page
    assert "| ours, openvino | 2.5 | 6.0 | 99.999 % |" in page
    assert "| Net (f32) | 8.0 | 4.0 | 12.0 | 2.00 | 200 | 20 | 62 % | 6.0 |" in page
    assert "at most 2.90 times the CT's size as float32, as promised (at most 3)" in page
    assert "](p.png)" in page


def test_the_section_says_that_memory_is_more_than_promised() -> None:
    told = results()
    told["parts"]["scaling"]["rows"][0]["multiple"] = 3.01
    assert "3.01 times the CT's size as float32, more than promised" in speed_page.page(
        told, Path("p.png")
    )


@pytest.mark.parametrize("missing", driver.PARTS)
def test_a_part_that_was_not_measured_is_left_out(missing: str) -> None:
    told = copy.deepcopy(results())
    del told["parts"][missing]
    assert speed_page.page(told, Path("p.png"))


def test_results_are_kept_rendered_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, page = tmp_path / "speed.json", tmp_path / "page.md"
    kept.write_text(json.dumps(results()))
    page.write_text(f"a{speed_page.BEGIN}old{speed_page.END}b")
    arguments = ["--only", "--device", "cpu", "--results", str(kept), "--write", str(page)]
    assert driver.main(arguments) == 0
    text = page.read_text()
    assert text.startswith(f"a{speed_page.BEGIN}\nMeasured by")
    assert "](speed.png)" in text
    assert text.endswith(f"\n{speed_page.END}b")
    assert (tmp_path / "speed.png").stat().st_size > 5000
    assert "| nnU-Net" in capsys.readouterr().out

    page.write_text("no marks")
    assert driver.main(arguments) == 2
    assert page.read_text() == "no marks"


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    assert speed_page.section([tmp_path / "none.json"], tmp_path) == speed_page.NOTHING


def test_results_of_another_machine_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "speed.json"
    kept.write_text(json.dumps(results()))
    assert driver.main(["--only", "floor", "--device", "cpu", "--results", str(kept)]) == 2
    assert "this machine" in capsys.readouterr().err
    assert driver.results_so_far(kept, {"processor": "Q"}, [*driver.PARTS])["parts"] == {}


def test_an_environment_that_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "no network here")
    monkeypatch.setattr(nnunet_env.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ResourceError, match="no network here.*--nnunet-env"):
        nnunet_env.nnunet_python(tmp_path / "env")


def test_an_environment_that_is_there_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nnunet_env, "has_nnunet", lambda python: True)
    assert nnunet_env.nnunet_python(tmp_path).is_relative_to(tmp_path)
