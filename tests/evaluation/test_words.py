"""The places of the gate study agree with the positions in a word."""

import numpy as np
import pytest

from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.words import NOWHERE, PLACES, WordReader


def places(tokens, vocabulary):
    return WordReader(vocabulary).places(tokens)


def test_places_in_text():
    text = "“It's  two”\n3!?"
    vocabulary = Vocabulary.build(text)
    found = places(vocabulary.encode(text), vocabulary)
    expected = [
        ("“", [NOWHERE]),
        ("It's", [0, 1, NOWHERE, 1]),  # the apostrophe is not a letter
        ("  ", [2, 2]),  # any white space, not only directly after a word
        ("two”", [0, 1, 1, NOWHERE]),
        ("\n", [2]),
        ("3!?", [0, NOWHERE, NOWHERE]),
    ]
    assert "".join(part for part, _ in expected) == text
    assert found.tolist() == [place for _, part in expected for place in part]
    assert PLACES == ("first letter", "inside words", "space")


def test_long_word_is_inside_to_its_end():
    vocabulary = Vocabulary.build("abcdefgh ")
    assert places(vocabulary.encode("abcdefgh a"), vocabulary).tolist() == [0, *[1] * 7, 2, 0]


def test_multi_character_token_has_no_place():
    vocabulary = Vocabulary(("<unk>", "a", "b", " ", "\n", "."))
    tokens = vocabulary.encode_tokens("ab. b\na?")
    assert places(tokens, vocabulary).tolist() == [0, 1, NOWHERE, 2, 0, 2, 0, NOWHERE]


@pytest.mark.parametrize("piece", [1, 2, 5])
def test_pieces_have_the_positions_of_the_whole(piece):
    text = " It's  two\n3 longest-words! a" * 3
    vocabulary = Vocabulary.build(text)
    tokens = vocabulary.encode(text)
    reader = WordReader(vocabulary)
    found = [
        reader.positions(tokens[start : start + piece]) for start in range(0, len(tokens), piece)
    ]
    whole = WordReader(vocabulary).positions(tokens)
    assert np.concatenate(found).tolist() == whole.tolist()


def test_places_and_positions_share_first_letters():
    text = "'tis (so) 1st; a,b c-d  e.\n\nf"
    vocabulary = Vocabulary.build(text)
    tokens = vocabulary.encode(text)
    np.testing.assert_array_equal(
        places(tokens, vocabulary) == 0, WordReader(vocabulary).positions(tokens) == 0
    )
