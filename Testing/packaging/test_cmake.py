"""Configure, build and install the extension, then compare what is installed with the tree.

Slicer's own CMake files are not here. SLICER_CONFIG plays them: the two macros the extension calls,
written from their documented behavior, and nothing else. So this proves that our CMake files are
complete and that the installed package imports, not that Slicer's packaging accepts it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = Path("lib/Slicer/qt-scripted-modules")

SLICER_CONFIG = """
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/Metadata.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/Cpack.cmake)
"""

USE_SLICER = """
include(CMakeParseArguments)
option(BUILD_TESTING "Build tests" ON)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer/qt-scripted-modules)

macro(ctkMacroCompilePythonScript)
  cmake_parse_arguments(MY "NO_INSTALL_SUBDIR;GLOBAL_TARGET"
    "TARGET_NAME;SOURCE_DIR;DESTINATION_DIR;INSTALL_DIR" "SCRIPTS;RESOURCES" ${ARGN})
  set(copied)
  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})
    if(IS_ABSOLUTE ${file} OR file MATCHES "[.][.]/")
      message(FATAL_ERROR "outside of the module folder: ${file}")
    endif()
    add_custom_command(
      OUTPUT ${MY_DESTINATION_DIR}/${file}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${file}
      COMMAND ${CMAKE_COMMAND} -E copy
        ${CMAKE_CURRENT_SOURCE_DIR}/${file} ${MY_DESTINATION_DIR}/${file})
    list(APPEND copied ${MY_DESTINATION_DIR}/${file})
  endforeach()
  add_custom_target(Copy${MY_TARGET_NAME} ALL DEPENDS ${copied})
  if(NOT MY_NO_INSTALL_SUBDIR)
    message(FATAL_ERROR "${MY_TARGET_NAME}: expected NO_INSTALL_SUBDIR")
  endif()
  install(DIRECTORY ${MY_DESTINATION_DIR}/ DESTINATION ${MY_INSTALL_DIR})
endmacro()

macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY_SLICER
    "WITH_GENERIC_TESTS;WITH_SUBDIR" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_SLICER_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown keywords: ${MY_SLICER_UNPARSED_ARGUMENTS}")
  endif()
  ctkMacroCompilePythonScript(
    TARGET_NAME ${MY_SLICER_NAME}
    SCRIPTS "${MY_SLICER_SCRIPTS}"
    RESOURCES "${MY_SLICER_RESOURCES}"
    DESTINATION_DIR ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}
    INSTALL_DIR ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}
    NO_INSTALL_SUBDIR)
endmacro()

macro(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "SCRIPT" "" ${ARGN})
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${MY_SCRIPT})
    message(FATAL_ERROR "no such test: ${MY_SCRIPT}")
  endif()
  message(STATUS "self test: ${MY_SCRIPT}")
endmacro()
"""

METADATA = """
foreach(name HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  message(STATUS "EXTENSION_${name}=${EXTENSION_${name}}")
endforeach()
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def installed_files(prefix: Path) -> set[str]:
    folder = prefix / MODULES
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


class Extension:
    """A copy of what Slicer builds, with a build folder and an install prefix."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("cmake") is None:
            pytest.skip("cmake is not installed")
        self.source, self.build, self.prefix = (
            folder / name for name in ("source", "build", "installed")
        )
        self.source.mkdir()
        shutil.copy(ROOT / "CMakeLists.txt", self.source)
        ignored = shutil.ignore_patterns("__pycache__", "*.partial", ".*")
        for name in ("LiverTumorSeg", "LiverTumorSegLib"):
            shutil.copytree(ROOT / name, self.source / name, ignore=ignored)
        slicer = folder / "Slicer"
        slicer.mkdir()
        (slicer / "SlicerConfig.cmake").write_text(SLICER_CONFIG)
        (slicer / "UseSlicer.cmake").write_text(USE_SLICER)
        (slicer / "Metadata.cmake").write_text(METADATA)
        (slicer / "Cpack.cmake").write_text("")
        # Nothing is compiled, so no compiler is needed: any program may play it.
        settings = {"Slicer_DIR": slicer, "CMAKE_INSTALL_PREFIX": self.prefix}
        for language in ("C", "CXX"):
            settings[f"CMAKE_{language}_COMPILER"] = sys.executable
            settings[f"CMAKE_{language}_COMPILER_FORCED"] = "ON"
        options = [f"-D{name}={value}" for name, value in settings.items()]
        self.log = run("cmake", "-S", self.source, "-B", self.build, "-Wno-dev", *options)
        self.install()

    def install(self) -> None:
        run("cmake", "--build", self.build)
        run("cmake", "--install", self.build)

    def metadata(self, name: str) -> str:
        (value,) = re.findall(rf"^-- EXTENSION_{name}=(.*)$", self.log, re.MULTILINE)
        return value


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Extension:
    return Extension(tmp_path_factory.mktemp("cmake"))


def test_every_file_of_module_and_library_is_installed_and_nothing_else(
    extension: Extension,
) -> None:
    expected = set()
    for folder, at in (("LiverTumorSeg", "."), ("LiverTumorSegLib", "LiverTumorSegLib")):
        top = extension.source / folder
        for file in top.rglob("*"):
            for_the_repository = file.name in ("CMakeLists.txt", "ruff.toml")
            for_the_readme = file.parent.name == "Screenshots"
            if file.is_file() and not for_the_repository and not for_the_readme:
                expected.add(str(Path(at) / file.relative_to(top)))
    assert {
        "LiverTumorSeg.py",
        "LiverTumorSegLib/volume.py",
        "LiverTumorSegGUI/nodes.py",
    } < expected
    assert installed_files(extension.prefix) == expected


def test_weights_and_cards_are_installed_beside_the_engine(extension: Extension) -> None:
    weights = sorted((ROOT / "LiverTumorSegLib" / "weights").iterdir())
    endings = {file.suffix for file in weights}
    assert endings == {".safetensors", ".md"}
    for file in weights:
        copy = extension.prefix / MODULES / "LiverTumorSegLib" / "weights" / file.name
        assert copy.read_bytes() == file.read_bytes()


def test_the_installed_package_imports_without_the_checkout(extension: Extension) -> None:
    folder = extension.prefix / MODULES
    code = (
        f"import sys; sys.path[0:1] = [{str(folder)!r}]\n"
        "import LiverTumorSegLib.checkpoint, LiverTumorSegLib.measure, LiverTumorSegLib.volume\n"
        "print(LiverTumorSegLib.__file__)\n"
        "print(len(LiverTumorSegLib.checkpoint.list_models()))"
    )
    path, count = run(sys.executable, "-c", code, cwd=extension.prefix).split()
    assert Path(path) == folder / "LiverTumorSegLib" / "__init__.py"
    assert int(count) == len(list((ROOT / "LiverTumorSegLib/weights").glob("*.safetensors")))


def test_a_new_engine_file_is_installed_without_editing_a_list(
    tmp_path: Path,
) -> None:
    extension = Extension(tmp_path)
    (extension.source / "LiverTumorSegLib" / "networks" / "sixth.py").write_text('"""New."""\n')
    extension.install()
    assert "LiverTumorSegLib/networks/sixth.py" in installed_files(extension.prefix)


def test_metadata_is_what_the_extensions_index_asks_for(extension: Extension) -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    assert re.search(r"project\((.+?)\)", text)[1] == "LiverTumorSeg"  # the index reads it so
    assert extension.metadata("DEPENDS") == "PyTorch"
    assert "not for clinical use" in extension.metadata("DESCRIPTION")
    assert extension.metadata("CONTRIBUTORS")
    assert extension.metadata("HOMEPAGE").startswith("https://github.com/")
    assert "/Slicer" in extension.metadata("HOMEPAGE")
    for name in ("ICONURL", "SCREENSHOTURLS"):
        for url in extension.metadata(name).split():
            assert url.startswith("https://raw.githubusercontent.com/")
            branch_path = url.split("/main/")[1]
            assert (ROOT / branch_path).is_file()
    assert "self test: LiverTumorSeg.py" in extension.log


def test_the_entry_for_the_extensions_index_agrees_with_the_metadata(extension: Extension) -> None:
    """LiverTumorSeg.json is what a pull request adds to Slicer's ExtensionsIndex."""
    entry = json.loads((ROOT / "LiverTumorSeg.json").read_text(encoding="utf-8"))
    assert "\r" not in (ROOT / "LiverTumorSeg.json").read_bytes().decode()
    allowed = "$schema build_dependencies build_subdirectory category scm_revision scm_url tier"
    assert set(entry) == set(allowed.split())
    assert entry["$schema"].endswith("/slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert entry["build_dependencies"] == extension.metadata("DEPENDS").split()
    assert entry["scm_url"] == extension.metadata("HOMEPAGE")
    assert entry["scm_url"].rsplit("/", 1)[1].startswith("Slicer")
    assert (entry["category"], entry["tier"]) == ("Segmentation", 1)


def test_the_description_names_what_the_weights_are_for(extension: Extension) -> None:
    """People decide by it whether to install: kind of image, purpose, limits."""
    description = extension.metadata("DESCRIPTION")
    for words in ("contrast-enhanced abdominal CT", "liver", "tumor", "not for clinical use"):
        assert words in description


def test_icons_are_128_pixels_square() -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    for path in ("LiverTumorSeg.png", "LiverTumorSeg/Resources/Icons/LiverTumorSeg.png"):
        with image.open(ROOT / path) as icon:
            assert icon.size == (128, 128)
            assert icon.format == "PNG"


def test_what_slicer_installs_agrees_with_what_pip_installs() -> None:
    """requirements.txt and the PyTorch requirement of the module come from pyproject.toml."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    required = re.findall(r'"(.+?)"', re.search(r"^dependencies = \[(.+)\]$", pyproject, re.M)[1])
    requirements = ROOT / "LiverTumorSeg" / "Resources" / "requirements.txt"
    lines = [line for line in requirements.read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert set(lines) <= set(required)
    source = (ROOT / "LiverTumorSeg" / "LiverTumorSegGUI" / "dependencies.py").read_text()
    (torch_requirement,) = re.findall(r'^TORCH_REQUIREMENT = "(.+)"$', source, re.M)
    assert f"torch{torch_requirement}" in required
