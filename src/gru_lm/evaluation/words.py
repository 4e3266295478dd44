"""Where a character is in its word: the one definition of a word's first letter.

The groups of ``gru_lm.evaluation.uncertainty`` and the places at which the gate study takes means
both follow it.
"""

from __future__ import annotations

import unicodedata
from typing import Final

import numpy as np

from gru_lm.data.vocabulary import Vocabulary

LETTERS: Final = 6  # positions in a word told apart; the last one takes all that follow
POSITIONS: Final = ("1", "2", "3", "4", "5", "6+", "end", "other")
PLACES: Final = ("first letter", "inside words", "space")  # fewer groups, of POSITIONS
NOWHERE: Final = -1  # of a token at none of PLACES


def positions_in_word(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """The position of each character of the stream ``tokens`` (N,): (N,) indices into POSITIONS.

    A word is a run of characters other than white space. Its letters and digits are counted,
    punctuation is not, so that the first letter after a quotation mark is a first letter. ``end``
    is the white space right after a word; ``other`` is all the rest: punctuation, further white
    space and tokens that are no character. (Under ``normalize: letters`` the last word of a line
    and the first of the next are one word: see ``gru_lm.data.text``.)
    """
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
    """For each of ``tokens`` (N,), an index into PLACES; None at word level.

    ``first letter`` and ``inside words`` are by ``positions_in_word``; ``space`` is any white
    space. Punctuation and tokens that are no character are at none of the places: NOWHERE.
    """
    if vocabulary.level != "char":
        return None
    positions = positions_in_word(tokens, vocabulary)
    space = np.array([token.isspace() for token in vocabulary.tokens])[tokens]
    return np.select([space, positions == 0, positions < LETTERS], [2, 0, 1], NOWHERE)


def token_categories(vocabulary: Vocabulary) -> list[str]:
    """The Unicode category of each token, ``space`` for white space, ``none`` for no character."""
    return [
        "none" if len(token) != 1 else "space" if token.isspace() else unicodedata.category(token)
        for token in vocabulary.tokens
    ]
