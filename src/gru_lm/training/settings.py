"""Settings of the training: the sections ``train`` and ``checkpoint`` of params.yaml."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from gru_lm.core.params import Count, Section, Seed, TopLevel

Precision = Literal["fp32", "tf32", "bf16"]
Unit = Literal["epochs", "steps"]

MOST = 10_000_000  # steps or epochs


class Interval(NamedTuple):
    """Every ``number`` epochs or steps. A step is one update of the weights."""

    number: int
    unit: Unit


@cache
def interval(value: int | str) -> Interval:
    """Return ``value``, such as 5, "5 epochs" or "250 steps", as an interval.

    Raises ValueError if it is not one.
    """
    found = re.fullmatch(r"([0-9]{1,8})(?: (epoch|step)s?)?", str(value))
    if not found or not 1 <= int(found[1]) <= MOST:
        raise ValueError(f"{value!r} is no interval")
    return Interval(int(found[1]), "steps" if found[2] == "step" else "epochs")


def _checked_interval(value: Any) -> int | str:
    try:
        if isinstance(value, int | str) and not isinstance(value, bool):
            interval(value)
            return value
    except ValueError:
        pass
    raise PydanticCustomError(
        "interval",
        f"should be a number of epochs such as 5, or of steps such as 250 steps, from 1 to {MOST}",
    )


def _checked_share(value: Any) -> int | float:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST:
        return value
    if isinstance(value, float) and 0 <= value < 1:
        return value
    raise PydanticCustomError(
        "share", "should be a number of steps such as 200, or a fraction of the run such as 0.05"
    )


def is_fraction(share: float) -> bool:
    """Return whether ``share`` is a fraction of the run above 0, and no number of steps."""
    return isinstance(share, float) and share > 0


Every = Annotated[int | str, PlainValidator(_checked_interval)]  # see ``interval``
Share = Annotated[int | float, PlainValidator(_checked_share)]  # steps, or a fraction of the run
Positive = Annotated[float, Field(gt=0, le=1000)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Schedule(Section):
    """How the learning rate changes; ``gru_lm.training.schedule`` has the formulas.

    ``warmup`` is a number of steps or a fraction of the run. ``final_lr`` is a fraction of
    ``train.lr``, for linear and cosine. ``every`` is for step, ``factor`` for step and plateau, and
    ``patience``, a number of validations, for plateau.
    """

    name: Literal["constant", "linear", "cosine", "step", "plateau"]
    warmup: Share
    final_lr: Annotated[float, Field(ge=0, le=1)]
    every: Every | None
    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Count

    @model_validator(mode="after")
    def _every_belongs_to_step(self) -> Schedule:
        if self.name == "step" and self.every is None:
            raise ValueError(
                "train.schedule.every = null: train.schedule.name = step needs it, for example 5 "
                "(epochs) or 250 steps"
            )
        return self


class Average(Section):
    """The average of the weights that is validated and kept in place of the last weights.

    ``decay`` is that of ema. ``start`` is the step or the fraction of the run after which the
    average begins.
    """

    name: Literal["none", "ema", "swa"]
    decay: Annotated[float, Field(gt=0, lt=1)]
    start: Share


class Train(Section):
    """The settings of one training.

    Exactly one of ``epochs``, ``steps`` and ``minutes`` is set. ``drop_last`` drops the targets
    that do not fill the last minibatch of an epoch, as the textbook does. Otherwise the last
    minibatch is smaller. ``accumulate`` is the number of minibatches per step. ``weight_decay``
    applies to matrices, and to those of embeddings if ``decay_embeddings``. ``clip_norm`` is the
    maximal Euclidean norm of the gradient, or null for no clipping. ``precision`` applies to matrix
    products, and in concise also to the states. Weights and losses are float32. ``threads`` is the
    number of CPU threads per process, or null for all cores. ``idle_cores`` lets loops whose
    results do not depend on the number of threads use idle cores too. ``processes`` is the number
    of processes that share out the rows of each minibatch. ``deterministic`` gives the same bytes
    in every run on a GPU too. ``validate_every`` null validates at the end only.
    ``validate_tokens`` is the number of tokens that a validation reads, from the start of the
    split, or null for all. ``patience`` validations without an improvement end the training.
    ``select`` keeps the last weights, or those of the validation with the lowest perplexity.
    """

    epochs: Count | None
    steps: Count | None
    minutes: Annotated[float, Field(gt=0, le=1e6)] | None
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    num_steps: Annotated[int, Field(ge=1, le=1_000_000)]
    accumulate: Annotated[int, Field(ge=1, le=100_000)]
    partition: Literal["sequential", "random"]
    drop_last: bool
    init_from: Annotated[str, Field(min_length=1, max_length=1000)] | None
    optimizer: Literal["sgd", "adam", "adamw"]
    lr: Positive
    momentum: Fraction
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    weight_decay: Annotated[float, Field(ge=0, le=1000)]
    decay_embeddings: bool
    schedule: Schedule
    clip_norm: Annotated[float, Field(gt=0, le=1e6)] | None
    average: Average
    precision: Precision
    threads: Annotated[int, Field(ge=1, le=4096)] | None
    idle_cores: bool = True
    processes: Annotated[int, Field(ge=1, le=4096)] = 1
    seed: Seed
    deterministic: bool
    log_every: Every | None
    validate_every: Every | None
    validate_tokens: Annotated[int, Field(ge=2, le=10**12)] | None = None
    patience: Count | None
    select: Literal["last", "best_val"]

    @model_validator(mode="after")
    def _combinations_are_possible(self) -> Train:
        for problem in _problems(self):
            raise ValueError(problem)
        return self

    @property
    def length_key(self) -> Literal["epochs", "steps", "minutes"]:
        """The key that sets the length of the training."""
        if self.epochs is not None:
            return "epochs"
        return "minutes" if self.steps is None else "steps"

    @property
    def length(self) -> float:
        """The value of that key."""
        value = getattr(self, self.length_key)
        assert value is not None  # by validation
        return float(value)

    @property
    def logging(self) -> int | str:
        """``log_every``, or its default: 1 epoch if the length is in epochs, else 100 steps."""
        if self.log_every is not None:
            return self.log_every
        return "100 steps" if self.epochs is None else 1

    @property
    def axis(self) -> Literal["epoch", "step"]:
        """What the rows of the curves count: epochs if they all lie at the end of an epoch."""
        intervals = interval(self.logging), interval(self.validate_every or self.logging)
        whole = self.epochs is not None and all(one.unit == "epochs" for one in intervals)
        return "epoch" if whole else "step"


def _problems(train: Train) -> list[str]:
    """Return what is impossible in ``train``, each with its key and a remedy."""
    schedule, average = train.schedule, train.average
    lengths = {"epochs": train.epochs, "steps": train.steps, "minutes": train.minutes}
    shown = ", ".join(f"train.{key} = {'null' if n is None else n}" for key, n in lengths.items())
    found = []
    if sum(value is not None for value in lengths.values()) != 1:
        found.append(f"{shown}: set exactly one of them, and the others to null")
    if train.momentum and train.optimizer != "sgd":
        found.append(f"train.momentum = {train.momentum:g}: only sgd has it, not {train.optimizer}")
    if train.weight_decay and train.optimizer == "adam":
        found.append(
            f"train.weight_decay = {train.weight_decay:g}: only sgd and adamw have it, not adam"
        )
    if train.validate_every is None and (train.patience or schedule.name == "plateau"):
        key = "patience" if train.patience else "schedule.name = plateau"
        found.append(
            f"train.validate_every = null: train.{key} needs validations during the training"
        )
    if train.processes > train.batch_size:
        found.append(
            f"train.processes = {train.processes}: each needs a row of a minibatch, and "
            f"train.batch_size is {train.batch_size}"
        )
    for key, share in (("schedule.warmup", schedule.warmup), ("average.start", average.start)):
        if key == "average.start" and average.name == "none":
            continue
        if train.steps is not None and share >= train.steps:
            found.append(f"train.{key} = {share}: the run has only {train.steps} steps")
        if train.minutes is not None and isinstance(share, int) and share:
            found.append(
                f"train.{key} = {share}: with minutes, set a fraction of the run such as 0.05"
            )
    return found


class Checkpoint(Section):
    """The interval between two checkpoints, in epochs or steps. It changes no result."""

    every: Every


class TrainingSettings(TopLevel):
    """The settings of the training and its checkpoints."""

    train: Train
    checkpoint: Checkpoint
