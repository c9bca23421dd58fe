"""Seconds from a result on disk to segments and table in Slicer, and of an update after an edit.

    python -m Testing.benchmarks.review_time [ROUNDS]

A made-up CT of 512 x 512 x 300 voxels, a liver of 1.7 L with ten tumors, and a probability map, on
slicer-core's real MRML without views. Targets on two idle cores: shown within 3 s, an update after
an edit within 0.3 s.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import slicer
import slicer.util

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "Testing" / "slicer"), str(ROOT / "LiverTumorSeg")]

import miniscene  # noqa: E402
import standins  # noqa: E402

SHAPE = (300, 512, 512)
SPACING_MM = (1.0, 0.75, 0.75)
LIVER_RADII_MM = (85.0, 70.0, 70.0)
TUMOR_RADII_MM = (20, 16, 13, 11, 9, 8, 7, 6, 5, 4)


def main(rounds: int) -> None:
    """Print of each action the median and the largest time, and the largest CPU time."""
    standins.install()
    miniscene.start()
    from LiverTumorSegGUI import nodes
    from LiverTumorSegGUI.review import Review
    from LiverTumorSegLib.measure import measure

    seconds: dict[str, list[tuple[float, float]]] = {}

    def timed(name, work):
        clocks = (time.perf_counter, time.process_time)
        started = [clock() for clock in clocks]
        result = work()
        spent = tuple(clock() - start for clock, start in zip(clocks, started, strict=True))
        seconds.setdefault(name, []).append(spent)
        return result

    with tempfile.TemporaryDirectory() as folder:
        hu, labels_path, map_path = made_up(Path(folder))
        volume = slicer.util.addVolumeFromArray(hu, np.diag([-0.75, -0.75, 1.0, 1.0]), "CT")
        for _ in range(rounds):

            def show(labels_path=labels_path, map_path=map_path):
                labels = np.load(labels_path, mmap_mode="r")
                probability = np.load(map_path, mmap_mode="r")
                measurement, lesion_map = timed(
                    "  of it: measure all",
                    lambda: measure(nodes.volume_from_node(volume), labels, probability),
                )
                segmentation = nodes.add_node("vtkMRMLSegmentationNode", "Result")
                table = nodes.add_node("vtkMRMLTableNode", "Lesions")
                timed(
                    "  of it: write segments",
                    lambda: nodes.write_segments(labels, lesion_map, volume, segmentation),
                )
                nodes.write_lesion_table(measurement, table)
                review = timed(
                    "  of it: start the review",
                    lambda: Review(volume, segmentation, table, probability, smallest_mm3=30.0),
                )
                return segmentation, table, review

            segmentation, table, review = timed("result on disk to segments and table", show)
            timed("table after an edit (brush)", lambda r=review, s=segmentation: brush(s, volume))
            timed("threshold, first", lambda r=review: r.threshold(0.45))
            timed("threshold, next", lambda r=review: r.threshold(0.55))
            timed("accept", lambda r=review: r.accept(["tumor_1"]))
            timed("merge", lambda r=review: r.merge(["tumor_2", "tumor_3"]))
            timed("split", lambda r=review: r.split("tumor_2"))
            timed("undo", review.undo)
            assert table.GetNumberOfRows() == len(review.rows()) >= len(TUMOR_RADII_MM) - 2
            review.close()
            for node in (segmentation, table):
                slicer.mrmlScene.RemoveNode(node)
    print(f"{'512 x 512 x 300, ten tumors':40}{'seconds':>10}{'largest':>10}{'CPU s':>10}")
    for name, spent in seconds.items():
        wall, cpu = zip(*spent, strict=True)
        print(f"{name:40}{statistics.median(wall):10.2f}{max(wall):10.2f}{max(cpu):10.2f}")


def made_up(folder: Path) -> tuple[np.ndarray, Path, Path]:
    """The CT, and the files of a result: labels and the tumor probabilities."""
    axes = [
        (np.arange(n, dtype=np.float32) - n / 2).reshape(np.roll([n, 1, 1], axis)) * spacing
        for axis, (n, spacing) in enumerate(zip(SHAPE, SPACING_MM, strict=True))
    ]
    liver = sum((c / r) ** 2 for c, r in zip(axes, LIVER_RADII_MM, strict=True)) <= 1
    labels = liver.astype(np.uint8)
    probability = np.zeros(SHAPE, dtype=np.float16)
    for number, radius in enumerate(TUMOR_RADII_MM):
        angle = 2 * np.pi * number / len(TUMOR_RADII_MM)
        place = (45 * np.cos(3 * angle), 42 * np.cos(angle), 42 * np.sin(angle))
        near = [
            np.flatnonzero(np.abs(c - p) < radius + 12) for c, p in zip(axes, place, strict=True)
        ]
        box = tuple(slice(n[0], n[-1] + 1) for n in near)
        cut = [
            c.take(n, axis) - p
            for axis, (c, n, p) in enumerate(zip(axes, near, place, strict=True))
        ]
        away = sum(c**2 for c in cut) ** 0.5
        blurred = (1 / (1 + np.exp((away - radius) / 1.5))).astype(np.float16)
        probability[box] = np.maximum(probability[box], blurred)
    labels[(probability >= 0.5) & liver] = 2
    hu = (labels * 50).astype(np.int16)
    paths = folder / "labels.npy", folder / "tumor_probability.npy"
    for path, array in zip(paths, (labels, probability), strict=True):
        np.save(path, array)
    return hu, *paths


def brush(segmentation_node, volume_node) -> None:
    """Add a ball to a tumor as the Segment Editor's brush does, through its own logic."""
    from LiverTumorSegGUI.segments import oriented_image

    logic = slicer.vtkSlicerSegmentationsModuleLogic
    center = [n // 2 for n in SHAPE]
    box = tuple(slice(c - 8, c + 8) for c in center)
    image = oriented_image(np.ones((16, 16, 16), np.uint8), box, volume_node)
    assert logic.SetBinaryLabelmapToSegment(
        image, segmentation_node, "tumor_5", logic.MODE_MERGE_MAX, image.GetExtent()
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
