"""Make the pages of ``dvc plots`` work without a network.

    python -m tools.vega

DVC's pages load Vega from a CDN. This tool writes a copy of the project's template
(``.dvc/plots.html``) that contains Vega, and tells DVC in ``.dvc/config.local`` to use it. Every
page is then complete in one file, in any folder. The script comes from the installed package
vl-convert-python. ``make setup`` runs this tool. Git ignores both files.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Final

import vl_convert

from gru_lm.core.errors import MissingFile, UserError, run_main
from gru_lm.core.files import write_text

VEGA_LITE: Final = "5.21"
"""The newest release of the major version that DVC's templates use."""

TEMPLATE: Final = Path(".dvc/plots.html")
OFFLINE: Final = Path(".dvc/plots-offline.html")
SETTING: Final = "plots.html_template"
SCRIPTS: Final = "{scripts}"
"""DVC replaces it in the template by the scripts from the CDN."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="vega", description="Put Vega into DVC's pages of plots.")
    parser.parse_args()
    if not TEMPLATE.exists():
        raise MissingFile(TEMPLATE)
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    # A function avoids name clashes with the page's own scripts.
    script = f"<script>(() => {{{bundle}}})();</script>"
    write_text(OFFLINE, TEMPLATE.read_text("utf-8").replace(SCRIPTS, script))
    if _dvc("config", SETTING) == TEMPLATE.name:  # else the user has chosen another template
        _dvc("config", "--local", SETTING, OFFLINE.name)


def _dvc(*arguments: str) -> str:
    command = ["dvc", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip() or f"exit status {result.returncode}").splitlines()[0]
        raise UserError(f"{' '.join(command)}: {reason}")
    return result.stdout.strip()


if __name__ == "__main__":
    run_main("vega", main)
