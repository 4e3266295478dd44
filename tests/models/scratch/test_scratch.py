"""The scratch variant agrees with its equations and with nn.GRU."""

import numpy as np
import pytest
import torch
from reference import as_nn_gru, gru_numpy
from textbook import RESETS, B, H, T, V, loss_of, random_inputs, random_weights, shapes
from torch import nn

from gru_lm.models.scratch.model import ScratchGRU


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("reset", RESETS)
def test_scratch_matches_equations(reset, dtype, tolerance):
    weights = random_weights(reset, dtype)
    tokens, state = random_inputs(dtype)
    logits, last = ScratchGRU.from_weights(weights, reset)(tokens, state)
    expected_logits, expected_last = gru_numpy(weights, tokens.numpy(), state.numpy(), reset)
    assert logits.shape == (T, B, V)
    assert last.shape == (B, H)
    np.testing.assert_allclose(logits.detach().numpy(), expected_logits, atol=tolerance)
    np.testing.assert_allclose(last.detach().numpy(), expected_last, atol=tolerance)


def test_resets_are_different_functions():
    weights = random_weights("after")
    weights["b_hh"].zero_()
    tokens, state = random_inputs()
    after, _ = ScratchGRU.from_weights(weights, "after")(tokens, state)
    del weights["b_hh"]
    before, _ = ScratchGRU.from_weights(weights, "before")(tokens, state)
    assert (after - before).abs().max() > 0.01


def test_reset_after_matches_nn_gru():
    weights = random_weights("after")
    tokens, state = random_inputs()
    model = ScratchGRU.from_weights(weights, "after")
    my_state = state.clone().requires_grad_()
    logits, last = model(tokens, my_state)

    stacked, output = as_nn_gru(weights)
    gru, linear = nn.GRU(V, H), nn.Linear(H, V)
    gru.load_state_dict(stacked)
    linear.load_state_dict(output)
    their_state = state.clone().requires_grad_()
    outputs, their_last = gru(torch.eye(V)[tokens.T], their_state[None])
    their_logits = linear(outputs)

    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(logits, their_logits, **close)
    torch.testing.assert_close(last, their_last[0], **close)

    loss_of(logits, last).backward()
    loss_of(their_logits, their_last[0]).backward()
    mine = {name: weight.grad for name, weight in model.named_parameters()}
    assert mine.keys() == weights.keys()
    # torch stacks the gates in the order r, z, n, each a third of the rows.
    ih_r, ih_z, ih_n = gru.weight_ih_l0.grad.chunk(3)
    hh_r, hh_z, hh_n = gru.weight_hh_l0.grad.chunk(3)
    b_ir, b_iz, b_in = gru.bias_ih_l0.grad.chunk(3)
    b_hr, b_hz, b_hn = gru.bias_hh_l0.grad.chunk(3)
    theirs = {
        **{"W_xr": ih_r.T, "W_xz": ih_z.T, "W_xh": ih_n.T},
        **{"W_hr": hh_r.T, "W_hz": hh_z.T, "W_hh": hh_n.T},
        **{"b_r": b_ir, "b_z": b_iz, "b_h": b_in, "b_hh": b_hn},
        **{"W_hq": linear.weight.grad.T, "b_q": linear.bias.grad},
    }
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 1e-3, f"the loss does not depend on {name}"
        torch.testing.assert_close(mine[name], gradient, **close, msg=lambda m, n=name: f"{n}: {m}")
    # torch adds a gate's two biases, so both have the gradient of scratch's single bias.
    torch.testing.assert_close(mine["b_r"], b_hr, **close)
    torch.testing.assert_close(mine["b_z"], b_hz, **close)
    torch.testing.assert_close(my_state.grad, their_state.grad, **close)


@pytest.mark.parametrize("reset", RESETS)
def test_gradients_match_finite_differences(reset):
    weights = random_weights(reset, torch.float64, vocab_size=4, hidden_size=3)
    model = ScratchGRU.from_weights(weights, reset)
    tokens = torch.tensor([[0, 1, 3], [2, 2, 1]])
    state = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    names = list(weights)

    def run(state, *values):
        by_name = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, by_name, (tokens, state))

    inputs = [state, *weights.values()]
    assert torch.autograd.gradcheck(run, [value.clone().requires_grad_() for value in inputs])


@pytest.mark.parametrize("reset", RESETS)
def test_initial_weights_are_small_and_biases_zero(reset):
    torch.manual_seed(0)
    model = ScratchGRU(28, 64, reset)
    named = dict(model.named_parameters())
    assert {name: tuple(w.shape) for name, w in named.items()} == shapes(reset, 28, 64)
    for name, weight in named.items():
        if name.startswith("b"):
            assert weight.count_nonzero() == 0, name
        else:
            assert weight.std().item() == pytest.approx(0.01, rel=0.08), name
            assert abs(weight.mean().item()) < 0.001, name
            assert weight.abs().max() > 0.025, f"{name} has no tails, so it is not normal"


@pytest.mark.parametrize("reset", RESETS)
def test_from_weights_copies(reset):
    weights = random_weights(reset)
    kept = {name: weight.clone() for name, weight in weights.items()}
    model = ScratchGRU.from_weights(weights, reset)
    for weight in weights.values():
        weight.fill_(9.0)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, kept[name]), name
    again = ScratchGRU.from_weights(model.state_dict(), reset)
    assert all(torch.equal(again.state_dict()[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda w: w.pop("b_z"), "b_z"),
        (lambda w: w.pop("W_hq"), "W_hq"),
        (lambda w: w.update(W_hx=torch.zeros(2, 2)), "W_hx"),
        (lambda w: w.update(W_xz=torch.zeros(V, H + 1)), "W_xz"),
        (lambda w: w.update(W_hr=torch.zeros(H)), "W_hr"),
        (lambda w: w.update(b_h=torch.zeros(1)), "b_h"),
        (lambda w: w.update(b_hh=torch.zeros(H)), "b_hh"),
    ],
    ids=["missing", "output-missing", "unknown", "shape", "dimensions", "broadcast", "other-reset"],
)
def test_from_weights_refuses_unsuitable_weights(change, named):
    weights = random_weights("before")
    change(weights)
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        ScratchGRU.from_weights(weights, "before")


def test_unknown_reset_is_refused():
    with pytest.raises(ValueError, match="reset = 'during'"):
        ScratchGRU(V, H, "during")
