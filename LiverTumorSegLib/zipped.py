"""Checks that the compressed voxels of an NRRD or MetaImage file are whole.

SimpleITK loads damaged ones without an error: a MetaImage as noise, an NRRD without its checksum.
"""

from __future__ import annotations

import zlib
from io import BufferedIOBase
from itertools import islice
from pathlib import Path

from LiverTumorSegLib.errors import InputError

_HEADER_LINES_MAX = 10_000
_CHUNK = 1 << 16
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS


def check_zipped(path: Path) -> None:
    """Decompress the voxels to their checksum, in the file or in the one that its header names.

    Does nothing where voxels are not compressed, nor where the file has no header of the kind.

    Raises:
        InputError: The compressed voxels are damaged or cut off.
    """
    with path.open("rb") as file:
        header = _header(file)
        zipped = header.get(b"encoding") in (b"gzip", b"gz")
        if not zipped and header.get(b"compresseddata", b"").lower() != b"true":
            return
        beside = header.get(b"elementdatafile", header.get(b"data file", b"LOCAL"))
        if beside == b"LOCAL":
            _decompress(file, path)
            return
    data = path.parent / beside.decode(errors="replace")
    if data.is_file():
        with data.open("rb") as file:
            _decompress(file, data)


def _header(file: BufferedIOBase) -> dict[bytes, bytes]:
    """The fields above the voxels, keys in lower case; leaves the file at its first voxel byte."""
    fields: dict[bytes, bytes] = {}
    for line in islice(file, _HEADER_LINES_MAX):
        key, _, value = line.strip().replace(b"=", b":", 1).partition(b":")
        fields[key.strip().lower()] = value.strip()
        if not line.strip() or b"elementdatafile" in fields:
            break
    return fields


def _decompress(file: BufferedIOBase, path: Path) -> None:
    stream = zlib.decompressobj(_ZLIB_OR_GZIP)
    try:
        while not stream.eof and (chunk := file.read(_CHUNK)):
            stream.decompress(chunk)
    except zlib.error as error:
        raise InputError(
            f"{path}: expected whole compressed voxels, found damaged ones ({error}). "
            "Copy or download the file again."
        ) from error
    if not stream.eof:
        raise InputError(
            f"{path}: expected whole compressed voxels, found them cut off. "
            "Copy or download the file again."
        )
