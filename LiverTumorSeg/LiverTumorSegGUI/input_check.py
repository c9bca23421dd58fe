"""What can be told of a volume before it is segmented, from a thin sample of its voxels.

Whether it is a CT is judged by its values: Hounsfield units run below 0 in fat and air. Whether the
liver is in view is judged by the length of the body that is shown and by how much soft tissue there
is; both are limits that a whole liver does not fall below, not a search for it. The contrast phase
is not guessed: that would need the aorta and the portal vein.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer.util
from slicer.i18n import tr as _

from LiverTumorSegGUI import nodes
from LiverTumorSegLib.errors import InputError

SAMPLES = 200_000
ATTENUATION = "112031"  # DICOM's code of what a CT measures
SOFT_TISSUE_HU = (0, 250)
LIVER_HEIGHT_MM = 100  # a liver is 120 to 200 mm high
LIVER_ML = 500
THICK_MM = 6


@dataclass(frozen=True)
class InputCheck:
    """What the panel says of the selected volume.

    reason - Why it cannot be segmented and what to do; empty if it can.
    verdict - One line about it; empty where there is no volume.
    details - What was found, a line each.
    doubts - What may spoil the result, a sentence each.
    """

    reason: str = ""
    verdict: str = ""
    details: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def check_input(volume_node) -> InputCheck:
    """Judge a volume node (None: nothing is selected); takes milliseconds."""
    try:
        nodes.check_volume_node(volume_node)
    except InputError as error:
        return InputCheck(reason=str(error))
    spacing, size = volume_node.GetSpacing(), volume_node.GetImageData().GetDimensions()
    height_mm = _height_mm(volume_node)
    sample = _sample(slicer.util.arrayFromVolume(volume_node))
    low, high = float(sample.min()), float(sample.max())
    low_hu, high_hu = SOFT_TISSUE_HU
    soft_share = np.mean((sample > low_hu) & (sample < high_hu))
    soft_ml = soft_share * np.prod(size) * np.prod(spacing) / 1000
    details = [
        _("{size} voxels of {spacing} mm").format(
            size=" x ".join(map(str, size)), spacing=" x ".join(f"{mm:.2f}" for mm in spacing)
        ),
        _("{height:.0f} mm from foot to head").format(height=height_mm),
        _("Values from {low:.0f} to {high:.0f}").format(low=low, high=high),
    ]
    quantity = volume_node.GetVoxelValueQuantity()
    if quantity is not None:
        details.append(_("DICOM says: {meaning}").format(meaning=quantity.GetCodeMeaning()))
    reason = _not_a_ct(volume_node.GetName(), low, high, quantity)
    if reason:
        return InputCheck(reason=reason, details=tuple(details))
    details.append(_("Soft tissue: about {volume:.0f} mL").format(volume=soft_ml))
    doubts = tuple(_doubts(height_mm, soft_ml, max(spacing)))
    verdict = doubts[0] if doubts else _("CT in Hounsfield units, large enough for a liver.")
    return InputCheck(verdict=verdict, details=tuple(details), doubts=doubts)


def _not_a_ct(name: str, low: float, high: float, quantity) -> str:
    if not (np.isfinite(low) and low < high):
        return _("'{name}' has the same value everywhere: load the CT again.").format(name=name)
    if quantity is not None and quantity.GetCodeValue() not in ("", ATTENUATION):
        return _("'{name}' is no CT: DICOM says {meaning}. Select a CT.").format(
            name=name, meaning=quantity.GetCodeMeaning()
        )
    if low >= 0:
        return _(
            "'{name}' is not in Hounsfield units: its values run from {low:.0f} to {high:.0f}, and "
            "fat and air are below 0 in a CT. Select a CT, not an MR or a windowed image."
        ).format(name=name, low=low, high=high)
    return ""


def _doubts(height_mm: float, soft_ml: float, thickest_mm: float):
    if soft_ml < LIVER_ML:
        yield _("Little soft tissue ({volume:.0f} mL): the liver may not be in view.").format(
            volume=soft_ml
        )
    if height_mm < LIVER_HEIGHT_MM:
        yield _(
            "Only {height:.0f} mm of the body: the liver may be cut off, its volume too small."
        ).format(height=height_mm)
    if thickest_mm > THICK_MM:
        yield _("Slices {mm:.1f} mm apart: small tumors may be missed.").format(mm=thickest_mm)


def _height_mm(volume_node) -> float:
    """Length along the patient's axis from foot to head, as the volume lies in the scene."""
    bounds = [0.0] * 6
    volume_node.GetRASBounds(bounds)
    return bounds[5] - bounds[4]


def _sample(array: np.ndarray) -> np.ndarray:
    """Voxels on a regular grid through the whole volume, some SAMPLES of them, finite only."""
    step = max(1, round((array.size / SAMPLES) ** (1 / 3)))
    some = array[::step, ::step, ::step].astype(np.float32)
    finite = some[np.isfinite(some)]
    return finite if finite.size else np.zeros(1, np.float32)
