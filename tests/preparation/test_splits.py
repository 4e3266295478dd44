"""The splits of the tokens, and the vocabulary of the corpus or of the training split."""

import io
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.data.prepared import SPLITS, Prepared
from gru_lm.data.text import tokenize
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.preparation.corpus import Corpus
from gru_lm.preparation.settings import Prepare, Split
from gru_lm.preparation.splits import Written, prepare, split_places

few = settings(deadline=None, max_examples=60)
sizes = st.integers(2, 40)


def split_tokens(tokens, split):
    return {name: tokens[place] for name, place in split_places(len(tokens), split).items()}


@few
@given(sizes, sizes, sizes, st.integers(0, 30))
def test_splits_by_count_are_consecutive(train, val, test, rest):
    tokens = np.arange(train + val + test + rest, dtype=np.uint16)
    splits = split_tokens(tokens, Split(train=train, val=val, test=test))
    assert list(splits) == ["train", "val", "test"]
    assert [len(piece) for piece in splits.values()] == [train, val, test]
    joined = np.concatenate(list(splits.values()))
    assert joined.tolist() == list(range(train + val + test))
    assert joined.dtype == np.uint16


@few
@given(st.integers(30, 5000), st.lists(st.integers(1, 98), min_size=3, max_size=3))
def test_fractions_are_rounded_down(length, percents):
    if sum(percents) > 100 or min(percents) * length < 200:
        return
    train, val, test = (percent / 100 for percent in percents)
    splits = split_tokens(np.arange(length), Split(train=train, val=val, test=test))
    # A fraction is a rounded binary number, so the result can be one below the exact one.
    for name, percent in zip(splits, percents, strict=True):
        exact = Fraction(percent, 100) * length
        assert len(splits[name]) in {math.floor(exact), math.ceil(exact) - 1}
    assert np.concatenate(list(splits.values())).tolist() == list(
        range(sum(map(len, splits.values())))
    )


def test_fractions_of_a_known_corpus():
    splits = split_tokens(np.arange(1003), Split(train=0.5, val=0.25, test=0.25))
    assert [len(piece) for piece in splits.values()] == [501, 250, 250]
    assert splits["test"][0] == 751


def test_fraction_of_whole_number_of_tokens_is_exact():
    splits = split_tokens(np.arange(100), Split(train=0.29, val=0.57, test=0.14))
    assert [len(piece) for piece in splits.values()] == [29, 57, 14]


def test_tiny_fractions_give_two_tokens():
    splits = split_tokens(np.arange(100), Split(train=0.5, val=0.001, test=0.001))
    assert [len(piece) for piece in splits.values()] == [50, 2, 2]


@pytest.mark.parametrize("length", [0, 5, 2599])
def test_short_corpus_error_names_both_numbers(length):
    with pytest.raises(UserError) as caught:
        split_tokens(np.zeros(length, np.uint8), Split(train=2000, val=500, test=100))
    message = str(caught.value)
    assert f"the corpus has {length:,} tokens" in message
    assert "prepare.split needs 2,600" in message
    assert "train 2,000" in message
    split_tokens(np.zeros(2600, np.uint8), Split(train=2000, val=500, test=100))


def test_corpus_too_short_for_fractions_is_refused():
    with pytest.raises(UserError, match=r"has 5 tokens, but prepare\.split needs 6"):
        split_tokens(np.zeros(5, np.uint8), Split(train=0.4, val=0.3, test=0.3))


# ------------------------------------------------------------------- the source of the vocabulary


def settings_of(tokens="char", normalize="none", split=(2, 2, 2), **changes):
    sizes = dict(zip(("train", "val", "test"), split, strict=True))
    given = {"normalize": normalize, "tokens": tokens, "min_freq": 0, "reserved_tokens": []}
    return Prepare.model_validate({**given, "split": sizes, **changes})


def write(text, settings, folder, size=1000):
    """Prepare ``text`` in pieces of ``size`` characters to ``folder``."""
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    corpus = Corpus(lambda: iter(pieces), settings.normalize, settings.tokens, io.BytesIO())
    return prepare(corpus, corpus.count(), settings, folder)


@pytest.fixture
def prepared(tmp_path):
    """Return a function that prepares a text and returns the vocabulary and the token numbers."""

    def of(text, settings, size=1000):
        write(text, settings, tmp_path, size)
        result = Prepared(tmp_path)
        return result.vocabulary, {name: result.tokens(name) for name in SPLITS}

    return of


TEXT = "One two, one\nThree two! four\nfour Five one\nsix\n"


@pytest.mark.parametrize("split", [(3, 3, 3), (0.3, 0.3, 0.3)])
def test_vocabulary_of_training_split_with_words(split, prepared):
    # one two one three two four four five one six
    settings = settings_of("word", "letters", split, vocabulary="train")
    vocabulary, splits = prepared(TEXT, settings)
    assert vocabulary.tokens == ("<unk>", "one", "two")
    assert {name: numbers.tolist() for name, numbers in splits.items()} == {
        "train": [1, 2, 1],
        "val": [0, 2, 0],
        "test": [0, 0, 1],
    }
    everything, _ = prepared(TEXT, settings_of("word", "letters", split))
    assert everything.tokens == ("<unk>", "one", "two", "four", "three", "five", "six")


@pytest.mark.parametrize("split", [(4, 3, 3), (0.4, 0.3, 0.3)])
def test_vocabulary_of_training_split_with_characters(split, prepared):
    text = "A-b\nAb cAdA"  # "a b" and "ab cada": a, space, b, a, b, …
    assert "".join(tokenize(text, "letters", "char")) == "a bab cada"
    settings = settings_of("char", "letters", split, vocabulary="train")
    vocabulary, splits = prepared(text, settings)
    assert vocabulary.tokens == ("<unk>", "a", " ", "b")
    assert vocabulary.decode(splits["train"]) == "a ba"
    assert splits["val"].tolist() == [3, 2, 0]
    assert splits["test"].tolist() == [1, 0, 1]


def test_min_freq_counts_in_vocabulary_source(prepared):
    counted = {
        source: prepared("aabbbbaba", settings_of(split=(3, 3, 3), vocabulary=source, min_freq=2))
        for source in ("train", "all")
    }
    assert counted["all"][0].tokens == ("<unk>", "b", "a")
    assert counted["train"][0].tokens == ("<unk>", "a")
    assert counted["train"][1]["train"].tolist() == [1, 1, 0]


def test_reserved_tokens_come_first(prepared):
    changes = {"vocabulary": "train", "reserved_tokens": ["<pad>", "c"]}
    vocabulary, splits = prepared("abcabc", settings_of(**changes))
    assert vocabulary.tokens == ("<unk>", "<pad>", "c", "a", "b")
    assert splits["val"].tolist() == [2, 3]


@few
@given(
    st.text("abcdé \n", min_size=30),
    st.sampled_from(["char", "word"]),
    st.sampled_from(["letters", "none"]),
    st.sampled_from(["all", "train"]),
    st.sampled_from([(5, 9, 7), (2, 2, 2), (0.5, 0.2, 0.3)]),
    st.integers(0, 4),
    st.none() | st.integers(2, 6),
    st.integers(1, 9),
)
def test_vocabularies_follow_definition(
    tmp_path_factory, text, level, normalize, source, split, min_freq, max_tokens, size
):
    folder = tmp_path_factory.mktemp("prepared")
    given_settings = settings_of(
        level, normalize, split, vocabulary=source, min_freq=min_freq, max_tokens=max_tokens
    )
    tokens = tokenize(text, normalize, level)
    try:
        places = split_places(len(tokens), given_settings.split)
    except UserError as error:
        with pytest.raises(UserError) as caught:
            write(text, given_settings, folder, size)
        assert str(caught.value) == str(error)
        return
    counted = tokens[places["train"]] if source == "train" else tokens
    common = Vocabulary.build(counted, level, normalize, min_freq).tokens[:max_tokens]
    expected = Vocabulary(common, level, normalize)
    splits = {name: expected.encode_tokens(tokens[place]) for name, place in places.items()}
    if not splits["train"].any():
        with pytest.raises(UserError, match=r"<unk>: lower prepare\.min_freq"):
            write(text, given_settings, folder, size)
        return
    result = write(text, given_settings, folder, size)
    assert result == Written(
        len(expected),
        {name: len(numbers) for name, numbers in splits.items()},
        {name: numbers.tolist().count(0) for name, numbers in splits.items()},
    )
    Prepared.write(expected, splits, whole := folder / "whole")
    for name in ("vocab.json", *(f"{split}.npy" for split in splits)):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_most_frequent_tokens_are_kept(prepared):
    """The cap counts <unk> and the reserved tokens. Equally frequent ones come by occurrence."""
    changes = {"max_tokens": 4, "reserved_tokens": ["<pad>"]}
    vocabulary, splits = prepared("cbbaabcd", settings_of(**changes))
    assert vocabulary.tokens == ("<unk>", "<pad>", "b", "c")
    assert splits["train"].tolist() == [3, 2]
    assert splits["val"].tolist() == [2, 0]


@pytest.mark.parametrize("source, min_freq", [("train", 3), ("all", 5)])
def test_training_split_of_unknown_tokens_is_refused(source, min_freq, prepared, tmp_path):
    prepared("abcabc", settings_of())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    given_settings = settings_of(vocabulary=source, min_freq=min_freq)
    with pytest.raises(UserError) as caught:
        prepared("aabbcc", given_settings)
    assert str(caught.value) == (
        f"every token of the training split is <unk>: lower prepare.min_freq ({min_freq}) "
        "or choose another corpus"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_training_split_without_frequent_token_is_refused(prepared):
    with pytest.raises(UserError, match=r"<unk>: .*\(0\) or raise prepare\.max_tokens or choose"):
        prepared("abcccc", settings_of(max_tokens=2))


def test_too_few_tokens_are_refused(prepared):
    with pytest.raises(UserError, match=r"has 5 tokens, but prepare\.split needs 6"):
        prepared("abcde", settings_of(vocabulary="train"))
