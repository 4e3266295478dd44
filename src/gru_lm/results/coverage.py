"""How well a model predicts its training split, by how often it was trained there.

``analysis/coverage/<variant>.json``.
"""

from __future__ import annotations

from typing import Literal

from gru_lm.results import NotNegative, Perplexity, Positive, Result, Share

# The share of the epochs in which a target was trained, from the first figure on and below the
# second; the last includes 100 %.
Trained = Literal["never", "<25%", "25-50%", "50-75%", "75-100%"]


class TrainedGroup(Result):
    """Some of the training split's targets; ``perplexity`` is None beyond the largest float.

    ``share`` is their share of all targets, ``loss_share`` that of the summed cross-entropy.
    """

    tokens: Positive
    share: Share
    loss_share: NotNegative  # rounding may put it a hair above 1
    perplexity: Perplexity | None
    bits_per_token: NotNegative


class Coverage(Result):
    """``analysis/coverage/<variant>.json``: the training split read in one piece.

    ``epochs`` are those up to the weights that were kept. ``overall`` are all targets,
    ``trained`` those trained in at least one epoch, ``often_trained`` those trained in at least a
    quarter of the epochs; ``by_times_trained`` has every target in one of its groups. A group
    without a target is None or left out.
    """

    epochs: Positive
    overall: TrainedGroup
    trained: TrainedGroup
    often_trained: TrainedGroup | None
    by_times_trained: dict[Trained, TrainedGroup]
