"""Read, normalise and tokenise a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

from gru_lm.core.errors import UserError, require_one_of
from gru_lm.core.reading import decode_text, read_bytes, with_newlines

Normalize = Literal["letters", "none"]
TokenLevel = Literal["char", "word", "bpe"]

# Between two tokens of a text.
SEPARATORS: dict[TokenLevel, str] = {"char": "", "word": " ", "bpe": ""}

LARGEST = 10**11  # bytes of a corpus that is read at once
LONGEST_WORD = 1_000_000  # characters


def read_text(path: Path) -> str:
    """Read a UTF-8 file without its byte order mark and with ``\\n`` as line end.

    Raises UserError as ``decoded_pieces`` does. Raises UnusableFile if the file is missing, not a
    regular file or too large.
    """
    return decode_text(read_bytes(path, LARGEST), str(path))


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

    Raises ValueError for an unknown ``normalize`` or ``level``, and for the level ``bpe``, which
    needs the merges of a vocabulary.
    """
    require_one_of(("char", "word"), level=level)
    lines = normalized_lines(text, normalize)
    if level == "char":
        return list("".join(lines))
    return [word for line in lines for word in line.split()]


def words_in_pieces(
    pieces: Iterable[str], split: Callable[[str], list[str]] = str.split
) -> Iterator[list[str]]:
    """Yield the words of the text that ``pieces`` join to, in lists. ``split`` splits a text.

    The last word of a piece can go on in the next one, so it is held back. Raises UserError for a
    word of over a million characters.
    """
    held = ""
    for piece in pieces:
        text = held + piece
        words = split(text)
        held = words.pop() if words and text.endswith(words[-1]) else ""
        if len(held) > LONGEST_WORD:
            raise UserError(
                f"the text has a word of over {LONGEST_WORD:,} characters: set prepare.tokens to "
                "char, or use a text with spaces between the words"
            )
        yield words
    yield [held] if held else []


def normalized_fragment(text: str, normalize: Normalize) -> str:
    """Normalise a piece of text, such as the prefix of a sample.

    The rules are those of ``normalized_lines``, but its ends are not the ends of lines: under
    ``letters`` a space at either end is kept, and a line break becomes a space.
    """
    text = with_newlines(text)
    return text if normalize == "none" else re.sub("[^A-Za-z]+", " ", text).lower()


def join(tokens: list[str], level: TokenLevel) -> str:
    """Join ``tokens`` to a text. This inverts ``tokenize``, except for whitespace between words.

    Raises ValueError for an unknown ``level``.
    """
    require_one_of(get_args(TokenLevel), level=level)
    return SEPARATORS[level].join(tokens)
