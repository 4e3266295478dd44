"""One file over HTTP: bounded in time and size, tried again, continued, and never trusted.

A server may be silent, slow or endless, cut the body off, send a log-in page, redirect in a loop
or to another scheme. Each becomes a ``SourceFailed`` whose message says so in a few words.
"""

from __future__ import annotations

import email.utils
import functools
import http.client
import queue
import random
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url, urldefragauth
from tqdm import tqdm

from gru_lm.corpus.settings import Fetch

CHUNK = 1 << 16  # bytes read at a time
SLOWEST = 1024  # bytes a second: a body slower than this on average is given up
LOOK_UP_AND_HEADERS = 3  # times the timeout: all that comes before the body
LONGEST_WAIT = 30.0  # seconds between two tries, whatever Retry-After asks for
MAX_REDIRECTS = 10

WEB_PAGE = "apparently a web page such as a log-in form"


class SourceFailed(Exception):
    """A source did not deliver.

    ``passing``: it may at another try, though not within ``wait`` seconds.
    """

    def __init__(self, reason: str, *, passing: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.passing = passing
        self.wait = wait


def store(chunks: Iterable[bytes], file: IO[bytes], max_bytes: int) -> None:
    """Append ``chunks`` to ``file``, which may grow to ``max_bytes``."""
    for chunk in chunks:
        if file.tell() + len(chunk) > max_bytes:
            raise _too_large(max_bytes)
        file.write(chunk)


def _too_large(max_bytes: int) -> SourceFailed:
    return SourceFailed(f"larger than fetch.max_bytes allows ({max_bytes} bytes)")


class _Session(requests.Session):
    """A session that leaves redirects alone.

    Even with allow_redirects=False, requests reads the whole body of a redirect, without any
    limit, to prepare ``Response.next``; no target, no such reading.
    """

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


@dataclass
class _Partial:
    """The start of a body in ``file``.

    ``validator`` is the entity tag or date that lets a later request continue it; without one,
    the file may have changed between two requests, and nothing is continued.
    """

    file: IO[bytes]
    validator: str | None = None

    def start_over(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.validator = None

    def request_headers(self) -> dict[str, str]:
        if self.validator is None or self.file.tell() == 0:
            return {}
        return {"Range": f"bytes={self.file.tell()}-", "If-Range": self.validator}

    def is_continued_by(self, response: requests.Response) -> bool:
        """Whether this 206 response holds exactly the rest of the same file."""
        field = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})", field)
        if match is None or _encoding(response) != "identity":
            return False
        first, last, size = map(int, match.groups())
        return (
            first == self.file.tell()
            and last + 1 == size
            and response.raw.length_remaining in (None, size - first)
            and _validator(response) in (None, self.validator)
        )


def download(url: str, options: Fetch, page_is_fine: bool, file: IO[bytes]) -> None:
    """Write the body at ``url`` to the empty ``file``; failures that may pass are tried again."""
    partial = _Partial(file)
    with _Session() as session:
        for failures in range(options.retries + 1):
            try:
                return _try(session, url, options, page_is_fine, partial)
            except SourceFailed as failure:
                if not failure.passing or failures == options.retries:
                    raise
                wait = max(failure.wait, _backoff(options, failures))
            time.sleep(wait)


def _backoff(options: Fetch, failures: int) -> float:
    """Seconds to wait: in proportion to the user's patience, twice as long each time.

    The random part keeps machines that failed together from coming back together.
    """
    longest: float = min(options.timeout / 40 * 2**failures, LONGEST_WAIT)
    return longest * random.uniform(0.5, 1.0)


def _try(
    session: _Session, url: str, options: Fetch, page_is_fine: bool, partial: _Partial
) -> None:
    """One request for ``url`` and the transfer of its body, continuing ``partial`` if possible."""
    wanted = partial.request_headers()
    response = _open(session, url, wanted, options.timeout)
    status = response.status_code
    if wanted and (status == 416 or (status == 206 and not partial.is_continued_by(response))):
        response.close()
        wanted = {}
        response = _open(session, url, wanted, options.timeout)
    with response:
        if response.status_code not in ((200, 206) if wanted else (200,)):
            raise _refusal(response)
        if response.status_code == 200:
            partial.start_over()
        if not page_is_fine and "text/html" in response.headers.get("Content-Type", "").lower():
            raise SourceFailed(f"reached, but sent something else, {WEB_PAGE}")
        at, length = partial.file.tell(), response.raw.length_remaining
        if length is not None and at + length > options.max_bytes:
            raise _too_large(options.max_bytes)
        with tqdm(
            total=None if length is None else at + length,
            initial=at,
            unit="B",
            unit_scale=True,
            delay=1.0,  # seconds: a small corpus needs no bar
            leave=False,
            disable=None,  # where stderr is no terminal
        ) as bar:
            chunks = _body(response, options.timeout, bar.update)
            if _encoding(response) == "gzip":
                chunks = _gunzip(chunks)
            else:
                partial.validator = _validator(response) or partial.validator
            store(chunks, partial.file, options.max_bytes)


def _open(
    session: _Session, url: str, headers: dict[str, str], timeout: float
) -> requests.Response:
    """Ask for ``url``, follow redirects, and return the answer with its body yet to be read.

    The credentials in ``url`` are sent to its own host only, and dropped for good once a redirect
    leaves that host. There is always an ``auth``, as requests would otherwise look for one in
    ~/.netrc for each host; with trust_env=False it would also ignore the environment's proxies.
    """
    try:
        trail = [urldefragauth(url)]
        user, password = get_auth_from_url(url)
    except ValueError:  # such as a bracket that is never closed, in the mirror's address
        raise SourceFailed("not a usable address") from None
    auth = HTTPBasicAuth(user.encode(), password.encode()) if user or password else _no_auth
    headers = {"Accept-Encoding": "identity", **headers}
    while True:
        ask = functools.partial(
            session.get,
            trail[-1],
            headers=headers,
            auth=auth,
            timeout=timeout,
            stream=True,
            allow_redirects=False,
        )
        try:
            response = _in_time(ask, LOOK_UP_AND_HEADERS * timeout)
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            raise _network_failure(error, timeout) from error
        if response.status_code not in (301, 302, 303, 307, 308):
            return response
        response.close()
        hop = _next_hop(trail[-1], response.headers.get("Location"))
        if hop in trail:
            raise SourceFailed(f"redirects in a loop, back to {shown(hop)}")
        if len(trail) > MAX_REDIRECTS:
            raise SourceFailed(f"redirects more than {MAX_REDIRECTS} times")
        if urlsplit(hop).netloc != urlsplit(trail[-1]).netloc:
            auth = _no_auth
        trail.append(hop)


def _in_time(ask: Callable[[], requests.Response], seconds: float) -> requests.Response:
    """What ``ask`` returns or raises, if that takes no longer than ``seconds``.

    The timeout of requests does not bound it: it is for each piece of a header, however small, and
    not for looking up a name at all. So ``ask`` has a thread, which is left alone if it is late.
    """
    outcome: queue.SimpleQueue[requests.Response | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put(ask())
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = outcome.get(timeout=seconds)
    except queue.Empty:
        raise SourceFailed(f"no whole answer within {seconds:g} seconds", passing=True) from None
    if isinstance(result, Exception):
        raise result
    return result


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _next_hop(here: str, location: str | None) -> str:
    """The address that a redirect from ``here`` leads to."""
    if location is None:
        raise SourceFailed("redirects without saying where to")
    try:
        # http.client reads headers as Latin-1, but servers send addresses in UTF-8.
        hop = urljoin(here, location.encode("latin-1").decode("utf-8"))
        parts = urlsplit(hop)
        _ = parts.port  # computed, and judged, when it is read
    except ValueError:
        raise SourceFailed("redirects to a malformed address") from None
    if parts.scheme not in ("http", "https"):
        raise SourceFailed(f"redirects to a {parts.scheme}: address, which is refused")
    if parts.scheme == "http" and urlsplit(here).scheme == "https":
        raise SourceFailed(f"redirects from https to plain {shown(hop)}, which is refused")
    return str(urldefragauth(hop))


def _body(
    response: requests.Response, timeout: float, progress: Callable[[int], object]
) -> Iterator[bytes]:
    """The body's bytes as they come over the wire.

    Each must come within ``timeout`` seconds of the one before, and all at SLOWEST on average
    after the first ``timeout`` seconds, or a drip of single bytes would never end. A body that is
    shorter than its Content-Length makes urllib3 raise.
    """
    start, received = time.monotonic(), 0
    try:
        # read1 returns what has come; read would wait for a full chunk, and the clock with it.
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            received += len(chunk)
            progress(len(chunk))
            if time.monotonic() - start > timeout + received / SLOWEST:
                raise SourceFailed(f"slower than {SLOWEST} bytes a second", passing=True)
            yield chunk
    except urllib3.exceptions.HTTPError as error:
        raise _network_failure(error, timeout) from error


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack gzip, which some servers send unasked.

    urllib3 could, but does not notice a stream that ends too early. A chunk of CHUNK bytes
    unpacks to 66 MB at most, so that a bomb is stopped by the size cap soon enough.
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


def _encoding(response: requests.Response) -> str:
    """``identity`` or ``gzip``. Raises SourceFailed for any other encoding."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower() or "identity"
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise SourceFailed(f"sent an encoding that was not asked for ({encoding[:20]!r})")
    return encoding.removeprefix("x-")


def _validator(response: requests.Response) -> str | None:
    """What identifies this version of the file in If-Range: no weak entity tag may (RFC 9110)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


# Failures in words


def _refusal(response: requests.Response) -> SourceFailed:
    status = response.status_code
    passing = status in (408, 429) or status >= 500
    wait = _retry_after(response.headers.get("Retry-After", ""), time.time())
    return SourceFailed(f"HTTP status {status}", passing=passing, wait=wait)


def _retry_after(field: str, now: float) -> float:
    """Seconds that a Retry-After header asks to wait, at most LONGEST_WAIT; 0 without a sense."""
    try:
        if field.isdigit():
            seconds = float(field)
        else:
            seconds = email.utils.parsedate_to_datetime(field).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _network_failure(error: Exception, timeout: float) -> SourceFailed:
    """Say in a few words what the libraries wrap in several exceptions and in the address.

    The libraries' own words are avoided: they may hold an address with its secrets.
    """
    root: BaseException = error
    while cause := root.__cause__ or root.__context__:
        root = cause
    if isinstance(root, TimeoutError):
        reason = f"no answer within {timeout:g} seconds"
    elif isinstance(root, socket.gaierror):
        reason = "host not found"
    elif isinstance(root, ssl.SSLCertVerificationError):
        return SourceFailed(f"its certificate is not valid ({root.verify_message})")
    elif isinstance(root, http.client.IncompleteRead):
        reason = "the body was cut off"
    elif isinstance(root, http.client.BadStatusLine):
        reason = "closed the connection or did not answer in HTTP"
    elif isinstance(root, OSError) and root.strerror:
        reason = root.strerror.lower()
    elif isinstance(root, requests.exceptions.InvalidSchema):  # no other schemes come so far
        reason = "the environment's SOCKS proxy needs the Python package PySocks"
    elif type(root) is OSError:  # such as a REQUESTS_CA_BUNDLE that does not exist
        reason = str(root)
    else:
        reason = f"not a usable address or answer ({type(root).__name__})"
    may_pass = (
        requests.ConnectionError,
        requests.Timeout,
        urllib3.exceptions.ProtocolError,
        urllib3.exceptions.TimeoutError,
    )
    if isinstance(error, requests.exceptions.ProxyError):
        reason = f"the proxy failed: {reason}"
    return SourceFailed(reason, passing=isinstance(error, may_pass))


def shown(place: str) -> str:
    """``place`` on one line, without what may be secret in an address: credentials and query."""
    if is_web_address(place):
        place = re.sub(r"//[^/?#]*@", "//", place).partition("?")[0]
    return "".join(c if c.isprintable() else "?" for c in place)[:200]


def is_web_address(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))
