"""Calibration, and surprise and entropy by group, in ``analysis/uncertainty/``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gru_lm.results import Mean, NotNegative, Perplexity, Positive, Result, Share, Whole

Position = Literal["1", "2", "3", "4", "5", "6+", "end", "other"]
CharacterClass = Literal[
    "vowel", "consonant", "letter", "digit", "space", "newline", "punctuation", "other"
]


class Bin(Result):
    """Predictions whose confidence is in (low, high]; the means are None if there is none."""

    low: Share
    high: Share
    count: Whole
    confidence: Mean | None
    accuracy: Share | None


class Calibration(Result):
    """Expected calibration error, means and reliability curve of a split's top predictions."""

    ece: Mean
    accuracy: Share
    confidence: Mean
    bins: Annotated[list[Bin], Field(min_length=1)]


class Group(Result):
    """A group of a split's tokens; ``perplexity`` is None if it exceeds the largest float.

    ``bits_per_token`` is their mean surprise, ``entropy_bits`` the mean entropy of the predictions.
    """

    tokens: Positive
    share: Share
    perplexity: Perplexity | None
    bits_per_token: NotNegative
    entropy_bits: NotNegative


class SplitUncertainty(Result):
    """One split. Without characters the groups are None; a group without a token is left out."""

    calibration: Calibration
    overall: Group
    position_in_word: dict[Position, Group] | None
    character_class: dict[CharacterClass, Group] | None


class Uncertainty(Result):
    """All splits, in ``analysis/uncertainty/<variant>.json``."""

    train: SplitUncertainty
    val: SplitUncertainty
    test: SplitUncertainty

    def split(self, name: str) -> SplitUncertainty:
        """The split ``name``: train, val or test."""
        measured: SplitUncertainty = getattr(self, name)
        return measured
