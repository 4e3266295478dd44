"""The mean of a paired difference over several trainings, its interval and the outcome.

Each training gives one difference, between two interventions on the same model and tokens. The
interval is Student's t interval of the mean over the trainings, which assumes a normal
distribution. It covers further trainings on the same text, not other texts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Final

from gru_lm.results.gates import Outcome

LEAST: Final = 3  # trainings for an interval
CONFIDENCE: Final = 0.95


def paired(differences: Sequence[float]) -> dict[str, Any]:
    """Summarise one difference per training as a JSON tree.

    ``outcome`` is "supported" if the interval is above zero, "contradicted" if it is below zero,
    and "undecided" otherwise or with fewer than ``LEAST`` trainings.
    """
    low = high = None
    outcome: Outcome = "undecided"
    if len(differences) >= LEAST:
        low, high = interval(differences)
        outcome = "supported" if low > 0 else "contradicted" if high < 0 else "undecided"
    return {
        "differences": list(differences),
        "mean": statistics.fmean(differences) if differences else None,
        "low": low,
        "high": high,
        "outcome": outcome,
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the t interval of the mean of at least two ``values`` at level ``CONFIDENCE``."""
    mean, n = statistics.fmean(values), len(values)
    half = t_quantile(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return mean - half, mean + half


def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Return t such that P(|T| <= t) = ``confidence`` for ``freedom`` degrees of freedom.

    It is found by bisection of the angle with tangent t / sqrt(freedom). The probability is a
    finite sum in this angle (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        if _probability(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _probability(angle: float, freedom: int) -> float:
    """Return P(|T| <= sqrt(freedom) tan(angle))."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
