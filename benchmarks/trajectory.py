"""Does our loop train as the textbook's does, from the same weights on the same minibatches?

    python -m benchmarks.trajectory

Trains the scratch GRU with the textbook's loop and with ours, epoch by epoch side by side, and
compares the epoch perplexities. Two correct programs that sum in a different order differ by
rounding, and training at this learning rate may let such a difference grow until the curves part.
To tell that from a difference of method, two more runs show what rounding alone does: the
textbook's loop against itself with another number of threads, and against itself with every weight
of the start moved to the next number that the floating point type has. In float64 rounding is some
10^9 times finer, so that the curves must part later if rounding is all that parts them; a
difference of method would part them at the same epoch.

An epoch's perplexity rounds small differences away, so the weights are compared too. A run whose
weights never differ from the textbook's was not disturbed: it says nothing about rounding, and is
reported as such.

All runs are on the CPU. In float32 the textbook's loop is ``d2l.train_epoch_ch8``. d2l turns its
inputs into float32 whatever the weights are, so for float64 the loop is written out here
(``textbook_epoch``); that it does the same is checked in float32, bit for bit.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.chapter import PARAMETERS, gru, init_gru_state
from benchmarks.common import RESULTS, describe_machine, load_corpus, positive, textbook_settings
from benchmarks.peers import D2L_VERSION, ROOT, PeerMissingError, load_d2l
from gru_lm.batching import Minibatch, epoch_minibatches, require_enough_tokens
from gru_lm.errors import UserError, run_stage
from gru_lm.files import write_json
from gru_lm.scratch import ScratchGRU
from gru_lm.settings import Train, load_settings
from gru_lm.training import Trainer, make_optimizer

TOLERANCE: Final = 5e-5  # half a unit of the fourth digit of 9.999, the strictest case
CHECKED_EPOCHS: Final = 3
MILESTONES: Final = (1, 2, 5, 10, 20, 50, 100, 150, 200, 250, 300, 350, 400, 450, 500)
RUNS: Final = {
    "ours": "this project's loop",
    "textbook_other_threads": "the textbook's loop, other number of threads",
    "textbook_one_ulp": "the textbook's loop, weights moved by one ulp",
}
CPU: Final = torch.device("cpu")

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Run:
    """A training: ``train_epoch`` returns the perplexity; ``weights`` as in ``PARAMETERS``."""

    train_epoch: Callable[[list[Minibatch]], float]
    weights: list[Tensor]


def d2l_loop(d2l: ModuleType, weights: Weights, lr: float) -> Run:
    """``d2l.train_epoch_ch8`` on ``d2l.RNNModelScratch``, starting from ``weights``."""
    params = _copies(weights)
    vocab_size, num_hiddens = weights["W_xz"].shape
    net = d2l.RNNModelScratch(vocab_size, num_hiddens, CPU, lambda *_: params, init_gru_state, gru)

    def updater(batch_size: int) -> None:
        d2l.sgd(params, lr, batch_size)

    loss = nn.CrossEntropyLoss()

    def train_epoch(minibatches: list[Minibatch]) -> float:
        perplexity, _ = d2l.train_epoch_ch8(net, minibatches, loss, updater, CPU, False)
        return float(perplexity)

    return Run(train_epoch, params)


def plain_loop(weights: Weights, lr: float) -> Run:
    """The textbook's loop in plain torch, in the precision of ``weights``."""
    params = _copies(weights)
    return Run(lambda minibatches: textbook_epoch(params, minibatches, lr), params)


def textbook_epoch(params: list[Tensor], minibatches: list[Minibatch], lr: float) -> float:
    """One epoch of what ``train_epoch_ch8``, ``grad_clipping`` (to norm 1) and ``sgd`` do."""
    (vocab_size, num_hiddens), dtype = params[0].shape, params[0].dtype
    total, num_tokens = 0.0, 0
    H: Tensor | None = None
    for X, Y in minibatches:
        H = params[0].new_zeros(len(X), num_hiddens) if H is None else H.detach()
        one_hot = F.one_hot(X.T, vocab_size).to(dtype)
        logits, (H,) = gru(one_hot, (H,), params)
        loss = F.cross_entropy(logits, Y.T.reshape(-1))
        gradients = torch.autograd.grad(loss, params)
        norm = torch.sqrt(sum(((gradient**2).sum() for gradient in gradients), torch.zeros(())))
        with torch.no_grad():
            for param, gradient in zip(params, gradients, strict=True):
                param -= lr * (gradient * (1 / norm) if norm > 1 else gradient) / 1
        total += float(loss.detach() * Y.numel())
        num_tokens += Y.numel()
    return math.exp(total / num_tokens)


def our_loop(weights: Weights, settings: Train) -> Run:
    """This project's ``ScratchGRU`` and ``Trainer``, starting from ``weights``."""
    model = ScratchGRU.from_weights(weights)
    trainer = Trainer(model, make_optimizer(model, settings), settings.clip_norm)
    dtype = weights["W_xz"].dtype

    def train_epoch(minibatches: list[Minibatch]) -> float:
        with _default_dtype(dtype):  # the loss is summed in it
            perplexity, _ = trainer.train_epoch(minibatches, carry_state=True)
        return perplexity

    return Run(train_epoch, [getattr(model, name) for name in PARAMETERS])


def one_ulp_away(weights: Weights) -> dict[str, Tensor]:
    """A copy of ``weights``, each moved to the next larger number of its type."""
    return {
        name: torch.nextafter(weight, torch.full_like(weight, math.inf))
        for name, weight in weights.items()
    }


class Comparison:
    """The perplexities and weights of one run beside those of the textbook's loop."""

    def __init__(self) -> None:
        self.theirs: list[float] = []
        self.its: list[float] = []
        self.weight_differences: list[float] = []

    def add(self, theirs: float, its: float, their_weights: list[Tensor], run: Run) -> None:
        """Note an epoch's perplexities, and the weights after it."""
        self.theirs.append(theirs)
        self.its.append(its)
        with torch.no_grad():
            self.weight_differences.append(
                max(
                    float((mine - weight).abs().max())
                    for mine, weight in zip(run.weights, their_weights, strict=True)
                )
            )

    def summarize(self) -> dict[str, Any]:
        """Up to which epoch the two agree, and how their difference grows."""
        differences = [
            abs(mine - theirs) / theirs for theirs, mine in zip(self.theirs, self.its, strict=True)
        ]
        epochs = len(differences)
        shown = [epoch for epoch in MILESTONES if epoch < epochs] + [epochs]
        return {
            "agrees_up_to_epoch": _first(differences, TOLERANCE, epochs + 1) - 1,
            "identical_up_to_epoch": _first(differences, 0.0, epochs + 1) - 1,
            "largest_relative_difference": max(differences),
            "weights_differ": max(self.weight_differences) > 0,
            "weights_identical_up_to_epoch": _first(self.weight_differences, 0.0, epochs + 1) - 1,
            "first_epoch_beyond": {
                f"1e{power}": _first(differences, 10.0**power, None) for power in range(-15, 0)
            },
            "milestones": [
                {
                    "epoch": epoch,
                    "textbook": self.theirs[epoch - 1],
                    "run": self.its[epoch - 1],
                    "relative_difference": differences[epoch - 1],
                    "largest_weight_difference": self.weight_differences[epoch - 1],
                }
                for epoch in shown
            ],
        }


def compare(
    textbook: Callable[[Weights], Run],
    weights: Weights,
    minibatches: Callable[[int], list[Minibatch]],
    settings: Train,
    epochs: int,
) -> dict[str, Any]:
    """Train the textbook's loop and each of ``RUNS`` side by side from ``weights``."""
    threads = torch.get_num_threads()
    other_threads = 1 if threads > 1 else 2
    reference = textbook(weights)
    runs = {
        "ours": our_loop(weights, settings),
        "textbook_other_threads": textbook(weights),
        "textbook_one_ulp": textbook(one_ulp_away(weights)),
    }
    comparisons = {name: Comparison() for name in runs}
    for epoch in range(1, epochs + 1):
        pieces = minibatches(epoch)
        theirs = reference.train_epoch(pieces)
        for name, run in runs.items():
            with _threads(other_threads if name == "textbook_other_threads" else threads):
                its = run.train_epoch(pieces)
            comparisons[name].add(theirs, its, reference.weights, run)
        if epoch % max(1, epochs // 20) == 0:
            print(f"  epoch {epoch} of {epochs}, perplexity {theirs:.4g}", flush=True)
    return {
        "threads": threads,
        "other_threads": other_threads,
        **{name: comparison.summarize() for name, comparison in comparisons.items()},
    }


def plain_loop_is_d2l(
    d2l: ModuleType, weights: Weights, minibatches: Callable[[int], list[Minibatch]], lr: float
) -> bool:
    """Whether ``textbook_epoch`` gives d2l's perplexities and weights bit for bit in float32."""
    theirs, plain = d2l_loop(d2l, weights, lr), plain_loop(weights, lr)
    same = all(
        theirs.train_epoch(minibatches(epoch)) == plain.train_epoch(minibatches(epoch))
        for epoch in range(1, CHECKED_EPOCHS + 1)
    )
    return same and all(map(torch.equal, theirs.weights, plain.weights))


def table(result: dict[str, Any]) -> str:
    """The result for a reader."""
    head = ("against the textbook's loop", "agrees up to", "perplexity by", "weights by")
    lines = ["{:<56} {:>12} {:>13} {:>12}".format(*head)]
    for precision in ("float32", "float64"):
        for name, words in RUNS.items():
            row = result[precision][name]
            weights = (
                f"{row['milestones'][-1]['largest_weight_difference']:>12.1e}"
                if row["weights_differ"]
                else "  undisturbed: says nothing"
            )
            lines.append(
                f"{precision + ': ' + words:<56} {row['agrees_up_to_epoch']:>12} "
                f"{row['largest_relative_difference']:>13.1e} {weights}"
            )
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
    parameters = load_settings(ROOT / "params.yaml")
    settings, hidden_size = textbook_settings(parameters.train), parameters.model.hidden_size
    corpus = load_corpus()
    require_enough_tokens(len(corpus.tokens), settings.batch_size, settings.num_steps)
    result: dict[str, Any] = {
        "benchmark": "trajectory",
        **describe_machine(CPU),
        "peer": f"d2l {D2L_VERSION}",
        "sizes": {
            "corpus": corpus.source,
            "tokens": len(corpus.tokens),
            "vocabulary": corpus.vocab_size,
            "batch_size": settings.batch_size,
            "num_steps": settings.num_steps,
            "hidden_size": hidden_size,
            "lr": settings.lr,
            "clip_norm": settings.clip_norm,
            "seed": settings.seed,
        },
        "epochs": arguments.epochs,
        "tolerance": TOLERANCE,
        "runs": RUNS,
    }
    try:
        d2l = load_d2l(arguments.peers)
    except PeerMissingError as error:
        write_json(arguments.output, {**result, "missing": {"d2l": str(error)}})
        raise UserError(f"missing: d2l ({error}); noted in {arguments.output}") from error

    def minibatches(epoch: int) -> list[Minibatch]:
        return list(
            epoch_minibatches(
                corpus.tokens,
                settings.batch_size,
                settings.num_steps,
                "sequential",
                settings.seed,
                epoch,
            )
        )

    torch.manual_seed(settings.seed)
    single = _weights(ScratchGRU(corpus.vocab_size, hidden_size))
    double = {name: weight.double() for name, weight in single.items()}

    result["plain_loop_is_d2l"] = plain_loop_is_d2l(d2l, single, minibatches, settings.lr)
    print(f"plain loop and d2l bit for bit the same: {result['plain_loop_is_d2l']}", flush=True)
    print("float32", flush=True)
    result["float32"] = compare(
        lambda weights: d2l_loop(d2l, weights, settings.lr),
        single,
        minibatches,
        settings,
        arguments.epochs,
    )
    print("float64", flush=True)
    result["float64"] = compare(
        lambda weights: plain_loop(weights, settings.lr),
        double,
        minibatches,
        settings,
        arguments.epochs,
    )
    write_json(arguments.output, result)
    print(f"\n{table(result)}\n\nwritten to {arguments.output}")


def _weights(model: ScratchGRU) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def _copies(weights: Weights) -> list[Tensor]:
    return [weights[name].detach().clone().requires_grad_(True) for name in PARAMETERS]


def _first(differences: list[float], bound: float, otherwise: Any) -> Any:
    """The first epoch whose difference is beyond ``bound`` or not a number."""
    return next(
        (epoch for epoch, difference in enumerate(differences, start=1) if not difference <= bound),
        otherwise,
    )


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    run_stage("benchmarks.trajectory", main)
