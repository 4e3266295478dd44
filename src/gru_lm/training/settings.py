"""Settings of the training: the sections ``train`` and ``checkpoint`` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gru_lm.core.params import Count, Section, Seed, TopLevel

Precision = Literal["fp32", "tf32", "bf16"]


class Train(Section):
    """The settings of one training.

    ``drop_last`` drops the targets that do not fill the last minibatch of an epoch, as the textbook
    does. Otherwise the last minibatch is smaller. ``clip_norm`` is the maximal Euclidean norm of
    the gradient, or null for no clipping. ``precision`` applies to matrix products, and in concise
    also to the states. Weights and losses are float32. ``threads`` is the number of CPU threads per
    training, or null for all cores. ``deterministic`` gives the same bytes in every run on a GPU
    too. ``validate_every`` is the number of epochs between two validations. ``select`` keeps the
    weights of the last epoch, or those of the validation with the lowest perplexity.
    """

    epochs: Count
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    num_steps: Annotated[int, Field(ge=1, le=1_000_000)]
    partition: Literal["sequential", "random"]
    drop_last: bool
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
    """The number of epochs between two checkpoints. It changes no result."""

    every: Count


class TrainingSettings(TopLevel):
    """The settings of the training and its checkpoints."""

    train: Train
    checkpoint: Checkpoint
