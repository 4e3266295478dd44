"""Text in pictures, wrapped by its measured width and drawn in fonts that have its characters.

The font of matplotlib, DejaVu Sans, has Latin, Greek, Cyrillic and Arabic, but no Chinese. A
character that it lacks is drawn in an installed font that has it. If no font has it, its code point
is drawn, as U+4E00.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI: Final = 150
SANS, MONO = "DejaVu Sans", "DejaVu Sans Mono"  # both come with matplotlib
REGULAR: Final = (400, "normal", "normal")  # weight, style and stretch of a font
LAST_RESORT: Final = "Last Resort"  # a font of matplotlib that draws boxes
NAMED: Final = 5  # number of characters quoted in the warning

# ------------------------------------------------------------------------------------- measuring


def width_of(text: str, size: float, family: str = SANS) -> float:
    """Return the width of the longest line of ``text``, in inches, at ``size`` points."""
    return max(_measured(line, size, family)[0] for line in text.split("\n"))


def height_of(text: str, size: float, family: str = SANS) -> float:
    """Return the height of one line of ``text``, in inches, at ``size`` points."""
    return max(_measured(line, size, family)[1] for line in ("lp", text))


def wrap(text: str, width: float, size: float) -> str:
    """Wrap ``text`` into lines of at most ``width`` inches at ``size`` points, ready to be drawn.

    Its line breaks are kept if its lines fit. Otherwise it is wrapped into as few lines as
    possible, of about the same length. A word that is too long is broken.
    """
    text = drawable(text)
    if width_of(text, size) > width:
        words = [part for word in text.split() for part in _parts(word, width, size)]
        lines = _lines(words, width, size)
        # Find the smallest width that needs no more lines.
        low, high = width / 2, width
        for _ in range(6):
            middle = (low + high) / 2
            tried = _lines(words, middle, size)
            if len(tried) == len(lines) and all(width_of(one, size) <= middle for one in tried):
                lines, high = tried, middle
            else:
                low = middle
        text = "\n".join(lines)
    return text.replace("$", r"\$")  # which would start a formula


def _lines(words: Sequence[str], width: float, size: float) -> list[str]:
    lines = [words[0]]
    for word in words[1:]:
        longer = f"{lines[-1]} {word}"
        if width_of(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _parts(word: str, width: float, size: float) -> list[str]:
    """Break ``word`` into the longest pieces that fit."""
    parts = [""]
    for character in word:
        if parts[-1] and width_of(parts[-1] + character, size) > width:
            parts.append("")
        parts[-1] += character
    return parts


@cache
def _measured(line: str, size: float, family: str) -> tuple[float, float]:
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family=families(line, family), size=size)
    width, height, _ = _renderer().get_text_width_height_descent(line, font, ismath=False)
    return width / DPI, height / DPI


@cache
def _renderer() -> Any:
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, DPI)  # type: ignore[no-untyped-call]


# ----------------------------------------------------------------------------------------- fonts


def drawable(text: str) -> str:
    """Replace the characters of ``text`` that no installed font has by their code points.

    The first replacement prints a warning to stderr.
    """
    _, missing = _fallbacks(_lacking(text, SANS))
    if not missing:
        return text
    _warn(missing)
    written = (f" U+{ord(c):04X} " if c in missing else c for c in text)
    return "\n".join(" ".join(line.split()) for line in "".join(written).split("\n"))


def families(text: str, first: str = SANS) -> list[str]:
    """Return the font ``first``, and fonts that have the characters of ``text`` that it lacks."""
    more, _ = _fallbacks(_lacking(text, first))
    return [first, *(name for name in more if name != first)]


def set_fonts(figure: Figure) -> None:
    """Set the fonts of each text of ``figure`` that has characters its own font lacks."""
    from matplotlib.text import Text

    texts: list[Any] = figure.findobj(Text)
    for axes in figure.axes:  # labels of ticks are created when they are requested
        texts += [*axes.get_xticklabels(), *axes.get_yticklabels()]
    for text in texts:
        family = text.get_fontfamily()[0]
        found = families(text.get_text(), MONO if family in ("monospace", MONO) else SANS)
        if len(found) > 1:
            text.set_fontfamily(found)


@cache
def _lacking(text: str, family: str) -> frozenset[str]:
    """Return the characters of ``text``, except control characters, that ``family`` lacks."""
    known = _characters(family)
    return frozenset(c for c in text if ord(c) not in known and unicodedata.category(c) != "Cc")


@cache
def _fallbacks(lacking: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Return installed fonts for the characters ``lacking``, and the characters no font has."""
    names: list[str] = []
    left = {ord(character) for character in lacking}
    while left:
        best = max(_installed(), key=lambda name: len(left & _characters(name)))
        if not left & _characters(best):
            break
        names.append(best)
        left -= _characters(best)
    return names, frozenset(map(chr, left))


def _installed() -> Iterable[str]:
    """Return the font families with an upright, regular font, DejaVu Sans first."""
    from matplotlib.font_manager import fontManager

    names = {
        entry.name
        for entry in fontManager.ttflist
        if (entry.weight, entry.style, entry.stretch) == REGULAR
        and not entry.name.startswith(LAST_RESORT)
    }
    return [SANS, *sorted(names - {SANS})]


@cache
def _characters(family: str) -> frozenset[int]:
    """Return the code points of ``family``; none if it cannot be drawn, as coloured emoji."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    try:
        font = get_font(findfont(FontProperties(family=[family]), fallback_to_default=False))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()


_warned = False


def _warn(missing: frozenset[str]) -> None:
    global _warned
    if not _warned:
        _warned = True
        quoted = ", ".join(f"{c} (U+{ord(c):04X})" for c in sorted(missing)[:NAMED])
        more = ", ..." if len(missing) > NAMED else ""
        print(
            f"warning: no installed font has {quoted}{more}; pictures show code points instead; "
            "install a font that has these characters, such as Noto",
            file=sys.stderr,
        )
