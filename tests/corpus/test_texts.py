"""Several files, compressed files and other encodings become one text in UTF-8."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import lzma
import os
import random
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import http_faults as faults
import pytest
from http_faults import FaultyServer

from gru_lm.core.errors import UnreachableError, UserError
from gru_lm.corpus import archives
from gru_lm.corpus.archives import unpacked
from gru_lm.corpus.settings import CorpusSource, Fetch
from gru_lm.corpus.sources import fetch, provenance
from gru_lm.corpus.wire import SourceFailed

TEXT = "".join(random.Random(0).choices("abcdefgh \n", k=200_000)).encode()
GZIPPED, XZ = gzip.compress(TEXT, mtime=0), lzma.compress(TEXT)
OPTIONS = Fetch(corpus="mine", timeout=2.0, retries=0, max_bytes=300_000)


def zipped(
    files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED, flags: int = 0
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for entry in archive.infolist():
            entry.flag_bits |= flags
    return buffer.getvalue()


class Project:
    """A folder with texts, and the corpus that is fetched from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target = folder / "data/raw/corpus.txt"
        self.earlier: dict[str, object] = {}

    def add(self, path: str, data: bytes) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(data)

    def fetch(self, mirror: str | None = None, **entry: Any) -> bytes:
        """Return the corpus that this ``entry`` of params.yaml gives."""
        source = CorpusSource.model_validate(entry)
        result = fetch(
            *("mine", source, OPTIONS, self.target),
            project=self.folder,
            mirror=mirror,
            warn=pytest.fail,
            earlier=self.earlier,
        )
        self.earlier = provenance("mine", source, result)
        text = self.target.read_bytes()
        assert (result.size, result.sha256) == (len(text), hashlib.sha256(text).hexdigest())
        assert [path.name for path in self.target.parent.iterdir()] == ["corpus.txt"]
        return text

    def refusal(self, **entry: Any) -> str:
        """Return the error of an ``entry``. It must leave the earlier corpus."""
        self.add("data/raw/corpus.txt", b"an earlier corpus")
        with pytest.raises(UserError) as caught:
            self.fetch(**entry)
        assert self.target.read_bytes() == b"an earlier corpus"
        assert [path.name for path in self.target.parent.iterdir()] == ["corpus.txt"]
        return str(caught.value)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


# Several files


def test_files_of_a_folder_are_joined_by_path(project: Project) -> None:
    for path, data in {
        "corpora/b.txt": b"second\n",
        "corpora/B.txt": b"first",
        "corpora/b/deep/c.txt": b"last",
        "corpora/b-c.txt": b"\xef\xbb\xbfbefore\r\n\xc3\xa9",
        "corpora/empty.txt": b"",
        "corpora/\u00e9.txt": b"non-ASCII name",
        "corpora/.hidden": b"no",
        "corpora/.git/config": b"no",
    }.items():
        project.add(path, data)
    joined = "first\nbefore\n\u00e9\nsecond\nlast\nnon-ASCII name".encode()
    assert project.fetch(path="corpora") == joined
    assert project.fetch(path="corpora/", sha256=hashlib.sha256(joined).hexdigest()) == joined


def test_pattern_names_files(project: Project) -> None:
    for path in ("a/2.txt", "a/10.txt", "a/b/c/1.txt", "a/1.md", "a/.0.txt", "x[1].txt"):
        project.add(path, path.encode())
    assert project.fetch(path="a/*.txt") == b"a/10.txt\na/2.txt"
    assert project.fetch(path="a/**/*.txt") == b"a/10.txt\na/2.txt\na/b/c/1.txt"
    assert project.fetch(path="a/[0-9].*") == b"a/1.md\na/2.txt"
    assert project.fetch(path="x[1].txt") == b"x[1].txt", "a file of this name comes first"


def test_list_keeps_its_order(project: Project) -> None:
    for path in ("z.txt", "a/2.txt", "a/1.txt"):
        project.add(path, path.encode())
    assert project.fetch(path=["z.txt", "a", "a/2.txt"]) == b"z.txt\na/1.txt\na/2.txt"
    assert project.fetch(path=["a/2.txt", "z.txt"]) == b"a/2.txt\nz.txt"
    assert project.fetch(path=["z.txt"]) == b"z.txt"


def test_single_file_keeps_its_bytes(project: Project) -> None:
    data = b"\xef\xbb\xbfa\r\nb \xff"
    project.add("corpora/own.txt", data)
    assert project.fetch(path="corpora") == data
    assert project.fetch(path="corpora/*", sha256=hashlib.sha256(data).hexdigest()) == data


def test_local_file_may_be_larger_than_a_download(project: Project) -> None:
    project.add("own.txt", TEXT * 3)
    assert len(TEXT * 3) > OPTIONS.max_bytes
    assert project.fetch(path="own.txt") == TEXT * 3
    project.add("own.gz", gzip.compress(TEXT * 3))
    assert project.fetch(path="own.gz") == TEXT * 3


def outside(folder: Path) -> Path:
    (folder.parent / "outside.txt").write_bytes(b"secret")
    return folder.parent / "outside.txt"


UNUSABLE: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "empty folder": (lambda f: (f / "a").mkdir(), {"path": "a"}, "path = 'a': it names no file"),
    "no match": (lambda f: None, {"path": "a/*.txt"}, "path = 'a/*.txt': it names no file"),
    "missing in a list": (
        lambda f: (f / "a").write_bytes(b"a"),
        {"path": ["a", "b"]},
        "path = 'b': no such file",
    ),
    "pipe": (
        lambda f: [(f / "a").write_bytes(b"a"), os.mkfifo(f / "b")],
        {"path": "[ab]"},
        "path = 'b': it is not a regular file",
    ),
    "link out of the project": (
        lambda f: [(f / "a").write_bytes(b"a"), (f / "b").symlink_to(outside(f))],
        {"path": ["a", "b"]},
        "path = 'b': it is outside the project",
    ),
    "other text": (
        lambda f: [(f / "a").write_bytes(b"a"), (f / "b").write_bytes(b"b")],
        {"path": ["a", "b"], "sha256": "0" * 64},
        "path = 'a, b': the files contain other bytes (SHA-256 ",
    ),
    "empty files": (
        lambda f: [(f / "a").write_bytes(b""), (f / "b").write_bytes(b"")],
        {"path": ["a", "b"]},
        "path = 'a, b': the files contain nothing",
    ),
    "not UTF-8": (
        lambda f: [(f / "a").write_bytes(b"a"), (f / "b").write_bytes(b"caf\xe9")],
        {"path": ["a", "b"]},
        "b is not UTF-8: byte 0xe9 at offset 3; name its encoding in corpora.mine.encoding in",
    ),
    "UTF-16": (
        lambda f: [(f / "a").write_bytes(b"a"), (f / "b").write_bytes("the".encode("utf-16-le"))],
        {"path": ["a", "b"]},
        "b is UTF-16LE, not UTF-8: set corpora.mine.encoding: utf-16le in params.yaml, or convert",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_files_are_named(case: str, project: Project) -> None:
    make, entry, message = UNUSABLE[case]
    make(project.folder)
    assert message in project.refusal(**entry)


# Compressed files

FORMS = {
    "gzip": GZIPPED,
    "two gzip members": gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:]),
    "xz": XZ,
    "two xz streams": lzma.compress(TEXT[:1000]) + bytes(8) + lzma.compress(TEXT[1000:]) + bytes(4),
    "zip": zipped({"a.txt": TEXT}),
    "stored zip": zipped({"a.txt": TEXT}, zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("form", FORMS)
def test_compressed_file_is_recognised_by_content(form: str, project: Project) -> None:
    data = FORMS[form]
    project.add("own.txt", data)
    assert project.fetch(path="own.txt", sha256=hashlib.sha256(data).hexdigest()) == TEXT


def test_files_of_a_zip_are_joined_by_name(project: Project) -> None:
    files = {"b.txt": b"b", "a/c.txt": b"a c\n", "a/": b"", "__MACOSX/a": b"no", ".x": b"no"}
    project.add("own.zip", zipped(files))
    assert project.fetch(path="own.zip") == b"a c\nb"
    project.add("other.gz", gzip.compress(b"other"))
    assert project.fetch(path=["own.zip", "other.gz", "own.zip"]) == b"a c\nb\nother"


@pytest.mark.parametrize("form", ["gzip", "xz", "zip"])
def test_compressed_download_is_unpacked(form: str, project: Project, server: FaultyServer) -> None:
    data = FORMS[form]
    url, checksum = server.add("/a", faults.whole(data)), hashlib.sha256(data).hexdigest()
    assert project.fetch(urls=[url], sha256=checksum) == TEXT
    assert project.earlier["source"] == {"sha256": checksum, "encoding": "utf-8"}
    assert project.fetch(urls=[url], sha256=checksum) == TEXT
    assert len(server.requests) == 1, "the text is there already"
    assert project.fetch(urls=[url], sha256=checksum, encoding="latin-1") == TEXT
    assert len(server.requests) == 2, "another encoding gives another text"
    project.add("data/raw/corpus.txt", b"damaged")
    assert project.fetch(urls=[url], sha256=checksum, encoding="latin-1") == TEXT
    assert len(server.requests) == 3
    (project.folder / "mirror").mkdir()
    (project.folder / "mirror/a").write_bytes(data)
    assert project.fetch(urls=[url], mirror=str(project.folder / "mirror")) == TEXT


def test_next_url_follows_damaged_archive(project: Project, server: FaultyServer) -> None:
    bad = server.add("/bad", faults.whole(GZIPPED[:5000]))
    assert project.fetch(urls=[bad, server.add("/good", faults.whole(GZIPPED))]) == TEXT
    with pytest.raises(UnreachableError, match=r"/bad: the gzip file is damaged or cut off"):
        project.fetch(urls=[bad])


def broken(data: bytes) -> bytes:
    return data[:3000] + bytes(byte ^ 255 for byte in data[3000:3010]) + data[3010:]


TAR = b"a.txt".ljust(257, b"\0") + b"ustar" + bytes(250) + TEXT
DAMAGED = {
    "gzip cut off": (GZIPPED[:5000], "the gzip file is damaged or cut off ("),
    "gzip without checksum": (GZIPPED[:-8], "the gzip file is damaged or cut off ("),
    "gzip with other bytes": (broken(GZIPPED), "the gzip file is damaged or cut off ("),
    "gzip with an appendix": (GZIPPED + b"more", "the gzip file is damaged or cut off ("),
    "empty gzip": (gzip.compress(b""), "it contains no text"),
    "gzip of a tar": (gzip.compress(TAR), "it is a tar archive: unpack it and use its folder"),
    "xz cut off": (XZ[:5000], "the xz file is damaged or cut off (it is cut off)"),
    "xz with other bytes": (broken(XZ), "the xz file is damaged or cut off ("),
    "xz with an appendix": (XZ + b"more", "the xz file is damaged or cut off ("),
    "zip cut off": (zipped({"a": TEXT})[:5000], "the zip file is damaged or cut off ("),
    "zip with other bytes": (broken(zipped({"a": TEXT})), "the zip file is damaged or cut off ("),
    "empty zip": (zipped({}), "the zip file has no files"),
    "encrypted zip": (zipped({"a": TEXT}, flags=1), "the zip file is encrypted"),
    "zip of another compression": (
        zipped({"a": TEXT}, zipfile.ZIP_LZMA),
        "the zip file has another compression than deflate: unpack it",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_archive_is_refused(case: str, project: Project) -> None:
    data, message = DAMAGED[case]
    project.add("own", data)
    assert project.refusal(path="own").startswith(f"corpora.mine.path = 'own': {message}")
    if data != FORMS and "contains" not in message:
        project.add("first.txt", b"first")
        joined = project.refusal(path=["first.txt", "own"])
        assert joined.startswith(f"corpora.mine.path = 'own': {message}")


@pytest.mark.parametrize("form", ["gzip", "two xz streams", "zip", "stored zip"])
def test_changed_archive_is_read_or_refused(form: str, project: Project) -> None:
    chance = random.Random(0)
    whole = FORMS[form]
    for _ in range(60):
        data = bytearray(whole[: chance.choice([len(whole), chance.randrange(8, len(whole))])])
        for _ in range(chance.randrange(1, 4)):
            place = chance.choice(
                [chance.randrange(8, len(data)), len(data) - chance.randrange(1, 99)]
            )
            data[max(8, place)] = chance.randrange(256)
        project.add("own", bytes(data))
        # A change in an unused byte may go unnoticed.
        with (project.folder / "own").open("rb") as file, contextlib.suppress(SourceFailed):
            assert b"".join(piece for _, pieces in unpacked(file) for piece in pieces) == TEXT


@pytest.mark.parametrize("form", ["gzip", "xz", "zip", "two zip entries"])
def test_decompression_bomb_is_stopped(
    form: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = b"a" * (1 << 24)
    data = {
        "gzip": lambda: gzip.compress(zeros),
        "xz": lambda: lzma.compress(zeros),
        "zip": lambda: zipped({"a": zeros}),
        "two zip entries": lambda: zipped({"a": zeros[: 1 << 21], "b": zeros[: 1 << 23]}),
    }[form]()
    project.add("own", data)
    tracemalloc.start()
    message = project.refusal(path="own")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"it grows to more than 200 times its {len(data):,} bytes" in message
    assert peak < 12_000_000, "xz has a dictionary of 8 MiB"
    monkeypatch.setattr(archives, "MAX_GROWTH", 20_000)
    assert set(project.fetch(path="own")) <= set(b"a\n")


def test_xz_that_needs_much_memory_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "XZ_MEMORY", 4 << 20)
    project.add("own", XZ)
    assert "cut off (Memory usage limit exceeded)" in project.refusal(path="own")


# Encodings


@pytest.mark.parametrize(
    "encoding",
    ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "UTF_8_sig", "mac-roman"],
)
def test_text_in_another_encoding_becomes_utf_8(encoding: str, project: Project) -> None:
    text = "Größe\nand more " * 20_000
    data = text.encode(encoding)
    project.add("own.txt", data)
    entry = {"path": "own.txt", "encoding": encoding}
    expected = data if "8" in encoding else text.encode()
    assert project.fetch(**entry) == expected
    assert project.fetch(**entry, sha256=hashlib.sha256(data).hexdigest()) == expected
    project.add("own.gz", gzip.compress(data))
    assert project.fetch(path=["own.gz"], encoding=encoding) == text.encode()


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "shift_jis", "iso2022_jp", "euc-jp"])
def test_east_asian_encodings(encoding: str, project: Project) -> None:
    text = "天地人\n" * 30_000
    project.add("own.txt", text.encode(encoding))
    assert project.fetch(path="own.txt", encoding=encoding) == text.encode()


@pytest.mark.parametrize(
    "data, encoding, message",
    [
        (
            "天地".encode("gb18030") + b"\xff\xff",
            "gb18030",
            "own is not gb18030: byte 0xff at offset 4",
        ),
        (
            b"a\x81b",
            "cp1252",
            "own is not cp1252: byte 0x81 at offset 1; name its encoding in corp",
        ),
        (b"abc", "utf-16-le", "own is not utf-16-le: byte 0x63 at offset 2"),
        (b"abcd", "utf-16", "own is not utf-16: UTF-16 stream does not start with BOM"),
        (b"+2AA-", "utf-7", "corpora.mine.path = 'own': own has half of a surrogate pair"),
    ],
)
def test_wrong_encoding_is_named(
    data: bytes, encoding: str, message: str, project: Project
) -> None:
    project.add("own", data)
    assert project.refusal(path="own", encoding=encoding).startswith(message)


def test_download_in_another_encoding(project: Project, server: FaultyServer) -> None:
    data = "caf\u00e9".encode("latin-1")
    project.add("data/raw/corpus.txt", data)  # as it was fetched without the encoding
    entry = {"urls": [server.add("/a", faults.whole(data))], "encoding": "latin-1"}
    checksum = hashlib.sha256(data).hexdigest()
    assert project.fetch(**entry, sha256=checksum) == "caf\u00e9".encode()
