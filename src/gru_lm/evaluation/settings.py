"""Further seeds, and when a change counts as a regression: ``replicate``, ``regression``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from gru_lm.core.params import Section, Seed, TopLevel


class Replicate(Section):
    """The seeds from which every variant is trained besides ``train.seed``, to show the spread."""

    seeds: Annotated[list[Seed], Field(max_length=1000)]

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("the seeds must differ from each other")
        return seeds


class Regression(Section):
    """When a rise of held-out perplexity fails a pull request. It changes no result.

    The rise is that of the mean over the seeds. It fails if it is larger than both
    ``max_perplexity_rise``, a share of the earlier mean, and ``standard_errors`` standard errors of
    the difference of the two means.
    """

    max_perplexity_rise: Annotated[float, Field(ge=0, le=1e6)]
    standard_errors: Annotated[float, Field(ge=0, le=1e6)]


class EvaluationSettings(TopLevel):
    """What is measured beside the one training of each variant."""

    replicate: Replicate
    regression: Regression
