"""overview.html: every case of a data set on one page, with its picture, numbers and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

import numpy as np

from LiverTumorSegLib import __version__
from Training.case_store import PICTURES, Record
from Training.fingerprint import statistics

BINS = 12
BAR_WIDTH, BAR_HEIGHT = 18, 70
FLOOR = BAR_HEIGHT + 16  # where the bars stand
STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 24px; color: #222; background: #fff; }
h1 { font-size: 22px; margin: 0 0 4px; }
h2 { font-size: 16px; margin: 24px 0 8px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 6px 10px; border-top: 1px solid #ddd; }
th { background: #f4f4f4; }
td.number { text-align: right; white-space: nowrap; }
img { width: 420px; max-width: 100%; display: block; }
.plots { display: flex; flex-wrap: wrap; gap: 12px 36px; }
.plots p { margin: 0 0 4px; }
.warning { color: #a34700; }
.muted { color: #777; }
"""


def overview_html(records: Sequence[Record], title: str) -> str:
    """The page; its pictures lie beside it and are linked.

    Args:
        records: the cases in order.
        title: name of the data set.
    """
    cases = [record.case for record in records]
    lesions = [lesion for record in records for lesion in record.fingerprint.lesions]
    facts = [
        f"{len(cases)} cases of {len({case.patient for case in cases})} patients",
        *([f"{made} synthetic"] if (made := sum(case.synthetic for case in cases)) else []),
        f"{sum(case.tumor_ml > 0 for case in cases)} with tumor",
        f"{len(lesions)} lesions",
        f"{sum(bool(record.origin.warnings) for record in records)} cases with warnings",
    ]
    spacings = [case.geometry.spacing_mm for case in cases]
    plots = [
        histogram("distance of slices", "mm", [s[0] for s in spacings]),
        histogram("pixel", "mm", [s[1] for s in spacings]),
        histogram("slices", "", [float(case.geometry.shape[0]) for case in cases]),
        histogram("liver", "mL", [case.liver_ml for case in cases]),
        histogram("tumor, where there is one", "mL", [c.tumor_ml for c in cases if c.tumor_ml]),
        histogram("long axis of lesions", "mm", [lesion.long_axis_mm for lesion in lesions]),
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            f'<head><meta charset="utf-8"><title>{escape(title)}</title>',
            f"<style>{STYLE}</style></head>",
            f"<body><h1>{escape(title)}, prepared for training</h1>",
            f"<p>{', '.join(facts)}. <span class=muted>LiverTumorSeg {__version__}. "
            "Not for clinical use.</span></p>",
            *warnings_html(records),
            '<div class="plots">',
            *plots,
            "</div><h2>Cases</h2><table>",
            "<tr><th>picture<th>case<th>grid<th>liver<th>tumor<th>HU: median (5th to 95th "
            "percentile)</tr>",
            *(row_html(record) for record in records),
            "</table></body></html>\n",
        ]
    )


def warnings_html(records: Sequence[Record]) -> list[str]:
    """All warnings together, each a link to its case; nothing without any."""
    lines = [
        f'<li><a href="#{quote(record.case.name)}">{escape(record.case.name)}</a>: '
        f"{escape(warning)}</li>"
        for record in records
        for warning in record.origin.warnings
    ]
    return ['<h2>Look at these</h2><ul class="warning">', *lines, "</ul>"] if lines else []


def row_html(record: Record) -> str:
    """A case's row of the table."""
    case, origin = record.case, record.origin
    geometry = case.geometry
    picture = quote(f"{PICTURES}/{case.name}.png")
    notes = [f'<br><span class="warning">{escape(text)}</span>' for text in origin.warnings]
    notes += [f'<br><span class="muted">{escape(text)}</span>' for text in origin.repairs]
    patient = "" if case.patient == case.name else f"<br>patient {escape(case.patient)}"
    patient += "<br>synthetic" if case.synthetic else ""
    shape = " x ".join(str(n) for n in geometry.shape[::-1])
    spacing = " x ".join(f"{s:.3g}" for s in geometry.spacing_mm[::-1])
    return (
        f'<tr id="{escape(case.name)}"><td><a href="{picture}">'
        f'<img loading="lazy" src="{picture}" alt="{escape(case.name)}"></a>'
        f"<td><b>{escape(case.name)}</b>{patient}"
        f'<br><span class="muted">{escape(origin.files[0])}</span>{"".join(notes)}'
        f'<td class="number">{shape}<br>{spacing} mm'
        f'<td class="number">{case.liver_ml:.0f} mL'
        f'<td class="number">{tumor_text(record)}'
        f"<td>{hu_text(record)}</tr>"
    )


def tumor_text(record: Record) -> str:
    """Volume and burden of the tumors, how many there are and how long the longest is."""
    case, lesions = record.case, record.fingerprint.lesions
    if not lesions:
        return "none"
    longest = max(lesion.long_axis_mm for lesion in lesions)
    return (
        f"{case.tumor_ml:.1f} mL<br>{100 * case.tumor_ml / case.liver_ml:.1f} %<br>"
        f"{len(lesions)} lesion{'s' if len(lesions) > 1 else ''}, to {longest:.0f} mm"
    )


def hu_text(record: Record) -> str:
    """Median and range of the HU of liver and tumor."""
    lines = []
    for name, counts in (
        ("liver", record.fingerprint.liver_hu),
        ("tumor", record.fingerprint.tumor_hu),
    ):
        if found := statistics([counts]):
            lines.append(f"{name} {found['p50']} ({found['p5']} to {found['p95']})")
    return "<br>".join(lines)


def histogram(title: str, unit: str, values: Sequence[float]) -> str:
    """A small histogram as SVG, counts above the bars, lowest and highest value below."""
    if not values:
        return ""
    counts, edges = np.histogram(values, bins=BINS)
    heights = np.round(BAR_HEIGHT * counts / counts.max(), 1).tolist()
    bars = "".join(
        f'<rect x="{i * BAR_WIDTH}" y="{FLOOR - height}" width="{BAR_WIDTH - 2}" '
        f'height="{height}" fill="#4a7ab5"/>'
        f'<text x="{(i + 0.45) * BAR_WIDTH}" y="{FLOOR - height - 3}" text-anchor="middle">'
        f"{count}</text>"
        for i, (count, height) in enumerate(zip(counts.tolist(), heights, strict=True))
        if count
    )
    width = BINS * BAR_WIDTH
    return (
        f"<div><p>{escape(title)}</p>"
        f'<svg width="{width}" height="{FLOOR + 18}" font-size="11">{bars}'
        f'<text x="0" y="{FLOOR + 14}">{edges[0]:.4g}</text>'
        f'<text x="{width}" y="{FLOOR + 14}" text-anchor="end">{edges[-1]:.4g} {unit}</text>'
        "</svg></div>"
    )
