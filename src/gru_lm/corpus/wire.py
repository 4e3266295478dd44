"""Run network calls in a thread that can be abandoned, and count the bytes they receive.

The timeout of a socket limits a single read. In requests, urllib3 and http.client nothing limits
the number of reads for a status line, a header, the size of a chunk or a trailer, and nothing
limits the DNS lookup. So network calls run in a thread of their own, and the caller waits for the
result only as long as its own limits allow.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import requests
from requests.adapters import HTTPAdapter

Result = TypeVar("Result")


class SourceFailed(Exception):
    """A source failed to deliver the corpus.

    ``passing`` is true if a retry may succeed, after at least ``wait`` seconds.
    """

    def __init__(self, reason: str, *, passing: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.passing = passing
        self.wait = wait


class Wire:
    """The thread of one request and its response; a context manager.

    ``budget`` is the number of bytes that the thread may still receive, including status lines,
    headers and chunk sizes. The thread closes ``closing`` when it ends. That is at the end of the
    ``with`` block, or, if the thread is still busy, after its present read.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.closing = contextlib.ExitStack()
        self._abandoned = False
        self._busy: Future[Any] | None = None
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon thread: an abandoned one does not delay the exit of the process.
        self._thread = threading.Thread(target=self._work, name="wire", daemon=True)

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._abandoned = True
        self._calls.put(None)
        if self._busy is None or self._busy.done():
            self._thread.join()  # it is idle, so it ends at once

    def start(self, function: Callable[[], Result]) -> Future[Result]:
        """Call ``function`` in the thread, and return the future of its result."""
        result: Future[Result] = Future()

        def call() -> None:
            try:
                result.set_result(function())
            except Exception as error:
                result.set_exception(error)

        self._busy = result
        self._calls.put(call)
        return result

    def run(self, function: Callable[[], Result], seconds: float) -> Result:
        """Return or raise the result of ``function``, or raise SourceFailed after ``seconds``."""
        result = self.start(function)
        if not wait([result], seconds).done:
            raise SourceFailed(f"no response within {seconds:g} seconds", passing=True)
        return result.result()

    def received(self, count: int) -> None:
        """Count bytes. Raises SourceFailed if they exceed the budget or the thread is abandoned."""
        self.budget -= count
        if self._abandoned:
            raise SourceFailed("abandoned")
        if self.budget < 0:
            raise SourceFailed("sent much more than fetch.max_bytes allows, but no corpus")

    def _work(self) -> None:
        with self.closing:
            while call := self._calls.get():
                call()


class CountingAdapter(HTTPAdapter):
    """An adapter whose connections count the received bytes in ``wire``.

    Bytes are counted below http.client, which discards chunk sizes, trailers and interim responses.
    The bytes of a TLS handshake are not counted.
    """

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        try:
            pool: Any = super().get_connection_with_tls_context(*args, **options)
        except TypeError:  # raised by requests if a proxy's URL has no host
            raise requests.exceptions.InvalidProxyURL("no host") from None
        wire = self._wire

        class Answer(http.client.HTTPResponse):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                self.fp = io.BufferedReader(_Counted(self.fp.detach(), wire))

        plain = type(pool).ConnectionCls  # for http, https or SOCKS
        pool.ConnectionCls = type(plain.__name__, (plain,), {"response_class": Answer})
        return pool


class _Counted(io.RawIOBase):
    """The stream ``raw`` of a socket. ``wire`` counts the bytes that are read from it."""

    def __init__(self, raw: io.RawIOBase, wire: Wire) -> None:
        self._raw = raw
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count: int | None = self._raw.readinto(buffer)
        self._wire.received(count or 0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class CountingSession(requests.Session):
    """A session that counts the received bytes in ``wire`` and does not follow redirects.

    Even with allow_redirects=False, requests reads the body of a redirect without a size limit.
    """

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, CountingAdapter(wire))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None
