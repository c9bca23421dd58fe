"""How well a mask agrees with its reference: shared voxels, and distances of the two surfaces.

A surface voxel is a voxel of the mask that has one outside of it among its 18 neighbors, those that
share a face or an edge; outside the array is outside the mask. Distances are between voxel centers,
in mm, from every surface voxel of either mask to the nearest surface voxel of the other; all of
them together are averaged and ranked. That is the surface of the official LiTS scorer and of MedPy
with connectivity=2: one definition here for both, so that the product's distances can be held
against published ones. MedPy's default (connectivity=1) and MONAI count only voxels with a free
face, and surfel methods weigh by area; the same masks may then give a distance twice as great.

A measure is None where it is not defined: a share of no voxels, a difference relative to an empty
reference, a distance to an empty mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from LiverTumorSegLib.components import bounding_box

SURFACE_TOLERANCE_MM = 2.0
_ROUNDING_MM = 1e-6


@dataclass(frozen=True)
class Overlap:
    """The voxels of two masks on one grid, and what follows from their numbers.

    Attributes:
        predicted: voxels of the prediction.
        reference: voxels of the reference.
        common: voxels of both.
        grid: voxels of the whole grid.
    """

    predicted: int
    reference: int
    common: int
    grid: int

    @property
    def dice(self) -> float:
        """2 common / (predicted + reference); 1 if both are empty."""
        total = self.predicted + self.reference
        return 2.0 * self.common / total if total else 1.0

    @property
    def iou(self) -> float:
        """Intersection over union (Jaccard); 1 if both are empty."""
        union = self.predicted + self.reference - self.common
        return self.common / union if union else 1.0

    @property
    def voe(self) -> float:
        """Volumetric overlap error, 1 - iou."""
        return 1.0 - self.iou

    @property
    def rvd(self) -> float | None:
        """Relative volume difference, (predicted - reference) / reference: too much is positive.

        The LiTS scorer and the paper of ELANRes-MSCA-UNet divide (reference - predicted) by the
        prediction instead. None if the reference is empty.
        """
        return (self.predicted - self.reference) / self.reference if self.reference else None

    @property
    def precision(self) -> float | None:
        """Share of the predicted voxels that are true; None if there are none."""
        return self.common / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Share of the true voxels that are predicted; None if there are none."""
        return self.common / self.reference if self.reference else None

    @property
    def accuracy(self) -> float:
        """Share of the grid on which both agree; nearly 1 for any small target."""
        return (self.grid - self.predicted - self.reference + 2 * self.common) / self.grid


@dataclass(frozen=True)
class SurfaceDistances:
    """How far two surfaces lie apart; None if either mask is empty.

    Attributes:
        assd_mm: mean over the surface voxels of both masks.
        rmsd_mm: root mean square over them.
        hd_mm: the greatest (Hausdorff).
        hd95_mm: their 95th percentile, interpolated linearly.
        surface_dice: share of them within SURFACE_TOLERANCE_MM of the other surface; 0 if one mask
            is empty and 1 if both are.
    """

    assd_mm: float | None
    rmsd_mm: float | None
    hd_mm: float | None
    hd95_mm: float | None
    surface_dice: float


def overlap(prediction: np.ndarray, reference: np.ndarray) -> Overlap:
    """Count the voxels of two bool masks of one shape.

    >>> both = overlap(np.array([True, True, False]), np.array([True, False, False]))
    >>> both.dice, both.iou, both.rvd
    (0.6666666666666666, 0.5, 1.0)
    """
    return Overlap(
        predicted=int(np.count_nonzero(prediction)),
        reference=int(np.count_nonzero(reference)),
        common=int(np.count_nonzero(prediction & reference)),
        grid=reference.size,
    )


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two bool masks; 1.0 if both are empty.

    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    return overlap(prediction, reference).dice


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float, float]
) -> SurfaceDistances:
    """Compare the surfaces of two masks by the definitions at the top of this file.

    Args:
        prediction: bool (z, y, x).
        reference: bool, of the same shape.
        spacing_mm: distance of voxel centers along (z, y, x).

    Returns:
        Distances in mm. The same with both masks exchanged.
    """
    box = bounding_box(prediction | reference)
    if box is None:
        return SurfaceDistances(None, None, None, None, surface_dice=1.0)
    ours, theirs = surface(prediction[box]), surface(reference[box])
    if not ours.any() or not theirs.any():
        return SurfaceDistances(None, None, None, None, surface_dice=0.0)
    distances = np.concatenate(
        [_nearest_mm(ours, theirs, spacing_mm), _nearest_mm(theirs, ours, spacing_mm)]
    )
    return SurfaceDistances(
        assd_mm=float(distances.mean()),
        rmsd_mm=float(np.sqrt(np.square(distances).mean())),
        hd_mm=float(distances.max()),
        hd95_mm=float(np.percentile(distances, 95)),
        surface_dice=float((distances <= SURFACE_TOLERANCE_MM + _ROUNDING_MM).mean()),
    )


def surface(mask: np.ndarray) -> np.ndarray:
    """The surface voxels of a bool (z, y, x) mask, bool of its shape.

    >>> surface(np.ones((3, 3, 3), dtype=bool)).sum()  # all but the central voxel
    np.int64(26)
    """
    # The 18 neighbors are those in the three planes through a voxel, each a square of 3x3.
    along_x = _eroded(mask, 2)
    inside = _eroded(along_x, 1)
    inside &= _eroded(along_x, 0)
    inside &= _eroded(_eroded(mask, 1), 0)
    return mask & ~inside


def _eroded(mask: np.ndarray, axis: int) -> np.ndarray:
    """Without the voxels at either end of each run along an axis."""
    result = mask.copy()
    along, source = np.moveaxis(result, axis, 0), np.moveaxis(mask, axis, 0)
    along[1:] &= source[:-1]
    along[:-1] &= source[1:]
    along[[0, -1]] = False
    return result


def _nearest_mm(
    surface_from: np.ndarray, surface_to: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Distance (n,) from each voxel of one surface to the nearest of the other.

    A tree of the few surface voxels is faster than a distance transform of all voxels.
    """
    apart = np.argwhere(surface_from & ~surface_to) * spacing_mm
    tree = cKDTree(np.argwhere(surface_to) * spacing_mm, balanced_tree=False, compact_nodes=False)
    distances = np.zeros(np.count_nonzero(surface_from))
    distances[: len(apart)] = tree.query(apart, workers=-1)[0]
    return distances
