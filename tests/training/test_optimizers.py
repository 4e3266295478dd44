"""Optimisers, their parameter groups and averaged weights against their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainings import train_settings

from gru_lm.models.base import LanguageModel, build_model
from gru_lm.models.scratch.model import ScratchGRU
from gru_lm.training.averaging import AveragedWeights
from gru_lm.training.optimizers import (
    clip_gradients,
    decay_groups,
    make_optimizer,
    set_learning_rate,
)


class Normed(ScratchGRU):
    """A model with an nn.Embedding and a norm of its own."""

    def __init__(self) -> None:
        super().__init__(5, 3)
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.LayerNorm(3)


MATRICES = {f"W_{x}{gate}" for x in "xh" for gate in "zrh"}
STACKED = {"hidden_size": 3, "embedding_size": 3, "reset": "before"}


@pytest.mark.parametrize("decay_embeddings", [False, True])
@pytest.mark.parametrize(
    ("model", "matrices", "embedding"),
    [
        (Normed(), {*MATRICES, "W_hq"}, "embedding.weight"),
        (
            build_model("scratch", 5, **STACKED),
            {*(f"layers.0.{name}" for name in MATRICES), "W_q"},
            "W_e",
        ),
        (
            build_model("scratch", 5, **STACKED, tie_weights=True),
            {f"layers.0.{name}" for name in MATRICES},
            "W_e",
        ),
    ],
    ids=["own", "stack", "tied"],
)
def test_vectors_and_embeddings_are_not_decayed(
    model: LanguageModel, matrices: set[str], embedding: str, decay_embeddings: bool
) -> None:
    names = {id(weight): name for name, weight in model.named_parameters()}
    decayed, others = ({names[id(w)] for w in g} for g in decay_groups(model, decay_embeddings))
    assert decayed == matrices | ({embedding} if decay_embeddings else set())
    assert decayed | others == set(names.values())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"optimizer": "adam", "betas": [0.8, 0.95]},
        {"optimizer": "adamw", "betas": [0.9, 0.99], "weight_decay": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", ["scratch", "fused"])
def test_steps_follow_equations(variant: str, changes: dict[str, Any]) -> None:
    chosen = train_settings(lr=0.05, **changes)
    model = build_model(variant, 5, hidden_size=3).double()
    optimizer = make_optimizer(model, chosen)
    mine = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    first = {name: torch.zeros_like(weight) for name, weight in mine.items()}
    second = {name: torch.zeros_like(weight) for name, weight in mine.items()}
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        rate = 0.05 / step
        set_learning_rate(optimizer, rate)
        for name, weight in model.named_parameters():
            weight.grad = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            decay = chosen.weight_decay * (weight.ndim > 1)
            gradient = weight.grad
            if chosen.optimizer == "sgd":
                gradient = gradient + decay * mine[name]
                first[name] = chosen.momentum * first[name] + gradient
                mine[name] = mine[name] - rate * first[name]
                continue
            b1, b2 = chosen.betas
            first[name] = b1 * first[name] + (1 - b1) * gradient
            second[name] = b2 * second[name] + (1 - b2) * gradient**2
            root = (second[name] / (1 - b2**step)).sqrt() + 1e-8
            mine[name] = mine[name] * (1 - rate * decay)
            mine[name] = mine[name] - rate * first[name] / (1 - b1**step) / root
        optimizer.step()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach(), mine[name], rtol=1e-10, atol=1e-12)


def test_default_is_plain_sgd_on_all_weights() -> None:
    model = build_model("concise", 5, hidden_size=3)
    optimizer = make_optimizer(model, train_settings())
    assert type(optimizer) is torch.optim.SGD
    [group] = optimizer.param_groups
    assert [id(w) for w in group["params"]] == [id(w) for w in model.parameters()]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1.0, 0, 0)
    assert group["foreach"] is None and group["fused"] is None


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_averages_follow_their_definitions(name: str) -> None:
    model = build_model("scratch", 5, hidden_size=3).double()
    chosen = train_settings(average={"name": name, "decay": 0.8}).average
    average = AveragedWeights(model, chosen)
    with average.applied():  # no average yet, so the model keeps its weights
        pass
    seen: list[Tensor] = []
    for step in range(6):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn(weight.shape, generator=torch.manual_seed(step)))
        average.update()
        seen.append(model.get_parameter("W_hh").detach().clone())
    wanted = seen[0]
    for weight in seen[1:]:
        wanted = 0.8 * wanted + 0.2 * weight
    if name == "swa":
        wanted = torch.stack(seen).mean(0)
    with average.applied():
        torch.testing.assert_close(model.get_parameter("W_hh").detach(), wanted)
    assert torch.equal(model.get_parameter("W_hh"), seen[-1])
    average.apply()
    torch.testing.assert_close(model.get_parameter("W_hh").detach(), wanted)


@pytest.mark.usefixtures("process_wide_settings")
def test_gradient_norm_does_not_depend_on_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(768, 256, generator=generator) for _ in range(20)]
    clipped = {}
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        weights = [torch.zeros_like(gradient) for gradient in gradients]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
            clip_gradients([weight], 1.0)
        assert torch.get_num_threads() == threads
        clipped[threads] = [weight.grad for weight in weights]
    for threads in (2, 4):
        for one, other in zip(clipped[1], clipped[threads], strict=True):
            assert torch.equal(one, other)
