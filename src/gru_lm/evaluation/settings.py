"""Settings of the evaluation: the sections ``replicate`` and ``regression`` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from gru_lm.core.params import Section, Seed, TopLevel


class Replicate(Section):
    """The seeds for further trainings of every variant, in addition to ``train.seed``."""

    seeds: Annotated[list[Seed], Field(max_length=1000)]

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("each seed must be listed once")
        return seeds


class Regression(Section):
    """The rule for failing a pull request on a rise of held-out perplexity. It changes no result.

    The rise is that of the mean over the seeds. The pull request fails if the rise exceeds both
    ``max_perplexity_rise``, a fraction of the earlier mean, and ``standard_errors`` standard errors
    of the difference between the two means.
    """

    max_perplexity_rise: Annotated[float, Field(ge=0, le=1e6)]
    standard_errors: Annotated[float, Field(ge=0, le=1e6)]


class EvaluationSettings(TopLevel):
    """The settings of further seeds and of the regression rule."""

    replicate: Replicate
    regression: Regression
