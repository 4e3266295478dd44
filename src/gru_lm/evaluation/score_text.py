"""The score of a text as lines of at most 80 columns for a terminal."""

from __future__ import annotations

import heapq
import math
import unicodedata
from collections.abc import Sequence

from gru_lm.core.errors import printable
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.score import Line, Surprise, TextScore

WIDTH = 80
AROUND = 27  # columns of the text before and after a surprise


class HardestLines:
    """The ``most`` lines with the most bits per character that were added."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, Line]] = []

    def add(self, line: Line) -> None:
        """Keep ``line``, or drop it or an easier one if there are too many."""
        heapq.heappush(self._heap, (line.bits / line.characters, -line.line, line))
        if len(self._heap) > self._most:
            heapq.heappop(self._heap)

    def in_order(self) -> list[Line]:
        """Return the lines in the order of the text."""
        return sorted((line for *_, line in self._heap), key=lambda line: line.line)


def describe(
    found: TextScore, lines: Sequence[Line], vocabulary: Vocabulary, variant: str, name: str
) -> str:
    """Return the score ``found`` for the text ``name``, with ``lines`` of it, as a text to print.

    Every line has at most 80 columns, and characters that are not printable are escaped.
    """
    even = math.log2(len(vocabulary))
    unit = vocabulary.unit
    rows = [
        _cut(printable(f"{variant}: {found.bits_per_character:.3f} bits per character of {name}")),
        "",
        f"  {found.characters:,} characters were predicted, each {unit} from all before it.",
        f"  Perplexity per {unit}: {found.perplexity:,.4g}. Lower is better in both.",
    ]
    if vocabulary.normalize == "letters":
        rows.append("  The text is read as the corpus was: as lower-case letters and spaces.")
    if vocabulary.level == "char":
        rows.append(
            f"  A uniform guess among the {len(vocabulary):,} tokens of the vocabulary has "
            f"{even:.2f} bits."
        )
    rows.append(
        f"  {found.unknown:,} of {found.tokens + 1:,} {unit}s are unknown"
        + (" and were read as <unk>." if found.unknown else ".")
    )
    if lines:
        title = "Bits per character by line"
        if len(lines) < found.lines:
            title += f": the {len(lines):,} highest of {found.lines:,} lines"
        rows += ["", title, "", f"{'line':>9} {'characters':>11} {'bits/char':>10}  text"]
        for line in lines:
            head = f"{line.line:>9,} {line.characters:>11,} {line.bits / line.characters:>10.2f}"
            rows.append(_cut(f"{head}  {printable(line.text)}"))
    if found.hardest:
        rows += ["", f"The {len(found.hardest):,} most surprising {unit}s"]
        for surprise in found.hardest:
            rows += ["", *_surprise(surprise, vocabulary.separator)]
    return "\n".join(rows) + "\n"


def _surprise(surprise: Surprise, separator: str) -> list[str]:
    """Return a ``surprise`` as three lines: what was expected, the text, and a mark below it."""
    head = f"  line {surprise.line:,}: {surprise.bits:.1f} bits, expected"
    for number, (token, probability) in enumerate(surprise.expected):
        share = f"{probability:.0%}" if probability >= 0.01 else "<1%"
        part = f"{',' if number else ''} '{_cut(printable(token), 12)}' {share}"
        if columns(head + part) <= WIDTH:
            head += part
    before = separator.join([*surprise.before, ""])
    after = separator.join(["", *surprise.after])
    start = _cut(printable(before)[::-1], AROUND)[::-1]
    token = _cut(printable(surprise.token), 20)
    text = f"    {start}{token}{_cut(printable(after), AROUND)}"
    return [head, text, " " * columns(f"    {start}") + "^" * columns(token)]


def columns(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def _cut(text: str, width: int = WIDTH) -> str:
    """Return ``text``, or its start and an ellipsis if it takes over ``width`` columns."""
    if columns(text) <= width:
        return text
    while columns(text) > width - 1:
        text = text[:-1]
    return f"{text}…"
