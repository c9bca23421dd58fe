"""One CT from its file to a folder of results."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LiverTumorSegLib.backends import pick_device
from LiverTumorSegLib.checkpoint import Model, identity
from LiverTumorSegLib.dicom import is_dicom
from LiverTumorSegLib.dicom_extra import dicom_packages
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.marked import on_one_grid, read_couinaud, read_marked, read_marked_dicom
from LiverTumorSegLib.measure import Measurement, measure
from LiverTumorSegLib.report import FILE_NAMES, Run, write_outputs
from LiverTumorSegLib.segment import ProgressHook, segment
from LiverTumorSegLib.segmentation import Segmentation
from LiverTumorSegLib.staging import staged
from LiverTumorSegLib.timing import timed
from LiverTumorSegLib.volume import Volume, read_volume

if TYPE_CHECKING:
    from LiverTumorSegLib.dicom_source import SourceSeries

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """A CT and what was found in it; the segmentation's `timings_s` tell of the whole run."""

    volume: Volume
    segmentation: Segmentation
    measurement: Measurement


@dataclass(frozen=True)
class Setup:
    """How CTs are segmented: the models of both stages, and the choices of `segment.segment`.

    With `dicom` the results are written as DICOM objects, too; the CT must then be a DICOM series.
    """

    liver: Model
    tumor: Model
    device: str
    backend: str
    flips: bool
    probabilities: bool
    dicom: bool = False

    def identity(self) -> dict[str, dict[str, Any]]:
        """The models as a report names them."""
        return {"liver": identity(self.liver), "tumor": identity(self.tumor)}


def measure_case(
    source: Path, segmentation: Path, outdir: Path, couinaud: Path | None, on_progress: ProgressHook
) -> Case:
    """Measure what somebody has marked in a CT; the folder gets what a segmentation's has.

    Args:
        source: the CT, as for `run_case`.
        segmentation: what is marked, as `marked.read_marked` reads it, or a DICOM SEG.
        outdir: made if it does not exist.
        couinaud: a map of liver segments, as `marked.read_couinaud` reads it.
        on_progress: called with ("Read" or "Report", share done); cancels by raising.

    Raises:
        InputError: a file or the folder cannot be used, or they do not fit each other.
        ResourceError: a file could not be written whole.
    """
    inputs = [source, segmentation, *([couinaud] if couinaud else [])]
    check_outputs(outdir, inputs)
    timings_s: dict[str, float] = {}
    on_progress("Read", 0.0)
    with timed(timings_s, "read"):
        volume = read_volume(source)
        if is_dicom(segmentation):
            marked = read_marked_dicom(segmentation, source, volume.geometry)
        else:
            marked = read_marked(segmentation)
        marked, volume = on_one_grid(marked, volume, segmentation)
        segments = None
        if couinaud is not None:
            segments = read_couinaud(couinaud, volume.geometry, marked.labels)
    on_progress("Read", 1.0)
    with staged(outdir, FILE_NAMES) as folder:
        on_progress("Report", 0.0)
        with timed(timings_s, "measure"):
            measurement, lesion_map = measure(
                volume, marked.labels, couinaud=segments, lesion_map=marked.lesion_map
            )
        found = Segmentation(marked.labels, marked.warnings, timings_s)
        run = Run(source.resolve().name, {}, None, segmentation.resolve().name)
        timings_s = write_outputs(folder, run, volume, found, measurement, lesion_map)
    on_progress("Report", 1.0)
    return Case(volume, dataclasses.replace(found, timings_s=timings_s), measurement)


def check_outputs(outdir: Path, inputs: list[Path]) -> None:
    """Refuse an output folder in which a run would overwrite what it reads.

    Raises:
        InputError: it would.
    """
    outputs = {(outdir / name).resolve() for name in FILE_NAMES}
    for path in inputs:
        if path.resolve() in outputs:
            raise InputError(
                f"{path}: expected an input, found a file that this run would overwrite. Choose "
                "another OUTDIR."
            )


def run_case(source: Path, outdir: Path, setup: Setup, on_progress: ProgressHook) -> Case:
    """Segment and measure one CT; its folder gets all files of `report` at once or none.

    Args:
        source: a NIfTI, NRRD or MHA file, or a DICOM folder.
        outdir: made if it does not exist.
        setup: with `probabilities` or `dicom`, these are written too.
        on_progress: called with ("Read", "Report" or a stage of `segment`, share done); cancels by
            raising.

    Raises:
        InputError: the CT, the folder or a choice cannot be used.
        ResourceError: a file could not be written whole.
    """
    check_outputs(outdir, [source])
    timings_s: dict[str, float] = {}
    on_progress("Read", 0.0)
    with timed(timings_s, "read"):
        series = _series_of(source) if setup.dicom else None
        volume = read_volume(source)
    on_progress("Read", 1.0)
    with staged(outdir, FILE_NAMES) as folder:
        device = str(pick_device(setup.device))
        segmentation = segment(
            volume,
            setup.liver,
            setup.tumor,
            device=device,
            backend=setup.backend,
            flips=setup.flips,
            probabilities=setup.probabilities,
            on_progress=on_progress,
        )
        timings_s |= segmentation.timings_s
        on_progress("Report", 0.0)
        with timed(timings_s, "measure"):
            measurement, lesion_map = measure(
                volume,
                segmentation.labels,
                segmentation.tumor_probability,
                segmentation.confidence,
            )
        warnings = segmentation.warnings
        if series is not None:
            from LiverTumorSegLib.dicom_results import write_dicom

            labels, models = segmentation.labels, setup.identity()
            with timed(timings_s, "write_dicom"):
                warnings += write_dicom(folder, series, models, labels, measurement, lesion_map)
        segmentation = dataclasses.replace(segmentation, warnings=warnings, timings_s=timings_s)
        run = Run(source.resolve().name, setup.identity(), device, None)
        timings_s = write_outputs(folder, run, volume, segmentation, measurement, lesion_map)
    for stage, seconds in timings_s.items():
        logger.info("%8.2f s  %s %s", seconds, stage, segmentation.computed_by.get(stage, ""))
    on_progress("Report", 1.0)
    return Case(volume, dataclasses.replace(segmentation, timings_s=timings_s), measurement)


def _series_of(source: Path) -> SourceSeries:
    with dicom_packages():
        from LiverTumorSegLib.dicom_results import source_of_results
    return source_of_results(source)
