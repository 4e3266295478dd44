"""The default experiment from several seeds: does every run reach the textbook's perplexity?

    python -m benchmarks.fidelity.seeds --seeds 0 1 2
    python -m benchmarks.fidelity.seeds --seeds 0 1 2 --variants fused --precision bf16

Needs ``data/prepared`` (``dvc repro prepare``). Runs are independent of each other: as many as
there are cores run side by side, one thread each. The result file holds for each variant, precision
and seed the training perplexity after the last epoch, the median of the last 50 epochs, and the
share of those 50 above the textbook's 1.1. Runs that the file already holds stay unless repeated.
"""

from __future__ import annotations

import argparse
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby, product
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.common import PARAMS, RESULTS, ROOT, machine_name
from gru_lm.core.errors import run_main
from gru_lm.core.files import read_json, write_json
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.core.variants import Variant, known_variants
from gru_lm.data.prepared import Prepared
from gru_lm.models.base import build_model
from gru_lm.models.settings import ModelSettings
from gru_lm.training.loop import train
from gru_lm.training.settings import Precision, TrainingSettings

PREPARED = ROOT / "data" / "prepared"
TAIL = 50  # epochs
TEXTBOOK_PERPLEXITY = 1.1
Run = dict[str, Any]


def run(variant: Variant, precision: Precision, seed: int, epochs: int | None = None) -> Run:
    """Train ``variant`` from ``seed`` with the params of params.yaml, on one CPU thread.

    ``epochs`` replaces train.epochs if given.
    """
    torch.set_num_threads(1)
    prepared = Prepared(PREPARED)
    given = load_params(TrainingSettings, PARAMS).train
    changes = {"seed": seed, "precision": precision, "epochs": epochs or given.epochs}
    settings = given.model_copy(update=changes)
    torch.manual_seed(seed)
    options = load_params(ModelSettings, PARAMS).model.options(variant)
    model = build_model(variant, len(prepared.vocabulary), **options)
    curve = [epoch.perplexity for epoch in train(model, prepared.tensor("train"), settings)]
    tail = curve[-TAIL:]
    return {
        "variant": variant,
        "precision": precision,
        "seed": seed,
        "epochs": len(curve),
        "final_perplexity": curve[-1],
        "median_of_last_50": statistics.median(tail),
        "share_above_1.1_of_last_50": sum(one > TEXTBOOK_PERPLEXITY for one in tail) / len(tail),
    }


def kind_of(run: Run) -> tuple[str, str]:
    """What the runs from several seeds have in common: variant and precision."""
    return run["variant"], run["precision"]


def merged(earlier: list[Run], new: list[Run], variants: list[Variant]) -> list[Run]:
    """All runs, a new one in place of an earlier one, in the order of ``variants``."""
    runs = {(*kind_of(run), run["seed"]): run for run in [*earlier, *new]}
    place = {str(variant): number for number, variant in enumerate(variants)}
    return [
        runs[key] for key in sorted(runs, key=lambda key: (place.get(key[0], len(place)), *key))
    ]


def parse_arguments(variants: list[Variant]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fidelity.seeds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=known_variants(), default=variants)
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    parser.add_argument("--epochs", type=int, help="in place of train.epochs")
    parser.add_argument("--output", type=Path, default=RESULTS / "seeds.json")
    return parser.parse_args()


def main() -> None:
    variants = [Variant(name) for name in load_params(CoreSettings, PARAMS).variants]
    given = parse_arguments(variants)
    Prepared(PREPARED).tokens("train")  # an error here is one line; in a process of the pool, many
    earlier: list[Run] = read_json(given.output)["runs"] if given.output.exists() else []
    jobs = list(product(given.variants, [given.precision], given.seeds, [given.epochs]))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        new = list(pool.map(run, *zip(*jobs, strict=True)))
    runs = merged(earlier, new, variants)
    for kind, group in groupby(runs, kind_of):
        several = list(group)
        name = ", ".join(kind)
        finals = [one["final_perplexity"] for one in several]
        for one in several:
            print(f"{name:14} seed {one['seed']:2}: {one['final_perplexity']:.4f}")
        medians = statistics.median(one["median_of_last_50"] for one in several)
        print(f"{name:14} median {statistics.median(finals):.4f}, last 50 epochs {medians:.4f}")
    machine = {"machine": machine_name(torch.device("cpu")), "torch": torch.__version__}
    write_json(given.output, {**machine, "threads": 1, "runs": runs})


if __name__ == "__main__":
    run_main("benchmarks.fidelity.seeds", main, lambda _: "dvc repro prepare")
