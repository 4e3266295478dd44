"""Compare the training loop with the textbook's, with the same weights and minibatches.

    python -m benchmarks.fidelity.trajectory

This trains scratch and concise on the CPU with ``d2l.train_epoch_ch8`` and with
``Trainer.train_epoch``, and compares the perplexity and all weights after every epoch. At the
textbook's learning rate a difference in the last bit grows until two curves diverge, so the
comparison tests equality. To show this growth, the textbook's scratch loop is also trained with
another number of threads, which changes the order of summation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.common import RESULTS, Experiment, add_peers_option, positive, set_up
from benchmarks.ours import Loop, our_loop, our_model
from benchmarks.peers.chapter import PARAMETERS, gru, init_gru_state
from benchmarks.peers.packages import D2L_VERSION, PeerMissingError, load_d2l
from benchmarks.peers.textbook import textbook_loop, textbook_net
from gru_lm.core.errors import UserError, run_main
from gru_lm.core.files import write_json
from gru_lm.core.variants import Variant
from gru_lm.models.base import LanguageModel
from gru_lm.training.minibatches import Minibatch, epoch_minibatches

FOUR_DIGITS: Final = 5e-5  # relative; half a unit of the fourth digit of 9.999, the strictest case
CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Run:
    """A training. ``train_epoch`` returns the perplexity. All runs have the same weight order."""

    train_epoch: Loop
    weights: list[Tensor]


@dataclass
class Comparison:
    """A run and its reference, with their perplexities and the differences of their weights."""

    reference: Run
    run: Run
    threads: int
    perplexities: list[tuple[float, float]] = field(default_factory=list)
    weight_differences: list[float] = field(default_factory=list)

    def train_epoch(self, minibatches: list[Minibatch], reached: float) -> None:
        """Train the run for an epoch. ``reached`` is the reference's perplexity in that epoch."""
        with _threads(self.threads):
            self.perplexities.append((reached, self.run.train_epoch(minibatches)))
        pairs = zip(self.run.weights, self.reference.weights, strict=True)
        with torch.no_grad():
            self.weight_differences.append(max(float((a - b).abs().max()) for a, b in pairs))

    def summarize(self) -> dict[str, Any]:
        """Return the last epochs with identical weights and with four equal digits."""
        differences = [abs(its - theirs) / theirs for theirs, its in self.perplexities]
        return {
            "threads": self.threads,
            "identical_up_to_epoch": _last_within(self.weight_differences, 0.0),
            "four_digits_up_to_epoch": _last_within(differences, FOUR_DIGITS),
            "largest_relative_difference": max(differences),
            "largest_weight_difference": max(self.weight_differences),
            "perplexities": [its for _, its in self.perplexities],
        }


def textbook_scratch(d2l: ModuleType, start: LanguageModel, lr: float) -> Run:
    """Return ``d2l.RNNModelScratch`` with the chapter's equations and the weights of scratch."""
    weights = dict(start.named_parameters())
    params = [weights[name].detach().clone().requires_grad_() for name in PARAMETERS]
    sizes = (start.vocab_size, start.hidden_size, CPU)
    net = d2l.RNNModelScratch(*sizes, lambda *_: params, init_gru_state, gru)
    return Run(textbook_loop(d2l, net, lr, CPU), params)


def textbook_concise(d2l: ModuleType, start: LanguageModel, lr: float) -> Run:
    """Return ``d2l.RNNModel`` with ``nn.GRU`` and the weights of concise."""
    net = textbook_net(d2l, "concise", start.vocab_size, start.hidden_size, CPU)
    weights = start.state_dict()  # modules gru and linear; the textbook's are rnn and linear
    net.load_state_dict({name.replace("gru.", "rnn."): weights[name] for name in weights})
    return Run(textbook_loop(d2l, net, lr, CPU), list(net.parameters()))


def ours(model: LanguageModel, experiment: Experiment) -> Run:
    """Return a run of this project's ``Trainer``."""
    return Run(our_loop(model, experiment.settings), list(model.parameters()))


def compare(d2l: ModuleType, experiment: Experiment, epochs: int) -> dict[str, Any]:
    """Train all runs on the same minibatches and return the result of each comparison by name."""
    settings, threads = experiment.settings, torch.get_num_threads()
    torch.manual_seed(settings.seed)
    sizes = (experiment.corpus.vocab_size, experiment.hidden_size, CPU)
    scratch = our_model(Variant("scratch"), *sizes)
    concise = our_model(Variant("concise"), *sizes)
    their_scratch = textbook_scratch(d2l, scratch, settings.lr)
    their_concise = textbook_concise(d2l, concise, settings.lr)
    other_threads = textbook_scratch(d2l, scratch, settings.lr)
    comparisons = {
        "scratch": Comparison(their_scratch, ours(scratch, experiment), threads),
        "concise": Comparison(their_concise, ours(concise, experiment), threads),
        "textbook_scratch_other_threads": Comparison(
            their_scratch, other_threads, 2 if threads == 1 else 1
        ),
    }
    cut = (settings.batch_size, settings.num_steps, settings.partition, settings.seed)
    for epoch in range(1, epochs + 1):
        minibatches = list(epoch_minibatches(experiment.corpus.tokens, *cut, epoch))
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
    """Format the result as a table."""
    lines = [f"{f'of {epochs} epochs':<32} {'identical up to':>15} {'4 digits up to':>15}"]
    lines += [
        f"{name:<32} {row['identical_up_to_epoch']:>15} {row['four_digits_up_to_epoch']:>15}"
        for name, row in results.items()
    ]
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fidelity.trajectory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--epochs", type=positive, default=500, metavar="N")
    parser.add_argument("--output", type=Path, default=RESULTS / "trajectory.json")
    add_peers_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    experiment = set_up("trajectory", CPU)
    head = {**experiment.head, "peer": f"d2l {D2L_VERSION}", "epochs": arguments.epochs}
    try:
        d2l = load_d2l(arguments.peers)
    except PeerMissingError as error:
        write_json(arguments.output, {**head, "missing": {"d2l": str(error)}})
        raise UserError(f"missing: d2l ({error}); noted in {arguments.output}") from error
    results = compare(d2l, experiment, arguments.epochs)
    write_json(arguments.output, {**head, "against_the_textbooks_loop": results})
    print(f"\n{table(results, arguments.epochs)}\n\nwritten to {arguments.output}")


def _last_within(differences: list[float], bound: float) -> int:
    """Return the last epoch before a difference exceeds ``bound`` or is NaN."""
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
    run_main("benchmarks.fidelity.trajectory", main)
