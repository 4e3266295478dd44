"""Results of the gate study of one variant, as JSON and arrays in ``analysis/gates/``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field, TypeAdapter, field_validator, model_validator

from gru_lm.core.errors import DamagedFile
from gru_lm.core.files import read_arrays, read_json, write_arrays
from gru_lm.results import (
    ROUNDING,
    Finite,
    NotNegative,
    Positive,
    Result,
    Share,
    Whole,
    checked,
)

PASSAGES: Final[tuple[Text, ...]] = ("train", "val")  # the splits on which gates are read
MEASURES: Final[tuple[Measure, ...]] = ("calibrated_bits", "bits", "accuracy")

Place = Literal["first letter", "inside words", "space"]
Gate = Literal["Z", "R"]
Text = Literal["train", "val"]
Weights = Literal["selected", "best"]
Measure = Literal["calibrated_bits", "bits", "accuracy"]
HeldGate = Literal["reset", "update"]
Start = Literal["fresh", "passage"]
Outcome = Literal["supported", "contradicted", "undecided"]

# --------------------------------------------------------------------------------- the JSON file


class TimeConstants(Result):
    """Quantiles of the units' time constants in tokens; None if infinite."""

    min: NotNegative | None
    p10: NotNegative | None
    median: NotNegative | None
    p90: NotNegative | None
    max: NotNegative | None

    @model_validator(mode="after")
    def _in_order(self) -> TimeConstants:
        values = [self.min, self.p10, self.median, self.p90, self.max]
        numbers = [math.inf if value is None else value for value in values]
        if numbers != sorted(numbers):
            raise ValueError("the percentiles are not in ascending order")
        return self


class PlaceMeans(Result):
    """The means of both gates over units and tokens at one place in a word."""

    Z: Share
    R: Share
    tokens: Positive

    def gate(self, name: Gate) -> float:
        """The mean of the gate ``name``."""
        return self.Z if name == "Z" else self.R


class Activity(Result):
    """Means of the gates at each place, by split; None for a place that does not occur.

    A split is None if the tokens are not characters.
    """

    train: dict[Place, PlaceMeans | None] | None
    val: dict[Place, PlaceMeans | None] | None

    def split(self, name: str) -> dict[Place, PlaceMeans] | None:
        """Return the places that occur in the split ``name``, or None."""
        places: dict[Place, PlaceMeans | None] = getattr(self, name) or {}
        return {place: means for place, means in places.items() if means} or None


class Measured(Result):
    """A mean over tokens per context length, by measure."""

    calibrated_bits: list[Finite]
    bits: list[Finite]
    accuracy: list[Finite]

    def by(self, measure: Measure) -> list[float]:
        """Return the values of one measure."""
        values: list[float] = getattr(self, measure)
        return values


class ContextCurve(Result):
    """One training's scores by context length, followed by that of the whole context."""

    seed: Whole
    scores: Measured


class ContextCurves(Result):
    """Curves of the trainings for one text and one choice of weights.

    ``reach`` is the shortest context whose mean loss (in calibrated bits) is within the study's
    ``tolerance`` of the lowest; None if that needs the whole context.
    """

    targets: Positive
    lengths: Annotated[list[Whole], Field(min_length=1)]
    reach: Whole | None
    trainings: Annotated[list[ContextCurve], Field(min_length=1)]

    @model_validator(mode="after")
    def _complete(self) -> ContextCurves:
        for one in self.trainings:
            if any(len(one.scores.by(m)) != len(self.lengths) + 1 for m in MEASURES):
                raise ValueError(
                    "a curve must have one value per length and one for the whole context"
                )
        return self

    def mean(self, measure: Measure) -> list[float]:
        """Return the mean curve of ``measure`` over the trainings."""
        found: list[float] = np.mean([one.scores.by(measure) for one in self.trainings], 0).tolist()
        return found


class Context(Result):
    """Curves by text and weights, the selected ones and those of the best validation epoch."""

    tolerance: NotNegative
    train: dict[Weights, ContextCurves]
    val: dict[Weights, ContextCurves]

    def curves(self, text: Text, weights: Weights) -> ContextCurves:
        """Return the curves of ``text`` with ``weights``."""
        found: dict[Weights, ContextCurves] = getattr(self, text)
        return found[weights]

    @field_validator("train", "val")
    @classmethod
    def _both(cls, curves: dict[Weights, ContextCurves]) -> dict[Weights, ContextCurves]:
        if curves.keys() != {"selected", "best"}:
            raise ValueError("the keys must be selected and best")
        return curves


class Paired(Result):
    """A difference in each training, its mean, and the 95 % interval of the mean.

    With too few trainings there is no interval, and the outcome is undecided.
    """

    differences: list[Finite]
    mean: Finite | None
    low: Finite | None
    high: Finite | None
    outcome: Outcome

    @model_validator(mode="after")
    def _around_the_mean(self) -> Paired:
        known = [value for value in (self.low, self.mean, self.high) if value is not None]
        if known != sorted(known):
            raise ValueError("the mean is not within its interval")
        return self

    @property
    def held(self) -> int:
        """The number of trainings in which the difference is above zero."""
        return sum(difference > 0 for difference in self.differences)


class Halves(Result):
    """A difference for near context and one for far context."""

    near: Paired
    far: Paired


class EqualDamage(Result):
    """One training with each gate held at the dose of equal damage, from both starts."""

    dose: dict[HeldGate, Share]
    fresh: dict[HeldGate, Measured]
    passage: dict[HeldGate, Measured]


class GatesHeld(Result):
    """One training's ``plain`` scores, and the losses with each gate held.

    The losses are by measure and context length, with the gate held in ``full`` and at ``equal``
    damage, which is None if too little can be lost.
    """

    seed: Whole
    targets: Positive
    plain: Measured
    full: dict[HeldGate, Measured]
    equal: EqualDamage | None


class UnitLosses(Result):
    """The costs on [near, far] context of holding each tenth of the units."""

    long: list[Finite]
    short: list[Finite]
    random: list[list[Finite]]


class UnitsHeld(Result):
    """One training with a tenth of its units held."""

    seed: Whole
    targets: Positive
    calibrated_bits: UnitLosses
    bits: UnitLosses
    accuracy: UnitLosses


class MoreThanRandom(Result):
    """The cost of holding a tenth of the units minus the mean cost of random tenths."""

    long: Halves
    short: Halves


class Interventions(Result):
    """The trainings on one text, and the comparisons over them by measure."""

    near: Positive
    far: Positive
    lengths: list[Whole]
    gates: list[GatesHeld]
    units: list[UnitsHeld]
    gain: dict[Measure, Halves]
    held_in_full: dict[Measure, dict[HeldGate, Halves]]
    reset_against_update: dict[Start, dict[Measure, Halves]]
    more_than_random: dict[Measure, MoreThanRandom]

    @model_validator(mode="after")
    def _complete(self) -> Interventions:
        if self.reset_against_update.keys() != {"fresh", "passage"}:
            raise ValueError("the keys must be fresh and passage")
        by_measure = [self.gain.keys(), self.held_in_full.keys(), self.more_than_random.keys()]
        by_measure += [one.keys() for one in self.reset_against_update.values()]
        if any(keys != set(MEASURES) for keys in by_measure):
            raise ValueError("a comparison must have every measure")
        return self


class InterventionsByText(Result):
    """Interventions on training text (selected weights) and validation text (best weights)."""

    train: Interventions
    val: Interventions

    def text(self, name: Text) -> Interventions:
        """Return the interventions on one text."""
        found: Interventions = getattr(self, name)
        return found


class GateStudy(Result):
    """Results of the gate study, in ``analysis/gates/<variant>.json``.

    ``time_constant`` and ``activity`` are results of the training with ``train.seed``, the others
    of all ``seeds``. ``selected`` is ``train.select``.
    """

    seeds: Annotated[list[Whole], Field(min_length=1)]
    selected: Literal["last", "best_val"]
    time_constant: TimeConstants
    activity: Activity
    context: Context
    interventions: InterventionsByText


class LeftOut(Result):
    """The file of a variant without gates, with the reason."""

    left_out: Annotated[str, Field(min_length=1)]


_STUDY: Final = TypeAdapter[GateStudy](GateStudy)
_LEFT_OUT: Final = TypeAdapter[LeftOut](LeftOut)


def read_gate_study(path: Path) -> GateStudy | LeftOut:
    """Read ``analysis/gates/<variant>.json``. Raises UnusableFile."""
    tree = read_json(path)
    if tree.keys() == {"left_out"}:
        return checked(_LEFT_OUT, tree, path)
    return checked(_STUDY, tree, path)


# ------------------------------------------------------------------------------------ the arrays


@dataclass(frozen=True)
class Reading:
    """The gates of H units on L consecutive tokens, and K alternatives for each token.

    ``Z`` and ``R`` are the gates of the step that reads the token. ``surprise`` is -log2 of the
    token's predicted probability, and ``top_tokens`` are the most probable tokens in its place. The
    first token of a split is not predicted, so its surprise is NaN and its top tokens are 0.
    """

    tokens: np.ndarray  # (L,)
    Z: np.ndarray  # (L, H)
    R: np.ndarray  # (L, H)
    surprise: np.ndarray  # (L,), bits
    top_tokens: np.ndarray  # (L, K)
    top_probabilities: np.ndarray  # (L, K)


_PARTS: Final = ("tokens", "Z", "R", "surprise", "top_tokens", "top_probabilities")


@dataclass(frozen=True)
class GateArrays:
    """A passage of each split, and the units' means, in ``analysis/gates/<variant>.npz``.

    ``readings`` are by split, ``train`` and ``val``. ``time_constant`` is in tokens and infinite
    for a mean Z of 1.
    """

    readings: Mapping[Text, Reading]
    mean_Z: np.ndarray  # (H,)
    mean_R: np.ndarray  # (H,)
    time_constant: np.ndarray  # (H,)

    def write(self, path: Path, vocabulary: str) -> None:
        """Write the arrays to ``path``; ``vocabulary`` is the fingerprint of the vocabulary."""
        arrays = {
            f"{split}_{part}": getattr(reading, part)
            for split, reading in self.readings.items()
            for part in _PARTS
        }
        means = {name: getattr(self, name) for name in ("mean_Z", "mean_R", "time_constant")}
        write_arrays(path, {**arrays, **means}, owner=vocabulary)

    @classmethod
    def read(cls, path: Path, vocabulary: str, vocab_size: int) -> GateArrays:
        """Read the arrays that ``write`` wrote to ``path`` for the same ``vocabulary``.

        Raises UnusableFile if the file is missing, belongs to another vocabulary, or contains
        arrays that do not fit each other or the ``vocab_size``.
        """
        arrays = read_arrays(path, owner=vocabulary)
        try:
            readings = {
                split: Reading(*(arrays.pop(f"{split}_{part}") for part in _PARTS))
                for split in PASSAGES
            }
            means = [arrays.pop(name) for name in ("mean_Z", "mean_R", "time_constant")]
            found = cls(readings, *means)
            found._require_fitting(vocab_size)
        except KeyError as error:
            raise DamagedFile(path, f"it has no array {error}") from None
        except (ValueError, TypeError) as error:
            raise DamagedFile(path, str(error)) from None
        if arrays:
            raise DamagedFile(path, f"{next(iter(arrays))!r:.40} is not an array of the gate study")
        return found

    def _require_fitting(self, vocab_size: int) -> None:
        """Raise ValueError if shapes, token numbers or gate values are invalid."""
        self._require_types()
        units = self.mean_Z.shape
        if len(units) != 1 or {self.mean_R.shape, self.time_constant.shape} != {units}:
            raise ValueError("the units' means differ in length")
        if not units[0] or not (self.time_constant >= 0).all():  # NaN is not
            raise ValueError("there is no unit, or a time constant is negative or NaN")
        for mean in (self.mean_Z, self.mean_R):
            if not _between_0_and_1(mean):
                raise ValueError("a mean gate is not between 0 and 1")
        for split, reading in self.readings.items():
            length, top = reading.tokens.shape, reading.top_tokens.shape
            if (
                len(length) != 1
                or not length[0]
                or {reading.Z.shape, reading.R.shape} != {length + units}
                or reading.surprise.shape != length
                or (top[:-1], top) != (length, reading.top_probabilities.shape)
            ):
                raise ValueError(f"the arrays of {split} do not fit each other")
            for gate in (reading.Z, reading.R):
                if not ((gate >= 0) & (gate <= 1)).all():
                    raise ValueError(f"a gate of {split} is not between 0 and 1")
            # Only the first token of a passage may have no prediction.
            first = 1 if np.isnan(reading.surprise[0]) else 0
            if not _between_0_and_1(reading.top_probabilities[first:]):
                raise ValueError(f"a probability of {split} is not between 0 and 1")
            surprise = reading.surprise[first:]
            if not ((surprise >= -ROUNDING) & (surprise < np.inf)).all():
                raise ValueError(f"a surprise of {split} is negative, infinite or NaN")
            for numbers in (reading.tokens, reading.top_tokens):
                if not ((numbers >= 0) & (numbers < vocab_size)).all():
                    raise ValueError(f"a token of {split} is not in the vocabulary")

    def _require_types(self) -> None:
        """Raise ValueError if an array has another type of numbers than ``write`` expects."""
        arrays = {name: getattr(self, name) for name in ("mean_Z", "mean_R", "time_constant")}
        for split, reading in self.readings.items():
            arrays |= {f"{split}_{part}": getattr(reading, part) for part in _PARTS}
        for name, array in arrays.items():
            if name.endswith("tokens"):
                if array.dtype.kind not in "iu":
                    raise ValueError(f"{name}: the tokens must be whole numbers")
            elif array.dtype.kind != "f":
                raise ValueError(f"{name} has the type {array.dtype}, not a floating-point type")


def _between_0_and_1(values: np.ndarray) -> bool:
    """Return whether all of ``values`` are between 0 and 1 within rounding. NaN is not."""
    return bool(((values >= 0) & (values <= 1 + ROUNDING)).all())


def write_no_arrays(path: Path, vocabulary: str) -> None:
    """Write the file of a variant without gates, which contains no arrays."""
    write_arrays(path, {}, owner=vocabulary)
