"""Training speed of every implementation on the same tokens, in turn in one run.

    python -m benchmarks.speed

The textbook's own loop (d2l 0.17.6), this project's variants in each precision, JAX and Keras, all
with the sizes of params.yaml. They take turns, so that whatever slows the machine down for a while
slows each of them. Measured in the same run: what one large matrix product reaches, and sampling.
A peer that cannot be had is reported as missing, and the others are timed without it.
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

from benchmarks import picture, report
from benchmarks.common import RESULTS, add_machine_options, file_name, positive, set_up
from benchmarks.contestants import OURS, precisions
from benchmarks.line_up import LineUp, add_flashrnn, add_ours, add_peers, add_textbook
from benchmarks.peers import D2L_VERSION, PeerMissingError, load_d2l
from benchmarks.roofline import SIZE, MatrixProduct, flop_per_token
from benchmarks.sampling import LENGTH, PREFIX, time_sampling
from gru_lm.core.errors import run_stage
from gru_lm.core.files import write_bytes, write_json, write_text
from gru_lm.core.params import Precision
from gru_lm.models.device import choose_device

WARM_UP_TURNS: Final = 1


def measure(
    line_up: LineUp, products: dict[Precision, MatrixProduct], alternations: int
) -> dict[Precision, list[float]]:
    """Let the contestants train in turn, again and again; the warm-up turns are not kept.

    Returns the matrix products' operations a second, one for each alternation as well.
    """
    operations: dict[Precision, list[float]] = {precision: [] for precision in products}
    for alternation in range(-WARM_UP_TURNS, alternations):
        order = list(line_up.contestants.items())
        random.Random(alternation).shuffle(order)  # so that nobody always follows the same one
        for name, contestant in order:
            try:
                turn = contestant.train()
            except PeerMissingError as error:
                line_up.leave_out(name, str(error))
                continue
            contestant.perplexity = turn.perplexity
            if alternation >= 0:
                contestant.speeds.append(turn.tokens / turn.seconds)
        for precision, product in products.items():
            speed = product.turn()
            if alternation >= 0:
                operations[precision].append(speed)
        done = f"alternation {alternation + 1} of {alternations}" if alternation >= 0 else "warm-up"
        print(f"{done} done", flush=True)
    return operations


def summarize(
    line_up: LineUp, operations: dict[Precision, list[float]], flop: int
) -> dict[str, Any]:
    """All timings with their medians, the ratios, and the shares of the matrix products' speed."""
    shares = {}
    for name, contestant in line_up.contestants.items():
        if name.startswith(OURS):
            achieved = flop * statistics.median(contestant.speeds)
            possible = statistics.median(operations[contestant.precision])
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
            for name, one in line_up.contestants.items()
        },
        "ratios": report.ratios(line_up.speeds(), [*report.REFERENCES, "concise-fp32"]),
        "roofline": {"flop_per_token": flop, "matrix_size": SIZE, "shares": shares},
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--alternations", type=positive, default=15, metavar="N")
    parser.add_argument("--epochs-per-turn", type=positive, default=3, metavar="N")
    add_machine_options(parser)
    parser.add_argument(
        "--output",
        type=Path,
        help="the .json; a .md and a .png go beside it "
        "(default: benchmarks/results/speed-<machine>.json)",
    )
    parser.add_argument(
        "--peers-env", type=Path, metavar="DIR", help="an environment that holds JAX and Keras"
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
    random.seed(experiment.settings.seed)  # d2l draws its offsets from it

    line_up = LineUp()
    with ExitStack() as workers:
        d2l: ModuleType | None = None
        try:
            d2l = load_d2l(arguments.peers)
            line_up.peers["d2l"] = D2L_VERSION
            add_textbook(line_up, d2l, experiment, epochs, device)
        except PeerMissingError as error:
            line_up.leave_out("textbook", str(error))
        add_ours(line_up, experiment, epochs, device)
        add_flashrnn(line_up, arguments.peers, experiment, epochs, device)
        add_peers(line_up, arguments.peers_env, experiment, epochs, device, workers)
        products = {precision: MatrixProduct(precision, device) for precision in precisions(device)}
        operations = measure(line_up, products, arguments.alternations)
    written = time_sampling(d2l, corpus, hidden_size, arguments.alternations)

    result = {
        **experiment.head,
        "peers": line_up.peers,
        "missing": line_up.missing,
        "alternations": arguments.alternations,
        "epochs_per_turn": epochs,
        "warm_up_turns": WARM_UP_TURNS,
        **summarize(line_up, operations, flop_per_token(corpus.vocab_size, hidden_size)),
        "sampling": {
            "prefix": PREFIX,
            "length": LENGTH,
            "characters_per_second": {
                name: report.summarize(speeds) for name, speeds in written.items()
            },
            "ratios": report.ratios(written, report.SAMPLING_REFERENCES),
        },
        "targets": report.judge(device.type, line_up.speeds(), written),
    }
    output = arguments.output or RESULTS / file_name("speed", device)
    page = report.markdown(result)
    write_json(output, result)
    write_text(output.with_suffix(".md"), page)
    write_bytes(output.with_suffix(".png"), picture.speed_bars(result))
    print(f"\n{page}\nwritten to {output}, with a page (.md) and a picture (.png) beside it")


if __name__ == "__main__":
    run_stage("benchmarks.speed", main)
