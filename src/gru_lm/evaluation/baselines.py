"""Baselines without a network.

Each function returns the same tree as a model's evaluation, with perplexity, bits per token and
number of tokens by split. Baselines are fitted to the training split, as the models are. The memory
of n-grams and compressors grows with the splits, so the stage reads ``SAMPLE`` tokens of each.
Each raises ValueError if a split has fewer than 2 tokens or a token outside the vocabulary.
"""

from __future__ import annotations

import bz2
import lzma
import math
from collections.abc import Callable
from typing import Final

import numpy as np

from gru_lm.core.errors import require_at_least, require_one_of, require_tokens
from gru_lm.data.prepared import SPLITS
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.n_grams import KneserNey

Scores = dict[str, dict[str, float | int | None]]

ORDERS: Final = (2, 3, 4, 5, 6)
SAMPLE: Final = 1 << 21  # tokens of a split that the stage reads, from its start

COMPRESSORS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "xz": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    "bzip2": lambda data: bz2.compress(data, compresslevel=9),
}


def uniform(splits: dict[str, np.ndarray], vocab_size: int) -> Scores:
    """Score the uniform distribution over the vocabulary."""
    _require_splits(splits, vocab_size)
    return {name: _score(math.log2(vocab_size), len(splits[name]) - 1) for name in SPLITS}


def unigram(splits: dict[str, np.ndarray], vocab_size: int) -> Scores:
    """Score the frequencies of the tokens in the training split.

    One is added to each count (Laplace smoothing), so no probability is zero. The scored tokens
    are those of the models, all but the first of each split.
    """
    _require_splits(splits, vocab_size)
    counts = np.bincount(splits["train"], minlength=vocab_size) + 1
    bits = -np.log2(counts / counts.sum())
    result: Scores = {}
    for name in SPLITS:
        targets = splits[name][1:]
        result[name] = _score(float(bits[targets].mean()), len(targets))
    return result


def n_gram(splits: dict[str, np.ndarray], vocab_size: int, order: int) -> Scores:
    """Score an n-gram model with modified Kneser-Ney smoothing, fitted to the training split.

    It predicts each token from the ``order`` - 1 tokens before it. The scored tokens are those of
    the models.
    Raises ValueError also if ``order`` is below 1.
    """
    _require_splits(splits, vocab_size)
    model = KneserNey(splits["train"], vocab_size, order)
    result: Scores = {}
    for name in SPLITS:
        tokens = len(splits[name]) - 1
        result[name] = _score(model.nats(splits[name]) / math.log(2) / tokens, tokens)
    return result


def compressed(splits: dict[str, np.ndarray], vocabulary: Vocabulary, compressor: str) -> Scores:
    """Score one of the ``COMPRESSORS`` on the splits' text in UTF-8.

    The training split is compressed alone. The cost of another split is
    size(train + split) - size(train), so the compressor has read the training split before it, as
    far as its window reaches (900 kB for bzip2, 64 MB for xz). Unlike the models, it also adapts to
    the split itself. All tokens are counted, including the first. Sizes are multiples of a byte
    (four bytes for xz), so the difference for a short split can be negative. It is then set to 0.
    Raises ValueError also for an unknown compressor.
    """
    require_one_of(tuple(COMPRESSORS), compressor=compressor)
    _require_splits(splits, len(vocabulary))
    compress = COMPRESSORS[compressor]

    def size(tokens: np.ndarray) -> int:
        return len(compress(vocabulary.decode(tokens.tolist()).encode("utf-8")))

    train = splits["train"]
    costs = {"train": size(train)}  # bytes
    for name in SPLITS[1:]:
        costs[name] = max(0, size(np.concatenate([train, splits[name]])) - costs["train"])
    return {name: _score(8 * costs[name] / len(splits[name]), len(splits[name])) for name in SPLITS}


def _require_splits(splits: dict[str, np.ndarray], vocab_size: int) -> None:
    require_at_least(1, vocab_size=vocab_size)
    for name in SPLITS:
        require_tokens(splits[name], vocab_size, least=2, name=name)


def _score(bits_per_token: float, tokens: int) -> dict[str, float | int | None]:
    """Return the entry of one split. The perplexity is None if a float cannot represent it."""
    return {
        "perplexity": 2.0**bits_per_token if bits_per_token < 1024 else None,
        "bits_per_token": bits_per_token,
        "tokens": tokens,
    }
