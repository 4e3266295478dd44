"""Read a corpus in pieces, and count and number its tokens.

The tokens are those of ``gru_lm.data.text.tokenize``. With byte pairs they are the characters, of
which ``gru_lm.preparation.byte_pairs`` makes tokens. Memory holds a piece of the text and the
different tokens, and never all tokens.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from gru_lm.core.errors import UserError
from gru_lm.core.reading import ANY, decoded_pieces, opened
from gru_lm.data.text import Normalize, TokenLevel, words_in_pieces
from gru_lm.data.vocabulary import Vocabulary

PIECE = 1 << 18  # bytes of the text read at a time
MOST_WORDS = 10_000_000  # different ones
CODES = 0x110000  # code points of Unicode

# The textbook's rule for each byte of an ASCII text: lower-case letters, line ends and spaces.
LETTERS = bytes(
    ord(chr(byte).lower()) if byte < 128 and chr(byte).isalpha() else 10 if byte == 10 else 32
    for byte in range(256)
)


class TextFile:
    """A UTF-8 text in a file, which is read in pieces with ``\\n`` as line end.

    Raises UnusableFile if it is missing or not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with opened(path, ANY) as file:
            self._version = _version(file)

    def pieces(self) -> Iterator[str]:
        """Yield the text from its start.

        Raises UserError if it is not UTF-8 or if the file has changed.
        """
        with opened(self.path, ANY) as file:
            self._require_unchanged(file)
            chunks = iter(lambda: file.read(PIECE), b"")
            yield from decoded_pieces(chunks, str(self.path), key="corpora.<name>.encoding")
            self._require_unchanged(file)

    def _require_unchanged(self, file: IO[bytes]) -> None:
        if _version(file) != self._version:
            raise UserError(f"{self.path} was changed while it was read: run the stage again")


def _version(file: IO[bytes]) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


class Corpus:
    """The tokens of a text. ``pieces`` returns the text from its start, for each pass over it.

    Characters are read from the text in each pass. Words are looked up once: their numbers by first
    occurrence are kept in the empty file ``scratch``, with 4 bytes per word. At the level ``bpe``
    the tokens are characters.
    """

    def __init__(
        self,
        pieces: Callable[[], Iterable[str]],
        normalize: Normalize,
        level: TokenLevel,
        scratch: IO[bytes],
    ) -> None:
        self._pieces, self._normalize, self._level = pieces, normalize, level
        self.scratch, self._is_numbered = scratch, False
        self._words = _Numbering()
        self._others = CodeCounts()

    def count(self, first: int | None = None) -> dict[str, int]:
        """Return how often each token occurs, in the order of first occurrence.

        Only the ``first`` tokens are counted, or all. Memory grows with each different word. Raises
        UserError if there are over ten million, or for a word of over a million characters.
        """
        counts = CodeCounts()
        for codes in _first(self._codes(), first):
            counts.add(codes)
        if self._level != "word":
            return {chr(code): count for code, count in counts.in_order()}
        words = list(self._words)
        return {words[code]: count for code, count in counts.in_order()}

    def numbers(self, vocabulary: Vocabulary) -> Iterator[np.ndarray]:
        """Yield the numbers of the tokens in pieces: (n,) of the type ``vocabulary.dtype``.

        ``count`` must have been called before.
        """
        codes = self._codes()
        if self._level != "word":
            table = np.zeros(CODES, vocabulary.dtype)
            for number, token in enumerate(vocabulary.tokens):
                if len(token) == 1:
                    table[ord(token)] = number
        else:
            table = vocabulary.encode_tokens(self._words)
        return (table.take(piece, mode="clip") for piece in codes)

    def texts(self) -> Iterator[str]:
        """Yield the normalised text in pieces, at the levels ``char`` and ``bpe``."""
        if self._normalize == "none":
            return iter(self._pieces())
        return (codes.tobytes().decode("ascii") for codes in self._codes())

    def dropped_letters(self, counts: Mapping[str, int]) -> tuple[float, str]:
        """Return the share of the letters that normalisation removes, and examples.

        ``counts`` are those of all tokens. The share is between 0 and 1. The examples are the up to
        five most frequent of these letters.
        """
        letters = Counter({chr(code): n for code, n in self._others.in_order()})
        dropped = [(letter, n) for letter, n in letters.most_common() if letter.isalpha()]
        lost = sum(n for _, n in dropped)
        kept = sum(len(token.strip()) * n for token, n in counts.items())
        return (lost / (lost + kept) if lost else 0.0), "".join(char for char, _ in dropped[:5])

    def _codes(self) -> Iterator[np.ndarray]:
        """Yield the code of each token: its code point, or the word's number."""
        if self._level == "word":
            return self._codes_of_words()
        if self._normalize == "none":
            return map(code_points, self._pieces())
        return _joined_letters(self._lines_of_letters())

    def _codes_of_words(self) -> Iterator[np.ndarray]:
        if not self._is_numbered:
            pieces = self._pieces()
            if self._normalize == "letters":
                pieces = (lines.decode("ascii") for lines in self._lines_of_letters())
            for words in words_in_pieces(pieces):
                codes = map(self._words.__getitem__, words)
                self.scratch.write(np.fromiter(codes, np.uint32, len(words)).tobytes())
                if len(self._words) > MOST_WORDS:
                    raise UserError(
                        f"the corpus has over {MOST_WORDS:,} different words: set prepare.tokens "
                        "to char"
                    )
            self._is_numbered = True
        self.scratch.seek(0)
        while piece := self.scratch.read(16 * PIECE):
            yield np.frombuffer(piece, np.uint32)

    def _lines_of_letters(self) -> Iterator[bytes]:
        """Yield the text with a space instead of each character but a-z and line ends."""
        others = CodeCounts()
        for text in self._pieces():
            if not text.isascii():
                codes = code_points(text)
                others.add(codes[codes > 127])
            yield text.encode("ascii", "replace").translate(LETTERS)
        self._others = others


class _Numbering(dict[str, int]):
    """The numbers of words by first occurrence, from 0. A new word gets the next one."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


class CodeCounts:
    """How often each code of a token occurs, and the order in which the codes first occur."""

    def __init__(self) -> None:
        self._counts = np.zeros(256, np.int64)
        self._order: list[int] = []

    def add(self, codes: np.ndarray) -> None:
        """Count ``codes``, (n,) unsigned, which follow the earlier ones."""
        found = np.bincount(codes, minlength=len(self._counts))
        self._counts.resize(len(found), refcheck=False)
        if ((found > 0) & (self._counts == 0)).any():
            known = self._counts > 0
            fresh, places = np.unique(codes[~known[codes]], return_index=True)
            self._order += fresh[np.argsort(places)].tolist()
        self._counts += found

    def in_order(self) -> Iterator[tuple[int, int]]:
        """Yield each code with its count, in the order of first occurrence."""
        return zip(self._order, self._counts[self._order].tolist(), strict=True)


def code_points(text: str) -> np.ndarray:
    """Return the code points of ``text``: (n,) of the type uint8 if it is ASCII, else uint32."""
    if text.isascii():
        return _bytes(text.encode("ascii"))
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _joined_letters(pieces: Iterable[bytes]) -> Iterator[np.ndarray]:
    """Yield the lines joined, with one space for each run of spaces within a line, as bytes.

    Between two letters is a run of spaces and line ends. With a line end it becomes nothing, else
    one space. A run at the end of a piece is held back, since it can go on in the next one.
    """
    held = b"\n"  # what precedes the first letter becomes nothing
    for piece in pieces:
        whole = held + piece
        text = whole.rstrip(b" \n")
        rest = whole[len(text) :]
        held = b"\n" if b"\n" in rest else rest[:1]
        yield _without_blanks(_bytes(text))


def _without_blanks(text: np.ndarray) -> np.ndarray:
    """Return ``text`` with one space for each run of spaces, and nothing if it has a line end."""
    letter = text > ord(" ")
    first = ~letter  # of each run
    first[1:] &= letter[:-1]
    starts, line_ends = np.flatnonzero(first), np.flatnonzero(text == ord("\n"))
    first[starts[np.searchsorted(starts, line_ends, "right") - 1]] = False
    return text[letter | first]


def _first(pieces: Iterable[Any], count: int | None) -> Iterator[Any]:
    """Yield ``pieces`` up to the first ``count`` items in them."""
    for piece in pieces:
        if count is not None:
            piece = piece[:count]
            count -= len(piece)
        yield piece
        if count == 0:
            return
