"""Predictors without a network, to measure the models against."""

from __future__ import annotations

import numpy as np

from gru_lm.tokens import SPLITS


def unigram(splits: dict[str, np.ndarray], vocab_size: int) -> dict[str, dict[str, float | int]]:
    """Predict each token by its share of the training split, whatever stands before it.

    Each token is counted once more than it occurs (Laplace's rule), so that none is impossible.
    Scored on the same tokens as the models: all but the first of each split. Returns the same
    tree as a model's evaluation: by split, perplexity, bits a token and number of tokens.
    """
    counts = np.bincount(splits["train"], minlength=vocab_size) + 1
    bits = -np.log2(counts / counts.sum())
    result: dict[str, dict[str, float | int]] = {}
    for name in SPLITS:
        targets = splits[name][1:]
        mean = float(bits[targets].mean())
        result[name] = {
            "perplexity": 2.0**mean,
            "bits_per_token": mean,
            "tokens": len(targets),
        }
    return result
