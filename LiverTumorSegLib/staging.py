"""Files that appear in a folder all at once or not at all."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from LiverTumorSegLib.errors import InputError, ResourceError


@contextlib.contextmanager
def staged(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """A hidden folder to write into, whose files move into `folder` when the block ends well.

    It lies on the file system of `folder`: inside it, or where it will be made. When the block or a
    move fails, `folder` is as it was. After success `folder` holds those of `names` that were
    written and none of the others, so that no result of an earlier run stays beside them.

    Args:
        folder: where the files go; made, with its parents, if it does not exist.
        names: every file name that the block may write.

    Raises:
        InputError: `folder` cannot be written to; found before the block runs where possible.
        ResourceError: the disk is full.
    """
    with explained(folder):
        staging = _staging_beside(folder, names)
    try:
        try:
            yield staging
        except OSError as error:
            if error.errno in FULL:
                raise _full(folder) from error
            raise
        with explained(folder):
            _publish(staging, folder, names)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


FULL = (errno.ENOSPC, errno.EDQUOT)


def _full(folder: Path) -> ResourceError:
    return ResourceError(
        f"{folder}: the disk is full; nothing was written. Free some space or choose another "
        "folder."
    )


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what the system says about a folder into what a user can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise _full(folder) from error
        raise InputError(
            f"{folder}: expected a folder that can be written to, found: {error.strerror} "
            f"({error.filename}). Close programs that use its files, or choose another folder."
        ) from error


def _staging_beside(folder: Path, names: Collection[str]) -> Path:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(
            f"{existing}: expected a folder to write to, found a file. Choose another folder."
        )
    for name in names:
        if (folder / name).is_dir():
            raise InputError(
                f"{folder / name}: expected a file or nothing, found a folder. Move it away or "
                "choose another folder."
            )
    return Path(tempfile.mkdtemp(prefix=".livertumorseg-", suffix=".partial", dir=existing))


def _publish(staging: Path, folder: Path, names: Collection[str]) -> None:
    """Move the written files in and the earlier ones out; on any failure put all back."""
    earlier = staging / "earlier"
    earlier.mkdir()
    made: list[Path] = []
    moves: list[tuple[Path, Path]] = []
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.exists():
                made.append(path)
                path.mkdir()
        for name in names:
            for move in ((folder / name, earlier / name), (staging / name, folder / name)):
                if move[0].exists():
                    moves.append(move)
                    move[0].replace(move[1])
    except BaseException:
        for source, target in reversed(moves):
            if not source.exists():
                target.replace(source)
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
