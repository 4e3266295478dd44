"""Mean and spread over trainings that differ only in the seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gru_lm.core.errors import require_at_least
from gru_lm.data.prepared import SPLITS
from gru_lm.results.scores import Scores
from gru_lm.results.seeds import BestSpread, ModelSummary, SplitSpread, Spread
from gru_lm.results.training import Best


@dataclass(frozen=True)
class Run:
    """One training: its last training perplexity and the scores of the model.

    ``best_val`` is the lowest validation perplexity with its epoch, or None if none was finite.
    """

    training_perplexity: float
    best_val: Best | None
    scores: Scores


def summarise(runs: Sequence[Run]) -> ModelSummary:
    """Return the spread of each figure over ``runs`` of one variant on the same splits.

    Raises ValueError if there is no run.
    """
    require_at_least(1, number_of_runs=len(runs))
    best = [run.best_val for run in runs if run.best_val is not None]
    return ModelSummary(
        **{name: _split(name, runs) for name in SPLITS},
        training_perplexity=spread([run.training_perplexity for run in runs]),
        best_val=BestSpread(
            epoch=spread([one.epoch for one in best]),
            step=spread([one.step for one in best]),
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
    """Return mean, sample standard deviation (n - 1; None for one value), range and median.

    Raises ValueError if there is no value.
    """
    require_at_least(1, number_of_values=len(values))
    return Spread(
        mean=statistics.fmean(values),
        sd=statistics.stdev(values) if len(values) > 1 else None,
        min=min(values),
        max=max(values),
        median=statistics.median(values),
    )
