"""Where a voxel grid lies in the patient: spacing, origin and direction, and what they imply."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from LiverTumorSegLib.errors import InputError

RIGHT_ANGLE_TOLERANCE = 1e-4
SNAP_TOLERANCE = 1e-2
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Geometry:
    """A regular, right-angled voxel grid in LPS patient space (x to the left, y to the back, z up).

    Attributes:
        shape: voxels along (z, y, x), the axes of every engine array.
        spacing_mm: distance of voxel centers along (z, y, x).
        origin_mm: LPS coordinates (x, y, z) of the center of voxel (0, 0, 0).
        direction: 3x3 rows; column j is the LPS unit vector of the j-th of the axes (x, y, z),
            the layout of ITK and SimpleITK.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[tuple[float, float, float], ...] = (
        (1.0, 0.0, 0.0),
        (0.0, 1.0, 0.0),
        (0.0, 0.0, 1.0),
    )

    def __post_init__(self) -> None:
        """Refuse what is no grid.

        Raises:
            ValueError: An empty shape, a spacing or origin that is no number, axes that are no
                unit vectors at right angles.
        """
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"expected a shape of three axes of 1 voxel or more, got {self.shape}")
        if len(self.spacing_mm) != 3 or not all(0 < s < np.inf for s in self.spacing_mm):
            raise ValueError(f"expected three spacings above 0 mm, got {self.spacing_mm}")
        if len(self.origin_mm) != 3 or not np.isfinite(self.origin_mm).all():
            raise ValueError(f"expected an origin of three numbers in mm, got {self.origin_mm}")
        if not off_right_angle(np.array(self.direction)) <= RIGHT_ANGLE_TOLERANCE:
            raise ValueError(f"expected unit axes at right angles, got direction {self.direction}")

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL: the determinant of the index-to-patient matrix."""
        return abs(float(np.linalg.det(self.index_to_lps()[:3, :3]))) / 1000.0

    def index_to_lps(self) -> np.ndarray:
        """4x4 matrix from (x, y, z) index to LPS mm."""
        matrix = np.eye(4)
        spacing_xyz = np.array(self.spacing_mm[::-1])
        matrix[:3, :3] = np.array(self.direction) * spacing_xyz
        matrix[:3, 3] = self.origin_mm
        return matrix

    def lps_of(self, index_zyx: np.ndarray) -> np.ndarray:
        """LPS mm of voxel indices.

        Args:
            index_zyx: (..., 3) indices along (z, y, x), fractions allowed.

        Returns:
            (..., 3) coordinates (x, y, z) in mm.

        >>> grid = Geometry((4, 5, 6), (2.5, 1.0, 0.5), origin_mm=(10.0, 20.0, 30.0))
        >>> grid.lps_of(np.array([1, 2, 4])).tolist()
        [12.0, 22.0, 32.5]
        """
        matrix = self.index_to_lps()
        return np.asarray(index_zyx, dtype=float)[..., ::-1] @ matrix[:3, :3].T + matrix[:3, 3]

    def index_of(self, lps_mm: np.ndarray) -> np.ndarray:
        """Voxel indices of LPS places, the inverse of `lps_of`.

        Args:
            lps_mm: (..., 3) coordinates (x, y, z) in mm.

        Returns:
            (..., 3) indices along (z, y, x), fractions and places outside the grid included.

        >>> grid = Geometry((4, 5, 6), (2.5, 1.0, 0.5), origin_mm=(10.0, 20.0, 30.0))
        >>> grid.index_of(np.array([12.0, 22.0, 32.5])).tolist()
        [1.0, 2.0, 4.0]
        """
        inverse = np.linalg.inv(self.index_to_lps())
        index = np.asarray(lps_mm, dtype=float) @ inverse[:3, :3].T + inverse[:3, 3]
        return np.asarray(index[..., ::-1])


def checked_grid(
    path: Path,
    shape: tuple[int, ...],
    spacing_mm: tuple[float, ...],
    origin_mm: tuple[float, ...],
    direction: np.ndarray,
) -> tuple[Geometry, tuple[str, ...]]:
    """The grid a file names; axes less than 0.6 degrees off are turned to right angles.

    Args:
        path: the file, for the message.
        shape: as in Geometry, like spacing_mm and origin_mm.
        spacing_mm: see there.
        origin_mm: see there.
        direction: (3, 3), one axis a column, either handedness.

    Returns:
        The grid, and a note when the axes had to be turned.

    Raises:
        InputError: A spacing of 0 or NaN, or axes sheared or off unit length by more than 1 %.
    """
    notes: tuple[str, ...] = ()
    off = off_right_angle(direction)
    if RIGHT_ANGLE_TOLERANCE < off <= SNAP_TOLERANCE:
        left, _, right = np.linalg.svd(direction)
        direction = left @ right
        notes = (f"voxel axes were {off:.2%} off a right angle: turned to right angles",)
    elif not off <= RIGHT_ANGLE_TOLERANCE:
        raise InputError(
            f"{path}: expected voxel axes of unit length at right angles, found axes that are off "
            f"by {off:.1%} (sheared, as a tilted gantry makes them). Resample the image to a "
            "right-angled grid first, for example in 3D Slicer."
        )
    rows = tuple((float(x), float(y), float(z)) for x, y, z in direction)
    try:
        return Geometry(_three(shape), _three(spacing_mm), _three(origin_mm), rows), notes
    except ValueError as error:
        raise InputError(f"{path}: {error}. Convert the image again from its source.") from error


def same_grid(one: Geometry, other: Geometry) -> bool:
    """Whether two grids have one shape, and origins and steps that agree to 0.01 mm."""
    return one.shape == other.shape and bool(
        np.allclose(one.index_to_lps(), other.index_to_lps(), atol=1e-2)
    )


def off_right_angle(direction: np.ndarray) -> float:
    """How far a (3, 3) matrix's columns are from unit vectors at right angles; 0 if they are.

    The largest deviation of their dot products: for a shear, the cosine of the sheared angle.
    """
    if direction.shape != (3, 3):
        raise ValueError(f"expected a 3x3 direction, got shape {direction.shape}")
    return float(np.abs(direction.T @ direction - np.eye(3)).max())


def _three(values: tuple[_Number, ...]) -> tuple[_Number, _Number, _Number]:
    first, second, third = values
    return first, second, third
