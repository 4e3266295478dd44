"""Minibatches of consecutive tokens for truncated backpropagation through time.

Sequential partitioning folds the stream into ``batch_size`` rows and cuts the rows into pieces of
``num_steps``. A row of the next minibatch goes on where the same row of the last one ended, so
the hidden state can be carried from one to the next (here batch_size 2, num_steps 3, offset 1)::

    stream      a b c d e f g h i j k l m n
    inputs  X     b c d|e f g|          targets Y     c d e|f g h|
                  h i j|k l m|                        i j k|l m n|

Random sampling cuts the stream into pieces of ``num_steps`` first and deals the pieces out in
random order; the hidden state then starts from zero in each minibatch.

Both start each epoch from a new random offset, so that the cuts fall elsewhere, and drop what does
not fill a minibatch. Every token kept is the input exactly once, its successor the target.

Source: Zhang et al., Dive into Deep Learning, section "Language Models and the Dataset"
(train_ch8 edition).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gru_lm.core.errors import UserError, require_at_least, require_one_of

Minibatch = tuple[Tensor, Tensor]
Partition = Literal["sequential", "random"]


def sequential_minibatches(
    tokens: Tensor, batch_size: int, num_steps: int, offset: int
) -> Iterator[Minibatch]:
    """Cut ``tokens`` (N,), from ``offset`` on, into minibatches that go on from each other.

    Yields inputs X and targets Y, each (batch_size, num_steps), views on two folded copies of the
    stream. ``offset`` is 0 to num_steps inclusive. Raises ValueError if a size is below 1 or the
    offset below 0.
    """
    require_at_least(1, batch_size=batch_size, num_steps=num_steps)
    require_at_least(0, offset=offset)
    num_columns = (len(tokens) - offset - 1) // batch_size
    num_tokens = num_columns * batch_size
    inputs = tokens[offset : offset + num_tokens].reshape(batch_size, -1)
    targets = tokens[offset + 1 : offset + 1 + num_tokens].reshape(batch_size, -1)
    for start in range(0, num_columns - num_steps + 1, num_steps):
        yield inputs[:, start : start + num_steps], targets[:, start : start + num_steps]


def random_minibatches(
    tokens: Tensor, batch_size: int, num_steps: int, offset: int, generator: np.random.Generator
) -> Iterator[Minibatch]:
    """Cut ``tokens`` (N,), from ``offset`` on, into pieces and deal them out in random order.

    Yields inputs X and targets Y, each (batch_size, num_steps). ``offset`` is 0 to num_steps - 1
    inclusive. Raises ValueError if a size is below 1 or the offset below 0.
    """
    require_at_least(1, batch_size=batch_size, num_steps=num_steps)
    require_at_least(0, offset=offset)
    num_pieces = (len(tokens) - offset - 1) // num_steps
    starts = torch.from_numpy(generator.permutation(num_pieces) * num_steps + offset)
    columns = torch.arange(num_steps)
    for first in range(0, num_pieces - batch_size + 1, batch_size):
        index = (starts[first : first + batch_size, None] + columns).to(tokens.device)
        yield tokens[index], tokens[index + 1]


def epoch_minibatches(
    tokens: Tensor, batch_size: int, num_steps: int, partition: Partition, seed: int, epoch: int
) -> Iterator[Minibatch]:
    """The minibatches of one epoch.

    All randomness comes from (seed, epoch): any epoch can be made again without those before it,
    so a training that was interrupted goes on with the same minibatches. Raises ValueError for
    another partition, and if a size is below 1 or ``seed`` or ``epoch`` below 0.
    """
    require_one_of(get_args(Partition), partition=partition)
    require_at_least(1, batch_size=batch_size, num_steps=num_steps)
    require_at_least(0, seed=seed, epoch=epoch)
    generator = np.random.default_rng([seed, epoch])
    if partition == "sequential":
        offset = int(generator.integers(num_steps, endpoint=True))
        return sequential_minibatches(tokens, batch_size, num_steps, offset)
    offset = int(generator.integers(num_steps))
    return random_minibatches(tokens, batch_size, num_steps, offset, generator)


def require_enough_tokens(num_tokens: int, batch_size: int, num_steps: int) -> None:
    """Raise UserError unless every epoch, whatever its offset, has at least one minibatch.

    Raises ValueError if a size is below 1.
    """
    require_at_least(1, batch_size=batch_size, num_steps=num_steps)
    needed = num_steps + batch_size * num_steps + 1
    if num_tokens < needed:
        raise UserError(
            f"the training split has {num_tokens:,} tokens, but a minibatch of train.batch_size = "
            f"{batch_size} sequences of train.num_steps = {num_steps} needs {needed:,} (with the "
            "largest offset and a target for the last token): lower them or raise "
            "prepare.split.train"
        )
