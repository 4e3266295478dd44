"""Measure the training speed for different sizes, and the peak memory.

    python -m benchmarks.speed.scaling

One size of params.yaml is varied at a time. The textbook's scratch loop and this project's variants
train on random tokens in float32, one minibatch each in turn. A point ends after a fixed number of
rounds or after its time limit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch

from benchmarks.common import RESULTS, Experiment, add_machine_options, file_name, set_up, wait_for
from benchmarks.peers.packages import D2L_VERSION, PeerMissingError, load_d2l
from benchmarks.speed.float32 import (
    IMPLEMENTATIONS,
    TEXTBOOK_SCRATCH,
    float32_loop,
    random_minibatch,
)
from benchmarks.speed.memory import peak_memory
from benchmarks.speed.redraw import write_scaling
from gru_lm.core.errors import run_main
from gru_lm.core.files import write_json
from gru_lm.models.device import choose_device

POINTS: Final = {
    "hidden_size": (64, 128, 256, 512, 1024, 2048),
    "batch_size": (1, 4, 16, 64, 256, 1024),
    "num_steps": (8, 16, 32, 64, 128, 256, 512, 1024),
}
ROUNDS: Final = 15  # maximal number of minibatches per implementation


def measure_point(
    names: list[str],
    d2l: ModuleType | None,
    experiment: Experiment,
    sizes: dict[str, int],
    seconds: float,
    device: torch.device,
) -> dict[str, float]:
    """Return tokens per second by implementation, the median over minibatches after a warm-up.

    No round starts after ``seconds``, but at least one is measured.
    """
    deadline = time.perf_counter() + seconds
    V = experiment.corpus.vocab_size
    minibatch = random_minibatch(V, sizes["batch_size"], sizes["num_steps"], device)
    loops = {
        name: float32_loop(name, d2l, V, sizes["hidden_size"], experiment.settings, device)
        for name in names
    }
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, ROUNDS):
        if number > 0 and time.perf_counter() > deadline:
            break
        for name, train in loops.items():
            wait_for(device)
            start = time.perf_counter()
            train([minibatch])
            wait_for(device)
            if number >= 0:
                speeds[name].append(minibatch[0].numel() / (time.perf_counter() - start))
    return {name: round(statistics.median(values), 1) for name, values in speeds.items()}


def table(result: dict[str, Any]) -> str:
    """Format the result as a table."""
    names = list(result["peak_memory_bytes"])
    lines = [f"{'tokens/s':<20}" + "".join(f"{name:>18}" for name in names)]
    for dimension, points in result["points"].items():
        for point in points:
            speeds = [point["tokens_per_second"][name] for name in names]
            lines.append(
                f"{dimension:<13}{point[dimension]:>7}"
                + "".join(f"{speed:>18,.0f}" for speed in speeds)
            )
    memory = [
        f"{bytes_ / 2**20:,.1f}" if isinstance(bytes_, int) else "unmeasured"
        for bytes_ in result["peak_memory_bytes"].values()
    ]
    lines.append(f"{'peak memory, MiB':<20}" + "".join(f"{text:>18}" for text in memory))
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds-per-point", type=float, default=10.0, metavar="S")
    add_machine_options(parser)
    parser.add_argument(
        "--output",
        type=Path,
        help="the .json; a .png is written beside it "
        "(default: benchmarks/results/scaling-<machine>.json)",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    experiment = set_up("scaling", device)
    settings = experiment.settings
    torch.manual_seed(settings.seed)
    names: list[str] = [*IMPLEMENTATIONS]
    d2l, missing = None, {}
    try:
        d2l = load_d2l(arguments.peers)
    except PeerMissingError as error:
        names.remove(TEXTBOOK_SCRATCH)
        missing["d2l"] = str(error)
        print(f"missing: d2l ({error})", flush=True)

    usual = {
        "hidden_size": experiment.hidden_size,
        "batch_size": settings.batch_size,
        "num_steps": settings.num_steps,
    }
    points: dict[str, list[dict[str, Any]]] = {dimension: [] for dimension in POINTS}
    for dimension, values in POINTS.items():
        for value in sorted({*values, usual[dimension]}):
            sizes = {**usual, dimension: value}
            speeds = measure_point(
                names, d2l, experiment, sizes, arguments.seconds_per_point, device
            )
            points[dimension].append({**sizes, "tokens_per_second": speeds})
            print(f"{dimension} {value} done", flush=True)
    result = {
        **experiment.head,
        "peers": {} if d2l is None else {"d2l": D2L_VERSION},
        "missing": missing,
        "seconds_per_point": arguments.seconds_per_point,
        "points": points,
        "peak_memory_bytes": {name: peak_memory(name, device, arguments.peers) for name in names},
    }
    output = arguments.output or RESULTS / file_name("scaling", device)
    write_json(output, result)
    write_scaling(output, result)
    print(f"\n{table(result)}\n\nwritten to {output}, with a picture (.png) beside it")


if __name__ == "__main__":
    run_main("benchmarks.speed.scaling", main)
