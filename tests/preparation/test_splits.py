"""How the stream of tokens is cut into splits."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.preparation.settings import Split
from gru_lm.preparation.splits import split_tokens

few = settings(deadline=None, max_examples=60)
sizes = st.integers(2, 40)


@few
@given(sizes, sizes, sizes, st.integers(0, 30))
def test_counts_cut_consecutive_pieces_from_the_start(train, val, test, rest):
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
    # The exact binary value of each fraction decides, give or take a product that is rounded.
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


def test_a_fraction_that_is_a_whole_number_of_tokens_gives_that_number():
    splits = split_tokens(np.arange(100), Split(train=0.29, val=0.57, test=0.14))
    assert [len(piece) for piece in splits.values()] == [29, 57, 14]


def test_tiny_fractions_give_the_two_tokens_that_scoring_needs():
    splits = split_tokens(np.arange(100), Split(train=0.5, val=0.001, test=0.001))
    assert [len(piece) for piece in splits.values()] == [50, 2, 2]


@pytest.mark.parametrize("length", [0, 5, 2599])
def test_too_short_a_corpus_names_both_numbers(length):
    with pytest.raises(UserError) as caught:
        split_tokens(np.zeros(length, np.uint8), Split(train=2000, val=500, test=100))
    message = str(caught.value)
    assert f"the corpus has {length:,} tokens" in message
    assert "prepare.split needs 2,600" in message
    assert "train 2,000" in message
    split_tokens(np.zeros(2600, np.uint8), Split(train=2000, val=500, test=100))


def test_too_short_a_corpus_for_fractions():
    with pytest.raises(UserError, match=r"has 5 tokens, but prepare\.split needs 6"):
        split_tokens(np.zeros(5, np.uint8), Split(train=0.4, val=0.3, test=0.3))
