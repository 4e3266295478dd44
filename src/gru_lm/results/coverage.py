"""Loss on the training split by how often a target was trained.

The results are in ``analysis/coverage/<variant>.json``.
"""

from __future__ import annotations

from typing import Literal

from gru_lm.results import Mean, NotNegative, Perplexity, Positive, Result, Share

# The share of the epochs in which a target was trained. Ranges include their lower limit; the last
# one includes 100 %.
Trained = Literal["never", "<25%", "25-50%", "50-75%", "75-100%"]


class TrainedGroup(Result):
    """A group of targets; ``perplexity`` is None if it exceeds the largest float.

    ``share`` is their share of all targets, ``loss_share`` their share of the summed cross-entropy.
    """

    tokens: Positive
    share: Share
    loss_share: Mean
    perplexity: Perplexity | None
    bits_per_token: NotNegative


class Coverage(Result):
    """Loss on the training split, read in one piece, in ``analysis/coverage/<variant>.json``.

    It is that of the first ``evaluate.max_tokens`` tokens, if that is set.
    ``epochs`` is the epoch of the kept weights. ``overall`` are all targets, ``trained`` those
    trained in at least one epoch, ``often_trained`` those trained in at least a quarter of the
    epochs. ``by_times_trained`` has every target in one of its groups. A group without a target is
    None or left out.
    """

    epochs: Positive
    overall: TrainedGroup
    trained: TrainedGroup | None
    often_trained: TrainedGroup | None
    by_times_trained: dict[Trained, TrainedGroup]
