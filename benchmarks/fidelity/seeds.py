"""Train the default experiment with several seeds and compare with the textbook's perplexity.

    python -m benchmarks.fidelity.seeds --seeds 0 1 2
    python -m benchmarks.fidelity.seeds --seeds 0 1 2 --variants fused --precision bf16

This needs ``data/prepared`` (``dvc repro prepare``). Runs are independent. One run per core is
trained at a time (``--jobs``), with one thread each. For each variant, precision and seed, the
result file contains

* the training perplexity after the last epoch, the median of the last 50 epochs, and the share of
  those 50 above the textbook's 1.1;
* ``ends_in_a_spike``: whether the last epoch's perplexity is more than 5 % above that median;
* ``last`` and ``best``: for the weights of the last epoch and of the epoch with the lowest
  validation perplexity (measured every ``train.validate_every`` epochs, as for
  ``train.select: best_val``), the exact perplexity on the validation and test split and the
  calibration on the test split.

``held_out`` has the means and sample standard deviations of ``last`` and ``best`` over the seeds.
Runs already in the file are kept unless repeated. Runs of an earlier version of this program have
no ``last`` and ``best``.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby, product
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.common import PARAMS, RESULTS, ROOT, machine_name, positive
from gru_lm.core.errors import run_main
from gru_lm.core.files import read_json, write_json
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.core.variants import Variant, known_variants
from gru_lm.data.prepared import SPLITS, Prepared
from gru_lm.evaluation.perplexity import evaluate
from gru_lm.evaluation.uncertainty import CalibrationSums, Observations
from gru_lm.models.base import LanguageModel, build_model
from gru_lm.models.settings import ModelSettings
from gru_lm.training.loop import train
from gru_lm.training.settings import Precision, TrainingSettings

PREPARED = ROOT / "data" / "prepared"
TAIL = 50  # epochs
TEXTBOOK_PERPLEXITY = 1.1
SPIKE = 1.05  # times the median of the tail
SPIKES = "ends_in_a_spike"
UNSEEN = (("validation", "val_bits_per_token"), ("test", "test_bits_per_token"))
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
    tokens, val_tokens = prepared.tensor("train"), prepared.tensor("val")
    curve: list[float] = []
    best_epoch, best_val, best_weights = 0, math.inf, model.state_dict()
    for epoch in train(model, tokens, settings, val_tokens=val_tokens):
        curve.append(epoch.perplexity)
        if epoch.val_perplexity is not None and epoch.val_perplexity < best_val:
            best_epoch, best_val = epoch.number, epoch.val_perplexity
            best_weights = {name: value.clone() for name, value in model.state_dict().items()}
    tail = curve[-TAIL:]
    last = {"epoch": len(curve), **held_out(model, prepared)}
    model.load_weights(best_weights)
    return {
        "variant": variant,
        "precision": precision,
        "seed": seed,
        "epochs": len(curve),
        "final_perplexity": curve[-1],
        "median_of_last_50": statistics.median(tail),
        "share_above_1.1_of_last_50": sum(one > TEXTBOOK_PERPLEXITY for one in tail) / len(tail),
        "last": last,
        "best": {"epoch": best_epoch, **held_out(model, prepared)},
    }


def held_out(model: LanguageModel, prepared: Prepared) -> dict[str, Any]:
    """Return the exact scores of ``model`` on the validation and test split.

    ``test_calibration`` has the expected calibration error (``ece``) of the test split, and the
    mean ``accuracy`` and ``confidence`` of the most probable character.
    """
    calibration = CalibrationSums()
    observed = Observations(lambda found: calibration.add(found.confidence, found.right))
    val = evaluate(model, prepared.tokens("val")).as_metrics()
    test = evaluate(model, prepared.tokens("test"), observe=observed.add).as_metrics()
    observed.end()
    measured = calibration.result()
    kept = {name: measured[name] for name in ("ece", "accuracy", "confidence")}
    return {"val": val, "test": test, "test_calibration": kept}


def ends_in_a_spike(run: Run) -> bool:
    """Return whether the last perplexity is more than 5 % above the median of the last 50."""
    return bool(run["final_perplexity"] > SPIKE * run["median_of_last_50"])


def kind_of(run: Run) -> tuple[str, str]:
    """Return variant and precision, which the runs of several seeds share."""
    return run["variant"], run["precision"]


def merged(earlier: list[Run], new: list[Run], variants: list[Variant]) -> list[Run]:
    """Return all runs in the order of ``variants``. A new run replaces an earlier one."""
    runs = {(*kind_of(run), run["seed"]): run for run in [*earlier, *new]}
    place = {str(variant): number for number, variant in enumerate(variants)}
    return [
        runs[key] for key in sorted(runs, key=lambda key: (place.get(key[0], len(place)), *key))
    ]


def held_out_spreads(runs: list[Run]) -> Iterator[dict[str, Any]]:
    """Yield the means over the seeds for each kind of ``runs``, for ``last`` and ``best``.

    ``runs`` are in the order of ``merged``. Those without ``last`` and ``best`` are left out.
    """
    for (variant, precision), group in groupby(runs, kind_of):
        several = [run for run in group if "best" in run]
        for weights in ("last", "best") if several else ():
            measured = [run[weights] for run in several]
            yield {
                "variant": variant,
                "precision": precision,
                "weights": weights,
                "seeds": [run["seed"] for run in several],
                "epoch": spread([one["epoch"] for one in measured]),
                "val_bits_per_token": spread([one["val"]["bits_per_token"] for one in measured]),
                "test_bits_per_token": spread([one["test"]["bits_per_token"] for one in measured]),
                **{
                    f"test_{name}": spread([one["test_calibration"][name] for one in measured])
                    for name in ("ece", "accuracy", "confidence")
                },
            }


def spread(values: list[float]) -> dict[str, float | None]:
    """Return the mean and the sample standard deviation of ``values``; None for one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": deviation}


def show(runs: list[Run]) -> None:
    """Print each run, the medians of each kind, the runs that end in a spike, and unseen text."""
    for kind, group in groupby(runs, kind_of):
        several = list(group)
        name = ", ".join(kind)
        finals = [one["final_perplexity"] for one in several]
        for one in several:
            spike = "  ends in a spike" if ends_in_a_spike(one) else ""
            print(f"{name:14} seed {one['seed']:2}: {one['final_perplexity']:.4f}{spike}")
        medians = statistics.median(one["median_of_last_50"] for one in several)
        print(f"{name:14} median {statistics.median(finals):.4f}, last 50 epochs {medians:.4f}")
    spikes = [f"{', '.join(kind_of(one))}, seed {one['seed']}" for one in runs if one[SPIKES]]
    print(
        f"{len(spikes)} of {len(runs)} runs end more than {SPIKE - 1:.0%} above the median of "
        f"their last {TAIL} epochs" + (f": {'; '.join(spikes)}" if spikes else "")
    )
    for one in held_out_spreads(runs):
        figures = (
            f"{split} {one[key]['mean']:.3f} ± {one[key]['sd'] or 0:.3f}"
            for split, key in (
                ("validation", "val_bits_per_token"),
                ("test", "test_bits_per_token"),
            )
        )
        print(
            f"{one['variant'] + ', ' + one['precision']:14} {one['weights']} weights "
            f"(mean epoch {one['epoch']['mean']:.0f}, {len(one['seeds'])} seeds): "
            f"{', '.join(figures)} bits per token; on test: ECE {one['test_ece']['mean']:.3f}, "
            f"accuracy {one['test_accuracy']['mean']:.3f}"
        )


def parse_arguments(variants: list[Variant]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fidelity.seeds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=known_variants(), default=variants)
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    parser.add_argument("--epochs", type=int, help="replaces train.epochs")
    parser.add_argument("--jobs", type=positive, metavar="N", help="default: one per core")
    parser.add_argument("--output", type=Path, default=RESULTS / "seeds.json")
    return parser.parse_args()


def main() -> None:
    variants = [Variant(name) for name in load_params(CoreSettings, PARAMS).variants]
    given = parse_arguments(variants)
    for split in SPLITS:  # an error here is one line, in a process of the pool a traceback
        Prepared(PREPARED).tokens(split)
    earlier: list[Run] = read_json(given.output)["runs"] if given.output.exists() else []
    jobs = list(product(given.variants, [given.precision], given.seeds, [given.epochs]))
    with ProcessPoolExecutor(given.jobs or os.cpu_count()) as pool:
        new = list(pool.map(run, *zip(*jobs, strict=True)))
    runs = [{**one, SPIKES: ends_in_a_spike(one)} for one in merged(earlier, new, variants)]
    show(runs)
    machine = {"machine": machine_name(torch.device("cpu")), "torch": torch.__version__}
    summary = list(held_out_spreads(runs))
    write_json(given.output, {**machine, "threads": 1, "held_out": summary, "runs": runs})


if __name__ == "__main__":
    run_main("benchmarks.fidelity.seeds", main, lambda _: "dvc repro prepare")
