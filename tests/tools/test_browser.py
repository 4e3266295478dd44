"""The headless browser has no network, ends cleanly and reports faults in one line."""

import contextlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest
from conftest import PROJECT
from playwright.sync_api import Error

from gru_lm.core.errors import UserError
from tools.browser import find_chromium, launch

needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="needs a Chromium or Chrome on the PATH"
)


@pytest.fixture
def server():
    """Start a local HTTP server and return its port and the list of requested paths."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port, asked
        server.shutdown()


@needs_chromium
@pytest.mark.parametrize("offline", [True, False])
def test_page_reaches_no_server(server, tmp_path, offline):
    port, asked = server
    path = tmp_path / "page.html"
    addresses = [f"http://{host}:{port}/picture.png" for host in ("127.0.0.1", "localhost")]
    path.write_text("".join(f"<img src='{address}'>" for address in addresses))
    requests, failures = [], []
    with launch() as browser, browser.new_page(offline=offline) as page:
        page.on("request", lambda request: requests.append(request.url))
        page.on("requestfailed", lambda request: failures.append(request.failure))
        page.goto(path.as_uri())
    assert requests == [path.as_uri(), *addresses]
    error = "net::ERR_INTERNET_DISCONNECTED" if offline else "net::ERR_NAME_NOT_RESOLVED"
    assert failures == [error, error]
    assert asked == []


@needs_chromium
@pytest.mark.parametrize("fault", [None, "page", "browser"])
def test_no_process_or_file_is_left(tmp_path, monkeypatch, fault):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    expected = {
        None: contextlib.nullcontext(),
        "page": pytest.raises(Error, match="a fault of the page"),
        "browser": pytest.raises(UserError, match="exited early: run it by hand"),
    }
    others = set(psutil.Process().children(recursive=True))  # such as the server in warm.py
    with expected[fault], launch() as browser:
        page = browser.new_page()
        processes = set(psutil.Process().children(recursive=True)) - others
        assert any(f"--user-data-dir={tmp_path}" in " ".join(p.cmdline()) for p in processes)
        if fault == "page":
            page.evaluate("(() => { throw new Error('a fault of the page'); })()")
        elif fault == "browser":
            browser.new_browser_cdp_session().send("Browser.crash")
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    if fault != "browser":  # Playwright may leave parts of a crashed browser's profile
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("browser", "message"),
    [
        (None, "chromium and google-chrome are not on the PATH: install one of them"),
        ("#!/bin/sh\nexit 1\n", "{}/chromium does not start: run it by hand to see why"),
    ],
    ids=["missing", "broken"],
)
def test_missing_browser_is_one_line(tmp_path, browser, message):
    if browser:
        (tmp_path / "chromium").write_text(browser)
        (tmp_path / "chromium").chmod(0o755)
    page = tmp_path / "page.html"
    page.touch()
    command = [sys.executable, "-m", "tools.screenshot", page, tmp_path / "picture.png"]
    environment = os.environ | {"PATH": str(tmp_path)}
    result = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == f"screenshot: error: {message.format(tmp_path)}\n"
    assert not (tmp_path / "picture.png").exists()
