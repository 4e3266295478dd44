"""Kneser-Ney smoothing agrees with fractions computed by hand and with the literal formulas."""

import math
import tracemalloc
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.evaluation.n_grams import FALLBACK_DISCOUNTS, KneserNey, discounts

few = settings(deadline=None, max_examples=100)
a, b, c, d = range(4)


# ------------------------------------------------------------------------------------- by hand
#
# The stream a b a c a b, with d never seen: V = 4. No order has n-grams of every count from 1 to
# 4, so the discounts are always 1/2, 1 and 3/2.

STREAM = [a, b, a, c, a, b]


def test_order_2_by_hand():
    model = KneserNey(STREAM, vocab_size=4, order=2)
    # Different tokens before a: b and c, so 2; before b: a, 1; before c: a, 1; before d: none.
    # Of these 4, 1 + 1/2 + 1/2 = 2 are freed: gamma = 1/2, and the uniform part is 1/8 each.
    # a: (2 - 1)/4 + 1/8, b and c: (1 - 1/2)/4 + 1/8, d: 1/8
    unigram = [3 / 8, 1 / 4, 1 / 4, 1 / 8]
    assert model.distribution([]) == pytest.approx(unigram, abs=1e-15)
    assert model.distribution([d]) == pytest.approx(unigram, abs=1e-15)
    # After a: b twice, c once. Freed: 1 + 1/2 of 3, gamma = 1/2.
    # a: 3/16, b: (2 - 1)/3 + 1/8, c: (1 - 1/2)/3 + 1/8, d: 1/16
    after_a = [3 / 16, 11 / 24, 7 / 24, 1 / 16]
    assert model.distribution([a]) == pytest.approx(after_a, abs=1e-15)
    # After b, and after c: a once. gamma = 1/2; a: 1/2 + 3/16
    after_b = [11 / 16, 1 / 8, 1 / 8, 1 / 16]
    assert model.distribution([b]) == pytest.approx(after_b, abs=1e-15)
    assert model.distribution([c]) == pytest.approx(after_b, abs=1e-15)
    # Only the last token is the context, for any number of tokens before it.
    assert model.distribution([d, c, d, d, a]) == pytest.approx(after_a, abs=1e-15)


def test_order_3_by_hand():
    model = KneserNey(STREAM, vocab_size=4, order=3)
    # Different tokens before a b: c (at its first place it has none), before a c: b. So b and c
    # after a count 1 each: gamma = 1/2; b and c: (1/2)/2 + 1/8, a: 3/16, d: 1/16
    after_a = [3 / 16, 3 / 8, 3 / 8, 1 / 16]
    assert model.distribution([a]) == pytest.approx(after_a, abs=1e-15)
    assert model.distribution([d, a]) == pytest.approx(after_a, abs=1e-15)
    # After c a: b once, so gamma = 1/2.
    after_ca = [3 / 32, 1 / 2 + 3 / 16, 3 / 16, 1 / 32]
    assert model.distribution([c, a]) == pytest.approx(after_ca, abs=1e-15)
    # After b: a, with count 1. So a has 1/2 + 3/16, the others half the unigram. After a b: a.
    after_ab = [1 / 2 + 11 / 32, 1 / 16, 1 / 16, 1 / 32]
    assert model.distribution([a, b]) == pytest.approx(after_ab, abs=1e-15)
    # Of a b a d: b after a, a after a b, d after b a, which c follows once: half of d after a.
    assert model.probabilities([a, b, a, d]) == pytest.approx([3 / 8, 27 / 32, 1 / 32], abs=1e-15)
    assert model.nats([a, b, a, d]) == pytest.approx(-math.log(3 / 8 * 27 / 32 / 32), rel=1e-14)


def test_stream_shorter_than_order():
    # a b: only b has a token before it. Of its count 1 half is freed: a 1/4, b 1/2 + 1/4. No longer
    # n-gram has a token before it, so the context changes nothing.
    model = KneserNey(np.array([a, b], np.uint8), vocab_size=2, order=6)
    for context in ([], [a], [b], [b, a, b, a, b, a, b]):
        assert model.distribution(context) == pytest.approx([1 / 4, 3 / 4], abs=1e-15)


# ----------------------------------------------------------------------------------- discounts


def counted(*numbers):
    """Return counts of which ``numbers[r]`` are r."""
    return np.repeat(np.arange(len(numbers)), numbers)


def test_discounts_by_hand():
    # n1 to n4 = 8, 4, 2, 1: Y = 8/16; 1 - 2/2 * 4/8, 2 - 3/2 * 2/4, 3 - 4/2 * 1/2. Counts of
    # 0, 5 or 6 do not matter.
    assert discounts(counted(7, 8, 4, 2, 1, 3, 9)) == (0.5, 1.25, 2.0)
    # 30, 10, 5, 4: Y = 3/5; 1 - 6/5 * 1/3, 2 - 9/5 * 1/2, 3 - 12/5 * 4/5
    assert discounts(counted(0, 30, 10, 5, 4)) == pytest.approx((0.6, 1.1, 1.08), rel=1e-14)


@pytest.mark.parametrize(
    "numbers",
    [
        (),
        (5,),
        (0, 0, 4, 2, 1),
        (0, 8, 0, 2, 1),
        (0, 8, 4, 0, 1),
        (0, 8, 4, 2, 0),
        (0, 1, 1, 4, 1),  # Y = 1/3, D2 = 2 - 1 * 4 < 0
        (0, 1, 1, 2, 1),  # D2 = 2 - 1 * 2 = 0: a context of only such n-grams would have gamma = 0
        (0, 8, 4, 1, 9),  # Y = 1/2, D3+ = 3 - 2 * 9 < 0
    ],
)
def test_discounts_without_estimate(numbers):
    assert discounts(counted(*numbers)) == FALLBACK_DISCOUNTS == (0.5, 1.0, 1.5)


# ----------------------------------------------------------- against the formulas, literally


def literal_kneser_ney(tokens, vocab_size, order):
    """Return p(token, context) by Chen and Goodman's formulas, with n-grams as tuples."""
    occurrences = {
        k: Counter(tuple(tokens[i : i + k]) for i in range(len(tokens) - k + 1))
        for k in range(1, order + 1)
    }

    def continuation_count(gram):
        return sum((left, *gram) in occurrences[len(gram) + 1] for left in range(vocab_size))

    count = dict(occurrences[order])
    for k in range(1, order):
        count |= {gram: continuation_count(gram) for gram in occurrences[k]}

    def discount(k):
        n = Counter(count[gram] for gram in occurrences[k])
        try:
            Y = n[1] / (n[1] + 2 * n[2])
            D = {1: 1 - 2 * Y * n[2] / n[1], 2: 2 - 3 * Y * n[3] / n[2], 3: 3 - 4 * Y * n[4] / n[3]}
        except ZeroDivisionError:
            return {1: 0.5, 2: 1.0, 3: 1.5}
        return D if min(D.values()) > 0 and n[4] > 0 else {1: 0.5, 2: 1.0, 3: 1.5}

    D = {k: discount(k) for k in range(1, order + 1)}

    @cache
    def probability(token, context):
        k = len(context) + 1
        lower = probability(token, context[1:]) if context else 1 / vocab_size
        after = [count.get((*context, w), 0) for w in range(vocab_size)]
        if sum(after) == 0:
            return lower
        N1, N2, N3 = after.count(1), after.count(2), sum(n >= 3 for n in after)
        gamma = (D[k][1] * N1 + D[k][2] * N2 + D[k][3] * N3) / sum(after)
        own = after[token]
        discounted = max(own - D[k][min(own, 3)], 0) if own else 0
        return discounted / sum(after) + gamma * lower

    return lambda token, context: probability(
        token, tuple(context[max(0, len(context) - order + 1) :])
    )


@few
@given(st.data(), st.integers(1, 5), st.integers(2, 7))
def test_equals_formulas_on_small_streams(data, vocab_size, order):
    tokens = st.integers(0, vocab_size - 1)
    stream = data.draw(st.lists(tokens, min_size=1, max_size=60))
    other = data.draw(st.lists(tokens, min_size=2, max_size=20))
    model = KneserNey(np.array(stream, np.uint8), vocab_size, order)
    wanted = literal_kneser_ney(stream, vocab_size, order)
    for text in (stream, other):
        expected = [wanted(text[i], text[:i]) for i in range(1, len(text))]
        assert model.probabilities(np.array(text, np.uint8)) == pytest.approx(expected, abs=1e-12)
    expected = [wanted(token, other) for token in range(vocab_size)]
    assert model.distribution(other) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_equals_formulas_with_estimated_discounts(order):
    rng = np.random.default_rng(0)
    # Words of a made-up language, so n-grams of every order are repeated: V = 150.
    words = [rng.integers(0, 150, size=rng.integers(1, 9)) for _ in range(300)]
    ranks = np.minimum(rng.zipf(1.5, size=900) - 1, len(words) - 1)
    stream = np.concatenate([words[rank] for rank in ranks])
    train, other = stream[:2500], stream[2500:3000]
    for k in range(1, order + 1):  # otherwise the fallback alone would be tested
        counts = Counter(tuple(train[i : i + k].tolist()) for i in range(len(train) - k + 1))
        if k < order:
            longer = {tuple(train[i : i + k + 1].tolist()) for i in range(len(train) - k)}
            counts = Counter(gram[1:] for gram in longer)
        assert discounts(np.array(list(counts.values()))) != FALLBACK_DISCOUNTS
    wanted = literal_kneser_ney(train.tolist(), 150, order)
    model = KneserNey(train, 150, order)
    expected = [wanted(token, other[:i].tolist()) for i, token in enumerate(other.tolist()) if i]
    assert model.probabilities(other) == pytest.approx(expected, rel=1e-12, abs=0)
    assert model.nats(other) == pytest.approx(-sum(map(math.log, expected)), rel=1e-12)


# ------------------------------------------------------------------------------------ properties


@few
@given(st.data(), st.integers(1, 12), st.integers(1, 7))
def test_distributions_are_positive_and_sum_to_one(data, vocab_size, order):
    tokens = st.integers(0, vocab_size - 1)
    stream = data.draw(st.lists(tokens, max_size=150))
    model = KneserNey(stream, vocab_size, order)
    contexts = data.draw(st.lists(st.lists(tokens, max_size=9), min_size=1, max_size=5))
    for context in [[], stream, stream[:-1], *contexts]:
        p = model.distribution(context)
        assert p.shape == (vocab_size,)
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert 0 < p.min() <= p.max() <= 1 + 1e-12


@few
@given(st.data(), st.integers(1, 6), st.integers(1, 6))
def test_probabilities_equal_distributions(data, vocab_size, order):
    tokens = st.lists(st.integers(0, vocab_size - 1), min_size=2, max_size=80)
    model = KneserNey(data.draw(tokens), vocab_size, order)
    stream = data.draw(tokens)
    expected = [model.distribution(stream[:i])[stream[i]] for i in range(1, len(stream))]
    assert model.probabilities(stream) == pytest.approx(expected, rel=1e-14)
    assert model.nats(stream) == pytest.approx(-sum(map(math.log, expected)), rel=1e-12, abs=1e-12)


def test_order_1_ignores_context():
    model = KneserNey(STREAM, vocab_size=4, order=1)
    # a 3, b 2, c 1 of 6; freed: 3/2 + 1 + 1/2 = 3, gamma = 1/2, uniform part 1/8
    wanted = [1.5 / 6 + 1 / 8, 1 / 6 + 1 / 8, 0.5 / 6 + 1 / 8, 1 / 8]
    for context in ([], [a], [d, c, b]):
        assert model.distribution(context) == pytest.approx(wanted, abs=1e-15)


def test_certain_successor_has_probability_near_one():
    stream = np.arange(5000) % 10
    model = KneserNey(stream, vocab_size=10, order=2)
    for token, following in pairwise([*range(10), 0]):
        assert model.distribution([token])[following] > 0.99


def test_memory_is_independent_of_vocabulary():
    stream = np.random.default_rng(0).integers(0, 10**7, size=3000)
    tracemalloc.start()
    try:
        nats = KneserNey(stream, vocab_size=10**7, order=6).nats(stream[:500])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < nats < 499 * math.log(10**7)
    assert peak < 5e6  # bytes; one row of the vocabulary alone would be 8e7
