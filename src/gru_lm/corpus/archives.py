"""Decompress gzip, xz and zip files in pieces, with limits on memory and on the size of the text.

The format is recognised by the first bytes of the file, so its name does not matter.
"""

from __future__ import annotations

import gzip
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

from gru_lm.corpus.wire import SourceFailed

CHUNK = 1 << 16  # bytes per read
STARTS = {
    b"\x1f\x8b\x08": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
XZ_MEMORY = 256 << 20  # bytes; xz -9 needs 65 MB
# Most texts grow 3 to 30 times. A file that is made to fill the disk can grow a thousandfold.
MAX_GROWTH = 200
FREE_GROWTH = 1 << 20  # bytes that a small file may grow to in any case
TAR = slice(257, 262)  # where a tar archive has the bytes "ustar"


def compression(file: IO[bytes]) -> str | None:
    """Return the format of ``file`` (gzip, xz or zip), or None if it is none of them."""
    file.seek(0)
    start = file.read(8)
    return next((name for magic, name in STARTS.items() if start.startswith(magic)), None)


def unpacked(file: IO[bytes]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the texts in ``file``, each with its name in the archive and as pieces of bytes.

    A zip file can have several, which come sorted by name. Any other file is one text without a
    name. The pieces of a text must be used before the next text.

    Raises SourceFailed if the file is damaged or encrypted, or if it grows to more than 200 times
    its size.
    """
    match compression(file):
        case "gzip":
            texts = iter([("", _gunzip(file))])
        case "xz":
            texts = iter([("", _unxz(file))])
        case "zip":
            texts = _unzip(file)
        case _:
            yield "", _read(file)
            return
    limit = _Limit(file)
    for name, pieces in texts:
        yield name, limit.applied(pieces)


def _read(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    try:
        while piece := file.read(CHUNK):
            yield piece
    except OSError as error:
        raise SourceFailed(str(error.strerror)) from None


class _Limit:
    """The limit on the size of the texts in one compressed file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._packed = os.fstat(file.fileno()).st_size
        self._left = MAX_GROWTH * self._packed + FREE_GROWTH

    def applied(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            self._left -= len(piece)
            if self._left < 0:
                raise SourceFailed(
                    f"it grows to more than {MAX_GROWTH} times its {self._packed:,} bytes, as a "
                    "decompression bomb does: if you trust it, decompress it and use the result"
                )
            if number == 0 and piece[TAR] == b"ustar":
                raise SourceFailed("it is a tar archive: unpack it and use its folder")
            yield piece


def _gunzip(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    try:
        with gzip.GzipFile(fileobj=file) as text:
            while piece := text.read(CHUNK):
                yield piece
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceFailed(_damaged("gzip", error)) from None


def _unxz(file: IO[bytes]) -> Iterator[bytes]:
    """Decompress the streams of an xz file. LZMAFile has no limit on memory."""
    file.seek(0)
    try:
        data = file.read(CHUNK)
        while data:
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
            while not decoder.eof:
                if decoder.needs_input and not data:
                    raise EOFError("it is cut off")
                yield decoder.decompress(data, CHUNK)
                data = file.read(CHUNK) if decoder.needs_input else b""
            data = decoder.unused_data or data
            while data and not (data := data.lstrip(b"\0")):  # padding between two streams
                data = file.read(CHUNK)
    except (EOFError, lzma.LZMAError) as error:
        raise SourceFailed(_damaged("xz", error)) from None


def _unzip(file: IO[bytes]) -> Iterator[tuple[str, Iterator[bytes]]]:
    try:
        archive = zipfile.ZipFile(file)
        entries = [entry for entry in archive.infolist() if not _is_hidden(entry)]
    except Exception as error:  # zipfile can raise almost anything
        raise SourceFailed(_damaged("zip", error)) from None
    if not entries:
        raise SourceFailed("the zip file has no files")
    for entry in sorted(entries, key=lambda entry: entry.filename.encode("utf-8", "replace")):
        yield entry.filename, _entry(archive, entry)


def _is_hidden(entry: zipfile.ZipInfo) -> bool:
    """Return whether ``entry`` is a folder or a hidden file, or one that macOS adds."""
    parts = entry.filename.split("/")
    return entry.is_dir() or parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    if entry.flag_bits & 1:
        raise SourceFailed("the zip file is encrypted: decrypt it and use the result")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # The others have no limit on memory.
        raise SourceFailed("the zip file has another compression than deflate: unpack it")
    try:
        with archive.open(entry) as text:
            while piece := text.read(CHUNK):
                yield piece
    except Exception as error:  # as above
        raise SourceFailed(_damaged("zip", error)) from None


def _damaged(kind: str, error: Exception) -> str:
    return f"the {kind} file is damaged or cut off ({error})"
