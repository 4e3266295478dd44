"""Predictors without a network, to measure the models against.

Each returns the same tree as a model's evaluation: by split, perplexity, bits a token and number
of tokens. What they know is what the models know, the training split; the figures of that split
itself say how well they remember it.
"""

from __future__ import annotations

import bz2
import lzma
import math
from collections.abc import Callable
from typing import Final

import numpy as np

from gru_lm.data.prepared import SPLITS
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.n_grams import KneserNey

Scores = dict[str, dict[str, float | int | None]]

ORDERS: Final = (2, 3, 4, 5, 6)

COMPRESSORS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "xz": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    "bzip2": lambda data: bz2.compress(data, compresslevel=9),
}


def uniform(splits: dict[str, np.ndarray], vocab_size: int) -> Scores:
    """Predict nothing: every token of the vocabulary is as likely as any other."""
    return {name: _score(math.log2(vocab_size), len(splits[name]) - 1) for name in SPLITS}


def unigram(splits: dict[str, np.ndarray], vocab_size: int) -> Scores:
    """Predict each token by its share of the training split, whatever stands before it.

    Each token is counted once more than it occurs (Laplace's rule), so that none is impossible.
    Scored on the same tokens as the models: all but the first of each split.
    """
    counts = np.bincount(splits["train"], minlength=vocab_size) + 1
    bits = -np.log2(counts / counts.sum())
    result: Scores = {}
    for name in SPLITS:
        targets = splits[name][1:]
        result[name] = _score(float(bits[targets].mean()), len(targets))
    return result


def n_gram(splits: dict[str, np.ndarray], vocab_size: int, order: int) -> Scores:
    """Predict each token from the ``order`` - 1 before it, by modified Kneser-Ney smoothing.

    Counted on the training split; scored on the same tokens as the models.
    """
    model = KneserNey(splits["train"], vocab_size, order)
    result: Scores = {}
    for name in SPLITS:
        tokens = len(splits[name]) - 1
        result[name] = _score(model.nats(splits[name]) / math.log(2) / tokens, tokens)
    return result


def compressed(splits: dict[str, np.ndarray], vocabulary: Vocabulary, compressor: str) -> Scores:
    """What one of the ``COMPRESSORS`` needs for the splits' text in UTF-8.

    The training split is compressed alone. Another split costs what it adds to the training split
    when it follows there: size(train + split) - size(train). So the compressor knows what the
    models know, but for the range of bzip2 (900 kB) and xz (64 MB); unlike them it goes on learning
    from the split itself. Every token counts, the first too, as all are coded. A size is in whole
    bytes, in xz's case four at a time, so that a split of a few tokens can seem to cost nothing or
    less: 0 bits then.
    """
    compress = COMPRESSORS[compressor]

    def size(tokens: np.ndarray) -> int:
        return len(compress(vocabulary.decode(tokens.tolist()).encode("utf-8")))

    train = splits["train"]
    costs = {"train": size(train)}  # bytes
    for name in SPLITS[1:]:
        costs[name] = max(0, size(np.concatenate([train, splits[name]])) - costs["train"])
    return {name: _score(8 * costs[name] / len(splits[name]), len(splits[name])) for name in SPLITS}


def _score(bits_per_token: float, tokens: int) -> dict[str, float | int | None]:
    """One split's entry. The perplexity is left out where it is beyond floating-point numbers."""
    return {
        "perplexity": 2.0**bits_per_token if bits_per_token < 1024 else None,
        "bits_per_token": bits_per_token,
        "tokens": tokens,
    }
