"""Measure the training speed of layers at the sizes of a language model.

    python -m benchmarks.speed.language_model

Each model is an embedding of 64 numbers, one recurrent layer and a linear output layer over 65
tokens. It trains on minibatches of 64 sequences of 64 random tokens, with clipped SGD. The layers
of this project's variants, ``nn.GRU`` and JAX train in turn, with 256 and 512 units, one and two
threads, and in float32 and bfloat16.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import RESULTS, describe_machine, file_name, positive
from benchmarks.ours import OURS
from benchmarks.peers.environment import environment
from benchmarks.peers.packages import PeerMissingError
from benchmarks.peers.serving import Job
from benchmarks.peers.worker import Worker
from benchmarks.speed import report
from gru_lm.core.errors import run_main
from gru_lm.core.files import write_json
from gru_lm.training.minibatches import Minibatch

V, EMBEDDING, B, T = 65, 64, 64, 64
LR, CLIP_NORM, SEED = 0.5, 1.0, 0
PRECISIONS: Final = ("fp32", "bf16")
# The target ratio of fused in each precision to a reference.
TARGETS: Final = (
    ("fused-fp32", "nn.GRU-fp32", 1.5),
    ("fused-fp32", "jax", 1.0),
    ("fused-bf16", "nn.GRU-bf16", 1.3),
)

# A function that trains on minibatches.
Train = Callable[[Sequence[Minibatch]], None]


class TorchGRU(nn.Module):
    """``nn.GRU``. Under autocast its inputs, state and weights have autocast's type.

    This is faster than autocast alone, which converts the state at each step.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden_size)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.is_autocast_enabled("cpu"):
            outputs, state = self.gru(inputs, state[None])
            return outputs, state[0]
        dtype = torch.get_autocast_dtype("cpu")
        weights = [weight.to(dtype) for weight in self.gru.all_weights[0]]
        with torch.autocast("cpu", enabled=False):
            inputs, state = inputs.to(dtype), state[None].to(dtype)
            # With biases, one layer, no dropout, in training, one direction, time first.
            outputs, state = torch._VF.gru(inputs, state, weights, True, 1, 0.0, True, False, False)
        return outputs, state[0]


class Model(nn.Module):
    """An embedding, a recurrent ``layer`` of ``hidden_size`` units and a linear output layer."""

    def __init__(self, layer: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, EMBEDDING)
        self.layer = layer
        self.output = nn.Linear(hidden_size, V)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        outputs, state = self.layer(self.embedding(tokens.T), state)
        return self.output(outputs), state  # (T, B, V), (B, H)


def updates(model: nn.Module, state: Tensor, precision: str) -> Train:
    """Return a function that does one update of ``model`` per minibatch, from ``state`` on."""
    weights = list(model.parameters())
    optimizer = torch.optim.SGD(weights, LR)

    def train(minibatches: Sequence[Minibatch]) -> None:
        last = state
        for X, Y in minibatches:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits, last = model(X, last)
            loss = F.cross_entropy(logits.flatten(0, 1).float(), Y.T.flatten())
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, CLIP_NORM)
            optimizer.step()
            last = last.detach().float()

    return train


def layers() -> Iterator[tuple[str, Callable[[int, int], nn.Module]]]:
    """Yield the name and the class of each layer that is there."""
    yield "nn.GRU", TorchGRU
    for variant in OURS:
        try:
            yield variant, importlib.import_module(f"gru_lm.models.{variant}.recurrent").Layer
        except ModuleNotFoundError:
            print(f"missing: {variant} (it has no layer for dense inputs)", flush=True)


def timed(train: Train, minibatches: list[Minibatch]) -> float:
    """Return the seconds that ``train`` needs for ``minibatches``."""
    start = time.perf_counter()
    train(minibatches)
    return time.perf_counter() - start


def in_worker(worker: Worker, minibatches: list[Minibatch]) -> float:
    """Return the seconds that a peer needs for ``minibatches``, by its own clock."""
    return float(worker.train([minibatches])["seconds"])


def jax_worker(folder: Path | None, hidden_size: int, threads: int) -> Worker:
    """Start JAX. Raises PeerMissingError if it is missing."""
    job = Job(V, hidden_size, B, T, LR, CLIP_NORM, SEED, threads, "cpu", EMBEDDING)
    return Worker(environment(folder), "benchmarks.peers.jax_gru", job)


def measure_point(
    hidden_size: int, threads: int, alternations: int, minibatches: int, jax: Path | None
) -> dict[str, Any]:
    """Train every implementation in turn. Returns timings, ratios and targets of this point."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    turns: dict[str, Callable[[list[Minibatch]], float]] = {}
    for (name, layer), precision in itertools.product(layers(), PRECISIONS):
        model = Model(layer(EMBEDDING, hidden_size), hidden_size)
        train = updates(model, torch.zeros(B, hidden_size), precision)
        turns[f"{name}-{precision}"] = partial(timed, train)
    missing = {}
    with ExitStack() as workers:
        try:
            worker = jax_worker(jax, hidden_size, threads)
            workers.callback(worker.close)
            turns["jax"] = partial(in_worker, worker)
        except PeerMissingError as error:
            missing["jax"] = str(error)
            print(f"missing: jax ({error})", flush=True)
        data = [(torch.randint(V, (B, T)), torch.randint(V, (B, T))) for _ in range(minibatches)]
        speeds: dict[str, list[float]] = {name: [] for name in turns}
        for alternation in range(-1, alternations):  # the first one is a warm-up
            order = list(turns)
            random.Random(alternation).shuffle(order)
            for name in order:
                seconds = turns[name](data)
                if alternation >= 0:
                    speeds[name].append(minibatches * B * T / seconds)
    references = ["nn.GRU-fp32", "nn.GRU-bf16", "jax"]
    ratios = report.ratios(speeds, references)
    return {
        "hidden_size": hidden_size,
        "threads": threads,
        "missing": missing,
        "tokens_per_second": {name: report.summarize(one) for name, one in speeds.items()},
        "ratios": ratios,
        "targets": list(judge(speeds)),
    }


def judge(speeds: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    """Yield each target with the ratio of the medians, or None if the reference is missing."""
    for candidate, reference, wanted in TARGETS:
        ratio = None
        if speeds.get(reference):
            median = [report.summarize(speeds[name])["median"] for name in (candidate, reference)]
            ratio = round(median[0] / median[1], 3)
        met = None if ratio is None else ratio >= wanted
        yield {"of": candidate, "to": reference, "wanted": wanted, "ratio": ratio, "met": met}


def table(points: Iterable[dict[str, Any]]) -> str:
    """Format the tokens per second as a table, and the targets below it."""
    points = list(points)
    names = sorted({name for point in points for name in point["tokens_per_second"]})
    heads = [f"{point['hidden_size']} units, {point['threads']} thr." for point in points]
    lines = [f"{'tokens/s':<16}" + "".join(f"{head:>20}" for head in heads)]
    for name in names:
        speeds = [point["tokens_per_second"].get(name) for point in points]
        cells = [f"{one['median']:,.0f}" if one else "missing" for one in speeds]
        lines.append(f"{name:<16}" + "".join(f"{cell:>20}" for cell in cells))
    for number, (candidate, reference, wanted) in enumerate(TARGETS):
        ratios = [point["targets"][number]["ratio"] for point in points]
        lines.append(f"{candidate} / {reference}, at least {wanted}: {ratios}")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.language_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--alternations", type=positive, default=15, metavar="N")
    parser.add_argument("--minibatches-per-turn", type=positive, default=4, metavar="N")
    parser.add_argument("--units", type=positive, nargs="+", default=[256, 512], metavar="N")
    parser.add_argument("--threads", type=positive, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--peers-env", type=Path, metavar="DIR", help="an environment with JAX")
    parser.add_argument("--output", type=Path, help="default: in benchmarks/results")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    cpu = torch.device("cpu")
    torch.set_num_threads(max(arguments.threads))
    output = arguments.output or RESULTS / file_name("language-model", cpu)
    head = {"benchmark": "language_model", **describe_machine(cpu)}
    points = []
    for units, threads in itertools.product(arguments.units, arguments.threads):
        points.append(
            measure_point(
                units,
                threads,
                arguments.alternations,
                arguments.minibatches_per_turn,
                arguments.peers_env,
            )
        )
        print(f"{units} units, {threads} threads done", flush=True)
    sizes = {"vocabulary": V, "embedding": EMBEDDING, "batch_size": B, "num_steps": T}
    turns = {
        "alternations": arguments.alternations,
        "minibatches_per_turn": arguments.minibatches_per_turn,
    }
    write_json(output, {**head, "sizes": sizes, **turns, "points": points})
    print(f"\n{table(points)}\n\nwritten to {output}")


if __name__ == "__main__":
    run_main("benchmarks.speed.language_model", main)
