"""The number of epochs in which each target of the training split was trained.

The minibatches of an epoch can leave out targets (see ``gru_lm.training.minibatches``). If the
stream is short and few offsets are possible, the same targets are often left out.
"""

from __future__ import annotations

import numpy as np
import torch

from gru_lm.training.minibatches import UNSCORED, epoch_minibatches
from gru_lm.training.settings import Train


def times_trained(num_tokens: int, settings: Train, epochs: int) -> np.ndarray:
    """Count the first ``epochs`` in which each target of a stream of ``num_tokens`` was trained.

    Returns (num_tokens - 1,) numbers of epochs, uint32. The first belongs to the second token,
    because the first token is never a target. The minibatches of each epoch are made again from
    ``settings``, so an interrupted run has the same counts. This takes about 10 ns per target and
    epoch.
    """
    positions = torch.arange(num_tokens)
    times = np.zeros(num_tokens, np.uint32)
    for epoch in range(1, epochs + 1):
        for _, Y in epoch_minibatches(
            positions,
            settings.batch_size,
            settings.num_steps,
            settings.partition,
            settings.seed,
            epoch,
            settings.drop_last,
        ):
            trained = Y.numpy().ravel()
            times[trained[trained != UNSCORED]] += 1  # no target is trained twice in an epoch
    return times[1:]
