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
from gru_lm.results import Finite, NotNegative, Perplexity, Positive, Result, Share, Whole, checked

PASSAGES: Final = ("train", "val")  # the splits on which gates are read
ALL: Final = "all"  # the key of a context curve that stands for all that came before

Place = Literal["first letter", "inside words", "space"]
Gate = Literal["Z", "R"]
Band = Literal["near", "far"]
Outcome = Literal["supported", "contradicted", "undecided"]
Held = Literal["reset_mean", "update_mean", "long_units", "short_units", "random_units"]

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


class ContextCurves(Result):
    """By split, perplexity by the number of tokens read before: "1", "2", "4", ... and "all"."""

    train: dict[str, Perplexity]
    val: dict[str, Perplexity]

    @field_validator("train", "val")
    @classmethod
    def _lengths(cls, curve: dict[str, float]) -> dict[str, float]:
        lengths = [key for key in curve if key != ALL]
        if not {"1", ALL} <= curve.keys() or not all(key.isdecimal() for key in lengths):
            raise ValueError('the keys must be "1", "2", ... and "all"')
        return curve

    def split(self, name: str) -> dict[str, float]:
        """The curve of the split ``name``."""
        curve: dict[str, float] = getattr(self, name)
        return curve


class EffectiveContext(Result):
    """By split, the least context that is as good as all of it; None if context is of no use."""

    train: Whole | None
    val: Whole | None

    def split(self, name: str) -> int | None:
        """That of the split ``name``."""
        found: int | None = getattr(self, name)
        return found


class Condition(Result):
    """One intervention at full dose, by the length of true context; ``lost`` by band."""

    rise: Finite
    calibrated_bits: list[Finite]
    bits: list[Finite]
    accuracy: list[Share]
    gain: list[Finite]
    lost: list[Finite | None]


class Estimate(Result):
    """A number and its 95 % interval."""

    value: Finite
    low: Finite
    high: Finite


class Claim(Result):
    """What one measure says of each part of the textbook's claim."""

    reset_near: Outcome
    update_far: Outcome
    long_units_far: Outcome


Difference = Literal[
    "reset_minus_update", "update_minus_reset", "long_minus_random", "short_minus_random"
]


class Comparison(Result):
    """Interventions at equal damage: what each loses of near and of far context."""

    losses: dict[Held, dict[Band, Estimate]]
    differences: dict[Difference, dict[Band, Estimate]]
    claim: Claim

    @model_validator(mode="after")
    def _complete(self) -> Comparison:
        for name in ("reset_mean", "update_mean", "long_units", "short_units", "random_units"):
            if self.losses.get(name, {}).keys() != {"near", "far"}:
                raise ValueError(f"the losses of {name} are incomplete")
        return self


class Verdict(Result):
    """The comparison by each measure, None if that cannot tell; ``rise`` is the equal damage."""

    near: Positive
    far: Positive
    rise: NotNegative
    doses: dict[str, NotNegative]
    calibrated_bits: Comparison
    bits: Comparison | None
    accuracy: Comparison | None


class Interventions(Result):
    """What is lost if gates or units are held; ``verdict`` is None if too little is lost."""

    targets: Positive
    lengths: list[Whole]
    bands: list[str]
    conditions: dict[str, Condition]
    verdict: Verdict | None


class GateStudy(Result):
    """``analysis/gates/<variant>.json``; no ``interventions`` if the split is too short."""

    time_constant: TimeConstants
    activity: Activity
    context: ContextCurves
    effective_context: EffectiveContext
    interventions: Interventions | None


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

    readings: Mapping[str, Reading]
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
        units = self.mean_Z.shape
        if len(units) != 1 or {self.mean_R.shape, self.time_constant.shape} != {units}:
            raise ValueError("the units' means are not of one length")
        if not units[0] or not (self.time_constant >= 0).all():  # NaN is not
            raise ValueError("there is no unit, or a time constant is below 0")
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
            for numbers in (reading.tokens, reading.top_tokens):
                if numbers.dtype.kind not in "iu":
                    raise ValueError(f"the tokens of {split} are no whole numbers")
                if not ((numbers >= 0) & (numbers < vocab_size)).all():
                    raise ValueError(f"a token of {split} is not in the vocabulary")


def write_no_arrays(path: Path, vocabulary: str) -> None:
    """The file of arrays of a variant without gates, which holds none."""
    write_arrays(path, {}, owner=vocabulary)
