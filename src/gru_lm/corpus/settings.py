"""Settings of the corpus: the sections ``fetch`` and ``corpora`` of params.yaml."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from gru_lm.core.params import Section, TopLevel, did_you_mean

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class CorpusSource(Section):
    """The source of a corpus: a list of URLs, tried in order, or a file of the project.

    ``file`` is the file's name in a mirror. It defaults to the last part of the first URL. The
    corpus must have the checksum ``sha256``. If it is not set, any content is accepted except for
    an unexpected web page.
    """

    urls: Annotated[list[str], Field(min_length=1, max_length=16)] | None = None
    path: str | None = None
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @field_validator("urls")
    @classmethod
    def _web_addresses(cls, urls: list[str] | None) -> list[str] | None:
        for url in urls or []:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{url!r} is not an http or https address")
        return urls

    @field_validator("path")
    @classmethod
    def _inside_the_project(cls, path: str | None) -> str | None:
        if path is not None:
            parts = PurePosixPath(path)
            if not path.strip() or parts.is_absolute() or ".." in parts.parts or "\0" in path:
                raise ValueError(
                    "must be a relative path inside the project, such as corpora/a.txt"
                )
        return path

    @model_validator(mode="after")
    def _one_source(self) -> CorpusSource:
        if (self.urls is None) == (self.path is None):
            raise ValueError("set either 'urls' or 'path', not both")
        return self

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

    @model_validator(mode="after")
    def _corpus_is_known(self) -> CorpusSettings:
        if self.fetch.corpus not in self.corpora:
            raise ValueError(
                f"fetch.corpus: {self.fetch.corpus!r} is not in corpora"
                + did_you_mean(self.fetch.corpus, list(self.corpora))
                + f"; choose from: {', '.join(self.corpora)}"
            )
        return self
