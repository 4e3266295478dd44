"""Minibatches of consecutive tokens for truncated backpropagation through time.

Sequential partitioning folds the stream into ``batch_size`` rows and cuts the rows into pieces of
``num_steps``. Each row continues the same row of the previous minibatch, so the hidden state can
be carried from one to the next (here batch_size 2, num_steps 3, offset 1)::

    stream      a b c d e f g h i j k l m n
    inputs  X     b c d|e f g|          targets Y     c d e|f g h|
                  h i j|k l m|                        i j k|l m n|

Random sampling cuts the stream into pieces of ``num_steps`` and distributes the pieces over the
minibatches in random order. The hidden state then starts from zero in each minibatch.

Both start each epoch from a new random offset, so that the cuts are at other tokens. A token is a
target at most once per epoch. The stream's first token never is one, and the ``offset`` tokens
after it are not targets in that epoch. With ``drop_last``, as in the textbook, an epoch also leaves
out the targets that do not fill a minibatch:

* sequential: up to num_steps - 1 columns of every row, and up to batch_size - 1 tokens at the end;
* random: up to batch_size - 1 pieces, and up to num_steps - 1 tokens at the end.

With sequential partitioning some targets may be left out in every epoch, because the offsets do not
move the cuts far enough (``gru_lm.training.coverage`` counts them). They are at most about a
minibatch, which matters in a short stream. Without ``drop_last`` each epoch trains every target
after its offset exactly once. The last minibatch then has fewer columns or pieces, and its last
row or piece is padded with UNSCORED targets, which have no loss.

The stream has any type of whole numbers, such as the one byte of a memory-mapped array. Only the
tokens of a minibatch are read and converted to int64.

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
from gru_lm.models.base import UNSCORED

Minibatch = tuple[Tensor, Tensor]
Partition = Literal["sequential", "random"]


def sequential_minibatches(
    tokens: Tensor,
    batch_size: int,
    num_steps: int,
    offset: int,
    drop_last: bool = True,
    skip: int = 0,
) -> Iterator[Minibatch]:
    """Cut ``tokens`` (N,), from ``offset`` on, into minibatches that continue each other.

    Yields inputs X and targets Y, each (batch_size, num_steps), without the first ``skip``
    minibatches. ``offset`` is 0 to num_steps inclusive. Without ``drop_last`` the last minibatch
    may have fewer columns, and the last row or rows may end in UNSCORED targets.

    Raises ValueError if a size is below 1 or the offset below 0.
    """
    require_at_least(1, batch_size=batch_size, num_steps=num_steps)
    require_at_least(0, offset=offset)
    num_targets = len(tokens) - offset - 1
    num_columns = parts(num_targets, batch_size, drop_last)
    rows = offset + num_columns * torch.arange(batch_size, device=tokens.device)
    places = _places(rows, num_steps)
    for start in range(skip * num_steps, num_columns, num_steps):
        length = min(num_steps, num_columns - start)
        if drop_last and length < num_steps:
            return
        over = num_columns * (batch_size - 1) + start + length > num_targets  # in the last row
        yield _cut(tokens, places[:, : length + 1] + start, over)


def random_minibatches(
    tokens: Tensor,
    batch_size: int,
    num_steps: int,
    offset: int,
    generator: np.random.Generator,
    drop_last: bool = True,
    skip: int = 0,
) -> Iterator[Minibatch]:
    """Cut ``tokens`` (N,), from ``offset`` on, into pieces and yield them in random order.

    Yields inputs X and targets Y, each (batch_size, num_steps), without the first ``skip``
    minibatches. ``offset`` is 0 to num_steps - 1 inclusive. Without ``drop_last`` the last
    minibatch may have fewer pieces, and the stream's last piece, which may be in any minibatch, may
    end in UNSCORED targets. The order of the pieces takes 8 N / num_steps bytes.

    Raises ValueError if a size is below 1 or the offset below 0.
    """
    require_at_least(1, batch_size=batch_size, num_steps=num_steps)
    require_at_least(0, offset=offset)
    num_targets = len(tokens) - offset - 1
    num_pieces = parts(num_targets, num_steps, drop_last)
    shuffled = torch.from_numpy(generator.permutation(num_pieces))
    over = None  # the minibatch with a piece that is longer than the stream
    if num_pieces * num_steps > num_targets:
        over = int((shuffled == num_pieces - 1).nonzero()) // batch_size
    order = shuffled.to(tokens.device)
    for number in range(skip, -(-num_pieces // batch_size)):
        pieces = order[number * batch_size : (number + 1) * batch_size]
        if drop_last and len(pieces) < batch_size:
            return
        yield _cut(tokens, _places(offset + num_steps * pieces, num_steps), number == over)


def _places(starts: Tensor, length: int) -> Tensor:
    """Return ``length`` + 1 places from each of ``starts`` (B,) on: (B, length + 1)."""
    return starts[:, None] + torch.arange(length + 1, device=starts.device)


def _cut(tokens: Tensor, places: Tensor, over: bool) -> Minibatch:
    """Return the ``tokens`` (N,) at ``places`` (B, T + 1) as inputs and targets, (B, T) in int64.

    ``over`` says whether places are after the stream's end. There inputs are 0 and targets
    UNSCORED.
    """
    if not over:
        read = tokens[places].long()
        return read[:, :-1], read[:, 1:]
    read = tokens[places.clamp(max=len(tokens) - 1)].long()
    lacking = places[:, 1:] >= len(tokens)
    return read[:, :-1].masked_fill(lacking, 0), read[:, 1:].masked_fill(lacking, UNSCORED)


def epoch_minibatches(
    tokens: Tensor,
    batch_size: int,
    num_steps: int,
    partition: Partition,
    seed: int,
    epoch: int,
    drop_last: bool = True,
) -> Iterator[Minibatch]:
    """Yield the minibatches of one epoch.

    All randomness comes from (seed, epoch). Any epoch can be made again without the ones before it,
    so a resumed training has the same minibatches.

    Raises ValueError if the partition is unknown, a size is below 1, or ``seed`` or ``epoch`` is
    negative.
    """
    return counted_minibatches(tokens, batch_size, num_steps, partition, seed, epoch, drop_last)[1]


def counted_minibatches(
    tokens: Tensor,
    batch_size: int,
    num_steps: int,
    partition: Partition,
    seed: int,
    epoch: int,
    drop_last: bool = True,
    skip: int = 0,
) -> tuple[int, Iterator[Minibatch]]:
    """Return the number of minibatches of one epoch, and an iterator over all but the first.

    ``skip`` is the number of those that are left out. The other arguments are those of
    ``epoch_minibatches``.
    """
    generator, offset = drawn(batch_size, num_steps, partition, seed, epoch)
    number = _number(len(tokens) - offset - 1, batch_size, num_steps, partition, drop_last)
    if partition == "sequential":
        cut = sequential_minibatches(tokens, batch_size, num_steps, offset, drop_last, skip)
        return number, cut
    return number, random_minibatches(
        tokens, batch_size, num_steps, offset, generator, drop_last, skip
    )


def num_minibatches(
    num_tokens: int,
    batch_size: int,
    num_steps: int,
    partition: Partition,
    seed: int,
    epoch: int,
    drop_last: bool = True,
) -> int:
    """Return the number of minibatches that one epoch of ``num_tokens`` tokens has."""
    _, offset = drawn(batch_size, num_steps, partition, seed, epoch)
    return _number(num_tokens - offset - 1, batch_size, num_steps, partition, drop_last)


def _number(
    num_targets: int, batch_size: int, num_steps: int, partition: Partition, drop_last: bool
) -> int:
    sizes = [batch_size, num_steps]  # columns, then minibatches of num_steps columns
    if partition == "random":
        sizes.reverse()  # pieces, then minibatches of batch_size pieces
    for size in sizes:
        num_targets = parts(num_targets, size, drop_last)
    return num_targets


def parts(number: int, size: int, drop_last: bool) -> int:
    """Return into how many parts of ``size`` a ``number`` is cut, the incomplete last one too."""
    return number // size if drop_last else -(-number // size)


def drawn(
    batch_size: int, num_steps: int, partition: Partition, seed: int, epoch: int
) -> tuple[np.random.Generator, int]:
    """Return the random numbers of an epoch, and the offset that is drawn first."""
    require_one_of(get_args(Partition), partition=partition)
    require_at_least(1, batch_size=batch_size, num_steps=num_steps)
    require_at_least(0, seed=seed, epoch=epoch)
    generator = np.random.default_rng([seed, epoch])
    offset = int(generator.integers(num_steps, endpoint=partition == "sequential"))
    return generator, offset


def on_device(tokens: Tensor, device: torch.device) -> Tensor:
    """Return ``tokens`` (N,) on ``device``, in a type that can be indexed there."""
    if device.type == "cuda" and tokens.dtype in (torch.uint16, torch.uint32):  # GPU only
        tokens = tokens.to(torch.int32)  # torch has no index kernel of CUDA for the other two
    return tokens.to(device)


def require_enough_tokens(num_tokens: int, batch_size: int, num_steps: int) -> None:
    """Raise UserError unless every epoch, whatever its offset, has at least one whole minibatch.

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
