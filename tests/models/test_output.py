"""Output layers for large vocabularies agree with torch's cross-entropy of all logits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kinds import KINDS, each_kind, random_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gru_lm.core.errors import UserError
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.export.check import largest_differences, require_agreement, to_onnx
from gru_lm.models import output
from gru_lm.models.base import UNSCORED, LanguageModel, build_model, load_model, picked_rows
from gru_lm.models.output import AdaptiveSoftmax, linear_cross_entropy
from gru_lm.training.trainer import Sums, Trainer, validate

V, H, B, T = 30, 16, 3, 7
MODULES = ("output", "base", "scratch.model")
EVERYTHING_IS_LARGE = [f"gru_lm.models.{module}.LARGE" for module in MODULES]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every size as large, and compute two rows at a time in pieces of five."""
    for name in EVERYTHING_IS_LARGE:
        monkeypatch.setattr(name, 0)
    monkeypatch.setattr(output, "PIECE", 5 * 8 * V)
    monkeypatch.setattr(output, "BLOCK", 2 * V)


def case(N: int = 17, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """Return states, matrix and biases with gradients, and targets, two of them UNSCORED."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(N, H), (V, H), (V,)]
    leaves = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    targets = torch.randint(V, (N,), generator=generator)
    targets[[3, N - 1]] = UNSCORED
    return [leaf.requires_grad_() for leaf in leaves], targets


def gradients_of(loss: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss * 0.3, leaves)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_and_gradients_match_torch(large, reduction):
    leaves, targets = case()
    mine = linear_cross_entropy(*leaves, targets, reduction)
    logits = F.linear(*leaves)
    theirs = F.cross_entropy(logits, targets, ignore_index=UNSCORED, reduction=reduction)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0)
    for left, right in zip(gradients_of(mine, leaves), gradients_of(theirs, leaves), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-14)


def test_bfloat16_products_have_float32_sums(large):
    leaves, targets = case(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = linear_cross_entropy(*leaves, targets)
        logits = F.linear(*leaves)
    exact = linear_cross_entropy(*leaves, targets)
    assert rough.dtype == torch.float32
    autocast = F.cross_entropy(logits.float(), targets, ignore_index=UNSCORED)
    torch.testing.assert_close(rough, autocast, rtol=1e-5, atol=0)  # of the same logits
    assert rough != exact
    for left, right in zip(gradients_of(rough, leaves), gradients_of(exact, leaves), strict=True):
        assert left.dtype == torch.float32
        torch.testing.assert_close(left, right, rtol=0, atol=0.02 * right.abs().max().item())


def test_huge_logits_stay_finite(large):
    leaves, targets = case(dtype=torch.float32)
    with torch.no_grad():
        leaves[1].mul_(1e6)
    mine = linear_cross_entropy(*leaves, targets)
    theirs = F.cross_entropy(F.linear(*leaves), targets, ignore_index=UNSCORED)
    torch.testing.assert_close(mine, theirs)
    assert all(gradient.isfinite().all() for gradient in gradients_of(mine, leaves))


def test_loss_without_targets_is_zero(large):
    leaves, targets = case()
    loss = linear_cross_entropy(*leaves, torch.full_like(targets, UNSCORED))
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients_of(loss, leaves))


class Sizes(TorchDispatchMode):
    """Records the largest number of elements of a result."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.largest = max(self.largest, found.numel())
        return found


@pytest.mark.parametrize("gradients", [True, False])
def test_memory_does_not_grow_with_tokens(large, gradients):
    """Nothing is larger than a piece, the states or the matrix."""
    leaves, targets = case(N=400)
    with Sizes() as sizes, torch.set_grad_enabled(gradients):
        loss = linear_cross_entropy(*leaves, targets)
        if gradients:
            loss.backward()
    assert sizes.largest <= 400 * H  # the states; all logits would be 400 V


# ---------------------------------------------------------------------------------- all models


def stack(**architecture: Any) -> LanguageModel:
    torch.manual_seed(2)
    options = {"hidden_size": H, "embedding_size": H} | architecture
    model = build_model("concise", V, **options)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
    return model


STACKS: dict[str, dict[str, Any]] = {
    "untied": {},
    "tied": {"tie_weights": True},
    "dropout": {"num_layers": 2, "dropout": {"output": 0.4, "embedding": 0.2}},
    "adaptive": {"output": "adaptive"},
}


def minibatch(model: LanguageModel) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(V, (B, T + 1), generator=generator)
    targets = tokens[:, 1:].clone()
    targets[-1, -2:] = UNSCORED
    state = torch.rand(B, model.state_size, generator=generator) - 0.5
    return tokens[:, :-1], targets, state.to(next(model.parameters()).dtype)


def loss_and_gradients(model: LanguageModel) -> dict[str, Tensor]:
    """Return loss, last state and gradients. The gradients are added to existing zeros."""
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    torch.manual_seed(3)  # of the dropout
    X, Y, state = minibatch(model)
    loss, last = model.loss(X, Y, state)
    (loss + last.sum()).backward()
    found = {name: weight.grad for name, weight in model.named_parameters()}
    assert all(gradient.layout == torch.strided for gradient in found.values())
    return found | {"loss": loss.detach(), "last": last.detach()}


def require_same_in_pieces(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = LanguageModel.loss(model, *minibatch(model))[0]
    whole = loss_and_gradients(model)
    if not model.has_dropout:
        torch.testing.assert_close(whole["loss"], wanted, rtol=1e-10, atol=0)
    for name in EVERYTHING_IS_LARGE:
        monkeypatch.setattr(name, 0)
    pieces = loss_and_gradients(model)
    for name in whole:
        torch.testing.assert_close(pieces[name], whole[name], rtol=1e-9, atol=1e-13)


@each_kind
def test_every_gru_has_the_same_loss_in_pieces(kind, monkeypatch):
    require_same_in_pieces(random_model(kind, V, H, 1).double(), monkeypatch)


@pytest.mark.parametrize("name", STACKS)
def test_every_stack_has_the_same_loss_in_pieces(name, monkeypatch):
    require_same_in_pieces(stack(**STACKS[name]).double(), monkeypatch)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_in_pieces_matches_training_at_once(name, precision, monkeypatch):
    """Two minibatches per step, clipped, and the validation after it."""

    def trained(model: LanguageModel) -> tuple[float, float]:
        sums, (X, Y, _) = Sums(torch.device("cpu")), minibatch(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        trainer = Trainer(model, optimizer, 1.0, precision, accumulate=True)
        for number in range(3):
            trainer.step([(X, Y), (Y.clamp(min=0), X)], None, False, sums, number)
        return sums.nats.item(), validate(model, torch.arange(200) % V, 4, 5)

    at_once = trained(stack(**STACKS[name]))
    for constant in EVERYTHING_IS_LARGE:
        monkeypatch.setattr(constant, 0)
    tolerance = 1e-5 if precision == "fp32" else 5e-3
    assert trained(stack(**STACKS[name])) == pytest.approx(at_once, rel=tolerance)


def test_picked_rows_are_added_to_the_gradient(large):
    weight = torch.randn(V, H, requires_grad=True)
    tokens = torch.tensor([[1, 2, 2], [0, 1, 2]])
    picked_rows(weight, tokens).square().sum().backward()
    assert weight.grad is not None and weight.grad.layout == torch.strided
    first, memory = weight.grad.clone(), weight.grad.data_ptr()
    picked_rows(weight, tokens).square().sum().backward()
    assert weight.grad.data_ptr() == memory and weight.grad.layout == torch.strided
    torch.testing.assert_close(weight.grad, 2 * first)


# ---------------------------------------------------------------------------- adaptive softmax


def adaptive_case() -> tuple[AdaptiveSoftmax, Tensor, Tensor]:
    torch.manual_seed(0)
    layer = AdaptiveSoftmax(H, V).double()
    states = torch.randn(40, H, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(V, (40,))
    targets[[0, 39]] = UNSCORED
    return layer, states, targets


def test_groups_begin_at_shares_of_the_vocabulary():
    assert AdaptiveSoftmax(64, 50_000).cutoffs == [2_500, 10_000, 50_000]
    assert [words.weight.shape for _, words in AdaptiveSoftmax(64, 1_000).tail] == [
        (150, 16),
        (800, 4),
    ]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("tokens", [range(V), range(1), range(6, V)], ids=["all", "head", "rare"])
def test_adaptive_loss_is_that_of_its_log_probabilities(large, reduction, tokens):
    layer, states, targets = adaptive_case()
    targets = torch.where(targets < 0, targets, torch.tensor(list(tokens))[targets % len(tokens)])
    mine = layer.cross_entropy(states, targets, reduction)
    log_probs = layer.log_prob(states)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(40, dtype=torch.float64))
    theirs = F.nll_loss(log_probs, targets, ignore_index=UNSCORED, reduction=reduction)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0)
    leaves = [states, *layer.parameters()]
    for left, right in zip(gradients_of(mine, leaves), gradients_of(theirs, leaves), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_adaptive_model_samples_exports_and_loads(kind, tmp_path):
    variant, options = KINDS[kind]
    torch.manual_seed(1)
    settings = {"hidden_size": H, "output": "adaptive", "init": {"weights": "torch"}}
    model = build_model(variant, V, **settings, **options).eval()
    assert model.gates() is None and not model.has_gates() and not model.has_fixed_shapes
    tokens = torch.randint(V, (12,))
    with torch.no_grad():
        logits, _ = model(tokens[None], model.begin_state(1))
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(12, 1))
    stepper = model.stepper()
    for token, expected in zip(tokens.tolist(), logits[:, 0], strict=True):
        stepper.feed(token)
        np.testing.assert_allclose(stepper.logits(), expected, rtol=0, atol=1e-5)
    vocabulary = Vocabulary(("<unk>", *map(chr, range(65, 64 + V))))
    require_agreement(largest_differences(model, to_onnx(model, vocabulary), tokens, 5))
    model.save(tmp_path, "f" * 64)
    loaded = load_model(tmp_path, "f" * 64)
    with torch.no_grad():
        assert torch.equal(loaded(tokens[None], loaded.begin_state(1))[0], logits)


def test_adaptive_initial_weights_follow_the_settings():
    normal = build_model("scratch", V, hidden_size=H, output="adaptive", reset="before")
    head = normal.adaptive.head
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.3) and not head.bias.any()
    drawn = itertools.chain.from_iterable(tail.parameters() for tail in normal.adaptive.tail)
    assert all(weight.abs().max() < 0.05 for weight in drawn)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"embedding_size": H, "tie_weights": True}, r"^output = .*model\.tie_weights to false"),
        ({"hidden_size": 8}, r"^output = .*model\.hidden_size of 16 or more"),
    ],
)
def test_impossible_adaptive_settings_are_refused(settings, why):
    with pytest.raises(ValueError, match=why):
        build_model("concise", V, **{"hidden_size": H, "output": "adaptive"} | settings)


def test_small_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"^model\.output = adaptive: .* only 19 tokens"):
        build_model("concise", 19, hidden_size=H, output="adaptive")
