"""Split a text into tokens while it is read, so that a long text needs little memory."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator

from gru_lm.core.errors import UserError
from gru_lm.data.byte_pairs import words
from gru_lm.data.text import LONGEST_WORD, Normalize, TokenLevel, words_in_pieces
from gru_lm.data.vocabulary import Vocabulary


def tokens_by_line(
    pieces: Iterable[str], vocabulary: Vocabulary
) -> Iterator[tuple[int, list[str]]]:
    """Yield pairs of a line's number, from 1, and some of its tokens.

    The text is what ``pieces`` join to. Its lines end with ``\\n``, which belongs to the line that
    it ends. All tokens in their order are those of ``vocabulary.tokenize``. A token of several
    characters belongs to the line of the first.

    Raises UserError for a word of over a million characters.
    """
    if vocabulary.level != "bpe":
        yield from _by_line(pieces, vocabulary.normalize, vocabulary.level)
        return
    ends: deque[tuple[int, int]] = deque()  # lines, with the number of characters up to their end

    def texts() -> Iterator[str]:
        end = 0
        for line, characters in _by_line(pieces, vocabulary.normalize, "char"):
            end += len(characters)
            ends.append((line, end))
            yield "".join(characters)

    place = 0
    for found in words_in_pieces(texts(), words):
        for token in vocabulary.split_words(found):
            while ends[0][1] <= place:
                ends.popleft()
            yield ends[0][0], [token]
            place += len(token)


def _by_line(
    pieces: Iterable[str], normalize: Normalize, level: TokenLevel
) -> Iterator[tuple[int, list[str]]]:
    splitter, line = _Splitter(normalize, level), 1
    for piece in pieces:
        first, *others = piece.split("\n")
        yield line, splitter.add(first)
        for segment in others:
            yield line, splitter.end_line()
            line += 1
            yield line, splitter.add(segment)
    yield line, splitter.end_text()


class _Splitter:
    """The tokens of a line that arrives in segments."""

    def __init__(self, normalize: Normalize, level: TokenLevel) -> None:
        self._letters, self._words = normalize == "letters", level == "word"
        self._held = ""  # the end of the line so far: an unfinished word, or a space
        self._started = False  # whether the line has a letter so far

    def add(self, segment: str) -> list[str]:
        """Return the tokens that are complete with ``segment``."""
        if self._letters:
            segment = re.sub("[^A-Za-z]+", " ", segment).lower()
        if self._words:
            words = (self._held + segment).split()
            unfinished = words and not (segment or " ")[-1].isspace()
            self._held = words.pop() if unfinished else ""
            if len(self._held) > LONGEST_WORD:
                raise UserError(
                    f"a word of the text has over {LONGEST_WORD:,} characters: use a text with "
                    "spaces between the words"
                )
            return words
        if self._letters:
            # Spaces at the ends of the line are dropped, and two segments can share one space.
            text = segment if segment.startswith(" ") else self._held + segment
            text = text if self._started else text.lstrip(" ")
            self._held = " " if (text or self._held).endswith(" ") else ""
            text = text.removesuffix(" ")
            self._started = self._started or text != ""
            return list(text)
        return list(segment)

    def end_line(self) -> list[str]:
        """Return the last tokens of the line, which a line break ends."""
        return self.end_text() if self._words or self._letters else ["\n"]

    def end_text(self) -> list[str]:
        """Return the last tokens of the line, which nothing follows."""
        last = [self._held] if self._words and self._held else []
        self._held, self._started = "", False
        return last
