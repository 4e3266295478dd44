"""Open files for reading, and decode texts.

Every reader of this library opens its file here. Folders, pipes and devices are refused, and files
that are larger than their place allows. A text can be decoded in pieces.
"""

from __future__ import annotations

import codecs
import errno
import io
import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gru_lm.core.errors import DamagedFile, MissingFile, UserError

DOCUMENT = 1 << 24  # the most bytes of a document whose reader knows no other limit
ANY = 1 << 40  # the most bytes of a file that is not read into memory at once


@contextmanager
def opened(path: Path, limit: int) -> Iterator[BinaryIO]:
    """Open the regular file ``path`` of at most ``limit`` bytes for reading.

    Opening never blocks, and what is checked is the opened file, which nobody can exchange.

    Raises MissingFile if there is no such file. Raises DamagedFile if it is a folder, a pipe, a
    device or a socket, or is larger. Raises OSError if it cannot be opened.
    """
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"):  # not every system has each
        flags |= getattr(os, name, 0)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        raise MissingFile(path) from None
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise DamagedFile(path, "it is not a regular file") from None  # a socket
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            folder = stat.S_ISDIR(status.st_mode)
            raise DamagedFile(path, f"it is {'a folder' if folder else 'not a regular file'}")
        _require_size(path, status.st_size, limit)
    except BaseException:
        os.close(handle)
        raise
    with os.fdopen(handle, "rb") as file:
        yield file


def read_bytes(path: Path, limit: int = DOCUMENT) -> bytes:
    """Return the content of ``path``, at most ``limit`` bytes. Raises as ``opened`` does."""
    with opened(path, limit) as file:
        data = file.read(os.fstat(file.fileno()).st_size + 1)
        while len(data) <= limit and (more := file.read(1 << 16)):  # of /proc, which has no sizes
            data += more
    _require_size(path, len(data), limit)
    return data


def _require_size(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise DamagedFile(path, f"it is larger than the {limit:,} bytes that are allowed")


def decode_text(data: bytes, name: str, key: str | None = None) -> str:
    """Decode the UTF-8 text ``data`` as ``decoded_pieces`` does."""
    return "".join(decoded_pieces([data], name, key))


def decoded_pieces(
    pieces: Iterable[bytes], name: str, key: str | None = None, encoding: str = "utf-8"
) -> Iterator[str]:
    """Decode a text that arrives in ``pieces``, without holding all of it in memory.

    The byte order mark is removed and each line end becomes ``\\n``. A character or a line end can
    be split between two pieces. ``encoding`` is the name of one of Python's text encodings.

    Raises UserError with the first invalid byte if the text has another encoding, or if it should
    be UTF-8 and the first piece looks like UTF-16 or UTF-32. Messages call its source ``name`` and
    recommend to set ``key`` in params.yaml, if there is one that names the encoding.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    label = "UTF-8" if is_utf8 else encoding
    offset = 0  # of the first byte that is not decoded yet
    started = False
    for number, piece in enumerate(itertools.chain(filter(None, pieces), [b""])):
        if is_utf8 and number == 0 and (wide := wide_encoding(piece)):
            setting = f"set {key}: {wide.lower()} in params.yaml, or " if key else ""
            raise UserError(
                f"{name} is {wide}, not UTF-8: {setting}convert it first, for example with "
                f"iconv -f {wide} -t UTF-8"
            )
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeError as error:
            where = str(error)
            if isinstance(error, UnicodeDecodeError):
                place = offset + error.start
                where = f"byte 0x{error.object[error.start]:02x} at offset {place}"
            setting = f"name its encoding in {key} in params.yaml, or " if key else ""
            raise UserError(
                f"{name} is not {label}: {where}; {setting}convert it to UTF-8 first, for example "
                "with iconv"
            ) from None
        offset += waiting + len(piece) - len(decoder.getstate()[0])
        if text and not started:
            text, started = text.removeprefix("\ufeff"), True
        yield newlines.decode(text, final=not piece)


def with_newlines(text: str) -> str:
    """Replace CR LF and CR by the newline character."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def wide_encoding(data: bytes) -> str | None:
    """Return the name of the encoding if ``data`` looks like UTF-16 or UTF-32, else None.

    It does if it starts with their byte order mark, or if three in four characters would be below
    U+0900, as in a Latin, Greek, Cyrillic, Hebrew or Arabic text. All but the lowest byte of such a
    character are below 9, and no text in UTF-8 has so many control characters. A few of them are no
    sign of it.
    """
    for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        if data.startswith(mark):
            return "UTF-32"
    for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if data.startswith(mark):
            return "UTF-16"
    for name, width, used in (
        ("UTF-32LE", 4, 0),
        ("UTF-32BE", 4, 3),
        ("UTF-16LE", 2, 0),
        ("UTF-16BE", 2, 1),
    ):
        size = len(data) // width
        columns = [data[place::width] for place in range(width)]
        low = [len(column) - len(column.translate(None, bytes(range(9)))) for column in columns]
        if size and low.pop(used) < 0.25 * size and min(low) > 0.75 * size:
            return name
    return None
