"""A text that is split while it is read has the tokens of the whole text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.data.text import tokenize
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
    parts = list(tokens_by_line(cut(text, places), normalize, level))
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


def test_endless_word_is_refused(monkeypatch):
    monkeypatch.setattr(text_stream, "LONGEST_WORD", 100)
    assert len(list(tokens_by_line(["a" * 50] * 2, "none", "word"))) == 3
    with pytest.raises(UserError, match="over 100 characters"):
        list(tokens_by_line(["a" * 50] * 3, "none", "word"))
