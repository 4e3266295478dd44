"""A headless Chromium without network: Playwright drives the one that the machine has.

    with launch() as browser, browser.new_page(offline=True) as page:
        page.goto(Path("reports/index.html").resolve().as_uri())

Playwright's own download of a browser is not used.
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
    """The path of a Chromium or Chrome on the PATH, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


@contextmanager
def launch() -> Iterator[Browser]:
    """A browser with a temporary profile that finds no host; it ends with the block.

    Only one can run per thread, as Playwright's synchronous API allows. Raises UserError if no
    Chromium is on the PATH, if it does not start, or if it ends before the block does.
    """
    chromium = find_chromium()
    if chromium is None:
        raise UserError("no chromium or google-chrome is on the PATH: install one of them")
    with (
        tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder,
        sync_playwright() as playwright,
    ):
        try:
            browser = playwright.chromium.launch(
                executable_path=chromium,
                args=["--host-resolver-rules=MAP * ~NOTFOUND"],  # IP addresses are hosts as well
                chromium_sandbox=os.geteuid() != 0,  # Chromium refuses to sandbox root
                env={**os.environ, "TMPDIR": folder},  # it leaves files there if it is killed
            )
        except Error as error:
            raise UserError(f"{chromium} does not start: run it by hand to see why") from error
        try:
            yield browser
        except Error as error:
            if browser.is_connected():
                raise
            raise UserError(f"{chromium} has ended: run it by hand to see why") from error
        finally:
            browser.close()
