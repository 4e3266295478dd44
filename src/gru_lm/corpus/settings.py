"""Settings of the corpus: the sections ``fetch`` and ``corpora`` of params.yaml.

A URL can contain secrets: a user name, a password, or a token in its query. A message shows a valid
URL without these parts, and nothing of an invalid one.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator
from pydantic import ModelWrapValidatorHandler as Handler
from pydantic_core import InitErrorDetails

from gru_lm.core.params import Section, TopLevel, did_you_mean

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]

# The characters of RFC 3986 without the # of a fragment, which is never sent.
ALLOWED = re.compile(r"[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]*")
MOST_PATHS = 10_000  # in a list

AUTHORITY = re.compile(r"([^@\[\]]*@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def parse_url(text: str) -> SplitResult:
    """Return the parts of an http or https URL that every parser splits in the same way.

    A space, a line break or a letter that becomes ``@`` or ``/`` under NFKC could make another
    parser take a part of the password for the host. Raises ValueError for such a URL, with a
    message that contains nothing of ``text``.
    """
    if not ALLOWED.fullmatch(text):
        raise ValueError(
            "the URL contains a space, a #, a character outside ASCII or another one that must be "
            "percent-encoded (# as %23)"
        )
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # raises if there is no such port
    except ValueError:
        raise ValueError("the URL is malformed") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the URL must start with http:// or https:// and a host")
    if "@" in parts.path + parts.query:
        raise ValueError(
            "the URL contains an @ after its host, which must be percent-encoded (as %40)"
        )
    if not AUTHORITY.fullmatch(parts.netloc):
        raise ValueError("the user, password, host or port of the URL is malformed")
    return parts


def shown(url: str) -> str:
    """Return the scheme, host, port and path of a valid ``url`` on one line."""
    parts = urlsplit(url)
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def printable(text: str) -> str:
    """Return ``text`` on one line of limited length."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def may_hold_secrets(text: str) -> bool:
    """Return whether ``text`` contains a character that delimits the secrets in a URL."""
    return not {":", "@", "?", "#"}.isdisjoint(unicodedata.normalize("NFKC", text))


def _web_url(text: str) -> str:
    parse_url(text)
    return text


class CorpusSource(Section):
    """The source of a corpus: a list of URLs, tried in order, or files of the project.

    ``path`` is a file, a folder, a pattern or a list of these. ``file`` is the file's name in a
    mirror. It defaults to the last part of the first URL. ``encoding`` is one of Python's text
    encodings.

    ``sha256`` is the checksum of the file as it is at its source, or of the joined text if there
    are several files. If it is not set, any content is accepted except for an unexpected web page.
    """

    urls: (
        Annotated[
            list[Annotated[str, AfterValidator(_web_url)]], Field(min_length=1, max_length=16)
        ]
        | None
    ) = None
    path: str | list[str] | None = None
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    encoding: str = "utf-8"

    @field_validator("path", mode="before")
    @classmethod
    def _inside_the_project(cls, path: object) -> object:
        if path is None:
            return None
        paths = path if isinstance(path, list) else [path]
        if not 1 <= len(paths) <= MOST_PATHS or not all(isinstance(one, str) for one in paths):
            raise ValueError(f"must be a path or a list of 1 to {MOST_PATHS:,} paths")
        for one in map(str, paths):
            parts = PurePosixPath(one)
            if not one.strip() or parts.is_absolute() or ".." in parts.parts or "\0" in one:
                raise ValueError(
                    "must be a relative path inside the project, such as corpora/a.txt"
                )
        return path

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            if not re.fullmatch("[A-Za-z0-9_-]{1,40}", encoding):
                raise LookupError
            io.TextIOWrapper(io.BytesIO(), encoding)  # refuses what encodes no text, such as hex
        except LookupError:
            raise ValueError(
                "must be the name of a text encoding in Python, such as utf-8, latin-1 or gb18030"
            ) from None
        return encoding

    @model_validator(mode="after")
    def _one_source(self) -> CorpusSource:
        if (self.urls is None) == (self.path is None):
            raise ValueError("set either 'urls' or 'path', not both")
        return self

    @property
    def paths(self) -> list[str]:
        """The paths of the project's files, or none if the corpus has URLs."""
        return [self.path] if isinstance(self.path, str) else self.path or []

    @property
    def mirror_name(self) -> str | None:
        """The file's name in a mirror, or None if neither ``file`` nor a URL gives one."""
        if self.file or not self.urls:
            return self.file
        name = PurePosixPath(urlsplit(self.urls[0]).path).name
        return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name) else None


class Fetch(Section):
    """The corpus to fetch, and the limits of a download (``timeout`` in seconds)."""

    corpus: Name
    timeout: Annotated[float, Field(gt=0, le=3600)]
    retries: Annotated[int, Field(ge=0, le=10)]
    max_bytes: Annotated[int, Field(ge=1, le=10**11)]


class CorpusSettings(TopLevel):
    """The corpus to fetch and all known corpora."""

    fetch: Fetch
    corpora: dict[Name, CorpusSource]

    @model_validator(mode="wrap")
    @classmethod
    def _no_secrets_in_errors(cls, data: Any, handler: Handler[CorpusSettings]) -> CorpusSettings:
        """Mask values and keys that may be a URL in the wrong place, so that no error quotes it."""
        try:
            return handler(data)
        except ValidationError as error:
            masked = [
                InitErrorDetails(
                    type=problem["type"],
                    loc=tuple(_masked(key) for key in problem["loc"]),
                    input=_masked(problem["input"]),
                    ctx=problem.get("ctx", {}),
                )
                for problem in error.errors()
            ]
            raise ValidationError.from_exception_data(cls.__name__, masked) from None

    @model_validator(mode="after")
    def _corpus_is_known(self) -> CorpusSettings:
        if self.fetch.corpus not in self.corpora:
            raise ValueError(
                f"fetch.corpus: {self.fetch.corpus!r} is not in corpora"
                + did_you_mean(self.fetch.corpus, list(self.corpora))
                + f"; choose from: {', '.join(self.corpora)}"
            )
        return self


def _masked(value: Any) -> Any:
    """Return ``value``, or asterisks if it may contain secrets."""
    secret = may_hold_secrets(value) if isinstance(value, str) else isinstance(value, Collection)
    return "***" if secret and value else value
