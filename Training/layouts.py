"""Find the labeled CTs in a folder: LiTS, MSD and nnU-Net, 3D-IRCADb-01, or a folder a case.

The layout is told from what lies in the folder. A file without its counterpart is a fault; so is a
name that stands for two files.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from LiverTumorSegLib.errors import InputError
from Training.ircadb import patient_of

IMAGE_ENDINGS = tuple(
    ending + packed
    for packed in ("", ".bz2")
    for ending in (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
)
LITS = re.compile(r"(volume|segmentation)-([0-9]+)\.nii(\.gz)?(\.bz2)?")
CHANNEL = re.compile(r"_[0-9]{4}$")
LIVER_MASKS = re.compile(r"liver|liver(cyst|kyst).*", re.IGNORECASE)
TUMOR_MASKS = re.compile(r"livertumou?r.*", re.IGNORECASE)
FACTS = "case.json"  # beside ct.* and label.*, where there is more to say of a case
MEND = "Add what is missing, or move the case out of the folder."
LOOKED_FOR = """\
- LiTS: volume-0.nii and segmentation-0.nii, or .nii.gz, also in folders inside
- MSD, nnU-Net: imagesTr and labelsTr
- 3D-IRCADb-01: 3Dircadb1.1/PATIENT_DICOM and 3Dircadb1.1/MASKS_DICOM/liver, unpacked
- a folder a case: case01/ct.nii.gz and case01/label.nii.gz, or another format; case01/case.json
  beside them may say {"patient": NAME, "synthetic": true}"""


@dataclass(frozen=True)
class Masks:
    """The DICOM folders of a case of 3D-IRCADb-01, one a structure.

    Attributes:
        liver: the liver and its cysts.
        tumor: tumors of the liver; none where it has none.
    """

    liver: tuple[Path, ...]
    tumor: tuple[Path, ...]


@dataclass(frozen=True)
class Facts:
    """What a case.json says.

    Attributes:
        patient: whom the case shows, where its own name does not tell.
        synthetic: no scanner made it; it only trains.
    """

    patient: str | None
    synthetic: bool


NO_FACTS = Facts(None, synthetic=False)


@dataclass(frozen=True)
class Source:
    """Where one labeled CT lies.

    Attributes:
        name: of the case, unique in the data set.
        layout: a key of LAYOUTS.
        ct: a file, or the folder of a DICOM series.
        label: a label map, or masks.
        facts: what more is said of the case.
    """

    name: str
    layout: str
    ct: Path
    label: Path | Masks
    facts: Facts = NO_FACTS

    @property
    def patient(self) -> str:
        """Whom it shows; the same name for the same patient in LiTS and in 3D-IRCADb-01."""
        return patient_of(self.facts.patient or self.name)

    def parts(self) -> tuple[Path, ...]:
        """The files and folders that are read, the CT first."""
        if isinstance(self.label, Path):
            return self.ct, self.label
        return (self.ct, *self.label.liver, *self.label.tumor)


@dataclass
class Found:
    """The labeled CTs of a folder.

    Attributes:
        sources: one a case.
        faults: what is wrong with files that make no case.
        left_out: CTs without a label where that is no fault.
    """

    sources: list[Source] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)

    def example(self) -> str:
        """Something that was found, or nothing."""
        all_found = [*(source.ct for source in self.sources), *self.left_out, *self.faults, ""]
        return str(all_found[0])


def find_cases(data: Path) -> Found:
    """The cases below a folder, in the order of their names with numbers in order of value.

    Raises:
        InputError: there is no such folder, no layout is found in it, or several are.
    """
    if not data.is_dir():
        raise InputError(f"{data}: expected a folder with labeled CTs; there is none.")
    layouts = {name: found for name, find in LAYOUTS.items() if (found := find(data)) is not None}
    if not layouts:
        raise InputError(f"{data}: expected labeled CTs in one of these layouts:\n{LOOKED_FOR}")
    if len(layouts) > 1:
        examples = "; ".join(f"{name} ({found.example()})" for name, found in layouts.items())
        raise InputError(
            f"{data}: expected one layout, found {len(layouts)}: {examples}. Put each into a "
            "folder of its own and prepare them one by one."
        )
    (found,) = layouts.values()
    if not (found.sources or found.faults):
        raise InputError(f"{data}: expected CTs with labels, found none with both. {MEND}")
    found.sources.sort(key=lambda source: in_order(source.name))
    return found


def find_lits(data: Path) -> Found | None:
    """Files volume-N and segmentation-N anywhere below the folder."""
    images, labels = defaultdict(list), defaultdict(list)
    for path in sorted([*data.rglob("volume-*"), *data.rglob("segmentation-*")]):
        match = LITS.fullmatch(path.name)
        if match and path.is_file():
            kind = images if match.group(1) == "volume" else labels
            kind[f"volume-{int(match.group(2))}"].append(path)
    return paired("LiTS", images, labels) if images or labels else None


def find_msd(data: Path) -> Found | None:
    """Files of imagesTr and labelsTr with the same name; nnU-Net's images end in _0000.

    Raises:
        InputError: one of the two folders is missing.
    """
    there = [folder for folder in ("imagesTr", "labelsTr") if (data / folder).is_dir()]
    if not there:
        return None
    if len(there) == 1:
        raise InputError(
            f"{data}: expected imagesTr and labelsTr side by side, found {there[0]} only."
        )
    images, labels = defaultdict(list), defaultdict(list)
    for path in image_files(data / "labelsTr"):
        labels[stem_of(path)].append(path)
    for path in image_files(data / "imagesTr"):
        stem = stem_of(path)
        images[stem if stem in labels else CHANNEL.sub("", stem)].append(path)
    return paired("MSD or nnU-Net", images, labels)


def find_ircadb(data: Path) -> Found | None:
    """Folders that hold PATIENT_DICOM and MASKS_DICOM, as 3D-IRCADb-01 has them once unpacked."""
    cts, masks = (outermost(data, name) for name in ("PATIENT_DICOM", "MASKS_DICOM"))
    packed = [p for p in sorted(data.rglob("PATIENT_DICOM.zip")) if p.parent not in cts]
    if not (cts or masks or packed):
        return None
    found = Found()
    for path in packed:
        found.faults.append(
            f"{path}: expected folders, found an archive. Unpack it and MASKS_DICOM.zip there."
        )
    for folder in sorted({*cts, *masks} - {path.parent for path in packed}):
        if folder not in masks:
            found.faults.append(f"{cts[folder]}: a CT without MASKS_DICOM beside it. {MEND}")
        elif folder not in cts:
            found.faults.append(f"{masks[folder]}: masks without PATIENT_DICOM beside. {MEND}")
        else:
            add_ircadb(found, folder.name, cts[folder], masks[folder])
    return found


def add_ircadb(found: Found, name: str, ct: Path, masks: Path) -> None:
    """Add a patient of 3D-IRCADb-01, or the fault that it has no liver or a name twice."""
    structures = sorted(path for path in masks.iterdir() if path.is_dir())
    liver = tuple(path for path in structures if LIVER_MASKS.fullmatch(path.name))
    tumor = tuple(path for path in structures if TUMOR_MASKS.fullmatch(path.name))
    if "liver" not in {path.name.lower() for path in liver}:
        found.faults.append(f"{masks}: expected a folder named liver; there is none. Copy it.")
    elif name in {source.name for source in found.sources}:
        found.faults.append(f"{ct.parent}: another folder has this name. Rename or remove one.")
    else:
        found.sources.append(Source(name, "3D-IRCADb-01", ct, Masks(liver, tumor)))


def find_plain(data: Path) -> Found | None:
    """Folders that hold one ct.* and one label.*; a CT may be there without a label."""
    images, labels = defaultdict(list), defaultdict(list)
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        for stem, kind in (("ct", images), ("label", labels)):
            if files := named(folder, stem):
                kind[folder.name] += files
    if not (images or labels):
        return None
    unlabeled = [images.pop(name)[0] for name in sorted({*images} - {*labels})]
    found = paired("a folder a case", images, labels)
    found.left_out = unlabeled
    for i, source in enumerate(found.sources):
        try:
            found.sources[i] = replace(source, facts=read_facts(data / source.name / FACTS))
        except InputError as error:
            found.faults.append(str(error))
    return found


def read_facts(path: Path) -> Facts:
    """What a case.json says; nothing without one.

    Raises:
        InputError: it cannot be read, or says something else.
    """
    if not path.exists():
        return NO_FACTS
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        facts = Facts(plain.get("patient"), plain.get("synthetic", False))
        if not (isinstance(facts.patient, str | None) and isinstance(facts.synthetic, bool)):
            raise ValueError("another type")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f'{path}: expected {{"patient": "NAME", "synthetic": true}} or one of the two, found '
            f"what cannot be read so ({error}). Mend or remove it."
        ) from error
    return facts


def paired(layout: str, images: dict[str, list[Path]], labels: dict[str, list[Path]]) -> Found:
    """A case for each name that has one image and one label, a fault for each other."""
    found = Found()
    for name in sorted({*images, *labels}, key=in_order):
        ct, label = images.get(name, []), labels.get(name, [])
        if not label:
            found.faults.append(f"{ct[0]}: a CT without a label. {MEND}")
        elif not ct:
            found.faults.append(f"{label[0]}: a label without a CT. {MEND}")
        elif len(ct) > 1 or len(label) > 1:
            several = ct if len(ct) > 1 else label
            listed = ", ".join(str(path) for path in several)
            found.faults.append(f"{several[0]}: expected one file of case {name}, found {listed}.")
        else:
            found.sources.append(Source(name, layout, ct[0], label[0]))
    return found


def named(folder: Path, stem: str) -> list[Path]:
    """The images of this name; one of an unknown ending where no other is, to be told of."""
    files = sorted(path for path in folder.glob(f"{stem}.*") if path.is_file())
    return [path for path in files if path.name.lower().endswith(IMAGE_ENDINGS)] or files[:1]


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, without the hidden files that some archives of MSD carry."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(IMAGE_ENDINGS) and not path.name.startswith(".")
    )


def stem_of(path: Path) -> str:
    """A file's name without its ending."""
    ending = max((e for e in IMAGE_ENDINGS if path.name.lower().endswith(e)), key=len)
    return path.name[: -len(ending)]


def outermost(data: Path, name: str) -> dict[Path, Path]:
    """Folders of this name by the folder they lie in; some unpack into a second of the name."""
    found = {}
    for folder in data.rglob(name):
        if folder.is_dir() and folder.parent.name != name:
            inner = folder / name
            found[folder.parent] = inner if inner.is_dir() else folder
    return found


def in_order(name: str) -> list[str | int]:
    """A key to sort names by, numbers by their value.

    >>> sorted(["volume-10", "volume-9"], key=in_order)
    ['volume-9', 'volume-10']
    """
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


LAYOUTS: dict[str, Callable[[Path], Found | None]] = {
    "LiTS": find_lits,
    "MSD or nnU-Net": find_msd,
    "3D-IRCADb-01": find_ircadb,
    "a folder a case": find_plain,
}
