"""Send an HTTP request and return the response before its body is read.

The time is limited, and redirects and credentials are checked. Failures are raised as
``SourceFailed`` with a short message that contains no secrets.
"""

from __future__ import annotations

import functools
import http.client
import re
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth
from requests.models import REDIRECT_STATI
from requests.utils import get_auth_from_url, urldefragauth

LOOK_UP_AND_HEADERS = 3  # limit for everything before the body, in multiples of the timeout
MAX_REDIRECTS = 10
MAY_PASS = (
    requests.ConnectionError,
    requests.Timeout,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
)


class SourceFailed(Exception):
    """A source failed to deliver the corpus.

    ``passing`` is true if a retry may succeed, after at least ``wait`` seconds.
    """

    def __init__(self, reason: str, *, passing: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.passing = passing
        self.wait = wait


class _Session(requests.Session):
    """A session that does not follow redirects.

    Even with allow_redirects=False, requests reads the body of a redirect without a size limit.
    """

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Add no credentials. If ``auth`` is not set, requests uses ~/.netrc."""
    return request


def open_url(url: str, headers: dict[str, str], timeout: float) -> requests.Response:
    """Request ``url``, follow redirects and return the response before its body is read.

    Credentials in ``url`` are sent to its own host only. They are dropped for good once a redirect
    leaves that host. ``timeout`` is in seconds. Raises SourceFailed if there is no response.
    """
    headers = {"Accept-Encoding": "identity", **headers}
    try:
        trail = [str(urldefragauth(url))]
        user, password = get_auth_from_url(url)
        auth = HTTPBasicAuth(user.encode(), password.encode()) if user or password else _no_auth
        with _Session() as session:
            get = functools.partial(session.get, headers=headers, timeout=timeout, stream=True)
            while True:
                ask = functools.partial(get, trail[-1], auth=auth)
                response = _in_time(ask, LOOK_UP_AND_HEADERS * timeout)
                if response.status_code not in REDIRECT_STATI:
                    return response
                response.close()
                trail.append(_next_hop(trail, response.headers.get("Location")))
                if urlsplit(trail[-1]).netloc != urlsplit(trail[-2]).netloc:
                    auth = _no_auth
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
        raise network_failure(error, timeout) from error


def _in_time(ask: Callable[[], requests.Response], seconds: float) -> requests.Response:
    """Return or raise the result of ``ask``, or raise SourceFailed after ``seconds``.

    The timeout of requests limits each read of the headers, and does not limit the DNS lookup.
    """
    answer: Future[requests.Response] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # abandoned after the timeout
    try:
        return answer.result(seconds)
    except TimeoutError:
        raise SourceFailed(f"no response within {seconds:g} seconds", passing=True) from None


def _next_hop(trail: list[str], location: str | None) -> str:
    """Return the URL that the last URL in ``trail`` redirects to. Raises SourceFailed."""
    if location is None:
        raise SourceFailed("redirects without a target")
    try:
        # http.client reads headers as Latin-1, but servers send URLs in UTF-8.
        hop = str(urldefragauth(urljoin(trail[-1], location.encode("latin-1").decode("utf-8"))))
        scheme = urllib3.util.parse_url(hop).scheme
    except ValueError:
        raise SourceFailed("redirects to a malformed URL") from None
    if scheme not in ("http", "https"):
        raise SourceFailed(f"redirects to a {scheme}: URL, which is not allowed")
    if scheme == "http" and trail[-1].startswith("https:"):
        raise SourceFailed(f"redirects from https to plain {shown(hop)}, which is not allowed")
    if hop in trail:
        raise SourceFailed(f"redirects in a loop, back to {shown(hop)}")
    if len(trail) > MAX_REDIRECTS:
        raise SourceFailed(f"redirects more than {MAX_REDIRECTS} times")
    return hop


def network_failure(error: Exception, timeout: float) -> SourceFailed:
    """Return a SourceFailed that states the root cause of ``error`` in a few words.

    The libraries' own messages are not used, as they may contain a URL with its secrets.
    """
    root: BaseException = error
    while cause := root.__cause__ or root.__context__:
        root = cause
    match root:
        case TimeoutError():
            reason = f"no data within {timeout:g} seconds"
        case socket.gaierror():
            reason = "host not found"
        case ssl.SSLCertVerificationError():
            return SourceFailed(f"invalid certificate ({root.verify_message})")
        case http.client.IncompleteRead():
            reason = "the body was cut off"
        case http.client.BadStatusLine():
            reason = "closed the connection or sent no HTTP response"
        case OSError(strerror=str(text)):
            reason = text.lower()
        case requests.exceptions.InvalidSchema():  # other schemes are refused earlier
            reason = "the environment's SOCKS proxy needs the Python package PySocks"
        case OSError() if type(root) is OSError:  # such as a missing REQUESTS_CA_BUNDLE
            reason = str(root)
        case _:
            reason = f"invalid URL or response ({type(root).__name__})"
    if isinstance(error, requests.exceptions.ProxyError):
        reason = f"the proxy failed: {reason}"
    return SourceFailed(reason, passing=isinstance(error, MAY_PASS))


def shown(place: str) -> str:
    """Return ``place`` on one line, without the credentials and the query of a URL."""
    if is_web_address(place):
        place = re.sub(r"//[^/?#]*@", "//", place).partition("?")[0]
    return "".join(c if c.isprintable() else "?" for c in place)[:200]


def is_web_address(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))
