"""A headless Chromium without network, driven over a pipe in its DevTools protocol.

    with open_page(Path("reports/index.html")) as page:
        page.evaluate("document.title")

The protocol (https://chromedevtools.github.io/devtools-protocol/) is JSON messages that end with a
zero byte; with ``--remote-debugging-pipe`` Chromium reads them from file descriptor 3 and answers
on 4. That needs nothing but the standard library. POSIX only.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gru_lm.core.errors import UserError

TIMEOUT: Final = 30.0  # seconds without an answer before the browser counts as dead
FLAGS: Final = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little of it
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--no-first-run",
)
KEYS: Final[dict[str, int]] = {  # the Windows key codes, which the protocol asks for
    "Tab": 9,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome on the PATH, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


class Page:
    """One open page. ``events`` gathers the protocol's events as (method, params)."""

    def __init__(self, commands: int, answers: int) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._commands, self._answers = commands, answers
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Page.setLifecycleEventsEnabled", enabled=True)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call ``method`` and return its result. Raises RuntimeError where it reports an error."""
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def load(self, path: Path) -> None:
        """Open the file ``path`` and wait until all of it is there."""
        loader = self.send("Page.navigate", url=path.resolve().as_uri())["loaderId"]
        while not any(
            method == "Page.lifecycleEvent"
            and (params["loaderId"], params["name"]) == (loader, "load")
            for method, params in self.events
        ):
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript ``expression``, awaited where it is a promise.

        Raises RuntimeError with what it throws.
        """
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def resize(self, width: int, height: int, mobile: bool = False, scale: float = 1) -> None:
        """Make the viewport ``width`` by ``height`` CSS pixels, as of a phone where ``mobile``."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=mobile,
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=mobile)

    def prefer(self, **features: str) -> None:
        """Media features, hyphens as underscores: ``prefer(prefers_color_scheme="dark")``."""
        chosen = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.send("Emulation.setEmulatedMedia", features=chosen)
        # The page hears of it when it is next drawn.
        self.evaluate("new Promise((d) => requestAnimationFrame(() => requestAnimationFrame(d)))")

    def hover(self, selector: str) -> None:
        """Move the mouse over the middle of the first element that fits ``selector``."""
        x, y = self._middle(selector)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Press and release the mouse there."""
        x, y = self._middle(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def tap(self, selector: str) -> None:
        """Touch there, with a finger."""
        x, y = self._middle(selector)
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key: str) -> None:
        """Press and release one of ``KEYS``."""
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=KEYS[key],
            )

    def screenshot(self) -> bytes:
        """What the viewport shows: a PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def _middle(self, selector: str) -> tuple[float, float]:
        found = json.dumps(selector)
        x, y = self.evaluate(
            f"(() => {{ const element = document.querySelector({found});"
            "element.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const box = element.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        return x, y

    def _receive(self) -> dict[str, Any]:
        """The next message; one that is an event joins ``events``."""
        deadline = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], deadline - time.monotonic())
            data = os.read(self._answers, 1 << 20) if ready else b""
            if not data:
                raise UserError("Chromium ended or does not answer: start it by hand to see why")
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message


@contextmanager
def open_page(path: Path, width: int = 1200, height: int = 900) -> Iterator[Page]:
    """A page that shows the file ``path``; the browser ends with the block.

    Raises UserError where there is no Chromium on the PATH or it does not start.
    """
    chromium = find_chromium()
    if chromium is None:
        raise UserError("no chromium or google-chrome is on the PATH: install one of them")
    with contextlib.ExitStack() as stack:
        profile = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        )
        its_end, commands = os.pipe()
        answers, its_answers = os.pipe()
        for descriptor in (commands, answers):
            stack.callback(os.close, descriptor)
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has none
        process = subprocess.Popen(
            [chromium, *FLAGS, *sandbox, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: _place(its_end, its_answers),
            pass_fds=(3, 4),
            env=os.environ | {"TMPDIR": profile},  # what it leaves behind goes with the profile
            start_new_session=True,  # so that all of its processes can be ended at once
        )
        stack.callback(_end, process)
        os.close(its_end)
        os.close(its_answers)
        page = Page(commands, answers)
        page.resize(width, height)
        page.load(path)
        yield page


def _place(commands: int, answers: int) -> None:
    """Put the pipe's ends where Chromium looks for them, in the process that becomes Chromium."""
    copies = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
    for copy, place in zip(copies, (3, 4), strict=True):
        os.dup2(copy, place)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
