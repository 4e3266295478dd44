"""The textbook's two models and its training loop, from the package d2l."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any, Final, Literal

import torch
from torch import nn

from benchmarks.ours import Loop
from benchmarks.peers.chapter import get_params, gru, init_gru_state
from gru_lm.training.minibatches import Minibatch

Model = Literal["scratch", "concise"]
TEXTBOOK: Final[tuple[Model, ...]] = ("scratch", "concise")

MATMUL: Final[Any] = torch.backends.cuda.matmul
RNN: Final[Any] = torch.backends.cudnn.rnn
DEFAULTS: Final = (MATMUL.fp32_precision, RNN.fp32_precision)  # torch's defaults, TF32 in cuDNN


def textbook_net(
    d2l: ModuleType, model: Model, vocab_size: int, hidden_size: int, device: torch.device
) -> Any:
    """Return ``d2l.RNNModelScratch``, or ``d2l.RNNModel`` with ``nn.GRU``, as in the chapter."""
    if model == "scratch":
        return d2l.RNNModelScratch(vocab_size, hidden_size, device, get_params, init_gru_state, gru)
    return d2l.RNNModel(nn.GRU(vocab_size, hidden_size), vocab_size).to(device)


def textbook_loop(d2l: ModuleType, net: Any, lr: float, device: torch.device) -> Loop:
    """Return ``d2l.train_epoch_ch8`` for ``net``, set up as in the textbook's ``train_ch8``."""
    updater: Any
    if isinstance(net, nn.Module):
        updater = torch.optim.SGD(net.parameters(), lr)
    else:

        def updater(batch_size: int) -> None:
            d2l.sgd(net.params, lr, batch_size)

    loss = nn.CrossEntropyLoss()

    def train(minibatches: Iterable[Minibatch]) -> float:
        if device.type == "cuda":  # this project's loops change them for the whole process
            MATMUL.fp32_precision, RNN.fp32_precision = DEFAULTS
        perplexity, _ = d2l.train_epoch_ch8(net, minibatches, loss, updater, device, False)
        return float(perplexity)

    return train
