"""README's picture of a result, rendered with Slicer's views, not the desktop application.

    python Testing/slicer/make_screenshots.py [RESULT_FOLDER] [-o FOLDER]

RESULT_FOLDER holds `labels.nii.gz` of the sample CT, as the command line writes it; without one the
networks run. FOLDER is LiverTumorSeg/Resources/Screenshots unless given. The sample CT is hcc006 of
the HCC-TACE-Seg collection (CC BY 4.0, see Testing/data/README.md).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import slicer
import slicer.util
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "Testing" / "data" / "hcc006_arterial.nii.gz"
SCREENSHOTS = ROOT / "LiverTumorSeg" / "Resources" / "Screenshots"
SLICE_SIZE, THREE_D_SIZE = (900, 690), (620, 690)
WINDOW_HU, LEVEL_HU = 400, 40
GAP = 6

sys.path += [str(ROOT), str(ROOT / "LiverTumorSeg")]


def main(arguments: list[str] | None = None) -> int:
    """Render `slices_and_3d.png`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", nargs="?", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=SCREENSHOTS)
    chosen = parser.parse_args(arguments)
    if chosen.result is not None:
        picture = render(chosen.result)
    else:
        from LiverTumorSegLib.cli import main as command_line

        with tempfile.TemporaryDirectory() as folder:
            status = command_line(["segment", str(SAMPLE), "-o", folder])
            if status:
                return status
            picture = render(Path(folder))
    chosen.output.mkdir(parents=True, exist_ok=True)
    picture.save(chosen.output / "slices_and_3d.png", optimize=True)
    return 0


def render(result: Path) -> Image.Image:
    """The largest tumor's slice with its long axis, and all segments in 3D."""
    import miniscene
    import standins
    import views

    standins.install()
    application = miniscene.start()
    from LiverTumorSegGUI import nodes
    from LiverTumorSegGUI.review import Review
    from LiverTumorSegLib.measure import measure
    from LiverTumorSegLib.volume import read_labels, read_volume

    volume = read_volume(SAMPLE)
    labels, _ = read_labels(result / "labels.nii.gz")
    to_ras = nodes.RAS_LPS @ volume.geometry.index_to_lps()
    volume_node = slicer.util.addVolumeFromArray(volume.hu, to_ras, "hcc006")
    volume_node.CreateDefaultDisplayNodes()
    volume_node.GetDisplayNode().AutoWindowLevelOff()
    volume_node.GetDisplayNode().SetWindowLevel(WINDOW_HU, LEVEL_HU)
    segmentation = nodes.add_node("vtkMRMLSegmentationNode", "hcc006 segmentation")
    _, lesion_map = measure(volume, labels)
    nodes.write_segments(labels, lesion_map, volume_node, segmentation)
    look(segmentation)
    review = Review(volume_node, segmentation, None)

    slices = views.SliceView(application, volume_node, SLICE_SIZE)
    ends_lps = np.array(review.row("tumor_1").lesion.long_axis_ends_mm)
    slices.node.JumpSliceByOffsetting(*nodes.ras_of(ends_lps.mean(axis=0)))
    review.show_diameters(["tumor_1"])
    segmentation.CreateClosedSurfaceRepresentation()
    three_d = views.ThreeDView(application, slicer.mrmlScene, THREE_D_SIZE, (0.10, 0.11, 0.14))
    three_d.look_from_front(zoom=1.5)
    return side_by_side(slices.picture(), three_d.picture())


def look(segmentation) -> None:
    """The liver as a line and translucent, tumors lightly filled and solid."""
    display = segmentation.GetDisplayNode()
    display.SetAllSegmentsOpacity2DFill(0.25, False)
    display.SetSegmentOpacity2DFill("liver", 0.0)
    display.SetSegmentOpacity3D("liver", 0.35)
    display.SetSliceIntersectionThickness(2)


def side_by_side(*pictures: np.ndarray) -> Image.Image:
    """The pictures in a row on dark ground."""
    width = sum(p.shape[1] for p in pictures) + GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(p.shape[0] for p in pictures)), (30, 30, 34))
    x = 0
    for picture in pictures:
        sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (x, 0))
        x += picture.shape[1] + GAP
    return sheet


if __name__ == "__main__":
    raise SystemExit(main())
