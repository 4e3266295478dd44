"""Summarise every variant over all seeds, together with the baselines."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gru_lm.core.errors import DamagedFile, UserError
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.data.prepared import SPLITS
from gru_lm.evaluation.seeds import Run, summarise
from gru_lm.evaluation.settings import EvaluationSettings
from gru_lm.results.baselines import read_baselines
from gru_lm.results.scores import Scores
from gru_lm.results.seeds import Replicate, Summary
from gru_lm.results.training import Training
from gru_lm.training.settings import TrainingSettings
from stages import run_stage


def trained(variant: str, seed: int) -> Run:
    path = Path(f"metrics/train/{variant}.json")
    training = Training.read(path)
    if training.seed != seed:
        raise DamagedFile(path, f"its seed is not {seed}")
    scores = Scores.read(Path(f"metrics/evaluate/{variant}.json"))
    return Run(training.perplexity, training.best_val, scores)


def replicated(variant: str, seed: int) -> Run:
    path = Path(f"analysis/replicate/{variant}-{seed}.json")
    replicate = Replicate.read(path)
    if (replicate.variant, replicate.seed) != (variant, seed):
        raise DamagedFile(path, f"it is not the result of {variant} with seed {seed}")
    return Run(replicate.train_perplexity, replicate.best_val, replicate.scores)


def require_same_splits(runs: Mapping[str, Sequence[Run]]) -> None:
    """Raise UserError if two runs were scored on different numbers of tokens."""
    for split in SPLITS:
        sizes = {run.scores.split(split).tokens for some in runs.values() for run in some}
        if len(sizes) > 1:
            raise UserError(
                f"the trainings were scored on {split} splits of different sizes "
                f"({', '.join(f'{size:,.0f}' for size in sorted(sizes))} tokens): update all of "
                "them with dvc repro"
            )


def main() -> None:
    # If train.seed is also in replicate.seeds, it counts once.
    first = load_params(TrainingSettings).train.seed
    seeds = list(dict.fromkeys([first, *load_params(EvaluationSettings).replicate.seeds]))
    runs = {
        variant: [trained(variant, seeds[0]), *(replicated(variant, s) for s in seeds[1:])]
        for variant in load_params(CoreSettings).variants
    }
    require_same_splits(runs)
    Summary(
        seeds=seeds,
        models={variant: summarise(of_variant) for variant, of_variant in runs.items()},
        baselines=read_baselines(Path("analysis/baselines.json")),
    ).write(Path("analysis/summary.json"))


if __name__ == "__main__":
    run_stage("summarise", main)
