"""Stacks of layers with embeddings, dropout and tied weights, against simple definitions."""

from __future__ import annotations

import importlib
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stacked import KINDS, each_kind, gru_layer_numpy, reset_of
from torch import Tensor, nn

from gru_lm.core.errors import DamagedFile, UserError
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.export.check import (
    freshly_initialised,
    largest_differences,
    open_session,
    require_agreement,
    to_onnx,
)
from gru_lm.models.base import LanguageModel, build_model, load_model
from gru_lm.models.gates import Intervention
from gru_lm.models.layer import Layer
from gru_lm.models.settings import Architecture
from gru_lm.models.stack import Stack
from gru_lm.models.stepper import ForwardStepper

V, E, H, B, T = 6, 4, 5, 3, 7
VOCABULARY = Vocabulary(("<unk>", *"abcde"))
SOME_DROPOUT = {"embedding": 0.2, "between": 0.3, "output": 0.4, "recurrent": 0.1}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "two layers": {"num_layers": 2},
    "embedding": {"embedding_size": E},
    "three layers, embedding": {"num_layers": 3, "embedding_size": E, "dropout": SOME_DROPOUT},
    "two layers, tied": {"num_layers": 2, "embedding_size": H, "tie_weights": True},
}
each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def random_stack(kind: str, seed: int = 3, **architecture: Any) -> Stack:
    """Return a stack in training mode with weights large enough that all of them matter."""
    variant, options = KINDS[kind]
    torch.manual_seed(seed)
    model = build_model(variant, V, **{"hidden_size": H} | architecture, **options)
    assert isinstance(model, Stack)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.6)
    return model


def inputs(model: LanguageModel) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(V, (B, T), generator=generator)
    state = torch.rand(B, model.state_size, generator=generator) - 0.5
    return tokens, state.to(next(model.parameters()).dtype)


# ------------------------------------------------------------------------------- the function


@each_kind
def test_one_layer_matches_own_model(kind):
    variant, options = KINDS[kind]
    own = build_model(variant, V, hidden_size=H, **options)
    with torch.no_grad():
        for weight in own.parameters():
            weight.normal_(0, 0.6)
    stack = Stack(variant, V, Architecture(hidden_size=H), **options)
    weights = own.textbook_weights()
    with torch.no_grad():
        stack.W_q.copy_(weights.pop("W_hq").T)
        stack.b_q.copy_(weights.pop("b_q"))
    stack.layers[0].load_textbook_weights(weights)
    assert stack.state_size == own.state_size
    for mine, theirs in zip(stack(*inputs(own)), own(*inputs(own)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


@each_kind
@each_architecture
def test_matches_chain_of_equations(kind, name):
    model = random_stack(kind, **ARCHITECTURES[name]).double().eval()
    tokens, state = inputs(model)
    logits, last = model(tokens, state)
    w = {key: weight.detach().numpy() for key, weight in model.named_parameters()}
    x, lasts = (w["W_e"] if "W_e" in w else np.eye(V))[tokens.T], []
    for layer, old in zip(model.layers, np.split(state.numpy(), len(model.layers), 1), strict=True):
        x, end = gru_layer_numpy(layer.textbook_weights(), x, old, reset_of(kind))
        lasts.append(end)
    expected = x @ w["W_e" if "tied" in name else "W_q"].T + w["b_q"]
    assert (logits.shape, last.shape) == ((T, B, V), (B, model.state_size))
    np.testing.assert_allclose(logits.detach(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(last.detach(), np.concatenate(lasts, 1), rtol=0, atol=1e-12)


def test_two_layers_of_concise_match_nn_gru():
    model = random_stack("concise", num_layers=2, embedding_size=E).eval()
    gru = nn.GRU(E, H, num_layers=2)
    gru.load_state_dict(
        {
            name.replace("l0", f"l{number}"): weight
            for number, layer in enumerate(model.layers)
            for name, weight in layer.gru.state_dict().items()
        }
    )
    tokens, state = inputs(model)
    outputs, last = gru(F.embedding(tokens.T, model.W_e), state.view(B, 2, H).transpose(0, 1))
    expected = F.linear(outputs, model.W_q, model.b_q)
    logits, end = model(tokens, state)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(end, last.transpose(0, 1).flatten(1))


@each_kind
@each_architecture
def test_split_sequence_gives_same_result(kind, name):
    model = random_stack(kind, **ARCHITECTURES[name]).double().eval()
    tokens, state = inputs(model)
    whole, last = model(tokens, state)
    first, middle = model(tokens[:, :3], state)
    second, end = model(tokens[:, 3:], middle)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(end, last)


@each_kind
@each_architecture
def test_every_weight_has_a_gradient(kind, name):
    model = random_stack(kind, **ARCHITECTURES[name]).eval()
    tokens, state = inputs(model)
    model(tokens, state)[0].square().sum().backward()
    assert all(weight.grad.count_nonzero() > 0 for weight in model.parameters())


def test_bfloat16_state_passes_all_layers():
    model = random_stack("concise", **ARCHITECTURES["three layers, embedding"])
    with torch.autocast("cpu", torch.bfloat16):
        logits, last = model(*inputs(model))
    assert logits.dtype == last.dtype == torch.bfloat16
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(*inputs(model))[0]
    torch.testing.assert_close(rough.float(), model(*inputs(model))[0], rtol=0, atol=0.1)


# ---------------------------------------------------------------- sampling, export and gates


@each_kind
@each_architecture
def test_stepper_onnx_and_gates_match_eval_mode(kind, name):
    model = random_stack(kind, **ARCHITECTURES[name])
    assert model.training
    stepper, data, gates = model.stepper(), to_onnx(model, VOCABULARY), model.gates()
    model.eval()
    tokens, state = inputs(model)
    with torch.no_grad():
        logits, last = model(tokens, state)
        alone, _ = model(tokens[:1], model.begin_state(1))

    for token, expected in zip(tokens[0].tolist(), alone[:, 0], strict=True):
        stepper.feed(token)
        np.testing.assert_allclose(stepper.logits(), expected, rtol=0, atol=5e-6)
    with pytest.raises(ValueError, match=f"0 to {V - 1}"):
        stepper.feed(V)

    feed = {"tokens": tokens.numpy(), "state": state.numpy()}
    onnx_logits, onnx_last = open_session(data).run(["logits", "next_state"], feed)
    np.testing.assert_allclose(onnx_logits, logits.transpose(0, 1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(onnx_last, last, rtol=0, atol=1e-5)
    assert data == to_onnx(model, VOCABULARY)

    assert model.has_gates()
    steps = list(gates.steps(tokens, state))
    assert all(gate.shape == state.shape for Z, R, _ in steps for gate in (Z, R))
    states = torch.stack([new for _, _, new in steps])
    torch.testing.assert_close(gates.logits(states), logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(gates.last_state(tokens, state), last, rtol=0, atol=1e-5)
    assert torch.equal(gates.begin_state(B), model.begin_state(B))


def test_onnx_has_one_operator_per_layer_and_tied_weights_once():
    graph = random_stack("concise", **ARCHITECTURES["two layers, tied"]).onnx_graph().graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("GRU") == 2 and operators.count("Gather") == 1
    assert "OneHot" not in operators
    shapes = [tuple(constant.dims) for constant in graph.initializer]
    assert shapes.count((V, H)) == 1 and (H, V) not in shapes


def test_interventions_act_per_layer():
    """A layer's gates move towards their own values, and a layer above reads the new state."""
    model = random_stack("scratch-before", num_layers=2).double().eval()
    gates = model.gates()
    tokens, state = inputs(model)
    value = torch.linspace(0, 1, 2 * H, dtype=torch.float64)
    dose = torch.linspace(1, 0, 2 * H, dtype=torch.float64)
    held = Intervention("Z", value, dose)
    for (Z, _, _), (Z_held, _, _) in zip(
        gates.steps(tokens[:, :1], state), gates.steps(tokens[:, :1], state, held), strict=True
    ):
        torch.testing.assert_close(Z_held[:, :H], (Z + dose * (value - Z))[:, :H])
        assert not torch.equal(Z_held[:, H:], Z[:, H:]), "layer 2 does not read the new state"
    first_alone = Intervention("Z", value, (torch.arange(2 * H) < H).double())
    second_alone = Intervention("Z", value, (torch.arange(2 * H) >= H).double())
    (_, _, new), *_ = gates.steps(tokens[:, :1], state, second_alone)
    (_, _, plain), *_ = gates.steps(tokens[:, :1], state)
    assert torch.equal(new[:, :H], plain[:, :H]) and not torch.equal(new[:, H:], plain[:, H:])
    (Z, _, new), *_ = gates.steps(tokens[:, :1], state, first_alone)
    assert torch.equal(Z[0, :H], value[:H]) and not torch.equal(new[:, :H], plain[:, :H])


class LSTMLayer(Layer):
    """A layer that is not a GRU and whose state has two parts."""

    def __init__(self, input_size: int, hidden_size: int, recurrent_dropout: float = 0.0) -> None:
        super().__init__(input_size, hidden_size, recurrent_dropout)
        self.lstm = nn.LSTM(input_size, hidden_size)

    @property
    def state_size(self) -> int:
        return 2 * self.hidden_size

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, c = (part.contiguous() for part in state[None].chunk(2, dim=-1))
        outputs, (h, c) = self.lstm(inputs, (h, c))
        return outputs, torch.cat([h[0], c[0]], dim=1)


def test_other_layers_use_general_forms(monkeypatch):
    monkeypatch.setattr("gru_lm.models.concise.recurrent.Layer", LSTMLayer)
    architecture = {"num_layers": 2, "embedding_size": E, "dropout": {"output": 0.5}}
    model = random_stack("concise", **architecture)
    assert model.state_size == 4 * H
    assert model.gates() is None and not model.has_gates()
    stepper, data = model.stepper(), to_onnx(model, VOCABULARY)
    assert isinstance(stepper, ForwardStepper)
    model.eval()
    tokens = torch.randint(V, (30,), generator=torch.Generator().manual_seed(1))
    require_agreement(largest_differences(model, data, tokens, 7))
    with torch.no_grad():
        expected, _ = model(tokens[None], model.begin_state(1))
    for token, logits in zip(tokens.tolist(), expected[:, 0], strict=True):
        stepper.feed(token)
        np.testing.assert_allclose(stepper.logits(), logits, rtol=0, atol=1e-5)
    with pytest.raises(TypeError, match="no GRUs"):
        model.textbook_weights()
    with pytest.raises(UserError, match=r"^model\.init needs layers with the weights of a GRU"):
        build_model("concise", V, hidden_size=H, init={"update_bias": 1.0})


# --------------------------------------------------------------------------------- dropout


def captured(model: Stack, tokens: Tensor) -> list[Tensor]:
    """Return embeddings, each layer's inputs and outputs, and the output layer's inputs."""
    seen: list[Tensor] = [model.W_e[tokens.T].detach()]
    hooks = [
        layer.register_forward_hook(lambda _, given, got: seen.extend([given[0], got[0]]))
        for layer in model.layers
    ]
    logits, _ = model(tokens, model.begin_state(len(tokens)))
    seen.append(logits)  # W_q is the identity, b_q is zero
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("same_mask", [False, True])
@pytest.mark.parametrize("site", ["embedding", "between", "output"])
def test_dropout(site, same_mask):
    rate, size = 0.3, 40
    dropout = {site: rate, "same_mask": same_mask}
    torch.manual_seed(0)
    model = build_model(
        *("concise", size), hidden_size=size, num_layers=2, embedding_size=size, dropout=dropout
    )
    assert isinstance(model, Stack) and model.has_dropout
    with torch.no_grad():
        model.W_q.copy_(torch.eye(size))
        model.b_q.zero_()
    tokens = torch.randint(size, (8, 15))
    with torch.no_grad():
        seen, again = captured(model, tokens), captured(model, tokens)
        plain = captured(model.eval(), tokens)
    # The input and the output of each place with dropout.
    places = dict(zip(("embedding", "between", "output"), range(0, 6, 2), strict=True))
    for name, place in places.items():
        before, after = seen[place : place + 2]
        factor = after / before
        if name != site:
            torch.testing.assert_close(after, before)
            continue
        zero, scaled = factor == 0, torch.isclose(factor, torch.tensor(1 / (1 - rate)))
        assert (zero | scaled).all()
        drawn = zero[:1] if same_mask else zero
        assert drawn.double().mean() == pytest.approx(rate, abs=0.1 if same_mask else 0.03)
        assert torch.equal(zero, zero[:1].expand_as(zero)) == same_mask
        assert not torch.equal(zero[:, 0], zero[:, 1]), "sequences have the same mask"
        other = again[place + 1] / again[place] == 0
        assert not torch.equal(zero, other), "minibatches have the same mask"
    for place in places.values():
        torch.testing.assert_close(plain[place], plain[place + 1])


@each_kind
def test_recurrent_dropout_only_in_training(kind):
    model = random_stack(kind, dropout={"recurrent": 0.5})
    assert model.has_dropout
    tokens, state = inputs(model)
    assert not torch.equal(model(tokens, state)[0], model(tokens, state)[0])
    model.eval()
    assert torch.equal(model(tokens, state)[0], model(tokens, state)[0])
    assert all(layer.recurrent_dropout == 0.5 for layer in model.layers)


def test_models_without_dropout_draw_nothing():
    for model in (random_stack("concise", num_layers=2), build_model("concise", V, hidden_size=H)):
        assert not model.has_dropout
        before = torch.get_rng_state()
        model(*inputs(model))
        assert torch.equal(torch.get_rng_state(), before)


# --------------------------------------------------------------------------- initial weights


def fresh(kind: str, seed: int = 7, hidden_size: int = 32, **architecture: Any) -> Stack:
    variant, options = KINDS[kind]
    torch.manual_seed(seed)
    model = build_model(variant, 20, hidden_size=hidden_size, **architecture, **options)
    assert isinstance(model, Stack)
    return model


@each_kind
@pytest.mark.parametrize("weights", ["default", "normal", "torch"])
@pytest.mark.parametrize("tied", [False, True])
def test_initial_weights(kind, weights, tied):
    size = 32
    model = fresh(
        *(kind,), num_layers=2, embedding_size=size, tie_weights=tied, init={"weights": weights}
    )
    if weights == "default":
        weights = "torch" if kind == "concise" else "normal"
    named = [item for layer in model.layers for item in layer.textbook_weights().items()]
    named.append(("W_q", model.W_e if tied else model.W_q))
    named.append(("b_q", model.b_q))
    bound = 1 / math.sqrt(size)
    for name, parameter in named:
        weight = parameter.detach()
        if weights == "normal":
            assert weight.std() == pytest.approx(0.01 if name[0] == "W" else 0, rel=0.2), name
        elif name[0] == "W":
            assert 0.9 * bound < weight.abs().max() <= bound, name
            assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.1), name
        else:  # two biases are added in nn.GRU
            assert 0.7 * bound < weight.abs().max() <= 2 * bound, name
    if not tied:
        assert model.W_e.detach().std() == pytest.approx(1, rel=0.1)


@each_kind
def test_orthogonal_weights_and_update_bias(kind):
    plain = fresh(kind, num_layers=2, init={"weights": "torch"})
    init = {"weights": "torch", "recurrent": "orthogonal", "update_bias": 9.0}
    model = fresh(kind, num_layers=2, init=init)
    for layer in model.layers:
        weights = layer.textbook_weights()
        for gate in "zrh":
            W = weights[f"W_h{gate}"]
            torch.testing.assert_close(W.T @ W, torch.eye(len(W)), rtol=0, atol=1e-5)
        assert not torch.equal(weights["W_hz"], weights["W_hr"])
        bound = 1 / math.sqrt(model.hidden_size)
        assert ((weights["b_z"] - 9).abs() <= 2 * bound + 1e-6).all()
        assert (weights["b_r"].abs() <= 2 * bound).all()
    tokens = torch.randint(20, (B, 5))
    state = torch.rand(B, model.state_size) - 0.5
    change = [(one(tokens, state)[1] - state).abs().mean().item() for one in (model, plain)]
    assert change[0] < 0.01 < 0.1 < change[1]


def test_scratch_and_fused_start_equal():
    if "fused-before" not in KINDS:
        pytest.skip("fused has no layer to stack")
    options = {"num_layers": 2, "embedding_size": E, "init": {"recurrent": "orthogonal"}}
    one, other = (fresh(f"{name}-before", **options).state_dict() for name in ("scratch", "fused"))
    assert list(one) == list(other)
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=0, atol=1e-6)


# ------------------------------------------------------------------ settings, files and errors


@pytest.mark.parametrize(
    "defaults",
    [
        {},
        {"num_layers": 1, "embedding_size": None, "tie_weights": False},
        {"dropout": {}, "init": {}},
        {"dropout": {"output": 0.0, "same_mask": False}, "init": {"update_bias": 0.0}},
    ],
)
def test_defaults_give_own_model(defaults, tmp_path):
    torch.manual_seed(1)
    expected = importlib.import_module("gru_lm.models.scratch.model").Model(V, H, reset="after")
    torch.manual_seed(1)
    model = build_model("scratch", V, hidden_size=H, reset="after", **defaults)
    assert type(model) is type(expected)
    for name, folder in (("mine", model), ("theirs", expected)):
        folder.save(tmp_path / name, "f" * 64)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "mine" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()
    saved = json.loads((tmp_path / "mine/config.json").read_text("utf-8"))
    assert list(saved)[:4] == ["variant", "vocab_size", "hidden_size", "reset"]


@each_kind
@each_architecture
def test_saved_stack_loads_exactly(kind, name, tmp_path):
    model = random_stack(kind, **ARCHITECTURES[name])
    model.save(tmp_path, "f" * 64)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["num_layers"] == len(model.layers)
    assert config["variant"] == KINDS[kind][0]
    assert set(Architecture.model_fields) < set(config), "a setting is not saved"
    loaded = load_model(tmp_path, "f" * 64)
    assert isinstance(loaded, Stack) and not loaded.training
    assert loaded.options == model.options and loaded.variant == model.variant
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    for one, other in zip(model.eval()(*inputs(model)), loaded(*inputs(model)), strict=True):
        assert torch.equal(one, other)
    again = freshly_initialised(loaded)
    assert isinstance(again, Stack) and not again.training
    assert list(again.state_dict()) == list(mine)


def test_tied_weights_count_once(tmp_path):
    size = 3 * (E * H + H * H + H)
    count = {
        tied: sum(
            weight.numel()
            for weight in random_stack(
                "scratch-before", hidden_size=H, embedding_size=H, tie_weights=tied
            ).parameters()
        )
        for tied in (False, True)
    }
    assert count[True] == 3 * (H * H + H * H + H) + V * H + V
    assert count[False] == count[True] + V * H
    model = random_stack("scratch-before", embedding_size=E)
    assert sum(weight.numel() for weight in model.parameters()) == size + V * E + V * H + V
    tied = random_stack("scratch-before", embedding_size=H, tie_weights=True)
    tied.save(tmp_path, "f" * 64)
    assert "W_q" not in tied.state_dict()
    assert (tmp_path / "model.safetensors").stat().st_size < 4 * count[True] + 1500


@pytest.mark.parametrize(
    "change, named",
    [
        ({"num_layers": 0}, "num_layers = 0"),
        ({"embedding_size": "4"}, "embedding_size = '4'"),
        ({"dropout": {"output": 1.0}}, "dropout.output = 1.0"),
        ({"dropout": {"inputs": 0.5}}, "dropout.inputs"),
        ({"init": {"weights": "xavier"}}, "init.weights = 'xavier'"),
        ({"tie_weights": True}, "tie_weights"),
        ({"hidden_size": 0}, "hidden_size = 0"),
    ],
)
def test_damaged_configuration_is_refused(change, named, tmp_path):
    random_stack("concise", num_layers=2, embedding_size=E).save(tmp_path, "f" * 64)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(DamagedFile, match=named) as caught:
        load_model(tmp_path, "f" * 64)
    assert len(str(caught.value).splitlines()) == 1


def test_variant_without_layer_is_refused():
    Architecture(hidden_size=H).require_layer("lstm")
    for settings, key in (
        ({"num_layers": 2}, r"model\.num_layers = 2"),
        ({"embedding_size": 8}, r"model\.embedding_size = 8"),
        ({"dropout": {"output": 0.5}}, r"model\.dropout\.output = 0\.5"),
        ({"init": {"recurrent": "orthogonal"}}, r"model\.init\.recurrent = orthogonal"),
    ):
        with pytest.raises(UserError, match=f"^{key}: lstm has no layer") as caught:
            Architecture.model_validate({"hidden_size": H, **settings}).require_layer("lstm")
        assert len(str(caught.value).splitlines()) == 1
