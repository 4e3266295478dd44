"""Read files, and write them atomically.

A file is written under a temporary name beside its target, flushed to disk and then renamed to the
target. If the process dies at any moment, the target has either the old content or the new.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from gru_lm.core.errors import DamagedFile, MissingFile

SHA256_SIZE = 32  # bytes
OWNER = "owner"  # name of the .npz entry that identifies the data the arrays belong to


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces ``path`` if the block ends without an exception.

    Missing parent folders are created. Raises OSError if the file cannot be written (a full disk,
    a read-only folder). The temporary file is then removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())  # mkstemp's 0600 would make shared caches unreadable
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write has no file name
        raise
    _sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_writer(path) as file:
        file.write(data)


def copy_file(source: Path, target: Path) -> None:
    """Copy ``source`` to ``target`` atomically. Raises MissingFile if ``source`` is missing."""
    try:
        with source.open("rb") as original, atomic_writer(target) as copy:
            shutil.copyfileobj(original, copy)
    except FileNotFoundError:
        raise MissingFile(source) from None


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically and without newline translation."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object at ``path``.

    Raises UnusableFile if it is missing, damaged or not an object.
    """
    try:
        value = json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_refuse, parse_int=_whole_number
        )
    except FileNotFoundError:
        raise MissingFile(path) from None
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, str(error)) from None
    if not isinstance(value, dict):
        raise DamagedFile(path, "it is not a JSON object")
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _whole_number(digits: str) -> int:
    if len(digits) > 300:
        raise ValueError("it contains a number with over 300 digits")
    return int(digits)


def write_array(path: Path, array: np.ndarray, owner: str) -> None:
    """Write ``array`` to ``path`` in NumPy's .npy format, atomically.

    A SHA-256 of the array's bytes and of ``owner`` is appended. ``owner`` identifies the data that
    the array belongs to. NumPy ignores bytes after an array, so any program can read the file.
    """
    with atomic_writer(path) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # IO[bytes] works
        digest.update(owner.encode())
        file.write(digest.digest())


def read_array(path: Path, owner: str) -> np.ndarray:
    """Read the array that ``write_array`` wrote to ``path``, memory-mapped and read-only.

    Raises UnusableFile if the file is missing or damaged, or was written for another ``owner``.
    """
    try:
        array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
        data = np.memmap(path, mode="r")
    except FileNotFoundError:
        raise MissingFile(path) from None
    except Exception as error:  # NumPy parses the header as Python and can raise almost anything
        raise DamagedFile(path, str(error)) from None
    digest = hashlib.sha256(data[:-SHA256_SIZE])  # type: ignore[arg-type]  # an array works
    digest.update(owner.encode())
    if digest.digest() != data[-SHA256_SIZE:].tobytes():
        raise DamagedFile(path, "its checksum is wrong, or it belongs to other data")
    return array


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], owner: str) -> None:
    """Write ``arrays`` to ``path`` in NumPy's compressed .npz format, atomically.

    ``owner`` identifies the data that they belong to. The same arrays give the same bytes.
    """
    buffer = io.BytesIO()
    named: dict[str, Any] = {**arrays, OWNER: np.array(owner)}
    np.savez_compressed(buffer, **named)
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path, owner: str) -> dict[str, np.ndarray]:
    """Read the arrays that ``write_arrays`` wrote to ``path``.

    Raises UnusableFile if the file is missing or damaged, or was written for another ``owner``.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        mine = arrays.pop(OWNER).item() == owner
    except FileNotFoundError:
        raise MissingFile(path) from None
    except Exception as error:  # NumPy, zipfile and zlib can raise almost anything
        raise DamagedFile(path, str(error)) from None
    if not mine:
        raise DamagedFile(path, "it belongs to other data")
    return arrays


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Flush the rename to disk. Only POSIX systems can open a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
