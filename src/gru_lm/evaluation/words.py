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


def positions_in_word(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Return the position of each character of ``tokens`` (N,) as (N,) indices into POSITIONS.

    A word is a run of characters other than whitespace. Letters and digits are counted, and
    punctuation is not, so the letter after an opening quotation mark is a first letter. ``end`` is
    the whitespace character right after a word. ``other`` is punctuation, further whitespace and
    tokens of several characters. With ``normalize: letters`` the last word of a line and the first
    word of the next count as one word (see ``gru_lm.data.text``).

    Raises ValueError for a token outside the vocabulary.
    """
    require_tokens(tokens, len(vocabulary))
    categories = token_categories(vocabulary)
    space = np.array([category == "space" for category in categories])[tokens]
    letter = np.array([category[0] in "LMN" for category in categories])[tokens]
    letters = np.cumsum(letter)
    before = np.maximum.accumulate(np.where(space, letters, 0))  # letters up to the last space
    positions = np.full(len(tokens), POSITIONS.index("other"))
    positions[letter] = np.minimum(letters - before, LETTERS)[letter] - 1
    ends_word = space[1:] & ~space[:-1]
    positions[1:][ends_word] = POSITIONS.index("end")
    return positions


def places(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray | None:
    """Return an index into PLACES for each of ``tokens`` (N,), or None at word level.

    ``first letter`` and ``inside words`` follow ``positions_in_word``. ``space`` is any whitespace.
    Punctuation and tokens of several characters have the index NOWHERE.
    """
    if vocabulary.level != "char":
        return None
    positions = positions_in_word(tokens, vocabulary)
    space = np.array([token.isspace() for token in vocabulary.tokens])[tokens]
    return np.select([space, positions == 0, positions < LETTERS], [2, 0, 1], NOWHERE)


def token_categories(vocabulary: Vocabulary) -> list[str]:
    """Return each token's Unicode category, "space" for whitespace, "none" for several characters.

    The list has one entry per token of the vocabulary.
    """
    return [
        "none" if len(token) != 1 else "space" if token.isspace() else unicodedata.category(token)
        for token in vocabulary.tokens
    ]
