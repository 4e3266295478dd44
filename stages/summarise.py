"""Sum up every variant over all its seeds, with the baselines beside them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from gru_lm.core.errors import UserError, run_stage
from gru_lm.core.files import damaged, read_json, write_json
from gru_lm.core.params import Variant, load_settings
from gru_lm.data.splits import SPLITS
from gru_lm.evaluation.seeds import Run, summarise

VARIANTS: tuple[str, ...] = get_args(Variant)


class Metrics:
    """A file of another stage, its numbers checked as they are taken out."""

    def __init__(self, path: Path, made_by: str) -> None:
        self.path, self.made_by = path, made_by
        self.document = read_json(path, made_by)

    def number(self, *keys: str) -> float:
        value: Any = self.document
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise damaged(self.path, self.made_by, f"{'.'.join(keys)} is not a finite number")
        if keys[-1] in ("perplexity", "train_perplexity") and value < 1:
            raise damaged(self.path, self.made_by, f"{'.'.join(keys)} is below 1")
        return value

    def best_val(self) -> tuple[int, float] | None:
        if self.document.get("best_val") is None:
            return None
        return int(self.number("best_val", "epoch")), self.number("best_val", "perplexity")

    def scores(self, *section: str) -> dict[str, dict[str, float]]:
        measures = ("perplexity", "bits_per_token", "tokens")
        return {
            split: {measure: self.number(*section, split, measure) for measure in measures}
            for split in SPLITS
        }

    def require(self, key: str, value: object) -> None:
        if self.document.get(key) != value:
            raise damaged(self.path, self.made_by, f"its {key} is not {value}")


def trained(variant: str, seed: int) -> Run:
    training = Metrics(Path(f"metrics/train/{variant}.json"), f"train@{variant}")
    training.require("seed", seed)
    evaluation = Metrics(Path(f"metrics/evaluate/{variant}.json"), f"evaluate@{variant}")
    return Run(training.number("perplexity"), training.best_val(), evaluation.scores())


def replicated(variant: str, seed: int) -> Run:
    name = f"{variant}-{seed}"
    replicate = Metrics(Path(f"analysis/replicate/{name}.json"), f"replicate@{name}")
    replicate.require("variant", variant)
    replicate.require("seed", seed)
    return Run(
        replicate.number("train_perplexity"), replicate.best_val(), replicate.scores("scores")
    )


def require_same_splits(runs: Mapping[str, Sequence[Run]]) -> None:
    """Raise UserError where two runs were scored on different numbers of tokens."""
    for split in SPLITS:
        sizes = {run.scores[split]["tokens"] for of_variant in runs.values() for run in of_variant}
        if len(sizes) > 1:
            raise UserError(
                f"the trainings were scored on {split} splits of different sizes "
                f"({', '.join(f'{size:,.0f}' for size in sorted(sizes))} tokens): bring all up to "
                "date with dvc repro"
            )


def main() -> None:
    settings = load_settings()
    # A seed that is both train.seed and among the replicates is one run, not two.
    seeds = list(dict.fromkeys([settings.train.seed, *settings.replicate.seeds]))
    runs = {
        variant: [trained(variant, seeds[0]), *(replicated(variant, s) for s in seeds[1:])]
        for variant in VARIANTS
    }
    require_same_splits(runs)
    models = {variant: summarise(of_variant) for variant, of_variant in runs.items()}
    baselines = read_json(Path("analysis/baselines.json"), "baseline")
    write_json(
        Path("analysis/summary.json"), {"seeds": seeds, "models": models, "baselines": baselines}
    )


if __name__ == "__main__":
    run_stage("summarise", main)
