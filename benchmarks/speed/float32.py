"""Training of one implementation in float32 on random tokens, for ``scaling`` and ``memory``."""

from __future__ import annotations

from types import ModuleType
from typing import Final

import torch

from benchmarks.ours import OURS, Loop, our_loop, our_model
from benchmarks.peers.textbook import textbook_loop, textbook_net
from gru_lm.training.minibatches import Minibatch
from gru_lm.training.settings import Train

TEXTBOOK_SCRATCH: Final = "textbook-scratch"
IMPLEMENTATIONS: Final = (TEXTBOOK_SCRATCH, *OURS)


def float32_loop(
    name: str,
    d2l: ModuleType | None,
    vocab_size: int,
    hidden_size: int,
    settings: Train,
    device: torch.device,
) -> Loop:
    """Return the training loop of one of ``IMPLEMENTATIONS``. The textbook's needs ``d2l``."""
    sizes = vocab_size, hidden_size, device
    if d2l is not None and name == TEXTBOOK_SCRATCH:
        return textbook_loop(d2l, textbook_net(d2l, "scratch", *sizes), settings.lr, device)
    variant = next(variant for variant in OURS if variant == name)
    return our_loop(our_model(variant, *sizes), settings)


def random_minibatch(
    vocab_size: int, batch_size: int, num_steps: int, device: torch.device
) -> Minibatch:
    """Return random inputs and targets (B, T), as speed and memory do not depend on the tokens."""
    X, Y = torch.randint(vocab_size, (2, batch_size, num_steps), device=device)
    return X, Y
