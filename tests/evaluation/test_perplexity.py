"""Held-out scores agree with sums over single steps and with values computed by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import as_nn_gru, gru_numpy

from gru_lm.core.errors import UserError
from gru_lm.evaluation.baselines import unigram
from gru_lm.evaluation.perplexity import Score, evaluate, evaluate_blocks
from gru_lm.models.concise.model import ConciseGRU
from gru_lm.models.scratch.model import ScratchGRU

V, H, N = 6, 4, 53


@pytest.fixture
def stream():
    return torch.randint(V, (N,), generator=torch.Generator().manual_seed(3))


def random_model(reset):
    torch.manual_seed(2)
    model = ScratchGRU(V, H, reset)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.8)
    return model


def nats_step_by_step(weights, stream, reset):
    """Return the summed cross-entropy, one token at a time, in float64."""
    state, nats = np.zeros((1, H)), 0.0
    for token, following in pairwise(stream):
        logits, state = gru_numpy(weights, np.array([[token]]), state, reset)
        scores = logits[0, 0]
        nats -= scores[following] - math.log(sum(math.exp(score) for score in scores))
    return nats


@pytest.mark.parametrize("reset", ["before", "after"])
def test_scratch_equals_stepwise_sum(reset, stream):
    model = random_model(reset)
    wanted = nats_step_by_step(model.state_dict(), stream.tolist(), reset)
    score = evaluate(model, stream)
    assert score.tokens == N - 1
    assert score.nats == pytest.approx(wanted, rel=1e-5)
    assert evaluate(model.double(), stream).nats == pytest.approx(wanted, rel=1e-12)


def test_concise_equals_stepwise_sum(stream):
    weights = random_model("after").double().state_dict()
    gru, linear = as_nn_gru(weights)
    model = ConciseGRU(V, H).double()
    model.gru.load_state_dict(gru)
    model.linear.load_state_dict(linear)
    wanted = nats_step_by_step(weights, stream.tolist(), "after")
    assert evaluate(model, stream).nats == pytest.approx(wanted, rel=1e-12)


def test_chunk_does_not_change_score(stream):
    model = random_model("before").double()
    whole = evaluate(model, stream)
    for chunk in (1, 2, 7, 26, 51, 52, 53):
        score = evaluate(model, stream, chunk)
        assert score.tokens == N - 1
        assert score.nats == pytest.approx(whole.nats, rel=1e-12)


@pytest.mark.parametrize("length", [2, 3, 1001, 1002])
def test_all_tokens_but_first_are_scored(length):
    stream = torch.arange(length) % V
    assert evaluate(random_model("before"), stream).tokens == length - 1


def test_evaluate_does_not_change_model(stream):
    model = random_model("before")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    first, second = evaluate(model, stream), evaluate(model, stream)
    assert first == second
    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("model", [ScratchGRU(V, H), ScratchGRU(V, H, "after"), ConciseGRU(V, H)])
def test_zero_weights_give_vocabulary_size(model, stream):
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    metrics = evaluate(model, stream).as_metrics()
    assert metrics["perplexity"] == pytest.approx(V, rel=1e-14)
    assert metrics["bits_per_token"] == pytest.approx(math.log2(V), rel=1e-14)
    assert metrics["tokens"] == N - 1


def test_metrics_of_known_score():
    metrics = Score(nats=30 * math.log(8), tokens=30).as_metrics()
    assert list(metrics) == ["perplexity", "bits_per_token", "tokens"]
    assert metrics == pytest.approx({"perplexity": 8.0, "bits_per_token": 3.0, "tokens": 30})


@pytest.mark.parametrize("mean", [710.0, 1e9, math.inf, math.nan])
def test_infinite_perplexity_is_user_error(mean):
    with pytest.raises(UserError, match=r"train\.lr or train\.clip_norm"):
        Score(nats=2 * mean, tokens=2).as_metrics()
    assert Score(nats=2 * 709.0, tokens=2).as_metrics()["perplexity"] > 1e307


# ------------------------------------------------------------------------------------- unigram


def test_unigram_by_hand():
    splits = {
        "train": np.array([1, 1, 2, 1, 2], np.uint8),  # with one added, 1, 4, 3 of 8
        "val": np.array([0, 1, 2], np.uint8),  # 1 and 2 are scored
        "test": np.array([1, 0], np.uint8),  # only 0 is scored, which does not occur in train
    }
    result = unigram(splits, vocab_size=3)
    assert list(result) == ["train", "val", "test"]
    assert [result[name]["tokens"] for name in result] == [4, 2, 1]
    # 1, 2, 1, 2 are scored in training
    assert result["train"]["perplexity"] == pytest.approx((8 / 4) ** 0.5 * (8 / 3) ** 0.5)
    assert result["val"]["bits_per_token"] == pytest.approx((1 + math.log2(8 / 3)) / 2)
    assert result["test"]["bits_per_token"] == pytest.approx(3.0)
    assert result["test"]["perplexity"] == pytest.approx(8.0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.integers(10, 14))
def test_unigram_equals_manual_count(tokens, vocab_size):
    stream = np.array(tokens, np.uint8)
    result = unigram(dict.fromkeys(("train", "val", "test"), stream), vocab_size)
    bits = [
        math.log2((len(tokens) + vocab_size) / (tokens.count(token) + 1)) for token in tokens[1:]
    ]
    mean = sum(bits) / len(bits)
    for metrics in result.values():
        assert metrics["bits_per_token"] == pytest.approx(mean, abs=1e-9)
        assert metrics["perplexity"] == pytest.approx(2**mean)
        assert metrics["tokens"] == len(tokens) - 1


def test_unigram_of_uniform_stream_is_vocabulary_size():
    stream = np.arange(50, dtype=np.uint8) % 5
    result = unigram(dict.fromkeys(("train", "val", "test"), stream), 5)
    assert result["val"]["perplexity"] == pytest.approx(5.0)


@given(st.integers(1, N), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_blocks_are_read_from_an_empty_state(length, rows):
    model = random_model("before").double()
    stream = torch.randint(V, (N,), generator=torch.Generator().manual_seed(3))
    wanted = sum(
        evaluate(model, stream[start : start + length + 1]).nats
        for start in range(0, N - 1, length)
    )
    score = evaluate_blocks(model, stream, length, rows)
    assert score.tokens == N - 1
    assert score.nats == pytest.approx(wanted, rel=1e-12)


def test_large_vocabularies_are_evaluated_in_smaller_pieces(stream, monkeypatch):
    model = random_model("before").double()
    whole, blocks = evaluate(model, stream), evaluate_blocks(model, stream, 12)
    shapes = []
    hook = model.register_forward_hook(lambda _, given, got: shapes.append(got[0].shape))
    monkeypatch.setattr("gru_lm.evaluation.perplexity.LOGITS", 5 * V)
    assert evaluate(model, stream).nats == pytest.approx(whole.nats, rel=1e-12)
    assert evaluate_blocks(model, stream, 12).nats == pytest.approx(blocks.nats, rel=1e-12)
    hook.remove()
    assert all(steps * rows <= 5 for steps, rows, _ in shapes)
