"""Who takes part in ``speed``: how each contestant is set up, and how it takes a turn."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

import torch

from benchmarks.common import Experiment
from benchmarks.contestants import (
    OURS,
    TEXTBOOK,
    Loop,
    our_loop,
    our_model,
    precisions,
    textbook_loop,
    textbook_net,
)
from benchmarks.flashrnn_gru import FLASHRNN_VERSION, UncapturedTrainer, flash_model
from benchmarks.peers import PeerMissingError
from benchmarks.roofline import wait_for
from benchmarks.serving import Order
from benchmarks.workers import Worker, environment
from gru_lm.core.params import Precision
from gru_lm.training.minibatches import Minibatch, epoch_minibatches

PEERS: Final = {"jax": ("JAX", "benchmarks.jax_gru"), "keras": ("Keras", "benchmarks.keras_gru")}


class Turn(NamedTuple):
    """Tokens trained on, the wall time, and the perplexity of the last epoch."""

    tokens: int
    seconds: float
    perplexity: float


@dataclass
class Contestant:
    """One implementation. ``train`` takes a turn; ``speeds`` are tokens a second."""

    label: str
    train: Callable[[], Turn]
    precision: Precision = "fp32"
    speeds: list[float] = field(default_factory=list)
    perplexity: float = math.nan


@dataclass
class LineUp:
    """Who takes part, who is missing and why, and the versions of the peers."""

    contestants: dict[str, Contestant] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    peers: dict[str, str] = field(default_factory=dict)

    def speeds(self) -> dict[str, list[float]]:
        """Tokens a second in each alternation, by implementation."""
        return {name: one.speeds for name, one in self.contestants.items()}

    def leave_out(self, name: str, reason: str) -> None:
        """Note that ``name`` is missing, and say so on screen."""
        self.contestants.pop(name, None)
        self.missing[name] = reason
        print(f"missing: {name} ({reason})", flush=True)


def train_here(
    loop: Loop, cut_epoch: Callable[[], Iterable[Minibatch]], epochs: int, device: torch.device
) -> Turn:
    """A turn in this process: from before the first minibatch is cut to the last update's end."""
    tokens, perplexity = 0, math.nan

    def counted() -> Iterator[Minibatch]:
        nonlocal tokens
        for X, Y in cut_epoch():
            tokens += Y.numel()
            yield X, Y

    wait_for(device)
    start = time.perf_counter()
    for _ in range(epochs):
        perplexity = loop(counted())
    wait_for(device)
    return Turn(tokens, time.perf_counter() - start, perplexity)


def train_there(worker: Worker, minibatches: Iterator[Iterator[Minibatch]], epochs: int) -> Turn:
    """A turn in a peer's process, by its own clock."""
    return Turn(**worker.train([list(epoch) for epoch in itertools.islice(minibatches, epochs)]))


def all_epochs(experiment: Experiment, device: torch.device) -> Iterator[Iterator[Minibatch]]:
    """The minibatches of the first epoch, of the second, and so on; cut when asked for."""
    settings, tokens = experiment.settings, experiment.corpus.tokens.to(device)
    sizes = settings.batch_size, settings.num_steps, settings.partition, settings.seed
    return (epoch_minibatches(tokens, *sizes, number) for number in itertools.count(1))


def add_textbook(
    line_up: LineUp, d2l: ModuleType, experiment: Experiment, epochs: int, device: torch.device
) -> None:
    """Both models of the chapter, fed by ``d2l.seq_data_iter_sequential``."""
    corpus, settings = experiment.corpus, experiment.settings
    cut = partial(
        d2l.seq_data_iter_sequential,
        corpus.tokens.tolist(),
        settings.batch_size,
        settings.num_steps,
    )
    for variant in TEXTBOOK:
        net = textbook_net(d2l, variant, corpus.vocab_size, experiment.hidden_size, device)
        loop = textbook_loop(d2l, net, settings.lr, device)
        line_up.contestants[f"textbook-{variant}"] = Contestant(
            f"textbook {variant}", partial(train_here, loop, cut, epochs, device)
        )


def add_ours(line_up: LineUp, experiment: Experiment, epochs: int, device: torch.device) -> None:
    """Each variant in each precision, fed by ``epoch_minibatches``."""
    for variant, precision in itertools.product(OURS, precisions(device)):
        model = our_model(variant, experiment.corpus.vocab_size, experiment.hidden_size, device)
        loop = our_loop(model, experiment.settings, precision)
        cut = partial(next, all_epochs(experiment, device))
        line_up.contestants[f"{variant}-{precision}"] = Contestant(
            f"{variant} ({precision})", partial(train_here, loop, cut, epochs, device), precision
        )


def add_peers(
    line_up: LineUp,
    folder: Path | None,
    experiment: Experiment,
    epochs: int,
    device: torch.device,
    workers: ExitStack,
) -> None:
    """JAX and Keras, each in a process that ``workers`` ends."""
    try:
        python = environment(folder)
    except PeerMissingError as error:
        for name in PEERS:
            line_up.leave_out(name, str(error))
        return
    settings = experiment.settings
    order = Order(
        vocab_size=experiment.corpus.vocab_size,
        hidden_size=experiment.hidden_size,
        batch_size=settings.batch_size,
        num_steps=settings.num_steps,
        lr=settings.lr,
        clip_norm=1.0,
        seed=settings.seed,
        threads=torch.get_num_threads(),
        device="cuda" if device.type == "cuda" else "cpu",
    )
    for name, (label, module) in PEERS.items():
        try:
            worker = Worker(python, module, order)
        except PeerMissingError as error:
            line_up.leave_out(name, str(error))
            continue
        workers.callback(worker.close)
        line_up.peers |= worker.versions
        minibatches = all_epochs(experiment, torch.device("cpu"))
        line_up.contestants[name] = Contestant(
            label, partial(train_there, worker, minibatches, epochs)
        )


def add_flashrnn(
    line_up: LineUp, folder: Path | None, experiment: Experiment, epochs: int, device: torch.device
) -> None:
    """flashrnn's kernels, compiled here and trained in this process."""
    if device.type != "cuda":
        line_up.leave_out("flashrnn", "needs a CUDA GPU")
        return
    minibatch = next(next(all_epochs(experiment, device)))
    sizes = experiment.corpus.vocab_size, experiment.hidden_size
    try:
        model = flash_model(folder, *sizes, minibatch)
    except PeerMissingError as error:
        line_up.leave_out("flashrnn", str(error))
        return
    loop = our_loop(model, experiment.settings, "fp32", UncapturedTrainer)
    cut = partial(next, all_epochs(experiment, device))
    line_up.peers["flashrnn"] = FLASHRNN_VERSION
    line_up.contestants["flashrnn"] = Contestant(
        "FlashRNN", partial(train_here, loop, cut, epochs, device)
    )
