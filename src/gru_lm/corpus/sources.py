"""Fetch a corpus from the first source that has it, and verify it.

The target is kept if it already has the right checksum. The sources are files of the project, or a
mirror followed by the URLs. The corpus is written under a temporary name and verified. Only then
does it replace an earlier corpus.

A single file in UTF-8 is copied byte by byte. Several files, a compressed file or one in another
encoding become one text in UTF-8.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO

from gru_lm.core.errors import (
    DamagedFile,
    MissingFile,
    UnreachableError,
    UnusableFile,
    UserError,
)
from gru_lm.core.files import atomic_writer
from gru_lm.core.reading import ANY, opened
from gru_lm.corpus.archives import compression
from gru_lm.corpus.download import CHUNK, WEB_PAGE, download, store
from gru_lm.corpus.settings import (
    CorpusSource,
    Fetch,
    may_hold_secrets,
    parse_url,
    printable,
    shown,
)
from gru_lm.corpus.texts import Utf8Text, is_utf8, project_files
from gru_lm.corpus.wire import SourceFailed


@dataclass(frozen=True)
class Fetched:
    """A fetched corpus: its source, its checksum and its size in bytes.

    ``is_converted`` says that it is one file at its source and another one here.
    """

    origin: str
    sha256: str
    size: int
    is_converted: bool = False


def fetch(
    name: str,
    source: CorpusSource,
    options: Fetch,
    target: Path,
    *,
    project: Path,
    mirror: str | None,
    warn: Callable[[str], None],
    earlier: Mapping[str, object],
) -> Fetched:
    """Fetch the corpus ``name`` to the file ``target`` from the first source that has it.

    ``source.path`` is relative to the folder ``project``. ``mirror`` is a folder, an http(s) base
    URL or None. ``warn`` is called with one line if the mirror fails. ``earlier`` is the
    ``provenance`` of the corpus that is at ``target``.

    Raises UnreachableError if every source fails. Raises UserError if a file of the project is
    unusable, if the text has another encoding or if the target cannot be written. The target is
    unchanged after an error.
    """
    try:
        if source.sha256:
            with contextlib.suppress(UnusableFile), opened(target, ANY) as there:
                found = _fetched(f"{target}, there already", there)
                needs_no_conversion = is_utf8(source.encoding) and compression(there) is None
                if found.sha256 == source.sha256 and needs_no_conversion:
                    return found
                converted = replace(found, is_converted=True)
                if provenance(name, source, converted) == earlier:
                    return converted
        with atomic_writer(target) as file:
            corpus = Utf8Text(file, target.parent, source.encoding, f"corpora.{name}")
            if source.paths:
                origin = _copy_own(source, project, corpus)
            else:
                origin = _try_places(name, source, options, mirror, warn, corpus)
            return replace(_fetched(origin, file), is_converted=corpus.is_converted)
    except OSError as error:  # of the target: those of a source are raised as SourceFailed
        raise UserError(
            f"{target} cannot be written ({error.strerror or error}): check its folder, your "
            "permission to write there and the free disk space"
        ) from error


def provenance(name: str, source: CorpusSource, fetched: Fetched) -> dict[str, object]:
    """Return what identifies the corpus. Without origin and time, the same corpus gives the same.

    For a converted file that includes the checksum that it has at its source.
    """
    known: dict[str, object] = {"corpus": name, "sha256": fetched.sha256, "bytes": fetched.size}
    if fetched.is_converted and source.sha256:
        known["source"] = {"sha256": source.sha256, "encoding": source.encoding}
    return known


def _copy_own(source: CorpusSource, project: Path, corpus: Utf8Text) -> str:
    """Write the text of files of the project to ``corpus`` and return their name for messages.

    Raises UserError if one is missing, is outside the project or has the wrong content.
    """
    path = ""
    try:
        found: dict[str, Path] = {}  # a file that two paths name is read once
        for path in source.paths:
            found |= project_files(project, path)
        if len(found) == 1:
            ((path, real),) = found.items()
            store(_read(real), corpus.file)
            _check(corpus.file, source.sha256, page_is_fine=True, said="it contains")
            corpus.convert(path)
            return path
        for path, real in found.items():
            with _opened(real) as file:
                corpus.add(path, file)
        path = ", ".join(source.paths)
        _check(corpus.file, source.sha256, page_is_fine=True, said="the files contain")
        return f"{len(found):,} files"
    except SourceFailed as failure:
        quoted = "" if may_hold_secrets(path) else f" = {path!r}"
        raise UserError(f"{corpus.entry}.path{quoted}: {failure}") from None


def _try_places(
    name: str,
    source: CorpusSource,
    options: Fetch,
    mirror: str | None,
    warn: Callable[[str], None],
    corpus: Utf8Text,
) -> str:
    """Write the text from the mirror or a URL to ``corpus`` and return the source for messages.

    Raises UnreachableError with every source and its failure.
    """
    failures = []
    if mirror:
        label = "mirror"
        try:
            place, label = _in_mirror(mirror, source.mirror_name)
            return _take(place, source, options, corpus)
        except SourceFailed as failure:
            failures.append(f"{label}: {failure}")
            warn(f"{failures[0]}; trying the URLs of {name}")
    for url in source.urls or []:
        try:
            return _take(url, source, options, corpus)
        except SourceFailed as failure:
            failures.append(f"{shown(url)}: {failure}")
    raise UnreachableError(
        f"cannot fetch the corpus {name} ({'; '.join(failures)}). Without network access, run "
        "dvc exp run -S fetch.corpus=sample, or set GRU_LM_CORPUS_MIRROR to a folder or base URL "
        f"that contains {source.mirror_name or 'the file'}"
    )


def _in_mirror(mirror: str, file_name: str | None) -> tuple[str | Path, str]:
    """Return the URL or the path of the corpus in the mirror, and a name of the mirror.

    The name contains no secrets. Raises SourceFailed, also without secrets, if ``mirror`` is
    invalid.
    """
    folder, exists = Path(mirror), False
    with contextlib.suppress(OSError, RuntimeError):  # too long a name, an unknown ~user
        folder = folder.expanduser()
        exists = folder.is_dir()
    if exists or not may_hold_secrets(mirror):
        name, base = f"mirror {printable(mirror)}", None
    else:
        try:
            base = parse_url(mirror)
        except ValueError as error:
            raise SourceFailed(
                f"GRU_LM_CORPUS_MIRROR is neither an existing folder nor a valid URL: {error}"
            ) from None
        name = f"mirror {shown(mirror)}"
    if file_name is None:
        raise SourceFailed("its file name is unknown: set 'file' in its entry in params.yaml")
    if base is None:
        return folder / file_name, name
    return base._replace(path=f"{base.path.rstrip('/')}/{file_name}").geturl(), name


def _take(place: str | Path, source: CorpusSource, options: Fetch, corpus: Utf8Text) -> str:
    """Write the verified text at ``place`` to ``corpus``; return ``place`` for messages."""
    # A log-in page has status 200, as a book has. If there is no checksum to tell them apart, an
    # HTML page is accepted only from a URL that ends in .html.
    path = place.name if isinstance(place, Path) else parse_url(place).path
    page_is_fine = re.search(r"\.html?$", path, re.IGNORECASE) is not None
    shown_place = printable(str(place)) if isinstance(place, Path) else shown(place)
    file = corpus.file
    file.seek(0)  # an earlier source may have written something
    file.truncate()
    if isinstance(place, Path):
        store(_read(place), file, options.max_bytes)
    else:
        download(place, options, page_is_fine or source.sha256 is not None, file)
    _check(file, source.sha256, page_is_fine, said="reached, but sent")
    corpus.convert(shown_place)
    return shown_place


# Bytes: reading, storing, checking


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file as ``opened`` does. Raises SourceFailed if it cannot be opened."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(opened(path, ANY))
        except MissingFile:
            raise SourceFailed("no such file") from None
        except DamagedFile as error:
            raise SourceFailed(error.why) from None
        except OSError as error:
            raise SourceFailed(str(error.strerror)) from None
        yield file


def _read(path: Path) -> Iterator[bytes]:
    """Yield the file's bytes in chunks. Raises SourceFailed if the file cannot be read."""
    with _opened(path) as file:
        try:
            while chunk := file.read(CHUNK):
                yield chunk
        except OSError as error:
            raise SourceFailed(str(error.strerror)) from None


def _check(file: IO[bytes], sha256: str | None, page_is_fine: bool, said: str) -> None:
    """Raise SourceFailed if ``file`` is not the corpus. Its message starts with ``said``."""
    file.seek(0)
    start = file.read(512)
    if not start:
        raise SourceFailed(f"{said} nothing")
    page = re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|script)\b", start, re.I)
    if sha256 is None:
        if page and not page_is_fine:
            raise SourceFailed(f"{said} something else, {WEB_PAGE}")
    elif (actual := _fetched("", file).sha256) != sha256:
        hint = f", {WEB_PAGE}" if page else ""
        raise SourceFailed(f"{said} other bytes{hint} (SHA-256 {actual}, expected {sha256})")


def _fetched(origin: str, file: IO[bytes]) -> Fetched:
    """Return the checksum and size of the content of ``file``."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # IO[bytes] works
    return Fetched(origin, digest.hexdigest(), file.tell())
