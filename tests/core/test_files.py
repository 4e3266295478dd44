"""Files are written atomically and read with their checksums."""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import random
import re
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gru_lm
from gru_lm.core.errors import DamagedFile, MissingFile, UserError
from gru_lm.core.files import (
    array_writer,
    atomic_writer,
    copy_file,
    read_array,
    read_arrays,
    read_json,
    write_array,
    write_arrays,
    write_bytes,
    write_json,
    write_text,
)

SOURCE = Path(gru_lm.__file__).parent.parent


class Fault(Exception):
    """Raised by the tests in the middle of writing."""


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("fault", [Fault, KeyboardInterrupt, SystemExit])
def test_exception_keeps_old_file(tmp_path, fault):
    path = tmp_path / "file.txt"
    write_bytes(path, b"old")
    with pytest.raises(fault), atomic_writer(path) as file:
        file.write(b"new" * 100_000)
        file.flush()
        assert path.read_bytes() == b"old"
        raise fault
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["file.txt"]


def test_exception_leaves_no_new_file(tmp_path):
    with pytest.raises(Fault), atomic_writer(tmp_path / "file.txt") as file:
        file.write(b"new")
        raise Fault
    assert listing(tmp_path) == []


def test_old_file_is_kept_until_block_ends(tmp_path):
    path = tmp_path / "file.txt"
    write_bytes(path, b"a long old content")
    with atomic_writer(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"a long old content"
    assert path.read_bytes() == b"new"
    assert listing(tmp_path) == ["file.txt"]


def test_failed_rename_leaves_nothing(tmp_path):
    path = tmp_path / "taken"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_bytes(path, b"new")
    assert listing(tmp_path) == ["taken"]
    assert listing(path) == ["inside"]


def test_temporary_file_is_hidden_beside_target(tmp_path):
    with atomic_writer(tmp_path / "file.txt"):
        [name] = listing(tmp_path)
    assert re.fullmatch(r"\.file\.txt\.\w+\.tmp", name)


@pytest.mark.skipif(os.name != "posix", reason="folders are flushed on POSIX systems only")
def test_bytes_are_synced_before_rename(tmp_path, monkeypatch):
    real, flushed = os.fsync, []

    def fsync(handle):
        real(handle)
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        size = None if is_folder else os.fstat(handle).st_size
        flushed.append((handle, size, (tmp_path / "file.txt").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(tmp_path / "file.txt", b"new")
    assert [what for _, *what in flushed] == [[3, False], [None, True]]
    for handle, *_ in flushed:
        with pytest.raises(OSError):
            os.fstat(handle)  # closed


def test_system_error_names_target(tmp_path):
    path = tmp_path / "file.txt"
    with pytest.raises(OSError) as caught, atomic_writer(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(path)
    with pytest.raises(OSError) as caught, atomic_writer(path):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), "another.txt")
    assert caught.value.filename == "another.txt"
    with pytest.raises(Fault) as fault, atomic_writer(path):
        raise Fault
    assert not hasattr(fault.value, "filename")


def test_first_error_is_reported_if_temporary_file_is_gone(tmp_path):
    with pytest.raises(Fault), atomic_writer(tmp_path / "file.txt"):
        next(tmp_path.iterdir()).unlink()
        raise Fault


def test_missing_folders_are_created(tmp_path):
    write_text(tmp_path / "a" / "b" / "file.txt", "x")
    assert (tmp_path / "a" / "b" / "file.txt").read_text("utf-8") == "x"


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_permissions_follow_umask(tmp_path, mask):
    old = os.umask(mask)
    try:
        write_bytes(tmp_path / "ours", b"")
        (tmp_path / "plain").write_bytes(b"")
        assert os.umask(mask) == mask, "the mask was not restored"
    finally:
        os.umask(old)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")]
    assert modes[0] == modes[1] == 0o666 & ~mask


def test_text_is_utf8_with_unchanged_newlines(tmp_path):
    write_text(tmp_path / "file.txt", "caf\u00e9\r\n\n")
    assert (tmp_path / "file.txt").read_bytes() == b"caf\xc3\xa9\r\n\n"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert json.loads(path.read_text("utf-8")) == value


def test_json_is_indented(tmp_path):
    write_json(tmp_path / "value.json", {"a": ["\u00e9"]})
    written = (tmp_path / "value.json").read_text("utf-8")
    assert written == '{\n  "a": [\n    "\u00e9"\n  ]\n}\n'


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_refuses_nan_and_infinity(tmp_path, number):
    path = tmp_path / "value.json"
    write_json(path, {"perplexity": 1.5})
    with pytest.raises(ValueError):
        write_json(path, {"perplexity": number})
    assert read_json(path) == {"perplexity": 1.5}
    assert listing(tmp_path) == ["value.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a": 1',
        b"{'a': 1}",
        b"[]",
        b"1",
        b"null",
        b'"a"',
        b'{"a": NaN}',
        b'{"a": [-Infinity]}',
        b'{"a": 1' + b"0" * 400 + b"}",
        b'{"a": "\xff"}',
        b'{"a": 1e999}',
        b'{"a": [-1e999]}',
        b'{"a": ["\\ud800"]}',
        b'{"\\udfff": 1}',
        b"[" * 99_999,
    ],
    ids=[
        *("empty", "open", "cut", "python", "list", "number", "null", "text"),
        *("nan", "infinite", "huge", "latin"),
        *("overflow", "negative-overflow", "half-a-character", "half-a-character-in-a-key"),
        "nested",
    ],
)
def test_damaged_json_names_file_on_one_line(tmp_path, content):
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFile) as caught:
        read_json(path)
    assert caught.value.path == path
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged (")
    assert len(message.splitlines()) == 1
    assert len(message) < 500


def test_missing_file_is_named(tmp_path):
    for read in (
        read_json,
        lambda path: read_array(path, owner="me"),
        lambda path: read_arrays(path, owner="me"),
        lambda path: copy_file(path, tmp_path / "copy"),
    ):
        with pytest.raises(MissingFile) as caught:
            read(tmp_path / "value")
        assert caught.value.path == tmp_path / "value"
        assert str(caught.value) == f"{tmp_path / 'value'} is missing"
    assert listing(tmp_path) == []


def test_copy_has_same_bytes_and_default_permissions(tmp_path):
    content = random.Random(0).randbytes(300_000)
    (tmp_path / "cached").write_bytes(content)
    (tmp_path / "cached").chmod(0o400)
    write_bytes(tmp_path / "a" / "copy", b"old")
    copy_file(tmp_path / "cached", tmp_path / "a" / "copy")
    assert (tmp_path / "a" / "copy").read_bytes() == content
    (tmp_path / "plain").write_bytes(b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a/copy", "plain")]
    assert modes[0] == modes[1]


def test_failed_copy_keeps_old_file(tmp_path, monkeypatch):
    (tmp_path / "source").write_bytes(b"new")
    write_bytes(tmp_path / "copy", b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError) as caught:
        copy_file(tmp_path / "source", tmp_path / "copy")
    assert caught.value.filename == str(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"old"
    assert listing(tmp_path) == ["copy", "source"]


def test_arrays_round_trip(tmp_path):
    array = np.arange(12, dtype=np.uint16).reshape(3, 4)
    write_array(tmp_path / "a.npy", array, owner="me")
    loaded = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert loaded.dtype == array.dtype
    assert loaded.tolist() == array.tolist()
    with pytest.raises(ValueError):
        write_array(tmp_path / "b.npy", np.array([{}], dtype=object), owner="me")
    assert listing(tmp_path) == ["a.npy"]


@pytest.mark.parametrize("sizes", [[12], [5, 7], [1] * 12, [0, 12, 0]])
def test_array_in_pieces_is_npy_with_checksum(tmp_path, sizes):
    array = np.arange(12, dtype=np.uint16)
    with array_writer(tmp_path / "a.npy", array.dtype, array.shape, owner="me") as append:
        for piece in np.split(array, np.cumsum(sizes)[:-1]):
            append(piece)
    np.save(buffer := io.BytesIO(), array)
    content = buffer.getvalue()
    whole = content + hashlib.sha256(content + b"me").digest()
    assert (tmp_path / "a.npy").read_bytes() == whole
    write_array(tmp_path / "b.npy", array, owner="me")
    assert (tmp_path / "b.npy").read_bytes() == whole


@pytest.mark.parametrize(
    "pieces, why",
    [
        ([np.arange(4, dtype=np.uint8)], "1 numbers of the array are missing"),
        ([np.arange(6, dtype=np.uint8)], "too long"),
        ([np.arange(5)], "of another type"),
    ],
)
def test_pieces_must_fill_the_array(tmp_path, pieces, why):
    (tmp_path / "a.npy").write_bytes(b"as it was")
    with (
        pytest.raises(ValueError, match=why),
        array_writer(tmp_path / "a.npy", np.dtype(np.uint8), (5,), owner="me") as append,
    ):
        for piece in pieces:
            append(piece)
    assert (tmp_path / "a.npy").read_bytes() == b"as it was"
    assert listing(tmp_path) == ["a.npy"]


@pytest.mark.parametrize("owner, comes_back", [("me", True), ("you", False), ("", False)])
def test_array_of_another_owner_is_refused(tmp_path, owner, comes_back):
    array = np.arange(5)
    write_array(tmp_path / "a.npy", array, owner="me")
    write_arrays(tmp_path / "a.npz", {"a": array}, owner="me")
    for read in (
        lambda: read_array(tmp_path / "a.npy", owner),
        lambda: read_arrays(tmp_path / "a.npz", owner)["a"],
    ):
        if comes_back:
            assert read().tolist() == array.tolist()
        else:
            with pytest.raises(UserError, match="belongs to other data"):
                read()


def test_same_arrays_give_same_bytes(tmp_path):
    arrays = {"a": np.arange(5), "b": np.array([1.5, np.nan], np.float32)}
    for name in ("first", "second"):
        write_arrays(tmp_path / name, {key: a.copy() for key, a in arrays.items()}, owner="me")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    loaded = read_arrays(tmp_path / "first", owner="me")
    assert list(loaded) == ["a", "b"]
    np.testing.assert_array_equal(loaded["b"], arrays["b"])


class Trap:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


def test_pickled_arrays_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", a=np.array([Trap()], dtype=object), owner=np.array("me"))
    with pytest.raises(UserError, match="Object arrays cannot be loaded"):
        read_arrays(tmp_path / "a.npz", owner="me")
    assert listing(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("digits, fits", [(300, True), (301, False)])
def test_json_number_with_many_digits_is_refused(tmp_path, digits, fits):
    path = tmp_path / "value.json"
    path.write_text(f'{{"a": {"9" * digits}}}', encoding="utf-8")
    if fits:
        assert read_json(path) == {"a": int("9" * digits)}
    else:
        with pytest.raises(UserError, match="is damaged"):
            read_json(path)


def test_truncated_or_changed_arrays_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, {"a": np.arange(50)}, owner="me")
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(100):
        data = bytearray(whole[: chance.choice([len(whole), chance.randrange(len(whole))])])
        for _ in range(chance.randrange(1, 20) if data else 0):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(UserError):  # a change in an unused byte may go unnoticed
            assert read_arrays(path, owner="me").keys() == {"a"}
    path.unlink()
    with pytest.raises(MissingFile, match="is missing"):
        read_arrays(path, owner="me")


@pytest.mark.parametrize("spare, fits", [(0, True), (-1, False)])
def test_arrays_are_not_unpacked_beyond_limit(tmp_path, spare, fits):
    path = tmp_path / "a.npz"
    array = np.arange(1000)
    write_arrays(path, {"a": array}, owner="me")
    with zipfile.ZipFile(path) as archive:
        limit = sum(entry.file_size for entry in archive.infolist()) + spare
    if fits:
        assert read_arrays(path, "me", limit)["a"].tolist() == array.tolist()
    else:
        with pytest.raises(DamagedFile, match=f"larger than the {limit:,} bytes"):
            read_arrays(path, "me", limit)


@pytest.mark.parametrize(
    "array",
    [np.zeros(0), np.zeros((2, 0)), np.float32(3), np.asfortranarray(np.arange(6).reshape(2, 3))],
    ids=["none", "no-columns", "scalar", "fortran"],
)
def test_arrays_of_any_shape_round_trip(tmp_path, array):
    write_arrays(tmp_path / "a.npz", {"a": array}, owner="me")
    write_array(tmp_path / "a.npy", np.asanyarray(array), owner="me")
    for loaded in (
        read_arrays(tmp_path / "a.npz", "me")["a"],
        read_array(tmp_path / "a.npy", "me"),
    ):
        assert (loaded.shape, loaded.dtype) == (np.shape(array), array.dtype)
        assert loaded.tolist() == array.tolist()
    read_arrays(tmp_path / "a.npz", "me")["a"][...] = 1  # not read-only


@pytest.mark.parametrize(
    ("compression", "names", "why"),
    [
        (zipfile.ZIP_LZMA, ["a.npy"], "its compression is unknown"),
        (zipfile.ZIP_BZIP2, ["a.npy"], "its compression is unknown"),
        (zipfile.ZIP_STORED, ["a.npy", "a.npy"], "two arrays of the same name"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_foreign_archives_are_refused(tmp_path, compression, names, why):
    buffer = io.BytesIO()
    np.save(buffer, np.arange(5))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
        for name in names:
            archive.writestr(name, buffer.getvalue())
    with pytest.raises(DamagedFile, match=why):
        read_arrays(tmp_path / "a.npz", "me")


@pytest.mark.parametrize("shape", ["(-5,)", "(-1, -5)", "(6,)", "(4,)", "(5, 10000000000)"])
def test_header_with_another_shape_is_refused(tmp_path, shape):
    write_arrays(tmp_path / "a.npz", {"a": np.arange(5, dtype=np.uint8)}, owner="me")
    buffer = io.BytesIO()
    np.save(buffer, np.arange(5, dtype=np.uint8))
    old = b"(5,), }" + b" " * 20
    assert buffer.getvalue().count(old) == 1
    content = buffer.getvalue().replace(old, f"{shape}, }}".encode().ljust(len(old)))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    (tmp_path / "a.npy").write_bytes(content + hashlib.sha256(content + b"me").digest())
    for read, name in ((read_arrays, "a.npz"), (read_array, "a.npy")):
        with pytest.raises(DamagedFile, match=r"its shape is|has not the size|its size is not"):
            read(tmp_path / name, "me")


WRITER = """
import sys
from pathlib import Path
from gru_lm.core.files import atomic_writer
path, size = Path(sys.argv[1]), int(sys.argv[2])
while True:
    for letter in b"AB":
        with atomic_writer(path) as file:
            for _ in range(64):
                file.write(bytes([letter]) * (size // 64))
                file.flush()
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL exists on POSIX systems only")
def test_killed_writer_leaves_no_partial_file(tmp_path):
    size = 64 * 8192
    chance = random.Random(0)
    for attempt in range(10):
        path = tmp_path / str(attempt) / "file.bin"
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(size)],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        try:
            deadline = time.monotonic() + 60
            while not path.exists() and time.monotonic() < deadline:
                assert child.poll() is None, "the writer ended by itself"
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.05))
        finally:
            child.kill()
            child.wait()
        content = path.read_bytes()
        assert content in (b"A" * size, b"B" * size), f"a part of {len(content)} bytes is left"
