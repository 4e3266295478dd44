"""From a raw book to a stream of tokens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from gru_lm.core.errors import UserError

Normalize = Literal["letters", "none"]
TokenLevel = Literal["char", "word"]


def read_text(path: Path) -> str:
    """Read a UTF-8 file, without its byte order mark, line ends as ``\\n``.

    Raises UserError naming the first offending byte where the file is not UTF-8.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise UserError(
            f"{path} is not UTF-8: byte 0x{data[offset]:02x} at offset {offset}; "
            "convert it to UTF-8 first, for example with iconv"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def normalized_lines(text: str, normalize: Normalize) -> list[str]:
    """The lines of ``text`` after normalisation; joined with nothing between, they are the corpus.

    ``letters`` is the textbook's rule: every run of characters other than A-Z and a-z becomes one
    space, and each line is stripped and lowered. Since the lines are then joined with nothing
    between, the last word of one line runs into the first of the next: the rule has that flaw,
    and the published numbers were reached with it. ``none`` keeps everything, newlines included.

    Source: Zhang et al., Dive into Deep Learning, section "Text Preprocessing" (train_ch8
    edition).
    """
    if normalize == "none":
        return text.splitlines(keepends=True)
    return [re.sub("[^A-Za-z]+", " ", line).strip().lower() for line in text.split("\n")]


def tokenize(text: str, normalize: Normalize, level: TokenLevel) -> list[str]:
    """Split ``text`` into characters, or into the words that stand between white space."""
    lines = normalized_lines(text, normalize)
    if level == "char":
        return list("".join(lines))
    return [word for line in lines for word in line.split()]


def join(tokens: list[str], level: TokenLevel) -> str:
    """The text that ``tokens`` spell: the inverse of tokenising, but for white space in words."""
    return ("" if level == "char" else " ").join(tokens)
