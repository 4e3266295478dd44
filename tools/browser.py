"""Control the machine's Chromium with Playwright, headless and without network.

    with launch() as browser, browser.new_page(offline=True) as page:
        page.goto(Path("reports/index.html").resolve().as_uri())

Playwright's own browsers are not used.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Error, sync_playwright

from gru_lm.core.errors import UserError


def find_chromium() -> str | None:
    """Return the path of Chromium or Chrome on the PATH, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


@contextmanager
def launch() -> Iterator[Browser]:
    """Start a browser with a temporary profile that resolves no host, and close it at the end.

    Playwright's synchronous API allows one browser per thread. Raises UserError if no Chromium is
    on the PATH, if it does not start, or if it exits before the block ends.
    """
    chromium = find_chromium()
    if chromium is None:
        raise UserError("chromium and google-chrome are not on the PATH: install one of them")
    with (
        tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder,
        sync_playwright() as playwright,
    ):
        try:
            browser = playwright.chromium.launch(
                executable_path=chromium,
                args=["--host-resolver-rules=MAP * ~NOTFOUND"],  # also blocks IP addresses
                chromium_sandbox=os.geteuid() != 0,  # the sandbox does not work for root
                env={**os.environ, "TMPDIR": folder},  # removes files left by a killed browser
            )
        except Error as error:
            raise UserError(f"{chromium} does not start: run it by hand to see why") from error
        try:
            yield browser
        except Error as error:
            if browser.is_connected():
                raise
            raise UserError(f"{chromium} exited early: run it by hand to see why") from error
        finally:
            browser.close()
