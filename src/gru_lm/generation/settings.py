"""Settings for sampling: the section ``sample`` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gru_lm.core.params import Section, Seed, TopLevel


class Sample(Section):
    """The texts to generate after each prefix: one greedily, and one at each temperature.

    ``top_k`` restricts each draw to the k most likely tokens, and ``top_p`` to the fewest tokens
    whose probabilities sum to at least p. If they are null, a draw is from all tokens.
    """

    prefixes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    length: Annotated[int, Field(ge=1, le=1_000_000)]
    temperatures: list[Annotated[float, Field(gt=0, le=100)]]
    top_k: Annotated[int, Field(ge=1, le=10_000_000)] | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Seed


class GenerationSettings(TopLevel):
    """The settings of the stage sample."""

    sample: Sample
