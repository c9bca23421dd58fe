"""What a batch says of one case: its row in cases.csv."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, fields
from pathlib import Path

CASES, LESIONS, SETTINGS = "cases.csv", "lesions.csv", "batch.json"
"""What OUTDIR of a batch holds beside the cases' folders."""
DONE, FAILED = "done", "failed"

Stamp = tuple[int | None, str | None]


@dataclass(frozen=True)
class Row:
    """One case; None is an empty cell.

    Attributes:
        case: its name.
        status: "done" or "failed".
        liver_ml: volume of the liver with its tumors.
        tumors: how many.
        tumor_ml: their volume.
        seconds: what the case took.
        message: why it failed, or what was repaired or is doubtful.
        input_bytes: size of the CT's file, or of all files in its folder.
        input_modified: when the CT was last changed, in UTC.
    """

    case: str
    status: str
    liver_ml: float | None
    tumors: int | None
    tumor_ml: float | None
    seconds: float | None
    message: str
    input_bytes: int | None
    input_modified: str | None

    @property
    def stamp(self) -> Stamp:
        """What tells whether the CT has changed; see `stamp_of`."""
        return self.input_bytes, self.input_modified


COLUMNS = tuple(field.name for field in fields(Row))


def row_from(cells: dict[str, str]) -> Row:
    """The row of a CSV's cells.

    Raises:
        ValueError: a cell that is no number, as after a cut.
        KeyError: a column is missing.
        TypeError: a cell is missing.
    """

    def number(name: str) -> float | None:
        return float(cells[name]) if cells[name] else None

    tumors, size = number("tumors"), number("input_bytes")
    return Row(
        cells["case"],
        cells["status"],
        number("liver_ml"),
        None if tumors is None else int(tumors),
        number("tumor_ml"),
        number("seconds"),
        cells["message"],
        None if size is None else int(size),
        cells["input_modified"] or None,
    )


def stamp_of(path: Path) -> Stamp:
    """Bytes of a file or of all files in a folder, and when the last of them changed (UTC).

    Nothing of what cannot be read.
    """
    try:
        told = [file.stat() for file in ([path, *path.iterdir()] if path.is_dir() else [path])]
    except OSError:
        return None, None
    newest = datetime.datetime.fromtimestamp(
        max(one.st_mtime for one in told), datetime.timezone.utc
    )
    return sum(one.st_size for one in told), newest.isoformat()
