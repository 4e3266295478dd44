"""The splits of the tokens, and the vocabulary of the corpus or of the training split."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.data.text import tokenize
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.preparation.settings import Prepare, Split
from gru_lm.preparation.splits import prepare, split_places

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


TEXT = "One two, one\nThree two! four\nfour Five one\nsix\n"


@pytest.mark.parametrize("split", [(3, 3, 3), (0.3, 0.3, 0.3)])
def test_vocabulary_of_training_split_with_words(split):
    corpus = tokenize(TEXT, "letters", "word")  # one two one three two four four five one six
    vocabulary, splits = prepare(corpus, settings_of("word", "letters", split, vocabulary="train"))
    assert vocabulary.tokens == ("<unk>", "one", "two")
    assert {name: numbers.tolist() for name, numbers in splits.items()} == {
        "train": [1, 2, 1],
        "val": [0, 2, 0],
        "test": [0, 0, 1],
    }
    everything, _ = prepare(corpus, settings_of("word", "letters", split))
    assert everything.tokens == ("<unk>", "one", "two", "four", "three", "five", "six")


@pytest.mark.parametrize("split", [(4, 3, 3), (0.4, 0.3, 0.3)])
def test_vocabulary_of_training_split_with_characters(split):
    corpus = tokenize("A-b\nAb cA", "letters", "char")  # "a b" and "ab ca": a, space, b, a, b, …
    assert "".join(corpus) == "a bab ca"
    vocabulary, splits = prepare(
        [*corpus, "d", "a"], settings_of("char", "letters", split, vocabulary="train")
    )
    assert vocabulary.tokens == ("<unk>", "a", " ", "b")
    assert vocabulary.decode(splits["train"]) == "a ba"
    assert splits["val"].tolist() == [3, 2, 0]
    assert splits["test"].tolist() == [1, 0, 1]


def test_min_freq_counts_in_vocabulary_source():
    corpus = list("aabbbbaba")
    counted = {
        source: prepare(corpus, settings_of(split=(3, 3, 3), vocabulary=source, min_freq=2))
        for source in ("all", "train")
    }
    assert counted["all"][0].tokens == ("<unk>", "b", "a")
    assert counted["train"][0].tokens == ("<unk>", "a")
    assert counted["train"][1]["train"].tolist() == [1, 1, 0]


def test_reserved_tokens_come_first():
    changes = {"vocabulary": "train", "reserved_tokens": ["<pad>", "c"]}
    vocabulary, splits = prepare(list("abcabc"), settings_of(**changes))
    assert vocabulary.tokens == ("<unk>", "<pad>", "c", "a", "b")
    assert splits["val"].tolist() == [2, 3]


@few
@given(st.text("abcdé ", min_size=30), st.integers(0, 4), st.data())
def test_vocabularies_follow_definition(text, min_freq, data):
    source = data.draw(st.sampled_from(["all", "train"]))
    split = data.draw(st.sampled_from([(5, 9, 7), (0.5, 0.2, 0.3)]))
    given_settings = settings_of(split=split, vocabulary=source, min_freq=min_freq)
    places = split_places(len(text), given_settings.split)
    counted = text[places["train"]] if source == "train" else text
    expected = Vocabulary.build(counted, "char", "none", min_freq)
    if not expected.encode(text[places["train"]]).any():
        with pytest.raises(UserError, match=r"<unk>: lower prepare\.min_freq"):
            prepare(list(text), given_settings)
        return
    vocabulary, splits = prepare(list(text), given_settings)
    assert vocabulary == expected
    for name, place in places.items():
        assert splits[name].tolist() == expected.encode(text[place]).tolist()


@pytest.mark.parametrize("source, min_freq", [("train", 3), ("all", 5)])
def test_training_split_of_unknown_tokens_is_refused(source, min_freq):
    given_settings = settings_of(vocabulary=source, min_freq=min_freq)
    with pytest.raises(UserError) as caught:
        prepare(list("aabbcc"), given_settings)
    assert str(caught.value) == (
        f"every token of the training split is <unk>: lower prepare.min_freq ({min_freq}) "
        "or choose another corpus"
    )


def test_too_few_tokens_are_refused():
    with pytest.raises(UserError, match=r"has 5 tokens, but prepare\.split needs 6"):
        prepare(list("abcde"), settings_of(vocabulary="train"))
