"""What a batch runs over: the CTs of a folder tree or of a CSV, each under a name of its own."""

from __future__ import annotations

import csv
import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from LiverTumorSegLib.errors import InputError
from LiverTumorSegLib.report import FILE_NAMES, REPORT
from LiverTumorSegLib.row import CASES, COLUMNS, LESIONS, SETTINGS
from LiverTumorSegLib.volume import name_of

CASE, CT = "case", "ct"
"""The columns that a CSV of cases must have."""
JOINT = "__"
"""Stands between the folders of a path in the name of a case."""

_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # by Windows
_LONGEST_BYTES = 200
_DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
_FAULTS_SHOWN = 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A CT of a batch.

    Attributes:
        case: its name, which is that of a folder, too; no two of a batch share it.
        path: its file, or the folder of its DICOM series.
        more: what else the CSV says of it, by column.
    """

    case: str
    path: Path
    more: dict[str, str] = field(default_factory=dict)


def find_sources(given: Path, outdir: Path) -> list[Source]:
    """The CTs that a user names by a folder tree or a CSV.

    Args:
        given: a folder, see `in_tree`, or a .csv, see `in_csv`.
        outdir: left out of the tree.

    Raises:
        InputError: neither of both, no CT, or names that do not tell the cases apart.
    """
    if given.suffix.lower() == ".csv" and not given.is_dir():
        return in_csv(given)
    if given.is_file():
        raise InputError(
            f"{given}: expected a folder with CTs or a CSV of cases, found a file. "
            "`segment` takes a single CT."
        )
    return in_tree(given, outdir)


def in_tree(folder: Path, outdir: Path) -> list[Source]:
    """The CTs of a folder and of all folders below it, in the order of their paths.

    A case is a NIfTI, NRRD or MHA file, or a folder that holds DICOM files itself. Its name is its
    path from `folder` on, without the file's ending. Left out are what is hidden, segmentations of
    3D Slicer (.seg.nrrd) and the files of earlier results.

    Raises:
        InputError: it cannot be read, holds no CT, or two whose names are alike.
    """
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder with CTs or a CSV of cases, found: "
            f"{error.strerror or error}. Check the path."
        ) from error
    sources: dict[str, Source] = {}
    for path in _cts_below(folder, {outdir.resolve()}):
        parts = path.relative_to(folder).parts
        name = JOINT.join((*parts[:-1], name_of(path) or "")) if parts else folder.resolve().name
        case = folder_name(name)
        other = sources.setdefault(case.casefold(), Source(case, path))
        if other.path != path:
            raise InputError(
                f"{folder}: expected a name for each CT, found {other.path.relative_to(folder)} "
                f"and {path.relative_to(folder)}, both of the name {case!r}. Rename one of them, "
                "or list the cases in a CSV."
            )
    if not sources:
        raise InputError(
            f"{folder}: expected CTs (NIfTI, NRRD or MHA files, or folders of DICOM series, at "
            "any depth), found none. Choose the folder that holds them."
        )
    return list(sources.values())


def in_csv(path: Path) -> list[Source]:
    """The CTs that a CSV lists: columns `case` and `ct`, and any others.

    `ct` is a path from the CSV's folder on, or an absolute one. That it exists is not checked.

    Raises:
        InputError: it cannot be read, lacks a column, or has rows that name no case of their own;
            the message lists them.
    """
    try:
        # Excel marks UTF-8 by the first three bytes.
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, strict=True)
            columns = list(table.fieldnames or ())
            _check_columns(path, columns)
            rows = [(table.line_num, row) for row in table]
    except OSError as error:
        raise InputError(
            f"{path}: expected a CSV of cases, found: {error.strerror or error}. Check the path."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: expected a CSV of cases in UTF-8, found: {error}. Save it again as such."
        ) from error
    sources: dict[str, Source] = {}
    lines: dict[str, int] = {}
    faults: list[str] = []
    for line, row in rows:
        case, ct = (row[CASE] or "").strip(), (row[CT] or "").strip()
        fault = _fault_of(row, case, ct, lines)
        if fault:
            faults.append(f"line {line}: {fault}")
            continue
        lines[case.casefold()] = line
        more = {name: row[name] or "" for name in columns if name not in (CASE, CT)}
        sources[case] = Source(case, path.parent / ct, more)
    if faults:
        others = len(faults) - _FAULTS_SHOWN
        told = [*faults[:_FAULTS_SHOWN], *([f"and {others} more"] if others > 0 else [])]
        raise InputError(
            f"{path}: expected a case and its CT in each row, found {'; '.join(told)}. "
            "Mend these rows."
        )
    if not sources:
        raise InputError(f"{path}: expected a row for each case, found none. Add them.")
    return list(sources.values())


def folder_name(name: str) -> str:
    """The name, changed where it cannot be that of a folder in OUTDIR on every system.

    >>> folder_name("a/b: 1"), folder_name("aux"), folder_name("..")
    ('a_b_ 1', '_aux', '_')
    """
    safe = _UNSAFE.sub("_", name).strip(" .")
    if not safe or _RESERVED.fullmatch(safe) or safe.casefold() in (CASES, LESIONS, SETTINGS):
        safe = f"_{safe}"
    if len(safe.encode()) > _LONGEST_BYTES:
        mark = hashlib.sha256(name.encode()).hexdigest()[:8]
        kept = safe.encode()[: _LONGEST_BYTES - 9].decode(errors="ignore")
        safe = f"{kept}-{mark}"
    return safe


def _cts_below(folder: Path, passed: set[Path]) -> Iterator[Path]:
    """The CTs of a folder; `passed` are folders not to go into, so that links make no circle."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        logger.warning("%s is left out: %s", folder, error.strerror or error)
        return
    folders = {path for path in entries if path.is_dir()}
    results = FILE_NAMES if folder / REPORT in entries else ()
    files = [path for path in entries if path not in folders and path.name not in results]
    if any(name_of(path) is None and _is_dicom(path) for path in files):
        yield folder
    cts = {path for path in files if name_of(path) and not path.name.lower().endswith(".seg.nrrd")}
    inside = passed | {folder.resolve()}
    for path in entries:
        if path in cts:
            yield path
        elif path in folders and path.resolve() not in inside:
            yield from _cts_below(path, inside)


def _is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM object, by its ending or its preface, but no directory of them."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in _DICOM_ENDINGS:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [name for name in (CASE, CT) if name not in columns]
    if missing:
        raise InputError(
            f"{path}: expected the columns `{CASE}` and `{CT}`, separated by commas, found "
            f"{', '.join(columns) or 'an empty file'}. Add or rename: {', '.join(missing)}."
        )
    refused = sorted({name for name in columns if columns.count(name) > 1 or name in COLUMNS[1:]})
    if refused:
        raise InputError(
            f"{path}: expected columns that are not doubled and not called as a column of "
            f"{CASES}, found {', '.join(refused)}. Rename them."
        )


def _fault_of(row: dict[str, str], case: str, ct: str, lines: dict[str, int]) -> str | None:
    if None in row:
        return "more cells than columns"
    if not case or not ct:
        return f"no {CT if case else CASE}"
    if case.casefold() in lines:
        return f"the case {case!r} of line {lines[case.casefold()]} again"
    if case != folder_name(case):
        return f"the case {case!r}, as no folder can be called; call it {folder_name(case)!r}"
    return None
