"""The implementations that ``training`` times."""

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

from benchmarks.common import Experiment, wait_for
from benchmarks.ours import OURS, Loop, our_loop, our_model, precisions
from benchmarks.peers.environment import environment
from benchmarks.peers.flashrnn_gru import FLASHRNN_VERSION, UncapturedTrainer, flash_model
from benchmarks.peers.packages import PeerMissingError
from benchmarks.peers.serving import Job
from benchmarks.peers.textbook import TEXTBOOK, textbook_loop, textbook_net
from benchmarks.peers.worker import Worker
from gru_lm.training.minibatches import Minibatch, epoch_minibatches
from gru_lm.training.settings import Precision

WORKERS: Final = {
    "jax": ("JAX", "benchmarks.peers.jax_gru"),
    "keras": ("Keras", "benchmarks.peers.keras_gru"),
}


class Turn(NamedTuple):
    """The result of one timing, with the perplexity of its last epoch."""

    tokens: int
    seconds: float
    perplexity: float


@dataclass
class Implementation:
    """One implementation. ``train`` runs one timing, and ``speeds`` are tokens per second."""

    label: str
    train: Callable[[], Turn]
    precision: Precision = "fp32"
    speeds: list[float] = field(default_factory=list)
    perplexity: float = math.nan


@dataclass
class Implementations:
    """The present implementations by name, reasons for missing ones, and the peers' versions."""

    present: dict[str, Implementation] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def speeds(self) -> dict[str, list[float]]:
        """Return the tokens per second of each alternation by implementation."""
        return {name: one.speeds for name, one in self.present.items()}

    def leave_out(self, name: str, reason: str) -> None:
        """Record and print that ``name`` is missing."""
        self.present.pop(name, None)
        self.missing[name] = reason
        print(f"missing: {name} ({reason})", flush=True)


def turn_here(
    loop: Loop, cut_epoch: Callable[[], Iterable[Minibatch]], epochs: int, device: torch.device
) -> Turn:
    """Time ``epochs`` in this process, including the preparation of minibatches."""
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


def turn_in_worker(worker: Worker, minibatches: Iterator[Iterator[Minibatch]], epochs: int) -> Turn:
    """Time ``epochs`` in a peer's process, with its own clock."""
    return Turn(**worker.train([list(epoch) for epoch in itertools.islice(minibatches, epochs)]))


def all_epochs(experiment: Experiment, device: torch.device) -> Iterator[Iterator[Minibatch]]:
    """Yield the minibatches of each epoch. They are prepared lazily."""
    settings, tokens = experiment.settings, experiment.corpus.tokens.to(device)
    sizes = settings.batch_size, settings.num_steps, settings.partition, settings.seed
    return (epoch_minibatches(tokens, *sizes, number) for number in itertools.count(1))


def add_textbook(
    implementations: Implementations,
    d2l: ModuleType,
    experiment: Experiment,
    epochs: int,
    device: torch.device,
) -> None:
    """Add both models of the chapter, with minibatches from ``d2l.seq_data_iter_sequential``."""
    corpus, settings = experiment.corpus, experiment.settings
    cut = partial(
        d2l.seq_data_iter_sequential,
        corpus.tokens.tolist(),
        settings.batch_size,
        settings.num_steps,
    )
    for model in TEXTBOOK:
        net = textbook_net(d2l, model, corpus.vocab_size, experiment.hidden_size, device)
        loop = textbook_loop(d2l, net, settings.lr, device)
        implementations.present[f"textbook-{model}"] = Implementation(
            f"textbook {model}", partial(turn_here, loop, cut, epochs, device)
        )


def add_ours(
    implementations: Implementations, experiment: Experiment, epochs: int, device: torch.device
) -> None:
    """Add each variant in each precision, with minibatches from ``epoch_minibatches``."""
    for variant, precision in itertools.product(OURS, precisions(device)):
        model = our_model(variant, experiment.corpus.vocab_size, experiment.hidden_size, device)
        loop = our_loop(model, experiment.settings, precision)
        cut = partial(next, all_epochs(experiment, device))
        implementations.present[f"{variant}-{precision}"] = Implementation(
            f"{variant} ({precision})", partial(turn_here, loop, cut, epochs, device), precision
        )


def add_workers(
    implementations: Implementations,
    folder: Path | None,
    experiment: Experiment,
    epochs: int,
    device: torch.device,
    workers: ExitStack,
) -> None:
    """Add JAX and Keras from the environment ``folder``. ``workers`` closes their processes."""
    try:
        python = environment(folder)
    except PeerMissingError as error:
        for name in WORKERS:
            implementations.leave_out(name, str(error))
        return
    settings = experiment.settings
    job = Job(
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
    for name, (label, module) in WORKERS.items():
        try:
            worker = Worker(python, module, job)
        except PeerMissingError as error:
            implementations.leave_out(name, str(error))
            continue
        workers.callback(worker.close)
        implementations.versions |= worker.versions
        minibatches = all_epochs(experiment, torch.device("cpu"))
        implementations.present[name] = Implementation(
            label, partial(turn_in_worker, worker, minibatches, epochs)
        )


def add_flashrnn(
    implementations: Implementations,
    folder: Path | None,
    experiment: Experiment,
    epochs: int,
    device: torch.device,
) -> None:
    """Add flashrnn's kernels, compiled for this GPU and trained in this process."""
    if device.type != "cuda":
        implementations.leave_out("flashrnn", "needs a CUDA GPU")
        return
    minibatch = next(next(all_epochs(experiment, device)))
    sizes = experiment.corpus.vocab_size, experiment.hidden_size
    try:
        model = flash_model(folder, *sizes, minibatch)
    except PeerMissingError as error:
        implementations.leave_out("flashrnn", str(error))
        return
    loop = our_loop(model, experiment.settings, trainer_class=UncapturedTrainer)
    cut = partial(next, all_epochs(experiment, device))
    implementations.versions["flashrnn"] = FLASHRNN_VERSION
    implementations.present["flashrnn"] = Implementation(
        "FlashRNN", partial(turn_here, loop, cut, epochs, device)
    )
