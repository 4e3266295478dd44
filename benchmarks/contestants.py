"""The implementations that train in this process: the textbook's own and this project's.

Each is a function that trains on minibatches (X, Y), (B, T) of token numbers, one update for each
and the state carried from one to the next, and returns the perplexity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final

import torch
from torch import nn

from benchmarks.chapter import get_params, gru, init_gru_state
from gru_lm.core.params import Precision, Train, Variant
from gru_lm.models.base import LanguageModel, build_model
from gru_lm.training.loop import Trainer, make_optimizer
from gru_lm.training.minibatches import Minibatch

Loop = Callable[[Iterable[Minibatch]], float]

TEXTBOOK: Final[tuple[Variant, ...]] = ("scratch", "concise")
OURS: Final[tuple[Variant, ...]] = ("scratch", "concise", "fused")

MATMUL: Final[Any] = torch.backends.cuda.matmul
RNN: Final[Any] = torch.backends.cudnn.rnn
DEFAULTS: Final = (MATMUL.fp32_precision, RNN.fp32_precision)  # torch's own, TF32 in cuDNN


def precisions(device: torch.device) -> tuple[Precision, ...]:
    """Those that differ on ``device``: TF32 is a format of NVIDIA's GPUs."""
    return ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16")


def textbook_net(
    d2l: ModuleType, variant: Variant, vocab_size: int, hidden_size: int, device: torch.device
) -> Any:
    """The chapter's model: ``d2l.RNNModelScratch``, or ``d2l.RNNModel`` around ``nn.GRU``."""
    if variant == "scratch":
        return d2l.RNNModelScratch(vocab_size, hidden_size, device, get_params, init_gru_state, gru)
    return d2l.RNNModel(nn.GRU(vocab_size, hidden_size), vocab_size).to(device)


def textbook_loop(d2l: ModuleType, net: Any, lr: float, device: torch.device) -> Loop:
    """``d2l.train_epoch_ch8`` with ``net``, set up as the textbook's ``train_ch8`` does."""
    updater: Any
    if isinstance(net, nn.Module):
        updater = torch.optim.SGD(net.parameters(), lr)
    else:

        def updater(batch_size: int) -> None:
            d2l.sgd(net.params, lr, batch_size)

    loss = nn.CrossEntropyLoss()

    def train(minibatches: Iterable[Minibatch]) -> float:
        if device.type == "cuda":  # the trainers of the others set them for the whole process
            MATMUL.fp32_precision, RNN.fp32_precision = DEFAULTS
        perplexity, _ = d2l.train_epoch_ch8(net, minibatches, loss, updater, device, False)
        return float(perplexity)

    return train


def our_model(
    variant: Variant, vocab_size: int, hidden_size: int, device: torch.device
) -> LanguageModel:
    """This project's model, with the textbook's place of the reset gate where there is a choice."""
    options: dict[str, Any] = {} if variant == "concise" else {"reset": "before"}
    return build_model(variant, vocab_size, hidden_size=hidden_size, **options).to(device)


def our_loop(
    model: LanguageModel,
    settings: Train,
    precision: Precision,
    trainer_class: type[Trainer] = Trainer,
) -> Loop:
    """``Trainer.train_epoch``, set up as ``gru_lm.training.loop.train`` does."""
    optimizer = make_optimizer(model, settings)
    trainer = trainer_class(model, optimizer, settings.clip_norm, precision=precision)

    def train(minibatches: Iterable[Minibatch]) -> float:
        perplexity, _ = trainer.train_epoch(minibatches, carry_state=True)
        return perplexity

    return train


def fp32_loop(
    name: str,
    d2l: ModuleType | None,
    vocab_size: int,
    hidden_size: int,
    settings: Train,
    device: torch.device,
) -> Loop:
    """``textbook-scratch`` (which needs ``d2l``) or one of this project's variants, in float32."""
    sizes = vocab_size, hidden_size, device
    if d2l is not None and name == "textbook-scratch":
        return textbook_loop(d2l, textbook_net(d2l, "scratch", *sizes), settings.lr, device)
    variant = next(variant for variant in OURS if variant == name)
    return our_loop(our_model(variant, *sizes), settings, "fp32")


def random_minibatch(
    vocab_size: int, batch_size: int, num_steps: int, device: torch.device
) -> Minibatch:
    """Random inputs and targets (B, T): speed and memory do not depend on what is read."""
    X, Y = torch.randint(vocab_size, (2, batch_size, num_steps), device=device)
    return X, Y
