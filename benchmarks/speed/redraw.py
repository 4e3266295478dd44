"""Write the pages and the pictures of existing results without measuring again.

    python -m benchmarks.speed.redraw benchmarks/results/*.json

Results of ``training`` get a page (.md) and a picture (.png), and results of ``scaling`` a picture,
beside the .json. Results of other benchmarks are skipped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.speed.pictures import scaling_curves, speed_bars
from benchmarks.speed.report import markdown
from gru_lm.core.errors import run_main
from gru_lm.core.files import read_json, write_bytes, write_text


def write_training(path: Path, result: dict[str, Any]) -> str:
    """Write the page and the picture of ``result`` beside its file ``path``. Returns the page."""
    page = markdown(result)
    write_text(path.with_suffix(".md"), page)
    write_bytes(path.with_suffix(".png"), speed_bars(result))
    return page


def write_scaling(path: Path, result: dict[str, Any]) -> None:
    """Write the picture of ``result`` beside its file ``path``."""
    write_bytes(path.with_suffix(".png"), scaling_curves(result))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.redraw",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, nargs="+", metavar="JSON")
    for path in parser.parse_args().results:
        result = read_json(path)
        match result.get("benchmark"):
            case "speed":
                write_training(path, result)
            case "scaling":
                write_scaling(path, result)
            case _:
                print(f"skipped: {path}")
                continue
        print(f"redrawn: {path}")


if __name__ == "__main__":
    run_main("benchmarks.speed.redraw", main)
