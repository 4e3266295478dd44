"""Results of trainings with several seeds, and their summary with the baselines."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gru_lm.results import Finite, Perplexity, Result, Whole
from gru_lm.results.baselines import BaselineScores
from gru_lm.results.scores import Scores
from gru_lm.results.training import Best


class Replicate(Result):
    """Results of one training, in ``analysis/replicate/<variant>-<seed>.json``."""

    variant: str
    seed: Whole
    train_perplexity: Perplexity
    best_val: Best | None
    epochs: Whole
    selected_epoch: Whole
    scores: Scores


Number = int | Finite  # an epoch stays a whole number in the file


class Spread(Result):
    """One figure over the seeds; ``sd`` is the sample standard deviation, None for one seed."""

    mean: Finite
    sd: Finite | None
    min: Number
    max: Number
    median: Number


class SplitSpread(Result):
    """One split over the seeds."""

    perplexity: Spread
    bits_per_token: Spread
    tokens: Whole


class BestSpread(Result):
    """The best validation of any epoch, over the seeds."""

    epoch: Spread
    perplexity: Spread
    bits_per_token: Spread


class ModelSummary(Result):
    """One variant over the seeds; ``best_val`` is None unless every training has one."""

    train: SplitSpread
    val: SplitSpread
    test: SplitSpread
    training_perplexity: Spread
    best_val: BestSpread | None

    def split(self, name: str) -> SplitSpread:
        """The split ``name``: train, val or test."""
        spread: SplitSpread = getattr(self, name)
        return spread


class Summary(Result):
    """Models by variant and baselines by name, in ``analysis/summary.json``."""

    seeds: Annotated[list[Whole], Field(min_length=1)]
    models: dict[str, ModelSummary]
    baselines: dict[str, BaselineScores]
