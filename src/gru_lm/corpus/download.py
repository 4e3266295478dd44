"""Download a file over HTTP with limits on time and size, retries and resumption.

tenacity handles the retries. ``Retry`` of urllib3 can neither retry a truncated body nor resume it,
and it reads the body of an error response without a size limit. Only its parser of Retry-After is
used.
"""

from __future__ import annotations

import functools
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import requests
import tenacity
import urllib3
from tqdm import tqdm

from gru_lm.corpus.settings import Fetch
from gru_lm.corpus.web import network_failure, open_url
from gru_lm.corpus.wire import SourceFailed, Wire

CHUNK = 1 << 16  # bytes per read
# Limits for everything before the body: lookup, connection, handshake, redirects and headers.
MAX_START = 3  # multiples of the timeout
MAX_HEADERS = 300 << 10  # bytes, as in curl
# Limits for the body. On the wire it may be longer than fetch.max_bytes, as chunked transfer and
# gzip add some bytes: usually less than 1 %.
MAX_FRAMING = 2  # multiples of fetch.max_bytes
# Bytes per second, as the average of each period of fetch.timeout seconds. A modem (56 kbit/s) or a
# phone with a poor signal (GPRS) reaches about 5000, so slow but working connections are accepted.
SLOWEST = 1024
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

    ``version`` identifies the remote file for resuming. Without it nothing is resumed, as the
    remote file may have changed between two requests.
    """

    url: str
    options: Fetch
    page_is_fine: bool
    file: IO[bytes]
    version: _Version | None = None

    def attempt(self) -> None:
        """Resume the transfer if possible, else start over."""
        if self.version and self.file.tell() and self._resumed(self.version):
            return
        self.file.seek(0)
        self.file.truncate()
        self.version = None
        with self._asked({}) as (wire, response):
            if response.status_code != 200:
                raise _refusal(response)
            self._receive(wire, response)

    def _resumed(self, version: _Version) -> bool:
        """Append the rest of the file, and return False if the server does not offer it."""
        at = self.file.tell()
        rest = {"Range": f"bytes={at}-", "If-Range": version.tag}
        with self._asked(rest) as (wire, response):
            if response.status_code == 206:
                if not _is_rest(response, at, version):
                    return False
            elif response.status_code == 200:  # the whole file, in its present version
                self.file.seek(0)
                self.file.truncate()
                self.version = None
            elif response.status_code == 416:
                return False
            else:
                raise _refusal(response)
            self._receive(wire, response)
            return True

    @contextmanager
    def _asked(self, headers: dict[str, str]) -> Iterator[tuple[Wire, requests.Response]]:
        """Send a request, and yield the wire and the response before its body is read."""
        timeout = self.options.timeout
        with Wire(MAX_HEADERS) as wire:
            ask = functools.partial(open_url, self.url, headers, timeout, wire)
            response = wire.run(ask, MAX_START * timeout)
            wire.budget += MAX_FRAMING * self.options.max_bytes
            yield wire, response

    def _receive(self, wire: Wire, response: requests.Response) -> None:
        """Append the response's body to the file, with a progress bar if it takes long."""
        kind = response.headers.get("Content-Type", "").lower()
        if "text/html" in kind and not self.page_is_fine:
            raise SourceFailed(f"reached, but sent something else, {WEB_PAGE}")
        at, length = self.file.tell(), response.raw.length_remaining
        if length is None and not response.raw.chunked and "Content-Length" in response.headers:
            raise SourceFailed("sent an invalid Content-Length")
        size = None if length is None else at + length
        _check_size(size or 0, self.options.max_bytes)
        # delay: no bar for a small corpus; disable=None: a bar on terminals only
        with tqdm(
            total=size, initial=at, unit="B", unit_scale=True, delay=1.0, leave=False, disable=None
        ) as bar:
            chunks = _body(wire, response, self.options.timeout, self.file.tell, bar)
            encoding = response.headers.get("Content-Encoding", "").strip().lower()
            if encoding in ("gzip", "x-gzip"):
                chunks = _gunzip(chunks)
            elif encoding in ("", "identity"):
                self.version = self.version or _version(response)
            else:
                raise SourceFailed(f"sent an unsupported encoding ({encoding[:20]!r})")
            store(chunks, self.file, self.options.max_bytes)


@dataclass(frozen=True)
class _Version:
    """The properties that two responses share if they are parts of the same file.

    ``tag`` is a strong entity tag. RFC 9110 (13.1.5) allows no weak tag in If-Range, and a date
    only if it is known to be exact. Tags of different URLs cannot be compared, so the final ``url``
    is included. ``size`` is in bytes.
    """

    url: str
    tag: str
    size: int


def _version(response: requests.Response) -> _Version | None:
    """Return the version of the file in a complete response, or None if it is not known."""
    tag, size = response.headers.get("ETag", ""), response.raw.length_remaining
    return _Version(response.url, tag, size) if re.fullmatch('"[^"]+"', tag) and size else None


def _is_rest(response: requests.Response, at: int, version: _Version) -> bool:
    """Return whether this 206 response is exactly the rest of ``version`` after ``at`` bytes.

    It must have a Content-Length. Without one, a truncated body cannot be detected.
    """
    wanted = f"bytes {at}-{version.size - 1}/{version.size}"
    return (
        response.headers.get("Content-Range") == wanted
        and response.raw.length_remaining == version.size - at
        and "Content-Encoding" not in response.headers
        and (response.url, response.headers.get("ETag")) == (version.url, version.tag)
    )


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


def _body(
    wire: Wire,
    response: requests.Response,
    timeout: float,
    stored: Callable[[], int],
    bar: tqdm[Any],
) -> Iterator[bytes]:
    """Yield the body's bytes as they are received, counted by ``bar``.

    ``stored`` returns the size of the decompressed corpus so far. It must grow by SLOWEST bytes per
    second, on average, in each period of ``timeout`` seconds. Chunk sizes, trailers and gzip
    streams that decompress to nothing do not count. urllib3 raises if the body is shorter than its
    Content-Length.
    """
    # read1 returns the available bytes; read would block until the chunk is full.
    read = functools.partial(response.raw.read1, CHUNK, decode_content=False)
    end, before = time.monotonic() + timeout, stored()
    while True:
        coming, done = wire.start(read), False
        while not done:
            done = bool(wait([coming], max(0.0, end - time.monotonic())).done)
            if time.monotonic() >= end:
                end, before = _next_period(timeout, before, stored())
        try:
            chunk = coming.result()
        except urllib3.exceptions.HTTPError as error:
            raise network_failure(error, timeout) from error
        if not chunk:
            return
        bar.update(len(chunk))
        yield chunk


def _next_period(timeout: float, before: int, after: int) -> tuple[float, int]:
    """Return the end of the next period and the size at its start.

    Raises SourceFailed if the period before it was too slow.
    """
    if after - before < SLOWEST * timeout:
        reason = f"slower than {SLOWEST} bytes per second for {timeout:g} seconds"
        raise SourceFailed(reason, passing=True)
    return time.monotonic() + timeout, after


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


def store(chunks: Iterable[bytes], file: IO[bytes], max_bytes: int | None = None) -> None:
    """Append ``chunks`` to ``file``. Raises SourceFailed before the file exceeds ``max_bytes``."""
    for chunk in chunks:
        if max_bytes is not None:
            _check_size(file.tell() + len(chunk), max_bytes)
        file.write(chunk)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise SourceFailed(f"larger than fetch.max_bytes allows ({max_bytes} bytes)")
