"""Send an HTTP request and return the response before its body is read.

Redirects and credentials are checked. Failures are raised as
``SourceFailed`` with a short message that contains no secrets.
"""

from __future__ import annotations

import functools
import http.client
import re
import socket
import ssl
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth
from requests.models import REDIRECT_STATI
from requests.utils import get_auth_from_url, urldefragauth

from gru_lm.corpus.settings import shown
from gru_lm.corpus.wire import CountingSession, SourceFailed, Wire

MAX_REDIRECTS = 10
MAY_PASS = (
    requests.ConnectionError,
    requests.Timeout,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
)
TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: (\d{3})\b")  # the message of http.client


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Add no credentials. If ``auth`` is not set, requests uses ~/.netrc."""
    return request


def open_url(url: str, headers: dict[str, str], timeout: float, wire: Wire) -> requests.Response:
    """Request ``url``, follow redirects and return the response before its body is read.

    Runs in the thread of ``wire``, which counts the received bytes and closes the response.
    Credentials in ``url`` are sent to its own host only. They are dropped for good once a redirect
    leaves that host. ``timeout`` is in seconds and limits each read. Raises SourceFailed if there
    is no response.
    """
    headers = {"Accept-Encoding": "identity", **headers}
    try:
        trail = [str(urldefragauth(url))]
        user, password = get_auth_from_url(url)
        auth = HTTPBasicAuth(user.encode(), password.encode()) if user or password else _no_auth
        with CountingSession(wire) as session:
            get = functools.partial(session.get, headers=headers, timeout=timeout, stream=True)
            while True:
                response = get(trail[-1], auth=auth)
                if response.status_code not in REDIRECT_STATI:
                    wire.closing.callback(response.close)
                    return response
                response.close()
                trail.append(_next_hop(trail, response.headers.get("Location")))
                if urlsplit(trail[-1]).netloc != urlsplit(trail[-2]).netloc:
                    auth = _no_auth
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
        raise network_failure(error, timeout) from error


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
        raise SourceFailed("redirects to a URL that is not http or https, which is not allowed")
    if scheme == "http" and trail[-1].startswith("https:"):
        raise SourceFailed(f"redirects from https to plain {shown(hop)}, which is not allowed")
    if hop in trail:
        raise SourceFailed(f"redirects in a loop, back to {shown(hop)}")
    if len(trail) > MAX_REDIRECTS:
        raise SourceFailed(f"redirects more than {MAX_REDIRECTS} times")
    return hop


def network_failure(error: Exception, timeout: float) -> SourceFailed:
    """Return a SourceFailed that states the root cause of ``error`` in a few words.

    The libraries' own messages are not used, as they may contain a URL with its secrets or text
    from a server.
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
        case requests.exceptions.InvalidProxyURL():
            reason = "the environment's proxy has an invalid URL"
        case requests.exceptions.InvalidSchema():  # other schemes are refused earlier
            reason = "the environment's SOCKS proxy needs the Python package PySocks"
        case OSError(strerror=str(text), errno=int()):  # a message of the system or of OpenSSL
            reason = text.lower()
        case OSError() if type(root) is OSError and "TLS CA certificate" in str(root):
            reason = str(root)  # requests names the missing REQUESTS_CA_BUNDLE
        case OSError() if type(root) is OSError and (told := TUNNEL_REFUSED.match(str(root))):
            reason = f"HTTP status {told[1]}"
        case _:
            reason = f"invalid URL or response ({type(root).__name__})"
    if isinstance(error, requests.exceptions.ProxyError):
        reason = f"the proxy failed: {reason}"
    return SourceFailed(reason, passing=isinstance(error, MAY_PASS))
