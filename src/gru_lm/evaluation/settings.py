"""Settings of the evaluation: the sections ``evaluate``, ``replicate`` and ``regression``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from gru_lm.core.params import Section, Seed, TopLevel


class Evaluate(Section):
    """The measurement of a trained model on each split.

    If ``max_tokens`` is not null, only that many tokens from the start of each split are read. If
    ``block`` is not null, each split is also read in blocks of that many tokens, each from a state
    of zeros.
    """

    max_tokens: Annotated[int, Field(ge=2, le=10**12)] | None = None
    block: Annotated[int, Field(ge=1, le=1_000_000)] | None


class Replicate(Section):
    """The seeds for further trainings of every variant, in addition to ``train.seed``.

    There is at least one. The stages that read the further trainings depend on their folders, which
    DVC cannot find if nothing makes them.
    """

    seeds: Annotated[list[Seed], Field(max_length=1000)]

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if not seeds:
            raise ValueError("list at least one seed: the analysis needs further trainings")
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
    """The settings of measurement, further seeds and the regression rule."""

    evaluate: Evaluate
    replicate: Replicate
    regression: Regression
