"""Measure the training speed of two processes, and of one process with one and with two threads.

    python -m benchmarks.speed.processes

The variants train with the sizes of params.yaml and with 512 units. The three layouts take turns,
each in new processes, so a slow phase of the machine affects all of them. With several processes
the sum of the gradients, without the computation, is timed too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.common import RESULTS, ROOT, Experiment, file_name, positive, set_up
from benchmarks.speed.report import summarize
from gru_lm.core.errors import UserError, run_main
from gru_lm.core.files import write_json
from gru_lm.models.base import build_model
from gru_lm.training.loop import Training
from gru_lm.training.ranks import Gradients, Ranks, joined

VARIANTS: Final = ("scratch", "concise", "fused")
LAYOUTS: Final = ((1, 1), (1, 2), (2, 1))  # processes, and threads of each
WARM_UP, EPOCHS, MESSAGES = 2, 8, 20


def speeds(experiment: Experiment, sizes: list[int], ranks: Ranks) -> dict[str, float]:
    """Return the tokens per second of each variant and size, and the seconds of each message."""
    found = {}
    for variant in VARIANTS:
        for size in sizes:
            torch.manual_seed(experiment.settings.seed)
            model = build_model(variant, experiment.corpus.vocab_size, hidden_size=size)
            settings = experiment.settings.model_copy(update={"epochs": WARM_UP + EPOCHS})
            training = Training(model, experiment.corpus.tokens, settings, ranks=ranks)
            rows = []
            while not training.is_over:
                if (row := training.advance()) is not None:
                    rows.append(row.tokens / row.seconds)
            found[f"{variant}-{size}"] = statistics.median(rows[WARM_UP:])
            if ranks.size > 1:
                buffer = Gradients(list(model.parameters())).buffer
                times = []
                for _ in range(MESSAGES):
                    start = time.perf_counter()
                    ranks.add(buffer)
                    times.append(time.perf_counter() - start)
                found[f"seconds to add {4 * len(buffer)} bytes"] = statistics.median(times)
    return found


def in_processes(processes: int, threads: int, sizes: list[int]) -> dict[str, float]:
    """Return the ``speeds`` of one layout, measured in new processes."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command += ["-m"]
    command += ["benchmarks.speed.processes", "--worker", str(threads)]
    command += ["--sizes", *map(str, sizes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError((done.stderr.strip().splitlines() or ["no message"])[-1])
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.processes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=positive, default=5, metavar="N")
    parser.add_argument("--sizes", type=positive, nargs="+", default=[256, 512], metavar="H")
    parser.add_argument("--worker", type=positive, metavar="THREADS", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/processes-….json")
    given = parser.parse_args()
    experiment = set_up("processes", torch.device("cpu"))
    if given.worker:
        torch.set_num_threads(given.worker)
        with joined("cpu") as ranks:
            measured = speeds(experiment, given.sizes, ranks)
        if ranks.first:
            print(json.dumps(measured))
        return
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(given.rounds):
        for processes, threads in LAYOUTS:
            layout = f"{processes} x {threads} thread{'s' if threads > 1 else ''}"
            for name, value in in_processes(processes, threads, given.sizes).items():
                found[layout][name].append(value)
        print(f"round {number + 1} of {given.rounds} done", flush=True)
    layouts: dict[str, Any] = {
        layout: {
            name: {"median": statistics.median(values), "each": values}
            if name.startswith("seconds")
            else summarize(values)
            for name, values in of_layout.items()
        }
        for layout, of_layout in found.items()
    }
    output = given.output or RESULTS / file_name("processes", torch.device("cpu"))
    write_json(output, {**experiment.head, "rounds": given.rounds, "layouts": layouts})
    print(f"written to {output}")


if __name__ == "__main__":
    run_main("benchmarks.speed.processes", main)
