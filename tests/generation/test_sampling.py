"""Greedy text against a plain loop, and draws against their distribution.

The options of a draw, stop strings and streaming are in test_sampling_options.py.
"""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from reference import gru_numpy

from gru_lm.core.errors import UserError
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.generation.sampling import generate
from gru_lm.models.base import build_model
from gru_lm.models.scratch.model import ScratchGRU

LETTERS = "abcdefg "
VOCABULARY = Vocabulary(("<unk>", *LETTERS), "char", "letters")
V, H = len(VOCABULARY), 6


@pytest.fixture(params=["before", "after"])
def model(request):
    torch.manual_seed(8)
    model = ScratchGRU(V, H, request.param)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 1.2)
    return model


def fixed_model(probabilities):
    """Return a model that always predicts the distribution ``probabilities``."""
    model = ScratchGRU(V, 2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.b_q.copy_(torch.tensor(probabilities).log())
    return model


def seeded(number):
    return torch.Generator().manual_seed(number)


def greedy_by_hand(model, prefix, length):
    """Return the greedy text, computed step by step in float64."""
    text, state = "", np.zeros((1, H))
    for character in prefix:
        text += character
        number = VOCABULARY.tokens.index(character)
        logits, state = gru_numpy(model.state_dict(), np.array([[number]]), state, model.reset)
    for _ in range(length):
        number = int(np.argmax(logits[0, 0]))
        text += VOCABULARY.tokens[number]
        logits, state = gru_numpy(model.state_dict(), np.array([[number]]), state, model.reset)
    return text


@pytest.mark.parametrize("prefix", ["a", "bad cafe", " ".join("gfedcba")])
def test_greedy_takes_likeliest_token(model, prefix):
    text = generate(model, VOCABULARY, prefix, 30)
    assert text == greedy_by_hand(model, prefix, 30)
    assert text.startswith(prefix)


def test_greedy_text_has_several_letters(model):
    assert len(set(greedy_by_hand(model, "bad cafe", 30))) > 3


def test_prefix_is_normalised_like_corpus(model):
    text = generate(model, VOCABULARY, "BAD,--Cafe", 10)
    assert text == generate(model, VOCABULARY, "bad cafe", 10)
    assert generate(model, VOCABULARY, "bad cafe ", 0) == "bad cafe ", "its last space is a token"
    assert generate(model, VOCABULARY, "bad\ncafe!", 0) == "bad cafe "
    assert generate(model, VOCABULARY, "azb", 3).startswith("a<unk>b")


def test_length_counts_tokens(model):
    draws = generate(model, VOCABULARY, "ab", 40, 1.0, None, seeded(1))
    assert len(VOCABULARY.encode(draws.replace("<unk>", "z"))) <= 42
    assert generate(model, VOCABULARY, "ab", 0) == "ab"
    words = Vocabulary(("<unk>", *(f"w{n}" for n in range(1, V))), "word")
    assert len(generate(model, words, "w1 w2", 9, 1.0, None, seeded(1)).split(" ")) == 11


def test_same_seed_draws_same_text(model):
    texts = [generate(model, VOCABULARY, "a", 40, 1.0, None, seeded(n)) for n in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_global_random_state_is_unchanged(model):
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    generate(model, VOCABULARY, "a", 10, 1.0, 3, seeded(1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_top_one_is_greedy(model, seed):
    greedy = generate(model, VOCABULARY, "bad", 30)
    assert generate(model, VOCABULARY, "bad", 30, 1.0, 1, seeded(seed)) == greedy
    assert generate(model, VOCABULARY, "bad", 30, 2.0, V, seeded(seed)) != greedy


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-40, 1e-300])
def test_temperature_near_zero_is_greedy(model, temperature):
    greedy = generate(model, VOCABULARY, "bad", 30)
    assert generate(model, VOCABULARY, "bad", 30, temperature, None, seeded(1)) == greedy


PROBABILITIES = [0.02, 0.3, 0.2, 0.15, 0.13, 0.1, 0.05, 0.03, 0.02]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_draws_follow_softmax(temperature):
    draws = 2500
    text = generate(
        fixed_model(PROBABILITIES), VOCABULARY, "a", draws, temperature, None, seeded(6)
    )
    # <unk> counts as one character, because its characters are not in the vocabulary.
    counts = Counter(text[1:].replace("<unk>", "?"))
    assert sum(counts.values()) == draws
    powers = [p ** (1 / temperature) for p in PROBABILITIES]
    expected = [draws * power / sum(powers) for power in powers]
    observed = [counts[token] for token in "?" + LETTERS]
    # Pearson's statistic exceeds 26.1 once in a thousand with 8 degrees of freedom.
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    assert statistic < 26.1
    uniform = sum((o - draws / V) ** 2 / (draws / V) for o in observed)
    assert uniform > 100, "the draws cannot be told from uniform ones"


def test_top_k_keeps_proportions():
    draws = 1500
    model = fixed_model(PROBABILITIES)
    counts = Counter(generate(model, VOCABULARY, "a", draws, 1.0, 3, seeded(6))[1:])
    assert counts.keys() == set("abc")
    for token, share in zip("abc", (0.3, 0.2, 0.15), strict=True):
        assert counts[token] / draws == pytest.approx(share / 0.65, abs=0.05)


def test_top_k_beyond_vocabulary_keeps_all(model):
    texts = {generate(model, VOCABULARY, "a", 30, 1.0, k, seeded(1)) for k in (None, V, 10 * V)}
    assert len(texts) == 1


@pytest.mark.parametrize("prefix", ["", "123 !", "\u00e9\u4e2d"])
def test_prefix_without_tokens_is_refused(model, prefix):
    with pytest.raises(UserError) as caught:
        generate(model, VOCABULARY, prefix, 5)
    message = str(caught.value)
    assert "has no tokens" in message
    assert "prepare.normalize = letters" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, -math.inf])
def test_impossible_temperatures_are_refused(model, temperature):
    with pytest.raises(UserError, match=r"temperature = .*greater than 0"):
        generate(model, VOCABULARY, "a", 5, temperature, None, seeded(1))


@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(model, value, temperature):
    with torch.no_grad():
        model.b_q[:] = value
    with pytest.raises(UserError, match=f"predicts a logit of {value}: its weights are too large"):
        generate(model, VOCABULARY, "abc", 3, temperature, generator=seeded(0))


def test_logit_of_minus_infinity_is_allowed(model):
    with torch.no_grad():
        model.b_q[1] = -math.inf
    assert len(generate(model, VOCABULARY, "abc", 3)) >= 3


def test_generation_does_not_change_model(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    generate(model, VOCABULARY, "a", 5, 1.0, 2, seeded(1))
    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize("variant", ["scratch", "concise", "fused"])
def test_model_on_gpu_generates_text(variant, temperature):
    torch.manual_seed(8)
    model = build_model(variant, V, hidden_size=H)
    on_cpu = generate(model, VOCABULARY, "a", 20, temperature, 4, seeded(1))
    on_gpu = generate(model.cuda(), VOCABULARY, "a", 20, temperature, 4, seeded(1))
    assert len(VOCABULARY.encode(on_gpu)) >= 21
    if temperature is None:
        assert on_gpu == on_cpu
