"""The server in the process of JAX or Keras, which trains on request. ``worker.py`` is its client.

Requests and answers are JSON lines on stdin and stdout. The first request is a ``Job``. Its answer
contains the versions of the packages, or the reason why they cannot train. Every further request
contains minibatches. Its answer contains the number of tokens, the seconds and the perplexity of
the last epoch. Between requests the process waits on stdin and computes nothing.

This module needs NumPy and the standard library only, as the environment has no torch.
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
class Job:
    """The sizes, the settings and the device of a training.

    Inputs are one-hot unless an ``embedding_size`` is given.
    """

    vocab_size: int
    hidden_size: int
    batch_size: int
    num_steps: int
    lr: float
    clip_norm: float
    seed: int
    threads: int
    device: Literal["cpu", "cuda"]
    embedding_size: int | None = None


@dataclass(frozen=True)
class Peer:
    """A model ready to train.

    ``train_epoch`` takes minibatches (X, Y), each (B, T) int32. It returns the mean cross-entropy
    after the last update is complete.
    """

    versions: dict[str, str]
    train_epoch: Callable[[list[Minibatch]], float]


def serve(build: Callable[[Job], Peer]) -> None:
    """Answer each line on stdin until it is closed."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries must not mix with the answers

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    job = Job(**json.loads(sys.stdin.readline()))
    _keep_to_cores(job.threads)
    try:
        peer = build(job)
    except Exception as error:  # of a package that does not work on this machine
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
    """Bind the process to ``number`` cores, as XLA starts a thread per core without a setting."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])
