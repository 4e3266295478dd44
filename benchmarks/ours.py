"""This project's variants of the GRU, set up so that they compare with the textbook's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch

from gru_lm.core.variants import Variant
from gru_lm.models.base import LanguageModel, build_model
from gru_lm.training.loop import Trainer, make_optimizer
from gru_lm.training.minibatches import Minibatch
from gru_lm.training.settings import Precision, Train

# Trains on minibatches (X, Y), each (B, T) of token numbers: one update per minibatch, the state
# carried from one to the next. Returns the perplexity.
Loop = Callable[[Iterable[Minibatch]], float]

# The variants that implement a GRU. Another model in models/ is nothing to compare here.
OURS: Final = (Variant("scratch"), Variant("concise"), Variant("fused"))


def precisions(device: torch.device) -> tuple[Precision, ...]:
    """Those that differ on ``device``: TF32 is a format of NVIDIA's GPUs."""
    return ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16")


def our_model(
    variant: Variant, vocab_size: int, hidden_size: int, device: torch.device
) -> LanguageModel:
    """A fresh model of ``variant``, with the reset gate before the product if that is an option.

    That is the textbook's place for it; concise computes what ``nn.GRU`` computes.
    """
    options: dict[str, Any] = {} if variant == "concise" else {"reset": "before"}
    return build_model(variant, vocab_size, hidden_size=hidden_size, **options).to(device)


def our_loop(
    model: LanguageModel,
    settings: Train,
    precision: Precision = "fp32",
    trainer_class: type[Trainer] = Trainer,
) -> Loop:
    """``Trainer.train_epoch``, set up as ``gru_lm.training.loop.train`` does."""
    optimizer = make_optimizer(model, settings)
    trainer = trainer_class(model, optimizer, settings.clip_norm, precision=precision)

    def train(minibatches: Iterable[Minibatch]) -> float:
        perplexity, _ = trainer.train_epoch(minibatches, carry_state=True)
        return perplexity

    return train
