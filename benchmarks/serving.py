"""A peer's side of the conversation with ``speed``: JSON lines on stdin and stdout.

The first line read is an ``Order``; the first one answered says which versions will train, or why
none can. Each further line read holds minibatches, and its answer the tokens trained on, the
seconds that took and the perplexity of the last epoch. In between the process waits on stdin and
computes nothing. See ``workers.py`` for the other side.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Minibatch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Order:
    """What a peer is to train, and on what."""

    vocab_size: int
    hidden_size: int
    batch_size: int
    num_steps: int
    lr: float
    clip_norm: float
    seed: int
    threads: int
    device: Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Peer:
    """A model ready to train: one epoch over minibatches (X, Y), each (B, T) int32.

    ``train_epoch`` returns the mean cross-entropy, and only when the last update is done.
    """

    versions: dict[str, str]
    train_epoch: Callable[[list[Minibatch]], float]


def serve(build: Callable[[Order], Peer]) -> None:
    """Answer the lines on stdin until it is closed."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not come between the answers

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    order = Order(**json.loads(sys.stdin.readline()))
    _keep_to_cores(order.threads)
    try:
        peer = build(order)
    except Exception as error:  # whatever a package that does not fit the machine may raise
        answer({"missing": f"{type(error).__name__}: {error}"})
        return
    answer({"versions": peer.versions})
    for line in sys.stdin:
        epochs = [
            [(np.array(X, "int32"), np.array(Y, "int32")) for X, Y in minibatches]
            for minibatches in json.loads(line)
        ]
        start = time.perf_counter()
        losses = [peer.train_epoch(minibatches) for minibatches in epochs]
        seconds = time.perf_counter() - start
        tokens = sum(Y.size for minibatches in epochs for _, Y in minibatches)
        answer({"tokens": tokens, "seconds": seconds, "perplexity": math.exp(losses[-1])})


def _keep_to_cores(number: int) -> None:
    """Bind the process to ``number`` cores: XLA has no setting, and starts a thread for each."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])
