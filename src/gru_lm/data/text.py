"""Read, normalise and tokenise a text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from gru_lm.core.errors import UserError, require_one_of

Normalize = Literal["letters", "none"]
TokenLevel = Literal["char", "word"]


def read_text(path: Path) -> str:
    """Read a UTF-8 file without its byte order mark and with ``\\n`` as line end.

    Raises UserError with the first invalid byte if the file is not UTF-8.
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
    """Return the normalised lines of ``text``. Joined without separator, they are the corpus.

    ``letters`` is the textbook's rule: every run of characters other than A-Z and a-z becomes one
    space, and each line is stripped and lowercased. As the lines are joined without separator, the
    last word of a line merges with the first word of the next. The textbook's published numbers
    include this flaw. ``none`` keeps everything, including newlines.

    Raises ValueError for another ``normalize``. Source: Zhang et al., Dive into Deep Learning,
    section "Text Preprocessing" (train_ch8 edition).
    """
    require_one_of(get_args(Normalize), normalize=normalize)
    if normalize == "none":
        return text.splitlines(keepends=True)
    return [re.sub("[^A-Za-z]+", " ", line).strip().lower() for line in text.split("\n")]


def tokenize(text: str, normalize: Normalize, level: TokenLevel) -> list[str]:
    """Split ``text`` into characters, or into words separated by whitespace.

    Raises ValueError for an unknown ``normalize`` or ``level``.
    """
    require_one_of(get_args(TokenLevel), level=level)
    lines = normalized_lines(text, normalize)
    if level == "char":
        return list("".join(lines))
    return [word for line in lines for word in line.split()]


def join(tokens: list[str], level: TokenLevel) -> str:
    """Join ``tokens`` to a text. This inverts ``tokenize``, except for whitespace between words.

    Raises ValueError for an unknown ``level``.
    """
    require_one_of(get_args(TokenLevel), level=level)
    return ("" if level == "char" else " ").join(tokens)
