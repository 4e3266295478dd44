"""Train recipes with several seeds and measure how well the models predict unseen text.

    python -m benchmarks.quality shakespeare-quick shakespeare --seeds 0 1 2

Each run fetches and prepares its corpus in a temporary folder, trains as the stage train does, and
measures the selected weights. Losses are in nats per character, the mean cross-entropy. They are
measured in two ways:

* ``carried``: the model reads a whole split as one stream and carries its state;
* ``blocks``: it reads blocks of 256 characters, each from an empty state, as nanoGPT is measured.

``val`` and ``test`` are the splits of the recipe. ``held_out`` is both in one stream. For tiny
Shakespeare this is nanoGPT's validation split, the last 10 % of the text. ``seconds`` is the time
of training alone. ``curve`` has the loss on ``held_out`` in blocks at each validation, by seconds
of training.

Runs already in the result file are kept unless they are repeated. The picture shows them beside the
figures that nanoGPT's README publishes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.common import PARAMS, RESULTS, ROOT, machine_name
from gru_lm.core.errors import UserError, run_main
from gru_lm.core.files import read_json, write_bytes, write_json
from gru_lm.core.params import load_params, read_yaml
from gru_lm.core.settings import CoreSettings
from gru_lm.core.variants import Variant
from gru_lm.data.prepared import Prepared
from gru_lm.evaluation.perplexity import evaluate, evaluate_blocks
from gru_lm.models.settings import ModelSettings
from gru_lm.report.style import (
    GREY,
    INK,
    MARKERS,
    PALETTE,
    SMALL,
    headline,
    key,
    key_below,
    new_figure,
    to_png,
)
from gru_lm.report.wording import capitalised
from gru_lm.training.run import TrainingRun
from gru_lm.training.settings import TrainingSettings

BLOCK = 256  # characters, nanoGPT's context
RECIPES = ROOT / "recipes"
Run = dict[str, Any]

# (label, seconds of training, nats per character in blocks), from the README of nanoGPT
# (https://github.com/karpathy/nanoGPT, section "quick start").
PUBLISHED = (
    ("nanoGPT, A100", 180.0, 1.4697),
    ("nanoGPT, CPU", 180.0, 1.88),
)


def params_of(recipe: str, seed: int) -> dict[str, Any]:
    """Return params.yaml with the changes of ``recipe`` and the seed. Raises UserError."""
    path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise UserError(f"unknown recipe {recipe!r}; known: {known}")
    params = _merged(read_yaml(PARAMS), read_yaml(path))
    params["train"]["seed"] = seed
    return params


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return tree | {
        key: _merged(tree[key], value) if isinstance(tree.get(key), dict) else value
        for key, value in changes.items()
    }


def run(recipe: str, seed: int) -> Run:
    """Train the first variant of ``recipe`` from ``seed`` and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return _run(recipe, seed)
        finally:
            os.chdir(ROOT)


def _run(recipe: str, seed: int) -> Run:
    Path("params.yaml").write_text(yaml.safe_dump(params_of(recipe, seed)), "utf-8")
    for stage in ("fetch", "prepare"):
        done = subprocess.run(
            [sys.executable, "-m", f"stages.{stage}"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UserError(done.stderr.strip().splitlines()[-1])
    prepared, settings = Prepared(), load_params(TrainingSettings)
    core = load_params(CoreSettings)
    variant = Variant(core.variants[0])
    training = TrainingRun(
        name=variant,
        variant=variant,
        options=load_params(ModelSettings).model.options(variant),
        settings=settings,
        device=core.device,
        prepared=prepared,
        script=Path(__file__),
        say=lambda line: print(f"{recipe}, seed {seed}: {line}", flush=True),
    )
    model, curve = training.model, list[tuple[float, float]]()
    val, test = prepared.tokens("val"), prepared.tokens("test")
    parts = {"val": val, "test": test, "held_out": np.concatenate([val, test])}

    def log(number: int, perplexity: float, val_perplexity: float | None) -> None:
        if val_perplexity is not None:
            model.eval()
            loss = _nats(evaluate_blocks(model, parts["held_out"], BLOCK))
            curve.append((training.training.position.seconds, loss))
            model.train()

    training.train(log)
    losses = {
        name: {
            "carried": _nats(evaluate(model, tokens)),
            "blocks": _nats(evaluate_blocks(model, tokens, BLOCK)),
        }
        for name, tokens in parts.items()
    }
    return {
        "recipe": recipe,
        "variant": variant,
        "seed": seed,
        "machine": machine_name(model.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "steps": training.training.position.steps,
        "tokens": training.history.targets,
        "seconds": training.training.position.seconds,
        **losses,
        "curve": curve,
    }


def _nats(score: Any) -> float:
    return float(score.nats / score.tokens)


def kind_of(run: Run) -> tuple[str, str]:
    """Return recipe and machine, which the runs of several seeds share."""
    return run["recipe"], run["machine"]


def merged(earlier: list[Run], new: list[Run]) -> list[Run]:
    """Return all runs by recipe, machine and seed. A new run replaces an earlier one."""
    runs = {(*kind_of(run), run["seed"]): run for run in [*earlier, *new]}
    return [runs[key] for key in sorted(runs)]


def mean(runs: list[Run], *keys: str) -> float:
    """Return the mean over ``runs`` of the figure below ``keys``."""
    values: list[Any] = list(runs)
    for name in keys:
        values = [value[name] for value in values]
    return statistics.fmean(values)


def table(runs: list[Run]) -> str:
    """Return the means over the seeds of each recipe and machine as a Markdown table."""
    rows = [
        "| recipe | machine | parameters | million tokens | seconds | state carried "
        f"| blocks of {BLOCK} | test, carried | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (recipe, machine), group in groupby(runs, kind_of):
        several = list(group)
        threads, parameters = (several[0][name] for name in ("threads", "parameters"))
        rows.append(
            f"| {recipe} | {machine}, {threads} threads | {parameters:,} "
            f"| {mean(several, 'tokens') / 1e6:.1f} | {mean(several, 'seconds'):.0f} "
            f"| {mean(several, 'held_out', 'carried'):.4f} "
            f"| {mean(several, 'held_out', 'blocks'):.4f} "
            f"| {mean(several, 'test', 'carried'):.4f} | {len(several)} |"
        )
    return "\n".join(rows) + "\n"


def draw(runs: list[Run]) -> bytes:
    """Draw the loss of each run in blocks by seconds of training, on a log axis, as PNG.

    The losses may be compared with nanoGPT's published figures.
    """
    figure, axes = new_figure(4.6)
    handles = []
    for colour, marker, (kind, group) in zip(
        PALETTE, MARKERS, groupby(runs, kind_of), strict=False
    ):
        for one in group:
            times, losses = zip(*one["curve"], strict=True)
            axes.plot(times, losses, color=colour, lw=1.2)
            axes.plot(times[-1], losses[-1], marker, color=colour, mfc="none")
        handles.append(key(colour, ", ".join(kind), marker=marker, mfc="none"))
    for label, seconds, loss in PUBLISHED:
        axes.plot(seconds, loss, "^", color=GREY)
        axes.annotate(
            label, (seconds, loss), (6, 4), textcoords="offset points", fontsize=SMALL, color=INK
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(top=2.0)
    axes.set_xlabel("seconds of training (log scale)")
    axes.set_ylabel("loss on unseen text, nats per character")
    axes.grid(alpha=0.3)
    figures = {
        kind: mean(list(group), "held_out", "blocks") for kind, group in groupby(runs, kind_of)
    }
    (recipe, machine), best = min(figures.items(), key=lambda item: item[1])
    headline(
        figure,
        f"{capitalised(recipe)} reaches {best:.3f} nats per character in blocks of {BLOCK} "
        f"({machine})",
    )
    key_below(figure, handles)
    return to_png(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=RESULTS / "quality.json")
    given = parser.parse_args()
    for recipe in given.recipes:
        params_of(recipe, 0)
    runs: list[Run] = read_json(given.output)["runs"] if given.output.exists() else []
    new_process = multiprocessing.get_context("spawn")
    for recipe in given.recipes:
        for seed in given.seeds:
            with ProcessPoolExecutor(1, mp_context=new_process) as pool:
                runs = merged(runs, [pool.submit(run, recipe, seed).result()])
            write_json(given.output, {"block": BLOCK, "runs": runs})
    print(table(runs))
    write_bytes(given.output.with_suffix(".png"), draw(runs))


if __name__ == "__main__":
    run_main("benchmarks.quality", main)
