"""Trainings that differ in nothing but the seed, summed up by their mean and spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Run:
    """One training: the perplexity of its last epoch's minibatches, and what the model scored.

    ``best_val`` is the lowest validation perplexity of any epoch, with that epoch; None where no
    epoch gave a finite one. ``scores`` holds by split the perplexity, bits a token and number of
    tokens.
    """

    training_perplexity: float
    best_val: tuple[int, float] | None
    scores: Mapping[str, Mapping[str, float]]


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """The spread of each figure over at least one run of the same variant on the same splits.

    By split: perplexity and bits a token, each as ``spread`` gives it, and the number of tokens;
    and, beside the splits, ``training_perplexity`` and ``best_val`` (epoch, perplexity and bits a
    token; None unless every run has one).
    """
    summary: dict[str, Any] = {
        split: {
            "perplexity": spread([run.scores[split]["perplexity"] for run in runs]),
            "bits_per_token": spread([run.scores[split]["bits_per_token"] for run in runs]),
            "tokens": score["tokens"],
        }
        for split, score in runs[0].scores.items()
    }
    best = [run.best_val for run in runs if run.best_val is not None]
    return summary | {
        "training_perplexity": spread([run.training_perplexity for run in runs]),
        "best_val": {
            "epoch": spread([epoch for epoch, _ in best]),
            "perplexity": spread([perplexity for _, perplexity in best]),
            "bits_per_token": spread([math.log2(perplexity) for _, perplexity in best]),
        }
        if len(best) == len(runs)
        else None,
    }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, sample standard deviation (n - 1 below the line; None of one value), range, median."""
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
        "median": statistics.median(values),
    }
