"""Which targets a training has learnt from, and how often.

An epoch leaves out what its offset and the cuts leave over (``gru_lm.training.minibatches``). If
the offsets are few and the stream is short, the same targets are left out again and again.
"""

from __future__ import annotations

import numpy as np
import torch

from gru_lm.training.minibatches import UNSCORED, epoch_minibatches
from gru_lm.training.settings import Train


def times_trained(num_tokens: int, settings: Train, epochs: int) -> np.ndarray:
    """How often each target of a stream of ``num_tokens`` was trained in the first ``epochs``.

    Returns (num_tokens - 1,) numbers of epochs, uint32; the first is that of the second token, as
    nothing is before the first. They are counted in the minibatches that ``settings`` give in each
    epoch, so that they are the same if a run was interrupted. It takes about 10 ns per target and
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
