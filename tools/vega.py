"""Vega's scripts beside the page of ``dvc plots``, so that it opens without a network.

    python -m tools.vega [FOLDER]

DVC's pages load Vega from a CDN. Ours (``.dvc/plots.html``) look beside themselves first; this
writes ``vega.js`` there, from the installed package vl-convert-python. ``make setup`` calls it for
``dvc_plots/``; it is needed again only for another folder (``dvc plots show --out FOLDER``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import vl_convert

from gru_lm.core.errors import run_main
from gru_lm.core.files import write_text

VEGA_LITE: Final = "5.21"
"""The newest release of the major version for which DVC's templates are written."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="vega", description="Put Vega's scripts into a folder.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("dvc_plots"))
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    # In a function: its names would clash with those in the page's own scripts.
    write_text(folder / "vega.js", f"(() => {{{bundle}}})();\n")


if __name__ == "__main__":
    run_main("vega", main)
