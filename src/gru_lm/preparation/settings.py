"""Settings for preparing the corpus: the section ``prepare`` of params.yaml."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gru_lm.core.params import Section, TopLevel

SplitSize = Annotated[int, Field(ge=2, le=10**12)] | Annotated[float, Field(gt=0, lt=1)]


class Split(Section):
    """The sizes of the splits, which follow each other from the start of the corpus.

    They are either three numbers of tokens, or three fractions of the corpus that sum to at most 1.
    With ``tokens: bpe`` they are numbers or fractions of characters, so that the splits have the
    same text as with ``tokens: char``.
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
    """How the text is normalised, tokenised, split and encoded.

    ``vocabulary`` selects the tokens that are counted: those of the whole corpus (``all``, as in
    the textbook) or those of the training split (``train``). In the second case, tokens that occur
    only in the other splits are encoded as ``<unk>``. So are tokens that occur fewer than
    ``min_freq`` times among the counted ones. ``max_tokens`` is the largest size of the vocabulary,
    with ``<unk>`` and the reserved tokens: the most frequent tokens are kept.

    With ``tokens: bpe`` these rules are for characters, except that ``vocab_size`` takes the place
    of ``max_tokens``: merges of tokens are added until the vocabulary has so many entries.
    """

    normalize: Literal["letters", "none"]
    tokens: Literal["char", "word", "bpe"]
    vocabulary: Literal["all", "train"] = "all"
    min_freq: Annotated[int, Field(ge=0, le=10**9)]
    max_tokens: Annotated[int, Field(ge=2, le=10**9)] | None = None
    vocab_size: Annotated[int, Field(ge=2, le=10**6)] = 1000
    reserved_tokens: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=1000)]
    split: Split

    @field_validator("reserved_tokens")
    @classmethod
    def _distinct(cls, tokens: list[str]) -> list[str]:
        if len(set(tokens)) < len(tokens) or "<unk>" in tokens:
            raise ValueError("reserved tokens must differ from each other and from <unk>")
        return tokens

    @model_validator(mode="after")
    def _place_for_a_token(self) -> Prepare:
        special = 1 + len(self.reserved_tokens)
        if self.max_tokens is not None and self.tokens == "bpe":
            raise ValueError("max_tokens is for char and word: with tokens = bpe set vocab_size")
        if self.max_tokens is not None and self.max_tokens <= special:
            raise ValueError(
                f"max_tokens = {self.max_tokens} leaves no place for a token beside <unk> and the "
                f"{len(self.reserved_tokens)} reserved tokens: must be at least {special + 1}"
            )
        return self


class PreparationSettings(TopLevel):
    """The settings of the stage prepare."""

    prepare: Prepare
