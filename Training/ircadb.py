"""3D-IRCADb-01's twenty patients, whom LiTS holds too: whose CT a name means, and its voxels' size.

LiTS 28 to 47 are the patients 1 to 20 in order (https://github.com/JunMa11/AbdomenCT-1K/issues/27),
and come with a spacing of 1 mm that is not theirs. The table is from the headers of 3D-IRCADb-01;
patients 17 and 20 are missing in it.
"""

from __future__ import annotations

import re

import numpy as np

from LiverTumorSegLib.geometry import Geometry

PATIENTS = range(1, 21)
FIRST_IN_LITS = 28
# Number of slices, distance of slices and of pixels in mm.
GRIDS = {
    1: (129, 1.6, 0.57),
    2: (172, 1.6, 0.782),
    3: (200, 1.25, 0.625),
    4: (91, 2.0, 0.742188),
    5: (139, 1.6, 0.782),
    6: (135, 1.6, 0.782),
    7: (151, 1.6, 0.782),
    8: (124, 1.6, 0.561),
    9: (111, 2.0, 0.873047),
    10: (122, 1.6, 0.736),
    11: (132, 1.6, 0.72),
    12: (260, 1.0, 0.679688),
    13: (122, 1.6, 0.671),
    14: (113, 1.6, 0.72),
    15: (125, 1.6, 0.782),
    16: (155, 1.6, 0.698),
    18: (74, 2.5, 0.742188),
    19: (124, 4.0, 0.703125),
}
PIXELS = 512

_IRCADB = re.compile(r"3?d?-?ircadb?(?:-?0?1[._-])?[_-]?0*([0-9]+)", re.IGNORECASE)
_LITS = re.compile(r"(?:lits|volume|segmentation|liver)[_-]?0*([0-9]+)", re.IGNORECASE)


def patient_of(name: str) -> str:
    """The patient of a case or patient name: one and the same for the copies of a CT.

    >>> [patient_of(name) for name in ("3Dircadb1.1", "ircad01", "ircadb-01", "volume-28")]
    ['ircadb-01', 'ircadb-01', 'ircadb-01', 'ircadb-01']
    >>> patient_of("volume-27"), patient_of("liver_47"), patient_of("case28")
    ('volume-27', 'ircadb-20', 'case28')
    """
    for pattern, before_first in ((_IRCADB, 0), (_LITS, FIRST_IN_LITS - 1)):
        found = pattern.fullmatch(name)
        if found and int(found.group(1)) - before_first in PATIENTS:
            return f"ircadb-{int(found.group(1)) - before_first:02}"
    return name


def ircadb_number(patient: str) -> int | None:
    """1 to 20 for a patient of 3D-IRCADb-01 as `patient_of` names it, else None.

    >>> ircadb_number("ircadb-07"), ircadb_number("volume-27")
    (7, None)
    """
    found = re.fullmatch(r"ircadb-([0-9]{2})", patient)
    return int(found.group(1)) if found else None


def lits_number(patient: str) -> int | None:
    """The number that a patient of 3D-IRCADb-01 has in LiTS, else None.

    >>> lits_number("ircadb-01"), lits_number("volume-27")
    (28, None)
    """
    number = ircadb_number(patient)
    return None if number is None else number + FIRST_IN_LITS - 1


def true_spacing_mm(patient: str, geometry: Geometry) -> tuple[float, float, float] | None:
    """The spacing (z, y, x) of a patient's CT whose file lost it.

    Args:
        patient: as `patient_of` names it.
        geometry: what the file says.

    Returns:
        None where it is not known: of other patients, of the two that the table lacks, and of
        grids that are not the CT's own slices of 512 x 512 pixels along the first axis.
    """
    slices, gap_mm, pixel_mm = GRIDS.get(ircadb_number(patient) or 0, (0, 0.0, 0.0))
    if geometry.shape != (slices, PIXELS, PIXELS):
        return None
    return gap_mm, pixel_mm, pixel_mm


def lost_spacing(patient: str, geometry: Geometry) -> bool:
    """Whether a spacing of 1 mm along every axis is none that was measured.

    That is so for the patients of 3D-IRCADb-01, none of whom was scanned so, and for 512 x 512
    pixels, which would show half a meter.
    """
    of_1_mm = bool(np.allclose(geometry.spacing_mm, 1.0, atol=1e-3))
    return of_1_mm and (ircadb_number(patient) is not None or geometry.shape.count(PIXELS) >= 2)
