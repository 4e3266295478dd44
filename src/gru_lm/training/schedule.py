"""Schedules of the learning rate: the factor of ``train.lr`` at each step.

During warm-up the factor rises linearly to 1 (Goyal et al. 2017, arXiv:1706.02677, section 2.2).
Afterwards it is, with p the share of the rest of the run that is done, from 0 to 1, and f the
setting ``final_lr``:

========  =============================================================================
constant  1
linear    1 - (1 - f) p
cosine    f + (1 - f) (1 + cos(pi p)) / 2 (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5)
step      ``factor`` to the power of the number of times that ``every`` has passed
plateau   ``factor`` to the power of the number of plateaus of the validation perplexity
========  =============================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gru_lm.training.settings import Schedule, Train, is_fraction


def factor(schedule: Schedule, done: float, total: float | None, decreases: int = 0) -> float:
    """Return the factor of the learning rate for the step after ``done``.

    ``done`` and ``total``, the length of the run, are both steps or both seconds. ``total`` may be
    None if the factor does not depend on it (see ``depends_on_length``). ``decreases`` is the
    number of decreases so far, for step and plateau. During a warm-up of w steps, step k, counted
    from 0, has the factor (k + 1) / (w + 1).
    """
    warmup: float = schedule.warmup
    if is_fraction(warmup):
        assert total is not None
        warmup *= total
    if done < warmup:
        return (done + 1) / (warmup + 1)
    if schedule.name in ("step", "plateau"):
        return schedule.factor**decreases
    if schedule.name == "constant":
        return 1.0
    assert total is not None
    share = min(max((done - warmup) / max(total - warmup, 1e-9), 0.0), 1.0)
    if schedule.name == "linear":
        return 1 - (1 - schedule.final_lr) * share
    return schedule.final_lr + (1 - schedule.final_lr) * (1 + math.cos(math.pi * share)) / 2


def depends_on_length(train: Train) -> str:
    """Return the setting that makes each step depend on the length of the run, or ""."""
    if train.schedule.name in ("linear", "cosine"):
        return f"train.schedule.name = {train.schedule.name}"
    if is_fraction(train.schedule.warmup):
        return f"train.schedule.warmup = {train.schedule.warmup:g}"
    if train.average.name != "none" and is_fraction(train.average.start):
        return f"train.average.start = {train.average.start:g}"
    return ""


def is_varied(schedule: Schedule) -> bool:
    """Return whether the learning rate changes during the run."""
    return schedule.name != "constant" or bool(schedule.warmup)


@dataclass
class Patience:
    """Counts validations in a row that do not improve on the best perplexity so far.

    A validation that is not finite is no improvement.
    """

    best: float = math.inf
    waited: int = 0

    def add(self, perplexity: float | None) -> None:
        """Count one more validation; None stands for a perplexity that is not finite."""
        if perplexity is not None and perplexity < self.best:
            self.best, self.waited = perplexity, 0
        else:
            self.waited += 1


@dataclass
class Plateaus:
    """The plateaus so far: each is ``patience`` validations in a row without improvement.

    As torch's ReduceLROnPlateau with threshold 0 and a patience that is smaller by 1.
    """

    patience: int
    current: Patience = field(default_factory=Patience)
    count: int = 0

    def add(self, perplexity: float | None) -> None:
        """Count one more validation."""
        self.current.add(perplexity)
        if self.current.waited >= self.patience:
            self.current.waited = 0
            self.count += 1
