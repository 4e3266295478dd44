"""Results of trainings with several seeds, and their summary with the baselines."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from gru_lm.results import Finite, NotNegative, Perplexity, Positive, Result, Seed, Words
from gru_lm.results.baselines import BaselineScores
from gru_lm.results.scores import Scores
from gru_lm.results.training import Best, require_within


class Replicate(Result):
    """Results of one training, in ``analysis/replicate/<variant>-<seed>.json``."""

    variant: Words
    seed: Seed
    train_perplexity: Perplexity
    best_val: Best | None
    epochs: Positive
    selected_epoch: Positive
    scores: Scores

    @model_validator(mode="after")
    def _within_the_epochs(self) -> Replicate:
        require_within(self.epochs, self.selected_epoch, self.best_val)
        return self


Number = int | Finite  # an epoch stays a whole number in the file


class Spread(Result):
    """One figure over the seeds; ``sd`` is the sample standard deviation, None for one seed."""

    mean: Finite
    sd: NotNegative | None
    min: Number
    max: Number
    median: Number

    @model_validator(mode="after")
    def _ordered(self) -> Spread:
        rounding = 1e-9 * max(abs(self.min), abs(self.max))  # of the mean
        if not (
            self.min <= self.median <= self.max
            and self.min - rounding <= self.mean <= self.max + rounding
        ):
            raise ValueError("mean or median is not between min and max")
        return self


def _at_least(least: float) -> AfterValidator:
    def check(spread: Spread) -> Spread:
        if spread.min < least:
            raise ValueError(f"min = {spread.min:g} is below {least:g}")
        return spread

    return AfterValidator(check)


FromOne = Annotated[Spread, _at_least(1)]  # of perplexities, epochs or steps
FromZero = Annotated[Spread, _at_least(0)]  # of bits


class SplitSpread(Result):
    """One split over the seeds."""

    perplexity: FromOne
    bits_per_token: FromZero
    tokens: Positive


class BestSpread(Result):
    """The best validation of a training, over the seeds."""

    epoch: FromOne
    step: FromOne
    perplexity: FromOne
    bits_per_token: FromZero


class ModelSummary(Result):
    """One variant over the seeds; ``best_val`` is None unless every training has one."""

    train: SplitSpread
    val: SplitSpread
    test: SplitSpread
    training_perplexity: FromOne
    best_val: BestSpread | None

    def split(self, name: str) -> SplitSpread:
        """The split ``name``: train, val or test."""
        spread: SplitSpread = getattr(self, name)
        return spread


class Summary(Result):
    """Models by variant and baselines by name, in ``analysis/summary.json``."""

    seeds: Annotated[list[Seed], Field(min_length=1)]
    models: dict[Words, ModelSummary]
    baselines: dict[Words, BaselineScores]

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is listed twice")
        return seeds
