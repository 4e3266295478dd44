"""Reading a corpus in pieces gives the tokens of the simple definition, ``tokenize``."""

import io
import tempfile
import tracemalloc
from collections import Counter
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.core.reading import decode_text
from gru_lm.data.text import tokenize
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.preparation import corpus as module
from gru_lm.preparation.corpus import Corpus, TextFile

few = settings(deadline=None, max_examples=150)
normalizations = st.sampled_from(["letters", "none"])
levels = st.sampled_from(["char", "word"])
# Letters, spaces and line ends of all kinds, characters of one to four bytes, and others.
texts = st.text(
    st.sampled_from("abzAZ  \n\n\r\t\x0b\x0c\x1c\x85\u2028\u3000.,09é天İ\u212a\ufeff🙂")
    | st.characters(codec="utf-8", min_codepoint=9),  # many control characters: UTF-16
    max_size=60,
)


def corpus_of(pieces, normalize, level):
    return Corpus(pieces, normalize, level, io.BytesIO())


def written(folder: Path, text: str) -> Path:
    path = folder / "corpus.txt"
    path.write_bytes(text.encode())
    return path


@few
@given(texts, normalizations, levels, st.integers(1, 7))
def test_tokens_are_those_of_whole_text(tmp_path_factory, text, normalize, level, size):
    path = written(tmp_path_factory.mktemp("corpus"), text)
    expected = tokenize(decode_text(text.encode(), "text"), normalize, level)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", size)  # bytes, so that pieces split characters and CRLF
        corpus = corpus_of(TextFile(path).pieces, normalize, level)
        counts = corpus.count()
        assert list(counts.items()) == list(Counter(expected).items())
        vocabulary = Vocabulary.from_counts(counts, level, normalize)
        assert vocabulary == Vocabulary.build(expected, level, normalize)
        numbers = [vocabulary.encode_tokens([]), *corpus.numbers(vocabulary)]
    assert np.concatenate(numbers).tolist() == vocabulary.encode_tokens(expected).tolist()
    assert {piece.dtype for piece in numbers} == {vocabulary.dtype}


@few
@given(texts, normalizations, levels, st.integers(0, 40), st.integers(1, 7))
def test_first_tokens_are_counted(text, normalize, level, first, size):
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    corpus = corpus_of(lambda: iter(pieces), normalize, level)
    expected = Counter(tokenize(text, normalize, level)[:first])
    assert list(corpus.count(first).items()) == list(expected.items())


def test_letters_of_a_run_split_anywhere():
    """A run of blanks between two pieces becomes one space, or nothing with a line end in it."""
    text = "  Ab  -- c\n \n\nd, \n e  f\n"
    for size in range(1, len(text)):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        corpus = corpus_of(lambda pieces=pieces: iter(pieces), "letters", "char")
        vocabulary = Vocabulary(("<unk>", *" abcdef"))
        numbers = np.concatenate(list(corpus.numbers(vocabulary)))
        assert vocabulary.decode(numbers) == "ab cde f"


@pytest.mark.parametrize("level, unit", [("char", 1), ("word", 2)])
def test_large_vocabularies_are_numbered(level, unit):
    """More than 256 and more than 65,536 tokens need wider types and grow the counts."""
    for size, dtype in ((300, np.uint16), (70_000, np.uint32)):
        tokens = [chr(0x20000 - number) for number in range(size)]
        text = "".join(token + " " * (unit - 1) for token in tokens)
        corpus = corpus_of(lambda text=text: iter([text[:500], text[500:]]), "none", level)
        vocabulary = Vocabulary.from_counts(corpus.count(), level)
        numbers = np.concatenate(list(corpus.numbers(vocabulary)))
        assert numbers.dtype == dtype
        assert numbers.tolist() == list(range(1, size + 1))


def test_share_of_dropped_letters_in_pieces():
    for level in ("char", "word"):
        for pieces in (["Größe größer"], ["Grö", "ße ", "größ", "er"], [*"Größe größer"]):
            corpus = corpus_of(lambda pieces=pieces: iter(pieces), "letters", level)
            assert corpus.dropped_letters(corpus.count()) == (pytest.approx(4 / 11), "öß")
    for text, normalize, expected in (
        ("Größe", "none", (0, "")),
        ("plain, 123", "letters", (0, "")),
        ("1 — 2 …", "letters", (0, "")),
        ("天地 天", "letters", (1, "天地")),
    ):
        corpus = corpus_of(lambda text=text: [text], normalize, "char")
        assert corpus.dropped_letters(corpus.count()) == expected


def test_word_of_a_million_characters_is_refused(monkeypatch):
    monkeypatch.setattr("gru_lm.data.text.LONGEST_WORD", 10)
    assert corpus_of(lambda: ["a" * 5, "a" * 5], "none", "word").count() == {"a" * 10: 1}
    for normalize in ("letters", "none"):
        with pytest.raises(
            UserError, match=r"a word .* over 10 characters: set prepare\.tokens to"
        ):
            corpus_of(lambda: ["a" * 5, "a" * 6, "a" * 9], normalize, "word").count()


def test_too_many_different_words_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST_WORDS", 3)
    assert len(corpus_of(lambda: ["a b c ", "a b c"], "none", "word").count()) == 3
    with pytest.raises(UserError, match=r"over 3 different words: set prepare\.tokens to char"):
        corpus_of(lambda: ["a b c ", "a b d "], "none", "word").count()


def test_file_that_changes_between_passes_is_refused(tmp_path):
    path = written(tmp_path, "once upon a time")
    corpus = corpus_of(TextFile(path).pieces, "none", "char")
    corpus.count()
    written(tmp_path, "another time, another text")
    with pytest.raises(UserError, match=r"corpus\.txt was changed while it was read: run the"):
        list(corpus.numbers(Vocabulary(("<unk>",))))


def test_file_that_changes_during_a_pass_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 4)
    path = written(tmp_path, "once upon a time")
    pieces = TextFile(path).pieces()
    next(pieces)
    with path.open("ab") as file:
        file.write(b" and more")
    with pytest.raises(UserError, match="was changed while it was read"):
        list(pieces)


@pytest.mark.parametrize(
    "normalize, level", [("none", "char"), ("letters", "char"), ("none", "word")]
)
@pytest.mark.parametrize(
    "line", ["the time traveller, for so ", "天地玄黃 宇宙洪荒 ", "время и место "]
)
def test_memory_does_not_grow_with_text(normalize, level, line, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 1 << 12)
    piece = line * (20_000 // len(line))
    peaks = []
    for number in (10, 60):
        with tempfile.TemporaryFile() as scratch:
            tracemalloc.start()
            corpus = Corpus(lambda number=number: repeat(piece, number), normalize, level, scratch)
            counts = corpus.count()
            vocabulary = Vocabulary.from_counts(counts, level, normalize)
            total = sum(len(numbers) for numbers in corpus.numbers(vocabulary))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert total == sum(counts.values())
    assert peaks[1] < 1.3 * peaks[0]
