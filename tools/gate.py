"""Fail if held-out perplexity has risen too far compared with an earlier revision.

    python -m tools.gate --base main

The held-out split is ``val``. For each variant, the tool compares the means over the seeds of both
revisions (train.seed and those in analysis/replicate). The gate fails if the rise exceeds the
tolerance, which is the larger of ``max_perplexity_rise`` and ``standard_errors`` standard errors of
the difference of the means. Both are in ``regression`` of params.yaml. The standard error is
computed from the relative spread over the base's seeds, pooled over its variants. The head's spread
is not used, as a change that makes training unstable would then raise its own tolerance.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gru_lm.core.errors import UserError, run_main, say
from gru_lm.core.params import load_params
from gru_lm.evaluation.settings import EvaluationSettings, Regression
from tools.comparable import difference
from tools.revisions import WORKSPACE, Revision, find_revision

SPLIT: Final = "val"


@dataclass(frozen=True)
class Change:
    """Held-out perplexity of one variant by seed, before and after. ``tolerance`` is a fraction."""

    variant: str
    base: Mapping[int, float]
    head: Mapping[int, float]
    tolerance: float

    @property
    def means(self) -> tuple[float, float]:
        return statistics.fmean(self.base.values()), statistics.fmean(self.head.values())

    @property
    def rise(self) -> float:
        """The rise as a fraction of the earlier mean."""
        old, new = self.means
        return new / old - 1

    @property
    def passed(self) -> bool:
        old, new = self.means
        return new <= old * (1 + self.tolerance)

    def __str__(self) -> str:
        old, new = self.means
        return (
            f"{self.variant} {SPLIT} perplexity {old:.4g} → {new:.4g} ({self.rise:+.1%}; "
            f"{_seeds(self.base)} → {_seeds(self.head)}; tolerance {self.tolerance:+.1%})"
        )


@dataclass(frozen=True)
class Verdict:
    """The result of the gate.

    ``reason`` is one line. ``notes`` are sentences on the tolerance and on unused results.
    """

    passed: bool
    reason: str
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()


def rule() -> Regression:
    """Return the rule in params.yaml of the workspace."""
    return load_params(EvaluationSettings).regression


def judge(base: Revision, head: Revision, rule: Regression) -> Verdict:
    """Compare the held-out perplexity of each variant that both revisions have.

    A variant that only one revision has is mentioned and passes. The head fails if the result of a
    variant in its list is missing, or if it was measured on other data than the base.
    """
    olds = {variant: base.perplexities(variant, SPLIT) for variant in base.variants}
    news = {variant: head.perplexities(variant, SPLIT) for variant in head.variants}
    missing = [variant for variant, by_seed in news.items() if not by_seed]
    if missing or not news:
        of = f" of {', '.join(missing)}" if missing else ""
        return Verdict(False, f"{head.name} has no perplexity{of} on {SPLIT}: run dvc repro")
    if any(olds.values()) and (reason := difference(base, head)):
        return Verdict(False, f"not comparable: {reason}")
    spread, notes = _spread(base, olds, head, news, rule)
    changes = tuple(
        Change(variant, old, new, _tolerance(len(old), len(new), spread, rule))
        for variant, new in news.items()
        if (old := olds.get(variant))
    )
    worse = [str(change) for change in changes if not change.passed]
    reason = "; ".join(worse) + ": more than the tolerance"
    if not worse:
        fine = [str(change) for change in changes]
        gone = {v: old for v, old in olds.items() if old and v not in news}
        fine += [f"{v} is new ({_mean(new):.4g})" for v, new in news.items() if not olds.get(v)]
        fine += [f"{v} is gone ({_mean(old):.4g})" for v, old in gone.items()]
        reason = "; ".join(fine) + ": within the tolerance"
    return Verdict(not worse, reason, changes, (*notes, *_unused(base), *_unused(head)))


def pooled_spread(by_variant: Mapping[str, Mapping[int, float]]) -> float | None:
    """Return the relative standard deviation over seeds, pooled over the variants.

    It is None if no variant has two seeds.
    """
    squares, degrees = 0.0, 0
    for by_seed in by_variant.values():
        if len(by_seed) > 1:
            mean = _mean(by_seed)
            squares += sum((value / mean - 1) ** 2 for value in by_seed.values())
            degrees += len(by_seed) - 1
    return math.sqrt(squares / degrees) if degrees else None


def _spread(
    base: Revision,
    olds: Mapping[str, Mapping[int, float]],
    head: Revision,
    news: Mapping[str, Mapping[int, float]],
    rule: Regression,
) -> tuple[float | None, list[str]]:
    """Return the relative spread over seeds, and a note on the tolerance."""
    for revision, found in ((base, pooled_spread(olds)), (head, pooled_spread(news))):
        if found is not None:
            return found, [
                f"The tolerance is the larger of {rule.max_perplexity_rise:.1%} and "
                f"{rule.standard_errors:g} standard errors of the difference of the means, with a "
                f"spread of {found:.1%} over the seeds of {revision.name}."
            ]
    return None, [
        f"{base.name} and {head.name} have one seed per variant, so the spread over seeds is "
        f"unknown and the tolerance is {rule.max_perplexity_rise:.1%}. dvc repro -P also trains "
        "the seeds in replicate.seeds."
    ]


def _tolerance(num_base: int, num_head: int, spread: float | None, rule: Regression) -> float:
    if spread is None:
        return rule.max_perplexity_rise
    error = spread * math.sqrt(1 / num_base + 1 / num_head)
    return max(rule.max_perplexity_rise, rule.standard_errors * error)


def _unused(revision: Revision) -> list[str]:
    stale = {variant: revision.stale_replicates(variant) for variant in revision.variants}
    names = [f"{variant}-{seed}" for variant, seeds in stale.items() for seed in seeds]
    if not names:
        return []
    return [
        f"Not used from {revision.name}: {', '.join(names)} in analysis/replicate, trained with "
        "other params, data or code than train.seed. dvc repro -P retrains them."
    ]


def _mean(by_seed: Mapping[int, float]) -> float:
    return statistics.fmean(by_seed.values())


def _seeds(by_seed: Mapping[int, float]) -> str:
    return f"{len(by_seed)} seed{'s'[: len(by_seed) != 1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Fail if held-out perplexity rises too far.")
    parser.add_argument("--base", required=True, help="revision or experiment to compare with")
    parser.add_argument(
        "--head", default=WORKSPACE, help="revision to check (default: %(default)s)"
    )
    given = parser.parse_args()
    verdict = judge(find_revision(given.base), find_revision(given.head), rule())
    for note in verdict.notes:
        say("gate", note)
    if not verdict.passed:
        raise UserError(verdict.reason)
    say("gate", f"passed: {verdict.reason}")


if __name__ == "__main__":
    run_main("gate", main)
