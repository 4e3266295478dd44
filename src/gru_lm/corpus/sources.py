"""Fetch a corpus from the first source that has it, and verify it.

The target is kept if it already has the right checksum. The sources are a file of the project, or
a mirror followed by the URLs. The corpus is written under a temporary name and verified. Only then
does it replace an earlier corpus.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gru_lm.core.errors import (
    DamagedFile,
    MissingFile,
    UnreachableError,
    UnusableFile,
    UserError,
)
from gru_lm.core.files import atomic_writer
from gru_lm.core.reading import ANY, opened
from gru_lm.corpus.download import CHUNK, WEB_PAGE, download, store
from gru_lm.corpus.settings import (
    CorpusSource,
    Fetch,
    may_hold_secrets,
    parse_url,
    printable,
    shown,
)
from gru_lm.corpus.wire import SourceFailed


@dataclass(frozen=True)
class Fetched:
    """A fetched corpus: its source, its checksum and its size in bytes."""

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
    """Fetch the corpus ``name`` to the file ``target`` from the first source that has it.

    ``source.path`` is relative to the folder ``project``. ``mirror`` is a folder, an http(s) base
    URL or None. ``warn`` is called with one line if the mirror fails.

    Raises UnreachableError if every source fails. Raises UserError if the project's file is
    unusable or the target cannot be written. The target is unchanged after an error.
    """
    try:
        if source.sha256:
            with contextlib.suppress(UnusableFile), opened(target, ANY) as earlier:
                there = _fetched(f"{target}, there already", earlier)
                if there.sha256 == source.sha256:
                    return there
        with atomic_writer(target) as file:
            if source.path is not None:
                origin = _copy_own(name, source.path, source, options, project, file)
            else:
                origin = _try_places(name, source, options, mirror, warn, file)
            return _fetched(origin, file)
    except OSError as error:  # of the target: those of a source are raised as SourceFailed
        raise UserError(
            f"{target} cannot be written ({error.strerror or error}): check its folder, your "
            "permission to write there and the free disk space"
        ) from error


def _copy_own(
    name: str, path: str, source: CorpusSource, options: Fetch, project: Path, file: IO[bytes]
) -> str:
    """Copy the project's file ``path`` to ``file`` and return its name.

    Raises UserError if it is missing, is outside the project or has the wrong content.
    """
    try:
        try:
            real = (project / path).resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
            raise SourceFailed("no such file") from None
        if not real.is_relative_to(project.resolve()):
            raise SourceFailed("it is outside the project")
        store(_read(real), file, options.max_bytes)
        _check(file, source.sha256, page_is_fine=True, said="it contains")
    except SourceFailed as failure:
        quoted = "" if may_hold_secrets(path) else f" = {path!r}"
        raise UserError(f"corpora.{name}.path{quoted}: {failure}") from None
    return path


def _try_places(
    name: str,
    source: CorpusSource,
    options: Fetch,
    mirror: str | None,
    warn: Callable[[str], None],
    file: IO[bytes],
) -> str:
    """Write the corpus from the mirror or a URL to ``file`` and return the source for messages.

    Raises UnreachableError with every source and its failure.
    """
    failures = []
    if mirror:
        label = "mirror"
        try:
            place, label = _in_mirror(mirror, source.mirror_name)
            return _take(place, source, options, file)
        except SourceFailed as failure:
            failures.append(f"{label}: {failure}")
            warn(f"{failures[0]}; trying the URLs of {name}")
    for url in source.urls or []:
        try:
            return _take(url, source, options, file)
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


def _take(place: str | Path, source: CorpusSource, options: Fetch, file: IO[bytes]) -> str:
    """Overwrite ``file`` with the verified corpus at ``place``; return ``place`` for messages."""
    # A log-in page has status 200, as a book has. If there is no checksum to tell them apart, an
    # HTML page is accepted only from a URL that ends in .html.
    path = place.name if isinstance(place, Path) else parse_url(place).path
    page_is_fine = re.search(r"\.html?$", path, re.IGNORECASE) is not None
    file.seek(0)  # an earlier source may have written something
    file.truncate()
    if isinstance(place, Path):
        store(_read(place), file, options.max_bytes)
    else:
        download(place, options, page_is_fine or source.sha256 is not None, file)
    _check(file, source.sha256, page_is_fine, said="reached, but sent")
    return printable(str(place)) if isinstance(place, Path) else shown(place)


# Bytes: reading, storing, checking


def _read(path: Path) -> Iterator[bytes]:
    """Yield the file's bytes in chunks. Raises SourceFailed if the file cannot be read."""
    try:
        with opened(path, ANY) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except MissingFile:
        raise SourceFailed("no such file") from None
    except DamagedFile as error:
        raise SourceFailed(error.why) from None
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
