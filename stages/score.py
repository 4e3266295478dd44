"""Measure how well one trained variant predicts a text of yours.

Prints the bits per character of the whole text and of its lines, and the most surprising
characters with what the model expected there. Fewer bits are better.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from math import isfinite
from pathlib import Path

import torch

from gru_lm.core.errors import UserError, printable
from gru_lm.core.params import load_params
from gru_lm.core.reading import ANY, decoded_pieces, opened
from gru_lm.core.settings import CoreSettings
from gru_lm.data.prepared import Prepared
from gru_lm.evaluation.score import Line, Surprise, score
from gru_lm.evaluation.score_text import HardestLines, describe
from gru_lm.models.base import load_model
from gru_lm.models.device import choose_device
from stages import add_variant, run_stage

PIECE = 1 << 16  # bytes read at a time


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_variant(parser)
    parser.add_argument("file", metavar="FILE", help="a UTF-8 text (-: from stdin)")
    parser.add_argument(
        "--hardest", metavar="N", type=int, default=10, help="surprises to show (default: 10)"
    )
    parser.add_argument(
        "--lines", metavar="N", type=int, default=20, help="lines to show (default: 20)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with all lines")
    given = parser.parse_args()
    for option, value in (("hardest", given.hardest), ("lines", given.lines)):
        if not 0 <= value <= 10_000:
            raise UserError(f"--{option} = {value}: must be 0 to 10000")

    torch.set_num_threads(1)  # makes the last digits independent of the number of cores
    vocabulary = Prepared().vocabulary
    folder = Path("models") / given.variant
    model = load_model(folder, vocabulary.fingerprint, given.variant).eval()
    model = model.to(choose_device(load_params(CoreSettings).device))
    name = "standard input" if given.file == "-" else given.file
    text = decoded_pieces(pieces(given.file), name)
    if not given.json:
        hardest = HardestLines(given.lines)
        found = score(model, vocabulary, text, given.hardest, hardest.add)
        show(describe(found, hardest.in_order(), vocabulary, given.variant, name))
        return
    rows = 0

    def show_line(line: Line) -> None:
        nonlocal rows
        row = {"bits_per_character": line.bits / line.characters, **asdict(line)}
        show(("," if rows else '{"lines": [') + "\n" + json.dumps(row))
        rows += 1

    found = score(model, vocabulary, text, given.hardest, show_line)
    whole = {
        "variant": given.variant,
        "file": name,
        "bits_per_character": found.bits_per_character,
        "perplexity": found.perplexity if isfinite(found.perplexity) else None,
        "bits": found.bits,
        "characters": found.characters,
        "tokens": found.tokens,
        "unknown": found.unknown,
        "hardest": [surprise_row(one, vocabulary.separator) for one in found.hardest],
    }
    show("\n],\n" + json.dumps(whole, indent=2)[2:] + "\n")


def pieces(file: str) -> Iterator[bytes]:
    """Yield the bytes of ``file``, or of standard input for ``-``."""
    with nullcontext(sys.stdin.buffer) if file == "-" else opened(Path(file), ANY) as source:
        yield from iter(partial(source.read, PIECE), b"")


def surprise_row(surprise: Surprise, separator: str) -> dict[str, object]:
    """Return a surprise for JSON, with its context as text."""
    return {
        **asdict(surprise),
        "before": separator.join(surprise.before),
        "after": separator.join(surprise.after),
        "expected": [one._asdict() for one in surprise.expected],
    }


def show(text: str) -> None:
    """Print ``text`` with all characters but line breaks escaped that are not printable."""
    print(printable(text, keep="\n"), end="")


if __name__ == "__main__":
    run_stage("score", main)
