"""Read files, and write them atomically.

A file is written under a temporary name beside its target, flushed to disk and then renamed to the
target. If the process dies at any moment, the target has either the old content or the new.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import numpy as np

from gru_lm.core.errors import DamagedFile
from gru_lm.core.reading import ANY, DOCUMENT, opened, read_bytes

SHA256_SIZE = 32  # bytes
UNPACKED = 1 << 31  # the most bytes of the arrays in an .npz file
PIECE = 1 << 20  # entries of a large array that are in memory at a time
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
    """Copy ``source`` to ``target`` atomically. Raises UnusableFile as ``opened`` does."""
    with opened(source, ANY) as original, atomic_writer(target) as copy:
        shutil.copyfileobj(original, copy)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically and without newline translation."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, limit: int = DOCUMENT) -> dict[str, Any]:
    """Read the JSON object at ``path``, at most ``limit`` bytes.

    Raises UnusableFile if it is missing, damaged or not an object, or contains a number that is not
    finite or half of a surrogate pair.
    """
    data = read_bytes(path, limit)
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_whole_number,
        )
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise DamagedFile(path, f"{half!r} is half of a surrogate pair") from None
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, str(error)) from None
    if not isinstance(value, dict):
        raise DamagedFile(path, "it is not a JSON object")
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits:.40} is beyond the largest number")
    return number


def _whole_number(digits: str) -> int:
    if len(digits) > 300:
        raise ValueError("it contains a number with over 300 digits")
    return int(digits)


def write_array(path: Path, array: np.ndarray, owner: str) -> None:
    """Write ``array`` to ``path`` as ``array_writer`` does."""
    with array_writer(path, array.dtype, array.shape, owner) as append:
        append(array)


@contextmanager
def array_writer(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], owner: str
) -> Iterator[Callable[[np.ndarray], None]]:
    """Open an array that is written to ``path`` in NumPy's .npy format, piece by piece.

    The block receives a function that appends a piece, in C order. The file replaces ``path``
    atomically if the block ends without an exception. A SHA-256 of the array's bytes and of
    ``owner`` is appended. ``owner`` identifies the data that the array belongs to. NumPy ignores
    bytes after an array, so any program can read the file.

    Raises ValueError if the pieces are of another type or do not fill ``shape``, or if the array
    has objects.
    """
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be saved")
    digest, missing = hashlib.sha256(), math.prod(shape)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": shape,
        },
    )
    with atomic_writer(path) as file:

        def append(piece: np.ndarray) -> None:
            nonlocal missing
            missing -= piece.size
            if piece.dtype != dtype or missing < 0:
                raise ValueError("the piece is of another type or too long")
            data = np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
            digest.update(data)
            file.write(data)

        digest.update(header.getvalue())
        file.write(header.getvalue())
        yield append
        if missing:
            raise ValueError(f"{missing:,} numbers of the array are missing")
        digest.update(owner.encode())
        file.write(digest.digest())


def read_array(path: Path, owner: str) -> np.ndarray:
    """Read the array that ``write_array`` wrote to ``path``, memory-mapped and read-only.

    Raises UnusableFile if the file is missing or damaged, or was written for another ``owner``.
    """
    with opened(path, ANY) as file:
        try:
            shape, order, dtype = _header(file)
            start, size = file.tell(), math.prod(shape) * dtype.itemsize
            data = np.memmap(file, mode="r")
            if len(data) != start + size + SHA256_SIZE:
                raise ValueError("its size is not that of its array and checksum")
            array: np.ndarray = data[start : start + size].view(dtype).reshape(shape, order=order)
        except Exception as error:  # NumPy parses the header as Python, which can raise anything
            raise DamagedFile(path, str(error)) from None
    digest = hashlib.sha256()
    for piece in in_pieces(data[:-SHA256_SIZE]):
        digest.update(piece)  # type: ignore[arg-type]  # an array works
    digest.update(owner.encode())
    if digest.digest() != data[-SHA256_SIZE:].tobytes():
        raise DamagedFile(path, "its checksum is wrong, or it belongs to other data")
    return array


def in_pieces(array: np.ndarray, length: int = PIECE) -> Iterator[np.ndarray]:
    """Yield consecutive pieces of ``array`` (N, ...), of ``length`` entries each but the last.

    The pages of a memory-mapped array are released after each piece, so that they do not add up in
    the memory of the process.
    """
    mapped = getattr(array, "_mmap", None)  # of np.memmap; it has no other access to its map
    for start in range(0, len(array), length):
        yield array[start : start + length]
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # some systems have no madvise
            mapped.madvise(mmap.MADV_DONTNEED)


def _header(file: BinaryIO) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype]:
    """Read the header of an array in NumPy's .npy format: its shape, order and type."""
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(np.lib.format.read_magic(file))
    if read is None:
        raise ValueError("its version of the .npy format is unknown")
    shape, fortran, dtype = read(file)
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    return shape, "F" if fortran else "C", dtype


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], owner: str) -> None:
    """Write ``arrays`` to ``path`` in NumPy's compressed .npz format, atomically.

    ``owner`` identifies the data that they belong to. The same arrays give the same bytes.
    """
    buffer = io.BytesIO()
    named: dict[str, Any] = {**arrays, OWNER: np.array(owner)}
    np.savez_compressed(buffer, **named)
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path, owner: str, limit: int = UNPACKED) -> dict[str, np.ndarray]:
    """Read the arrays that ``write_arrays`` wrote to ``path``, at most ``limit`` bytes unpacked.

    Their sizes are checked before anything is unpacked. Raises UnusableFile if the file is missing
    or damaged, or was written for another ``owner``.
    """
    with opened(path, limit) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                if sum(entry.file_size for entry in entries) > limit:
                    raise ValueError(f"its arrays are larger than the {limit:,} bytes allowed")
                if len({entry.filename for entry in entries}) < len(entries):
                    raise ValueError("it has two arrays of the same name")
                arrays = {
                    entry.filename.removesuffix(".npy"): _unpacked(archive, entry)
                    for entry in entries
                }
            mine = arrays.pop(OWNER).item() == owner
        except Exception as error:  # NumPy, zipfile and zlib can raise almost anything
            raise DamagedFile(path, str(error)) from None
    if not mine:
        raise DamagedFile(path, "it belongs to other data")
    return arrays


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Return the array of an ``entry``. Raises ValueError if it is not as large as it claims."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("its compression is unknown")  # others can take much memory
    data = archive.read(entry)
    shape, order, dtype = _header(file := io.BytesIO(data))
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"{entry.filename} has not the size of its array")
    # Copied, so that the array can be changed.
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order=order).copy()


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
