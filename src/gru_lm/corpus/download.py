"""One file over HTTP: bounded in time and size, retried, resumed, and never trusted.

tenacity retries. The ``Retry`` of urllib3 does not know of a body that is cut off or of resuming,
and reads the body of a refusal without any limit; only its reading of Retry-After is used.
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

CHUNK = 1 << 16  # bytes read at a time
SLOWEST = 1024  # bytes per second: a body slower than this on average is given up
LONGEST_WAIT = 30.0  # seconds between two tries, whatever Retry-After asks for

WEB_PAGE = "apparently a web page such as a log-in form"


def download(url: str, options: Fetch, page_is_fine: bool, file: IO[bytes]) -> None:
    """Write the body at ``url`` to the empty ``file``; failures that may pass are retried.

    ``page_is_fine``: an HTML page is not taken for a log-in form. Raises SourceFailed.
    """
    _retrying(options)(_Transfer(url, options, page_is_fine, file).attempt)


def _retrying(options: Fetch) -> tenacity.Retrying:
    """The waits are in proportion to the timeout and double each time, or are as long as asked for.

    Half of a wait is random, so that machines that failed together do not return together.
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
    """The body at ``url`` on its way to ``file``, which holds what has come so far.

    ``validator`` is the entity tag or date that lets a later request resume it; without one,
    the file may have changed between two requests, and nothing is resumed.
    """

    url: str
    options: Fetch
    page_is_fine: bool
    file: IO[bytes]
    validator: str | None = None

    def attempt(self) -> None:
        """Resume the transfer if possible, else start it over."""
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
        """Whether this 206 response holds exactly the rest of the same file."""
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
        """Append the response's body, with a progress bar if that takes long."""
        kind = response.headers.get("Content-Type", "").lower()
        if "text/html" in kind and not self.page_is_fine:
            raise SourceFailed(f"reached, but sent something else, {WEB_PAGE}")
        at, length = self.file.tell(), response.raw.length_remaining
        size = None if length is None else at + length
        _check_size(size or 0, self.options.max_bytes)
        # delay: a small corpus needs no bar; disable=None: no bar unless on a terminal
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
                raise SourceFailed(f"sent an encoding that was not asked for ({encoding[:20]!r})")
            store(chunks, self.file, self.options.max_bytes)


def _validator(response: requests.Response) -> str | None:
    """What identifies this version of the file in If-Range: no weak entity tag may (RFC 9110)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _refusal(response: requests.Response) -> SourceFailed:
    status = response.status_code
    passing = status in (408, 429) or status >= 500
    wait = _retry_after(response.headers.get("Retry-After", ""))
    return SourceFailed(f"HTTP status {status}", passing=passing, wait=wait)


def _retry_after(field: str) -> float:
    """Seconds that a Retry-After header asks to wait, at most LONGEST_WAIT; 0 if it is invalid."""
    try:
        return min(urllib3.Retry().parse_retry_after(field), LONGEST_WAIT)
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0.0


def _body(response: requests.Response, timeout: float, bar: tqdm[Any]) -> Iterator[bytes]:
    """The body's bytes as they come over the wire, counted by ``bar``.

    Each must come within ``timeout`` seconds of the one before, and all at SLOWEST on average
    after the first ``timeout`` seconds, or a drip of single bytes would never end. A body that is
    shorter than its Content-Length makes urllib3 raise.
    """
    start, received = time.monotonic(), 0
    try:
        # read1 returns what has come; read would wait for a full chunk, and the clock with it.
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            received += len(chunk)
            bar.update(len(chunk))
            if time.monotonic() - start > timeout + received / SLOWEST:
                raise SourceFailed(f"slower than {SLOWEST} bytes a second", passing=True)
            yield chunk
    except urllib3.exceptions.HTTPError as error:
        raise network_failure(error, timeout) from error


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack gzip, which some servers send unasked.

    urllib3 could, but does not notice a stream that ends too early. A chunk of CHUNK bytes
    unpacks to 66 MB at most, so that the size limit stops a bomb soon enough.
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
    """Append ``chunks`` to ``file``. Raises SourceFailed before it exceeds ``max_bytes``."""
    for chunk in chunks:
        _check_size(file.tell() + len(chunk), max_bytes)
        file.write(chunk)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise SourceFailed(f"larger than fetch.max_bytes allows ({max_bytes} bytes)")
