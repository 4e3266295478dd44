"""The step-by-step equations agree with the models and with results computed by hand."""

import numpy as np
import pytest
import torch
from gated import MODELS, H, V, random_model
from reference import gru_numpy

from gru_lm.models.gates import Intervention


@pytest.mark.parametrize("variant, options", MODELS)
def test_steps_match_model(variant, options):
    model = random_model(variant, **options)
    tokens = torch.randint(V, (4, 23), generator=torch.Generator().manual_seed(1))
    state = torch.randn(4, H, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted, last = model(tokens, state)
    gates = model.gates()
    states = torch.stack([new for _, _, new in gates.steps(tokens, state)])
    torch.testing.assert_close(gates.logits(states), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(states[-1], last, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gates.last_state(tokens, state), last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reset", ["before", "after"])
def test_gates_match_manual_computation(reset):
    model = random_model(reset=reset)
    gates, w = model.gates(), model.textbook_weights()
    old = torch.randn(1, H, generator=torch.Generator().manual_seed(3))
    Z, R, new = next(gates.steps(torch.tensor([[4]]), old))
    for gate, name in ((Z, "z"), (R, "r")):
        total = w[f"W_x{name}"][4] + old[0] @ w[f"W_h{name}"] + w[f"b_{name}"]
        torch.testing.assert_close(gate[0], 1 / (1 + torch.exp(-total)))
    _, wanted = gru_numpy(w, np.array([[4]]), old.numpy(), reset)
    np.testing.assert_allclose(new.numpy(), wanted, atol=1e-5)


def test_empty_input_keeps_state():
    gates = random_model(reset="before").gates()
    state = torch.ones(2, H)
    assert torch.equal(gates.last_state(torch.zeros(2, 0, dtype=torch.int64), state), state)


@pytest.mark.parametrize("reset", ["before", "after"])
def test_held_gate_is_used_in_equations(reset):
    model = random_model(reset=reset).double()
    gates, w = model.gates(), model.textbook_weights()
    tokens, state = torch.tensor([[3]]), torch.randn(1, H, dtype=torch.float64)
    value = torch.linspace(0, 1, H, dtype=torch.float64)
    Z, R, plain = next(gates.steps(tokens, state))
    held = Intervention("Z", value, torch.ones_like(value))
    Z_held, R_same, new = next(gates.steps(tokens, state, held))
    assert torch.equal(Z_held[0], value) and torch.equal(R_same, R)
    candidate = (plain - Z * state) / (1 - Z)
    torch.testing.assert_close(new, value * state + (1 - value) * candidate)
    # A dose of 0.5 moves the signal halfway.
    Z_half, *_ = next(gates.steps(tokens, state, held.at(0.5)))
    torch.testing.assert_close(Z_half, (Z + value) / 2)
    # With a closed reset gate, the old state enters only through Z.
    closed = Intervention("R", torch.zeros_like(value), torch.ones_like(value))
    _, R_held, new = next(gates.steps(tokens, state, closed))
    assert not R_held.any()
    candidate = torch.tanh(w["W_xh"][3] + w["b_h"])
    torch.testing.assert_close(new, Z * state + (1 - Z) * candidate)
