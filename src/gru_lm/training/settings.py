"""How a model is trained: the sections ``train`` and ``checkpoint`` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gru_lm.core.params import Count, Section, Seed, TopLevel

Precision = Literal["fp32", "tf32", "bf16"]


class Train(Section):
    """The training run.

    ``clip_norm`` bounds the gradient's Euclidean norm; null leaves it. ``precision`` is that of the
    matrix products, and in concise of the states; weights and losses stay in float32. ``threads``
    is the number that one training uses on a CPU; null takes all cores. ``deterministic`` asks for
    the same bytes in every run on a GPU too. ``validate_every`` is the number of epochs from one
    look at the validation split to the next; ``select`` says which weights the model has, the last
    epoch's or those with the lowest perplexity at such a look, which are kept in any case.
    """

    epochs: Count
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    num_steps: Annotated[int, Field(ge=1, le=1_000_000)]
    partition: Literal["sequential", "random"]
    optimizer: Literal["sgd", "adam"]
    lr: Annotated[float, Field(gt=0, le=1000)]
    clip_norm: Annotated[float, Field(gt=0, le=1e6)] | None
    precision: Precision
    threads: Annotated[int, Field(ge=1, le=4096)] | None
    seed: Seed
    deterministic: bool
    validate_every: Count
    select: Literal["last", "best_val"]


class Checkpoint(Section):
    """How often the training keeps a checkpoint, in epochs. It changes no result."""

    every: Count


class TrainingSettings(TopLevel):
    """The training, and how often it keeps a checkpoint."""

    train: Train
    checkpoint: Checkpoint
