"""Download a file over HTTP with limits on time and size, retries and resumption.

tenacity handles the retries. ``Retry`` of urllib3 can neither retry a truncated body nor resume it,
and it reads the body of an error response without a size limit. Only its parser of Retry-After is
used.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import requests
import tenacity
import urllib3
from tqdm import tqdm

from gru_lm.corpus.settings import Fetch
from gru_lm.corpus.web import SourceFailed, network_failure, open_url

CHUNK = 1 << 16  # bytes per read
SLOWEST = 1024  # bytes per second: the minimal average speed of a body
LONGEST_WAIT = 30.0  # seconds between two attempts, also if Retry-After is longer

WEB_PAGE = "apparently a web page such as a log-in form"


def download(url: str, options: Fetch, page_is_fine: bool, file: IO[bytes]) -> None:
    """Download ``url`` to the empty ``file``. Transient failures are retried.

    ``page_is_fine`` accepts an HTML page. Otherwise a page is taken for a log-in form and refused.
    Raises SourceFailed if the last attempt fails.
    """
    _retrying(options)(_Transfer(url, options, page_is_fine, file).attempt)


def _retrying(options: Fetch) -> tenacity.Retrying:
    """Return the retry policy.

    Waits are proportional to the timeout and double each time. Retry-After can make them longer.
    Half of a wait is random, so clients that failed together do not retry together.
    """
    half = {"multiplier": options.timeout / 80, "max": LONGEST_WAIT / 2}
    backoff = tenacity.wait_exponential(**half) + tenacity.wait_random_exponential(**half)
    asked = tenacity.wait_exception(lambda error: getattr(error, "wait", 0.0))
    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(options.retries + 1),
        wait=lambda state: max(backoff(state), asked(state)),
        retry=tenacity.retry_if_exception(lambda error: getattr(error, "passing", False)),
        reraise=True,
    )


@dataclass
class _Transfer:
    """A download of ``url`` to ``file``, which contains the bytes received so far.

    ``validator`` is the entity tag or date for resuming. Without it nothing is resumed, as the
    remote file may have changed between two requests.
    """

    url: str
    options: Fetch
    page_is_fine: bool
    file: IO[bytes]
    validator: str | None = None

    def attempt(self) -> None:
        """Resume the transfer if possible, else start over."""
        rest: dict[str, str] = {}
        if self.validator and self.file.tell():
            rest = {"Range": f"bytes={self.file.tell()}-", "If-Range": self.validator}
        with open_url(self.url, rest, self.options.timeout) as response:
            status = response.status_code
            if status == 200:
                self._start_over()
            elif not rest or status not in (206, 416):
                raise _refusal(response)
            elif status != 206 or not self._is_resumed_by(response):
                self._start_over()
                return self.attempt()
            self._receive(response)

    def _start_over(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.validator = None

    def _is_resumed_by(self, response: requests.Response) -> bool:
        """Return whether this 206 response is exactly the rest of the same file."""
        at = self.file.tell()
        field = response.headers.get("Content-Range", "")
        match = re.fullmatch(rf"bytes {at}-(\d{{1,15}})/(\d{{1,15}})", field)
        return (
            match is not None
            and int(match[1]) + 1 == int(match[2])
            and response.raw.length_remaining in (None, int(match[2]) - at)
            and "Content-Encoding" not in response.headers
            and _validator(response) in (None, self.validator)
        )

    def _receive(self, response: requests.Response) -> None:
        """Append the response's body to the file, with a progress bar if it takes long."""
        kind = response.headers.get("Content-Type", "").lower()
        if "text/html" in kind and not self.page_is_fine:
            raise SourceFailed(f"reached, but sent something else, {WEB_PAGE}")
        at, length = self.file.tell(), response.raw.length_remaining
        size = None if length is None else at + length
        _check_size(size or 0, self.options.max_bytes)
        # delay: no bar for a small corpus; disable=None: a bar on terminals only
        with tqdm(
            total=size, initial=at, unit="B", unit_scale=True, delay=1.0, leave=False, disable=None
        ) as bar:
            chunks = _body(response, self.options.timeout, bar)
            encoding = response.headers.get("Content-Encoding", "").strip().lower()
            if encoding in ("gzip", "x-gzip"):
                chunks = _gunzip(chunks)
            elif encoding in ("", "identity"):
                self.validator = self.validator or _validator(response)
            else:
                raise SourceFailed(f"sent an unsupported encoding ({encoding[:20]!r})")
            store(chunks, self.file, self.options.max_bytes)


def _validator(response: requests.Response) -> str | None:
    """Return a validator for If-Range, which allows no weak entity tag (RFC 9110)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _refusal(response: requests.Response) -> SourceFailed:
    status = response.status_code
    passing = status in (408, 429) or status >= 500
    wait = _retry_after(response.headers.get("Retry-After", ""))
    return SourceFailed(f"HTTP status {status}", passing=passing, wait=wait)


def _retry_after(field: str) -> float:
    """Return the seconds in a Retry-After header, at most LONGEST_WAIT, or 0 if it is invalid."""
    try:
        return min(urllib3.Retry().parse_retry_after(field), LONGEST_WAIT)
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0.0


def _body(response: requests.Response, timeout: float, bar: tqdm[Any]) -> Iterator[bytes]:
    """Yield the body's bytes as they are received, counted by ``bar``.

    Each read must return within ``timeout`` seconds. After the first ``timeout`` seconds the
    average speed must be at least SLOWEST, so a drip of single bytes ends too. urllib3 raises if
    the body is shorter than its Content-Length.
    """
    start, received = time.monotonic(), 0
    try:
        # read1 returns the available bytes; read would block until the chunk is full.
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            received += len(chunk)
            bar.update(len(chunk))
            if time.monotonic() - start > timeout + received / SLOWEST:
                raise SourceFailed(f"slower than {SLOWEST} bytes per second", passing=True)
            yield chunk
    except urllib3.exceptions.HTTPError as error:
        raise network_failure(error, timeout) from error


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress gzip, which some servers send unrequested.

    urllib3 does not detect a truncated gzip stream. A chunk of CHUNK bytes decompresses to at most
    66 MB, so the size limit stops a gzip bomb early.
    """
    decoder = zlib.decompressobj(wbits=31)
    try:
        for chunk in chunks:
            while chunk:
                if decoder.eof:  # a gzip file may have several members
                    decoder = zlib.decompressobj(wbits=31)
                yield decoder.decompress(chunk)
                chunk = decoder.unused_data
    except zlib.error:
        raise SourceFailed("sent a damaged gzip stream", passing=True) from None
    if not decoder.eof:
        raise SourceFailed("the body was cut off", passing=True)


def store(chunks: Iterable[bytes], file: IO[bytes], max_bytes: int) -> None:
    """Append ``chunks`` to ``file``. Raises SourceFailed before the file exceeds ``max_bytes``."""
    for chunk in chunks:
        _check_size(file.tell() + len(chunk), max_bytes)
        file.write(chunk)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise SourceFailed(f"larger than fetch.max_bytes allows ({max_bytes} bytes)")
