"""Two dates made of the sample CT: python -m Testing.synthetic_follow_up DEMO OUT.

DEMO is the result of `make demo`, whose liver is taken. Lesions darker than the liver are planted
into the CT, and nothing else counts as tumor. The follow-up is the CT turned, moved, stretched and
bent, on thinner slices, with the lesions at their new places and of new sizes. This is no patient's
course. OUT receives the two CTs and baseline/ and followup/ as `segment` would write them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.measure import measure
from LiverTumorSegLib.nifti import write_nifti
from LiverTumorSegLib.report import LABELS, Run, write_outputs
from LiverTumorSegLib.segmentation import Segmentation
from LiverTumorSegLib.volume import AIR_HU, Volume, read_labels, read_volume

SAMPLE = Path(__file__).parent / "data" / "hcc006_arterial.nii.gz"
DARKER_HU = 55.0
EDGE = 0.12
"""An outline's softness, as a part of the lesion's half axes."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """Where its center lies from the liver's, and half its axes, in LPS mm."""

    place: Triple
    half_axes: Triple


BEFORE = {
    "grows": Ellipsoid((-12, 17, 14), (11, 9, 10)),
    "shrinks": Ellipsoid((33, -24, 29), (11, 10, 10)),
    "stays": Ellipsoid((54, 3, 20), (7, 7, 7)),
    "goes": Ellipsoid((-41, 33, -1), (5, 6, 5)),
    "merges": Ellipsoid((-36, -18, -1), (7, 7, 7)),
    "merges too": Ellipsoid((-43, -1, -1), (6.5, 6, 6.5)),
    "splits": Ellipsoid((6, 52, 8), (13, 7, 7)),
}
AFTER = {
    "grows": Ellipsoid((-12, 17, 14), (16, 13, 14)),
    "shrinks": Ellipsoid((33, -24, 29), (6, 5.5, 6)),
    "stays": Ellipsoid((54, 3, 20), (7.17, 7.17, 7.17)),  # what the bent follow-up takes off
    "comes": Ellipsoid((-26, -5, 29), (8, 7, 7)),
    "merges": Ellipsoid((-36, -18, -1), (11, 9, 9)),
    "merges too": Ellipsoid((-43, -1, -1), (9.5, 10, 9)),
    "splits": Ellipsoid((-2, 52, 8), (4.5, 5, 5)),
    "splits too": Ellipsoid((14, 53, 8), (4.5, 4, 5)),
}


def to_baseline(places_mm: np.ndarray, center_mm: np.ndarray) -> np.ndarray:
    """Where places (..., 3) of the follow-up's patient space were at the baseline, LPS mm."""
    turn = Rotation.from_euler("xyz", [3, -2, 5], degrees=True).as_matrix() @ np.diag(
        [0.98, 1.0, 1.03]
    )
    moved = (places_mm - center_mm - [12.0, -8.0, 25.0]) @ turn.T
    bent = 3.0 * np.sin(moved[..., ::-1] / 40.0)
    return moved + bent + center_mm


def planted(lesions: dict[str, Ellipsoid], places_mm: np.ndarray) -> np.ndarray:
    """How much of each voxel is lesion, 0 to 1; the places (..., 3) are from the liver's center."""
    share = np.zeros(places_mm.shape[:-1], dtype=np.float32)
    for lesion in lesions.values():
        offset = places_mm - lesion.place
        bumps = 0.08 * np.sin(offset.sum(axis=-1) / 3.0)
        radius = np.linalg.norm(offset / lesion.half_axes, axis=-1) + bumps
        np.maximum(share, np.clip(0.5 + (1 - radius) / EDGE, 0, 1), out=share)
    return share


def date_of(
    name: str, lesions: dict[str, Ellipsoid], sample: Volume, liver: np.ndarray, grid: Geometry
) -> tuple[Volume, np.ndarray]:
    """The CT with its lesions, and its labels, on a grid of the baseline or the follow-up."""
    center_mm = sample.geometry.lps_of(np.argwhere(liver)).mean(axis=0)
    share_of_liver = liver.astype(np.float32)
    hu = np.empty(grid.shape, np.float32)
    labels = np.zeros(grid.shape, np.uint8)
    for z in range(grid.shape[0]):
        places = grid.lps_of(
            np.stack(np.broadcast_arrays(z, *np.ogrid[: grid.shape[1], : grid.shape[2]]), -1)
        )
        if grid != sample.geometry:
            places = to_baseline(places, center_mm)
        at = np.moveaxis(sample.geometry.index_of(places), -1, 0)
        at = at.round(6)  # beyond the last slice by the last digits only is not beyond the scan
        hu[z] = ndimage.map_coordinates(sample.hu, at, order=1, cval=AIR_HU)
        inside = ndimage.map_coordinates(share_of_liver, at, order=1) >= 0.5
        share = planted(lesions, places - center_mm) * inside
        hu[z] -= DARKER_HU * share
        labels[z] = np.where(share >= 0.5, 2, inside)
    return Volume(hu, grid, name), labels


def main(demo: Path, out: Path) -> None:
    """Write both dates."""
    sample = read_volume(SAMPLE)
    labels, _ = read_labels(demo / LABELS)
    grid = sample.geometry
    thinner = Geometry(
        (92, 420, 545),
        (2.0, 0.73, 0.73),
        tuple(np.add(grid.origin_mm, (14.0, -12.0, 22.0)).tolist()),
    )
    for name, lesions, own in (("baseline", BEFORE, grid), ("followup", AFTER, thinner)):
        volume, marked = date_of(f"synthetic_{name}", lesions, sample, labels > 0, own)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        measurement, lesion_map = measure(volume, marked)
        run = Run(f"synthetic_{name}.nii.gz", {}, None, "planted")
        write_outputs(folder, run, volume, Segmentation(marked), measurement, lesion_map)
        write_nifti(out / f"synthetic_{name}.nii.gz", volume.hu.round(), np.int16, own)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
