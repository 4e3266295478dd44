"""Formats of numbers, names and white space in pictures and on the page."""

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
    """Return the text that shows ``token`` and its name. White space is shown as a symbol."""
    if token in VISIBLE:
        return VISIBLE[token]
    symbols = "".join(VISIBLE[char][0] if char in VISIBLE else char for char in token)
    if VISIBLE.keys() >= set(token):
        return symbols, ", ".join(VISIBLE[char][1] for char in token)
    if all(unicodedata.category(character)[0] in "CZ" for character in token):
        number = " ".join(f"U+{ord(character):04X}" for character in token)
        return number, number
    if unicodedata.combining(token[0]):
        return f"◌{symbols}", token  # a combining accent needs a base character
    return symbols, token


def figures(value: float) -> str:
    """Write three significant figures, or all digits of a whole number up to a million.

    Examples are 1.07, 17.4, 113, 12,345 and 1.23e+08.
    """
    if 999.5 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def rounded(value: float) -> str:
    """Write two significant figures, for values that vary between runs, as in 36,000."""
    return f"{float(f'{value:.2g}'):,.0f}" if abs(value) >= 9.5 else f"{value:.2g}"


def span(values: Iterable[float], write: Callable[[float], str] = figures) -> str:
    """Write the range of ``values``, or one figure if both ends are written the same."""
    values = list(values)
    return EN_DASH.join(dict.fromkeys(map(write, (min(values), max(values)))))


def percent(shares: Iterable[float]) -> str:
    """Write the range of ``shares`` in per cent."""
    return span((100 * share for share in shares), "{:.0f}".format) + " %"


def power(value: float) -> str:
    """Write one significant figure and a power of ten, as in 6 × 10⁻⁵; 0 stays 0."""
    if value == 0:
        return "0"
    figure, exponent = f"{value:.0e}".split("e")
    return f"{figure}\u202f\u00d7\u202f10" + str(int(exponent)).translate(SUPERSCRIPT)


def minutes(seconds: float) -> str:
    """Write a duration as minutes and seconds, as in 2:21."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def count(number: int) -> str:
    """Write a number below ten as a word."""
    return COUNTS[number] if number < len(COUNTS) else str(number)


def listed(names: Sequence[str]) -> str:
    """Join ``names`` as in "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def capitalised(text: str) -> str:
    """Capitalise the first letter and leave the rest unchanged."""
    return text[:1].upper() + text[1:]


def typeset(text: str) -> str:
    """Replace straight apostrophes by typographic ones."""
    return text.replace("'", "\u2019")


def subject(names: Sequence[str]) -> tuple[str, str, str]:
    """Return the subject of a sentence about all of ``names``, "is" or "are", and a verb ending."""
    return (names[0], "is", "s") if len(names) == 1 else ("the models", "are", "")
