"""Byte pairs: the words of a text, and the tokens that merges make of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.data import byte_pairs as module
from gru_lm.data.byte_pairs import BytePairs, words
from gru_lm.data.text import words_in_pieces
from gru_lm.data.vocabulary import Vocabulary

few = settings(deadline=None, max_examples=200)
texts = st.text(
    st.sampled_from("abcé中e\u0301ि  \n\t\u3000.,'1234_") | st.characters(), max_size=40
)
letters = st.sampled_from("abc")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("so it will be", ["so", " it", " will", " be"]),
        ("Don't, 12345!", ["Don", "'", "t", ",", " 123", "45", "!"]),
        ("a  b\n\n  c\t\td", ["a", " ", " b", "\n", "\n", " ", " c", "\t", "\t", "d"]),
        ("end \n", ["end", " ", "\n"]),
        ("cafe\u0301 हिन्दी", ["cafe\u0301", " हिन्दी"]),
        ("天地玄黃,宇宙", ["天地玄黃", ",", "宇宙"]),
        ("", []),
    ],
)
def test_words_of_known_texts(text, expected):
    assert words(text) == expected


@few
@given(texts, st.lists(st.integers(0, 40), max_size=6))
def test_words_join_to_text_however_it_is_cut(text, places):
    found = words(text)
    assert "".join(found) == text
    assert all(found)
    assert all(word == "\n" or "\n" not in word for word in found)
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    pieces = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert list(itertools.chain(*words_in_pieces(pieces, words))) == found


def test_endless_word_is_refused(monkeypatch):
    monkeypatch.setattr("gru_lm.data.text.LONGEST_WORD", 100)
    assert list(words_in_pieces(["a" * 50] * 2, words)) == [[], [], ["a" * 100]]
    with pytest.raises(UserError, match=r"over 100 characters: set prepare\.tokens to char"):
        list(words_in_pieces(["a" * 50] * 3, words))


def merged(word, merges):
    """Apply ``merges`` to ``word`` by the definition: the first that applies, everywhere."""
    tokens = list(word)
    while True:
        neighbours = list(itertools.pairwise(tokens))
        first = next((merge for merge in merges if merge in neighbours), None)
        if first is None:
            return tokens
        joined = []
        while tokens:
            if tuple(tokens[:2]) == first:
                joined.append(tokens.pop(0) + tokens.pop(0))
            else:
                joined.append(tokens.pop(0))
        tokens = joined


@st.composite
def vocabularies(draw):
    """Draw a vocabulary of the characters a, b, c, space and merges of its tokens."""
    alphabet = Vocabulary(("<unk>", *"abc "), "bpe")
    merges = []
    for _ in range(draw(st.integers(0, 8))):
        tokens = alphabet.with_merges(merges).tokens[1:]
        merge = (draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens)))
        if merge not in merges:
            merges.append(merge)
    return alphabet.with_merges(merges)


@few
@given(vocabularies(), st.text("abc x\n", max_size=30))
def test_merges_are_applied_by_definition(vocabulary, text):
    expected = [token for word in words(text) for token in merged(word, vocabulary.merges)]
    assert vocabulary.split(text) == expected
    assert vocabulary.tokenize(text) == expected
    numbers = vocabulary.encode(text)
    assert numbers.tolist() == vocabulary.encode_tokens(expected).tolist()
    assert numbers.dtype == vocabulary.dtype
    assert vocabulary.encode_words(words(text)).tolist() == numbers.tolist()
    if not set(text) & set("x\n"):  # which it does not know
        assert vocabulary.decode(numbers) == text
    assert vocabulary.characters(numbers) == len(text)


def test_words_are_encoded_when_memory_of_words_is_full(monkeypatch):
    monkeypatch.setattr(module, "KNOWN_WORDS", 3)
    pairs = BytePairs({"<unk>": 0, "a": 1, "b": 2, "ab": 3}, [("a", "b")], "<unk>")
    dtype = np.dtype(np.uint8)
    for found in (["a", "b"], ["ab", "aab"], ["a", "b", "bab", "abab", "a"], ["ab", "x"]):
        expected = [pairs.split([word]) for word in found]
        numbers = [{"a": 1, "b": 2, "ab": 3}.get(token, 0) for token in itertools.chain(*expected)]
        assert pairs.encode(found, dtype).tolist() == numbers


TOKENS = ("<unk>", *"the ", "th", "the", " the")
MERGES = (("t", "h"), ("th", "e"), (" ", "the"))


def test_fragment_is_split_as_corpus():
    vocabulary = Vocabulary(TOKENS, "bpe", "letters", MERGES)
    assert vocabulary.fragment_tokens("The THEth, x") == ["the", " the", "th", " ", "x"]
    assert vocabulary.decode(vocabulary.encode_fragment("the the ")) == "the the "
    assert vocabulary.unit == "token" and vocabulary.separator == ""


@pytest.mark.parametrize("typed", ["cafe\u0301 x", "caf\u00e9 x"])
@pytest.mark.parametrize("known", ["e\u0301", "\u00e9"])
def test_fragment_is_known_in_either_unicode_form(typed, known):
    alphabet = Vocabulary(("<unk>", *dict.fromkeys(f"caf {known}x")), "bpe")
    vocabulary = alphabet.with_merges([("c", "a"), ("ca", "f")])
    assert vocabulary.decode(vocabulary.encode_fragment(typed)) == f"caf{known} x"
    assert vocabulary.fragment_tokens(typed)[0] == "caf"


@pytest.mark.parametrize(
    "level, merges, reason",
    [
        ("char", MERGES, "merges at the level char"),
        ("bpe", (("t", "x"),), "the merge of 't' and 'x' is not of tokens to a token"),
        ("bpe", (("h", "t"),), "the merge of 'h' and 't' is not of tokens to a token"),
    ],
)
def test_impossible_merges_are_refused(level, merges, reason):
    with pytest.raises(ValueError, match=reason):
        Vocabulary(TOKENS, level, "none", merges)


def test_token_of_two_merges_is_one_entry():
    vocabulary = Vocabulary(("<unk>", *"abc"), "bpe").with_merges(
        [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")]
    )
    assert vocabulary.tokens == ("<unk>", "a", "b", "c", "ab", "bc", "abc")
