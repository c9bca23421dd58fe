"""cases.csv and lesions.csv of a batch: they grow case by case, and tell what need not run again.

A kill at any moment leaves both whole, and consistent: lesions.csv has every lesion of every case
that cases.csv calls done. Rows are appended, because to write the tables of a hundred thousand
cases anew after each of them would take longer than the cases: the lesions first, in one piece,
then the case. What a kill between the two leaves over is taken out when the batch goes on.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from LiverTumorSegLib import measure
from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.report import REPORT
from LiverTumorSegLib.row import (
    CASES,
    COLUMNS,
    DONE,
    LESIONS,
    SETTINGS,
    Row,
    row_from,
    stamp_of,
)
from LiverTumorSegLib.sources import CASE, Source
from LiverTumorSegLib.staging import explained

LESION_COLUMNS = (CASE, *measure.COLUMNS)


class Tables:
    """Both tables of one batch.

    Args:
        outdir: holds them.
        sources: all cases; what a CSV says of them goes into cases.csv, too.
    """

    def __init__(self, outdir: Path, sources: Sequence[Source]) -> None:
        self._outdir = outdir
        self._sources = {source.case: source for source in sources}
        self._columns = (*COLUMNS, *sources[0].more)

    def start(self, settings: Mapping[str, Any], resume: bool) -> dict[str, Row]:
        """Write what the batch is made with, and both tables with the rows that stay valid.

        Valid is a row of a case that is done and whose CT has not changed since, if all of its
        lesions and its report are there.

        Args:
            settings: JSON values; all that shapes a result.
            resume: whether there may be rows of an earlier batch.

        Returns:
            The valid rows by case; none where the folder holds no batch.

        Raises:
            InputError: the folder cannot be written, or holds rows though it may not, or those of
                a batch of other settings.
            ResourceError: the disk is full.
        """
        kept = {}
        if any(True for _ in _read(self._outdir / CASES)):
            if not resume:
                raise InputError(
                    f"{self._outdir / CASES}: expected no results of a batch, found some. Go on "
                    "with that batch by --resume, or choose another OUTDIR."
                )
            self._check_settings(settings)
            kept = self._kept()
        with explained(self._outdir):
            self._outdir.mkdir(parents=True, exist_ok=True)
            _replace(self._outdir / SETTINGS, [json.dumps(settings, indent=2) + "\n"])
            # The cases first: for a moment there may be lesions too many, never too few.
            cells = map(self._cells, kept.values())
            _replace(self._outdir / CASES, _lines(self._columns, cells, header=True))
            lesions = (row for row in _read(self._outdir / LESIONS) if row.get(CASE) in kept)
            _replace(self._outdir / LESIONS, _lines(LESION_COLUMNS, lesions, header=True))
        return kept

    def add(self, row: Row, lesions: Sequence[Mapping[str, Any]]) -> None:
        """Append a case and its lesions.

        Raises:
            InputError: a table cannot be written.
            ResourceError: the disk is full; no row is half there.
        """
        cells = ({CASE: row.case, **lesion} for lesion in lesions)
        with explained(self._outdir):
            _append(self._outdir / LESIONS, _lines(LESION_COLUMNS, cells))
            _append(self._outdir / CASES, _lines(self._columns, [self._cells(row)]))

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        path = self._outdir / SETTINGS
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name in settings if earlier.get(name) != settings[name]]
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: expected the settings of the batch that is to go on, found: {error}. "
                "Choose another OUTDIR."
            ) from error
        if changed:
            told = "; ".join(
                f"{name} {earlier.get(name)}, now {settings[name]}" for name in changed
            )
            raise InputError(
                f"{path}: expected a batch of the same settings, found others: {told}. Results of "
                "both must not stand in one table: choose another OUTDIR."
            )

    def _kept(self) -> dict[str, Row]:
        lesions = Counter(row.get(CASE) for row in _read(self._outdir / LESIONS))
        kept: dict[str, Row] = {}
        for cells in _read(self._outdir / CASES):
            try:
                row = row_from(cells)
            except (ValueError, KeyError, TypeError):  # cut off, or changed by somebody
                continue
            source = self._sources.get(row.case)
            if (
                source is not None
                and row.status == DONE
                and row.tumors == lesions[row.case]
                and row.stamp == stamp_of(source.path)
                and (self._outdir / row.case / REPORT).is_file()
            ):
                kept[row.case] = row
        return kept

    def _cells(self, row: Row) -> dict[str, Any]:
        return {**asdict(row), **self._sources[row.case].more}


def _read(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table; none of one that is not there.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
    except FileNotFoundError:
        return
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path}: expected a table of an earlier batch, found: {error}. Choose another OUTDIR."
        ) from error


def _lines(
    columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = False
) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    if header:
        writer.writeheader()
        yield text.getvalue()
    for row in rows:
        text.seek(0)
        text.truncate()
        writer.writerow(row)
        yield text.getvalue()


def _replace(path: Path, lines: Iterable[str]) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _append(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a file, all or none of them."""
    data = "".join(lines).encode()
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
