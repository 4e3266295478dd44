"""The training: one step after the other, and what is due after each (row, validation, end)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from gru_lm.core.errors import UserError
from gru_lm.models.base import LanguageModel
from gru_lm.training.averaging import AveragedWeights
from gru_lm.training.cuda_graph import Snapshot
from gru_lm.training.history import History, Point, Position
from gru_lm.training.minibatches import (
    Minibatch,
    counted_minibatches,
    on_device,
    require_enough_tokens,
)
from gru_lm.training.optimizers import make_optimizer, remedy, set_learning_rate
from gru_lm.training.plan import Plan
from gru_lm.training.ranks import ALONE, Ranks
from gru_lm.training.schedule import Patience, Plateaus, is_varied
from gru_lm.training.settings import Train
from gru_lm.training.trainer import Sums, Trainer, perplexity, validate

CHECK = 100  # steps between two checks of the loss within a longer logging interval
SYNC = 16  # steps between two exact readings of the clock on a GPU, for a length in minutes


@dataclass(frozen=True)
class Row:
    """A point of the curves.

    ``number`` is the number of the epoch or of the step, as ``Train.axis`` says. ``perplexity`` is
    measured on the ``tokens`` targets since the last row, on each minibatch before its update.
    ``seconds`` is the wall time of training since then without validation. ``val_perplexity`` is
    the result of a validation after it, or None if there was none or it is not finite.
    """

    number: int
    perplexity: float
    tokens: int
    seconds: float
    val_perplexity: float | None = None


class Diverged(UserError):
    """The loss is no longer a finite number."""


class Training:
    """A training of ``model`` on ``tokens`` (N,), and its whole state.

    ``val_tokens`` (M,) are validated as ``settings.validate_every`` says and at the end. This
    changes no bit of the training, except for the schedule plateau and for ``settings.patience``.
    ``at_end`` is called after the last step, before a row or a validation that is due only because
    the training ends. A longer training can go on from the state at that moment.

    With several ``ranks``, each has a Training with the same arguments, and all of them make the
    same calls. Rows, curves and weights are then the same in all.

    Raises UserError if there are too few ``tokens`` for one minibatch, or as ``Plan`` does.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokens: Tensor,
        settings: Train,
        val_tokens: Tensor | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        at_end: Callable[[], None] = lambda: None,
        ranks: Ranks = ALONE,
    ) -> None:
        require_enough_tokens(len(tokens), settings.batch_size, settings.num_steps)
        if ranks.size > settings.batch_size:
            raise UserError(
                f"train.batch_size = {settings.batch_size}: each of the {ranks.size} processes "
                "needs a row of a minibatch; raise it, or start fewer processes"
            )
        self.model, self.settings, self.at_end, self.ranks = model, settings, at_end, ranks
        self.plan = Plan(settings, len(tokens))
        self.optimizer = optimizer or make_optimizer(model, settings)
        averaged = settings.average.name != "none"
        self.average = AveragedWeights(model, settings.average) if averaged else None
        self.stopping = Patience()
        self.plateaus = Plateaus(settings.schedule.patience)
        self.history = History()
        self.position = Position.start(model.device)
        self._tokens = on_device(tokens, model.device)
        self._val_tokens = None if val_tokens is None else on_device(val_tokens, model.device)
        self._trainer = Trainer(
            model,
            self.optimizer,
            settings.clip_norm,
            settings.precision,
            settings.seed,
            accumulate=settings.accumulate > 1,
            ranks=ranks,
        )
        self._minibatches: Iterator[Minibatch] | None = None
        self._left = 0  # minibatches of the running epoch
        self._good: tuple[Snapshot, Position, AveragedWeights | None] | None = None
        model.train()

    @property
    def stopped(self) -> bool:
        """Whether ``settings.patience`` has ended the training."""
        patience = self.settings.patience
        return patience is not None and self.stopping.waited >= patience

    @property
    def is_over(self) -> bool:
        """Whether there is no step left to do."""
        return self.plan.is_over(self.position) or self.stopped

    @property
    def epochs_done(self) -> float:
        """The number of epochs that are done, with the share of the running one."""
        done = self.position.minibatches
        return self.position.epochs + (done / (done + self._left) if self._left else 0)

    def advance(self) -> Row | None:
        """Do one step and what is due after it. Returns a row if one is due.

        Raises Diverged if the loss is not finite any more. It is read for each row and after every
        ``CHECK`` steps. Everything is then restored to the state at the last row, or at the first
        call if there is none.
        """
        if self._good is None:
            self._keep_good_state()
        self._step()
        plan, settings, position = self.plan, self.settings, self.position
        validated = plan.is_due(settings.validate_every, position) and self._val_tokens is not None
        logged = validated or plan.is_due(settings.logging, position)
        row = None
        if logged:
            row = self._row(validated)
        elif position.steps % CHECK == 0:
            self._require_finite(position.sums.read(self.ranks)[0])
        if self.is_over:
            self.at_end()
            if row is None:
                row = self._row(validated=True)
            elif not validated:
                row = replace(row, val_perplexity=self._validate())
        return row

    def _step(self) -> None:
        """Do one step of the optimiser."""
        settings, position = self.settings, self.position
        start = time.perf_counter()
        minibatches = self._next_minibatches()
        if is_varied(settings.schedule):
            factor = self.plan.factor(position, self.plateaus.count)
            set_learning_rate(self.optimizer, settings.lr * factor)
        carry = settings.partition == "sequential"
        state = position.state if carry else None
        state = self._trainer.step(minibatches, state, carry, position.sums, position.steps)
        position.steps += 1
        position.minibatches += len(minibatches)
        if self._left == 0:
            position.epochs, position.minibatches, self._minibatches = position.epochs + 1, 0, None
        position.state = state if carry and self._left else None
        if self.average is not None and self.plan.is_averaged(position):
            self.average.update()
        exact = settings.minutes is not None and position.steps % SYNC == 0
        if exact and self.model.device.type == "cuda":  # GPU only
            torch.cuda.synchronize()
        self._count_seconds_since(start)

    def _count_seconds_since(self, start: float) -> None:
        position = self.position
        position.seconds += time.perf_counter() - start
        if self.settings.minutes is not None:  # the clocks of the ranks differ
            position.seconds = self.ranks.number_of_first(position.seconds)

    def _next_minibatches(self) -> list[Minibatch]:
        """Return the minibatches of the next step, all of one epoch."""
        s, position = self.settings, self.position
        if self._minibatches is None:
            number, self._minibatches = counted_minibatches(
                self._tokens,
                s.batch_size,
                s.num_steps,
                s.partition,
                s.seed,
                position.epochs + 1,
                s.drop_last,
                skip=position.minibatches,
            )
            self._left = number - position.minibatches
        found = list(islice(self._minibatches, s.accumulate))
        self._left -= len(found)
        return found

    def _row(self, validated: bool) -> Row:
        """Read the loss since the last row, add a point to the curves and start the next sums."""
        position, history = self.position, self.history
        start = time.perf_counter()
        nats, tokens = position.sums.read(self.ranks)
        reached = perplexity(nats / tokens)
        self._require_finite(reached)
        self._count_seconds_since(start)
        history.curve.append(Point(position.epoch, position.steps, reached))
        history.targets += tokens
        position.sums = Sums(self.model.device)
        seconds, position.row_began = position.seconds - position.row_began, position.seconds
        measured = self._validate() if validated else None
        self._keep_good_state()
        number = position.epoch if self.settings.axis == "epoch" else position.steps
        return Row(number, reached, tokens, seconds, measured)

    def _validate(self) -> float | None:
        """Measure the validation perplexity of the averaged or last weights, if it is finite."""
        if self._val_tokens is None:
            return None
        sizes = self.settings.batch_size, self.settings.num_steps
        if self.average is None:
            return self._note(validate(self.model, self._val_tokens, *sizes, self.ranks))
        with self.average.applied():
            return self._note(validate(self.model, self._val_tokens, *sizes, self.ranks))

    def _note(self, measured: float) -> float | None:
        """Add a validation to the history, with the weights if it is the best."""
        finite = measured if math.isfinite(measured) else None
        self.stopping.add(finite)
        self.plateaus.add(finite)
        if finite is not None:
            point = Point(self.position.epoch, self.position.steps, finite)
            self.history.validation.append(point)
            if self.history.best is point:
                weights = self.model.state_dict()
                self.history.best_weights = {name: value.clone() for name, value in weights.items()}
        return finite

    def _keep_good_state(self) -> None:
        position = replace(self.position, sums=self.position.sums.clone())
        if position.state is not None:
            position.state = position.state.clone()  # a CUDA graph overwrites it
        average = None if self.average is None else self.average.copy()
        self._good = Snapshot(self.optimizer), position, average

    def _require_finite(self, reached: float) -> None:
        """Raise Diverged, and restore the last good state, if the loss is not finite."""
        if math.isfinite(reached):
            return
        assert self._good is not None
        snapshot, good, average = self._good
        curve, at = self.history.curve, f"epoch {self.position.epoch}"
        if self.settings.axis == "step":
            at += f", in steps {good.steps + 1} to {self.position.steps}"
        snapshot.restore()
        self.position, self.average, self._minibatches = good, average, None
        self._good = None
        last = f"{curve[-1].perplexity:.4g}" if curve else "none so far"
        raise Diverged(
            f"training diverged in {at}: the loss is no longer finite (last finite perplexity: "
            f"{last}); {remedy(self.settings)}"
        )


def train(
    model: LanguageModel,
    tokens: Tensor,
    settings: Train,
    optimizer: torch.optim.Optimizer | None = None,
    val_tokens: Tensor | None = None,
) -> Iterator[Row]:
    """Train ``model`` from its first to its last step, and yield each row of the curves.

    The model has the averaged weights at the end if ``settings.average`` asks for them. The
    arguments and errors are those of ``Training``.
    """
    training = Training(model, tokens, settings, val_tokens, optimizer)
    while not training.is_over:
        row = training.advance()
        if row is not None:
            yield row
    if training.average is not None:
        training.average.apply()
