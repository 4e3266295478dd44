"""Results of a training other than the weights, which are scores, speed and curves."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

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

Curve = list[tuple[int, float]]  # (epoch, perplexity), by ascending epochs

TIMES_TRAINED = "times_trained.npy"  # of each target of the training split, for the kept weights
MOST_EPOCHS = 10_000_000  # the highest train.epochs
LARGEST = 40 * MOST_EPOCHS  # bytes of a curve


class Best(Result):
    """The epoch with the lowest validation perplexity, and that perplexity."""

    epoch: Positive
    perplexity: Perplexity


class Training(Result):
    """Perplexities and the epoch of the kept weights, in ``metrics/train/<variant>.json``.

    ``perplexity`` is measured on the last epoch's minibatches, ``val_perplexity`` on the validation
    split after it (None if it was not finite). ``best_val`` is the best validation of any epoch.
    """

    perplexity: Perplexity
    val_perplexity: Perplexity | None
    best_val: Best | None
    epochs: Positive
    seed: Seed
    selected_epoch: Positive
    parameters: Positive

    @model_validator(mode="after")
    def _within_the_epochs(self) -> Training:
        require_within(self.epochs, self.selected_epoch, self.best_val)
        return self


def require_within(epochs: int, selected_epoch: int, best_val: Best | None) -> None:
    """Raise ValueError if an epoch comes after the last of ``epochs``."""
    if selected_epoch > epochs:
        raise ValueError(f"selected_epoch = {selected_epoch} is after the last epoch")
    if best_val is not None and best_val.epoch > epochs:
        raise ValueError(f"best_val.epoch = {best_val.epoch} is after the last epoch")


class Timing(Result):
    """Median tokens per second over epochs, and seconds, in ``metrics/timing/<variant>.json``."""

    tokens_per_second: Annotated[Finite, Field(gt=0)]
    seconds: NotNegative
    epochs_timed: Positive
    device: Words
    torch: Words


def write_curve(path: Path, curve: Iterable[tuple[int, float]]) -> None:
    """Write (epoch, perplexity) rows as tab-separated values, with a heading."""
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
            if not (last < step <= MOST_EPOCHS and 1 <= value < math.inf):
                raise ValueError("it is not a curve of perplexities by ascending epochs")
            curve.append((step, value))
            last = step
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DamagedFile(path, str(error)) from None
    if not curve:
        raise DamagedFile(path, "it has no row")
    return curve
