"""What the gates of one variant do: the JSON file and the arrays of ``analysis/gates/``."""

from __future__ import annotations

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
    """Of the units, in tokens: least, percentiles and greatest; None for an infinite one."""

    min: NotNegative | None
    p10: NotNegative | None
    median: NotNegative | None
    p90: NotNegative | None
    max: NotNegative | None


class PlaceMeans(Result):
    """Both gates at one place of a word: their means over units and tokens."""

    Z: Share
    R: Share
    tokens: Positive

    def gate(self, name: Gate) -> float:
        """The mean of the gate ``name``."""
        return self.Z if name == "Z" else self.R


class Activity(Result):
    """By split, the gates at each place, None at a place that does not occur.

    A split is None at word level: a word has no places.
    """

    train: dict[Place, PlaceMeans | None] | None
    val: dict[Place, PlaceMeans | None] | None

    def split(self, name: str) -> dict[Place, PlaceMeans] | None:
        """The places that occur in the split ``name``; None if it has none."""
        places: dict[Place, PlaceMeans | None] = getattr(self, name) or {}
        return {place: means for place, means in places.items() if means} or None


class Measured(Result):
    """By measure, a mean over tokens at each of several context lengths."""

    calibrated_bits: list[Finite]
    bits: list[Finite]
    accuracy: list[Finite]

    def by(self, measure: Measure) -> list[float]:
        """The numbers of one measure."""
        values: list[float] = getattr(self, measure)
        return values


class ContextCurve(Result):
    """One training: how well it predicts from each length, and last from the whole context."""

    seed: Whole
    scores: Measured


class ContextCurves(Result):
    """One text, read with one choice of weights, over the trainings.

    ``reach`` is the least context with which the mean loss (in calibrated bits) is within the
    study's ``tolerance`` of its lowest; None if that takes the whole context.
    """

    targets: Positive
    lengths: Annotated[list[Whole], Field(min_length=1)]
    reach: Whole | None
    trainings: Annotated[list[ContextCurve], Field(min_length=1)]

    @model_validator(mode="after")
    def _complete(self) -> ContextCurves:
        for one in self.trainings:
            if any(len(one.scores.by(m)) != len(self.lengths) + 1 for m in MEASURES):
                raise ValueError("a curve has not one number for each length and the whole")
        return self

    def mean(self, measure: Measure) -> list[float]:
        """The curve of ``measure``, the mean over the trainings."""
        found: list[float] = np.mean([one.scores.by(measure) for one in self.trainings], 0).tolist()
        return found


class Context(Result):
    """By text, the curves by weights: the selected ones, and those of the best validation epoch."""

    tolerance: NotNegative
    train: dict[Weights, ContextCurves]
    val: dict[Weights, ContextCurves]

    def curves(self, text: Text, weights: Weights) -> ContextCurves:
        """Those of ``text`` with ``weights``."""
        found: dict[Weights, ContextCurves] = getattr(self, text)
        return found[weights]

    @field_validator("train", "val")
    @classmethod
    def _both(cls, curves: dict[Weights, ContextCurves]) -> dict[Weights, ContextCurves]:
        if curves.keys() != {"selected", "best"}:
            raise ValueError("the keys must be selected and best")
        return curves


class Paired(Result):
    """A difference in each training, its mean, and the mean's 95 % interval over the trainings.

    There is no interval, and nothing decided, with too few trainings.
    """

    differences: list[Finite]
    mean: Finite | None
    low: Finite | None
    high: Finite | None
    outcome: Outcome

    @property
    def held(self) -> int:
        """In how many trainings the difference is above zero."""
        return sum(difference > 0 for difference in self.differences)


class Halves(Result):
    """A difference in what is lost of near context, and in what is lost of far context."""

    near: Paired
    far: Paired


class EqualDamage(Result):
    """One training with each gate pulled by a dose that costs the same, from either start."""

    dose: dict[HeldGate, Share]
    fresh: dict[HeldGate, Measured]
    passage: dict[HeldGate, Measured]


class GatesHeld(Result):
    """One training: its scores without, and how much worse they get with a gate held.

    By measure and context length, in ``full`` and, unless too little can be lost, at ``equal``
    damage.
    """

    seed: Whole
    targets: Positive
    plain: Measured
    full: dict[HeldGate, Measured]
    equal: EqualDamage | None


class UnitLosses(Result):
    """What is lost of [near, far] context with each tenth of the units held."""

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
    """What a tenth of the units costs beyond the mean of random tenths."""

    long: Halves
    short: Halves


class Interventions(Result):
    """On one text, each training, and the comparisons over them by measure."""

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
            raise ValueError("the gates are not compared from both starts")
        by_measure = [self.gain.keys(), self.held_in_full.keys(), self.more_than_random.keys()]
        by_measure += [one.keys() for one in self.reset_against_update.values()]
        if any(keys != set(MEASURES) for keys in by_measure):
            raise ValueError("a comparison has not every measure")
        return self


class InterventionsByText(Result):
    """The training text with the selected weights, the validation text with the best ones."""

    train: Interventions
    val: Interventions

    def text(self, name: Text) -> Interventions:
        """Those on one text."""
        found: Interventions = getattr(self, name)
        return found


class GateStudy(Result):
    """``analysis/gates/<variant>.json``.

    ``time_constant`` and ``activity`` are of the training from ``train.seed``, the rest of all
    ``seeds``. ``selected`` is ``train.select``: whose weights the selected ones are.
    """

    seeds: Annotated[list[Whole], Field(min_length=1)]
    selected: Literal["last", "best_val"]
    time_constant: TimeConstants
    activity: Activity
    context: Context
    interventions: InterventionsByText


class LeftOut(Result):
    """The same file of a variant without gates: why it is left out."""

    left_out: Annotated[str, Field(min_length=1)]


_STUDY: Final = TypeAdapter[GateStudy](GateStudy)
_LEFT_OUT: Final = TypeAdapter[LeftOut](LeftOut)


def read_gate_study(path: Path) -> GateStudy | LeftOut:
    """What is in ``analysis/gates/<variant>.json``. Raises UnusableFile."""
    tree = read_json(path)
    if tree.keys() == {"left_out"}:
        return checked(_LEFT_OUT, tree, path)
    return checked(_STUDY, tree, path)


# ------------------------------------------------------------------------------------ the arrays


@dataclass(frozen=True)
class Reading:
    """What a model did on L consecutive tokens with its H units, and K alternatives for each.

    ``Z`` and ``R`` are the gates of the step that reads the token. ``surprise`` is -log2 of the
    probability that the token had before it was read, and ``top_tokens`` are the likeliest tokens
    in its place. A split's first token is not predicted: NaN, and top tokens 0.
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
    """``analysis/gates/<variant>.npz``: a passage of each split, and the units' means.

    ``readings`` are by split, ``train`` and ``val``. ``time_constant`` is in tokens; that of a
    unit which never forgets is infinite.
    """

    readings: Mapping[Text, Reading]
    mean_Z: np.ndarray  # (H,)
    mean_R: np.ndarray  # (H,)
    time_constant: np.ndarray  # (H,)

    def write(self, path: Path, vocabulary: str) -> None:
        """Write the arrays to ``path``; ``vocabulary`` is the fingerprint of its tokens'."""
        arrays = {
            f"{split}_{part}": getattr(reading, part)
            for split, reading in self.readings.items()
            for part in _PARTS
        }
        means = {name: getattr(self, name) for name in ("mean_Z", "mean_R", "time_constant")}
        write_arrays(path, {**arrays, **means}, owner=vocabulary)

    @classmethod
    def read(cls, path: Path, vocabulary: str, vocab_size: int) -> GateArrays:
        """What ``write`` wrote to ``path`` for tokens of the same ``vocabulary``.

        Raises UnusableFile if the file is missing, belongs to another vocabulary, or holds arrays
        that do not fit each other or the ``vocab_size``.
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
            raise DamagedFile(path, f"{next(iter(arrays))!r:.40} is no array of the gate study")
        return found

    def _require_fitting(self, vocab_size: int) -> None:
        """Raise ValueError if shapes, token numbers or gate values are impossible."""
        self._require_types()
        units = self.mean_Z.shape
        if len(units) != 1 or {self.mean_R.shape, self.time_constant.shape} != {units}:
            raise ValueError("the units' means are not of one length")
        if not units[0] or not (self.time_constant >= 0).all():  # NaN is not
            raise ValueError("there is no unit, or a time constant is below 0")
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
            # Only the first token of a passage can be without a prediction.
            first = 1 if np.isnan(reading.surprise[0]) else 0
            if not _between_0_and_1(reading.top_probabilities[first:]):
                raise ValueError(f"a probability of {split} is not between 0 and 1")
            surprise = reading.surprise[first:]
            if not ((surprise >= -ROUNDING) & (surprise < np.inf)).all():
                raise ValueError(f"a surprise of {split} is no number of bits")
            for numbers in (reading.tokens, reading.top_tokens):
                if not ((numbers >= 0) & (numbers < vocab_size)).all():
                    raise ValueError(f"a token of {split} is not in the vocabulary")

    def _require_types(self) -> None:
        """Raise ValueError if an array has not the type of numbers that ``write`` gets."""
        arrays = {name: getattr(self, name) for name in ("mean_Z", "mean_R", "time_constant")}
        for split, reading in self.readings.items():
            arrays |= {f"{split}_{part}": getattr(reading, part) for part in _PARTS}
        for name, array in arrays.items():
            if name.endswith("tokens"):
                if array.dtype.kind not in "iu":
                    raise ValueError(f"{name}: the tokens are no whole numbers")
            elif array.dtype.kind != "f":
                raise ValueError(f"{name} has the type {array.dtype}, not a floating-point type")


def _between_0_and_1(values: np.ndarray) -> bool:
    """Return whether all of ``values`` are between 0 and 1, but for rounding. NaN is not."""
    return bool(((values >= 0) & (values <= 1 + ROUNDING)).all())


def write_no_arrays(path: Path, vocabulary: str) -> None:
    """The file of arrays of a variant without gates, which holds none."""
    write_arrays(path, {}, owner=vocabulary)
