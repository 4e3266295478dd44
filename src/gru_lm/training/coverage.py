"""The number of epochs in which each target of the training split was trained.

The minibatches of an epoch can leave out targets (see ``gru_lm.training.minibatches``). If the
stream is short and few offsets are possible, the same targets are often left out.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch

from gru_lm.training.minibatches import UNSCORED, counted_minibatches
from gru_lm.training.settings import Train


def times_trained(
    num_tokens: int, settings: Train, epochs: int, steps: int | None = None
) -> np.ndarray:
    """Count the first ``epochs`` in which each target of a stream of ``num_tokens`` was trained.

    If ``steps`` is given, the last of these epochs may be incomplete: only the first ``steps``
    steps of the run count. Returns (num_tokens - 1,) numbers of epochs, uint32. The first belongs
    to the second token, because the first token is never a target. The minibatches of each epoch
    are made again from ``settings``, so an interrupted run has the same counts. This takes about
    10 ns per target and epoch.
    """
    positions = torch.arange(num_tokens)
    times = np.zeros(num_tokens, np.uint32)
    left = steps
    for epoch in range(1, epochs + 1):
        number, minibatches = counted_minibatches(
            positions,
            settings.batch_size,
            settings.num_steps,
            settings.partition,
            settings.seed,
            epoch,
            settings.drop_last,
        )
        counted = number if left is None else min(number, left * settings.accumulate)
        for _, Y in islice(minibatches, counted):
            trained = Y.numpy().ravel()
            times[trained[trained != UNSCORED]] += 1  # no target is trained twice in an epoch
        if left is not None:
            left -= -(-counted // settings.accumulate)
    return times[1:]
