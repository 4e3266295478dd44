"""Write Vega's scripts to a folder, so the page of ``dvc plots`` works without a network.

    python -m tools.vega [FOLDER]

DVC's pages load Vega from a CDN. This project's template (``.dvc/plots.html``) loads ``vega.js``
from the page's folder first. The script comes from the installed package vl-convert-python.
``make setup`` writes it to ``dvc_plots/``. Run this tool for any other folder
(``dvc plots show --out FOLDER``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import vl_convert

from gru_lm.core.errors import run_main
from gru_lm.core.files import write_text

VEGA_LITE: Final = "5.21"
"""The newest release of the major version that DVC's templates use."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="vega", description="Write Vega's scripts to a folder.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("dvc_plots"))
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    # A function avoids name clashes with the page's own scripts.
    write_text(folder / "vega.js", f"(() => {{{bundle}}})();\n")


if __name__ == "__main__":
    run_main("vega", main)
