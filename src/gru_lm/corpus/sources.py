"""Bringing a corpus to its place: whole and with the right bytes, or not at all.

The sources, in this order: the file that is there already, a file of the project, the mirror, the
addresses. Everything is written under a temporary name and checked there; only then does it take
the place of an earlier corpus.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gru_lm.core.errors import UnreachableError, UserError
from gru_lm.core.files import atomic_writer
from gru_lm.corpus.download import CHUNK, WEB_PAGE, download, store
from gru_lm.corpus.settings import CorpusSource, Fetch
from gru_lm.corpus.web import SourceFailed, is_web_address, shown


@dataclass(frozen=True)
class Fetched:
    """What was done: where the corpus came from, its checksum and its size in bytes."""

    origin: str
    sha256: str
    size: int


def fetch(
    name: str,
    source: CorpusSource,
    options: Fetch,
    target: Path,
    *,
    project: Path,
    mirror: str | None,
    warn: Callable[[str], None],
) -> Fetched:
    """Bring the corpus ``name`` to the file ``target``, from the first source that has it.

    ``project`` is the folder that ``source.path`` starts from, ``mirror`` a folder or an http(s)
    base URL (None: no mirror). ``warn`` gets one line where the mirror does not deliver.

    Raises UnreachableError where no address delivers, and UserError where the project's own file
    cannot be used or the target not be written. The target then is what it was before.
    """
    try:
        if source.sha256 and target.is_file():
            with target.open("rb") as file:
                there = _fetched(f"{target}, there already", file)
            if there.sha256 == source.sha256:
                return there
        with atomic_writer(target) as file:
            if source.path is not None:
                origin = _copy_own(name, source.path, source, options, project, file)
            else:
                origin = _try_places(name, source, options, mirror, warn, file)
            return _fetched(origin, file)
    except OSError as error:  # only the target's: a source's have become SourceFailed
        raise UserError(
            f"{target} cannot be written ({error.strerror or error}): check its folder, your "
            "permission to write there and the disk's free space"
        ) from error


def _copy_own(
    name: str, path: str, source: CorpusSource, options: Fetch, project: Path, file: IO[bytes]
) -> str:
    """Copy the project's file ``path`` to ``file``; return its name. Raises UserError."""
    try:
        try:
            real = (project / path).resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
            raise SourceFailed("no such file") from None
        if not real.is_relative_to(project.resolve()):
            raise SourceFailed("it leads out of the project")
        store(_read(real), file, options.max_bytes)
        _check(file, source.sha256, page_is_fine=True, said="it holds")
    except SourceFailed as failure:
        raise UserError(f"corpora.{name}.path = {path!r}: {failure}") from None
    return path


def _try_places(
    name: str,
    source: CorpusSource,
    options: Fetch,
    mirror: str | None,
    warn: Callable[[str], None],
    file: IO[bytes],
) -> str:
    """Write the corpus from the mirror or an address to ``file``; return which, fit to print.

    Raises UnreachableError with every place and its reason.
    """
    failures = []
    if mirror:
        try:
            place = _in_mirror(mirror, source.mirror_name)
            return _take(place, source, options, file)
        except SourceFailed as failure:
            failures.append(f"mirror {shown(mirror)}: {failure}")
            warn(f"{failures[0]}; trying the addresses of {name}")
    for url in source.urls or []:
        try:
            return _take(url, source, options, file)
        except SourceFailed as failure:
            failures.append(f"{shown(url)}: {failure}")
    raise UnreachableError(
        f"no source delivered the corpus {name} ({'; '.join(failures)}). On a machine without "
        "network run dvc exp run -S fetch.corpus=sample, or set GRU_LM_CORPUS_MIRROR to a folder "
        f"or base URL that holds {source.mirror_name or 'the file'}"
    )


def _in_mirror(mirror: str, file_name: str | None) -> str | Path:
    """The address or the file of the corpus in the mirror."""
    if file_name is None:
        raise SourceFailed("the corpus has no name there: give its entry in params.yaml a 'file'")
    if is_web_address(mirror):
        return f"{mirror.rstrip('/')}/{file_name}"
    return Path(mirror).expanduser() / file_name


def _take(place: str | Path, source: CorpusSource, options: Fetch, file: IO[bytes]) -> str:
    """Replace what is in ``file`` by the checked corpus at ``place``; return the place's name."""
    # A log-in page comes with status 200 like a book does; where no checksum tells them apart,
    # only an address that asks for a page may give one.
    page_is_fine = re.search(r"\.html?([?#]|$)", str(place), re.IGNORECASE) is not None
    file.seek(0)  # what an earlier place left
    file.truncate()
    if isinstance(place, Path):
        store(_read(place), file, options.max_bytes)
    else:
        download(place, options, page_is_fine or source.sha256 is not None, file)
    _check(file, source.sha256, page_is_fine, said="reached, but sent")
    return shown(str(place))


# Bytes: reading, storing, checking


def _read(path: Path) -> Iterator[bytes]:
    """The file's bytes, in pieces. An OSError becomes SourceFailed: it is not the target's."""
    try:
        if not path.is_file():  # a pipe would be waited for without end
            raise SourceFailed("no such file")
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise SourceFailed(str(error.strerror)) from None


def _check(file: IO[bytes], sha256: str | None, page_is_fine: bool, said: str) -> None:
    """Raise SourceFailed, which starts with ``said``, where ``file`` does not hold the corpus."""
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
    """The checksum and size of what ``file`` really holds, however it got there."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # IO[bytes] serves
    return Fetched(origin, digest.hexdigest(), file.tell())
