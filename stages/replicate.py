"""Train one variant as stages.train does, but from another seed; write its figures and weights.

A run that was killed goes on from its last checkpoint if it is started again.
"""

import argparse
from pathlib import Path

import torch

from gru_lm.core.errors import UserError, say
from gru_lm.core.params import load_params, require_unchanged
from gru_lm.core.settings import CoreSettings
from gru_lm.core.variants import Variant
from gru_lm.data.prepared import SPLITS, Prepared
from gru_lm.evaluation.perplexity import evaluate
from gru_lm.evaluation.settings import EvaluationSettings
from gru_lm.models.settings import ModelSettings
from gru_lm.results.seeds import Replicate
from gru_lm.results.training import Best
from gru_lm.training.launch import launched
from gru_lm.training.ranks import Ranks, joined
from gru_lm.training.run import TrainingRun, alone
from gru_lm.training.settings import TrainingSettings
from stages import add_variant, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_variant(parser)
    parser.add_argument("--seed", type=int, required=True, help="in place of train.seed")
    given = parser.parse_args()
    variant: Variant = given.variant
    if not 0 <= given.seed < 2**32:
        raise UserError(f"--seed = {given.seed}: must be 0 to {2**32 - 1}")
    if launched("stages.replicate", load_params(TrainingSettings).train.processes):
        return
    name = f"{variant}-{given.seed}"
    with joined(load_params(CoreSettings).device) as ranks, alone(name, ranks):
        replicate(variant, given.seed, ranks)


def replicate(variant: Variant, seed: int, ranks: Ranks) -> None:
    name = f"{variant}-{seed}"
    settings = load_params(TrainingSettings)
    prepared = Prepared()
    train = settings.train.model_copy(update={"seed": seed})
    run = TrainingRun(
        name=name,
        variant=variant,
        options=load_params(ModelSettings).model.options(variant),
        settings=settings.model_copy(update={"train": train}),
        device=load_params(CoreSettings).device,
        prepared=prepared,
        script=Path(__file__),
        say=lambda line: say(f"replicate@{name}", line),
        ranks=ranks,
    )
    if not ranks.first:
        run.train()
        return
    # Before the training: a split that is missing should not be found out after it.
    limit = load_params(EvaluationSettings).evaluate.max_tokens
    splits = {split: prepared.tokens(split)[:limit] for split in SPLITS}
    run.train()
    torch.set_num_threads(1)  # as stages.evaluate does: the last digit must not depend on the cores
    last, selected = run.history.curve[-1], run.selected
    measured = Replicate.model_validate(
        {
            "variant": variant,
            "seed": seed,
            "train_perplexity": last.perplexity,
            "best_val": Best.at(run.history.best),
            "epochs": last.epoch,
            "selected_epoch": selected.epoch,
            "scores": {
                split: evaluate(run.model, tokens).as_metrics(
                    prepared.vocabulary.characters(tokens[1:])
                )
                for split, tokens in splits.items()
            },
        }
    )
    require_unchanged()  # while its checkpoints are there to resume from
    run.save(Path(f"analysis/replicate/{variant}/{seed}"))
    measured.write(Path(f"analysis/replicate/{name}.json"))
    run.finish()


if __name__ == "__main__":
    run_stage("replicate", main)
