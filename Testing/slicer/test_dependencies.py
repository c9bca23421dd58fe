"""What Apply installs. slicer-core has no installers: fakes record what they are asked."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import types

import pytest
import slicer

from LiverTumorSegGUI import dependencies

REQUIREMENTS = "# a comment\nsafetensors\npackage-that-is-not-there>=2\n"


class Installers:
    """Plays PyTorchUtils, slicer.packaging, pip_install and the dialogs."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.calls = []
        self.answer = True
        self.missing = set()
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name: None if name in self.missing else name == "torch" or find_spec(name),
        )
        monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", self.ask)
        monkeypatch.setattr(
            slicer.util, "pip_install", lambda lines: self.calls.append(("pip", lines))
        )
        self.module("slicer.packaging", load_requirements=str, pip_ensure=self.pip_ensure)
        monkeypatch.setattr(slicer, "packaging", sys.modules["slicer.packaging"], raising=False)

    def module(self, name, **content):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(content)
        self.monkeypatch.setitem(sys.modules, name, module)

    def ask(self, question):
        self.calls.append(("asked", question))
        return self.answer

    def pip_ensure(self, requirements, requester):
        self.calls.append(("ensure", requirements, requester))

    def install_torch(self, **options):
        self.calls.append(("torch", options))
        return self.answer or None


@pytest.fixture
def installers(monkeypatch):
    return Installers(monkeypatch)


@pytest.fixture
def requirements(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text(REQUIREMENTS)
    return str(path)


def test_the_rest_is_left_to_slicers_packaging(installers, requirements):
    dependencies.ensure_dependencies(requirements)
    assert installers.calls == [("ensure", requirements, "LiverTumorSeg")]


def with_pytorch_utils(installers):
    installers.missing.add("torch")
    logic = types.SimpleNamespace(installTorch=installers.install_torch)
    installers.module("PyTorchUtils", PyTorchUtilsLogic=lambda: logic)


def test_missing_torch_is_installed_by_pytorch_utils_after_asking(installers, requirements):
    with_pytorch_utils(installers)
    dependencies.ensure_dependencies(requirements)
    options = {"askConfirmation": True, "torchVersionRequirement": ">=2.6"}
    assert installers.calls[0] == ("torch", options)
    assert installers.calls[1][0] == "ensure"


def test_torch_declined_stops_before_anything_else(installers, requirements):
    with_pytorch_utils(installers)
    installers.answer = False
    with pytest.raises(RuntimeError, match="PyTorch is needed and was not installed"):
        dependencies.ensure_dependencies(requirements)
    assert [call[0] for call in installers.calls] == ["torch"]


@pytest.mark.parametrize("accepted", [True, False])
def test_without_pytorch_utils_the_extension_is_offered(
    installers, requirements, monkeypatch, accepted
):
    installers.missing.add("torch")
    installers.answer = accepted
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    installed = []
    model = types.SimpleNamespace(installExtensionFromServer=installed.append)
    application = types.SimpleNamespace(extensionsManagerModel=lambda: model)
    monkeypatch.setattr(slicer, "app", application, raising=False)
    with pytest.raises(RuntimeError, match="install the extension PyTorch .* restart Slicer"):
        dependencies.ensure_dependencies(requirements)
    assert installed == (["PyTorch"] if accepted else [])
    assert [call[0] for call in installers.calls] == ["asked"]


def test_slicer_5_10_asks_and_installs_only_what_is_missing(installers, requirements):
    importlib.metadata.version("safetensors")  # the other line of REQUIREMENTS
    installers.missing.add("slicer.packaging")
    dependencies.ensure_dependencies(requirements)
    (asked, question), installed = installers.calls
    assert asked == "asked"
    assert "package-that-is-not-there>=2" in question
    assert installed == ("pip", ["package-that-is-not-there>=2"])


def test_slicer_5_10_installs_nothing_when_declined_or_complete(installers, requirements, tmp_path):
    installers.missing.add("slicer.packaging")
    installers.answer = False
    with pytest.raises(RuntimeError, match="Python packages are missing"):
        dependencies.ensure_dependencies(requirements)
    assert [call[0] for call in installers.calls] == ["asked"]
    (tmp_path / "requirements.txt").write_text("safetensors\n")
    dependencies.ensure_dependencies(requirements)
    assert len(installers.calls) == 1
