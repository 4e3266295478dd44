"""Train one variant; log the perplexity of each epoch, keep the weights, note the speed.

A run that was killed goes on from its last checkpoint when it is started again.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import get_args

import torch
from dvclive import Live

from gru_lm.core.errors import run_stage
from gru_lm.core.files import write_json
from gru_lm.core.params import Variant, load_settings
from gru_lm.training.run import TrainingRun, alone

PREPARED = Path("data/prepared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=get_args(Variant), required=True)
    variant: Variant = parser.parse_args().variant
    with alone(variant):
        train(variant)


def train(variant: Variant) -> None:
    def say(line: str) -> None:
        print(f"train@{variant}: {line}", flush=True)

    settings = load_settings()
    run = TrainingRun(
        name=variant,
        variant=variant,
        settings=settings,
        prepared=PREPARED,
        script=Path(__file__),
        say=say,
    )
    start = time.perf_counter()
    with Live(f"dvclive/{variant}", save_dvc_exp=False, dvcyaml=False) as live:

        def log(epoch: int, perplexity: float, val_perplexity: float | None) -> None:
            live.step = epoch
            live.log_metric("train/perplexity", perplexity)
            if val_perplexity is not None:
                live.log_metric("val/perplexity", val_perplexity)
            live.make_summary()

        speeds = run.train(log)
    seconds = time.perf_counter() - start

    run.model.save(Path("models") / variant, run.vocabulary.fingerprint)
    write_json(
        Path(f"metrics/train/{variant}.json"),
        {
            "perplexity": run.history.curve[-1],
            "val_perplexity": run.history.validation.get(len(run.history.curve)),
            "best_val": run.history.best_val,
            "epochs": len(run.history.curve),
            "seed": settings.train.seed,
            "selected_epoch": run.selected_epoch,
            "parameters": sum(weight.numel() for weight in run.model.parameters()),
        },
    )
    write_json(
        Path(f"metrics/timing/{variant}.json"),
        {
            "tokens_per_second": statistics.median(speeds),
            "seconds": seconds,
            "epochs_timed": len(speeds),
            "device": run.device,
            "torch": torch.__version__,
        },
    )
    run.checkpoints.remove()


if __name__ == "__main__":
    run_stage("train", main)
