"""What holds for the repository as a whole: layout, import rule, sizes, versions, links."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import LiverTumorSegLib

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
WEIGHTS = ROOT / "LiverTumorSegLib" / "weights"
MB = 1_000_000


def repository_files() -> list[Path]:
    """All files that git tracks or would track."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    files = [ROOT / name for name in sorted(set(listing.split("\0"))) if name]
    return [file for file in files if file.is_file()]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_no_module_stands_where_slicer_would_load_it() -> None:
    # A folder given to Slicer is scanned, and every .py in it is loaded as a Slicer module.
    assert [file.name for file in ROOT.glob("*.py")] == []
    assert [file.name for file in (ROOT / "LiverTumorSeg").glob("*.py")] == ["LiverTumorSeg.py"]


def test_embedded_weights_are_small_and_described() -> None:
    weights = sorted(WEIGHTS.glob("*.safetensors"))
    cards = sorted(WEIGHTS.glob("*.md"))
    assert weights, "the product embeds its default models"
    assert sum(file.stat().st_size for file in weights) <= 20 * MB
    assert {card.stem for card in cards} == {file.stem for file in weights}
    assert all(card.read_text(encoding="utf-8").strip() for card in cards)


def test_sample_data_is_small() -> None:
    samples = list((ROOT / "Testing" / "data").glob("*.nii.gz"))
    assert ROOT / "Testing" / "data" / "hcc006_arterial.nii.gz" in samples
    assert sum(file.stat().st_size for file in samples) <= 15 * MB


def test_nothing_large_is_kept_besides_weights_and_samples() -> None:
    large = {file.parent for file in repository_files() if file.stat().st_size > 2 * MB}
    assert large <= {WEIGHTS, ROOT / "Testing" / "data"}


def banned_lines(filename: str, source: str) -> list[int]:
    """The lines at which ruff, with the repository's settings, finds a forbidden import."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251"]
    command += ["--output-format", "concise", "--stdin-filename", filename, "-"]
    result = subprocess.run(
        command, cwd=ROOT, input=source, capture_output=True, text=True, check=False
    )
    assert result.returncode in (0, 1), result.stderr
    return [int(line) for line in re.findall(r":(\d+):\d+: TID251 ", result.stdout)]


@pytest.mark.parametrize(
    ("filename", "forbidden"),
    [
        (
            "LiverTumorSegLib/x.py",
            "slicer qt ctk vtk vtkmodules LiverTumorSeg LiverTumorSegGUI Training Testing",
        ),
        ("LiverTumorSegLib/networks/x.py", "slicer qt ctk vtk vtkmodules Training Testing"),
        ("Training/x.py", "slicer qt ctk vtk vtkmodules LiverTumorSeg LiverTumorSegGUI Testing"),
        ("LiverTumorSeg/LiverTumorSeg.py", "Training Testing"),
        ("LiverTumorSeg/LiverTumorSegGUI/x.py", "Training Testing"),
    ],
)
@pytest.mark.parametrize("form", ["import {}", "from {} import x", "def f():\n    import {}.x"])
def test_a_forbidden_import_fails_the_linter(filename: str, forbidden: str, form: str) -> None:
    for module in forbidden.split():
        source = form.format(module) + "\n"
        assert banned_lines(filename, source) == [source.count("\n")], module


@pytest.mark.parametrize(
    ("filename", "allowed"),
    [
        ("LiverTumorSegLib/x.py", "LiverTumorSegLib.volume torch numpy"),
        ("Training/x.py", "LiverTumorSegLib.volume Training.losses torch"),
        ("LiverTumorSeg/LiverTumorSeg.py", "slicer qt ctk vtk LiverTumorSegLib LiverTumorSegGUI"),
        ("Testing/engine/x.py", "LiverTumorSegLib Training slicer Testing"),
    ],
)
def test_an_allowed_import_passes_the_linter(filename: str, allowed: str) -> None:
    assert banned_lines(filename, "".join(f"import {name}\n" for name in allowed.split())) == []


@pytest.mark.parametrize(
    "code",
    [
        "import LiverTumorSegLib.recipes",
        "from LiverTumorSegLib.cli import main; main(['--help'])",
        "from LiverTumorSegLib.cli import main; main(['segment', '--help'])",
        "from LiverTumorSegLib.cli import main; main(['models', '--json'])",
    ],
)
def test_torch_is_not_imported_before_it_is_needed(code: str) -> None:
    report = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    result = run_python(f"{report}\n{code}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "False"


def test_the_package_and_its_metadata_say_the_same_version() -> None:
    (declared,) = re.findall(r'^version = "(.+)"$', PYPROJECT, re.MULTILINE)
    assert declared == LiverTumorSegLib.__version__


def test_every_package_folder_is_installed() -> None:
    (declared,) = re.findall(r"^packages = \[(.+)\]$", PYPROJECT, re.MULTILINE)
    found = [file.parent for file in (ROOT / "LiverTumorSegLib").rglob("__init__.py")]
    names = {".".join(folder.relative_to(ROOT).parts) for folder in found}
    assert set(re.findall(r'"(.+?)"', declared)) == names


def test_every_requirement_is_pinned_for_ci() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {name.lower() for name in re.findall(r"^([\w.-]+)==\S", pins, re.MULTILINE)}
    extras = PYPROJECT.split("[project.optional-dependencies]\n")[1].split("\n\n")[0].splitlines()
    required = [*re.findall(r"^dependencies = \[.+\]$", PYPROJECT, re.MULTILINE), *extras]
    assert {line.split(" = ")[0] for line in required} >= {"dependencies", "test", "lint"}
    names = {name.lower() for name in re.findall(r'"([\w.-]+)', " ".join(required))}
    assert names - pinned == set()


def test_no_file_names_a_folder_of_the_machine_it_was_written_on() -> None:
    machine_folders = [b"/" + name + b"/" for name in (b"work", b"root")]
    files = repository_files()
    assert Path(__file__) in files
    guilty = [f for f in files if any(folder in f.read_bytes() for folder in machine_folders)]
    assert guilty == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_between_documents_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    local = [target for target in targets if not target.startswith("http")]
    assert local
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_the_readme_shows_the_options_that_the_commands_have() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown: set[str] = set()
    for command, after in (("segment", "batch"), ("batch", "models")):  # batch has both
        text = readme.split(f"livertumorseg {command} ")[1].split(f"livertumorseg {after} ")[0]
        shown |= set(re.findall(r"--\w+", text))
        code = f"from LiverTumorSegLib.cli import main; main(['{command}', '--help'])"
        usage = run_python(code).stdout.split("\n\n")[0]
        assert shown == set(re.findall(r"--\w+", usage))
