"""The default experiment from several seeds: does every run reach the textbook's perplexity?

    python -m benchmarks.seeds --seeds 0 1 2

Needs ``data/prepared`` (``dvc repro prepare``). Runs are independent and share the cores, one
thread each. Writes ``benchmarks/results/seeds.json``: for each variant and seed the training
perplexity after the last epoch, the median of the last 50 epochs, and the share of those 50 that
lie above the textbook's 1.1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.common import machine_name
from gru_lm.model import build_model
from gru_lm.settings import Variant, load_settings
from gru_lm.tokens import load_split
from gru_lm.training import train
from gru_lm.vocabulary import Vocabulary

PREPARED = Path("data/prepared")
RESULT = Path("benchmarks/results/seeds.json")


def run(variant: Variant, seed: int) -> dict[str, Any]:
    """Train ``variant`` from ``seed`` with the params of params.yaml, on one CPU thread."""
    torch.set_num_threads(1)
    settings = load_settings()
    vocab_size = len(Vocabulary.load(PREPARED / "vocab.json"))
    tokens = torch.from_numpy(load_split(PREPARED, "train", vocab_size).astype("int64"))
    torch.manual_seed(seed)
    model = build_model(variant, vocab_size, **settings.model.options(variant))
    options = settings.train.model_copy(update={"seed": seed})
    curve = [epoch.perplexity for epoch in train(model, tokens, options)]
    tail = curve[-50:]
    return {
        "variant": variant,
        "seed": seed,
        "epochs": len(curve),
        "final_perplexity": curve[-1],
        "median_of_last_50": statistics.median(tail),
        "share_above_1.1_of_last_50": sum(value > 1.1 for value in tail) / len(tail),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    jobs = list(product(get_args(Variant), seeds))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(run, *zip(*jobs, strict=True)))
    for result in runs:
        print(
            f"{result['variant']:8} seed {result['seed']}: {result['final_perplexity']:.4f} "
            f"(median of the last 50 epochs {result['median_of_last_50']:.4f})"
        )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": machine_name(torch.device("cpu")),
        "torch": torch.__version__,
        "runs": runs,
    }
    RESULT.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
