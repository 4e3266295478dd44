"""How numbers, names and white space are written, in pictures and on the page."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gru_lm.results.gates import Gate

SPLIT_NAMES: Final = {"train": "training", "val": "validation", "test": "test"}
GATE_NAMES: Final[dict[Gate, str]] = {"Z": "update gate", "R": "reset gate"}
LINE_BREAK: Final = "⏎"
SPACE: Final = "␣"
VISIBLE: Final = {" ": (SPACE, "space"), "\n": (LINE_BREAK, "line break"), "\t": ("⇥", "tab")}
EN_DASH: Final = "\N{EN DASH}"
SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
COUNTS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def visible(token: str) -> tuple[str, str]:
    """How ``token`` is shown, and how it is called: white space gets a sign, the rest is itself."""
    if token in VISIBLE:
        return VISIBLE[token]
    if all(unicodedata.category(character)[0] in "CZ" for character in token):
        number = " ".join(f"U+{ord(character):04X}" for character in token)
        return number, number
    if unicodedata.combining(token[0]):
        return f"◌{token}", token  # an accent needs a letter below it
    return token, token


def figures(value: float) -> str:
    """Three significant figures or a whole number: 1.07, 17.4, 113, 12,345 and, beyond, 1.23e+08.

    A whole number keeps all of its digits up to a million.
    """
    if 999.5 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def rounded(value: float) -> str:
    """Two significant figures, as of a speed that another run would not repeat: 36,000."""
    return f"{float(f'{value:.2g}'):,.0f}" if abs(value) >= 9.5 else f"{value:.2g}"


def span(values: Iterable[float], write: Callable[[float], str] = figures) -> str:
    """The lowest and the highest of ``values``, or one figure if both are written the same."""
    values = list(values)
    return EN_DASH.join(dict.fromkeys(map(write, (min(values), max(values)))))


def percent(shares: Iterable[float]) -> str:
    """The span of shares, in per cent."""
    return span((100 * share for share in shares), "{:.0f}".format) + " %"


def power(value: float) -> str:
    """To one figure as a power of ten, 6 × 10⁻⁵; 0 as it is."""
    if value == 0:
        return "0"
    figure, exponent = f"{value:.0e}".split("e")
    return f"{figure}\u202f\u00d7\u202f10" + str(int(exponent)).translate(SUPERSCRIPT)


def minutes(seconds: float) -> str:
    """A duration as 2:21."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def count(number: int) -> str:
    """A small number as a word: three."""
    return COUNTS[number] if number < len(COUNTS) else str(number)


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def capitalised(text: str) -> str:
    """With a capital first letter; the rest stays as it is."""
    return text[:1].upper() + text[1:]


def typeset(text: str) -> str:
    """With the apostrophes of print."""
    return text.replace("'", "\u2019")


def subject(names: Sequence[str]) -> tuple[str, str, str]:
    """Who a sentence about all of ``names`` is about, its "is", and the ending of its verb."""
    return (names[0], "is", "s") if len(names) == 1 else ("the models", "are", "")
