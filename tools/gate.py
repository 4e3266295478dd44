"""Fail where held-out perplexity has risen too far against an earlier revision.

    python -m tools.gate --base main

The held-out split is ``val``; how far is too far stands in params.yaml, as a fraction of the
earlier value: ``gate.max_perplexity_rise``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Final

from gru_lm.core.errors import UserError, run_main
from gru_lm.core.params import load_params
from gru_lm.evaluation.settings import EvaluationSettings
from tools.revisions import WORKSPACE, Revision, find_revision

SPLIT: Final = "val"


@dataclass(frozen=True)
class Verdict:
    """Whether the gate lets a revision through, and why."""

    passed: bool
    reason: str


def max_rise() -> float:
    """The tolerance that params.yaml of the workspace sets."""
    return load_params(EvaluationSettings).regression.max_perplexity_rise


def judge(base: Revision, head: Revision, tolerance: float) -> Verdict:
    """Compare the held-out perplexity of each variant that both revisions have.

    A variant that only one has is named and lets through; a head without any does not pass.
    """
    worse: list[str] = []
    fine: list[str] = []
    judged = False
    for variant in sorted({*base.variants, *head.variants}):
        old, new = base.perplexity(variant, SPLIT), head.perplexity(variant, SPLIT)
        if old is None and new is None:
            continue
        judged = judged or new is not None
        if old is None:
            fine.append(f"{variant} is new ({new:.4g})")
        elif new is None:
            fine.append(f"{variant} is gone ({old:.4g})")
        else:
            change = f"{variant} {SPLIT} perplexity {old:.4g} → {new:.4g} ({new / old - 1:+.1%})"
            (fine if new <= old * (1 + tolerance) else worse).append(change)  # NaN is worse
    if worse:
        return Verdict(False, f"{'; '.join(worse)}: more than the tolerance of {tolerance:+.1%}")
    if not judged:
        return Verdict(False, f"{head.name} has no perplexity on {SPLIT} to judge: run dvc repro")
    return Verdict(True, f"{'; '.join(fine)}: within the tolerance of {tolerance:+.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fail where held-out perplexity rises too far.")
    parser.add_argument("--base", required=True, help="revision or experiment to compare with")
    parser.add_argument("--head", default=WORKSPACE, help="what to judge (default: %(default)s)")
    given = parser.parse_args()
    verdict = judge(find_revision(given.base), find_revision(given.head), max_rise())
    if not verdict.passed:
        raise UserError(verdict.reason)
    print(f"gate: passed: {verdict.reason}")


if __name__ == "__main__":
    run_main("gate", main)
