"""Top-p, excluded tokens, stop strings, streaming and the warning about a prefix."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sampling import LETTERS, PROBABILITIES, VOCABULARY, V, fixed_model, seeded

from gru_lm.core.errors import OutOfRange, UserError
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.generation.sampling import generate, unread_parts
from gru_lm.models.scratch.model import ScratchGRU

CHARACTERS = "?" + LETTERS  # by number, with one character for <unk>


@pytest.fixture
def model():
    torch.manual_seed(8)
    model = ScratchGRU(V, 6)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 1.2)
    return model


def drawn(probabilities, draws, temperature=1.0, **options):
    """Return how often each token is drawn, by its character."""
    options = {"generator": seeded(6)} | options
    text = generate(fixed_model(probabilities), VOCABULARY, "a", draws, temperature, **options)
    return Counter(text[1:].replace("<unk>", "?"))


def smallest_nucleus(probabilities, top_p):
    """Return the most probable of the smallest sets with a sum of at least ``top_p``."""
    for size in range(1, len(probabilities) + 1):
        sets = itertools.combinations(range(len(probabilities)), size)
        best = max(sets, key=lambda one: sum(probabilities[number] for number in one))
        if sum(probabilities[number] for number in best) >= top_p:
            return set(best)
    return set(range(len(probabilities)))


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.integers(1, 1000), min_size=V, max_size=V, unique=True),
    top_p=st.floats(0.05, 0.999),
    seed=st.integers(0, 1000),
)
def test_top_p_draws_from_smallest_sufficient_set(weights, top_p, seed):
    probabilities = [weight / sum(weights) for weight in weights]
    nucleus = smallest_nucleus(probabilities, top_p)
    if abs(sum(probabilities[number] for number in nucleus) - top_p) < 1e-6:
        return  # the rounding of float32 logits decides
    found = drawn(probabilities, 60, top_p=top_p, generator=seeded(seed))
    assert set(found) <= {CHARACTERS[number] for number in nucleus}


# PROBABILITIES are 0.02 <unk>, 0.3 a, 0.2 b, 0.15 c, 0.13 d, 0.1 e, 0.05 f, 0.03 g, 0.02 space.
@pytest.mark.parametrize(
    "options, kept",
    [
        ({"top_p": 0.29}, "a"),
        ({"top_p": 0.31}, "ab"),
        ({"top_p": 0.64}, "abc"),
        ({"top_p": 0.66}, "abcd"),
        ({"top_k": 3, "top_p": 0.7}, "ab"),  # 0.5 / 0.65 of the three
        ({"top_k": 2, "top_p": 0.99}, "ab"),
        ({"top_p": 0.31, "excluded": [1]}, "bc"),  # 0.2 / 0.7 is too little
        ({"excluded": [0, 8]}, "abcdefg"),
        ({"top_k": 2, "excluded": [1, 3]}, "bd"),
        ({"top_p": 1.0}, CHARACTERS),
    ],
)
def test_restricted_draws_keep_proportions(options, kept):
    draws = 1500
    counts = drawn(PROBABILITIES, draws, **options)
    assert set(counts) == set(kept)
    shares = {char: p for char, p in zip(CHARACTERS, PROBABILITIES, strict=True) if char in kept}
    expected = {char: draws * p / sum(shares.values()) for char, p in shares.items()}
    # Pearson's statistic exceeds 26.1 once in a thousand with 8 degrees of freedom.
    assert sum((counts[char] - e) ** 2 / e for char, e in expected.items()) < 26.1


def test_temperature_is_applied_before_top_p():
    powers = [p**4 for p in PROBABILITIES]
    probabilities = [power / sum(powers) for power in powers]
    assert smallest_nucleus(probabilities, 0.9) == {1, 2}
    assert set(drawn(PROBABILITIES, 300, 0.25, top_p=0.9)) == {"a", "b"}


@pytest.mark.parametrize("seed", range(3))
def test_tiny_top_p_is_greedy(model, seed):
    greedy = generate(model, VOCABULARY, "bad", 30)
    assert generate(model, VOCABULARY, "bad", 30, 2.0, None, seeded(seed), top_p=1e-9) == greedy


def test_top_p_1_changes_nothing(model):
    texts = {
        generate(model, VOCABULARY, "a", 40, 1.5, None, seeded(1), top_p=p) for p in (None, 1.0)
    }
    assert len(texts) == 1


@pytest.mark.parametrize("top_p", [0.0, -0.5, 1.1, float("nan")])
def test_impossible_top_p_is_refused(model, top_p):
    with pytest.raises(OutOfRange, match=r"top_p = .*: must be greater than 0 and at most 1"):
        generate(model, VOCABULARY, "a", 5, 1.0, top_p=top_p)


# ------------------------------------------------------------------------------ excluded tokens


@pytest.mark.parametrize("temperature", [None, 3.0])
def test_excluded_tokens_are_never_generated(model, temperature):
    usual = generate(model, VOCABULARY, "bad", 60, temperature, None, seeded(1))
    used = [n for n, token in enumerate(VOCABULARY.tokens) if token in usual[3:]]
    assert used
    excluded = np.array(used[:3])
    text = generate(model, VOCABULARY, "bad", 60, temperature, None, seeded(1), excluded=excluded)
    assert not any(VOCABULARY.tokens[number] in text[3:] for number in excluded)
    assert text.startswith("bad"), "the prefix may contain them"


def test_greedy_takes_likeliest_allowed_token():
    text = generate(fixed_model(PROBABILITIES), VOCABULARY, "a", 4, excluded=[1, 2])
    assert text == "acccc"


def test_excluding_unused_tokens_changes_no_draw(model):
    usual = generate(model, VOCABULARY, "bad", 200, 0.5, None, seeded(3))
    unused = [n for n, char in enumerate(VOCABULARY.tokens) if char not in usual[3:]]
    assert unused
    assert usual == generate(model, VOCABULARY, "bad", 200, 0.5, None, seeded(3), excluded=unused)


def test_excluding_every_token_is_refused(model):
    with pytest.raises(OutOfRange, match="excluded = all tokens"):
        generate(model, VOCABULARY, "a", 5, excluded=range(V))


# --------------------------------------------------------------------- stop strings, streaming

WORDS = Vocabulary(("<unk>", "ab", "cab", "b", "a", "fa", "g", "e", "d"), "word", "letters")


PAIRS = Vocabulary(("<unk>", *"abcde "), "bpe", "letters").with_merges([("c", "a"), (" ", "e")])


@pytest.mark.parametrize("vocabulary", [VOCABULARY, WORDS, PAIRS])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stop", ["a", "ab", "b c", "b", " ", "d e", "cab ab", "e e e e e e e"])
def test_text_ends_at_first_stop_string(model, vocabulary, seed, stop):
    def write(**options):
        return generate(model, vocabulary, "ab", 60, 2.0, None, seeded(seed), **options)

    pieces = []
    whole = write(observe=pieces.append)
    assert "".join(pieces) == whole
    generated = "".join(pieces[1:])
    before, found, _ = generated.partition(stop)
    observed = []
    assert write(stop=stop, observe=observed.append) == pieces[0] + before + found
    assert "".join(observed) == pieces[0] + before + found


def test_stop_string_in_prefix_is_ignored(model):
    assert generate(model, VOCABULARY, "bad", 5, stop="d").startswith("bad")
    assert len(generate(fixed_model(PROBABILITIES), VOCABULARY, "ab", 3, stop="ba")) == 5


@pytest.mark.parametrize("stop, reason", [("Z", "contains 'Z'"), ("a\nb", r"'\\n'"), ("", "empty")])
def test_impossible_stop_string_is_refused(model, stop, reason):
    with pytest.raises(UserError, match=f"cannot occur .*{reason}"):
        generate(model, VOCABULARY, "a", 5, stop=stop)


@pytest.mark.parametrize("vocabulary", [VOCABULARY, WORDS])
def test_observed_pieces_are_prefix_and_tokens(model, vocabulary):
    pieces = []
    text = generate(model, vocabulary, "AB,  a", 20, 1.5, None, seeded(2), observe=pieces.append)
    assert pieces[0] == "ab a"
    assert len(pieces) == 21
    assert "".join(pieces) == text
    assert all(piece.removeprefix(vocabulary.separator) in vocabulary for piece in pieces[1:])


# -------------------------------------------------------------------------------- the warning

PLAIN = Vocabulary(("<unk>", "a", "b", "\n", "é"), "char", "none")


@pytest.mark.parametrize(
    "vocabulary, prefixes, warning",
    [
        (PLAIN, ["ab\nba"], ""),
        (PLAIN, ["e\u0301a"], ""),  # decomposed, as some keyboards type it
        (PLAIN, ["axbx", "x中"], "not in the vocabulary and read as <unk>: 'x' (3 times), '中'"),
        (PLAIN, ["\u202e"], r"not in the vocabulary and read as <unk>: '\u202e'"),
        (
            PLAIN,
            ["".join(map(chr, range(0x3040 + 2, 0x3040 + 34)))],
            "not in the vocabulary and read as <unk>: 'あ', 'ぃ', 'い', 'ぅ', 'う', 'ぇ', 'え', "
            "'ぉ', 'お', 'か' and 22 more",
        ),
        (
            VOCABULARY,
            ["Bad, caf\u00e9, z!"],
            "not in the vocabulary and read as <unk>: 'z'; replaced by spaces with "
            "prepare.normalize = letters: ',' (2 times), 'é', '!'",
        ),
        (WORDS, ["AB zebra"], "not in the vocabulary and read as <unk>: 'zebra'"),
        (WORDS, ["z" * 99], f"not in the vocabulary and read as <unk>: '{'z' * 39}…'"),
    ],
)
def test_unreadable_parts_of_prefix_are_named(vocabulary, prefixes, warning):
    assert unread_parts(prefixes, vocabulary) == warning
