"""Measure the training and sampling speed of every implementation on the same tokens.

    python -m benchmarks.speed.training

The implementations are the textbook's loop (d2l 0.17.6), this project's variants in each precision,
JAX and Keras, with the sizes of params.yaml. They train in turn, so a slow phase of the machine
affects all of them. The same run measures one large matrix product, and sampling. A peer that
cannot be installed or run is reported as missing.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch

from benchmarks.common import RESULTS, add_machine_options, file_name, positive, set_up
from benchmarks.ours import OURS, precisions
from benchmarks.peers.packages import D2L_VERSION, PeerMissingError, load_d2l
from benchmarks.speed import report
from benchmarks.speed.implementations import (
    Implementations,
    add_flashrnn,
    add_ours,
    add_textbook,
    add_workers,
)
from benchmarks.speed.redraw import write_training
from benchmarks.speed.roofline import SIZE, MatrixProduct, flop_per_token
from benchmarks.speed.sampling import LENGTH, PREFIX, time_sampling
from gru_lm.core.errors import run_main
from gru_lm.core.files import write_json
from gru_lm.models.device import choose_device
from gru_lm.training.settings import Precision

WARM_UP_TURNS: Final = 1


def measure(
    implementations: Implementations,
    products: dict[Precision, MatrixProduct],
    alternations: int,
) -> dict[Precision, list[float]]:
    """Train all implementations in turn, ``alternations`` times after a warm-up.

    Returns the operations per second of the matrix products, one value per alternation.
    """
    operations: dict[Precision, list[float]] = {precision: [] for precision in products}
    for alternation in range(-WARM_UP_TURNS, alternations):
        order = list(implementations.present.items())
        random.Random(alternation).shuffle(order)  # avoids effects of a fixed order
        for name, one in order:
            try:
                turn = one.train()
            except PeerMissingError as error:
                implementations.leave_out(name, str(error))
                continue
            one.perplexity = turn.perplexity
            if alternation >= 0:
                one.speeds.append(turn.tokens / turn.seconds)
        for precision, product in products.items():
            speed = product.turn()
            if alternation >= 0:
                operations[precision].append(speed)
        done = f"alternation {alternation + 1} of {alternations}" if alternation >= 0 else "warm-up"
        print(f"{done} done", flush=True)
    return operations


def summarize(
    implementations: Implementations, operations: dict[Precision, list[float]], flop: int
) -> dict[str, Any]:
    """Return timings, medians, ratios, and shares of the matrix products' speed."""
    shares = {}
    for name, one in implementations.present.items():
        if name.startswith(OURS):
            achieved = flop * statistics.median(one.speeds)
            possible = statistics.median(operations[one.precision])
            shares[name] = {
                "flop_per_second": round(achieved),
                "matrix_product_flop_per_second": round(possible),
                "share": round(achieved / possible, 4),
            }
    return {
        "implementations": {
            name: {
                "label": one.label,
                "precision": one.precision,
                "tokens_per_second": report.summarize(one.speeds),
                "last_perplexity": one.perplexity if math.isfinite(one.perplexity) else None,
            }
            for name, one in implementations.present.items()
        },
        "ratios": report.ratios(implementations.speeds(), [*report.REFERENCES, "concise-fp32"]),
        "roofline": {"flop_per_token": flop, "matrix_size": SIZE, "shares": shares},
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--alternations", type=positive, default=15, metavar="N")
    parser.add_argument("--epochs-per-turn", type=positive, default=3, metavar="N")
    add_machine_options(parser)
    parser.add_argument(
        "--output",
        type=Path,
        help="the .json; a .md and a .png are written beside it "
        "(default: benchmarks/results/speed-<machine>.json)",
    )
    parser.add_argument(
        "--peers-env", type=Path, metavar="DIR", help="an environment with JAX and Keras"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    experiment = set_up("speed", device)
    corpus, hidden_size, epochs = (
        experiment.corpus,
        experiment.hidden_size,
        arguments.epochs_per_turn,
    )
    torch.manual_seed(experiment.settings.seed)
    random.seed(experiment.settings.seed)  # for d2l's random offsets

    implementations = Implementations()
    with ExitStack() as workers:
        d2l: ModuleType | None = None
        try:
            d2l = load_d2l(arguments.peers)
            implementations.versions["d2l"] = D2L_VERSION
            add_textbook(implementations, d2l, experiment, epochs, device)
        except PeerMissingError as error:
            implementations.leave_out("textbook", str(error))
        add_ours(implementations, experiment, epochs, device)
        add_flashrnn(implementations, arguments.peers, experiment, epochs, device)
        add_workers(implementations, arguments.peers_env, experiment, epochs, device, workers)
        products = {precision: MatrixProduct(precision, device) for precision in precisions(device)}
        operations = measure(implementations, products, arguments.alternations)
    written = time_sampling(d2l, corpus, hidden_size, arguments.alternations)

    result = {
        **experiment.head,
        "peers": implementations.versions,
        "missing": implementations.missing,
        "alternations": arguments.alternations,
        "epochs_per_turn": epochs,
        "warm_up_turns": WARM_UP_TURNS,
        **summarize(implementations, operations, flop_per_token(corpus.vocab_size, hidden_size)),
        "sampling": {
            "prefix": PREFIX,
            "length": LENGTH,
            "characters_per_second": {
                name: report.summarize(speeds) for name, speeds in written.items()
            },
            "ratios": report.ratios(written, report.SAMPLING_REFERENCES),
        },
        "targets": report.judge(device.type, implementations.speeds(), written),
    }
    output = arguments.output or RESULTS / file_name("speed", device)
    write_json(output, result)
    page = write_training(output, result)
    print(f"\n{page}\nwritten to {output}, with a page (.md) and a picture (.png) beside it")


if __name__ == "__main__":
    run_main("benchmarks.speed.training", main)
