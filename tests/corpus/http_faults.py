"""A web server on 127.0.0.1 that simulates faults.

    with FaultyServer() as server:
        url = server.add("/book.txt", status(503), whole(BOOK))

The first request for /book.txt gets the first behaviour, the second the second, and every further
one the last. ``server.requests`` and ``server.sent`` record the requests and the bytes sent.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECE = 16_384  # bytes that the server sends at a time


@dataclass
class Request:
    """A client's request. ``path`` is that of the request line, ``at`` is in monotonic seconds."""

    path: str
    headers: dict[str, str]
    at: float


class FaultyServer(ThreadingHTTPServer):
    """A server with the behaviours added for each path, and 404 for any other path."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.requests: list[Request] = []
        self.sent = 0  # bytes of bodies handed to the system
        self.stopping = threading.Event()
        self.behaviours: dict[str, tuple[Behaviour, ...]] = {}
        self._served: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> FaultyServer:
        # The poll interval is what shutdown waits for.
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def add(self, path: str, *behaviours: Behaviour) -> str:
        """Set the behaviours of ``path`` and return its URL."""
        self.behaviours[path] = behaviours
        self._served[path] = 0
        return self.url(path)

    def url(self, path: str, host: str = "127.0.0.1", user: str = "") -> str:
        return f"http://{user}{'@' if user else ''}{host}:{self.server_address[1]}{path}"

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def next_behaviour(self, request: Request) -> Behaviour:
        with self._lock:
            self.requests.append(request)
            behaviours = self.behaviours.get(request.path, (status(404),))
            number = self._served.get(request.path, 0)
            self._served[request.path] = number + 1
        return behaviours[min(number, len(behaviours) - 1)]

    def count(self, size: int) -> None:
        with self._lock:
            self.sent += size

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection, which many tests do."""


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer; the connection is closed after it."""

    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def do_GET(self) -> None:
        self.close_connection = True
        request = Request(self.path, dict(self.headers.items()), time.monotonic())
        self.server.next_behaviour(request)(self)

    do_CONNECT = do_GET  # as a proxy; the path is host:port

    def start(self, code: int = 200, **headers: Any) -> None:
        """Send the status line and the headers. Underscores in names become hyphens."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.flush()

    def body(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self.wfile.write(piece)
            self.server.count(len(piece))

    def hang(self) -> None:
        """Send nothing more until the test is over."""
        self.server.stopping.wait(60)

    def log_message(self, format: str, *args: Any) -> None:
        pass


Behaviour = Callable[[Exchange], None]


def status(code: int, **headers: Any) -> Behaviour:
    """An answer with this status and a short body."""

    def behave(exchange: Exchange) -> None:
        body = b"" if code in (204, 304) else b"sorry\n"
        exchange.start(code, Content_Length=len(body), **headers)
        exchange.body(body)

    return behave


def whole(data: bytes, code: int = 200, **headers: Any) -> Behaviour:
    """A correct response with ``data``, except for the headers given here."""

    def behave(exchange: Exchange) -> None:
        exchange.start(code, **({"Content_Length": len(data)} | headers))
        exchange.body(data)

    return behave


def unframed(data: bytes, code: int = 200, **headers: Any) -> Behaviour:
    """``data`` without its length, which ends with the connection."""

    def behave(exchange: Exchange) -> None:
        exchange.start(code, **headers)
        exchange.body(data)

    return behave


def zipped(data: bytes, cut: int | None = None, **headers: Any) -> Behaviour:
    """The first ``cut`` bytes of ``data`` in gzip, which the client did not request."""
    return unframed(gzip.compress(data, mtime=0)[:cut], Content_Encoding="gzip", **headers)


def cut_off(data: bytes, at: int, **headers: Any) -> Behaviour:
    """The first ``at`` bytes of ``data``, with the Content-Length of all of it."""
    return whole(data[:at], **({"Content_Length": len(data)} | headers))


def cut_off_chunks(data: bytes, **headers: Any) -> Behaviour:
    """Chunked transfer that ends within a chunk."""

    def behave(exchange: Exchange) -> None:
        exchange.start(Transfer_Encoding="chunked", **headers)
        exchange.body(b"%x\r\n" % len(data) + data[: len(data) // 2])

    return behave


def chunked(data: bytes) -> Behaviour:
    """A correct chunked transfer."""

    def behave(exchange: Exchange) -> None:
        exchange.start(Transfer_Encoding="chunked")
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            exchange.body(b"%x\r\n" % len(piece) + piece + b"\r\n")
        exchange.body(b"0\r\n\r\n")

    return behave


def silent(exchange: Exchange) -> None:
    """No answer at all, on an open connection."""
    exchange.hang()


def stalled(data: bytes, at: int, **headers: Any) -> Behaviour:
    """The first ``at`` bytes, and then nothing, on an open connection."""

    def behave(exchange: Exchange) -> None:
        exchange.start(**({"Content_Length": len(data)} | headers))
        exchange.body(data[:at])
        exchange.hang()

    return behave


def dripping(data: bytes, pieces: int, pause: float) -> Behaviour:
    """``data`` in this many pieces with ``pause`` seconds after each."""

    def behave(exchange: Exchange) -> None:
        exchange.start(Content_Length=len(data))
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            exchange.body(data[start : start + size])
            if exchange.server.stopping.wait(pause):
                return

    return behave


def forever(start: bytes, piece: bytes, pause: float = 0.01) -> Behaviour:
    """The raw bytes ``start``, then ``piece`` every ``pause`` seconds until the test is over."""

    def behave(exchange: Exchange) -> None:
        exchange.wfile.write(start)
        while not exchange.server.stopping.wait(pause):
            exchange.wfile.write(piece)
            exchange.server.count(len(piece))

    return behave


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GZIP = OK + b"Content-Encoding: gzip\r\n\r\n"

dripping_header = forever(OK + b"X-Filler: ", b"x")


def endless_headers(exchange: Exchange) -> None:
    """An endless sequence of headers."""
    exchange.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not exchange.server.stopping.is_set():
        exchange.wfile.write(b"X-Filler: x\r\n")


def endless(code: int = 200, **headers: Any) -> Behaviour:
    """A body without length or end."""

    def behave(exchange: Exchange) -> None:
        exchange.start(code, **headers)
        while not exchange.server.stopping.is_set():
            exchange.body(b"All work and no play\n" * 1000)

    return behave


def reset(exchange: Exchange) -> None:
    """The connection is reset instead of an answer."""
    linger = struct.pack("ii", 1, 0)  # close sends RST at once
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    exchange.connection.close()


def hung_up(exchange: Exchange) -> None:
    """The connection is closed instead of an answer."""


def gibberish(exchange: Exchange) -> None:
    """An answer that is not HTTP."""
    exchange.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


def redirect(to: str | None, code: int = 302) -> Behaviour:
    """A redirect; ``to`` None leaves out its Location."""
    return whole(b"moved\n", code, **({} if to is None else {"Location": to}))


def resumable(
    data: bytes,
    validator: str,
    first: int,
    content_range: str = "bytes {start}-{last}/{size}",
    later_validator: str | None = None,
) -> Behaviour:
    """A server that supports ranges, and truncates the full body after ``first`` bytes.

    ``validator`` is its ETag (in quotes) or Last-Modified. ``later_validator`` and
    ``content_range`` are those of the response with the rest.
    """

    def headers(value: str) -> dict[str, str]:
        return {"Last_Modified" if value.endswith("GMT") else "ETag": value}

    def behave(exchange: Exchange) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", exchange.headers.get("Range", ""))
        if asked and exchange.headers.get("If-Range") == validator:
            start, last = int(asked[1]), len(data) - 1
            field = content_range.format(start=start, last=last, size=len(data))
            answer = whole(
                data[start:], 206, Content_Range=field, **headers(later_validator or validator)
            )
        else:
            answer = cut_off(data, first, **headers(validator))
        answer(exchange)

    return behave


def late(pause: float, then: Behaviour) -> Behaviour:
    """``then``, after ``pause`` seconds."""

    def behave(exchange: Exchange) -> None:
        exchange.server.stopping.wait(pause)
        then(exchange)

    return behave


@contextlib.contextmanager
def raw_server(start: bytes, piece: bytes) -> Iterator[int]:
    """A server without HTTP, which sends ``start`` and then ``piece`` forever; yield its port."""
    stopping = threading.Event()

    def serve(listening: socket.socket) -> None:
        connection = listening.accept()[0]
        with connection, contextlib.suppress(OSError):
            connection.sendall(start)
            while not stopping.wait(0.01):
                connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        yield int(listening.getsockname()[1])
        stopping.set()


def closed_port() -> int:
    """Return a port of 127.0.0.1 without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def members(data: bytes, count: int) -> list[bytes]:
    """Return ``data`` as a gzip file of several members."""
    size = -(-len(data) // count)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return [gzip.compress(piece, mtime=0) for piece in pieces]


def bomb(size: int) -> bytes:
    """Return a small gzip file that decompresses to ``size`` zero bytes."""
    return gzip.compress(bytes(1 << 20), mtime=0) * (size >> 20)
