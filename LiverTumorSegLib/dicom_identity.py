"""What DICOM SEG and SR say alike: the codes, what computed, and which lesion is which.

A lesion's tracking UID is made of the CT's Series Instance UID, the sha256 of both weights files
and the lesion's centroid, rounded to whole millimeters. The same CT segmented twice by the same
weights thus has the same lesions. On another CT, or by other weights, all lesions are new ones:
which of them are the same in the patient is for a reader to say.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from highdicom import AlgorithmIdentificationSequence
from highdicom.sr import AlgorithmIdentification
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from LiverTumorSegLib import __version__
from LiverTumorSegLib.dicom_source import SourceSeries, derived_uid
from LiverTumorSegLib.measure import Lesion

NAME = "LiverTumorSeg"
DISCLAIMER = "Research only, not for clinical use."

ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
ABNORMALITY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LIVER = Code("10200004", "SCT", "Liver")
MASS = Code("4147007", "SCT", "Mass")


@dataclass(frozen=True)
class Tracking:
    """By what the liver or a lesion is known in all objects that tell of it."""

    uid: str
    text: str


@dataclass(frozen=True)
class Identity:
    """What a result is of.

    Attributes:
        source: the CT.
        models: for "liver" and "tumor" the `name` and `sha256` of the weights.
        liver: by what it is known.
        lesions: the same of each, by number.
    """

    source: SourceSeries
    models: dict[str, dict[str, str]]
    liver: Tracking
    lesions: tuple[Tracking, ...]


def identity_of(
    source: SourceSeries, models: dict[str, dict[str, str]], lesions: tuple[Lesion, ...]
) -> Identity:
    """The identity of a result; a lesion's follows the rule at the top of this file.

    Of several lesions with one rounded centroid each but the first gets another UID.
    """
    seen: Counter[str] = Counter()

    def tracking(label: str, place: str) -> Tracking:
        weights = (models["liver"]["sha256"], models["tumor"]["sha256"])
        uid = derived_uid(source.series_uid, *weights, place, str(seen[place]))
        seen[place] += 1
        return Tracking(uid, f"{label} ({uid[-8:]})")

    liver = tracking("Liver", "liver")
    return Identity(
        source, models, liver, tuple(tracking(f"Tumor {x.lesion}", _place(x)) for x in lesions)
    )


def _place(lesion: Lesion) -> str:
    centroid = (lesion.centroid_x_mm, lesion.centroid_y_mm, lesion.centroid_z_mm)
    return " ".join(str(round(mm)) for mm in centroid)


def seg_algorithm(weights: dict[str, str]) -> AlgorithmIdentificationSequence:
    """What found a segment.

    Args:
        weights: the `name` and `sha256` of its file.
    """
    family = codes.DCM.ArtificialIntelligence
    return AlgorithmIdentificationSequence(
        NAME, family, __version__, NAME, {"weights": weights["name"], "sha256": weights["sha256"]}
    )


def sr_algorithm(weights: dict[str, str]) -> AlgorithmIdentification:
    """The same in a report, all in one parameter, because dcmqi reads the first only."""
    parameter = f"weights={weights['name']}, sha256={weights['sha256']}"
    return AlgorithmIdentification(NAME, __version__, [parameter])
