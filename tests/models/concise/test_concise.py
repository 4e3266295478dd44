"""The concise variant against the equations with the reset gate after the product."""

import numpy as np
import pytest
import torch
from reference import as_nn_gru, gru_numpy
from textbook import B, H, T, V, random_inputs, random_weights
from torch import nn

from gru_lm.models.base import build_model
from gru_lm.models.concise.model import ConciseGRU


def test_concise_bfloat16_converts_no_state_per_step():
    """The state is in bfloat16, and the results agree with float32 to two digits."""
    torch.manual_seed(3)
    model = ConciseGRU(V, H)
    tokens, state = random_inputs()
    logits, last = model(tokens, state)
    with torch.autocast("cpu", torch.bfloat16), torch.profiler.profile() as calls:
        rough_logits, rough_last = model(tokens, state)
    conversions = [call.count for call in calls.key_averages() if call.key == "aten::_to_copy"]
    assert 0 < sum(conversions) < 2 * T
    assert rough_logits.dtype == rough_last.dtype == torch.bfloat16
    torch.testing.assert_close(rough_logits.float(), logits, rtol=0, atol=0.02)
    torch.testing.assert_close(rough_last.float(), last, rtol=0, atol=0.02)
    assert not torch.equal(rough_logits.float(), logits)


def test_concise_computes_reset_after():
    weights = random_weights("after")
    gru, linear = as_nn_gru(weights)
    model = ConciseGRU(V, H).load_weights(
        {f"gru.{name}": weight for name, weight in gru.items()}
        | {f"linear.{name}": weight for name, weight in linear.items()}
    )
    tokens, state = random_inputs()
    logits, last = model(tokens, state)
    expected_logits, expected_last = gru_numpy(weights, tokens.numpy(), state.numpy(), "after")
    assert logits.shape == (T, B, V)
    np.testing.assert_allclose(logits.detach().numpy(), expected_logits, atol=1e-5)
    np.testing.assert_allclose(last.detach().numpy(), expected_last, atol=1e-5)


@pytest.mark.parametrize("other", ["scratch", "fused"])
def test_concise_weights_fit_scratch_and_fused(other):
    torch.manual_seed(0)
    concise = build_model("concise", V, hidden_size=H).double()
    named = concise.textbook_weights()
    model = build_model(other, V, hidden_size=H, reset="after").double().load_weights(named)
    tokens, state = random_inputs(torch.float64)
    for mine, theirs in zip(model(tokens, state), concise(tokens, state), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_initial_weights_match_torch():
    torch.manual_seed(3)
    model = ConciseGRU(28, 16)
    torch.manual_seed(3)
    gru, linear = nn.GRU(28, 16), nn.Linear(16, 28)
    assert torch.equal(model.gru.weight_hh_l0, gru.weight_hh_l0)
    assert torch.equal(model.linear.weight, linear.weight)
