"""Make the README's picture of the report, a screenshot of the gate reader.

    python -m tools.screenshot [reports/index.html] [docs/report.png]

This needs Chromium or Chrome. It uses the machine's fonts, so the picture differs between machines.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image

from gru_lm.core.errors import MissingFile, run_main
from gru_lm.core.files import write_bytes
from tools.browser import launch

WIDTH, HEIGHT = 1200, 740  # CSS pixels


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="screenshot", description="Take a screenshot of the report."
    )
    parser.add_argument("page", nargs="?", type=Path, default=Path("reports/index.html"))
    parser.add_argument("picture", nargs="?", type=Path, default=Path("docs/report.png"))
    given = parser.parse_args()
    if not given.page.exists():
        raise MissingFile(given.page)
    with (
        launch() as browser,
        browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT},
            color_scheme="light",
            reduced_motion="reduce",
            offline=True,
        ) as page,
    ):
        page.goto(given.page.resolve().as_uri())
        page.locator("[role=option]:nth-of-type(41)").hover()
        page.locator("#read-title").evaluate("(title) => title.scrollIntoView()")
        write_bytes(given.picture, _with_palette(page.screenshot()))


def _with_palette(png: bytes) -> bytes:
    """Reduce a picture to 256 colours, which saves three quarters of its size."""
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    run_main("screenshot", main)
