"""The summary of an evaluation as a Markdown page, to be read or pasted into a report."""

from __future__ import annotations

from typing import Any

from Training.metrics import SURFACE_TOLERANCE_MM
from Training.summary import DICE_SPLIT

_LABELS = {
    "dice": "Dice",
    "iou": "IoU",
    "voe": "VOE",
    "rvd": "RVD",
    "assd_mm": "ASSD (mm)",
    "rmsd_mm": "RMSD (mm)",
    "hd_mm": "HD (mm)",
    "hd95_mm": "HD95 (mm)",
    "surface_dice": f"surface Dice ({SURFACE_TOLERANCE_MM:g} mm)",
    "lesion_precision": "lesion precision",
    "lesion_recall": "lesion recall",
    "predicted_ml": "volume predicted (mL)",
    "reference_ml": "volume of the reference (mL)",
    "seconds": "prediction (s)",
}
_ONE_DECIMAL = ("predicted_ml", "reference_ml", "seconds")


def page(summary: dict[str, Any]) -> str:
    """The summary as a Markdown page.

    Args:
        summary: as `summarize` returns it.

    Returns:
        Its text.
    """
    return "\n".join(["# Evaluation", "", *body(summary)]) + "\n"


def body(summary: dict[str, Any]) -> list[str]:
    """The lines of the page after its title."""
    lines = [
        f"LiverTumorSeg {summary['version']}, definitions: {summary['definitions']}, "
        f"data: {', '.join(summary['data'])}. For research. Not for clinical use.",
    ]
    for target, values in summary["targets"].items():
        lines += ["", *target_lines(target, values)]
    if "lits" in summary:
        lines += ["", "## As the LiTS scorer prints them", "", *table(("result", "value"))]
        lines += [row(name, number(value)) for name, value in summary["lits"].items()]
    lines += ["", "## Definitions", ""]
    lines += [f"- {name}: {text}." for name, text in summary["definition_of"].items()]
    return lines


def target_lines(target: str, values: dict[str, Any]) -> list[str]:
    """The part of one target."""
    where = {"prediction": "predicted", "reference": "true"}[values["liver_from"]]
    seen = values["cases_seen_in_training"]
    lines = [
        f"## {target.capitalize()}, {values['cases']} case{'s' if values['cases'] != 1 else ''}",
        "",
        f"- Recipes: {', '.join(values['recipes'])}",
        f"- Weights: {', '.join(values['weights'])}",
        *([f"- Tumors searched in the {where} liver"] if target == "tumor" else []),
        *(["- Averaged over mirrored images"] if values["tta"] else []),
        *([f"- **Seen in training, so that they flatter: {', '.join(seen)}**"] if seen else []),
        "",
        *table(("measure", "mean", "SD", "median", "n")),
    ]
    spreads = {_LABELS.get(name, name): (name, s) for name, s in values["measures"].items()}
    for label, (name, s) in spreads.items():
        digits = 1 if name in _ONE_DECIMAL else 3
        if s["n"]:
            cells = (number(s[key], digits) for key in ("mean", "sd", "median"))
            lines.append(row(label, *cells, str(s["n"])))
    lines.append(row("Dice, global", number(values["dice_global"]), "", "", str(values["cases"])))
    return lines + (tumor_lines(values) if target == "tumor" else [])


def tumor_lines(values: dict[str, Any]) -> list[str]:
    """What only tumors have."""
    with_tumor = values["dice_of_cases_with_tumor"]
    lines = []
    if with_tumor["n"] < values["cases"]:
        cells = (number(with_tumor[key]) for key in ("mean", "sd", "median"))
        lines.append(row("Dice of cases with tumor", *cells, str(with_tumor["n"])))
    lines += [
        "",
        f"Lesions: {values['lesions']} true, of which {values['lesions_detected']} detected and "
        f"{values['lesions_touched']} touched; {values['predicted_lesions']} predicted, of which "
        f"{values['false_lesions']} false. Of all lesions together: precision "
        f"{number(values['pooled_lesion_precision'])}, recall "
        f"{number(values['pooled_lesion_recall'])}.",
        "",
        f"Tumor burden: RMSE {number(values['burden_rmse'])}, greatest error "
        f"{number(values['burden_max_error'])}.",
    ]
    if "by_size" in values:
        lines += ["", *size_lines(values["by_size"])]
    if "by_dice" in values:
        lines += ["", *dice_lines(values["by_dice"])]
    return lines


def size_lines(groups: list[dict[str, Any]]) -> list[str]:
    """Detection by size as a table."""
    counts = ("true", "touched", "detected", "recall", "predicted", "precision")
    head = ("diameter", *counts, "lesion Dice")
    lines = ["Detection by the lesion's longest axial diameter:", "", *table(head)]
    for group in groups:
        high = group["below_mm"]
        size = f"{group['from_mm']:g} mm " + (f"to < {high:g} mm" if high else "and more")
        cells = [size, *(str(group[key]) for key in ("lesions", "touched", "detected"))]
        cells += [number(group["recall"]), str(group["predicted_lesions"])]
        lines.append(row(*cells, number(group["precision"]), number(group["lesion_dice"])))
    return lines


def dice_lines(groups: list[dict[str, Any]]) -> list[str]:
    """The groups of ELANRes-MSCA-UNet's Table 3 as a table."""
    names = {"high": f"tumor Dice >= {DICE_SPLIT:g}", "low": f"tumor Dice < {DICE_SPLIT:g}"}
    head = ("group", "cases", "lesions", "mean major axis (mm)")
    lines = ["Size of the true lesions in well and in poorly segmented cases:", "", *table(head)]
    for group in groups:
        axis = number(group["mean_major_axis_mm"], 1)
        lines.append(row(names[group["group"]], str(group["cases"]), str(group["lesions"]), axis))
    return lines


def table(head: tuple[str, ...]) -> list[str]:
    """The head of a Markdown table, all columns but the first flush right."""
    return [row(*head), "|---|" + "---:|" * (len(head) - 1)]


def row(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def number(value: float | None, digits: int = 3) -> str:
    """A value for a reader; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"
