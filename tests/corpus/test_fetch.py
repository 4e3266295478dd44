"""Fetching gives the right corpus, or keeps the earlier one and ends with one clear line.

``Project.fetch`` checks the invariants after every run, so a test only checks its own case. Most
runs are in the process of the test, as starting Python takes most of the time. Tests of the process
itself (signals, two fetches at once, a terminal) start a process.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import gzip
import hashlib
import io
import json
import os
import pty
import random
import re
import resource
import signal
import ssl
import subprocess
import sys
import termios
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import http_faults as faults
import pytest
import requests
import tenacity
import yaml
from http_faults import FaultyServer
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import run_main
from gru_lm.core.files import atomic_writer
from gru_lm.corpus import download, web, wire
from gru_lm.corpus import sources as corpus
from gru_lm.corpus.settings import Fetch, parse_url, printable, shown
from stages import fetch as stage

ROOT = Path(__file__).resolve().parents[2]
BOOK = "".join(random.Random(0).choices("abcdefgh \n", k=200_000)).encode()
OTHER = BOOK[:-1] + b"!"
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
EARLIER = {"corpus.txt": b"an earlier corpus\n", "corpus.json": b"its provenance\n"}
PAGE = b"\n<!DOCTYPE html><html><title>Log in to the hotel's network</title></html>\n"
MAX_BYTES = 300_000
TIMEOUT = 0.4  # seconds; enough for this server on a busy machine
TAG = '"v1"'


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error, which is the last line of stderr. Warnings precede it."""
        *warnings, last = self.err.splitlines()
        assert last.startswith("fetch: error: ")
        assert all(line.startswith("fetch: warning: ") for line in warnings), self.err
        return last


class Project:
    """A folder with a params.yaml and an earlier corpus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.raw = folder / "data" / "raw"
        self.raw.mkdir(parents=True)
        for name, data in EARLIER.items():
            (self.raw / name).write_bytes(data)
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not re.fullmatch(r"(?i).*_proxy|GRU_LM_.*|NETRC|PYTHON.*", name)
        }
        self.env |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "HOME": str(folder)}

    def use(self, fetch: dict[str, Any] | None = None, **entry: Any) -> None:
        """Write params.yaml with this entry for ``book``, with BOOK's checksum by default."""
        params = copy.deepcopy(PARAMS)
        params["fetch"] |= {"timeout": TIMEOUT, "retries": 1, "max_bytes": MAX_BYTES} | (
            fetch or {}
        )
        params["fetch"]["corpus"] = "book"
        entry = {"sha256": sha256(BOOK)} | entry
        params["corpora"]["book"] = {key: value for key, value in entry.items() if value}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.raw.iterdir()}

    def fetch(self, expect: bytes | None, code: int = 3) -> Result:
        """Run the stage. It must write ``expect``, or fail with ``code`` if ``expect`` is None."""
        before = self.files()
        result = self.here()
        self.check(result, before, expect, code)
        return result

    def check(
        self, result: Result, before: dict[str, bytes], expect: bytes | None, code: int = 3
    ) -> None:
        assert "Traceback" not in result.err, result.err
        if expect is None:
            assert result.code == code, result
            assert result.out == ""
            assert result.error
            assert self.files() == before
        else:
            assert result.code == 0, result
            assert result.out.startswith("fetch: book, ") and result.out.count("\n") == 1
            assert all(line.startswith("fetch: warning: ") for line in result.err.splitlines())
            assert self.files().keys() == {"corpus.txt", "corpus.json"}
            assert self.files()["corpus.txt"] == expect
            assert json.loads(self.files()["corpus.json"]) == {
                "corpus": "book",
                "sha256": sha256(expect),
                "bytes": len(expect),
            }

    def here(self) -> Result:
        out, err = io.StringIO(), io.StringIO()
        code: Any = 0
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(self.folder):
            for name in os.environ.keys() - self.env.keys():
                patch.delenv(name)
            for name, value in self.env.items():
                patch.setenv(name, value)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    run_main("fetch", stage.main)
                except SystemExit as stop:
                    code = stop.code
                finally:
                    signal.signal(signal.SIGTERM, handler)
        return Result(code, out.getvalue(), err.getvalue())

    def start(self, **options: Any) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        options = {"stdout": pipe, "stderr": pipe, "text": True} | options
        command = [sys.executable, "-m", "stages.fetch"]
        return subprocess.Popen(command, cwd=self.folder, env=self.env, **options)


def finish(process: subprocess.Popen[str]) -> Result:
    out, err = process.communicate(timeout=20)
    return Result(process.returncode, out, err)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


# Faults of one URL: the server's behaviour, a part of the message, and the number of requests with
# fetch.retries = 1 (2 if a retry may help, else 1).

FAULTS: dict[str, tuple[faults.Behaviour, str, int]] = {
    "403": (faults.status(403), "HTTP status 403", 1),
    "404": (faults.status(404), "HTTP status 404", 1),
    "204": (faults.status(204), "HTTP status 204", 1),
    "206 unasked": (faults.whole(BOOK, 206), "HTTP status 206", 1),
    "408": (faults.status(408), "HTTP status 408", 2),
    "429": (faults.status(429), "HTTP status 429", 2),
    "500": (faults.status(500), "HTTP status 500", 2),
    "503": (faults.status(503), "HTTP status 503", 2),
    "silent": (faults.silent, f"no data within {TIMEOUT} seconds", 2),
    "stalled": (faults.stalled(BOOK, 1000), f"no data within {TIMEOUT} seconds", 2),
    "dripping": (faults.dripping(BOOK, 100_000, 0.02), "slower than 1024 bytes per second", 2),
    "dripping header": (faults.dripping_header, f"no response within {3 * TIMEOUT:g} s", 2),
    "endless headers": (faults.endless_headers, "invalid URL or response", 2),
    "reset": (faults.reset, "connection reset by peer", 2),
    "hung up": (faults.hung_up, ": closed the connection or sent no HTTP response)", 2),
    "gibberish": (faults.gibberish, ": closed the connection or sent no HTTP response)", 2),
    "cut off": (faults.cut_off(BOOK, 150_000), ": the body was cut off)", 2),
    "cut off at once": (faults.cut_off(BOOK, 0), ": the body was cut off)", 2),
    "chunks cut off": (faults.cut_off_chunks(BOOK), ": the body was cut off)", 2),
    "gzip cut off": (faults.zipped(BOOK, 5000), ": the body was cut off)", 2),
    "gzip damaged": (
        faults.unframed(b"\x1f\x8b" + BOOK, Content_Encoding="gzip"),
        "damaged gzip stream",
        2,
    ),
    "length too long": (
        faults.whole(BOOK, Content_Length=len(BOOK) + 1),
        ": the body was cut off)",
        2,
    ),
    "length too short": (
        faults.whole(BOOK, Content_Length=len(BOOK) - 1),
        f"reached, but sent other bytes (SHA-256 {sha256(BOOK[:-1])}, expected {sha256(BOOK)})",
        1,
    ),
    "two lengths": (faults.whole(BOOK, Content_Length="5, 6"), "invalid URL or", 1),
    "other bytes": (
        faults.whole(OTHER),
        f"reached, but sent other bytes (SHA-256 {sha256(OTHER)}, expected {sha256(BOOK)})",
        1,
    ),
    "a page": (faults.whole(PAGE, Content_Type="text/html"), "apparently a web page", 1),
    "empty": (faults.whole(b""), "reached, but sent nothing", 1),
    "long": (faults.whole(BOOK * 2), f"fetch.max_bytes allows ({MAX_BYTES} bytes)", 1),
    "long by its own account": (
        faults.stalled(BOOK, 0, Content_Length=10**12),
        f"fetch.max_bytes allows ({MAX_BYTES} bytes)",
        1,
    ),
    "endless": (faults.endless(), f"fetch.max_bytes allows ({MAX_BYTES} bytes)", 1),
    "gzip bomb": (
        faults.unframed(faults.bomb(1 << 28), Content_Encoding="gzip"),
        f"fetch.max_bytes allows ({MAX_BYTES} bytes)",
        1,
    ),
    "no number for a length": (
        faults.whole(BOOK, Content_Length="200000 bytes"),
        "an invalid Content-Length",
        1,
    ),
    "strange encoding": (
        faults.whole(BOOK, Content_Encoding="br"),
        "unsupported encoding ('br')",
        1,
    ),
    "to a file": (faults.redirect("file:///etc/hostname"), "not http or https", 1),
    "to ftp": (faults.redirect("ftp://127.0.0.1/book.txt"), "not http or https", 1),
    "to data": (faults.redirect("data:text/plain,abc"), "not http or https", 1),
    "to a word": (faults.redirect("secret:book.txt"), "not http or https", 1),
    "to nowhere": (faults.redirect(None), "redirects without a target", 1),
    "to a bad port": (faults.redirect("http://127.0.0.1:99999/"), "a malformed URL", 1),
    "to no host": (faults.redirect("https:///book.txt"), "invalid URL or", 1),
    "to a bad bracket": (faults.redirect("http://[::1/book.txt"), "a malformed URL", 1),
    "to itself": (faults.redirect("/book.txt"), "in a loop, back to http://127.0.0.1:", 1),
    "to a part of itself": (faults.redirect("#top"), "in a loop, back to http://127.0.0.1:", 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_url_is_named_and_next_used(
    fault: str, project: Project, server: FaultyServer
) -> None:
    behaviour, reason, requests = FAULTS[fault]
    bad = server.add("/book.txt", behaviour)
    project.use(urls=[bad])
    result = project.fetch(None)
    assert f"({bad}: " in result.error
    assert reason in result.error
    assert len(server.asked("/book.txt")) == requests
    good = server.add("/good.txt", faults.whole(BOOK))
    project.use({"retries": 0}, urls=[bad, good])
    assert f"from {good}" in project.fetch(BOOK).out


# Endless responses: the start, a piece that is repeated forever, and a part of the message if the
# pieces are sent slowly.

NO_RESPONSE, SLOW = "no response within 0.75 seconds", "slower than 1024 bytes per second"
GZIP_HEADER = b"\x1f\x8b\x08" + bytes(7)
ENDLESS: dict[str, tuple[bytes, bytes, str]] = {
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", NO_RESPONSE),
    "trailers": (faults.CHUNKED + b"4\r\nbook\r\n0\r\n", b"X-Filler: x\r\n", SLOW),
    "chunk extensions": (faults.CHUNKED, b"1;" + b"x" * 2000 + b"\r\na\r\n", SLOW),
    "gzip file name": (faults.GZIP + GZIP_HEADER[:3] + b"\x08" + bytes(6), b"name", SLOW),
    "gzip comment": (faults.GZIP + GZIP_HEADER[:3] + b"\x10" + bytes(6), b"said", SLOW),
    "gzip members": (faults.GZIP, gzip.compress(b""), SLOW),
    "gzip blocks": (faults.GZIP + GZIP_HEADER, b"\x00\x00\x00\xff\xff", SLOW),
}
DRIPS: dict[str, tuple[bytes, bytes, str]] = ENDLESS | {
    "status line": (b"HTTP/1.1 200 ", b"O", NO_RESPONSE),
    "header name": (faults.OK, b"X", NO_RESPONSE),
    "chunk size": (faults.CHUNKED, b"0", SLOW),
    "chunk extension": (faults.CHUNKED + b"4;", b"x", SLOW),
    "trailer": (faults.CHUNKED + b"0\r\n", b"x", SLOW),
    "chunks": (faults.CHUNKED, b"1\r\nx\r\n", SLOW),
    "body": (faults.OK + b"\r\n", b"x", SLOW),
    "end of a body": (faults.OK + b"\r\n" + BOOK, b"x", SLOW),
}


@pytest.mark.parametrize("what", DRIPS)
def test_slow_response_times_out(what: str, project: Project, server: FaultyServer) -> None:
    start, piece, reason = DRIPS[what]
    project.use(
        {"timeout": 0.25, "retries": 0}, urls=[server.add("/a", faults.forever(start, piece))]
    )
    began = time.monotonic()
    assert reason in project.fetch(None).error
    assert time.monotonic() - began < 5 * 0.25 + 1
    while any(thread.name == "wire" for thread in threading.enumerate()):
        assert time.monotonic() - began < 6 * 0.25 + 2, "its thread ends after its present read"
        time.sleep(0.01)


@pytest.mark.parametrize("what", ENDLESS)
def test_flooding_response_is_stopped(what: str, project: Project, server: FaultyServer) -> None:
    """The limit on bytes stops it long before the timeout, and nothing more is read."""
    start, piece, _ = ENDLESS[what]
    flood = faults.forever(start, piece * (20_000 // len(piece)), pause=0)
    project.use({"timeout": 8.0}, urls=[server.add("/a", flood)])
    assert "sent much more than fetch.max_bytes allows" in project.fetch(None).error
    time.sleep(0.05)
    assert len(server.requests) == 1
    assert server.sent < 20_000_000, "no more than the buffers between server and client hold"


def test_slow_redirects_time_out(project: Project, server: FaultyServer) -> None:
    """Each redirect takes less than the timeout, all of them more than three times the timeout."""
    for number in range(1, 10):
        server.add(f"/{number}", faults.late(0.15, faults.redirect(f"/{number - 1}")))
    server.add("/0", faults.whole(BOOK))
    project.use({"timeout": 0.3, "retries": 0}, urls=[server.url("/9")])
    assert "no response within 0.9 seconds" in project.fetch(None).error


@pytest.mark.parametrize("start", [b"", b"\x16\x03\x03\x3f\xff\x02"], ids=["silent", "dripping"])
def test_endless_tls_handshake_times_out(start: bytes, project: Project) -> None:
    with faults.raw_server(start, b"\x00" if start else b"") as port:
        project.use({"retries": 0}, urls=[f"https://127.0.0.1:{port}/book.txt"])
        assert f"no data within {TIMEOUT} seconds" in project.fetch(None).error


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (faults.dripping_header, f"no response within {3 * TIMEOUT:g} seconds"),
        (faults.forever(faults.OK, b"X: x\r\n" * 1000, pause=0), "sent much more than"),
        (faults.silent, f": no data within {TIMEOUT} seconds"),
        (faults.status(407), "the proxy failed: HTTP status 407"),
    ],
    ids=["drip", "flood", "silence", "refusal"],
)
def test_stalled_proxy_tunnel_times_out(
    behaviour: faults.Behaviour, reason: str, project: Project, server: FaultyServer
) -> None:
    server.add("books.invalid:443", behaviour)
    project.env["https_proxy"] = server.url("")
    project.use({"retries": 0}, urls=["https://books.invalid/book.txt"])
    assert reason in project.fetch(None).error


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_slow_working_connection_succeeds(
    encoding: str, project: Project, server: FaultyServer
) -> None:
    """It is sent at 2500 bytes per second, for eight times the timeout."""
    data = random.Random(0).randbytes(4000)
    body = gzip.compress(data) if encoding == "gzip" else data

    def slow(exchange: faults.Exchange) -> None:
        exchange.start(Content_Length=len(body), Content_Encoding=encoding)
        for start in range(0, len(body), 50):
            exchange.body(body[start : start + 50])
            time.sleep(0.02)

    project.use({"timeout": 0.2}, urls=[server.add("/a", slow)], sha256=sha256(data))
    project.fetch(data)
    assert len(server.requests) == 1


def test_abandoned_responses_do_not_delay_exit(project: Project, server: FaultyServer) -> None:
    """The server sends each of them until this test is over."""
    urls = [
        server.add(f"/{number}", faults.forever(*DRIPS[what][:2]))
        for number, what in enumerate(["header name", "trailer", "gzip members"])
    ]
    project.use({"retries": 0}, urls=urls)
    before = project.files()
    began = time.monotonic()
    result = finish(project.start())
    project.check(result, before, None, code=3)
    assert f"{urls[0]}: no response within {3 * TIMEOUT:g} seconds" in result.error
    assert result.error.count(SLOW) == 2
    assert time.monotonic() - began < 3 * 5 * TIMEOUT + 6, "includes the start of Python"


@pytest.mark.parametrize("fault", ["long", "endless", "gzip bomb"])
def test_oversized_body_is_not_read_to_end(
    fault: str, project: Project, server: FaultyServer
) -> None:
    project.use(urls=[server.add("/book.txt", FAULTS[fault][0])])
    project.fetch(None)
    time.sleep(0.05)
    assert server.sent < 20_000_000, "no more than the buffers between server and client hold"


def test_redirect_body_is_not_read(project: Project, server: FaultyServer) -> None:
    good = server.add("/good.txt", faults.whole(BOOK))
    project.use(urls=[server.add("/book.txt", faults.endless(302, Location=good))])
    project.fetch(BOOK)
    assert server.sent < 20_000_000


# No server


def test_refused_connection(project: Project) -> None:
    url = f"http://127.0.0.1:{faults.closed_port()}/book.txt"
    project.use(urls=[url])
    assert f"{url}: connection refused" in project.fetch(None).error


def test_unknown_host(project: Project) -> None:
    project.use(urls=["http://books.invalid/book.txt"])
    assert "http://books.invalid/book.txt: host not found" in project.fetch(None).error


def test_invalid_host_name(project: Project) -> None:
    project.use(urls=[f"http://{'x' * 70}.invalid/book.txt"])
    assert "invalid URL" in project.fetch(None).error


def test_https_url_of_http_server(project: Project, server: FaultyServer) -> None:
    url = server.add("/book.txt", faults.whole(BOOK)).replace("http:", "https:")
    project.use({"retries": 0}, urls=[url])
    assert "[ssl" in project.fetch(None).error


def test_invalid_certificate_is_not_retried() -> None:
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.verify_message = "self-signed certificate"
    error = requests.exceptions.SSLError("https://user:secret@a.org")
    error.__cause__ = cause
    failure = web.network_failure(error, timeout=1.0)
    assert str(failure) == "invalid certificate (self-signed certificate)"
    assert not failure.passing


def test_unusable_environment_settings(project: Project) -> None:
    project.use({"retries": 0}, urls=["https://books.invalid/book.txt"])
    project.env["REQUESTS_CA_BUNDLE"] = "nowhere.pem"
    assert "nowhere.pem" in project.fetch(None).error
    del project.env["REQUESTS_CA_BUNDLE"]
    project.env["all_proxy"] = f"socks5://127.0.0.1:{faults.closed_port()}"
    error = project.fetch(None).error
    missing = ": the environment's SOCKS proxy needs the Python package PySocks)"
    assert missing in error or find_spec("socks")


def test_unreachable_sources_are_named_with_remedy(project: Project) -> None:
    urls = ["http://one.invalid/book.txt", "https://two.invalid/book.txt"]
    project.use(urls=urls)
    project.env["GRU_LM_CORPUS_MIRROR"] = "https://mirror.invalid/books"
    before = project.files()
    result = finish(project.start())
    project.check(result, before, None)
    assert result.err.count("\n") == 2, "a warning for the mirror, and the error"
    for part in [*urls, "https://mirror.invalid/books"]:
        assert f"{part}: host not found" in result.error
    assert "dvc exp run -S fetch.corpus=sample" in result.error
    assert "GRU_LM_CORPUS_MIRROR" in result.error
    assert "contains book.txt" in result.error


def test_failed_fetch_leaves_no_file(project: Project, server: FaultyServer) -> None:
    for path in project.raw.iterdir():
        path.unlink()
    project.use(urls=[server.add("/book.txt", faults.cut_off(BOOK, 100))])
    project.fetch(None)
    assert project.files() == {}


# Recovery


@pytest.mark.parametrize(
    "fault", ["408", "429", "500", "503", "silent", "stalled", "reset", "hung up", "cut off"]
)
def test_transient_failure_is_retried(fault: str, project: Project, server: FaultyServer) -> None:
    project.use(urls=[server.add("/book.txt", FAULTS[fault][0], faults.whole(BOOK))])
    project.fetch(BOOK)
    assert len(server.requests) == 2


def test_two_transient_failures_are_retried(project: Project, server: FaultyServer) -> None:
    failures = (faults.status(503), faults.hung_up)
    project.use({"retries": 2}, urls=[server.add("/book.txt", *failures, faults.whole(BOOK))])
    project.fetch(BOOK)
    assert len(server.requests) == 3


def test_retry_after_is_honoured(project: Project, server: FaultyServer) -> None:
    busy = faults.status(429, Retry_After=1)
    project.use(urls=[server.add("/book.txt", busy, faults.whole(BOOK))])
    project.fetch(BOOK)
    first, second = server.requests
    assert second.at - first.at >= 1.0


def test_failures_are_permanent_by_default() -> None:
    failure = wire.SourceFailed("the reason")
    assert (str(failure), failure.passing, failure.wait) == ("the reason", False, 0.0)


def test_retry_after_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    assert download._retry_after("7") == 7
    assert download._retry_after("99999") == download._retry_after("9" * 400) == 30
    assert download._retry_after(formatdate(now + 5, usegmt=True)) == 5
    assert download._retry_after(formatdate(now - 5, usegmt=True)) == 0
    assert download._retry_after("") == download._retry_after("soon") == 0
    assert download._retry_after("9" * 5000) == 0, "more digits than Python converts"


@given(st.text())
@settings(deadline=None)
def test_wait_for_any_retry_after_is_bounded(field: str) -> None:
    assert 0 <= download._retry_after(field) <= 30


def wait_after(failures: int, asked: float = 0.0) -> float:
    """Return the wait in seconds after a number of failures, the last with a Retry-After."""
    retrying = download._retrying(Fetch(corpus="book", timeout=20.0, retries=10, max_bytes=1))
    state = tenacity.RetryCallState(retrying, None, (), {})
    state.attempt_number = failures
    failure = wire.SourceFailed("the reason", passing=True, wait=asked)
    state.set_exception((type(failure), failure, None))
    return float(retrying.wait(state))


def test_back_off_is_random_growing_and_capped() -> None:
    for failures, longest in [(1, 0.5), (2, 1.0), (3, 2.0), (10, 30.0)]:
        waits = {wait_after(failures) for _ in range(500)}
        assert longest / 2 <= min(waits) < max(waits) <= longest


def test_longer_of_back_off_and_retry_after_is_used() -> None:
    assert wait_after(1, asked=7.0) == 7
    assert wait_after(10, asked=7.0) >= 15


# Continuing a transfer


@pytest.mark.parametrize("checksum", [sha256(BOOK), None])
def test_truncated_transfer_is_resumed(
    checksum: str | None, project: Project, server: FaultyServer
) -> None:
    project.use(
        {"retries": 2},
        sha256=checksum,
        urls=[
            server.add(
                "/book.txt",
                faults.resumable(BOOK, TAG, 150_000),
                faults.status(503),  # keeps the bytes received so far
                faults.resumable(BOOK, TAG, 150_000),
            )
        ],
    )
    project.fetch(BOOK)
    assert server.sent == len(BOOK) + len(b"sorry\n")
    assert server.requests[2].headers["Range"] == "bytes=150000-"
    assert server.requests[2].headers["If-Range"] == TAG


@pytest.mark.parametrize(
    ("second", "requests"),
    [
        pytest.param(faults.whole(BOOK), 2, id="the server knows no ranges"),
        pytest.param(faults.status(416), 3, id="it cannot satisfy the range"),
        pytest.param(
            faults.whole(BOOK, 206, ETag=TAG, Content_Range="bytes 0-199999/200000"),
            3,
            id="other start",
        ),
        pytest.param(
            faults.whole(
                BOOK[150_000:-9], 206, ETag=TAG, Content_Range="bytes 150000-199999/200000"
            ),
            3,
            id="too short for its range",
        ),
        pytest.param(
            faults.whole(
                BOOK[150_000:],
                206,
                ETag=TAG,
                Content_Range="bytes 150000-199999/200000",
                Content_Encoding="gzip",
            ),
            3,
            id="encoded otherwise",
        ),
        pytest.param(
            faults.resumable(BOOK, TAG, 0, "bytes 0-{last}/{size}"), 3, id="other start, if true"
        ),
        pytest.param(faults.resumable(BOOK, TAG, 0, "bytes {start}-9/{size}"), 3, id="a part"),
        pytest.param(faults.resumable(BOOK, TAG, 0, "bytes {start}-{last}/*"), 3, id="no size"),
        pytest.param(faults.resumable(BOOK, TAG, 0, "{start}"), 3, id="senseless"),
        pytest.param(
            faults.resumable(BOOK, TAG, 0, later_validator='"v2"'), 3, id="another version"
        ),
        pytest.param(
            faults.whole(BOOK[150_000:], 206, Content_Range="bytes 150000-199999/200000"),
            3,
            id="no version",
        ),
        pytest.param(
            faults.unframed(
                BOOK[150_000:-9], 206, ETag=TAG, Content_Range="bytes 150000-199999/200000"
            ),
            3,
            id="no length, and too short",
        ),
        pytest.param(
            faults.unframed(
                BOOK[150_000:] + b"more",
                206,
                ETag=TAG,
                Content_Range="bytes 150000-199999/200000",
            ),
            3,
            id="no length, and too long",
        ),
        pytest.param(
            faults.whole(
                BOOK[150_000:] + b"more",
                206,
                ETag=TAG,
                Content_Range="bytes 150000-200003/200004",
            ),
            3,
            id="another size",
        ),
    ],
)
@pytest.mark.parametrize("checksum", [sha256(BOOK), None])
def test_unresumable_transfer_starts_over(
    second: faults.Behaviour,
    requests: int,
    checksum: str | None,
    project: Project,
    server: FaultyServer,
) -> None:
    first = faults.resumable(OTHER, TAG, 150_000)
    url = server.add("/book.txt", first, second, faults.whole(BOOK))
    project.use({"retries": 1}, urls=[url], sha256=checksum)
    project.fetch(BOOK)
    assert len(server.requests) == requests
    assert "Range" in server.requests[1].headers
    assert requests == 2 or "Range" not in server.requests[2].headers


def test_longer_part_is_truncated_by_shorter_file(project: Project, server: FaultyServer) -> None:
    short = BOOK[:1000]
    url = server.add("/book.txt", faults.cut_off(BOOK, 150_000), faults.whole(short))
    project.use(urls=[url], sha256=None)
    project.fetch(short)


def test_empty_part_is_not_resumed(project: Project, server: FaultyServer) -> None:
    project.use(urls=[server.add("/book.txt", faults.resumable(BOOK, TAG, 0), faults.whole(BOOK))])
    project.fetch(BOOK)
    assert all("Range" not in request.headers for request in server.requests)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ETag": 'W/"v1"'},
        {"ETag": '""'},
        {"Last_Modified": "Wed, 21 Oct 2015 07:28:00 GMT"},
        {"ETag": TAG, "Content_Encoding": "gzip"},
    ],
)
def test_no_resume_without_strong_validator(
    headers: dict[str, Any], project: Project, server: FaultyServer
) -> None:
    data = b"\x1f\x8b\x08" + bytes(7) + BOOK if "Content_Encoding" in headers else BOOK
    url = server.add("/book.txt", faults.cut_off(data, 5000, **headers), faults.whole(BOOK))
    project.use(urls=[url])
    project.fetch(BOOK)
    assert all("Range" not in request.headers for request in server.requests)


def test_no_resume_without_size(project: Project, server: FaultyServer) -> None:
    first = faults.cut_off_chunks(BOOK, ETag=TAG)
    project.use(urls=[server.add("/book.txt", first, faults.whole(BOOK))])
    project.fetch(BOOK)
    assert all("Range" not in request.headers for request in server.requests)


def test_no_resume_from_another_url(project: Project, server: FaultyServer) -> None:
    """A redirect leads to two URLs whose files have the same tag and size by chance."""
    server.add("/one", faults.resumable(OTHER, TAG, 150_000))
    server.add("/two", faults.resumable(BOOK, TAG, 0), faults.whole(BOOK))
    to_two = faults.redirect("/two")
    project.use(urls=[server.add("/", faults.redirect("/one"), to_two)], sha256=None, file="a.txt")
    project.fetch(BOOK)
    assert ["Range" in request.headers for request in server.asked("/two")] == [True, False]


def test_versions_of_a_file_are_not_mixed(project: Project, server: FaultyServer) -> None:
    old, new = faults.resumable(OTHER, TAG, 150_000), faults.resumable(BOOK, '"v2"', len(BOOK))
    project.use(urls=[server.add("/book.txt", old, new)], sha256=None)
    project.fetch(BOOK)


# Without a checksum


@pytest.mark.parametrize(
    "fault",
    [
        *("cut off", "cut off at once", "chunks cut off", "gzip cut off", "gzip damaged"),
        *("stalled", "length too long", "a page", "empty", "long", "endless", "gzip bomb"),
        "206 unasked",
    ],
)
def test_faults_are_detected_without_checksum(
    fault: str, project: Project, server: FaultyServer
) -> None:
    project.use({"retries": 0}, urls=[server.add("/book.txt", FAULTS[fault][0])], sha256=None)
    project.fetch(None)


def test_unknown_checksum_is_recorded(project: Project, server: FaultyServer) -> None:
    project.use(urls=[server.add("/book.txt", faults.whole(OTHER))], sha256=None)
    project.fetch(OTHER)
    project.fetch(OTHER)
    assert len(server.requests) == 2, "nothing says that the file there is the right one"


@pytest.mark.parametrize(
    ("body", "kind"), [(b"Please log in.\n", "text/html; charset=utf-8"), (PAGE, "text/plain")]
)
def test_html_is_refused_unless_url_is_html(
    body: bytes, kind: str, project: Project, server: FaultyServer
) -> None:
    page = faults.whole(body, Content_Type=kind)
    project.use(urls=[server.add("/book.txt", page)], sha256=None)
    assert "reached, but sent something else, apparently a web page" in project.fetch(None).error
    project.use(urls=[server.add("/book.HTML?x=1", page)], sha256=None)
    project.fetch(body)


def test_checksum_overrides_content_type(project: Project, server: FaultyServer) -> None:
    project.use(urls=[server.add("/book.txt", faults.whole(BOOK, Content_Type="text/html"))])
    project.fetch(BOOK)


# Valid transfers and redirects


@pytest.mark.parametrize(
    "behaviour",
    [
        faults.whole(BOOK),
        faults.unframed(BOOK),
        faults.chunked(BOOK),
        faults.zipped(BOOK),
        faults.unframed(b"".join(faults.members(BOOK, 3)), Content_Encoding="x-gzip"),
        faults.whole(BOOK, Content_Encoding="identity"),
    ],
    ids=["length", "no length", "chunks", "gzip", "gzip in three members", "identity"],
)
@pytest.mark.parametrize("checksum", [sha256(BOOK), None])
def test_body_framings_are_decoded(
    behaviour: faults.Behaviour, checksum: str | None, project: Project, server: FaultyServer
) -> None:
    project.use(urls=[server.add("/book.txt", behaviour)], sha256=checksum)
    project.fetch(BOOK)
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("behaviour", [faults.whole(BOOK), faults.unframed(BOOK)])
def test_corpus_of_max_bytes_is_accepted(
    behaviour: faults.Behaviour, project: Project, server: FaultyServer
) -> None:
    url = server.add("/book.txt", behaviour)
    project.use({"max_bytes": len(BOOK)}, urls=[url])
    project.fetch(BOOK)
    project.use({"max_bytes": len(BOOK) - 1}, urls=[url])
    (project.raw / "corpus.txt").write_bytes(b"something else\n")
    assert "fetch.max_bytes" in project.fetch(None).error


@pytest.mark.parametrize(
    "before", [b"", gzip.compress(b"a member")], ids=["first member", "second member"]
)
def test_only_gzip_is_decompressed(before: bytes) -> None:
    assert b"".join(download._gunzip(iter([before + gzip.compress(b"more")]))).endswith(b"more")
    with pytest.raises(wire.SourceFailed, match="a damaged gzip stream"):
        list(download._gunzip(iter([before + zlib.compress(b"not gzip, but zlib")])))


def test_corpus_of_one_byte_is_accepted(project: Project, server: FaultyServer) -> None:
    project.use(urls=[server.add("/book.txt", faults.whole(b"x"))], sha256=sha256(b"x"))
    project.fetch(b"x")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirect_is_followed(code: int, project: Project, server: FaultyServer) -> None:
    server.add("/books/good.txt", faults.whole(BOOK))
    project.use(urls=[server.add("/books/book.txt", faults.redirect("good.txt", code))])
    project.fetch(BOOK)


def test_redirect_in_raw_utf_8_is_followed(project: Project, server: FaultyServer) -> None:
    server.add("/b%C3%BCcher.txt", faults.whole(BOOK))
    raw = "/bücher.txt".encode().decode("latin-1")  # as http.server encodes headers in Latin-1
    project.use(urls=[server.add("/book.txt", faults.redirect(raw))])
    project.fetch(BOOK)


def test_responses_are_closed(
    project: Project, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[tuple[str | None, int]] = []
    real = requests.Response.close

    def close(response: requests.Response) -> None:
        closed.append((urlsplit(response.url).path, response.status_code))
        real(response)

    monkeypatch.setattr(requests.Response, "close", close)
    parts = (faults.resumable(BOOK, TAG, 150_000), faults.status(416), faults.whole(BOOK))
    server.add("/book.txt", *parts)
    project.use(urls=[server.add("/start", faults.redirect("/book.txt"))])
    project.fetch(BOOK)
    assert {("/start", 302), ("/book.txt", 200), ("/book.txt", 416)} == set(closed)


def test_redirect_limit_is_ten(project: Project, server: FaultyServer) -> None:
    for number in range(1, 12):
        server.add(f"/{number}", faults.redirect(f"/{number - 1}"))
    server.add("/0", faults.whole(BOOK))
    project.use(urls=[server.url("/11")])
    assert "redirects more than 10 times" in project.fetch(None).error
    project.use(urls=[server.url("/10")])
    project.fetch(BOOK)


def test_redirect_loop_is_refused(project: Project, server: FaultyServer) -> None:
    server.add("/b", faults.redirect("/a"))
    project.use(urls=[server.add("/a", faults.redirect("/b"))])
    assert f"redirects in a loop, back to {server.url('/a')}" in project.fetch(None).error
    assert len(server.requests) == 2


def test_redirect_from_https_to_http_is_refused() -> None:
    assert web._next_hop(["http://a.org/x"], "https://a.org/y") == "https://a.org/y"
    assert web._next_hop(["https://a.org/x"], "//b.org/y") == "https://b.org/y"
    with pytest.raises(wire.SourceFailed, match=r"from https to plain http://b\.org/y, which"):
        web._next_hop(["https://a.org/x"], "http://user:secret@b.org/y?secret")


# Credentials


def authorizations(server: FaultyServer) -> list[str | None]:
    return [request.headers.get("Authorization") for request in server.requests]


BASIC = "Basic dXNlcjpzZWNyZXQ="  # user:secret


def test_credentials_are_sent_to_their_host_only(project: Project, server: FaultyServer) -> None:
    back = server.add("/book.txt", faults.whole(BOOK))
    server.add("/away", faults.redirect(back))
    server.add("/near", faults.redirect(server.url("/away", host="localhost")))
    server.add("/start", faults.redirect("/near"))
    project.use(urls=[server.url("/start", user="user:secret")])
    result = project.fetch(BOOK)
    assert [request.path for request in server.requests] == [
        "/start",
        "/near",
        "/away",
        "/book.txt",
    ]
    assert authorizations(server) == [BASIC, BASIC, None, None]
    assert "secret" not in result.out + result.err


@pytest.mark.parametrize(
    ("user", "sent"), [("user:", "Basic dXNlcjo="), (":secret", "Basic OnNlY3JldA==")]
)
def test_partial_credentials_are_sent(
    user: str, sent: str, project: Project, server: FaultyServer
) -> None:
    server.add("/book.txt", faults.whole(BOOK))
    project.use(urls=[server.url("/book.txt", user=user)])
    project.fetch(BOOK)
    assert authorizations(server) == [sent]


def test_credentials_in_a_redirect_are_not_used(project: Project, server: FaultyServer) -> None:
    server.add("/book.txt", faults.whole(BOOK))
    there = server.url("/book.txt", user="user:secret")
    project.use(urls=[server.add("/start", faults.redirect(there))])
    project.fetch(BOOK)
    assert authorizations(server) == [None, None]


@pytest.mark.parametrize("user", ["", "user:secret"])
def test_netrc_is_not_read(user: str, project: Project, server: FaultyServer) -> None:
    netrc = project.folder / "netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    project.env["NETRC"] = str(netrc)
    there = server.add("/book.txt", faults.whole(BOOK)).replace("127.0.0.1", "localhost")
    server.add("/start", faults.redirect(there))
    project.use(urls=[server.url("/start", user=user)])
    project.fetch(BOOK)
    assert authorizations(server) == [BASIC if user else None, None]


@pytest.mark.parametrize("fault", ["404", "silent", "cut off", "other bytes", "to itself"])
def test_url_secrets_are_not_printed(fault: str, project: Project, server: FaultyServer) -> None:
    path = "/book.txt?token=secret"
    server.add(path, FAULTS[fault][0])
    url = server.url(path, user="user:secret")
    project.use({"retries": 0}, urls=[url], file="book.txt")
    project.env["GRU_LM_CORPUS_MIRROR"] = server.url("/mirror", user="user:secret")
    result = project.fetch(None)
    assert server.url("/book.txt") in result.error
    assert "secret" not in result.err


def test_url_is_shown_on_one_short_line() -> None:
    assert shown("HTTPS://user:secret@a.org:80/b/c;d?e") == "https://a.org:80/b/c;d"
    assert shown("http://a.org/who\x85") == "http://a.org/who?", "a redirect may contain it"
    assert printable("a folder/who?\t") == "a folder/who??"
    assert printable("x" * 200) == printable("x" * 201) == "x" * 200


@pytest.mark.parametrize(
    "address",
    [
        "http://a.org",
        "https://user:secret@a.org:8080/b.txt?token=secret&x=/?",
        "http://:@[::1]:80/",
        "HTTP://u%40:!$&'()*+,;=:@a-b_c.org/%20~;x",
    ],
)
def test_unambiguous_url_is_accepted(address: str) -> None:
    assert parse_url(address) == urlsplit(address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "must start with http:// or https:// and a host"),
        ("ftp://user:secret@a.org/b", "must start with http:// or https:// and a host"),
        ("user:secret@a.org/b", "must start with http:// or https:// and a host"),
        ("//user:secret@a.org/b", "must start with http:// or https:// and a host"),
        ("http:user:secret@a.org/b", "must start with http:// or https:// and a host"),
        ("http:///user:secret@a.org/b", "must start with http:// or https:// and a host"),
        ("http://user:secret@/b", "must start with http:// or https:// and a host"),
        (" http://user:secret@a.org/b", "percent-encoded"),
        ("http://user:se\tcret@a.org/b", "percent-encoded"),
        ("http://user:secret@a.org/b\n", "percent-encoded"),
        ("http://user:secret@a\u2100.org/b", "percent-encoded"),
        ("http://user:secret\uff20a.org/b", "percent-encoded"),
        ("http\uff1a//user\uff1asecret\uff20a.org/b", "percent-encoded"),
        ("http://user:secret@a.org/b#part", "percent-encoded"),
        ("http://user:12#secret@a.org/b", "percent-encoded"),
        ("http://user:secret@a.org\\@b.org/", "percent-encoded"),
        ("http://user:12/secret@a.org/b", "(as %40)"),
        ("http://user:12?secret@a.org/b", "(as %40)"),
        ("http://user:secret/a.org/b", "the URL is malformed"),
        ("http://user:secret@a.org:99999/b", "the URL is malformed"),
        ("http://user:secret@[a.org/b", "the URL is malformed"),
        ("http://user:secret@more@a.org/b", "host or port of the URL is malformed"),
        ("http://user:secret@a.org:/b", "host or port of the URL is malformed"),
        ("http://user:secret@a%2eorg/b", "host or port of the URL is malformed"),
    ],
)
def test_ambiguous_url_is_refused_and_not_shown(
    address: str, reason: str, project: Project, server: FaultyServer
) -> None:
    good = server.add("/book.txt", faults.whole(BOOK))
    project.use(urls=[good, address])
    error = project.fetch(None, code=1).error
    assert error.startswith("fetch: error: params.yaml: corpora.book.urls.1: the ")
    assert reason in error
    assert "secret" not in error and "user:" not in error
    if address:  # else there is no mirror
        project.use(urls=[good])
        project.env["GRU_LM_CORPUS_MIRROR"] = address
        warning = project.fetch(BOOK).err
        assert "GRU_LM_CORPUS_MIRROR is neither an existing folder nor a valid URL" in warning
        assert reason in warning
        assert "secret" not in warning and "user:" not in warning


@pytest.mark.parametrize(
    "where",
    [
        lambda params, address: params["corpora"]["book"].update(urls=address),
        lambda params, address: params["corpora"]["book"].update(urls=[[address]]),
        lambda params, address: params["corpora"]["book"].update(urls={address: None}),
        lambda params, address: params["corpora"]["book"].update(urls=[address] * 17),
        lambda params, address: params["corpora"]["book"].update(file=address),
        lambda params, address: params["corpora"]["book"].update(sha256=address),
        lambda params, address: params["corpora"]["book"].update({address: address}),
        lambda params, address: params["corpora"].update(book={"path": address}),
        lambda params, address: params["corpora"].update(book={"path": [address]}),
        lambda params, address: params["corpora"].update(book=address),
        lambda params, address: params["corpora"].update({address: {"path": "a"}}),
        lambda params, address: params["fetch"].update(corpus=address),
        lambda params, address: params["fetch"].update(timeout=address),
        lambda params, address: params.update(corpora=[address]),
    ],
)
def test_misplaced_url_is_not_shown(
    where: Callable[[dict[str, Any], str], None], project: Project
) -> None:
    project.use(urls=["http://a.org/b"])
    path = project.folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    where(params, "http://user:secret@a.org/b?token=secret")
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    error = project.fetch(None, code=1).error
    assert "corpora" in error or "fetch." in error
    assert "secret" not in error


SECRETS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8
).map(
    lambda text: f"Qzx{text}Jvk"  # makes parts of it recognisable
)


@given(
    st.sampled_from(["", "", " ", "\t", "\n", "//"]),
    st.sampled_from(["http", "http", "https", "HTTP", "ftp", "file", "h\uff54tp", ""]),
    st.sampled_from(["://", "://", ":", ":/", ":///", "", "\uff1a//"]),
    st.sampled_from(["user:{}@", "user:1{}@", "{}@", "{}:@", "user:1/{}@", "user:1?{}@", ""]),
    st.sampled_from(["127.0.0.1:9", "127.0.0.1:9", "[::1]:9", "127.0.0.1:99999", "a\u2105b", "]"]),
    st.sampled_from(["/book.txt", "/book.txt?token={}", "?{}", "/#{}", ""]),
    SECRETS,
)
@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_secrets_of_generated_urls_are_not_printed(
    project: Project,
    lead: str,
    scheme: str,
    mark: str,
    user: str,
    host: str,
    rest: str,
    secret: str,
) -> None:
    address = f"{lead}{scheme}{mark}{user}{host}{rest}".replace("{}", secret)
    assume(secret in address)
    project.use({"retries": 0}, urls=[address], file="book.txt")
    project.env["GRU_LM_CORPUS_MIRROR"] = address
    refused = project.here()
    project.use({"retries": 0}, urls=["http://127.0.0.1:9/book.txt"])
    unreachable = project.here()
    assert refused.code in (1, 3)
    assert unreachable.code == 3
    for result in (refused, unreachable):
        assert not re.search("qzx|jvk|Traceback", result.out + result.err, re.IGNORECASE)


@pytest.mark.parametrize(
    "behaviour",
    [
        faults.redirect("http://user:secret@127.0.0.1:9/a?secret#secret"),
        faults.redirect("http://user:secret@[bad/"),
        faults.redirect("http://user:secret@127.0.0.1:99999/"),
        faults.redirect("ftp://user:secret@127.0.0.1/"),
        faults.redirect("/book.txt?token=secret"),
        faults.redirect("//user:secret@127.0.0.1\u2105/".encode().decode("latin-1")),
        faults.forever(b"HTTP/1.1 secret\r\n\r\n", b""),
        faults.forever(faults.OK + b"no header: at all\x00secret\r\nsecret\r\n\r\n", b""),
        faults.whole(BOOK, Content_Length="secret"),
        faults.whole(BOOK, Content_Length="9", Transfer_Encoding="secret, chunked"),
    ],
)
def test_secrets_echoed_by_server_are_not_printed(
    behaviour: faults.Behaviour, project: Project, server: FaultyServer
) -> None:
    path = "/book.txt?token=secret"
    server.add(path, behaviour)
    url = server.url(path, user="user:secret")
    project.use({"timeout": 0.2, "retries": 0}, urls=[url], file="book.txt")
    assert "secret" not in project.fetch(None).err


@pytest.mark.parametrize(
    "proxy",
    [
        "http://user:secret@127.0.0.1:9",
        "http://user:secret@[bad",
        "http://user:secret@127.0.0.1:99999",
        "http://user:secret@",
        " http://user:secret@127.0.0.1:9",
        "user:secret@127.0.0.1:9",
        "ftp://user:secret@127.0.0.1:9",
        "socks5://user:secret@127.0.0.1:9",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_secrets_are_not_printed(scheme: str, proxy: str, project: Project) -> None:
    project.env[f"{scheme}_proxy"] = proxy
    project.use({"retries": 0}, urls=[f"{scheme}://books.invalid/book.txt"])
    assert "secret" not in project.fetch(None).err


def test_mirror_token_stays_in_query(project: Project, server: FaultyServer) -> None:
    server.add("/mirror/book.txt?token=secret", faults.whole(BOOK))
    project.env["GRU_LM_CORPUS_MIRROR"] = server.url("/mirror/?token=secret")
    project.use(urls=["http://books.invalid/book.txt"])
    assert f"from {server.url('/mirror/book.txt')}\n" in project.fetch(BOOK).out


def test_environment_proxy_is_used(project: Project, server: FaultyServer) -> None:
    server.add("http://books.invalid/book.txt", faults.whole(BOOK))
    project.env["http_proxy"] = server.url("")
    project.use(urls=["http://books.invalid/book.txt"])
    project.fetch(BOOK)
    project.env["http_proxy"] = f"http://user:secret@127.0.0.1:{faults.closed_port()}"
    project.use(urls=["http://books.invalid/book.txt"], sha256=None)
    result = project.fetch(None)
    assert "the proxy failed: connection refused" in result.error
    assert "secret" not in result.err


# The mirror


@pytest.fixture
def mirror(project: Project) -> Path:
    folder = project.folder / "mirror"
    folder.mkdir()
    project.env["GRU_LM_CORPUS_MIRROR"] = str(folder)
    return folder


def test_mirror_folder_is_tried_first(project: Project, server: FaultyServer, mirror: Path) -> None:
    (mirror / "book-1.txt").write_bytes(BOOK)
    project.use(urls=[server.add("/book.txt", faults.whole(BOOK))], file="book-1.txt")
    result = project.fetch(BOOK)
    assert f"from {mirror / 'book-1.txt'}" in result.out
    assert result.err == ""
    assert server.requests == []


@pytest.mark.parametrize("slash", ["", "/"])
def test_mirror_can_be_a_url(slash: str, project: Project, server: FaultyServer) -> None:
    server.add("/mirror/book.txt", faults.status(503), faults.whole(BOOK))
    project.env["GRU_LM_CORPUS_MIRROR"] = server.url("/mirror") + slash
    project.use(urls=["http://books.invalid/book.txt"])
    assert f"from {server.url('/mirror/book.txt')}" in project.fetch(BOOK).out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        ("folder", "it is a folder"),
        ("pipe", "it is not a regular file"),
        (OTHER, "reached, but sent other bytes"),
        (b"", "reached, but sent nothing"),
        (BOOK * 2, "larger than fetch.max_bytes"),
    ],
    ids=["missing", "folder", "pipe", "wrong", "empty", "long"],
)
def test_failing_mirror_folder_gives_warning(
    content: bytes | str | None,
    reason: str,
    project: Project,
    server: FaultyServer,
    mirror: Path,
) -> None:
    match content:
        case bytes():
            (mirror / "book.txt").write_bytes(content)
        case "folder":
            (mirror / "book.txt").mkdir()
        case "pipe":
            os.mkfifo(mirror / "book.txt")
    good = server.add("/book.txt", faults.whole(BOOK))
    project.use(urls=[good])
    result = project.fetch(BOOK)
    assert f"from {good}" in result.out
    assert result.err.startswith(f"fetch: warning: mirror {mirror}: {reason}")
    assert result.err.count("\n") == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads from /proc")
def test_unreadable_mirror_file_is_skipped(
    project: Project, server: FaultyServer, mirror: Path
) -> None:
    (mirror / "book.txt").symlink_to("/proc/self/mem")  # can be opened, but not read at address 0
    project.use(urls=[server.add("/book.txt", faults.whole(BOOK))])
    assert f"mirror {mirror}: Input/output error" in project.fetch(BOOK).err


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (faults.whole(OTHER), "reached, but sent other bytes"),
        (faults.status(404), "HTTP status 404"),
        (faults.hung_up, "sent no HTTP response"),
    ],
)
def test_failing_mirror_url_gives_warning(
    behaviour: faults.Behaviour, reason: str, project: Project, server: FaultyServer
) -> None:
    server.add("/mirror/book.txt", behaviour)
    project.env["GRU_LM_CORPUS_MIRROR"] = server.url("/mirror")
    project.use(urls=[server.add("/book.txt", faults.whole(BOOK))])
    result = project.fetch(BOOK)
    assert result.err.startswith(f"fetch: warning: mirror {server.url('/mirror')}: ")
    assert reason in result.err


@pytest.mark.parametrize(
    "value",
    [
        *("http://[bad", "https://", "http://127.0.0.1:99999", "no\nwhere", "~nobody-of-this-name"),
        "x" * 5000,
    ],
)
def test_invalid_mirror_is_skipped(value: str, project: Project, server: FaultyServer) -> None:
    project.env["GRU_LM_CORPUS_MIRROR"] = value
    project.use(urls=[server.add("/book.txt", faults.whole(BOOK))])
    assert project.fetch(BOOK).err.count("\n") == 1


def test_mirror_folder_can_look_like_url(project: Project) -> None:
    folder = project.folder / "http:" / "user:me@a.org"
    folder.mkdir(parents=True)
    (folder / "book.txt").write_bytes(BOOK)
    project.env["GRU_LM_CORPUS_MIRROR"] = "http://user:me@a.org"
    project.use(urls=["http://books.invalid/book.txt"])
    assert "from http:/user:me@a.org/book.txt" in project.fetch(BOOK).out


def test_empty_mirror_is_ignored(project: Project, server: FaultyServer) -> None:
    project.env["GRU_LM_CORPUS_MIRROR"] = ""
    project.use(urls=[server.add("/book.txt", faults.whole(BOOK))])
    assert project.fetch(BOOK).err == ""


def test_corpus_without_file_name_skips_mirror(
    project: Project, server: FaultyServer, mirror: Path
) -> None:
    project.use(urls=[server.add("/", faults.whole(BOOK))])
    assert "set 'file' in its entry in params.yaml" in project.fetch(BOOK).err


def test_mirror_is_ignored_for_project_file(project: Project, mirror: Path) -> None:
    (mirror / "own.txt").write_bytes(OTHER)
    (project.folder / "own.txt").write_bytes(BOOK)
    project.use(path="own.txt", sha256=None)
    project.fetch(BOOK)


# A file of the project


@pytest.mark.parametrize("checksum", [sha256(BOOK), None])
def test_project_file_is_copied(checksum: str | None, project: Project) -> None:
    (project.folder / "corpora").mkdir()
    (project.folder / "corpora" / "own.txt").write_bytes(BOOK)
    (project.folder / "link.txt").symlink_to(Path("corpora", "own.txt"))
    for path in ("corpora/own.txt", "link.txt"):
        project.use(path=path, sha256=checksum)
        (project.raw / "corpus.txt").write_bytes(b"something else\n")
        assert f"from {path}" in project.fetch(BOOK).out


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "it names no file"),
        (os.mkfifo, "it is not a regular file"),
        (lambda path: path.symlink_to(path), "no such file"),
        (lambda path: path.symlink_to("/etc/hostname"), "it is outside the project"),
        (lambda path: path.symlink_to(".."), "it is outside the project"),
        (lambda path: path.symlink_to("../nothing/here"), "no such file"),
        (lambda path: path.write_bytes(b""), "it contains nothing"),
        (lambda path: path.write_bytes(OTHER), "it contains other bytes (SHA-256"),
        (lambda path: path.write_bytes(BOOK * 2), "it contains other bytes (SHA-256"),
    ],
    ids=[
        *("missing", "empty folder", "pipe", "loop", "link out", "folder out"),
        *("dangling link out", "empty", "wrong", "long"),
    ],
)
def test_unusable_project_file(made: Callable[[Path], None], reason: str, project: Project) -> None:
    made(project.folder / "own.txt")
    project.use(path="own.txt")
    result = project.fetch(None, code=1)
    assert "corpora.book.path = 'own.txt': " in result.error
    assert reason in result.error


def test_html_project_file_is_accepted(project: Project) -> None:
    (project.folder / "own.txt").write_bytes(PAGE)
    project.use(path="own.txt", sha256=None)
    project.fetch(PAGE)


def test_file_behind_symlink_is_outside_project(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "own.txt").write_bytes(BOOK)
    (project.folder / "corpora").symlink_to(outside)
    project.use(path="corpora/own.txt")
    assert "it is outside the project" in project.fetch(None, code=1).error


# A file that already exists


def test_valid_file_needs_no_network(project: Project) -> None:
    (project.raw / "corpus.txt").write_bytes(BOOK)
    inode = (project.raw / "corpus.txt").stat().st_ino
    project.use(urls=["http://books.invalid/book.txt"])
    assert "there already" in project.fetch(BOOK).out
    assert (project.raw / "corpus.txt").stat().st_ino == inode


def test_damaged_file_is_fetched_again(project: Project, server: FaultyServer) -> None:
    (project.raw / "corpus.txt").write_bytes(OTHER)
    project.use(urls=[server.add("/book.txt", faults.whole(BOOK))])
    project.fetch(BOOK)


def test_symlink_target_is_replaced(project: Project, server: FaultyServer) -> None:
    cached = project.folder / "cached"
    cached.write_bytes(OTHER)
    (project.raw / "corpus.txt").unlink()
    (project.raw / "corpus.txt").symlink_to(cached)
    project.use(urls=[server.add("/book.txt", faults.whole(BOOK))])
    project.fetch(BOOK)
    assert cached.read_bytes() == OTHER


# The disk


class Full:
    """A file on a disk with room for ``room`` more bytes."""

    def __init__(self, file: IO[bytes], room: int) -> None:
        self.file = file
        self.room = room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_full_disk(project: Project, server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = atomic_writer

    @contextlib.contextmanager
    def on_a_full_disk(path: Path) -> Iterator[Full]:
        with real(path) as file:
            yield Full(file, room=100_000)

    monkeypatch.setattr(corpus, "atomic_writer", on_a_full_disk)
    url = server.add("/book.txt", faults.whole(BOOK))
    project.use(urls=[url, url])
    result = project.fetch(None, code=1)
    assert "No space left on device" in result.error
    assert str(Path("data", "raw", "corpus.txt")) in result.error
    assert len(server.requests) == 1, "another address would not help"


def test_file_size_limit(project: Project, server: FaultyServer) -> None:
    """``ulimit -f`` makes the kernel refuse a write, without privileges."""
    project.use(urls=[server.add("/book.txt", faults.whole(BOOK))])
    before = project.files()
    process = project.start(
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    )
    result = finish(process)
    project.check(result, before, None, code=1)
    assert f"{Path('data', 'raw', 'corpus.txt')} cannot be written" in result.error


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a tmpfs")
def test_real_full_disk(project: Project, server: FaultyServer) -> None:
    small = project.folder / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(small)]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(mount, capture_output=True).returncode == 0:
            try:
                (project.folder / "data").rename(project.folder / "data-before")
                (project.folder / "data").symlink_to(small)
                project.raw.mkdir()
                for name, data in EARLIER.items():
                    (project.raw / name).write_bytes(data)
                project.use(urls=[server.add("/book.txt", faults.whole(BOOK))])
                result = project.fetch(None, code=1)
                assert "No space left on device" in result.error
                assert str(Path("data", "raw", "corpus.txt")) in result.error
            finally:
                subprocess.run(["umount", str(small)], check=True)
            return
    pytest.skip("this user may not mount a tmpfs; the other two tests stand in for it")


@pytest.mark.parametrize("in_the_way", ["data", "data/raw", "data/raw/corpus.txt"])
def test_unwritable_target(in_the_way: str, project: Project, server: FaultyServer) -> None:
    """Root can write to any folder, but cannot create a file inside a file."""
    for path in (project.raw / "corpus.txt", project.raw / "corpus.json"):
        path.unlink()
    if in_the_way.endswith("txt"):
        (project.raw / "corpus.txt").mkdir()
    else:
        project.raw.rmdir()
        project.raw.parent.rmdir()
        (project.folder / in_the_way).parent.mkdir(exist_ok=True)
        (project.folder / in_the_way).write_text("in the way")
    project.use(urls=[server.add("/book.txt", faults.whole(BOOK))])
    before = sorted(project.folder.rglob("*"))
    result = project.here()
    assert result.code == 1
    assert result.out == ""
    assert "Traceback" not in result.err
    assert f"{Path('data', 'raw', 'corpus.txt')} cannot be written" in result.error
    assert result.err.count("\n") == 1
    assert sorted(project.folder.rglob("*")) == before


def test_unwritable_folder(project: Project, server: FaultyServer) -> None:
    project.use(urls=[server.add("/book.txt", faults.whole(BOOK))])
    project.raw.chmod(0o555)
    try:
        if os.access(project.raw, os.W_OK):
            pytest.skip("this user may write to any folder")
        assert "corpus.txt" in project.fetch(None, code=1).error
    finally:
        project.raw.chmod(0o755)


# The process: signals, two fetches at once, a terminal


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_fetch_leaves_no_file(
    how: signal.Signals, project: Project, server: FaultyServer
) -> None:
    project.use({"timeout": 20.0}, urls=[server.add("/book.txt", faults.stalled(BOOK, 150_000))])
    before = project.files()
    process = started_to_write(project)
    process.send_signal(how)
    result = finish(process)
    project.check(result, before, None, code=130)
    assert result.err == "fetch: error: interrupted\n"


def started_to_write(project: Project) -> subprocess.Popen[str]:
    """Start a fetch and wait until its temporary file has some bytes."""
    process = project.start()
    deadline = time.monotonic() + 10
    while not any(path.stat().st_size for path in project.raw.glob(".*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_leftovers_of_killed_fetch_are_harmless(project: Project, server: FaultyServer) -> None:
    stalled, good = faults.stalled(BOOK, 150_000), faults.whole(BOOK)
    project.use({"timeout": 20.0}, urls=[server.add("/book.txt", stalled, good)])
    process = started_to_write(project)
    process.kill()
    process.communicate()
    left = project.files()
    assert {name: left.pop(name) for name in EARLIER} == EARLIER
    assert project.here().code == 0
    assert project.files()["corpus.txt"] == BOOK
    assert project.files().keys() == EARLIER.keys() | left.keys()


def test_concurrent_fetches_without_progress_bar(project: Project, server: FaultyServer) -> None:
    project.use({"timeout": 2.0}, urls=[server.add("/book.txt", faults.dripping(BOOK, 26, 0.05))])
    before = project.files()
    processes = [project.start(), project.start()]
    for process in processes:
        result = finish(process)
        assert result.err == ""
        assert (result.code, result.out.count("\n")) == (0, 1)
    project.check(result, before, BOOK)
    assert server.sent == 2 * len(BOOK)


def test_slow_transfer_shows_progress_on_terminal(project: Project, server: FaultyServer) -> None:
    slow = faults.dripping(BOOK, 26, 0.05)
    project.use({"timeout": 2.0}, urls=[server.add("/book.txt", slow)])
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))  # tqdm shows no bar without a width
    process = project.start(stderr=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an error
        while piece := os.read(screen, 4096):
            shown += piece
    os.close(screen)
    assert process.wait(20) == 0
    process.communicate()
    assert b"B/s" in shown
    assert re.search(rb"[1-9]\d*k/200k", shown), "how much of what has come"
    assert not shown.endswith(b"\n"), "the bar does not stay"
    assert project.files()["corpus.txt"] == BOOK


def test_stage_imports_no_heavy_library(project: Project) -> None:
    code = "import sys, stages.fetch; print({'torch', 'matplotlib', 'pandas'} & sys.modules.keys())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=project.env, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
