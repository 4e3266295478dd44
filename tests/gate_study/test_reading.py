"""Recorded gates and surprise equal those of the models."""

import json
import math

import numpy as np
import pytest
import torch
from gated import MODELS, H, N, plain_gates, random_model, random_stream
from reference import gru_numpy

from gru_lm.core.errors import UserError
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.perplexity import evaluate
from gru_lm.gate_study.reading import (
    Activity,
    describe_time_constants,
    read,
    time_constants,
)


@pytest.fixture
def gates():
    return random_model(reset="before").gates()


@pytest.fixture
def stream():
    return random_stream()


@pytest.mark.parametrize("variant, options", MODELS[:3])
def test_surprise_sums_to_evaluation(variant, options, stream):
    model = random_model(variant, **options)
    passage = read(model.gates(), stream, 0, N, chunk=37).passage
    score = evaluate(model, stream)
    assert math.isnan(passage.surprise[0])
    bits = passage.surprise[1:].sum(dtype=np.float64)
    assert bits == pytest.approx(score.nats / math.log(2), rel=1e-5)


@pytest.mark.parametrize("start, length", [(0, 5), (1, 5), (36, 40), (37, 1), (299, 50), (40, 400)])
def test_passage_is_part_of_whole(gates, stream, start, length):
    whole = read(gates, stream, 0, N, chunk=1000).passage
    cut = read(gates, stream, start, length, chunk=37).passage
    for name, array in vars(cut).items():
        assert len(array) == min(length, N - start)
        expected = getattr(whole, name)[start : start + length]
        np.testing.assert_allclose(array, expected, atol=1e-6)


def test_predictions_precede_reading(gates, stream):
    weights = random_model(reset="before").textbook_weights()  # those of the fixture
    passage = read(gates, stream, 0, 30).passage
    wanted, _ = gru_numpy(weights, stream[None, :30].numpy(), np.zeros((1, H)), "before")
    p = np.exp(wanted[:, 0]) / np.exp(wanted[:, 0]).sum(1, keepdims=True)
    assert not passage.top_tokens[0].any() and np.isnan(passage.top_probabilities[0]).all()
    for t in range(1, 30):
        best = np.argsort(-p[t - 1])[:5]
        assert passage.top_tokens[t].tolist() == best.tolist()
        np.testing.assert_allclose(passage.top_probabilities[t], p[t - 1][best], rtol=1e-4)
        assert passage.surprise[t] == pytest.approx(-math.log2(p[t - 1][stream[t]]), rel=1e-4)


def test_means_cover_whole_split(gates, stream):
    rows = [torch.cat(row) for row in gates.steps(stream[None], torch.zeros(1, H))]
    Z, R, states = torch.stack(rows, dim=1)
    seen = []
    reading = read(gates, stream, 10, 3, chunk=41, observe=lambda *found: seen.append(found))
    Z_by_token, R_by_token = (np.concatenate(of) for of in zip(*seen, strict=True))
    np.testing.assert_allclose(reading.mean_Z, Z.mean(0), rtol=1e-5)
    np.testing.assert_allclose(reading.mean_R, R.mean(0), rtol=1e-5)
    np.testing.assert_allclose(reading.mean_H, states.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(Z_by_token, Z.mean(1), rtol=1e-5)
    np.testing.assert_allclose(R_by_token, R.mean(1), rtol=1e-5)


def test_passage_beyond_split_is_user_error(gates, stream):
    with pytest.raises(
        UserError, match=r"gate_study\.start = 300, but the split has only 300 tokens"
    ):
        read(gates, stream, N, 5)


def test_time_constant_of_known_leak(stream):
    # Z = 0.5, 0.9, 0.99 by their biases: -1 / ln Z by hand.
    b_z = torch.logit(torch.tensor([0.5, 0.9, 0.99, 0.5, 0.5, 0.5, 0.5]))
    constants = time_constants(read(plain_gates(b_z=b_z), stream).mean_Z)
    np.testing.assert_allclose(constants[:3], [1.442695, 9.491222, 99.499162], rtol=1e-4)


def test_time_constants_at_limits():
    constants = time_constants(np.array([0.0, 1.0, math.exp(-1)]))
    assert constants.tolist() == [0.0, math.inf, pytest.approx(1.0)]
    found = describe_time_constants(constants)
    assert found == {"min": 0.0, "p10": 0.0, "median": pytest.approx(1.0), "p90": None, "max": None}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("block", [1, 100, 1000])
def test_activity_is_mean_per_place(gates, block):
    vocabulary = Vocabulary(("<unk>", "a", "b", "c"))  # no space, so all is one word
    tokens = np.array([1, 2, 3, 0, 1] * 60, np.uint8)
    activity, seen = Activity(tokens, vocabulary, block), []

    def observe(*found):
        seen.append(found)
        activity.add(*found)

    read(gates, tokens, chunk=41, observe=observe)
    found = activity.result()
    Z, R = (np.concatenate(of) for of in zip(*seen, strict=True))
    inside = tokens > 0
    inside[0] = False
    assert found["space"] is None
    assert found["first letter"] == {"Z": Z[0], "R": R[0], "tokens": 1}
    assert found["inside words"]["tokens"] == inside.sum()
    assert found["inside words"]["Z"] == pytest.approx(Z[inside].mean())
    assert found["inside words"]["R"] == pytest.approx(R[inside].mean())


def test_states_precede_places(gates, stream):
    places = torch.tensor([1, 36, 37, 38, N - 1])
    states = read(gates, stream, places=places, chunk=37).states
    for place, state in zip(places, states, strict=True):
        wanted = gates.last_state(stream[None, :place], torch.zeros(1, H))[0]
        np.testing.assert_allclose(state, wanted, atol=1e-6)
    assert read(gates, stream).states.shape == (0, H)
