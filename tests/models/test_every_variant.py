"""Tests that every variant must pass. Each folder in models/ is a variant.

A variant is built with small sizes and its options in params.yaml.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from trainings import train_settings

from gru_lm.core.errors import UnusableFile
from gru_lm.core.params import load_params
from gru_lm.core.variants import Variant, known_variants
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.perplexity import evaluate
from gru_lm.export.check import largest_differences, open_session, require_agreement, to_onnx
from gru_lm.generation.sampling import generate
from gru_lm.models.base import LanguageModel, build_model, load_model
from gru_lm.models.settings import ModelSettings
from gru_lm.training.loop import Training
from gru_lm.training.state import restore, to_tensors
from gru_lm.training.trainer import Trainer

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
V, H, B, T = 6, 5, 3, 7
VOCABULARY = Vocabulary(("<unk>", *"abcde"))

each_variant = pytest.mark.parametrize("variant", known_variants())


def small(variant: Variant, seed: int = 0, scale: float = 0.7) -> LanguageModel:
    """Return a small model with weights large enough that all of them matter."""
    options = load_params(ModelSettings, PARAMS).model.options(variant)
    torch.manual_seed(seed)
    model = build_model(variant, V, **options | {"hidden_size": H})
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, scale)
    return model


def inputs(model: LanguageModel) -> tuple[Tensor, Tensor]:
    """Return tokens (B, T) and a state after some tokens."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(V, (B, T + 4), generator=generator)
    with torch.no_grad():
        _, state = model(tokens[:, T:], model.begin_state(B))
    return tokens[:, :T], state


@each_variant
def test_settings_describe_variant(variant):
    about = importlib.import_module(f"gru_lm.models.{variant}.settings")
    assert about.LABEL and about.DESCRIPTION
    assert about.TEXTBOOK_PERPLEXITY is None or about.TEXTBOOK_PERPLEXITY >= 1
    assert small(variant).variant == variant


@each_variant
def test_shapes(variant):
    model = small(variant)
    start = model.begin_state(B)
    assert start.shape == (B, model.state_size)
    tokens, state = inputs(model)
    logits, last = model(tokens, state)
    assert logits.shape == (T, B, V)
    assert last.shape == state.shape == start.shape
    assert logits.dtype == last.dtype == start.dtype == torch.float32


@each_variant
def test_same_seed_gives_same_initial_weights(variant):
    options = load_params(ModelSettings, PARAMS).model.options(variant)
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build_model(variant, V, **options).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


@each_variant
def test_split_sequence_gives_same_result(variant):
    model = small(variant).double()
    tokens, state = inputs(model)
    whole, last = model(tokens, state)
    first, middle = model(tokens[:, :3], state)
    second, end = model(tokens[:, 3:], middle)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(end, last)
    from_nothing, _ = model(tokens, model.begin_state(B))
    assert (from_nothing - whole).abs().max() > 1e-4, "the state has no effect"


@each_variant
def test_prediction_depends_on_earlier_tokens_only(variant):
    model = small(variant)
    tokens, state = inputs(model)
    other = tokens.clone()
    other[:, 4] = (other[:, 4] + 1) % V
    mine, theirs = model(tokens, state)[0], model(other, state)[0]
    torch.testing.assert_close(mine[:4], theirs[:4])
    assert all((mine[step] - theirs[step]).abs().max() > 1e-6 for step in (4, 5))


@each_variant
def test_sequences_do_not_depend_on_each_other(variant):
    model = small(variant)
    tokens, state = inputs(model)
    logits, last = model(tokens, state)
    for row in range(B):
        alone, end = model(tokens[row : row + 1], state[row : row + 1])
        torch.testing.assert_close(alone[:, 0], logits[:, row], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(end[0], last[row], rtol=1e-5, atol=1e-5)


@each_variant
def test_weights_and_state_have_gradients(variant):
    model = small(variant).double()
    tokens, state = inputs(model)
    state = state.detach().requires_grad_()
    logits, last = model(tokens, state)
    (F.cross_entropy(logits.flatten(0, 1), tokens.T.flatten()) + last.square().sum()).backward()
    for name, weight in [*model.named_parameters(), ("state", state)]:
        assert weight.grad is not None and weight.grad.isfinite().all(), name
        assert weight.grad.count_nonzero() > 0, name


@each_variant
def test_gradients_match_finite_differences(variant):
    model = small(variant).double()
    tokens, state = inputs(model)
    targets = tokens.flip(1).T.flatten()

    def loss() -> Tensor:
        return F.cross_entropy(model(tokens, state)[0].flatten(0, 1), targets)

    loss().backward()
    generator = torch.Generator().manual_seed(2)
    for name, weight in model.named_parameters():
        direction = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        rises = []
        with torch.no_grad():
            for step in (1e-5, -1e-5):
                weight += step * direction
                rises.append(loss().item())
                weight -= step * direction
        assert weight.grad is not None
        slope = (weight.grad * direction).sum().item()
        assert (rises[0] - rises[1]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-8), name


@each_variant
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_lowers_perplexity(variant, precision):
    model = small(variant, scale=0.3)
    tokens = torch.tensor([0, 1, 2, 0, 3, 4, 5, 4]).repeat(8, 5)
    trainer = Trainer(model, torch.optim.Adam(model.parameters(), 0.02), 1.0, precision)
    minibatch = (tokens[:, :-1], tokens[:, 1:])
    reached = [trainer.train_epoch([minibatch] * 2, carry_state=True)[0] for _ in range(30)]
    assert reached[-1] < 0.8 * reached[0]
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@each_variant
def test_training_after_evaluation(variant):
    """Tensors created in inference mode cannot be written to outside it."""
    model = small(variant)
    tokens, _ = inputs(model)
    before = evaluate(model, tokens[0])
    model(tokens[:1, :-1], model.begin_state(1))[0].sum().backward()
    assert evaluate(model, tokens[0]).nats == before.nats


@each_variant
def test_saved_model_loads_exactly(variant, tmp_path):
    model = small(variant)
    model.save(tmp_path / "model", "f" * 64)
    config = json.loads((tmp_path / "model/config.json").read_text("utf-8"))
    assert (config["variant"], config["vocab_size"], config["hidden_size"]) == (variant, V, H)
    loaded = load_model(tmp_path / "model", "f" * 64)
    assert type(loaded) is type(model)
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    for one, other in zip(model(*inputs(model)), loaded(*inputs(model)), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UnusableFile, match="another vocabulary"):
        load_model(tmp_path / "model", "0" * 64)


@each_variant
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_resumes_from_checkpoint(variant, optimizer):
    tokens = torch.randint(V, (100,), generator=torch.Generator().manual_seed(1))
    settings = train_settings(batch_size=B, num_steps=T, optimizer=optimizer, lr=0.1, epochs=2)
    first, second = (Training(small(variant, seed=seed), tokens, settings) for seed in (0, 1))
    first.advance()
    restore(second, to_tensors(first))
    for training in (first, second):
        training.advance()
    mine, theirs = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@each_variant
def test_stepper_matches_model(variant):
    model = small(variant).double()
    tokens = inputs(model)[0][0]
    with torch.no_grad():
        expected, _ = model(tokens[None], model.begin_state(1))
    stepper = model.stepper()
    for token, logits in zip(tokens.tolist(), expected[:, 0], strict=True):
        stepper.feed(token)
        assert stepper.logits().shape == (V,)
        np.testing.assert_allclose(stepper.logits(), logits, rtol=1e-10, atol=1e-10)


@each_variant
def test_text_is_generated(variant):
    model = small(variant, scale=1.5)
    text = generate(model, VOCABULARY, "abc", 40, 1.0, None, torch.Generator().manual_seed(0))
    assert text.startswith("abc")
    assert len(set(text)) > 3


@each_variant
def test_onnx_file_matches_model(variant):
    model = small(variant)
    data = to_onnx(model, VOCABULARY)
    assert data == to_onnx(model, VOCABULARY)
    tokens = torch.randint(V, (50,), generator=torch.Generator().manual_seed(1))
    for chunk in (1, 7, 50):
        require_agreement(largest_differences(model, data, tokens, chunk))
    rows, state = inputs(model)  # more than one sequence
    with torch.no_grad():
        logits, last = model(rows, state)
    names = ["logits", "next_state"]
    feed = {"tokens": rows.numpy(), "state": state.numpy()}
    onnx_logits, onnx_last = open_session(data).run(names, feed)
    np.testing.assert_allclose(onnx_logits, logits.transpose(0, 1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(onnx_last, last, rtol=0, atol=1e-5)

    file = onnx.load_from_string(data)
    assert [(opset.domain, opset.version) for opset in file.opset_import] == [("", 17)]
    metadata = {entry.key: entry.value for entry in file.metadata_props}
    assert metadata["variant"] == variant
    assert json.loads(metadata["vocabulary"]) == list(VOCABULARY.tokens)


@each_variant
def test_gates_match_model_or_are_none(variant):
    model = small(variant)
    gates = model.gates()
    assert (gates is not None) == model.has_gates()
    if gates is None:
        return
    tokens, state = inputs(model)
    with torch.no_grad():
        logits, last = model(tokens, state)
    assert gates.vocab_size == V
    assert torch.equal(gates.begin_state(B), model.begin_state(B))
    steps = list(gates.steps(tokens, state))
    for Z, R, _ in steps:
        for gate in (Z, R):
            assert gate.shape == (B, H)
            assert ((gate >= 0) & (gate <= 1)).all()
    states = torch.stack([new for _, _, new in steps])
    torch.testing.assert_close(gates.logits(states), logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gates.last_state(tokens, state), last, rtol=1e-5, atol=1e-5)
