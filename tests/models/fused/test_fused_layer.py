"""The recurrent layer of fused for dense inputs, in float32 and bfloat16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gru_lm.models.base import build_model, set_loop_threads
from gru_lm.models.fused import cpu as fused_cpu
from gru_lm.models.fused import tiles
from gru_lm.models.fused.model import FusedGRU
from gru_lm.models.fused.recurrent import Layer
from gru_lm.models.scratch.model import ScratchGRU
from gru_lm.training.minibatches import sequential_minibatches
from gru_lm.training.trainer import Trainer

RESETS = ["before", "after"]
each_reset = pytest.mark.parametrize("reset", RESETS)
has_bfloat16 = tiles.has_bfloat16_products()
if_bfloat16 = pytest.mark.skipif(not has_bfloat16, reason="the processor has no AVX-512 BF16")


@pytest.fixture(autouse=True)
def threads():
    """Restore torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def textbook(weights: dict[str, Tensor], inputs: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs (T, B, H) and the last state by the equations."""
    w, outputs = weights, []
    for X in inputs:
        Z = torch.sigmoid(X @ w["W_xz"] + H @ w["W_hz"] + w["b_z"])
        R = torch.sigmoid(X @ w["W_xr"] + H @ w["W_hr"] + w["b_r"])
        if "b_hh" in w:
            C = torch.tanh(X @ w["W_xh"] + w["b_h"] + R * (H @ w["W_hh"] + w["b_hh"]))
        else:
            C = torch.tanh(X @ w["W_xh"] + (R * H) @ w["W_hh"] + w["b_h"])
        H = Z * H + (1 - Z) * C
        outputs.append(H)
    return torch.stack(outputs), H


def layer_of(I: int, H: int, reset: str, dtype: torch.dtype = torch.float32) -> Layer:  # noqa: E741
    """Return a layer whose weights are large enough that all of them matter."""
    layer = Layer(I, H, reset=reset).to(dtype)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_(0, H**-0.5)
    return layer


def results(
    layer: Layer, inputs: Tensor, state: Tensor, bf16: bool = False, last_too: bool = True
) -> dict[str, Tensor]:
    """Return outputs, last state and all gradients of a random linear loss."""
    layer.zero_grad()
    inputs, state = (one.detach().clone().requires_grad_() for one in (inputs, state))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        outputs, last = layer(inputs, state)
    loss_of(outputs, last, last_too).backward()
    found = {name: weight.grad.clone() for name, weight in layer.named_parameters()}
    return {
        **{"outputs": outputs.detach(), "last": last.detach()},
        **{"d inputs": inputs.grad, "d state": state.grad, **found},
    }


def loss_of(outputs: Tensor, last: Tensor, last_too: bool) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    loss = (outputs.double() * weights).sum()
    if last_too:
        weights = torch.randn(last.shape, generator=generator, dtype=torch.float64)
        loss = loss + (last.double() * weights).sum()
    return loss


def wanted(layer: Layer, inputs: Tensor, state: Tensor, last_too: bool = True) -> dict[str, Tensor]:
    """Return the expected ``results`` by the equations in float64."""
    named = {name: one.double().requires_grad_() for name, one in layer.state_dict().items()}
    inputs, state = (one.detach().double().requires_grad_() for one in (inputs, state))
    outputs, last = textbook(named, inputs, state)
    loss_of(outputs, last, last_too).backward()
    stacked = {
        "W_x": torch.cat([named[f"W_x{gate}"].grad.T for gate in "hzr"]),
        "W_h": torch.cat([named[f"W_h{gate}"].grad.T for gate in "zrh"]),
        "b": torch.cat([named[f"b_{gate}"].grad for gate in "hzr"]),
    }
    if "b_hh" in named:
        stacked["b_hh"] = named["b_hh"].grad
    return {
        **{"outputs": outputs.detach(), "last": last.detach()},
        **{"d inputs": inputs.grad, "d state": state.grad, **stacked},
    }


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Assert that the mean square errors are small relative to the values, or to 1."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        error = (found[name].double() - value).square().mean().sqrt()
        size = value.square().mean().sqrt().clamp(min=0.3)
        assert error <= tolerance * size, f"{name}: error {error:.2g}, root mean square {size:.2g}"


def draw(I: int, H: int, B: int, T: int, dtype: torch.dtype = torch.float32):  # noqa: E741
    return torch.randn(T, B, I, dtype=dtype), torch.randn(B, H, dtype=dtype)


@settings(max_examples=40, deadline=None)
@given(
    I=st.integers(1, 20),
    H=st.integers(1, 40),
    B=st.integers(1, 90),
    T=st.integers(1, 6),
    reset=st.sampled_from(RESETS),
    last_too=st.booleans(),
    seed=st.integers(0, 1000),
)
@pytest.mark.parametrize("bf16, tolerance", [(False, 1e-5), (True, 0.05)])
def test_layer_matches_equations_and_gradients(
    bf16,
    tolerance,
    I,  # noqa: E741
    H,
    B,
    T,
    reset,
    last_too,
    seed,
):
    torch.manual_seed(seed)
    layer, (inputs, state) = layer_of(I, H, reset), draw(I, H, B, T)
    found = results(layer, inputs, state, bf16, last_too)
    assert_close(found, wanted(layer, inputs, state, last_too), tolerance)


@each_reset
@pytest.mark.parametrize("B", [1, 3])
def test_gradients_match_finite_differences(B, reset):
    torch.manual_seed(0)
    layer = layer_of(2, 3, reset, torch.float64)
    names = [name for name, _ in layer.named_parameters()]
    inputs, state = (one.requires_grad_() for one in draw(2, 3, B, 3, torch.float64))

    def run(inputs, state, *values):
        weights = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, weights, (inputs, state))

    assert torch.autograd.gradcheck(run, (inputs, state, *layer.parameters()))


@if_bfloat16
@each_reset
def test_bfloat16_error_is_from_rounding_of_factors(reset):
    """At 256 units and 64 sequences, each factor is rounded by at most 2**-9 of its value."""
    torch.manual_seed(0)
    layer, (inputs, state) = layer_of(64, 256, reset), draw(64, 256, 64, 16)
    expected = wanted(layer, inputs, state)
    assert_close(results(layer, inputs, state, bf16=True), expected, 0.01)
    with pytest.raises(AssertionError):
        assert_close(results(layer, inputs, state, bf16=True), expected, 1e-4)


@if_bfloat16
@each_reset
def test_state_products_are_float32_without_instruction(reset, monkeypatch):
    torch.manual_seed(0)
    inputs, state = draw(8, 40, 20, 5)
    layer = layer_of(8, 40, reset)
    short = results(layer, inputs, state, bf16=True)
    monkeypatch.setattr(tiles, "has_bfloat16_products", lambda: False)
    layer._pool.clear()
    long = results(layer, inputs, state, bf16=True)
    assert long["outputs"].dtype == torch.bfloat16
    assert_close(long, wanted(layer, inputs, state), 0.02)
    assert not torch.equal(long["last"], short["last"])
    with torch.no_grad():  # inputs have no effect, so no product with them is rounded
        layer.W_x.zero_()
    layer._pool.clear()
    exact = textbook(
        {k: v.double() for k, v in layer.state_dict().items()}, inputs.double(), state.double()
    )[1]
    torch.testing.assert_close(
        results(layer, inputs, state, bf16=True)["last"].double(), exact, rtol=1e-5, atol=1e-5
    )


@each_reset
@pytest.mark.parametrize("bf16", [False, True])
def test_results_do_not_depend_on_threads(bf16, reset):
    torch.manual_seed(0)
    layer, (inputs, state) = layer_of(8, 24, reset), draw(8, 24, 90, 7)
    found = []
    for number in (1, 2, 4):
        torch.set_num_threads(number)
        found.append(results(layer, inputs, state, bf16))
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(other[name], value), name


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("embedding", [None, 6])
def test_trained_weights_do_not_depend_on_threads_of_the_loops(bf16, embedding):
    """Of a whole model with its output layer, while torch itself has one thread."""
    torch.set_num_threads(1)
    text = torch.tensor([0, 1, 2, 0, 3, 4, 5, 4, 6]).repeat(500)[:4300]
    found = []
    for number in (1, 2, 4):
        torch.manual_seed(0)
        model = build_model("fused", 7, hidden_size=24, embedding_size=embedding)
        trainer = Trainer(
            model, torch.optim.SGD(model.parameters(), 1.0), 1.0, "bf16" if bf16 else "fp32"
        )
        set_loop_threads(number)
        try:
            trainer.train_epoch(sequential_minibatches(text, 70, 12, 0), carry_state=True)
        finally:
            set_loop_threads(1)
        found.append({name: value.clone() for name, value in model.state_dict().items()})
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(other[name], value), name


def test_bfloat16_training_follows_float32():
    """A language model of 64 units learns a periodic text. The losses stay within 0.02."""
    text = torch.tensor([0, 1, 2, 0, 3, 4, 5, 4, 6]).repeat(60)[:512].view(8, 64)
    reached = {}
    for bf16 in (False, True):
        torch.manual_seed(0)
        layer, output = layer_of(7, 64, "before"), torch.nn.Linear(64, 7)
        optimizer = torch.optim.Adam([*layer.parameters(), *output.parameters()], 0.01)
        losses = []
        for _ in range(30):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                X = F.one_hot(text[:, :-1].T, 7).float()
                logits = output(layer(X, torch.zeros(8, 64))[0])
            loss = F.cross_entropy(logits.float().flatten(0, 1), text[:, 1:].T.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        reached[bf16] = losses
    assert reached[False][-1] < 0.3 * reached[False][0]
    assert reached[True] != reached[False]
    assert reached[True] == pytest.approx(reached[False], abs=0.02)


@each_reset
def test_one_hot_inputs_give_states_of_model(reset):
    torch.manual_seed(0)
    model, layer = FusedGRU(6, 16, reset), Layer(6, 16, reset=reset)
    weights = {name: one for name, one in model.state_dict().items() if name[-1] != "q"}
    layer.load_state_dict(weights)
    tokens, state = torch.randint(6, (4, 9)), torch.randn(4, 16)
    outputs, last = layer(F.one_hot(tokens.T, 6).float(), state)
    logits, wanted_last = model(tokens, state)
    torch.testing.assert_close(last, wanted_last)
    torch.testing.assert_close(outputs @ model.W_q.T + model.b_q, logits)


@each_reset
def test_initial_weights_and_names_match_scratch(reset):
    torch.manual_seed(3)
    scratch = ScratchGRU(5, 8, reset).state_dict()
    torch.manual_seed(3)
    layer = Layer(5, 8, reset=reset)
    weights = layer.textbook_weights()
    assert weights.keys() == scratch.keys() - {"W_hq", "b_q"}
    assert all(torch.equal(weights[name], scratch[name]) for name in weights)
    other = Layer(5, 8, reset=reset)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.W_h, layer.W_h)
    assert layer.state_size == 8


def test_recurrent_dropout_has_one_mask_per_call():
    torch.manual_seed(0)
    layer, (inputs, state) = Layer(4, 16, recurrent_dropout=0.5), draw(4, 16, 3, 6)
    torch.manual_seed(1)
    outputs, _ = layer(inputs, state)
    outputs.sum().backward()
    torch.manual_seed(1)
    W_h = F.dropout(layer.W_h.detach(), 0.5)
    plain = Layer(4, 16)
    with torch.no_grad():
        for mine, other in zip(plain.parameters(), layer.parameters(), strict=True):
            mine.copy_(other)
        plain.W_h.copy_(W_h)
    expected, _ = plain(inputs, state)
    expected.sum().backward()
    assert torch.equal(outputs, expected)
    assert 0.3 < (W_h == 0).float().mean() < 0.7
    assert torch.equal(layer.W_h.grad, F.dropout(plain.W_h.grad, 0) * (W_h != 0) * 2)
    plain.load_state_dict(layer.eval().state_dict())
    assert torch.equal(layer(inputs, state)[0], plain(inputs, state)[0])


@pytest.mark.parametrize("B", [1, 3])
def test_next_call_does_not_overwrite_outputs(B):
    torch.manual_seed(0)
    layer, (inputs, state) = layer_of(4, 8, "before"), draw(4, 8, B, 5)
    with torch.no_grad():
        outputs, _ = layer(inputs, state)
        before = outputs.clone()
        layer(inputs + 1, state)
    assert torch.equal(outputs, before)


def test_in_place_change_of_outputs_is_refused():
    layer, (inputs, state) = Layer(4, 8), draw(4, 8, 3, 5)
    outputs, _ = layer(inputs.requires_grad_(), state)
    with pytest.raises(RuntimeError, match=r"in.?place"):
        outputs.mul_(2).sum().backward()


def test_stacked_layers_share_no_memory():
    """The gradients through two layers are correct after another forward pass."""
    torch.manual_seed(0)
    first, second = layer_of(4, 8, "before"), layer_of(8, 8, "after")
    inputs, state = draw(4, 8, 5, 6)
    inputs.requires_grad_()
    outputs = second(first(inputs, state)[0], state)[0]
    second(first(inputs + 1, state)[0], state)
    (found,) = torch.autograd.grad(outputs.square().sum(), inputs)
    named = [{k: v.double() for k, v in one.state_dict().items()} for one in (first, second)]
    exact = inputs.detach().double().requires_grad_()
    expected = textbook(named[1], textbook(named[0], exact, state.double())[0], state.double())[0]
    (wanted_,) = torch.autograd.grad(expected.square().sum(), exact)
    torch.testing.assert_close(found.double(), wanted_, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"recurrent_dropout": 1.0}, "recurrent_dropout = 1.0"),
        ({"reset": "later"}, "reset = 'later'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Layer(**{"input_size": 3, "hidden_size": 4, **options})


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=if_bfloat16)])
def test_nan_reaches_outputs(bf16):
    layer, (inputs, state) = Layer(4, 16), draw(4, 16, 4, 3)
    inputs[1, 2, 0] = torch.nan
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        outputs, last = layer(inputs, state)
    assert outputs[1:, 2].isnan().all() and last[2].isnan().all()
    assert not outputs[:, 3].isnan().any()


@if_bfloat16
def test_bfloat16_rounding_matches_torch():
    x = torch.cat([torch.randn(1000) * 10.0**k for k in range(-38, 38, 4)])
    x = torch.cat([x, torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 3.4e38, 1 + 2**-8])])
    bits = [tiles.bfloat16(one) & 0xFFFF for one in x.numpy()]
    assert bits == (x.bfloat16().view(torch.int16).int() & 0xFFFF).tolist()
    assert fused_cpu.array_of(x.bfloat16()).dtype == "int16"
