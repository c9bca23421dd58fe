"""A CT on its way through the engine's process and back: its folder, and what became of the CT."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _

from LiverTumorSegGUI import nodes
from LiverTumorSegLib import protocol
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.protocol import Choices


@dataclass(frozen=True)
class Seen:
    """A CT as it was when a run began."""

    geometry: Geometry
    repairs: tuple[str, ...]
    checksum: int


@dataclass(frozen=True)
class RegionFound:
    """What is at a point.

    mask - Bool (z, y, x) on the CT's grid; None where no tumor is found.
    threshold - The tumor probability from which voxels count as the lesion's.
    mean_probability - Of its voxels.
    message - One sentence for the user.
    """

    mask: np.ndarray | None
    threshold: float
    mean_probability: float
    message: str


class Run:
    """One run of one CT through the engine's process. Call `close` before letting go of it."""

    def __init__(self, volumeNode, choices: Choices) -> None:
        """Write the CT into a new folder.

        Raises:
            LiverTumorSegLib.errors.InputError: the node cannot be segmented.
            LiverTumorSegLib.errors.ResourceError: the disk is full.
        """
        nodes.check_volume_node(volumeNode)
        self.volumeNode = volumeNode
        self.seen = see(volumeNode)
        parent = getattr(getattr(slicer, "app", None), "temporaryPath", None)
        self.folder = Path(tempfile.mkdtemp(prefix="livertumorseg-", dir=parent))
        job = protocol.Job(volumeNode.GetName(), self.seen.geometry, choices)
        try:
            protocol.write_job(self.folder, slicer.util.arrayFromVolume(volumeNode), job)
        except BaseException:
            self.close()
            raise

    def request(self) -> dict:
        """For job.Job.start: segment the CT."""
        return {"do": "segment", "folder": str(self.folder)}

    def regionRequest(self, pointRas: Sequence[float], liver: np.ndarray | None = None) -> dict:
        """For job.Job.start: look for a lesion at a point.

        Args:
            pointRas: in world coordinates.
            liver: bool (z, y, x) on the CT's grid, as the user has it now; None: as it was found.

        Raises:
            LiverTumorSegLib.errors.InputError: the CT is gone or has another grid by now.
            LiverTumorSegLib.errors.ResourceError: the disk is full.
        """
        changes(self.volumeNode, self.seen)
        path = self.folder / protocol.LIVER
        if liver is None:
            path.unlink(missing_ok=True)
        else:
            protocol.save_array(path, liver)
        point = nodes.point_in_volume(self.volumeNode, pointRas)
        return {"do": "region", "folder": str(self.folder), "point_lps_mm": point}

    def region(self) -> RegionFound:
        """What the last region request found."""
        found = protocol.read_found(self.folder)
        if found is None:
            message = _("No tumor found here. Only the liver is searched.")
            return RegionFound(None, 0.0, 0.0, message)
        message = _("A lesion was found here, with a mean tumor probability of {share:.0f} %.")
        return RegionFound(
            found.whole(self.seen.geometry.shape),
            found.threshold,
            found.mean_probability,
            message.format(share=100 * found.mean_probability),
        )

    def close(self) -> None:
        """Remove the folder. Arrays that were read from it stay valid, except on Windows."""
        shutil.rmtree(self.folder, ignore_errors=True)


def see(volumeNode) -> Seen:
    """What `changes` compares with."""
    geometry, repairs = nodes.grid_of(volumeNode)
    voxels = np.ascontiguousarray(slicer.util.arrayFromVolume(volumeNode))
    return Seen(geometry, repairs, zlib.crc32(voxels.view(np.uint8)))


def changes(volumeNode, seen: Seen) -> tuple[str, ...]:
    """What the user must know because the CT was changed since a run began.

    Raises:
        LiverTumorSegLib.errors.InputError: it was removed, or its grid is another now, so that the
            result does not fit.
    """
    nodes.check_in_scene(volumeNode)
    name = volumeNode.GetName()
    nodes.check_volume_node(volumeNode)
    now = see(volumeNode)
    if now.geometry != seen.geometry:
        raise InputError(
            _(
                "'{name}' was moved, cropped or resampled since its segmentation began, so the "
                "result does not fit any more; nothing was written. Run it again."
            ).format(name=name)
        )
    if now.checksum != seen.checksum:
        return (
            _(
                "'{name}' was changed since its segmentation began: the segments are those of the "
                "CT before, the numbers those of the CT now. Run it again."
            ).format(name=name),
        )
    return ()
