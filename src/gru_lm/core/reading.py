"""Open files for reading.

Every reader of this library opens its file here. Folders, pipes and devices are refused, and files
that are larger than their place allows.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gru_lm.core.errors import DamagedFile, MissingFile

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
