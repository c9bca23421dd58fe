"""All CTs of a folder, one after the other; what is done is not done again."""

from __future__ import annotations

import csv
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from LiverTumorSegLib.case import Setup, run_case
from LiverTumorSegLib.errors import EXIT_BUG, Cancelled, InputError, outcome_of
from LiverTumorSegLib.report import DICOM_SEG, REPORT
from LiverTumorSegLib.segment import ProgressHook
from LiverTumorSegLib.staging import staged
from LiverTumorSegLib.volume import name_of

TABLE = "cases.csv"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class Row:
    """One case in cases.csv; None is an empty cell."""

    case: str
    status: str
    liver_ml: float | None
    tumors: int | None
    tumor_ml: float | None
    seconds: float | None
    message: str


def run_batch(
    folder: Path,
    outdir: Path,
    setup: Setup,
    on_progress: ProgressHook,
    on_case: Callable[[Row, int, int], None],
) -> None:
    """Segment and measure every CT of a folder.

    OUTDIR gets a folder a case and cases.csv, which is written anew after each case. A case whose
    report tells of the same CT and the same models is taken over, so that an interrupted batch goes
    on. A case that fails does not stop the rest, and is tried again next time.

    Args:
        folder: holds NIfTI, NRRD or MHA files, and a folder for each DICOM series.
        outdir: made if it does not exist.
        setup: as for `run_case`.
        on_progress: as for `run_case`, for each case anew.
        on_case: called after each case with its row, its number from 1 on, and how many there are.

    Raises:
        InputError: no CTs, two of the same name, or some that failed; the latter after the rest.
    """
    sources = cases_in(folder, outdir)
    rows: list[Row] = []
    for name, source in sources.items():
        row = finished(name, source, outdir / name, setup)
        if row is None:
            start = time.perf_counter()
            try:
                run_case(source, outdir / name, setup, on_progress)
                row = finished(name, source, outdir / name, setup)
            except Cancelled:
                raise
            except Exception as error:
                row = _failure(name, error, time.perf_counter() - start)
        assert row is not None
        rows.append(row)
        with staged(outdir, (TABLE,)) as partial:
            write_table(partial / TABLE, rows)
        on_case(row, len(rows), len(sources))
    failed = [row.case for row in rows if row.status == FAILED]
    if failed:
        raise InputError(
            f"{outdir / TABLE}: {len(failed)} of {len(rows)} cases failed; the column `message` "
            "says why. Mend them and start the batch again: the others are kept."
        )


def cases_in(folder: Path, outdir: Path) -> dict[str, Path]:
    """The CTs of a folder by the name of their case, in the order of their names.

    Raises:
        InputError: it cannot be read, holds no CT, or two of the same name.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder with CTs, found: {error.strerror or error}. Check the "
            "path."
        ) from error
    cases: dict[str, Path] = {}
    for path in entries:
        name = name_of(path)
        if name is None or path.name.startswith(".") or path.resolve() == outdir.resolve():
            continue
        if name in cases:
            raise InputError(
                f"{folder}: expected a name for each CT, found {cases[name].name} and {path.name}. "
                "Rename one of them."
            )
        cases[name] = path
    if not cases:
        raise InputError(
            f"{folder}: expected CTs (NIfTI, NRRD or MHA files, or a folder for each DICOM "
            "series), found none. Choose the folder that holds them."
        )
    return cases


def finished(name: str, source: Path, outdir: Path, setup: Setup) -> Row | None:
    """The row of a case that is done, by its report; None where it is not, or by other models."""
    try:
        report = json.loads((outdir / REPORT).read_text(encoding="utf-8"))
        if report["input"] != source.resolve().name:
            return None
        if report["models"] != setup.identity():
            return None
        if setup.dicom and report["liver"]["volume_ml"] and not (outdir / DICOM_SEG).exists():
            return None
        return Row(
            name,
            DONE,
            report["liver"]["volume_ml"],
            len(report["lesions"]),
            report["tumor_volume_ml"],
            round(sum(report["timings_s"].values()), 1),
            " ".join(report["repairs"] + report["warnings"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_table(path: Path, rows: list[Row]) -> None:
    """Write cases.csv: one row a case."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _failure(name: str, error: Exception, seconds: float) -> Row:
    code, message = outcome_of(error)
    if code == EXIT_BUG:
        traceback.print_exception(error)
        message += " This is a bug. Please report it with the lines on the screen."
    return Row(name, FAILED, None, None, None, round(seconds, 1), message)
