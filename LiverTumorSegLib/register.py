"""Where the liver of one CT lies in another CT of the same patient: an affine map, checked.

Only the liver's outlines are compared, so that contrast phase and scanner do not matter: a rigid
and then an affine registration (SimpleITK) of their signed distance maps. What only one of the
scans shows has no say; a liver that ends where its scan ends is taken to go on there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from LiverTumorSegLib.components import bounding_box
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.geometry import Geometry
from LiverTumorSegLib.volume import image_on_grid

STEP_MM = 3.0
MARGIN_MM = 30.0
"""Distances to the outline beyond this count as this."""
STARTS, ITERATIONS = 2, 30
"""Started again, the optimizer weighs turns against shifts anew."""
SAMPLED = 0.01
"""The part of the voxels that are compared."""
LEAST_DICE, DOUBTFUL_DICE = 0.85, 0.9
LARGEST_DISTANCE_MM = 5.0
LARGEST_STRETCH = 1.25
_NOTHING_IN_COMMON = (
    "The two livers cannot be laid over each other: expected two outlines of one liver, found too "
    "little in common. Look at both segmentations."
)

Liver = tuple[np.ndarray, Geometry]


@dataclass(frozen=True)
class Registration:
    """How patient space at the baseline maps to patient space at the follow-up.

    Attributes:
        matrix: 4x4, LPS mm of the baseline to LPS mm of the follow-up.
        dice: overlap of the two livers after it, where both scans show; 1 is best.
        surface_distance_mm: mean distance of their surfaces after it, of both directions.
        stretches: its three principal factors of length, ascending.
        rotation_degrees: the angle of its rotation.
    """

    matrix: np.ndarray
    dice: float
    surface_distance_mm: float
    stretches: tuple[float, ...]
    rotation_degrees: float

    def to_followup(self, points_mm: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the baseline's LPS space at the follow-up, in mm."""
        return _mapped(self.matrix, points_mm)

    def to_baseline(self, points_mm: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the follow-up's LPS space at the baseline, in mm."""
        return _mapped(np.linalg.inv(self.matrix), points_mm)


@dataclass(frozen=True)
class _Outline:
    """A liver on a coarse grid along the patient's axes.

    Attributes:
        inside: 1 in the liver, else 0.
        distance_mm: signed distance to its surface, negative inside, of MARGIN_MM at most.
        seen: 1 where the scan has voxels, else 0.
    """

    inside: sitk.Image
    distance_mm: sitk.Image
    seen: sitk.Image


def register(baseline: Liver, followup: Liver) -> Registration:
    """Find the affine map from one liver to the other; `check` judges it.

    Exchanging the two gives the inverse map: it is always the larger liver that is kept in place.

    Args:
        baseline: bool (z, y, x), the liver with its tumors, and its grid of any orientation.
        followup: the same of the other date.

    Raises:
        ValueError: a mask is empty.
        InputError: no map could be found.
    """
    one, other = _outline(*baseline), _outline(*followup)
    baseline_ml, followup_ml = (
        np.count_nonzero(mask) * geometry.voxel_ml for mask, geometry in (baseline, followup)
    )
    if baseline_ml >= followup_ml:
        matrix = _aligned(one, other)
        dice, distance_mm = _agreement(one, other, matrix)
    else:
        inverse = _aligned(other, one)
        dice, distance_mm = _agreement(other, one, inverse)
        matrix = np.linalg.inv(inverse)
    left, stretches, right = np.linalg.svd(matrix[:3, :3])
    cosine = (np.trace(left @ right) - 1) / 2
    return Registration(
        matrix=matrix,
        dice=dice,
        surface_distance_mm=distance_mm,
        stretches=tuple(sorted(stretches.tolist())),
        rotation_degrees=float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))),
    )


def check(registration: Registration) -> None:
    """Refuse a registration by which no lesion could be found again.

    Raises:
        InputError: the livers do not fit each other, with the numbers.
    """
    dice, apart_mm = registration.dice, registration.surface_distance_mm
    stretch = max(registration.stretches[-1], 1 / registration.stretches[0])
    faults = []
    if dice < LEAST_DICE:
        faults.append(f"overlap (Dice) {dice:.2f}, at least {LEAST_DICE} expected")
    if apart_mm > LARGEST_DISTANCE_MM:
        faults.append(
            f"surfaces {apart_mm:.1f} mm apart on average, at most {LARGEST_DISTANCE_MM:.0f} mm "
            "expected"
        )
    if stretch > LARGEST_STRETCH:
        faults.append(f"a stretch by {stretch:.2f}, at most {LARGEST_STRETCH} expected")
    if faults:
        raise InputError(
            f"The two livers do not fit each other: after registration {'; '.join(faults)}. These "
            "are probably not the same patient, or one liver is outlined badly: look at both "
            "segmentations, correct them, and compare again."
        )


def _mapped(matrix: np.ndarray, points_mm: np.ndarray) -> np.ndarray:
    return np.asarray(points_mm @ matrix[:3, :3].T + matrix[:3, 3])


def _outline(liver: np.ndarray, geometry: Geometry) -> _Outline:
    """The liver on a grid of STEP_MM that reaches MARGIN_MM beyond it."""
    box = bounding_box(liver)
    if box is None:
        raise ValueError("an empty mask has no outline; expected at least one voxel")
    ends = np.array(np.meshgrid(*[(edge.start, edge.stop - 1) for edge in box])).reshape(3, -1).T
    corners = geometry.lps_of(ends)
    low = corners.min(axis=0) - MARGIN_MM
    size_xyz = np.ceil((corners.max(axis=0) + MARGIN_MM - low) / STEP_MM).astype(int) + 1
    shape = (int(size_xyz[2]), int(size_xyz[1]), int(size_xyz[0]))
    coarse = Geometry(shape, (STEP_MM,) * 3, (float(low[0]), float(low[1]), float(low[2])))

    places = geometry.index_of(coarse.lps_of(np.moveaxis(np.indices(shape), 0, -1)))
    at = np.moveaxis(places, -1, 0)
    # Beyond the scan this gives the value at the scan's edge.
    share = ndimage.map_coordinates(
        liver.astype(np.uint8), at, output=np.float32, order=1, mode="nearest"
    )
    last = np.array(geometry.shape) - 0.5
    seen = ((places >= -0.5) & (places <= last)).all(axis=-1)
    inside = image_on_grid((share >= 0.5).astype(np.uint8), coarse)
    distance = sitk.SignedMaurerDistanceMap(
        inside, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    return _Outline(
        inside,
        sitk.Clamp(distance, sitk.sitkFloat32, -MARGIN_MM, MARGIN_MM),
        image_on_grid(np.asarray(seen, np.uint8), coarse),
    )


def _aligned(fixed: _Outline, moving: _Outline) -> np.ndarray:
    """4x4 matrix from the fixed liver's LPS mm to the moving one's.

    Raises:
        InputError: the optimizer found nothing to go on.
    """
    try:
        rigid = sitk.Euler3DTransform(
            sitk.CenteredTransformInitializer(
                fixed.inside,
                moving.inside,
                sitk.Euler3DTransform(),
                sitk.CenteredTransformInitializerFilter.MOMENTS,
            )
        )
        _optimize(fixed, moving, rigid)
        affine = sitk.AffineTransform(3)
        affine.SetCenter(rigid.GetCenter())
        affine.SetMatrix(rigid.GetMatrix())
        affine.SetTranslation(rigid.GetTranslation())
        _optimize(fixed, moving, affine)
    except RuntimeError as error:
        raise InputError(_NOTHING_IN_COMMON) from error
    matrix = np.eye(4)
    matrix[:3, 3] = affine.TransformPoint((0.0, 0.0, 0.0))
    for axis in range(3):
        matrix[:3, axis] = affine.TransformPoint(np.eye(3)[axis].tolist()) - matrix[:3, 3]
    if not np.linalg.det(matrix[:3, :3]) > 0:  # folded flat or turned inside out
        raise InputError(_NOTHING_IN_COMMON)
    return matrix


def _optimize(fixed: _Outline, moving: _Outline, transform: sitk.Transform) -> None:
    """Improve a transform in place until the distance maps agree best."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # several add up in any order: never twice the same last digits
    method.SetMetricAsMeanSquares()
    method.SetMetricFixedMask(fixed.seen)
    method.SetMetricMovingMask(moving.seen)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(SAMPLED, seed=1)  # it jitters: the same every time
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsConjugateGradientLineSearch(
        learningRate=1.0,
        numberOfIterations=ITERATIONS,
        lineSearchEpsilon=0.1,
        lineSearchMaximumIterations=5,
        estimateLearningRate=method.EachIteration,
        maximumStepSizeInPhysicalUnits=STEP_MM,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    for _ in range(STARTS):
        method.Execute(fixed.distance_mm, moving.distance_mm)


def _agreement(fixed: _Outline, moving: _Outline, matrix: np.ndarray) -> tuple[float, float]:
    """Dice and mean surface distance in mm of two livers laid over each other."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())

    def moved(image: sitk.Image, outside: float) -> np.ndarray:
        image = sitk.Cast(image, sitk.sitkFloat32)
        return sitk.GetArrayFromImage(
            sitk.Resample(image, fixed.inside, transform, sitk.sitkLinear, outside)
        )

    seen = (sitk.GetArrayViewFromImage(fixed.seen) > 0) & (moved(moving.seen, 1.0) >= 0.5)
    one = sitk.GetArrayViewFromImage(fixed.inside) > 0
    other = moved(moving.inside, 0.0) >= 0.5
    one_mm = np.abs(sitk.GetArrayViewFromImage(fixed.distance_mm))
    other_mm = np.abs(moved(moving.distance_mm, MARGIN_MM))
    surfaces = [mask & ~ndimage.binary_erosion(mask) & seen for mask in (one, other)]
    distances = np.concatenate([other_mm[surfaces[0]], one_mm[surfaces[1]]])
    both, sizes = (one & other & seen).sum(), (one & seen).sum() + (other & seen).sum()
    if sizes == 0 or distances.size == 0:
        return 0.0, MARGIN_MM
    return float(2 * both / sizes), float(distances.mean())
