"""Results of a training other than the weights, which are scores, speed and curves."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field, model_validator

from gru_lm.core.errors import DamagedFile
from gru_lm.core.files import write_text
from gru_lm.results import (
    Finite,
    NotNegative,
    Perplexity,
    Positive,
    Result,
    Seed,
    Words,
    read_text,
)

Curve = list[tuple[int, float]]  # (epoch or step, perplexity), by ascending numbers
Axis = Literal["epoch", "step"]  # what the first column of a curve counts

TIMES_TRAINED = "times_trained.npy"  # of each target of the training split, for the kept weights
MOST_STEPS = 10_000_000_000  # the highest number in a curve
LARGEST = 400_000_000  # bytes of a curve


class Measured(Protocol):
    """A perplexity measured at a position of the training."""

    @property
    def epoch(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def perplexity(self) -> float: ...


class Best(Result):
    """The lowest validation perplexity, and the epoch and the step at which it was measured.

    ``epoch`` is the number of the epoch that was running or had just ended.
    """

    epoch: Positive
    step: Positive
    perplexity: Perplexity

    @classmethod
    def at(cls, point: Measured | None) -> Best | None:
        """Return ``point`` as a result, None for None."""
        if point is None:
            return None
        return cls(epoch=point.epoch, step=point.step, perplexity=point.perplexity)


class Training(Result):
    """Perplexities and the position of the kept weights, in ``metrics/train/<variant>.json``.

    ``perplexity`` is that of the last row of the training curve: of the last epoch's minibatches,
    or if ``axis`` is "step" of those since the row before. ``val_perplexity`` was measured on the
    validation split after it (None if it was not finite). ``best_val`` is the best validation.
    ``epochs`` includes the last one if it is incomplete. A step is one update of the weights, and
    ``tokens`` is the number of targets in all steps.
    """

    perplexity: Perplexity
    val_perplexity: Perplexity | None
    best_val: Best | None
    epochs: Positive
    seed: Seed
    selected_epoch: Positive
    parameters: Positive
    steps: Positive
    selected_step: Positive
    tokens: Positive
    axis: Axis

    @model_validator(mode="after")
    def _within_the_run(self) -> Training:
        require_within(self.epochs, self.selected_epoch, self.best_val)
        if self.selected_step > self.steps:
            raise ValueError(f"selected_step = {self.selected_step} is after the last step")
        return self


def require_within(epochs: int, selected_epoch: int, best_val: Best | None) -> None:
    """Raise ValueError if an epoch comes after the last of ``epochs``."""
    if selected_epoch > epochs:
        raise ValueError(f"selected_epoch = {selected_epoch} is after the last epoch")
    if best_val is not None and best_val.epoch > epochs:
        raise ValueError(f"best_val.epoch = {best_val.epoch} is after the last epoch")


class Timing(Result):
    """Median tokens per second over the rows of the training curve, in ``metrics/timing/``.

    ``epochs_timed`` is the number of these rows, which are epochs in the default experiment.
    """

    tokens_per_second: Annotated[Finite, Field(gt=0)]
    seconds: NotNegative
    epochs_timed: Positive
    device: Words
    torch: Words


def write_curve(path: Path, curve: Iterable[tuple[int, float]]) -> None:
    """Write (epoch or step, perplexity) rows as tab-separated values, with a heading."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerow(["step", "perplexity"])
    writer.writerows(curve)
    write_text(path, buffer.getvalue())


def read_curve(path: Path) -> Curve:
    """Read the curve that ``write_curve`` wrote to ``path``. Raises UnusableFile."""
    return parse_curve(read_text(path, LARGEST), path)


def parse_curve(text: str, path: Path) -> Curve:
    """Parse the rows of ``text``, the content of ``path``. Raises DamagedFile."""
    curve: Curve = []
    last = -1
    try:
        for row in csv.DictReader(io.StringIO(text), delimiter="\t"):
            step, value = int(row["step"]), float(row["perplexity"])
            if not (last < step <= MOST_STEPS and 1 <= value < math.inf):
                raise ValueError("it is not a curve of perplexities by ascending steps")
            curve.append((step, value))
            last = step
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DamagedFile(path, str(error)) from None
    if not curve:
        raise DamagedFile(path, "it has no row")
    return curve
