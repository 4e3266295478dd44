"""Read, normalise and tokenise a text."""

from __future__ import annotations

import codecs
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

from gru_lm.core.errors import UserError, require_one_of
from gru_lm.core.reading import read_bytes

Normalize = Literal["letters", "none"]
TokenLevel = Literal["char", "word"]

SEPARATORS: dict[TokenLevel, str] = {"char": "", "word": " "}  # between two tokens of a text

LARGEST = 10**11  # bytes of a corpus, the highest fetch.max_bytes


def read_text(path: Path) -> str:
    """Read a UTF-8 file without its byte order mark and with ``\\n`` as line end.

    Raises UserError if the file looks like UTF-16 or UTF-32, or with the first invalid byte if it
    is not UTF-8. Raises UnusableFile if it is missing, not a regular file or too large.
    """
    return decode_text(read_bytes(path, LARGEST), str(path))


def decode_text(data: bytes, name: str) -> str:
    """Decode ``data`` as ``read_text`` does. Messages call its source ``name``."""
    return "".join(decoded_pieces([data], name))


def decoded_pieces(pieces: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode a UTF-8 text that arrives in ``pieces``, without holding all of it in memory.

    The byte order mark is removed and each line end becomes ``\\n``, as in ``read_text``. A
    character or a line end can be split between two pieces.

    Raises UserError if the first piece looks like UTF-16 or UTF-32, or with the first invalid byte
    if the text is not UTF-8. Messages call its source ``name``.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = 0  # of the first byte that is not decoded yet
    for number, piece in enumerate(itertools.chain(filter(None, pieces), [b""])):
        if number == 0:
            if encoding := wide_encoding(piece):
                raise UserError(
                    f"{name} is {encoding}, not UTF-8: convert it first, for example with "
                    f"iconv -f {encoding} -t UTF-8"
                )
            offset = len(codecs.BOM_UTF8) if piece.startswith(codecs.BOM_UTF8) else 0
            piece = piece[offset:]
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset "
                f"{offset + error.start}; convert it to UTF-8 first, for example with iconv"
            ) from None
        offset += waiting + len(piece) - len(decoder.getstate()[0])
        yield newlines.decode(text, final=not piece)


def with_newlines(text: str) -> str:
    """Replace CR LF and CR by the newline character."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def wide_encoding(data: bytes) -> str | None:
    """Return the name of the encoding if ``data`` looks like UTF-16 or UTF-32, else None.

    It does if it starts with their byte order mark, or if three in four characters would be below
    U+0900, as in a Latin, Greek, Cyrillic, Hebrew or Arabic text. All but the lowest byte of such a
    character are below 9, and no text in UTF-8 has so many control characters. A few of them are no
    sign of it.
    """
    for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        if data.startswith(mark):
            return "UTF-32"
    for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if data.startswith(mark):
            return "UTF-16"
    for name, width, used in (
        ("UTF-32LE", 4, 0),
        ("UTF-32BE", 4, 3),
        ("UTF-16LE", 2, 0),
        ("UTF-16BE", 2, 1),
    ):
        size = len(data) // width
        columns = [data[place::width] for place in range(width)]
        low = [len(column) - len(column.translate(None, bytes(range(9)))) for column in columns]
        if size and low.pop(used) < 0.25 * size and min(low) > 0.75 * size:
            return name
    return None


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


def normalized_fragment(text: str, normalize: Normalize) -> str:
    """Normalise a piece of text, such as the prefix of a sample.

    The rules are those of ``normalized_lines``, but its ends are not the ends of lines: under
    ``letters`` a space at either end is kept, and a line break becomes a space.
    """
    text = with_newlines(text)
    return text if normalize == "none" else re.sub("[^A-Za-z]+", " ", text).lower()


def dropped_letters(text: str, normalize: Normalize) -> tuple[float, str]:
    """Return the share of the letters of ``text`` that normalisation drops, and examples.

    The share is between 0 and 1. The examples are the up to five most frequent of these letters.
    """
    if normalize == "none" or text.isascii():
        return 0.0, ""
    counts = Counter(re.sub("[\0-\x7f]+", "", text))
    dropped = [(letter, count) for letter, count in counts.most_common() if letter.isalpha()]
    lost = sum(count for _, count in dropped)
    kept = len(re.sub("[^A-Za-z]+", "", text))
    return (lost / (lost + kept) if lost else 0.0), "".join(letter for letter, _ in dropped[:5])


def join(tokens: list[str], level: TokenLevel) -> str:
    """Join ``tokens`` to a text. This inverts ``tokenize``, except for whitespace between words.

    Raises ValueError for an unknown ``level``.
    """
    require_one_of(get_args(TokenLevel), level=level)
    return SEPARATORS[level].join(tokens)
