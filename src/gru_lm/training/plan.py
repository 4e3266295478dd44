"""When a training ends, and what is due at each of its positions."""

from __future__ import annotations

from functools import cached_property

from gru_lm.core.errors import UserError
from gru_lm.training.history import Position
from gru_lm.training.minibatches import num_minibatches
from gru_lm.training.schedule import factor
from gru_lm.training.settings import Train, interval, is_fraction


class Plan:
    """The plan of a training on ``num_tokens`` tokens.

    Raises UserError if the warm-up or the start of the average is beyond the end of the run.
    """

    def __init__(self, settings: Train, num_tokens: int) -> None:
        self.settings, self._num_tokens = settings, num_tokens
        for key, share in (
            ("schedule.warmup", settings.schedule.warmup),
            ("average.start", settings.average.start),
        ):
            if key == "average.start" and settings.average.name == "none":
                continue
            if isinstance(share, int) and share and share >= self.total:
                raise UserError(
                    f"train.{key} = {share}: the run has only {self.total:.0f} steps; lower it, or "
                    "set a fraction of the run such as 0.05"
                )

    @cached_property
    def total(self) -> float:
        """The length of the run in steps, or in seconds if it is set in minutes."""
        settings = self.settings
        if settings.minutes is not None:
            return 60 * settings.minutes
        if settings.steps is not None:
            return settings.steps
        assert settings.epochs is not None
        return sum(self.steps_in(epoch) for epoch in range(1, settings.epochs + 1))

    def minibatches_in(self, epoch: int) -> int:
        """Return the number of minibatches of ``epoch``."""
        s = self.settings
        sizes = s.batch_size, s.num_steps, s.partition, s.seed
        return num_minibatches(self._num_tokens, *sizes, epoch, s.drop_last)

    def steps_in(self, epoch: int) -> int:
        """Return the number of steps of ``epoch``, whose last may have fewer minibatches."""
        return -(-self.minibatches_in(epoch) // self.settings.accumulate)

    def done(self, position: Position) -> float:
        """Return what is done at ``position`` in the unit of ``total``."""
        return position.seconds if self.settings.minutes is not None else position.steps

    def share(self, position: Position) -> float:
        """Return the share of the run that is done, in whole epochs if it is set in epochs."""
        if self.settings.epochs is not None:
            return position.epochs / self.settings.epochs
        return min(1.0, self.done(position) / self.total)

    def is_over(self, position: Position) -> bool:
        """Return whether the run has reached its length."""
        if self.settings.epochs is not None:
            return position.epochs >= self.settings.epochs
        return self.done(position) >= self.total

    def is_due(self, every: int | str | None, position: Position) -> bool:
        """Return whether the interval ``every`` ends at ``position``. None never ends."""
        if every is None:
            return False
        number, unit = interval(every)
        if unit == "steps":
            return position.steps % number == 0
        return position.minibatches == 0 and position.epochs % number == 0

    def factor(self, position: Position, plateaus: int) -> float:
        """Return the factor of the learning rate for the step after ``position``."""
        schedule = self.settings.schedule
        decreases = plateaus
        if schedule.name == "step" and schedule.every is not None:
            number, unit = interval(schedule.every)
            decreases = (position.epochs if unit == "epochs" else position.steps) // number
        needed = schedule.name in ("linear", "cosine") or is_fraction(schedule.warmup)
        total = self.total if needed else None
        return factor(schedule, self.done(position), total, decreases)

    def is_averaged(self, position: Position) -> bool:
        """Return whether the weights at ``position`` belong to the average."""
        start = self.settings.average.start
        if is_fraction(start):
            return self.done(position) > start * self.total
        return position.steps > start
