"""From text to tokens: the section ``prepare`` of params.yaml."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gru_lm.core.params import Section, TopLevel

SplitSize = Annotated[int, Field(ge=2, le=10**12)] | Annotated[float, Field(gt=0, lt=1)]


class Split(Section):
    """Tokens for training, validation and test, in this order from the start of the corpus.

    Either all are numbers of tokens or all are fractions of the corpus that sum to at most 1.
    """

    train: SplitSize
    val: SplitSize
    test: SplitSize

    @model_validator(mode="after")
    def _one_unit(self) -> Split:
        sizes = (self.train, self.val, self.test)
        if len({type(size) for size in sizes}) > 1:
            raise ValueError("train, val and test must all be counts or all be fractions")
        if isinstance(self.train, float) and math.fsum(sizes) > 1 + 1e-9:
            raise ValueError(f"the fractions sum to {math.fsum(sizes):g}, more than 1")
        return self


class Prepare(Section):
    """From text to tokens.

    The text is normalised, cut into tokens and then into splits. ``vocabulary`` says where tokens
    are counted after that: in the whole corpus (``all``, as the textbook does) or in the training
    split only (``train``), so that the other splits' tokens which it lacks become ``<unk>``.
    ``min_freq`` is a number of occurrences there.
    """

    normalize: Literal["letters", "none"]
    tokens: Literal["char", "word"]
    vocabulary: Literal["all", "train"] = "all"
    min_freq: Annotated[int, Field(ge=0, le=10**9)]
    reserved_tokens: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=1000)]
    split: Split

    @field_validator("reserved_tokens")
    @classmethod
    def _distinct(cls, tokens: list[str]) -> list[str]:
        if len(set(tokens)) < len(tokens) or "<unk>" in tokens:
            raise ValueError("reserved tokens must differ from each other and from <unk>")
        return tokens


class PreparationSettings(TopLevel):
    """How the corpus becomes token arrays."""

    prepare: Prepare
