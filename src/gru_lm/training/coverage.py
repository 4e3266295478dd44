"""The number of epochs in which each target of the training split was trained.

The minibatches of an epoch can leave out targets (see ``gru_lm.training.minibatches``). If the
stream is short and few offsets are possible, the same targets are often left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gru_lm.core.files import PIECE
from gru_lm.training.minibatches import drawn, num_minibatches, parts
from gru_lm.training.settings import Train


@dataclass(frozen=True)
class TimesTrained:
    """The first ``epochs`` in which each target of a stream of ``num_tokens`` was trained.

    If ``steps`` is given, the last of these epochs may be incomplete: only the first ``steps``
    steps of the run count. There are num_tokens - 1 targets. The first is the second token, because
    the first token is never a target. The counts are made again from ``settings``, so an
    interrupted run has the same.
    """

    num_tokens: int
    settings: Train
    epochs: int
    steps: int | None = None

    def __len__(self) -> int:
        return self.num_tokens - 1

    @property
    def dtype(self) -> np.dtype:
        """One byte for each target if that is enough."""
        return np.dtype(np.uint8 if self.epochs < 256 else np.uint32)

    def pieces(self, length: int = PIECE) -> Iterator[np.ndarray]:
        """Yield the counts of all targets in order, ``length`` (the last: fewer) at a time.

        The memory that this takes grows with ``length``, with the number of epochs and, under
        random sampling, with the pieces of ``num_steps`` tokens: one byte for each.
        """
        none = np.empty(0, np.int64)
        runs = [(none, none), *self._runs()]
        starts, ends = (np.sort(np.concatenate(part)) for part in zip(*runs, strict=True))
        open_runs = 0  # of those that start before the piece
        for first in range(1, self.num_tokens, length):
            size = min(length, self.num_tokens - first)
            changes = np.zeros(size, np.int64)
            for places, change in ((starts, 1), (ends, -1)):
                here = slice(*np.searchsorted(places, [first, first + size]))
                changes += change * np.bincount(places[here] - first, minlength=size)
            counts = open_runs + np.cumsum(changes)
            open_runs = int(counts[-1])
            yield counts.astype(self.dtype)

    def _runs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the runs of trained targets of each epoch: their first places and their ends.

        A place is the index of a token. An end is the place after the last target.
        """
        left = self.steps
        for epoch in range(1, self.epochs + 1):
            s = self.settings
            sizes = s.batch_size, s.num_steps, s.partition, s.seed, epoch
            number = num_minibatches(self.num_tokens, *sizes, s.drop_last)
            if left is not None:
                number = min(number, left * s.accumulate)
                left -= -(-number // s.accumulate)
            generator, offset = drawn(*sizes)
            first = offset + 1
            num_targets = self.num_tokens - first
            if s.partition == "sequential":
                columns = parts(num_targets, s.batch_size, s.drop_last)
                starts = first + columns * np.arange(s.batch_size)
                ends = starts + min(columns, number * s.num_steps)
            else:
                pieces = parts(num_targets, s.num_steps, s.drop_last)
                trained = np.zeros(pieces + 2, np.int8)
                trained[1 + generator.permutation(pieces)[: number * s.batch_size]] = 1
                changes = np.diff(trained)
                starts = first + s.num_steps * np.flatnonzero(changes == 1)
                ends = first + s.num_steps * np.flatnonzero(changes == -1)
            yield np.minimum(starts, self.num_tokens), np.minimum(ends, self.num_tokens)
