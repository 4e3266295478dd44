"""The position of a character in its word.

``gru_lm.evaluation.uncertainty`` and the gate study both group characters by these positions.
"""

from __future__ import annotations

import unicodedata
from typing import Final

import numpy as np

from gru_lm.core.errors import require_tokens
from gru_lm.data.vocabulary import Vocabulary

LETTERS: Final = 6  # number of letter positions; the last one includes all later letters
POSITIONS: Final = ("1", "2", "3", "4", "5", "6+", "end", "other")
PLACES: Final = ("first letter", "inside words", "space")  # coarser groups
NOWHERE: Final = -1  # the index of a token in none of PLACES


class WordReader:
    """Finds the position of each character of a stream that is read in consecutive pieces."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        categories = token_categories(vocabulary)
        self._is_space = np.array([category == "space" for category in categories])
        self._is_letter = np.array([category[0] in "LMN" for category in categories])
        self._letters = 0  # read since the last space
        self._after_space = True  # or at the start of the stream

    def positions(self, tokens: np.ndarray) -> np.ndarray:
        """Return the position of each character of ``tokens`` (N,) as (N,) indices into POSITIONS.

        A word is a run of characters other than whitespace. Letters and digits are counted, and
        punctuation is not, so the letter after an opening quotation mark is a first letter. ``end``
        is the whitespace character right after a word. ``other`` is punctuation, further whitespace
        and tokens of several characters. With ``normalize: letters`` the last word of a line and
        the first word of the next count as one word (see ``gru_lm.data.text``).

        Raises ValueError for a token outside the vocabulary, and without tokens.
        """
        require_tokens(tokens, len(self._vocabulary), least=1)
        space, letter = self._is_space[tokens], self._is_letter[tokens]
        letters = self._letters + np.cumsum(letter)
        before = np.maximum.accumulate(np.where(space, letters, 0))  # letters up to the last space
        positions = np.full(len(tokens), POSITIONS.index("other"))
        positions[letter] = np.minimum(letters - before, LETTERS)[letter] - 1
        after_space = np.concatenate([[self._after_space], space[:-1]])
        positions[space & ~after_space] = POSITIONS.index("end")
        self._letters, self._after_space = int(letters[-1] - before[-1]), bool(space[-1])
        return positions

    def places(self, tokens: np.ndarray) -> np.ndarray:
        """Return an index into PLACES for each of ``tokens`` (N,).

        ``first letter`` and ``inside words`` follow ``positions``. ``space`` is any whitespace.
        Punctuation and tokens of several characters have the index NOWHERE.
        """
        positions = self.positions(tokens)
        kinds = [self._is_space[tokens], positions == 0, positions < LETTERS]
        return np.select(kinds, [2, 0, 1], NOWHERE)


def token_categories(vocabulary: Vocabulary) -> list[str]:
    """Return each token's Unicode category, "space" for whitespace, "none" for several characters.

    The list has one entry per token of the vocabulary.
    """
    return [
        "none" if len(token) != 1 else "space" if token.isspace() else unicodedata.category(token)
        for token in vocabulary.tokens
    ]
