"""Train one variant as stages.train does, but from another seed; keep its figures only.

A run that was killed goes on from its last checkpoint when it is started again.
"""

import argparse
from pathlib import Path
from typing import get_args

import torch

from gru_lm.core.errors import UserError, run_stage
from gru_lm.core.files import write_json
from gru_lm.core.params import Variant, load_settings
from gru_lm.data.splits import SPLITS, load_split
from gru_lm.evaluation.perplexity import evaluate
from gru_lm.training.run import TrainingRun, alone

PREPARED = Path("data/prepared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=get_args(Variant), required=True)
    parser.add_argument("--seed", type=int, required=True, help="in place of train.seed")
    given = parser.parse_args()
    variant: Variant = given.variant
    if not 0 <= given.seed < 2**32:
        raise UserError(f"--seed = {given.seed}: must be 0 to {2**32 - 1}")
    with alone(f"{variant}-{given.seed}"):
        replicate(variant, given.seed)


def replicate(variant: Variant, seed: int) -> None:
    name = f"{variant}-{seed}"

    def say(line: str) -> None:
        print(f"replicate@{name}: {line}", flush=True)

    settings = load_settings()
    train = settings.train.model_copy(update={"seed": seed})
    run = TrainingRun(
        name=name,
        variant=variant,
        settings=settings.model_copy(update={"train": train}),
        prepared=PREPARED,
        script=Path(__file__),
        say=say,
    )
    # Before the training: a split that is missing should not be found out after it.
    splits = {split: load_split(PREPARED, split, run.vocabulary) for split in SPLITS}
    run.train()
    torch.set_num_threads(1)  # as stages.evaluate does: the last digit must not depend on the cores
    write_json(
        Path(f"analysis/replicate/{name}.json"),
        {
            "variant": variant,
            "seed": seed,
            "train_perplexity": run.history.curve[-1],
            "best_val": run.history.best_val,
            "epochs": len(run.history.curve),
            "selected_epoch": run.selected_epoch,
            "scores": {
                split: evaluate(run.model, torch.from_numpy(tokens.astype("int64"))).as_metrics()
                for split, tokens in splits.items()
            },
        },
    )
    run.checkpoints.remove()


if __name__ == "__main__":
    run_stage("replicate", main)
