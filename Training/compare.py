"""Set the scores of several weights side by side, on the same cases.

    python -m Training.compare OUT_A [OUT_B ...] -o TABLE [--shared]

OUT_A, OUT_B are folders of `Training.evaluate` or `Training.cross_validate`. TABLE receives
comparison.md, the same numbers as measures.csv, tests.csv and, where lesions were measured,
sizes.csv, and the plots dice.png and volumes.png, all at once or not at all. The papers' own
figures stand in a column of their own. The runs must cover the same cases; --shared takes those
that all of them have.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from LiverTumorSegLib.errors import InputError, ResourceError
from LiverTumorSegLib.recipes import RECIPES
from LiverTumorSegLib.staging import staged
from Training.compared_runs import Group, Run, find_warnings, group_scores, read_runs
from Training.comparison import (
    MEASURES,
    Comparison,
    SizeRow,
    Summary,
    agreement,
    by_size,
    compare_pairs,
    summarize,
)
from Training.comparison_plots import plot_dice, plot_volumes
from Training.scores import Score, recipe_label
from Training.summary import DEFINITIONS

PAGE, MEASURES_CSV, TESTS_CSV, SIZES_CSV = "comparison.md", "measures.csv", "tests.csv", "sizes.csv"
DICE_PNG, VOLUMES_PNG = "dice.png", "volumes.png"
FILE_NAMES = (PAGE, MEASURES_CSV, TESTS_CSV, SIZES_CSV, DICE_PNG, VOLUMES_PNG)
COUNT_MOST = ("dice", "lesion_recall", "lesion_precision", "false_lesions")
Row = Summary | Comparison | SizeRow


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m Training.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="OUT", help="folder of Training.evaluate"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="TABLE", help="folder to write"
    )
    parser.add_argument(
        "--shared", action="store_true", help="compare on the cases that all runs have"
    )
    arguments = parser.parse_args(argv)
    try:
        warnings = compare(arguments.runs, arguments.output, arguments.shared)
    except (InputError, ResourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(arguments.output / PAGE)
    return 0


def compare(folders: Sequence[Path], output: Path, shared: bool) -> list[str]:
    """Write the comparison; returns what its reader must be warned of.

    Args:
        folders: of `Training.evaluate`, each once.
        output: folder to write.
        shared: compare on the cases that all have, where they differ.

    Raises:
        InputError: scores that cannot be read or not be compared, or a folder that cannot be
            written to.
        ResourceError: the disk is full.
    """
    runs = read_runs(folders)
    groups = group_scores(runs, shared)
    summaries = [row for group in groups for row in summarize(group)]
    comparisons = [row for group in groups for row in compare_pairs(group)]
    sizes = [row for group in groups if group.target == "tumor" for row in by_size(group, runs)]
    warnings = find_warnings(runs, groups)
    with staged(output, FILE_NAMES) as folder:
        write_table(folder / MEASURES_CSV, Summary, summaries)
        write_table(folder / TESTS_CSV, Comparison, comparisons)
        if sizes:
            write_table(folder / SIZES_CSV, SizeRow, sizes)
        plot_dice(groups, folder / DICE_PNG)
        plot_volumes(groups, folder / VOLUMES_PNG)
        text = page(runs, groups, summaries, comparisons, sizes, warnings)
        (folder / PAGE).write_text(text, encoding="utf-8")
    return warnings


def write_table(path: Path, kind: type[Row], rows: Sequence[Row]) -> None:
    """Write rows as CSV; an empty cell is a value that is not defined."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(kind)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


# The page


def page(
    runs: Sequence[Run],
    groups: Sequence[Group],
    summaries: Sequence[Summary],
    comparisons: Sequence[Comparison],
    sizes: Sequence[SizeRow],
    warnings: Sequence[str],
) -> str:
    """The comparison in Markdown."""
    definitions = runs[0].scores[0].definitions
    lines = [
        f"# {', '.join(run.name for run in runs)}",
        "",
        f"Measured by `Training.evaluate --definitions {definitions}`. Cells are mean ± SD "
        "over the cases, with n where a measure is undefined for some of them.",
        *(f"\n**Warning.** {text}" for text in warnings),
        "",
        *markdown(("run", "recipe", "weights", "mirrored images averaged"), map(origin, runs)),
        "",
        *systems_table(runs, groups, summaries),
        *machine_lines(runs),
    ]
    for group in groups:
        key = (group.target, group.liver_from)
        lines += [
            "",
            f"## {group.title}, {len(group.cases)} cases",
            "",
            *measures_tables([row for row in summaries if (row.target, row.liver_from) == key]),
            "",
            *cases_table(group),
            "",
            *volumes_table(group),
            *tests_table([row for row in comparisons if (row.target, row.liver_from) == key]),
        ]
        if group.target == "tumor":
            lines += sizes_table([row for row in sizes if row.liver_from == group.liver_from])
    if any(row.reported is not None for row in summaries):
        lines += [
            "",
            "What papers report is theirs: on their cases, by their definitions of each measure "
            "(signs and surfaces differ), and not measured here. No test compares with it.",
        ]
    plots = (("Dice of every case", DICE_PNG), ("Bland-Altman plots of the volumes", VOLUMES_PNG))
    lines += ["", "## Plots", *(f"\n![{title}]({name})" for title, name in plots)]
    told = DEFINITIONS[definitions].items()
    lines += ["", "## Definitions", "", *(f"- {name}: {text}" for name, text in told)]
    return "\n".join(lines) + "\n"


def origin(run: Run) -> tuple[str, ...]:
    """A run's recipes, weights and way of predicting."""
    labels = sorted({label for score in run.scores for label in score.recipes.split()})
    recipes = [f"{label} ({state_of(label)})" for label in labels]
    weights = sorted({name for score in run.scores for name in score.weights.split()})
    flips = {score.tta for score in run.scores}
    mirrored = "for some" if len(flips) > 1 else {True: "yes", False: "no"}[flips.pop()]
    return run.name, ", ".join(recipes), ", ".join(weights), mirrored


def state_of(label: str) -> str:
    """Whether a recipe is as this version has it, by its name and digest."""
    name = label.partition("@")[0]
    if name not in RECIPES:
        return "unknown here"
    return "as listed" if recipe_label(RECIPES[name]) == label else "changed"


def systems_table(
    runs: Sequence[Run], groups: Sequence[Group], rows: Sequence[Summary]
) -> list[str]:
    """What counts most, a line a run; with the minutes of training, where they are told."""
    columns = [
        (group, measure)
        for group in groups
        for measure in (COUNT_MOST if group.target == "tumor" else ("dice",))
    ]
    by_key = {(row.run, row.target, row.liver_from, row.measure): row for row in rows}
    timed = any(run.budget for run in runs)
    titles = [
        f"{group.target} {MEASURES[m][0]}" if m == "dice" else MEASURES[m][0]
        for group, m in columns
    ]
    lines = []
    for run in runs:
        cells = []
        for group, measure in columns:
            row = by_key.get((run.name, group.target, group.liver_from, measure))
            cells.append("-" if row is None else mean_cell(row, len(group.cases)))
        lines.append((run.name, *cells, *([minutes_cell(run)] if timed else [])))
    return markdown(("run", *titles, *(["training, minutes a fold"] if timed else [])), lines)


def minutes_cell(run: Run) -> str:
    """What a run's weights were trained for, on average."""
    return "-" if run.budget is None else f"{run.budget.minutes_a_fold():.1f}"


def machine_lines(runs: Sequence[Run]) -> list[str]:
    """Where the weights of cross-validations were trained."""
    trainings = (training for run in runs if run.budget for training in run.budget.trainings)
    machines = dict.fromkeys(training.machine for training in trainings)
    return [f"\nTrained on {'; '.join(machines)}."] if machines else []


def cases_table(group: Group) -> list[str]:
    """Every case, a column a run."""
    told = "Dice, lesions detected, false ones" if group.target == "tumor" else "Dice"
    lines = [
        (case, *(case_cell(rows[number]) for rows in group.rows.values()))
        for number, case in enumerate(group.cases)
    ]
    return markdown((f"case: {told}", *group.rows), lines)


def case_cell(score: Score) -> str:
    """One run's result on one case."""
    if score.target == "liver":
        return f"{score.dice:.3f}"
    detected, false = score.lesions_detected, score.false_lesions
    return f"{score.dice:.3f}, {detected} of {score.lesions}, {false} false"


def measures_tables(rows: Sequence[Summary]) -> list[str]:
    """Means, a line a run as the papers print it, with their own figures last; then medians."""
    measures = [measure for measure in MEASURES if any(row.measure == measure for row in rows)]
    means, medians = [], []
    for run in dict.fromkeys(row.run for row in rows):
        own = {row.measure: row for row in rows if row.run == run}
        most = max(row.n for row in own.values())
        cells = [mean_cell(own[measure], most) for measure in measures]
        means.append((run, *cells, reported_cell(own)))
        medians.append((run, *(number_cell(m, own[m].median) for m in measures)))
    titles = [MEASURES[measure][0] for measure in measures]
    return [
        *markdown(("run", *titles, "the paper reports, on its own data"), means),
        "",
        *markdown(("median of", *titles), medians),
    ]


def mean_cell(row: Summary, cases: int) -> str:
    """Mean and standard deviation of one measure."""
    if row.mean is None:
        return "-"
    n = "" if row.n == cases else f" (n = {row.n})"
    return f"{number_cell(row.measure, row.mean)} ± {number_cell(row.measure, row.sd)}{n}"


def number_cell(measure: str, value: float | None) -> str:
    """A value with the digits of its measure."""
    return "-" if value is None else f"{value:.{MEASURES[measure][2]}f}"


def reported_cell(rows: dict[str, Summary]) -> str:
    """What the paper of a run's recipe prints."""
    known = {key: row for key, row in rows.items() if row.reported is not None}
    if not known:
        return "-"
    figures = ", ".join(f"{MEASURES[key][1]} {row.reported:g}" for key, row in known.items())
    (data,) = {row.reported_data for row in known.values()}
    return f"{figures} ({data})"


def volumes_table(group: Group) -> list[str]:
    """Bias and limits of agreement of each run's volumes."""
    lines = []
    for name, rows in group.rows.items():
        bias, low, high = agreement(rows)
        limits = "-" if low is None else f"{low:+.1f} to {high:+.1f}"
        lines.append((name, f"{bias:+.1f}", limits))
    return markdown(("run", "volume bias mL", "95 % limits of agreement mL"), lines)


def tests_table(rows: Sequence[Comparison]) -> list[str]:
    """The paired tests; nothing for a single run."""
    if not rows:
        return []
    corrected = len(rows) > 1
    lines = [
        (
            f"{row.first} minus {row.second}",
            str(row.n),
            f"{row.mean_difference:+.4f}",
            p_cell(row.t_p_holm if corrected else row.t_p, row.t_reason),
            p_cell(row.wilcoxon_p_holm if corrected else row.wilcoxon_p, row.wilcoxon_reason),
        )
        for row in rows
    ]
    by = f", Holm's correction for {len(rows)} pairs" if corrected else ""
    titles = ("Dice of", "n", "mean difference", f"paired t-test{by}", f"Wilcoxon{by}")
    return ["", *markdown(titles, lines)]


def p_cell(p: float | None, reason: str) -> str:
    """A p value, or why there is none."""
    if p is None:
        return f"- ({reason})"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def sizes_table(rows: Sequence[SizeRow]) -> list[str]:
    """Lesions found, a column a size; nothing if no run measured lesions."""
    if not rows:
        return []
    sizes = list(dict.fromkeys(row.size for row in rows))
    lines = []
    for run in dict.fromkeys(row.run for row in rows):
        own = {row.size: row for row in rows if row.run == run}
        lines.append((run, *(size_cell(own[size]) for size in sizes)))
    return [
        "",
        "Lesions detected (IoU > 0.5) of those in the reference, by longest axial diameter; mean "
        "Dice of each with its best match, 0 without one.",
        "",
        *markdown(("run", *sizes), lines),
    ]


def size_cell(row: SizeRow) -> str:
    """How many lesions of a size were found, and how well."""
    if row.mean_dice is None:
        return "-"
    return f"{row.detected} of {row.lesions}, Dice {row.mean_dice:.3f}"


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; bars in names are kept from parting cells."""
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


if __name__ == "__main__":
    sys.exit(main())
