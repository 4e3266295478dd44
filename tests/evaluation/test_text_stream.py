"""A text that is split while it is read has the tokens of the whole text."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.data.text import tokenize
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation import text_stream
from gru_lm.evaluation.text_stream import tokens_by_line

RULES = [(normalize, level) for normalize in ("letters", "none") for level in ("char", "word")]
texts = st.text(st.sampled_from("aBz é.-\n\n \t\x1c\x85\u2028中"), max_size=40)


def cut(text, places):
    """Return ``text`` in pieces that end at ``places``."""
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("normalize, level", RULES)
@settings(max_examples=150, deadline=None)
@given(text=texts, places=st.lists(st.integers(0, 40), max_size=6))
def test_pieces_have_tokens_of_whole_text(normalize, level, text, places):
    vocabulary = Vocabulary(("<unk>",), level, normalize)
    parts = list(tokens_by_line(cut(text, places), vocabulary))
    assert [token for _, tokens in parts for token in tokens] == tokenize(text, normalize, level)
    # The tokens of each line are those of the line as a text of its own.
    by_line = {}
    for number, tokens in parts:
        by_line.setdefault(number, []).extend(tokens)
    lines = text.split("\n")
    assert list(by_line) == list(range(1, len(lines) + 1))
    for number, line in enumerate(lines, start=1):
        ending = "\n" if number < len(lines) and (normalize, level) == ("none", "char") else ""
        assert by_line[number] == tokenize(line + ending, normalize, level)


@pytest.mark.parametrize("normalize", ["letters", "none"])
@settings(max_examples=150, deadline=None)
@given(text=texts, places=st.lists(st.integers(0, 40), max_size=6))
def test_byte_pairs_belong_to_line_of_first_character(normalize, text, places):
    alphabet = Vocabulary(("<unk>", *"abz B.é"), "bpe", normalize)
    vocabulary = alphabet.with_merges([("a", "b"), (" ", "z"), ("a", "a"), ("ab", "z"), ("b", "a")])
    parts = [
        (line, one) for line, some in tokens_by_line(cut(text, places), vocabulary) for one in some
    ]
    assert [token for _, token in parts] == vocabulary.tokenize(text)
    characters = Vocabulary(("<unk>",), "char", normalize)
    lines = [line for line, some in tokens_by_line([text], characters) for _ in some]
    starts = itertools.accumulate((len(token) for _, token in parts), initial=0)
    assert [line for line, _ in parts] == [lines[start] for start in [*starts][:-1]]


def test_endless_word_is_refused(monkeypatch):
    monkeypatch.setattr(text_stream, "LONGEST_WORD", 100)
    words = Vocabulary(("<unk>",), "word")
    assert len(list(tokens_by_line(["a" * 50] * 2, words))) == 3
    with pytest.raises(UserError, match="over 100 characters"):
        list(tokens_by_line(["a" * 50] * 3, words))
