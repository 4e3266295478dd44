"""Results of a training other than the weights, which are scores, speed and curves."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gru_lm.core.errors import DamagedFile
from gru_lm.core.files import write_text
from gru_lm.results import Finite, NotNegative, Perplexity, Result, Whole, read_text

Curve = list[tuple[int, float]]  # (epoch, perplexity), by rising epochs

TIMES_TRAINED = "times_trained.npy"  # of each target of the training split, for the kept weights


class Best(Result):
    """The epoch with the lowest validation perplexity, and that perplexity."""

    epoch: Whole
    perplexity: Perplexity


class Training(Result):
    """Perplexities and the epoch of the kept weights, in ``metrics/train/<variant>.json``.

    ``perplexity`` is measured on the last epoch's minibatches, ``val_perplexity`` on the validation
    split after it (None if it was not finite). ``best_val`` is the best validation of any epoch.
    """

    perplexity: Perplexity
    val_perplexity: Perplexity | None
    best_val: Best | None
    epochs: Whole
    seed: Whole
    selected_epoch: Whole
    parameters: Whole


class Timing(Result):
    """Median tokens per second over epochs, and seconds, in ``metrics/timing/<variant>.json``."""

    tokens_per_second: Annotated[Finite, Field(gt=0)]
    seconds: NotNegative
    epochs_timed: Whole
    device: str
    torch: str


def write_curve(path: Path, curve: Iterable[tuple[int, float]]) -> None:
    """Write (epoch, perplexity) rows as tab-separated values, with a heading."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerow(["step", "perplexity"])
    writer.writerows(curve)
    write_text(path, buffer.getvalue())


def read_curve(path: Path) -> Curve:
    """Read the curve that ``write_curve`` wrote to ``path``. Raises UnusableFile."""
    return parse_curve(read_text(path), path)


def parse_curve(text: str, path: Path) -> Curve:
    """Parse the rows of ``text``, the content of ``path``. Raises DamagedFile."""
    try:
        rows = csv.DictReader(io.StringIO(text), delimiter="\t")
        curve = [(int(row["step"]), float(row["perplexity"])) for row in rows]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DamagedFile(path, str(error)) from None
    if not curve:
        raise DamagedFile(path, "it has no row")
    steps = [step for step, _ in curve]
    if steps != sorted(set(steps)) or not all(1 <= value < math.inf for _, value in curve):
        raise DamagedFile(path, "it is no curve of perplexities by rising epochs")
    return curve
