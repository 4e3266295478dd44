"""The default experiment from several seeds: does every run reach the textbook's perplexity?

    python -m benchmarks.seeds --seeds 0 1 2
    python -m benchmarks.seeds --seeds 0 1 2 --variants fused --precision bf16

Needs ``data/prepared`` (``dvc repro prepare``). Runs are independent and share the cores, one
thread each. Writes ``benchmarks/results/seeds.json``: for each variant, precision and seed the
training perplexity after the last epoch, the median of the last 50 epochs, and the share of those
50 that lie above the textbook's 1.1. Runs that are there already and not repeated stay.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby, product
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.common import machine_name
from gru_lm.core.files import write_json
from gru_lm.core.params import Precision, Variant, load_settings
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.base import build_model
from gru_lm.preparation.splits import load_split
from gru_lm.training.loop import train

PREPARED = Path("data/prepared")
RESULT = Path("benchmarks/results/seeds.json")
Run = dict[str, Any]


def run(variant: Variant, precision: Precision, seed: int) -> Run:
    """Train ``variant`` from ``seed`` with the params of params.yaml, on one CPU thread."""
    torch.set_num_threads(1)
    settings = load_settings()
    vocabulary = Vocabulary.load(PREPARED / "vocab.json")
    tokens = torch.from_numpy(load_split(PREPARED, "train", vocabulary).astype("int64"))
    torch.manual_seed(seed)
    model = build_model(variant, len(vocabulary), **settings.model.options(variant))
    options = settings.train.model_copy(update={"seed": seed, "precision": precision})
    curve = [epoch.perplexity for epoch in train(model, tokens, options)]
    tail = curve[-50:]
    return {
        "variant": variant,
        "precision": precision,
        "seed": seed,
        "epochs": len(curve),
        "final_perplexity": curve[-1],
        "median_of_last_50": statistics.median(tail),
        "share_above_1.1_of_last_50": sum(value > 1.1 for value in tail) / len(tail),
    }


def kind_of(run: Run) -> tuple[int, str]:
    """What the runs from several seeds have in common, in the order of the variants."""
    return get_args(Variant).index(run["variant"]), run["precision"]


def earlier_runs() -> list[Run]:
    if not RESULT.exists():
        return []
    runs: list[Run] = json.loads(RESULT.read_text(encoding="utf-8"))["runs"]
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    variants = get_args(Variant)
    parser.add_argument("--variants", nargs="+", choices=variants, default=variants)
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    given = parser.parse_args()
    jobs = list(product(given.variants, [given.precision], given.seeds))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        new = list(pool.map(run, *zip(*jobs, strict=True)))
    runs = {(*kind_of(run), run["seed"]): run for run in [*earlier_runs(), *new]}
    ordered = [runs[key] for key in sorted(runs)]
    for _, group in groupby(ordered, kind_of):
        several = list(group)
        finals = [one["final_perplexity"] for one in several]
        name = f"{several[0]['variant']}, {several[0]['precision']}"
        for one in several:
            print(f"{name:14} seed {one['seed']:2}: {one['final_perplexity']:.4f}")
        medians = statistics.median(one["median_of_last_50"] for one in several)
        print(f"{name:14} median {statistics.median(finals):.4f}, last 50 epochs {medians:.4f}")
    machine = {"machine": machine_name(torch.device("cpu")), "torch": torch.__version__}
    write_json(RESULT, {**machine, "threads": 1, "runs": ordered})


if __name__ == "__main__":
    main()
