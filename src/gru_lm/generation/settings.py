"""The text that a trained model writes: the section ``sample`` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gru_lm.core.params import Section, Seed, TopLevel


class Sample(Section):
    """The text to generate after each prefix: greedily, and at each temperature.

    ``top_k`` keeps only the k likeliest tokens at each step of a draw; null keeps all.
    """

    prefixes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    length: Annotated[int, Field(ge=1, le=1_000_000)]
    temperatures: list[Annotated[float, Field(gt=0, le=100)]]
    top_k: Annotated[int, Field(ge=1, le=10_000_000)] | None
    seed: Seed


class GenerationSettings(TopLevel):
    """What to write."""

    sample: Sample
