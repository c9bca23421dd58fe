"""The runs that are compared: what each measured, and that it is the same cases in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from LiverTumorSegLib.errors import InputError
from Training.budget import SCORED, Budget, read_budget
from Training.scores import LESIONS, SCORES, LesionScore, Score, read_lesions, read_scores


@dataclass(frozen=True)
class Run:
    """What one `Training.evaluate` left, or one `Training.cross_validate`.

    Attributes:
        name: of its folder.
        scores: its rows.
        lesions: its rows of lesions, or None if it has none.
        budget: what its weights were trained for, where a cross-validation tells.
    """

    name: str
    scores: list[Score]
    lesions: list[LesionScore] | None
    budget: Budget | None


@dataclass(frozen=True)
class Group:
    """One target as all runs measured it.

    Attributes:
        target: "liver" or "tumor".
        liver_from: "prediction" or "reference": where tumors were searched.
        cases: names, the same for every run.
        rows: by the run's name, one score for each of the cases, in their order.
    """

    target: str
    liver_from: str
    cases: tuple[str, ...]
    rows: dict[str, list[Score]]

    @property
    def title(self) -> str:
        """What is measured."""
        place = {"prediction": "predicted", "reference": "true"}[self.liver_from]
        return "Liver" if self.target == "liver" else f"Tumor, searched in the {place} liver"


# Reading


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs of some folders, called as these are where that tells them apart.

    Raises:
        InputError: a folder given twice, or one whose scores are missing, empty or unreadable.
    """
    paths = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, paths, strict=True):
        if paths.count(path) > 1:
            raise InputError(f"{folder}: given twice; expected folders of different runs.")
    short = [path.name for path in paths]
    unique = len({*short}) == len(short)
    names = short if unique else ["/".join(path.parts[-2:]) for path in paths]
    if len({*names}) != len(names):
        names = [str(folder) for folder in folders]
    return [read_run(*pair) for pair in zip(names, folders, strict=True)]


def read_run(name: str, folder: Path) -> Run:
    """One run; a cross-validation's scores lie in a folder of its own.

    Raises:
        InputError: its scores are missing, empty or unreadable.
    """
    within = folder / SCORED if (folder / SCORED / SCORES).exists() else folder
    scores = read_scores(within / SCORES)
    if not scores:
        raise InputError(f"{within / SCORES}: expected scores of a case or more, found none.")
    path = within / LESIONS
    lesions = read_lesions(path) if path.exists() else None
    return Run(name, scores, lesions, read_budget(folder))


# The same cases


def group_scores(runs: Sequence[Run], shared: bool) -> list[Group]:
    """What all runs measured: each target, the liver first, with one row a run and case.

    Args:
        runs: one or more.
        shared: drop the cases that not all runs have.

    Raises:
        InputError: other definitions, other cases, or nothing in common.
    """
    by_definitions = {score.definitions: run.name for run in runs for score in run.scores}
    if len(by_definitions) > 1:
        found = ", ".join(f"{name} in {run}" for name, run in sorted(by_definitions.items()))
        raise InputError(
            f"Expected scores by the same definitions, found {found}. Evaluate anew with the same "
            "--definitions."
        )
    keys = [{(score.target, score.liver_from) for score in run.scores} for run in runs]
    common = sorted(set.intersection(*keys))
    if not common:
        found = "; ".join(
            f"{run.name}: {', '.join(f'{t} (liver from {f})' for t, f in sorted(key))}"
            for run, key in zip(runs, keys, strict=True)
        )
        raise InputError(f"Expected runs that measured the same target, found {found}.")
    return [group_of(runs, *key, shared) for key in common]


def group_of(runs: Sequence[Run], target: str, liver_from: str, shared: bool) -> Group:
    """One target of all runs.

    Raises:
        InputError: other cases.
    """
    found = {
        run.name: {
            score.case: score
            for score in run.scores
            if (score.target, score.liver_from) == (target, liver_from)
        }
        for run in runs
    }
    every = set.union(*(set(rows) for rows in found.values()))
    cases = sorted(set.intersection(*(set(rows) for rows in found.values())))
    lacking = {name: sorted(every - set(rows)) for name, rows in found.items()}
    if not cases or (any(lacking.values()) and not shared):
        lines = "; ".join(
            f"{name} lacks {', '.join(absent)}" for name, absent in lacking.items() if absent
        )
        advice = (
            f"compare the {len(cases)} that all have with --shared" if cases else "none is shared"
        )
        raise InputError(
            f"Expected {target} scores of the same cases, but {lines}. Evaluate what is lacking, "
            f"or {advice}."
        )
    rows = {name: [scores[case] for case in cases] for name, scores in found.items()}
    check_same_data(rows)
    return Group(target, liver_from, tuple(cases), rows)


def check_same_data(rows: dict[str, list[Score]]) -> None:
    """Refuse runs whose cases have the same names and are others.

    Raises:
        InputError: the CT or labels of a case differ.
    """
    first, *others = rows
    for other in others:
        pairs = zip(rows[first], rows[other], strict=True)
        differing = [one.case for one, two in pairs if one.ct != two.ct]
        if differing:
            raise InputError(
                f"Expected the same cases in every run, but in {other} the CT or labels of "
                f"{', '.join(differing)} are not those in {first}. Evaluate both on the same "
                "prepared data."
            )


def find_warnings(runs: Sequence[Run], groups: Sequence[Group]) -> list[str]:
    """What makes a comparison unfair or less than was asked for."""
    found = []
    for run in runs:
        rows = {row.case: row for group in groups for row in group.rows[run.name]}
        seen = [case for case, row in rows.items() if row.seen]
        if seen:
            found.append(
                f"{run.name}: its weights had seen the patients of {', '.join(seen)} in training; "
                "its scores on them flatter it."
            )
    measured = {(group.target, group.liver_from) for group in groups}
    for run in runs:
        left = sorted({(s.target, s.liver_from) for s in run.scores} - measured)
        for target, liver_from in left:
            found.append(
                f"{run.name}: its {target} scores (liver from {liver_from}) are left out, because "
                "not every run has such."
            )
        every = {s.case for s in run.scores if (s.target, s.liver_from) in measured}
        dropped = sorted(every - {case for group in groups for case in group.cases})
        if dropped:
            found.append(f"{run.name}: {', '.join(dropped)} left out, not every run has them.")
    return found
