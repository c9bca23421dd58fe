"""Which cases train, which choose the epoch, and which are left for testing.

Patients are divided, never cases. Synthetic cases are not divided: they train, unless a case of
their patient is held out or tested on. Where fewer are chosen than all, they are spread over three
strata: without tumor, with a small one, with a large one (more than the median of those with one).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.recipe import Split
from Training.dataset import Case, real
from Training.ircadb import lits_number


@dataclass(frozen=True)
class Division:
    """The cases of a data set, divided; no patient is in two of the lists.

    Synthetic cases of patients who are held out or tested on are in none.

    Attributes:
        training: whose windows are shown.
        held_out: real ones that choose the epoch.
        test: real ones that the run never sees.
    """

    training: list[Case]
    held_out: list[Case]
    test: list[Case]


def divide(cases: tuple[Case, ...], fold: str | None, paper: Split, seed: int) -> Division:
    """Divide the cases as `--fold` says.

    Args:
        cases: all cases.
        fold: "K/N" to hold out fold K of N, "paper" for the paper's division, None to train on
            everything.
        paper: the recipe's split.
        seed: what the paper's shares are drawn by.

    Raises:
        InputError: the fold is of no such form, or does not fit the data.
    """
    if fold is None:
        return Division(list(cases), [], [])
    if fold == "paper":
        return paper_division(cases, paper, seed)
    return fold_division(cases, fold)


def fold_division(cases: tuple[Case, ...], fold: str) -> Division:
    """Hold out fold K of N.

    Patients are dealt to N folds in the order of their names, stratum by stratum: folds differ by
    at most one patient, in all and of each stratum, and each holds a tumor if N patients have one.
    N = number of patients leaves one patient out, in the order of their names alone.

    Raises:
        InputError: not "K/N" with 1 <= K <= N and N >= 2, or fewer patients than folds.
    """
    try:
        number, count = (int(part) for part in fold.split("/"))
    except ValueError:
        number = count = 0
    patients = patients_of(real(cases))
    if not 1 <= number <= count or not 2 <= count <= len(patients):
        raise InputError(
            f"--fold {fold}: expected K/N with 1 <= K <= N and 2 <= N <= {len(patients)}, the "
            "number of patients with a real CT, or `paper`."
        )
    if count < len(patients):
        stratum = strata(real(cases))
        patients.sort(key=stratum.__getitem__)  # keeps the order of names within a stratum
    return by_patient(cases, held_out=set(patients[number - 1 :: count]), test=set())


def paper_division(cases: tuple[Case, ...], paper: Split, seed: int) -> Division:
    """Leave the paper's test cases out, and hold out its share of the other patients.

    Shares are drawn at random, spread over the strata. A patient one of whose cases is tested on
    is left out with all cases. Shares are rounded to whole patients, but a share above 0 is at
    least one patient.

    Raises:
        InputError: the paper cross-validated; or the test cases are numbered but these are not;
            or nobody would be left to train on.
    """
    if paper.folds is not None:
        raise InputError(
            f"--fold paper: this paper cross-validated {paper.data} in {paper.folds} folds; train "
            f"them one by one with --fold 1/{paper.folds} to --fold {paper.folds}/{paper.folds}."
        )
    scanned = real(cases)
    shuffled = np.random.default_rng(seed).permutation(patients_of(scanned)).tolist()
    if paper.test_numbers is not None:
        first, last = paper.test_numbers
        test = {case.patient for case in scanned if first <= case_number(case, paper) <= last}
    else:
        test = spread(shuffled, whole(paper.test_share, len(shuffled)), strata(scanned))
    others = [patient for patient in shuffled if patient not in test]
    held_out = spread(others, whole(paper.validation_share, len(others)), strata(scanned))
    division = by_patient(cases, held_out, test)
    if not division.training:
        raise InputError(
            f"--fold paper: of {len(shuffled)} patients {len(test)} are tested on and "
            f"{len(held_out)} held out; none is left to train on. The paper used {paper.data}."
        )
    return division


def whole(share: float, count: int) -> int:
    """A share of so many patients, rounded; at least 1 unless the share is 0."""
    return max(round(share * count), 1) if share > 0 else 0


def spread(patients: list[str], count: int, stratum: dict[str, int]) -> set[str]:
    """So many of the patients, or all, of each stratum its share; chance is in their order."""
    ordered = sorted(patients, key=stratum.__getitem__)
    count = min(count, len(ordered))
    return {ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)}


def strata(cases: tuple[Case, ...]) -> dict[str, int]:
    """Each patient's stratum: 0 with a large tumor, 1 with a small one, 2 without.

    The volume of a patient with several cases is that of the case with most.
    """
    volumes_ml: dict[str, float] = {}
    for case in cases:
        volumes_ml[case.patient] = max(case.tumor_ml, volumes_ml.get(case.patient, 0.0))
    of_tumors = [volume for volume in volumes_ml.values() if volume > 0]
    median = float(np.median(of_tumors)) if of_tumors else 0.0
    return {
        patient: 2 if volume == 0 else 0 if volume > median else 1
        for patient, volume in volumes_ml.items()
    }


def case_number(case: Case, paper: Split) -> int:
    """The case's number in LiTS: that of 3D-IRCADb-01's patients there, else its name's last.

    Raises:
        InputError: it has none.
    """
    known = lits_number(case.patient)
    if known is not None:
        return known
    digits = re.search(r"[0-9]+$", case.name)
    if digits is None:
        raise InputError(
            f"--fold paper: the paper tested on numbers {paper.test_numbers} of {paper.data}; "
            f"expected cases with a number at the end of their names, as in volume-27, found "
            f"{case.name!r}. Rename the case folders and prepare the data again, or use --fold K/N."
        )
    return int(digits.group())


def patients_of(cases: tuple[Case, ...]) -> list[str]:
    """The patients, sorted by name."""
    return sorted({case.patient for case in cases})


def by_patient(cases: tuple[Case, ...], held_out: set[str], test: set[str]) -> Division:
    """The division with these patients held out and tested on."""
    return Division(
        training=[case for case in cases if case.patient not in held_out | test],
        held_out=[case for case in real(cases) if case.patient in held_out],
        test=[case for case in real(cases) if case.patient in test],
    )
