"""README's section Speed and its plot, made from what `python -m Testing.benchmarks` measured.

A file of results holds the machine, and each part's results with the load at its start. Parts that
were not measured are left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from Testing.benchmarks.floor import floor_s
from Testing.benchmarks.measured_process import ROOT

BEGIN, END = "<!-- speed: made by python -m Testing.benchmarks -->", "<!-- end of speed -->"
RESULTS = {kind: ROOT / f"Testing/benchmarks/speed_{kind}.json" for kind in ("cpu", "cuda")}
NOTHING = "Not measured yet: `make bench` measures it and writes this section."
MULTIPLE_PROMISED = 3
STAGE_COLORS = "tab20"
Results = dict[str, Any]


def section(paths: Iterable[Path], folder: Path) -> str:
    """The section in Markdown.

    Args:
        paths: files of results; those that are not there are left out.
        folder: of the file that the section stands in; its links begin there.
    """
    told = (
        page(json.loads(path.read_text()), Path(os.path.relpath(plot_of(path), folder)))
        for path in paths
        if path.exists()
    )
    return "\n\n".join(told) or NOTHING


def plot_of(path: Path) -> Path:
    """Where the plot of a file of results is: beside it."""
    return path.with_suffix(".png")


def page(results: Results, plot: Path) -> str:
    """What one machine's results say.

    Args:
        results: a file of results.
        plot: of its scaling, as a link.
    """
    rates = results["parts"].get("floor")
    written = [machine_words(results)]
    for name, words in (
        ("whole", lambda part: whole_words(part, rates)),
        ("windows", window_words),
        ("recipes", lambda part: recipe_words(part, rates)),
        ("scaling", lambda part: scaling_words(part, plot)),
    ):
        if name in results["parts"]:
            written.append(words(results["parts"][name]))
    if rates:
        written.append(rate_words(rates))
    return "\n\n".join(written)


def machine_words(results: Results) -> str:
    """What was measured on, and how busy it was."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    device = "no GPU" if machine["device"] == "cpu" else machine["device"]
    loads = [part["load"] for part in results["parts"].values()]
    return (
        f"Measured by `make bench` on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gb']:.0f} GB, {device}; {machine['system']}, {versions}. One thing at a "
        f"time; load average {min(loads):.1f} to {max(loads):.1f} when the parts began."
    )


def whole_words(part: Results, rates: Results | None) -> str:
    """The whole job against nnU-Net's predictor."""
    rows, best = part["rows"], part["rows"][0]
    lines = [
        "| whole job | seconds | times ours | peak GB | windows |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['who']}, {how(row)} | {number(row['seconds'])} | "
            f"{row['seconds'] / best['seconds']:.1f} | {row['peak_bytes'] / 1e9:.2f} | "
            f"{row.get('windows', part['windows'])} |"
        )
    theirs = [row for row in rows if "dice" in row]
    agreement = ""
    if theirs:
        agreement = (
            f", Dice {theirs[0]['dice']:.2f} with ours inside our liver (it resamples otherwise, "
            "and nothing outside the liver is blanked for it)"
        )
    return (
        f"The whole job on `{part['ct']}` ({shape(part)} voxels), from the start of a process to "
        f"its end. nnU-Net's own predictor runs the same tumor network with the same weights, "
        f"windows, overlap and voxel size, over the whole CT and from file to file{agreement}; "
        f"ours finds the liver first and also measures lesions. Windows are all passes of a "
        f"network. Ours is the median of {best['rounds']}; the very first run, which converts the "
        f"networks, took {number(best['first_s'])} s."
        f"{share_words(part, best, rates)}\n\n" + "\n".join(lines)
    )


def how(row: Results) -> str:
    """How a row was computed."""
    if row["who"] != "ours":
        return f"{row['how']} ({row['precision']})"
    backend = "" if row["how"] == "auto" else f"`--backend {row['how']}`, "
    return f"{backend}{row['precision']}"


def share_words(part: Results, row: Results, rates: Results | None) -> str:
    """How near the job comes to the floor, as a sentence."""
    if rates is None:
        return ""
    least = floor_s({**part, "precision": row["precision"]}, rates)
    return (
        f" Its networks cost {part['gflop']:,.0f} GFLOP, its files "
        f"{(part['read_bytes'] + part['written_bytes']) / 1e6:.0f} MB: {number(least)} s at this "
        f"machine's rates, {100 * least / row['seconds']:.0f} % of the time taken."
    )


def window_words(part: Results) -> str:
    """The windows alone against MONAI's."""
    reference = next(row["seconds"] for row in part["rows"] if row["how"].startswith("MONAI"))
    lines = ["| windows alone | seconds | speed-up | same voxels |", "|---|---:|---:|---:|"]
    for row in part["rows"]:
        lines.append(
            f"| {row['how']} | {number(row['seconds'])} | {reference / row['seconds']:.1f} | "
            f"{100 * row['same']:.3f} % |"
        )
    return (
        f"The windows of the tumor network alone, over the liver's box ({shape(part)} voxels), "
        "against MONAI's `sliding_window_inference` with the same network, windows and overlap; "
        "`same voxels` are decided as MONAI's are.\n\n" + "\n".join(lines)
    )


def recipe_words(part: Results, rates: Results | None) -> str:
    """Each paper's recipe."""
    faster = list(part["rows"][0]["faster_s"])
    head = ["recipe", "seconds", "of networks", "first run", "peak GB", "GFLOP", "windows"]
    head += ["share of floor", *(f"seconds, `{name}`" for name in faster)]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for row in part["rows"]:
        cells = [
            f"{row['title']} ({row['precision']})",
            number(row["seconds"]),
            number(network_s(row["timings_s"])),
            number(row["first_s"]),
            f"{row['peak_bytes'] / 1e9:.2f}",
            f"{row['gflop']:,.0f}",
            f"{row['windows']}",
            f"{100 * floor_s(row, rates) / row['seconds']:.0f} %" if rates else "–",
            *(number(row["faster_s"][name]) for name in faster),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return (
        f"Every paper's recipe on `{part['ct']}`, from file to files. The weights are random, and "
        "the liver and the tumors that the embedded models find are painted into the CT so that "
        "such networks find them: they do all the work of trained ones, but what they find means "
        "nothing. Of networks are the seconds of the stages that run them, their preparation and "
        "restoring included. What takes longer than a minute was run once.\n\n" + "\n".join(lines)
    )


def network_s(timings_s: dict[str, float]) -> float:
    """Seconds of the stages that run networks."""
    return sum(timings_s.get(stage, 0.0) for stage in ("liver", "tumor", "liver_and_tumor"))


def scaling_words(part: Results, plot: Path) -> str:
    """Time and memory by number of slices, and whether memory is as promised."""
    largest = part["rows"][-1]
    kept = all(row["multiple"] <= MULTIPLE_PROMISED for row in part["rows"])
    most = max(row["multiple"] for row in part["rows"])
    verdict = "as promised" if kept else "more than promised"
    counts = ", ".join(
        f"{row['slices']} slices {number(row['seconds'])} s and {row['peak_bytes'] / 1e9:.2f} GB"
        for row in part["rows"]
    )
    return (
        f"By the number of slices, on generated CTs of 512x512 pixels: {counts}. Beyond what "
        f"imports and networks take ({part['baseline']['peak_bytes'] / 1e9:.2f} GB), memory is at "
        f"most {most:.2f} times the CT's size as float32, {verdict} (at most {MULTIPLE_PROMISED}); "
        f"with {largest['slices']} slices {largest['multiple']:.2f} times.\n\n"
        f"![Seconds by stage, and peak memory, by the number of slices]({plot.as_posix()})"
    )


def rate_words(rates: Results) -> str:
    """What the floor was made of."""
    products = ", ".join(f"{rate:,.0f} GFLOP/s in {kind}" for kind, rate in rates["gflops"].items())
    return (
        f"The floor: matrix products of {rates['side']}x{rates['side']} at the best rate that "
        f"torch or OpenVINO reaches here ({products}), and the disk's "
        f"{rates['read_bytes_s'] / 1e6:,.0f} MB/s read and {rates['write_bytes_s'] / 1e6:,.0f} "
        "MB/s written. A multiply-add counts as two."
    )


def number(seconds: float) -> str:
    """Seconds with as many digits as say something.

    >>> number(0.123), number(9.87), number(123.4)
    ('0.12', '9.9', '123')
    """
    digits = 2 if seconds < 1 else 1 if seconds < 100 else 0
    return f"{seconds:.{digits}f}"


def shape(part: Results) -> str:
    """A part's array size as (x, y, z), the way that CTs are told."""
    return "x".join(map(str, reversed(part["shape"])))


def draw(results: Results, path: Path) -> None:
    """Draw seconds by stage and peak memory by the number of slices, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    part = results["parts"]["scaling"]
    baseline = part["baseline"]
    rows = [baseline, *part["rows"]]
    slices = [row["slices"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", dpi=150)
    stages = list(dict.fromkeys(stage for row in rows for stage in row["timings_s"]))
    heights = [[row["timings_s"].get(stage, 0.0) for row in rows] for stage in stages]
    rest = [max(row["seconds"] - sum(row["timings_s"].values()), 0.0) for row in rows]
    labels = [stage.replace("_", " ") for stage in stages] + ["start and other"]
    colors = [*mpl.colormaps[STAGE_COLORS].colors[: len(stages)], "lightgray"]
    left.stackplot(slices, *heights, rest, labels=labels, colors=colors, linewidth=0)
    left.plot(slices, [row["seconds"] for row in rows], "ko-", markersize=3, linewidth=1)
    left.set(
        xlabel="slices of 512x512", ylabel="seconds", ylim=(0, None), xlim=(0, 1.03 * slices[-1])
    )
    handles, names = left.get_legend_handles_labels()
    left.legend(handles[::-1], names[::-1], fontsize=7, loc="upper left", frameon=False)

    promised = [
        (baseline["peak_bytes"] + MULTIPLE_PROMISED * (row["ct_bytes"] - baseline["ct_bytes"]))
        / 1e9
        for row in rows
    ]
    right.plot(slices, promised, "--", color="tab:red", label="promised: networks + 3 times the CT")
    right.plot(
        slices, [row["peak_bytes"] / 1e9 for row in rows], "ko-", markersize=3, label="peak memory"
    )
    right.plot(
        slices, [row["ct_bytes"] / 1e9 for row in rows], ":", color="tab:gray", label="CT, float32"
    )
    right.set(xlabel="slices of 512x512", ylabel="GB", ylim=(0, None), xlim=(0, 1.03 * slices[-1]))
    right.legend(fontsize=7, loc="upper left", frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)
