"""Training speed of both variants against the textbook's own loop, in tokens a second.

    python -m benchmarks.textbook

The textbook's side is d2l 0.17.6 as its reader runs it: ``d2l.RNNModelScratch`` with the chapter's
equations, or ``d2l.RNNModel`` around ``nn.GRU``, fed by ``d2l.seq_data_iter_sequential`` and
trained by ``d2l.train_epoch_ch8``. Ours is ``Trainer.train_epoch`` fed by ``epoch_minibatches``.
All train on the same tokens with the same sizes, in turn within one run, so that whatever slows
the machine down for a while slows each of them.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.chapter import get_params, gru, init_gru_state
from benchmarks.common import (
    RESULTS,
    Corpus,
    file_name,
    machine_name,
    positive,
    require_d2l,
    set_up,
)
from gru_lm.batching import Minibatch, epoch_minibatches
from gru_lm.device import DeviceChoice, choose_device
from gru_lm.errors import run_stage
from gru_lm.files import write_json
from gru_lm.model import build_model
from gru_lm.settings import Train, Variant
from gru_lm.training import Trainer, make_optimizer

PAIRS: tuple[Variant, ...] = ("scratch", "concise")
WARM_UP_TURNS = 1


@dataclass
class Contestant:
    """One implementation: trains an epoch and returns its perplexity and number of tokens."""

    train_epoch: Callable[[], tuple[float, int]]
    perplexity: float = float("nan")
    tokens_per_second: list[float] = field(default_factory=list)

    def turn(self, epochs: int, device: torch.device) -> float:
        """Train ``epochs`` epochs; returns tokens a second of wall time."""
        num_tokens = 0
        _wait_for(device)
        start = time.perf_counter()
        for _ in range(epochs):
            self.perplexity, count = self.train_epoch()
            num_tokens += count
        _wait_for(device)
        return num_tokens / (time.perf_counter() - start)


class TextbookMinibatches:
    """What ``d2l.SeqDataLoader`` is, but over given tokens; counts those it hands out."""

    def __init__(self, d2l: ModuleType, tokens: list[int], settings: Train) -> None:
        self._cut = partial(
            d2l.seq_data_iter_sequential, tokens, settings.batch_size, settings.num_steps
        )
        self.num_tokens = 0

    def __iter__(self) -> Iterator[Minibatch]:
        for X, Y in self._cut():
            self.num_tokens += Y.numel()
            yield X, Y


def textbook(
    d2l: ModuleType,
    variant: Variant,
    corpus: Corpus,
    hidden_size: int,
    settings: Train,
    device: torch.device,
) -> Contestant:
    """The textbook's model and loop, set up as its ``train_ch8`` does."""
    net: Any
    updater: Any
    if variant == "scratch":
        net = d2l.RNNModelScratch(
            corpus.vocab_size, hidden_size, device, get_params, init_gru_state, gru
        )

        def updater(batch_size: int) -> None:
            d2l.sgd(net.params, settings.lr, batch_size)
    else:
        net = d2l.RNNModel(nn.GRU(corpus.vocab_size, hidden_size), corpus.vocab_size).to(device)
        updater = torch.optim.SGD(net.parameters(), settings.lr)
    minibatches = TextbookMinibatches(d2l, corpus.tokens.tolist(), settings)
    loss = nn.CrossEntropyLoss()

    def train_epoch() -> tuple[float, int]:
        minibatches.num_tokens = 0
        perplexity, _ = d2l.train_epoch_ch8(net, minibatches, loss, updater, device, False)
        return perplexity, minibatches.num_tokens

    return Contestant(train_epoch)


def ours(
    variant: Variant, corpus: Corpus, hidden_size: int, settings: Train, device: torch.device
) -> Contestant:
    """This project's model and loop, set up as ``gru_lm.training.train`` does."""
    options: dict[str, Any] = {"reset": "before"} if variant == "scratch" else {}
    model = build_model(variant, corpus.vocab_size, hidden_size=hidden_size, **options).to(device)
    trainer = Trainer(model, make_optimizer(model, settings), settings.clip_norm)
    tokens: Tensor = corpus.tokens.to(device)
    number = 0

    def train_epoch() -> tuple[float, int]:
        nonlocal number
        number += 1
        minibatches = epoch_minibatches(
            tokens,
            settings.batch_size,
            settings.num_steps,
            settings.partition,
            settings.seed,
            number,
        )
        return trainer.train_epoch(minibatches, carry_state=True)

    return Contestant(train_epoch)


def measure(
    contestants: dict[str, Contestant], alternations: int, epochs: int, device: torch.device
) -> None:
    """Let the contestants train in turn, again and again; the warm-up turns are not kept."""
    for alternation in range(-WARM_UP_TURNS, alternations):
        for contestant in contestants.values():
            speed = contestant.turn(epochs, device)
            if alternation >= 0:
                contestant.tokens_per_second.append(speed)
        print(
            "warm-up done"
            if alternation < 0
            else f"alternation {alternation + 1} of {alternations} done",
            flush=True,
        )


def summarize(contestants: dict[str, Contestant]) -> dict[str, Any]:
    """All timings with their medians, and the ratios ours / textbook."""
    implementations = {
        name: {
            "tokens_per_second": [round(speed, 1) for speed in contestant.tokens_per_second],
            "median": round(statistics.median(contestant.tokens_per_second), 1),
            "min": round(min(contestant.tokens_per_second), 1),
            "max": round(max(contestant.tokens_per_second), 1),
            "last_perplexity": contestant.perplexity,
        }
        for name, contestant in contestants.items()
    }
    ratios = {}
    for variant in PAIRS:
        mine = contestants[f"ours-{variant}"].tokens_per_second
        theirs = contestants[f"textbook-{variant}"].tokens_per_second
        each = [a / b for a, b in zip(mine, theirs, strict=True)]
        ratios[variant] = {
            "ratio_of_medians": round(statistics.median(mine) / statistics.median(theirs), 3),
            "each_alternation": [round(ratio, 3) for ratio in each],
            "min": round(min(each), 3),
            "max": round(max(each), 3),
        }
    return {"implementations": implementations, "ratios": ratios}


def table(result: dict[str, Any]) -> str:
    """The result for a reader."""
    lines = [f"{'tokens/s':<20} {'median':>12} {'min':>12} {'max':>12} {'perplexity':>11}"]
    lines += [
        f"{name:<20} {row['median']:>12,.0f} {row['min']:>12,.0f} {row['max']:>12,.0f} "
        f"{row['last_perplexity']:>11.3f}"
        for name, row in result["implementations"].items()
    ]
    lines += ["", f"{'ours / textbook':<20} {'of medians':>12} {'min':>12} {'max':>12}"]
    lines += [
        f"{name:<20} {row['ratio_of_medians']:>12.2f} {row['min']:>12.2f} {row['max']:>12.2f}"
        for name, row in result["ratios"].items()
    ]
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.textbook",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--alternations", type=positive, default=7, metavar="N")
    parser.add_argument("--epochs-per-turn", type=positive, default=3, metavar="N")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/<machine>.json")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="a folder that holds d2l")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    choice: DeviceChoice = arguments.device
    device = choose_device(choice)
    output = arguments.output or RESULTS / file_name("textbook", device)
    experiment = set_up("textbook", device)
    corpus, settings, hidden_size = experiment.corpus, experiment.settings, experiment.hidden_size
    result: dict[str, Any] = {
        **experiment.head,
        "alternations": arguments.alternations,
        "epochs_per_turn": arguments.epochs_per_turn,
        "warm_up_turns": WARM_UP_TURNS,
    }
    d2l = require_d2l(arguments.peers, result, output)

    print(f"on {machine_name(device)}, {result['threads']} CPU threads, torch {result['torch']}")
    torch.manual_seed(settings.seed)
    random.seed(settings.seed)  # d2l draws its offsets from it
    contestants = {}
    for variant in PAIRS:
        contestants[f"textbook-{variant}"] = textbook(
            d2l, variant, corpus, hidden_size, settings, device
        )
        contestants[f"ours-{variant}"] = ours(variant, corpus, hidden_size, settings, device)
    measure(contestants, arguments.alternations, arguments.epochs_per_turn, device)
    result |= summarize(contestants)
    write_json(output, result)
    print(f"\n{table(result)}\n\nwritten to {output}")


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    run_stage("benchmarks.textbook", main)
