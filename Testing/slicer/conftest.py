"""A real MRML scene without the desktop, for the tests of the Slicer module.

`slicer-core` holds Slicer's own MRML, segmentation, terminology and rendering code, and
`slicer.util`. It leaves out Qt and a few Python files of the desktop
(`slicer.ScriptedLoadableModule`, `slicer.parameterNodeWrapper`, `slicer.i18n`): standins.py plays
those. So these tests prove what happens to nodes, not what the panel looks like or how the desktop
finds the module.
"""

from __future__ import annotations

import sys
from pathlib import Path

import miniscene
import pytest
import slicer
import slicer.util
import standins
from grids import OBLIQUE, ijk_to_ras

from Testing.own_folders import folders_of_their_own as folders_of_their_own

ROOT = Path(__file__).resolve().parents[2]

standins.install()
if str(ROOT / "LiverTumorSeg") not in sys.path:
    sys.path.append(str(ROOT / "LiverTumorSeg"))  # Slicer does this for a module's folder


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slicer)


@pytest.fixture(scope="session")
def application():
    """See miniscene.start."""
    return miniscene.start()


@pytest.fixture
def scene(application):
    """The scene, empty but for its singletons."""
    slicer.mrmlScene.Clear()
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear()


@pytest.fixture
def add_ct(scene):
    """Function that adds a CT volume node."""

    def add(array, direction=OBLIQUE, name="CT", **geometry):
        return slicer.util.addVolumeFromArray(
            array, ijkToRAS=ijk_to_ras(direction, **geometry), name=name
        )

    return add


@pytest.fixture
def add_node(scene):
    """Function that adds a node of a class."""
    return scene.AddNewNodeByClass


@pytest.fixture
def read_back():
    """Function that returns a segment as bool (z, y, x) on the whole grid of a volume."""

    def read(segmentation_node, segment_id, volume_node):
        return slicer.util.arrayFromSegmentBinaryLabelmap(
            segmentation_node, segment_id, volume_node
        ).astype(bool)

    return read
