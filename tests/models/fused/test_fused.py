"""The fused variant agrees with scratch in outputs, state, gradients and weights."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gru_lm.models.concise.model import ConciseGRU
from gru_lm.models.fused.layer import Recurrence
from gru_lm.models.fused.model import FusedGRU
from gru_lm.models.scratch.model import ScratchGRU
from gru_lm.training.trainer import Trainer

RESETS = ["before", "after"]
each_reset = pytest.mark.parametrize("reset", RESETS)
each_device = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
            ],
        ),
    ],
)


def pair(reset, V=6, H=5, dtype=torch.float64, device="cpu", seed=0):
    """Return scratch and fused with the same weights, large enough that all of them matter."""
    torch.manual_seed(seed)
    scratch = ScratchGRU(V, H, reset)
    with torch.no_grad():
        for weight in scratch.parameters():
            weight.normal_(0, H**-0.5)
    scratch = scratch.to(device, dtype)
    fused = FusedGRU.from_weights(scratch.state_dict(), reset).to(device)
    return scratch, fused


def inputs(V, H, B, T, dtype=torch.float64, device="cpu"):
    state = torch.randn(B, H, dtype=torch.float64).to(device, dtype).requires_grad_()
    return torch.randint(V, (B, T), device=device), state


def loss_of(logits: Tensor, last: Tensor) -> Tensor:
    """Return a loss that depends on every output with a different weight."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=logits.dtype, device=logits.device)
    for output in (logits, last):
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        total = total + (output * weights.to(output)).sum()
    return total


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of either model by scratch's names."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for mine, given_ in zip(twin.parameters(), model.parameters(), strict=True):
            mine.copy_(given_.grad)
    return dict(twin.state_dict())


def assert_same(scratch, fused, tokens, state, tolerance):
    """Assert that outputs, last state and gradients agree, relative to their largest entries."""
    results = []
    for model in (scratch, fused):
        model.zero_grad()
        mine = state.detach().clone().requires_grad_()
        logits, last = model(tokens, mine)
        loss_of(logits, last).backward()
        values = {"logits": logits, "last": last, "state": mine.grad, **gradients(model)}
        results.append({name: value.detach().clone() for name, value in values.items()})
    wanted, reached = results
    assert wanted.keys() == reached.keys()
    for name, value in wanted.items():
        assert reached[name].shape == value.shape, name
        error = (reached[name] - value).abs().max()
        assert error <= tolerance * value.abs().max().clamp(min=1e-30), f"{name}: {error:.2g}"
        assert value.abs().max() > 0, f"{name} is zero, so the comparison is meaningless"


@each_device
@each_reset
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("B, T", [(1, 1), (1, 9), (3, 1), (4, 7), (32, 35)])
@pytest.mark.parametrize("V, H", [(2, 1), (6, 5), (28, 64)])
def test_fused_matches_scratch(V, H, B, T, dtype, tolerance, reset, device):
    scratch, fused = pair(reset, V, H, dtype, device)
    tokens, state = inputs(V, H, B, T, dtype, device)
    if device == "cuda" and dtype == torch.float32 and H == 1:
        tolerance = 1e-4  # terms may nearly cancel, and exp is less exact on a GPU
    assert_same(scratch, fused, tokens, state, tolerance)


@given(
    reset=st.sampled_from(RESETS),
    V=st.integers(1, 9),
    H=st.integers(1, 12),
    B=st.integers(1, 6),
    T=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_fused_matches_scratch_at_any_size(reset, V, H, B, T, seed):
    scratch, fused = pair(reset, V, H, seed=seed)
    tokens, state = inputs(V, H, B, T)
    assert_same(scratch, fused, tokens, state, 1e-11)


@each_reset
def test_gradients_match_finite_differences(reset):
    _, model = pair(reset, V=4, H=3)
    tokens, state = inputs(4, 3, B=2, T=3)
    names = [name for name, _ in model.named_parameters()]

    def run(state, *values):
        by_name = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, by_name, (tokens, state))

    weights = [weight.detach().clone().requires_grad_() for weight in model.parameters()]
    assert torch.autograd.gradcheck(run, [state, *weights])


@each_reset
def test_weights_round_trip_through_scratch(reset):
    scratch, fused = pair(reset)
    named = fused.state_dict()
    assert list(named) == list(scratch.state_dict())
    for name, weight in scratch.state_dict().items():
        assert torch.equal(named[name], weight), name
    again = ScratchGRU.from_weights(named, reset)
    tokens, state = inputs(6, 5, 3, 4)
    for one, other in zip(again(tokens, state), scratch(tokens, state), strict=True):
        assert torch.equal(one, other)


@each_reset
def test_initial_weights_match_scratch(reset):
    models = []
    for kind in (ScratchGRU, FusedGRU):
        torch.manual_seed(5)
        models.append(kind(7, 4, reset).state_dict())
    for name, weight in models[0].items():
        assert torch.equal(models[1][name], weight), name


@each_reset
def test_later_passes_do_not_change_earlier_ones(reset):
    """Two graphs exist at once, with passes without gradients between them."""
    scratch, fused = pair(reset)
    (first, state), (second, _) = inputs(6, 5, 3, 8), inputs(6, 5, 3, 8)
    sums = []
    for model in (scratch, fused):
        model.zero_grad()
        one = model(first, state)
        kept = one[0].detach().clone()
        other = model(second, one[1])
        with torch.no_grad():
            model(second.flip(0), state)
        assert torch.equal(one[0], kept), "a later pass has overwritten the logits"
        (loss_of(*other) + loss_of(*one)).backward()
        sums.append(gradients(model))
    for name, gradient in sums[0].items():
        torch.testing.assert_close(sums[1][name], gradient, rtol=1e-11, atol=1e-11)


def test_buffers_are_reused():
    _, fused = pair("before")
    tokens, state = inputs(6, 5, 3, 8)
    for _ in range(3):
        loss_of(*fused(tokens, state)).backward()
        with torch.no_grad():
            fused(tokens, state)
    [free] = fused._pool.values()
    assert len(free) == 1


@each_reset
def test_second_backward_pass_gives_same_gradients(reset):
    _, fused = pair(reset)
    loss = loss_of(*fused(*inputs(6, 5, 3, 8)))
    once, twice = (
        torch.autograd.grad(loss, list(fused.parameters()), retain_graph=True) for _ in range(2)
    )
    for one, other in zip(once, twice, strict=True):
        assert torch.equal(one, other)


@each_reset
def test_loss_on_one_output(reset):
    scratch, fused = pair(reset)
    tokens, state = inputs(6, 5, 3, 4)
    for which in (0, 1):
        grads = []
        for model in (scratch, fused):
            model.zero_grad()
            mine = state.detach().clone().requires_grad_()
            model(tokens, mine)[which].square().sum().backward()
            grads.append(mine.grad)
        torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-12)


def test_unknown_reset_is_refused():
    with pytest.raises(ValueError, match="reset = 'later'"):
        FusedGRU(6, 5, "later")


@each_device
@pytest.mark.parametrize("kind, scale", [(ScratchGRU, 20), (ConciseGRU, 2), (FusedGRU, 20)])
def test_bf16_products_train_float32_weights(kind, scale, device):
    """The results are close to float32 but differ, so the setting reaches the products."""
    tokens = torch.tensor([0, 1, 2, 0, 3, 4, 5, 4]).repeat(8, 5).to(device)
    X, Y = tokens[:, :-1], tokens[:, 1:]
    reached = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(2)
        model = kind(6, 16).to(device)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(scale)
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        trainer = Trainer(model, optimizer, 1.0, precision)
        reached[precision] = [trainer.train_epoch([(X, Y)], False)[0] for _ in range(20)]
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert reached["bf16"] == pytest.approx(reached["fp32"], rel=0.02)
    assert reached["bf16"] != reached["fp32"]
    assert reached["bf16"][-1] < 0.97 * reached["bf16"][0]


def test_recurrence_returns_states_by_unit():
    _, fused = pair("before", V=6, H=5)
    tokens, state = inputs(6, 5, 3, 8)
    states, last = Recurrence.apply(
        tokens.T, state.T, fused.W_x + fused.b[:, None], fused.W_h, None, {}
    )
    assert states.shape == (5, 8, 3)
    assert torch.equal(states[:, -1], last)


@each_reset
def test_training_after_evaluation_of_same_shape(reset):
    """Tensors created in inference mode cannot be written to outside it."""
    model = FusedGRU(5, 4, reset)
    tokens, state = torch.randint(5, (1, 7)), torch.zeros(1, 4)
    with torch.inference_mode():
        expected, _ = model(tokens, state)
    logits, _ = model(tokens, state)
    logits.sum().backward()
    assert torch.equal(logits, expected)
    assert all(weight.grad is not None for weight in model.parameters())
