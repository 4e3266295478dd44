"""The position of a training and what it has reached so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gru_lm.training.trainer import Sums


@dataclass(frozen=True)
class Point:
    """A perplexity measured after ``step`` steps, in or at the end of ``epoch``, from 1."""

    epoch: int
    step: int
    perplexity: float


@dataclass
class History:
    """The curves of a run.

    ``curve`` holds the training perplexities and ``validation`` the validation perplexities that
    are finite. ``best_weights`` are those of the lowest validation perplexity, or None before the
    first. ``targets`` is the number of targets trained up to the last point of ``curve``.
    """

    curve: list[Point] = field(default_factory=list)
    validation: list[Point] = field(default_factory=list)
    best_weights: dict[str, Tensor] | None = None
    targets: int = 0

    @property
    def best(self) -> Point | None:
        """The point with the lowest validation perplexity, the first of equals, or None."""
        return min(self.validation, key=lambda point: point.perplexity, default=None)


@dataclass
class Position:
    """Where a training is: ``epochs`` and ``minibatches`` of the next epoch that are done.

    ``steps`` counts the updates of the weights, ``seconds`` the time of training without
    validation. ``row_began`` is the value of ``seconds`` at the last point of the curve, and
    ``sums`` is the loss since then. ``state`` (B, S) is the recurrent state to carry to the next
    minibatch. With several ranks, ``sums`` and ``state`` are of this rank's rows.
    """

    sums: Sums
    epochs: int = 0
    minibatches: int = 0
    steps: int = 0
    seconds: float = 0.0
    row_began: float = 0.0
    state: Tensor | None = None

    @classmethod
    def start(cls, device: torch.device) -> Position:
        """Return the position before the first step."""
        return cls(Sums(device))

    @property
    def epoch(self) -> int:
        """The number of the epoch of the last minibatch, from 1."""
        return self.epochs + (self.minibatches > 0)

    def __str__(self) -> str:
        if self.minibatches == 0:
            return f"epoch {self.epochs}"
        return f"step {self.steps} in epoch {self.epoch}"
