"""This project's GRU variants, set up for a comparison with the textbook's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch

from gru_lm.core.variants import Variant
from gru_lm.models.base import LanguageModel, build_model
from gru_lm.training.minibatches import Minibatch
from gru_lm.training.optimizers import make_optimizer
from gru_lm.training.settings import Precision, Train
from gru_lm.training.trainer import Trainer

# A function that trains on minibatches (X, Y) of token numbers, each (B, T), and returns the
# perplexity. It does one update per minibatch and carries the state to the next one.
Loop = Callable[[Iterable[Minibatch]], float]

# The variants that implement a GRU. Other models are not comparable.
OURS: Final = (Variant("scratch"), Variant("concise"), Variant("fused"))


def precisions(device: torch.device) -> tuple[Precision, ...]:
    """Return the precisions that differ on ``device``. TF32 exists on NVIDIA's GPUs only."""
    return ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16")


def our_model(
    variant: Variant, vocab_size: int, hidden_size: int, device: torch.device
) -> LanguageModel:
    """Return a new model of ``variant``, with the reset gate before the product if possible.

    This is the textbook's GRU. concise computes the function of ``nn.GRU`` instead.
    """
    options: dict[str, Any] = {} if variant == "concise" else {"reset": "before"}
    return build_model(variant, vocab_size, hidden_size=hidden_size, **options).to(device)


def our_loop(
    model: LanguageModel,
    settings: Train,
    precision: Precision = "fp32",
    trainer_class: type[Trainer] = Trainer,
) -> Loop:
    """Return ``Trainer.train_epoch`` with the set-up of ``gru_lm.training.loop.train``."""
    optimizer = make_optimizer(model, settings)
    trainer = trainer_class(model, optimizer, settings.clip_norm, precision=precision)

    def train(minibatches: Iterable[Minibatch]) -> float:
        perplexity, _ = trainer.train_epoch(minibatches, carry_state=True)
        return perplexity

    return train
