"""Time fused on a GPU with its own kernels and with the persistent ones, in turn.

    python -m benchmarks.kernels.race

This writes ``benchmarks/results/persistent-<machine>.json``. It fails if the two kernels reach
different perplexities. It needs a CUDA GPU.
"""

from __future__ import annotations

import argparse
import random
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks.common import RESULTS, file_name, positive, set_up
from benchmarks.kernels.persistent import PersistentLoops
from benchmarks.ours import our_loop, our_model
from benchmarks.speed.implementations import Implementation, all_epochs, turn_here
from benchmarks.speed.report import ratio, summarize
from gru_lm.core.errors import UserError, run_main
from gru_lm.core.files import write_json
from gru_lm.core.variants import Variant
from gru_lm.models.device import choose_device
from gru_lm.models.fused import steps as fused
from gru_lm.models.fused.gpu import KernelLoops

LOOPS = {"fused": KernelLoops, "fused-persistent": PersistentLoops}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels.race",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--alternations", type=positive, default=15, metavar="N")
    parser.add_argument("--epochs-per-turn", type=positive, default=3, metavar="N")
    parser.add_argument("--output", type=Path, help="the .json")
    arguments = parser.parse_args()
    device = choose_device("cuda")
    experiment = set_up("persistent", device)
    sizes = experiment.corpus.vocab_size, experiment.hidden_size
    implementations: dict[str, Implementation] = {}
    for name in LOOPS:
        torch.manual_seed(experiment.settings.seed)
        loop = our_loop(our_model(Variant("fused"), *sizes, device), experiment.settings)
        cut = partial(next, all_epochs(experiment, device))
        turn = partial(turn_here, loop, cut, arguments.epochs_per_turn, device)
        implementations[name] = Implementation(name, turn)
    for alternation in range(-1, arguments.alternations):  # the first is a warm-up
        order = list(implementations.items())
        random.Random(alternation).shuffle(order)
        for name, one in order:
            # The warm-up captures the kernels in a CUDA graph, which the later turns replay.
            with patch.object(fused, "loops_for", lambda _, its=LOOPS[name]: its):
                taken = one.train()
            one.perplexity = taken.perplexity
            if alternation >= 0:
                one.speeds.append(taken.tokens / taken.seconds)
        first, second = (one.perplexity for one in implementations.values())
        if alternation < 0 and not abs(first - second) < 1e-3 * first:
            raise UserError(f"the loops differ: perplexity {first:.6g} and {second:.6g}")
    speeds = {name: one.speeds for name, one in implementations.items()}
    compared = ratio(speeds["fused-persistent"], speeds["fused"])
    result = {
        **experiment.head,
        "tokens_per_second": {name: summarize(values) for name, values in speeds.items()},
        "ratio": compared,
    }
    output = arguments.output or RESULTS / file_name("persistent", device)
    write_json(output, result)
    print(f"persistent to fused: {compared['of_medians']}, written to {output}")


if __name__ == "__main__":
    run_main("benchmarks.kernels.race", main)
