"""The command line as a contract: outputs, exit codes, messages, progress, and nothing half done.

Most runs here use small untrained networks whose answer is fixed by the bias of their last layer;
the last test runs the embedded weights on the sample CT.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import save_file

from LiverTumorSegLib import cli
from LiverTumorSegLib.checkpoint import (
    WEIGHTS_FOLDER,
    load_model,
    read_info,
    save_model,
)
from LiverTumorSegLib.errors import Cancelled, ResourceError, outcome_of
from LiverTumorSegLib.folders import MODELS_VARIABLE
from LiverTumorSegLib.networks import build
from LiverTumorSegLib.recipe import FixedShape
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.volume import read_labels

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "Testing" / "data" / "hcc006_arterial.nii.gz"
OUTPUTS = {
    *("labels.nii.gz", "segmentation.seg.nrrd", "lesions.csv"),
    *("report.json", "report.html", "preview.png"),
}
YES, NO = 8.0, -8.0
NO_CARD = dict.fromkeys(("license", "training_cases", "mean_dice"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Weights files: all-liver, no-liver, no-tumor, a tumor stage of random weights, and both."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    made = {}
    thin = {"channels": [4, 4, 4, 4]}
    for name, recipe, args, patch, head, bias in (
        ("liver", RECIPES["starter-liver"], thin, None, "head", YES),
        ("no-liver", RECIPES["starter-liver"], thin, None, "head", NO),
        ("no-tumor", RECIPES["starter-tumor"], {"width": 4}, (16, 32, 32), "heads.0", NO),
        ("tumor", RECIPES["starter-tumor"], {"width": 4}, (16, 32, 32), None, None),
        ("both", RECIPES["rmau-net"], {"base_channels": 6}, (1, 32, 32), "head", (YES, NO)),
    ):
        network = dataclasses.replace(recipe.network, args={**recipe.network.args, **args})
        small = {"pad_minimum": patch} if patch else {"resampling": FixedShape((16, 32, 32))}
        recipe = dataclasses.replace(
            recipe,
            network=network,
            patch=patch,
            preprocessing=dataclasses.replace(recipe.preprocessing, **small),
        )
        module = build(network.name, **network.args)
        if head:
            layer = module.get_submodule(head)
            torch.nn.init.zeros_(layer.weight)
            layer.bias.data[:] = torch.tensor(bias)
        save_model(folder / f"{name}.safetensors", module, recipe, {})
        made[name] = str(folder / f"{name}.safetensors")
    return made


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small noise CT in a folder whose name nobody else should see."""
    noise = np.random.default_rng(0).normal(60, 40, (12, 40, 44)).astype(np.int16)
    image = sitk.GetImageFromArray(noise)
    image.SetSpacing((2.0, 2.0, 5.0))
    image.SetOrigin((-44.0, -30.0, 700.0))
    path = tmp_path_factory.mktemp("SECRET-NAME") / "ct.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


def segment(source: Path, outdir: Path, weights: dict[str, str], *options: str) -> int:
    models = ["--liver", weights["liver"], "--tumor", weights["tumor"]]
    return cli.main(["segment", str(source), "-o", str(outdir), *models, *options])


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "LiverTumorSegLib", *map(str, arguments)]


# Results


def test_segment_writes_the_contracts_files_and_their_numbers_agree(
    ct: Path, tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert segment(ct, out, weights, "--device", "cpu") == 0
    assert {path.name for path in out.iterdir()} == OUTPUTS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]

    labels, _ = read_labels(out / "labels.nii.gz")
    assert labels.shape == (12, 40, 44)
    report = json.loads((out / "report.json").read_text())
    rows = list(csv.DictReader((out / "lesions.csv").open()))
    tumor_ml = np.count_nonzero(labels == 2) * 0.02
    assert tumor_ml > 0, "the random tumor stage was chosen because it finds some"
    assert report["liver"]["volume_ml"] == pytest.approx(12 * 40 * 44 * 0.02)
    assert report["tumor_volume_ml"] == pytest.approx(tumor_ml)
    assert sum(float(row["volume_ml"]) for row in rows) == pytest.approx(tumor_ml, abs=1e-3)
    assert len(report["lesions"]) == len(rows)
    assert report["input"] == "ct.nii.gz"
    assert report["device"] == "cpu"
    assert report["models"]["liver"] == {
        "name": "liver",
        "sha256": read_info(Path(weights["liver"])).sha256,
        **NO_CARD,
    }
    assert {"read", "liver", "tumor", "measure"} <= report["timings_s"].keys()
    assert report["computed_by"].keys() == {"liver", "tumor"}

    layers = sitk.ReadImage(str(out / "segmentation.seg.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(layers)[..., 0], labels > 0)
    np.testing.assert_allclose(layers.GetOrigin(), (-44.0, -30.0, 700.0))

    shown = capsys.readouterr()
    assert "Liver 422.4 mL." in shown.out
    assert "Not for clinical use." in shown.out
    assert all(str(out / name) in shown.out for name in OUTPUTS)
    assert shown.err.splitlines() == ["Read 100 %", "Liver 100 %", "Tumor 100 %", "Report 100 %"]


def test_one_file_for_both_targets_is_run_once(
    ct: Path, tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    both = {"liver": weights["both"], "tumor": weights["both"]}
    assert segment(ct, tmp_path, both, "--device", "cpu") == 0
    shown = capsys.readouterr()
    assert "Liver 422.4 mL. No tumor found." in shown.out
    stages = ["Read 100 %", "Liver and tumor 100 %", "Report 100 %"]
    assert shown.err.splitlines() == stages
    report = json.loads((tmp_path / "report.json").read_text())
    assert "liver_and_tumor" in report["timings_s"]
    sha256 = read_info(Path(weights["both"])).sha256
    assert report["models"] == {
        target: {"name": "both", "sha256": sha256, **NO_CARD} for target in ("liver", "tumor")
    }


@pytest.mark.parametrize("role", ["liver", "tumor"])
def test_a_file_for_both_targets_serves_beside_another(
    ct: Path, tmp_path: Path, weights: dict[str, str], role: str
) -> None:
    models = {**weights, role: weights["both"]}
    assert segment(ct, tmp_path, models, "--device", "cpu", "--progress", "none") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    other = {"liver": "tumor", "tumor": "liver"}[role]
    assert {target: model["name"] for target, model in report["models"].items()} == {
        role: "both",
        other: other,
    }
    assert report["liver"]["volume_ml"] == pytest.approx(422.4)


def test_verbose_tells_what_took_how_long_and_by_what(
    ct: Path, tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--device", "cpu", "--backend", "torch", "--progress", "none")
    assert segment(ct, tmp_path, weights, *options) == 0
    assert capsys.readouterr().err == ""
    assert segment(ct, tmp_path, weights, *options, "--verbose") == 0
    timings_s = json.loads((tmp_path / "report.json").read_text())["timings_s"]
    told = [line.split(maxsplit=3) for line in capsys.readouterr().err.splitlines()]
    assert {words[2]: float(words[0]) for words in told} == pytest.approx(timings_s, abs=0.0051)
    by = {words[2]: words[3] for words in told if len(words) > 3}
    assert by == dict.fromkeys(("liver", "tumor"), "torch float32 on cpu")
    assert by == json.loads((tmp_path / "report.json").read_text())["computed_by"]


def test_no_output_tells_the_folder_of_the_ct(
    ct: Path, tmp_path: Path, weights: dict[str, str]
) -> None:
    assert segment(ct, tmp_path, weights, "--progress", "none") == 0
    assert "SECRET" in ct.parent.name
    for path in tmp_path.iterdir():
        assert b"SECRET" not in path.read_bytes()


def test_a_second_run_replaces_the_first_and_takes_its_probabilities_away(
    ct: Path, tmp_path: Path, weights: dict[str, str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert segment(ct, tmp_path, weights, "--probabilities", "--progress", "none") == 0
    probability = sitk.ReadImage(str(tmp_path / "liver_probability.nii.gz"))
    values = sitk.GetArrayFromImage(probability)
    assert values.shape == (12, 40, 44)
    assert values.min() > 0.99
    assert (tmp_path / "tumor_probability.nii.gz").exists()
    assert segment(ct, tmp_path, weights, "--progress", "none") == 0
    assert {path.name for path in tmp_path.iterdir()} == OUTPUTS | {"mine.txt"}


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (("liver", "no-tumor"), "Liver 422.4 mL. No tumor found."),
        (("no-liver", "tumor"), "No liver found."),
    ],
)
def test_nothing_found_is_a_result(
    ct: Path,
    tmp_path: Path,
    weights: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    models: tuple[str, str],
    said: str,
) -> None:
    chosen = {"liver": weights[models[0]], "tumor": weights[models[1]]}
    assert segment(ct, tmp_path, chosen) == 0
    assert said in capsys.readouterr().out.splitlines()
    assert {path.name for path in tmp_path.iterdir()} == OUTPUTS
    assert json.loads((tmp_path / "report.json").read_text())["lesions"] == []


def test_mirrored_images_are_averaged_on_request(
    ct: Path, tmp_path: Path, weights: dict[str, str]
) -> None:
    quiet = ("--probabilities", "--progress", "none")
    assert segment(ct, tmp_path / "plain", weights, *quiet) == 0
    assert segment(ct, tmp_path / "tta", weights, "--tta", *quiet) == 0
    plain, mirrored = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / run / "tumor_probability.nii.gz")))
        for run in ("plain", "tta")
    )
    assert 0 < np.abs(plain - mirrored).max() < 1


def test_models_lists_what_is_installed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path))
    assert cli.main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["file"] for entry in listed] == [
        path.name for path in sorted(WEIGHTS_FOLDER.glob("*.safetensors"))
    ]
    assert {entry["target"] for entry in listed} == {"liver", "tumor"}
    for entry in listed:
        info = read_info(WEIGHTS_FOLDER / entry["file"])
        assert entry["sha256"] == info.sha256
        assert entry["recipe"] == json.loads(info.recipe.to_json())
        assert entry["card"] == info.card
    assert cli.main(["models"]) == 0
    table = capsys.readouterr().out
    for entry in listed:
        (row,) = [line for line in table.splitlines() if line.startswith(entry["name"])]
        assert entry["recipe"]["network"]["name"] in row
    assert "Not for clinical use." in table


def test_models_tells_where_weights_come_from_and_which_files_are_not_listed(
    weights: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A card of any content is no reason to fail."""
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path))
    model = load_model(weights["liver"])
    for name, scores in (
        ("mine", {"mean_dice": 0.625}),
        ("odd", ["?"]),
        ("odder", {"mean_dice": "?"}),
    ):
        card = {"scores": scores, "license": "CC0"}
        save_model(tmp_path / f"{name}.safetensors", model.network, model.recipe, card)
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    assert cli.main(["models"]) == 0
    shown = capsys.readouterr()
    rows = {line.split()[0]: line.split() for line in shown.out.splitlines()}
    assert rows["mine"] == ["mine", "liver", "unet3d", "0.625", "models", "folder", "CC0"]
    assert rows["odd"][3] == rows["odder"][3] == "-"
    assert rows["starter-liver"][4] == "embedded"
    assert str(tmp_path) in shown.out
    assert shown.err.startswith(f"Not listed: {tmp_path / 'cut.safetensors'}: expected a whole")
    assert cli.main(["models", "--json"]) == 0
    listed = {entry["name"]: entry["embedded"] for entry in json.loads(capsys.readouterr().out)}
    embedded = {path.stem for path in WEIGHTS_FOLDER.glob("*.safetensors")}
    assert listed == {**dict.fromkeys(embedded, True), "mine": False, "odd": False, "odder": False}


# Bad input: exit code 2, one message, nothing written


def damaged(source: str, folder: Path) -> Path:
    path = folder / "cut.safetensors"
    path.write_bytes(Path(source).read_bytes()[:-1000])
    return path


def write_image(path: Path, array: np.ndarray, vector: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
    return path


def bad_images(folder: Path) -> Iterator[tuple[str, Path]]:
    yield "missing", folder / "missing.nii.gz"
    text = folder / "text.nii.gz"
    text.write_text("this is no image")
    yield "text", text
    joined = sitk.JoinSeries([sitk.GetImageFromArray(np.zeros((4, 4, 4), np.int16))] * 3)
    sitk.WriteImage(joined, str(folder / "4d.nii.gz"))
    yield "4D", folder / "4d.nii.gz"
    yield "RGB", write_image(folder / "rgb.nii.gz", np.zeros((4, 4, 4, 3), np.uint8), vector=True)


@pytest.mark.parametrize("kind", ["missing", "text", "4D", "RGB"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_bad_image_gets_one_message_and_leaves_no_trace(
    tmp_path: Path,
    weights: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    kind: str,
    exists: bool,
) -> None:
    (tmp_path / "in").mkdir()
    source = dict(bad_images(tmp_path / "in"))[kind]
    out = tmp_path / "out"
    if exists:
        out.mkdir()
        (out / "labels.nii.gz").write_text("earlier")
    before = sorted(tmp_path.rglob("*"))
    assert segment(source, out, weights) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (message,) = shown.err.splitlines()
    assert message.startswith(f"{source}: expected ")
    assert sorted(tmp_path.rglob("*")) == before
    assert not exists or (out / "labels.nii.gz").read_text() == "earlier"


@pytest.mark.parametrize("kind", ["missing", "damaged", "not ours", "wrong target"])
def test_bad_weights_get_one_message_and_leave_no_trace(
    ct: Path,
    tmp_path: Path,
    weights: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    (tmp_path / "w").mkdir()
    foreign = tmp_path / "w" / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign, {"format": "pt"})
    path, named = {
        "missing": (tmp_path / "none.safetensors",) * 2,
        "damaged": (damaged(weights["liver"], tmp_path / "w"),) * 2,
        "not ours": (foreign, foreign),
        "wrong target": (Path(weights["tumor"]), "tumor"),
    }[kind]
    before = sorted(tmp_path.rglob("*"))
    assert segment(ct, tmp_path / "out", {**weights, "liver": str(path)}) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert str(named) in message
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_model_name_is_answered_with_the_choices(
    ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["segment", str(ct), "-o", str(tmp_path / "out"), "--liver", "nonesuch"]) == 2
    assert "'nonesuch'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_outdir_is_found_before_the_segmentation(
    ct: Path, tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    assert segment(ct, out, weights) == 2
    *stages, message = capsys.readouterr().err.splitlines()
    assert message.startswith(f"{out}: expected a folder")
    assert "Liver 100 %" not in stages
    assert out.read_text() == "mine"


def test_the_ct_is_never_overwritten(
    ct: Path, tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "labels.nii.gz"
    source.write_bytes(ct.read_bytes())
    assert segment(source, tmp_path, weights) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert source.read_bytes() == ct.read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [[], ["segment"], ["segment", "x.nii"], ["segment", "x", "-o", "y", "--device", "gpu"]],
)
def test_wrong_usage_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused(
    ct: Path, tmp_path: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(ct, tmp_path / "out", weights, "--device", "cuda:99") == 2
    assert "cuda:99" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Other exit codes


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Cancelled(), 3, "Cancelled."),
        (KeyboardInterrupt(), 3, "Cancelled."),
        (ResourceError("no room"), 4, "no room"),
        (MemoryError(), 4, "Out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), 4, "device cpu"),
        (OSError(28, "No space left on device", "/x"), 4, "out: the disk is full"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory"), 4, "Out of memory"),
        (ZeroDivisionError("oops"), 1, "This is a bug. Please report it"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(
    ct: Path,
    tmp_path: Path,
    weights: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    """The failure strikes in the middle of the tumor stage."""

    def strike(_: object, stage: str, fraction: float) -> None:
        if stage == "Tumor":
            raise error

    monkeypatch.setattr("LiverTumorSegLib.progress.TextProgress.__call__", strike)
    assert segment(ct, tmp_path / "out", weights) == code
    message = capsys.readouterr().err
    assert said in message
    assert ("Traceback" in message) == (code == 1)
    assert list(tmp_path.iterdir()) == []


def test_torch_running_out_of_memory_for_real_is_exit_code_4() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert outcome_of(caught.value)[0] == 4


@pytest.mark.parametrize(("target", "code"), [("/dev/full", 4), ("/dev/null", 0)])
def test_a_list_that_cannot_be_written_is_no_success(target: str, code: int) -> None:
    with Path(target).open("w") as full:
        done = subprocess.run(
            command("models", "--json"), cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == code
    assert done.stderr == (b"The disk is full. Free some space.\n" if code else b"")


def wait_for(process: subprocess.Popen[str], stage: str) -> None:
    for line in process.stdout:
        if json.loads(line)["stage"] == stage:
            return
    pytest.fail(f"the run ended before {stage}")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cancels_and_leaves_no_trace(
    tmp_path: Path, weights: dict[str, str], how: signal.Signals
) -> None:
    models = ["--liver", weights["liver"], "--tumor", weights["tumor"], "--device", "cpu"]
    run = command("segment", SAMPLE, "-o", tmp_path / "out", *models, "--progress", "json")
    with subprocess.Popen(
        run,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & ignores it
    ) as process:
        wait_for(process, "Liver")
        assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
        process.send_signal(how)
        rest, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    assert errors == "Cancelled.\n"
    last = json.loads(rest.splitlines()[-1])
    assert (last["event"], last["message"]) == ("error", "Cancelled.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_whose_reader_has_gone_stops_and_leaves_no_trace(
    tmp_path: Path, weights: dict[str, str]
) -> None:
    models = ["--liver", weights["liver"], "--tumor", weights["tumor"], "--device", "cpu"]
    run = command("segment", SAMPLE, "-o", tmp_path / "out", *models, "--progress", "json")
    with subprocess.Popen(
        run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(process, "Liver")
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=120) == 3
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


# Progress and start-up


def test_json_progress_is_one_ascii_object_a_line(
    ct: Path, tmp_path: Path, weights: dict[str, str]
) -> None:
    source = tmp_path / "L\u00e9ber.nii.gz"
    source.write_bytes(ct.read_bytes())
    models = ["--liver", weights["liver"], "--tumor", weights["tumor"]]
    run = command("segment", source, "-o", tmp_path / "out", *models, "--progress", "json")
    done = subprocess.run(run, cwd=ROOT, capture_output=True, timeout=300, check=True)
    events = [json.loads(line) for line in done.stdout.decode("ascii").splitlines()]
    assert all(list(e) == ["event", "stage", "fraction", "message"] for e in events)
    assert [e["event"] for e in events] == ["progress"] * (len(events) - 1) + ["result"]
    assert events[-1]["message"].startswith("Liver 422.4 mL. ")
    stages = [e["stage"] for e in events]
    assert sorted(set(stages), key=stages.index) == ["Read", "Liver", "Tumor", "Report"]
    for stage in set(stages):
        shares = [e["fraction"] for e in events if e["stage"] == stage]
        assert shares == sorted(shares)
        assert shares[0] >= 0
        assert shares[-1] == 1
    assert done.stderr == b""


def test_json_progress_reports_errors_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "Gef\u00e4\u00df.nii.gz"
    arguments = ["segment", str(missing), "-o", str(tmp_path / "out"), "--progress", "json"]
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out.isascii()
    last = json.loads(shown.out.splitlines()[-1])
    assert last["event"] == "error"
    assert last["message"] == shown.err.strip()
    assert last["message"].startswith(str(missing))


def test_a_terminal_gets_a_bar_with_the_stages_name(
    ct: Path, tmp_path: Path, weights: dict[str, str]
) -> None:
    models = ["--liver", weights["liver"], "--tumor", weights["tumor"]]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("segment", ct, "-o", tmp_path / "out", *models),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 4096):
                shown += block
        except OSError:  # Linux: the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    bars = [line for line in shown.decode().split("\r") if "%|" in line]
    assert any(line.startswith("Liver") for line in bars)
    assert any(line.startswith("Tumor") and "100 %|" in line for line in bars)


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["models", "--json"]])
def test_help_and_lists_do_not_import_torch(arguments: list[str]) -> None:
    run = [sys.executable, "-X", "importtime", "-m", "LiverTumorSegLib", *arguments]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not {"torch", "SimpleITK", "scipy"} & imported


def test_the_help_promises_only_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert cli.main(["segment", "--help"]) == 0
    assert cli.main(["batch", "--help"]) == 0
    text = overview + capsys.readouterr().out
    assert " ".join(text.split()).count("Not for clinical use.") == 3
    for absent in ("worker",):
        assert absent not in text


# The whole product: the embedded weights on the sample CT


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of one run with nothing but defaults, on the CPU."""
    out = tmp_path_factory.mktemp("product") / "out"
    run = command("segment", SAMPLE, "-o", out, "--device", "cpu")
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_product_segments_the_sample_on_its_own_grid(product: Path) -> None:
    assert {path.name for path in product.iterdir()} == OUTPUTS
    labels, geometry = read_labels(product / "labels.nii.gz")
    ct = sitk.ReadImage(str(SAMPLE))
    assert labels.shape == ct.GetSize()[::-1]
    np.testing.assert_allclose(geometry.origin_mm, ct.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(geometry.spacing_mm[::-1], ct.GetSpacing(), atol=1e-5)
    report = json.loads((product / "report.json").read_text())
    voxel_ml = np.prod(ct.GetSpacing()) / 1000
    liver_ml = np.count_nonzero(labels) * voxel_ml
    assert report["liver"]["volume_ml"] == pytest.approx(liver_ml, rel=1e-5)
    assert 900 < liver_ml < 3000
    names = {model["name"] for model in report["models"].values()}
    assert names <= {path.stem for path in WEIGHTS_FOLDER.glob("*.safetensors")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "voxel", [(61, 170, 150), (44, 170, 150), (44, 120, 200), (27, 150, 100), (19, 130, 90)]
)
def test_the_product_finds_the_liver(product: Path, voxel: tuple[int, int, int]) -> None:
    """Voxels (z, y, x) in the liver's dome, both lobes and lower tip, picked by eye."""
    assert read_labels(product / "labels.nii.gz")[0][voxel] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "voxel",
    [
        pytest.param((27, 239, 145), id="right kidney"),
        pytest.param((27, 300, 380), id="spleen"),
        pytest.param((44, 220, 370), id="stomach"),
        pytest.param((44, 270, 300), id="aorta"),
        pytest.param((44, 270, 245), id="vertebra"),
        pytest.param((61, 270, 400), id="left lung"),
        pytest.param((61, 150, 320), id="heart"),
    ],
)
def test_the_product_leaves_other_organs_out(product: Path, voxel: tuple[int, int, int]) -> None:
    """Voxels (z, y, x) picked by eye."""
    assert read_labels(product / "labels.nii.gz")[0][voxel] == 0
