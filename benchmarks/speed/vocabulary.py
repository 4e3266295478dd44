"""Measure the training speed and peak memory of word models by the size of the vocabulary.

    python -m benchmarks.speed.vocabulary

Each model has an embedding of 256 numbers, one layer of 256 GRU units and an output layer. It
trains on minibatches of 32 sequences of 35 tokens with clipped SGD. The tokens are random and as
frequent as words: the probability of the token with rank r is proportional to 1 / r (Zipf's law).
concise trains with the full softmax in float32 and in bfloat16, and with the adaptive softmax in
both. ``plain`` is torch's nn.Embedding, nn.GRU, nn.Linear and cross_entropy in a loop of their own.
All run in one thread and in turn. Peak memory is that of a new process which trains some
minibatches: the maximal resident set, with all libraries (Linux only).
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.common import RESULTS, ROOT, describe_machine, file_name, positive
from benchmarks.speed import report
from benchmarks.speed.language_model import CLIP_NORM, LR, SEED, Train, updates
from benchmarks.speed.memory import process_status
from gru_lm.core.errors import UserError, run_main
from gru_lm.core.files import write_json
from gru_lm.models.base import build_model
from gru_lm.training.minibatches import Minibatch
from gru_lm.training.settings import Precision
from gru_lm.training.trainer import Trainer

EMBEDDING, H, B, T = 256, 256, 32, 35
VOCABULARIES: Final = (28, 1_000, 10_000, 50_000)
OURS: Final[dict[str, tuple[str, Precision]]] = {
    "full, fp32": ("full", "fp32"),
    "full, bf16": ("full", "bf16"),
    "adaptive, fp32": ("adaptive", "fp32"),
    "adaptive, bf16": ("adaptive", "bf16"),
}
PLAIN: Final = ("plain, fp32", "plain, bf16")
TARGET: Final = {"vocabulary": 50_000, "tokens_per_second": 3_000, "peak_bytes": 1_500_000_000}


class Plain(nn.Module):
    """torch's own layers, put together in the usual way."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, EMBEDDING)
        self.gru = nn.GRU(EMBEDDING, H)
        self.output = nn.Linear(H, vocab_size)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        outputs, state = self.gru(self.embedding(tokens.T), state)
        return self.output(outputs), state  # (T, B, V), (1, B, H)


def our_loop(vocab_size: int, output: str, precision: Precision) -> Train:
    """Return a function that trains concise with an ``output`` layer as a stage does."""
    options = {} if output == "full" else {"output": output}
    model = build_model("concise", vocab_size, hidden_size=H, embedding_size=EMBEDDING, **options)
    optimizer = torch.optim.SGD(model.parameters(), LR)
    trainer = Trainer(model, optimizer, CLIP_NORM, precision)

    def train(minibatches: Sequence[Minibatch]) -> None:
        trainer.train_epoch(minibatches, carry_state=True)

    return train


def loop_of(name: str, vocab_size: int) -> Train:
    """Return the training loop of ``name``. Raises UserError if the vocabulary is too small."""
    torch.manual_seed(SEED)
    if name in PLAIN:
        return updates(Plain(vocab_size), torch.zeros(1, B, H), name.rpartition(" ")[2])
    return our_loop(vocab_size, *OURS[name])


def zipf_minibatches(vocab_size: int, number: int) -> list[Minibatch]:
    """Return minibatches of random tokens whose probability is proportional to 1 / rank."""
    generator = torch.Generator().manual_seed(SEED)
    weights = 1 / torch.arange(1, vocab_size + 1, dtype=torch.float64)

    def drawn() -> Tensor:
        return torch.multinomial(weights, B * T, True, generator=generator).view(B, T)

    return [(drawn(), drawn()) for _ in range(number)]


def peak_memory(name: str, vocab_size: int) -> int:
    """Return the peak memory of training ``name`` in a new process, in bytes."""
    command = [sys.executable, "-m", "benchmarks.speed.vocabulary", "--peak", name, str(vocab_size)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return int(done.stdout)


def print_peak(name: str, vocab_size: int) -> None:
    """Train three minibatches and print the peak memory of this process."""
    torch.set_num_threads(1)
    train = loop_of(name, vocab_size)
    train(zipf_minibatches(vocab_size, 3))
    print(process_status("VmHWM"))  # getrusage would include the parent's size at the fork


def measure_point(vocab_size: int, alternations: int, minibatches: int) -> dict[str, Any]:
    """Train every loop in turn with a vocabulary. Returns speeds and peak memory by name."""
    names = [*PLAIN, *OURS]
    loops = {name: loop_of(name, vocab_size) for name in names}
    data = zipf_minibatches(vocab_size, minibatches)
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for alternation in range(-1, alternations):  # the first one is a warm-up
        order = list(loops)
        random.Random(alternation).shuffle(order)
        for name in order:
            start = time.perf_counter()
            loops[name](data)
            if alternation >= 0:
                speeds[name].append(minibatches * B * T / (time.perf_counter() - start))
    del loops  # the processes that measure memory need it
    return {
        "vocabulary": vocab_size,
        "tokens_per_second": {name: report.summarize(one) for name, one in speeds.items()},
        "ratios": report.ratios(speeds, PLAIN),
        "peak_bytes": {name: peak_memory(name, vocab_size) for name in speeds},
    }


def table(points: Sequence[dict[str, Any]]) -> str:
    """Format tokens per second and peak memory as a table."""
    lines = [f"{'tokens/s, peak':<16}" + "".join(f"{p['vocabulary']:>22,}" for p in points)]
    for name in [*PLAIN, *OURS]:
        cells = []
        for point in points:
            speed, peak = point["tokens_per_second"][name]["median"], point["peak_bytes"][name]
            cells.append(f"{speed:,.0f}, {peak / 1e6:,.0f} MB")
        lines.append(f"{name:<16}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def reached(points: Sequence[dict[str, Any]]) -> dict[str, bool | None]:
    """Return whether each of our loops reaches the TARGET, or None if it was not measured."""
    for point in points:
        if point["vocabulary"] == TARGET["vocabulary"]:
            return {
                name: point["tokens_per_second"][name]["median"] >= TARGET["tokens_per_second"]
                and point["peak_bytes"][name] <= TARGET["peak_bytes"]
                for name in OURS
            }
    return dict.fromkeys(OURS)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.vocabulary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--alternations", type=positive, default=7, metavar="N")
    parser.add_argument("--minibatches-per-turn", type=positive, default=3, metavar="N")
    parser.add_argument(
        "--vocabularies", type=positive, nargs="+", default=VOCABULARIES, metavar="V"
    )
    parser.add_argument("--output", type=Path, help="default: in benchmarks/results")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(arguments.peak[0], int(arguments.peak[1]))
        return
    cpu = torch.device("cpu")
    torch.set_num_threads(1)
    output = arguments.output or RESULTS / file_name("vocabulary", cpu)
    head = {"benchmark": "vocabulary", **describe_machine(cpu)}
    points = []
    for vocab_size in arguments.vocabularies:
        points.append(
            measure_point(vocab_size, arguments.alternations, arguments.minibatches_per_turn)
        )
        print(f"{vocab_size:,} tokens done", flush=True)
    sizes = {"embedding": EMBEDDING, "hidden_size": H, "batch_size": B, "num_steps": T}
    turns = {
        "alternations": arguments.alternations,
        "minibatches_per_turn": arguments.minibatches_per_turn,
    }
    result = {**head, "sizes": sizes, **turns, "points": points}
    write_json(output, {**result, "target": TARGET, "reached": reached(points)})
    print(f"\n{table(points)}\n\nreached: {reached(points)}\nwritten to {output}")


if __name__ == "__main__":
    run_main("benchmarks.speed.vocabulary", main)
