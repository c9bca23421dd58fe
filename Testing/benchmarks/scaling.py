"""Time and memory of the whole job by the number of slices, on generated CTs of 512x512 pixels.

Memory is told as a multiple of the CT's size as float32, after taking off what imports and networks
need. That is the peak of the same job on a CT of a few slices, whose own size is taken off too: the
networks' windows are of the same size for every CT.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from Testing.benchmarks.generated_ct import SIDE, write
from Testing.benchmarks.measured_process import measured
from Testing.benchmarks.whole_job import our_command

BASELINE_SLICES = 8


def scaling(slices: list[int], folder: Path, device: str) -> dict[str, Any]:
    """Run each number of slices once; the baseline comes first and has the networks compiled."""
    ct = folder / "ct.nii.gz"
    rows = []
    for count in (BASELINE_SLICES, *sorted(slices)):
        write(count, ct)
        out = folder / f"out{count}"
        run = measured(our_command(ct, out, ["--device", device]))
        report = json.loads((out / "report.json").read_text())
        rows.append(
            {
                "slices": count,
                "ct_bytes": 4 * count * SIDE * SIDE,
                "file_bytes": ct.stat().st_size,
                "seconds": run.seconds,
                "peak_bytes": run.peak_bytes,
                "timings_s": report["timings_s"],
                "liver_ml": report["liver"]["volume_ml"],
                "lesions": len(report["lesions"]),
            }
        )
        print(
            f"  {count} slices: {run.seconds:.1f} s, {run.peak_bytes / 1e9:.2f} GB, "
            f"liver {rows[-1]['liver_ml']:.0f} mL, {rows[-1]['lesions']} lesions",
            flush=True,
        )
    baseline, *others = rows
    return {
        "baseline": baseline,
        "rows": [{**row, "multiple": multiple(row, baseline)} for row in others],
    }


def multiple(row: dict[str, Any], baseline: dict[str, Any]) -> float:
    """Peak memory beyond the baseline's, over the CT's float32 size beyond the baseline's."""
    more = row["peak_bytes"] - baseline["peak_bytes"]
    return more / (row["ct_bytes"] - baseline["ct_bytes"])
