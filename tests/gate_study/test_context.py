"""Predictions from the last k tokens equal those of the models on single windows."""

import math

import numpy as np
import pytest
import torch
from gated import MODELS, H, N, V, random_model, random_stream
from hypothesis import given
from hypothesis import strategies as st

from gru_lm.gate_study.context import (
    LENGTHS,
    TOLERANCE,
    Targets,
    inverse_temperature,
    lengths_for,
    reach,
    score,
    scores,
)
from gru_lm.gate_study.interventions import gate_interventions
from gru_lm.gate_study.reading import read


@pytest.fixture
def gates():
    return random_model(reset="before").gates()


@pytest.fixture
def stream():
    return random_stream()


def test_targets_are_evenly_spaced(stream):
    targets = Targets.of(stream, longest=48, stride=4, offset=7)
    assert targets.places.tolist() == list(range(48 + 3, N, 4))  # 7 modulo 4 is 3
    assert torch.equal(targets.wanted, stream[51::4])
    assert targets.every(3).places.tolist() == list(range(51, N, 12))
    assert Targets.of(stream[:2], longest=1, stride=4, offset=2).places.tolist() == [1]


@pytest.mark.parametrize("unrelated", [0, 5])
@pytest.mark.parametrize("held", [False, True])
def test_states_depend_on_last_k_tokens(gates, stream, held, unrelated):
    """They equal those of each window read alone, after its unrelated passage."""
    one = gate_interventions(read(gates, stream))["update"].at(0.5) if held else None
    targets = Targets.of(stream, 48, 4, offset=1, unrelated=unrelated)
    lengths = [0, 1, 3, 4, 8, 12, 48]
    found = dict(targets.states(gates, lengths, one))
    assert sorted(found) == lengths
    for k in lengths:
        assert found[k].shape == (len(targets.places), H)
        for row in (0, 5, len(targets.places) - 1):
            place = int(targets.places[row])
            # A length that is a multiple of the stride comes from the row that starts there.
            of_row = row + (48 - k) // 4 if k and k % 4 == 0 else row
            tokens = torch.cat([targets.unrelated[of_row], stream[place - k : place]])
            wanted = gates.last_state(tokens[None], torch.zeros(1, H), one)[0]
            np.testing.assert_allclose(found[k][row], wanted, atol=1e-5)


def test_unrelated_passage_is_from_elsewhere(stream):
    numbers = torch.arange(N)  # each token is its position
    targets = Targets.of(numbers, 48, 4, unrelated=16)
    assert targets.unrelated.shape[1] == 16
    starts = targets.places[0] - 48 + 4 * torch.arange(len(targets.unrelated))
    assert torch.equal(targets.unrelated.diff(dim=1), torch.ones_like(targets.unrelated[:, 1:]))
    away = (targets.unrelated[:, 0] - starts) % N
    assert (away >= N // 4 - 16).all() and (away <= 3 * N // 4 + 16).all()
    again = Targets.of(numbers, 48, 4, unrelated=16)
    assert torch.equal(again.unrelated, targets.unrelated)


@pytest.mark.parametrize("variant, options", MODELS[:3])
def test_scores_equal_model_predictions(variant, options, stream):
    model = random_model(variant, **options)
    targets = Targets.of(stream, 48, 4)
    found = scores(model.gates(), targets, [2, 16])
    for index, k in enumerate([2, 16]):
        windows = stream[targets.places[:, None] + torch.arange(-k, 0)]
        with torch.no_grad():
            logits = model(windows, model.begin_state(len(windows)))[0][-1].double()
        log_p = logits.log_softmax(1)[torch.arange(len(windows)), targets.wanted]
        assert found["bits"][index] == pytest.approx(-float(log_p.mean()) / math.log(2), rel=1e-4)
        right = (logits.argmax(1) == targets.wanted).double().mean()
        assert found["accuracy"][index] == pytest.approx(float(right))
        # The best temperature is at least as good as 1, within rounding.
        assert found["calibrated_bits"][index] < found["bits"][index] + 1e-3


def test_context_to_the_start_equals_whole_context(gates, stream):
    places = torch.tensor([40])
    targets = Targets(stream, places, 4, stream[:0].reshape(1, 0).expand(11, 0))
    trace = read(gates, stream, 40, 1, places=places)
    alone = scores(gates, targets, [40])
    whole = score(gates.logits(trace.states), targets.wanted)
    assert {m: [value] for m, value in whole.items()} == {
        m: pytest.approx(values, rel=1e-5) for m, values in alone.items()
    }
    assert whole["bits"] == pytest.approx(float(trace.passage.surprise[0]), rel=1e-5)


def test_best_temperature_by_hand():
    # Two outcomes with logits +-1: 3 of 4 right means p = 3/4, so a factor of ln(3) / 2.
    logits = torch.tensor([[1.0, -1.0]]).repeat(4, 1)
    assert inverse_temperature(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(
        math.log(3) / 2, rel=0.02
    )
    assert inverse_temperature(100 * logits, torch.tensor([1, 1, 1, 1])) == pytest.approx(
        1 / 64, rel=0.02
    )


def test_scaling_logits_keeps_calibrated_bits(gates, stream):
    logits, wanted = torch.randn(50, V, generator=torch.Generator().manual_seed(1)), stream[:50]
    sure = score(3 * logits, wanted)
    calm = score(logits, wanted)
    assert sure["calibrated_bits"] == pytest.approx(calm["calibrated_bits"], rel=1e-3)
    assert sure["bits"] > calm["bits"] + 0.1


@given(
    bits=st.lists(st.floats(0, 9), min_size=1, max_size=9),
    whole=st.floats(0, 9),
)
def test_reach_is_shortest_sufficient_context(bits, whole):
    lengths = LENGTHS[: len(bits)]
    found = reach(lengths, bits, whole)
    enough = [k for k, b in zip(lengths, bits, strict=True) if b <= min(*bits, whole) + TOLERANCE]
    assert found == (min(enough) if enough else None)


def test_lengths_are_at_most_half_the_text():
    assert lengths_for(torch.zeros(10_000)) == list(LENGTHS)
    assert LENGTHS[:8] == (0, 1, 2, 3, 4, 6, 8, 12) and LENGTHS[-1] == 48
    assert lengths_for(torch.zeros(20)) == [0, 1, 2, 3, 4, 6, 8]
    assert lengths_for(torch.zeros(2)) == [0, 1]
