"""Trainings that differ in nothing but the seed, summed up by their mean and spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gru_lm.data.prepared import SPLITS
from gru_lm.results.scores import Scores
from gru_lm.results.seeds import BestSpread, ModelSummary, SplitSpread, Spread
from gru_lm.results.training import Best


@dataclass(frozen=True)
class Run:
    """One training: the perplexity of its last epoch's minibatches, and what the model scored.

    ``best_val`` is the lowest validation perplexity of any epoch, with that epoch; None if no epoch
    gave a finite one.
    """

    training_perplexity: float
    best_val: Best | None
    scores: Scores


def summarise(runs: Sequence[Run]) -> ModelSummary:
    """The spread of each figure over at least one run of the same variant on the same splits."""
    best = [run.best_val for run in runs if run.best_val is not None]
    return ModelSummary(
        **{name: _split(name, runs) for name in SPLITS},
        training_perplexity=spread([run.training_perplexity for run in runs]),
        best_val=BestSpread(
            epoch=spread([one.epoch for one in best]),
            perplexity=spread([one.perplexity for one in best]),
            bits_per_token=spread([math.log2(one.perplexity) for one in best]),
        )
        if len(best) == len(runs)
        else None,
    )


def _split(name: str, runs: Sequence[Run]) -> SplitSpread:
    scores = [run.scores.split(name) for run in runs]
    return SplitSpread(
        perplexity=spread([score.perplexity for score in scores]),
        bits_per_token=spread([score.bits_per_token for score in scores]),
        tokens=scores[0].tokens,
    )


def spread(values: Sequence[float]) -> Spread:
    """Mean, sample standard deviation (n - 1 below the line; None of one value), range, median."""
    return Spread(
        mean=statistics.fmean(values),
        sd=statistics.stdev(values) if len(values) > 1 else None,
        min=min(values),
        max=max(values),
        median=statistics.median(values),
    )
