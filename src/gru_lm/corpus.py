"""Bringing a corpus to its place: whole and with the right bytes, or not at all.

The sources, in this order: the file that is there already, a file of the project, the mirror, the
addresses. Everything is written under a temporary name and checked there; only then does it take
the place of an earlier corpus.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import random
import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url, urldefragauth
from tqdm import tqdm

from gru_lm.errors import UnreachableError, UserError
from gru_lm.files import atomic_writer
from gru_lm.settings import CorpusSource, Fetch

CHUNK = 1 << 16  # bytes read at a time
SLOWEST = 1024  # bytes a second: a body slower than this on average is given up
LONGEST_WAIT = 30.0  # seconds between two tries, whatever Retry-After asks for
MAX_REDIRECTS = 10

WEB_PAGE = "apparently a web page such as a log-in form"


@dataclass(frozen=True)
class Fetched:
    """What was done: where the corpus came from, its checksum and its size in bytes."""

    origin: str
    sha256: str
    size: int


class _Failed(Exception):
    """A source did not deliver.

    ``passing``: it may at another try, though not within ``wait`` seconds.
    """

    def __init__(self, reason: str, *, passing: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.passing = passing
        self.wait = wait


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
    except OSError as error:  # only the target's: a source's have become _Failed
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
            raise _Failed("no such file") from None
        if not real.is_relative_to(project.resolve()):
            raise _Failed("it leads out of the project")
        _store(_read(real), file, options.max_bytes)
        _check(file, source.sha256, page_is_fine=True, said="it holds")
    except _Failed as failure:
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
        except _Failed as failure:
            failures.append(f"mirror {_shown(mirror)}: {failure}")
            warn(f"{failures[0]}; trying the addresses of {name}")
    for url in source.urls or []:
        try:
            return _take(url, source, options, file)
        except _Failed as failure:
            failures.append(f"{_shown(url)}: {failure}")
    raise UnreachableError(
        f"no source delivered the corpus {name} ({'; '.join(failures)}). On a machine without "
        "network run dvc exp run -S fetch.corpus=sample, or set GRU_LM_CORPUS_MIRROR to a folder "
        f"or base URL that holds {source.mirror_name or 'the file'}"
    )


def _in_mirror(mirror: str, file_name: str | None) -> str | Path:
    """The address or the file of the corpus in the mirror."""
    if file_name is None:
        raise _Failed("the corpus has no name there: give its entry in params.yaml a 'file'")
    if _is_web_address(mirror):
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
        _store(_read(place), file, options.max_bytes)
    else:
        _download(place, options, page_is_fine or source.sha256 is not None, file)
    _check(file, source.sha256, page_is_fine, said="reached, but sent")
    return _shown(str(place))


# Bytes: reading, storing, checking


def _read(path: Path) -> Iterator[bytes]:
    """The file's bytes, in pieces. Raises _Failed, so that no OSError is taken for the target's."""
    try:
        if not path.is_file():  # a pipe would be waited for without end
            raise _Failed("no such file")
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise _Failed(str(error.strerror)) from None


def _store(chunks: Iterable[bytes], file: IO[bytes], max_bytes: int) -> None:
    """Append ``chunks`` to ``file``, which may grow to ``max_bytes``."""
    for chunk in chunks:
        if file.tell() + len(chunk) > max_bytes:
            raise _too_large(max_bytes)
        file.write(chunk)


def _too_large(max_bytes: int) -> _Failed:
    return _Failed(f"larger than fetch.max_bytes allows ({max_bytes} bytes)")


def _check(file: IO[bytes], sha256: str | None, page_is_fine: bool, said: str) -> None:
    """Raise _Failed, which starts with ``said``, where ``file`` does not hold the corpus."""
    file.seek(0)
    start = file.read(512)
    if not start:
        raise _Failed(f"{said} nothing")
    page = re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|script)\b", start, re.I)
    if sha256 is None:
        if page and not page_is_fine:
            raise _Failed(f"{said} something else, {WEB_PAGE}")
    elif (actual := _fetched("", file).sha256) != sha256:
        hint = f", {WEB_PAGE}" if page else ""
        raise _Failed(f"{said} other bytes{hint} (SHA-256 {actual}, expected {sha256})")


def _fetched(origin: str, file: IO[bytes]) -> Fetched:
    """The checksum and size of what ``file`` really holds, however it got there."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # IO[bytes] serves
    return Fetched(origin, digest.hexdigest(), file.tell())


# Downloading


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


def _download(url: str, options: Fetch, page_is_fine: bool, file: IO[bytes]) -> None:
    """Write the body at ``url`` to the empty ``file``; failures that may pass are tried again."""
    partial = _Partial(file)
    with _Session() as session:
        for failures in range(options.retries + 1):
            try:
                return _try(session, url, options, page_is_fine, partial)
            except _Failed as failure:
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
            raise _Failed(f"reached, but sent something else, {WEB_PAGE}")
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
            _store(chunks, partial.file, options.max_bytes)


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
        raise _Failed("not a usable address") from None
    auth = HTTPBasicAuth(user.encode(), password.encode()) if user or password else _no_auth
    headers = {"Accept-Encoding": "identity", **headers}
    while True:
        try:
            response = session.get(
                trail[-1],
                headers=headers,
                auth=auth,
                timeout=timeout,
                stream=True,
                allow_redirects=False,
            )
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            raise _network_failure(error, timeout) from error
        if response.status_code not in (301, 302, 303, 307, 308):
            return response
        response.close()
        hop = _next_hop(trail[-1], response.headers.get("Location"))
        if hop in trail:
            raise _Failed(f"redirects in a loop, back to {_shown(hop)}")
        if len(trail) > MAX_REDIRECTS:
            raise _Failed(f"redirects more than {MAX_REDIRECTS} times")
        if urlsplit(hop).netloc != urlsplit(trail[-1]).netloc:
            auth = _no_auth
        trail.append(hop)


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _next_hop(here: str, location: str | None) -> str:
    """The address that a redirect from ``here`` leads to."""
    if location is None:
        raise _Failed("redirects without saying where to")
    try:
        # http.client reads headers as Latin-1, but servers send addresses in UTF-8.
        hop = urljoin(here, location.encode("latin-1").decode("utf-8"))
        parts = urlsplit(hop)
        _ = parts.port  # computed, and judged, when it is read
    except ValueError:
        raise _Failed("redirects to a malformed address") from None
    if parts.scheme not in ("http", "https"):
        raise _Failed(f"redirects to a {parts.scheme}: address, which is refused")
    if parts.scheme == "http" and urlsplit(here).scheme == "https":
        raise _Failed(f"redirects from https to plain {_shown(hop)}, which is refused")
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
                raise _Failed(f"slower than {SLOWEST} bytes a second", passing=True)
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
        raise _Failed("sent a damaged gzip stream", passing=True) from None
    if not decoder.eof:
        raise _Failed("the body was cut off", passing=True)


def _encoding(response: requests.Response) -> str:
    """``identity`` or ``gzip``. Raises _Failed for any other encoding."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower() or "identity"
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise _Failed(f"sent an encoding that was not asked for ({encoding[:20]!r})")
    return encoding.removeprefix("x-")


def _validator(response: requests.Response) -> str | None:
    """What identifies this version of the file in If-Range: no weak entity tag may (RFC 9110)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


# Failures in words


def _refusal(response: requests.Response) -> _Failed:
    status = response.status_code
    passing = status in (408, 429) or status >= 500
    wait = _retry_after(response.headers.get("Retry-After", ""), time.time())
    return _Failed(f"HTTP status {status}", passing=passing, wait=wait)


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


def _network_failure(error: Exception, timeout: float) -> _Failed:
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
        return _Failed(f"its certificate is not valid ({root.verify_message})")
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
    return _Failed(reason, passing=isinstance(error, may_pass))


def _shown(place: str) -> str:
    """``place`` on one line, without what may be secret in an address: credentials and query."""
    if _is_web_address(place):
        place = re.sub(r"//[^/?#]*@", "//", place).partition("?")[0]
    return "".join(c if c.isprintable() else "?" for c in place)[:200]


def _is_web_address(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))
