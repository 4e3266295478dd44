"""Does our loop train as the textbook's does, from the same weights on the same minibatches?

    python -m benchmarks.trajectory

Trains each variant twice side by side on the CPU, once by ``d2l.train_epoch_ch8`` and once by
``Trainer.train_epoch``, and compares the perplexity and all weights after every epoch. Both are
floating-point programs, and at the textbook's learning rate a difference in the last bit grows
until two curves part; so the comparison is for equality. To show that growth, the textbook's
scratch loop is trained a second time with another number of threads, which sums in another order.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.chapter import PARAMETERS, gru, init_gru_state
from benchmarks.common import RESULTS, Experiment, positive, require_d2l, set_up
from benchmarks.peers import D2L_VERSION
from gru_lm.core.errors import run_stage
from gru_lm.core.files import write_json
from gru_lm.models.base import LanguageModel
from gru_lm.models.concise.model import ConciseGRU
from gru_lm.models.scratch.model import ScratchGRU
from gru_lm.training.loop import Trainer, make_optimizer
from gru_lm.training.minibatches import Minibatch, epoch_minibatches

FOUR_DIGITS: Final = 5e-5  # half a unit of the fourth digit of 9.999, the strictest case
CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Run:
    """A training: ``train_epoch`` returns the perplexity; ``weights`` in the textbook's order."""

    train_epoch: Callable[[list[Minibatch]], float]
    weights: list[Tensor]


@dataclass
class Comparison:
    """A run beside a reference: what each reached, and how far their weights were apart."""

    reference: Run
    run: Run
    threads: int
    perplexities: list[tuple[float, float]] = field(default_factory=list)
    weight_differences: list[float] = field(default_factory=list)

    def train_epoch(self, minibatches: list[Minibatch], reached: float) -> None:
        """Train the run for an epoch, in which the reference ``reached`` its perplexity."""
        with _threads(self.threads):
            self.perplexities.append((reached, self.run.train_epoch(minibatches)))
        pairs = zip(self.run.weights, self.reference.weights, strict=True)
        with torch.no_grad():
            self.weight_differences.append(max(float((a - b).abs().max()) for a, b in pairs))

    def summarize(self) -> dict[str, Any]:
        """Up to which epoch the two are identical, and agree to four digits."""
        differences = [abs(its - theirs) / theirs for theirs, its in self.perplexities]
        return {
            "threads": self.threads,
            "identical_up_to_epoch": _last_within(self.weight_differences, 0.0),
            "four_digits_up_to_epoch": _last_within(differences, FOUR_DIGITS),
            "largest_relative_difference": max(differences),
            "largest_weight_difference": max(self.weight_differences),
            "perplexities": [its for _, its in self.perplexities],
        }


def textbook_scratch(d2l: ModuleType, start: ScratchGRU, lr: float) -> Run:
    """``d2l.RNNModelScratch`` with the chapter's equations and ``d2l.sgd``."""
    weights = dict(start.named_parameters())
    params = [weights[name].detach().clone().requires_grad_() for name in PARAMETERS]
    sizes = (start.vocab_size, start.hidden_size, CPU)
    net = d2l.RNNModelScratch(*sizes, lambda *_: params, init_gru_state, gru)
    return _textbook_loop(d2l, net, lambda batch_size: d2l.sgd(params, lr, batch_size), params)


def textbook_concise(d2l: ModuleType, start: ConciseGRU, lr: float) -> Run:
    """``d2l.RNNModel`` around ``nn.GRU`` and ``torch.optim.SGD``."""
    net = d2l.RNNModel(nn.GRU(start.vocab_size, start.hidden_size), start.vocab_size)
    net.rnn.load_state_dict(start.gru.state_dict())
    net.linear.load_state_dict(start.linear.state_dict())
    params = list(net.parameters())
    return _textbook_loop(d2l, net, torch.optim.SGD(params, lr), params)


def _textbook_loop(d2l: ModuleType, net: Any, updater: Any, params: list[Tensor]) -> Run:
    loss = nn.CrossEntropyLoss()

    def train_epoch(minibatches: list[Minibatch]) -> float:
        perplexity, _ = d2l.train_epoch_ch8(net, minibatches, loss, updater, CPU, False)
        return float(perplexity)

    return Run(train_epoch, params)


def our_loop(model: LanguageModel, experiment: Experiment) -> Run:
    """This project's ``Trainer``."""
    settings = experiment.settings
    trainer = Trainer(model, make_optimizer(model, settings), settings.clip_norm)

    def train_epoch(minibatches: list[Minibatch]) -> float:
        perplexity, _ = trainer.train_epoch(minibatches, carry_state=True)
        return perplexity

    return Run(train_epoch, list(model.parameters()))


def compare(d2l: ModuleType, experiment: Experiment, epochs: int) -> dict[str, Any]:
    """Train all of them side by side; the result of each comparison by name."""
    settings, threads = experiment.settings, torch.get_num_threads()
    torch.manual_seed(settings.seed)
    scratch = ScratchGRU(experiment.corpus.vocab_size, experiment.hidden_size)
    concise = ConciseGRU(experiment.corpus.vocab_size, experiment.hidden_size)
    their_scratch = textbook_scratch(d2l, scratch, settings.lr)
    their_concise = textbook_concise(d2l, concise, settings.lr)
    disturbed = textbook_scratch(d2l, scratch, settings.lr)
    comparisons = {
        "scratch": Comparison(their_scratch, our_loop(scratch, experiment), threads),
        "concise": Comparison(their_concise, our_loop(concise, experiment), threads),
        "textbook_scratch_other_threads": Comparison(
            their_scratch, disturbed, 2 if threads == 1 else 1
        ),
    }
    sizes = (settings.batch_size, settings.num_steps, settings.partition, settings.seed)
    for epoch in range(1, epochs + 1):
        minibatches = list(epoch_minibatches(experiment.corpus.tokens, *sizes, epoch))
        reached = {
            id(reference): reference.train_epoch(minibatches)
            for reference in (their_scratch, their_concise)
        }
        for comparison in comparisons.values():
            comparison.train_epoch(minibatches, reached[id(comparison.reference)])
        if epoch % max(1, epochs // 10) == 0:
            print(f"epoch {epoch} of {epochs}", flush=True)
    return {name: comparison.summarize() for name, comparison in comparisons.items()}


def table(results: dict[str, Any], epochs: int) -> str:
    """The result for a reader."""
    lines = [f"{f'of {epochs} epochs':<32} {'identical up to':>15} {'4 digits up to':>15}"]
    lines += [
        f"{name:<32} {row['identical_up_to_epoch']:>15} {row['four_digits_up_to_epoch']:>15}"
        for name, row in results.items()
    ]
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trajectory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--epochs", type=positive, default=500, metavar="N")
    parser.add_argument("--output", type=Path, default=RESULTS / "trajectory.json")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="a folder that holds d2l")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    experiment = set_up("trajectory", CPU)
    head = {**experiment.head, "peer": f"d2l {D2L_VERSION}", "epochs": arguments.epochs}
    d2l = require_d2l(arguments.peers, head, arguments.output)
    results = compare(d2l, experiment, arguments.epochs)
    write_json(arguments.output, {**head, "against_the_textbooks_loop": results})
    print(f"\n{table(results, arguments.epochs)}\n\nwritten to {arguments.output}")


def _last_within(differences: list[float], bound: float) -> int:
    """The number of the last epoch before a difference first exceeds ``bound``, or is NaN."""
    for epoch, difference in enumerate(differences):
        if not difference <= bound:
            return epoch
    return len(differences)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    run_stage("benchmarks.trajectory", main)
