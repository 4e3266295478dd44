"""The training, validation and test splits, cut from the stream of tokens."""

from __future__ import annotations

import math

import numpy as np

from gru_lm.core.errors import UserError
from gru_lm.data.prepared import SPLITS
from gru_lm.preparation.settings import Split


def split_tokens(tokens: np.ndarray, split: Split) -> dict[str, np.ndarray]:
    """Cut ``tokens`` (N,) into consecutive pieces: train from the start, then val, then test.

    Fractions are rounded down, each to at least 2 tokens (one to read and one to predict).
    Raises UserError where the corpus holds too few tokens.
    """
    sizes = {
        name: max(2, math.floor(size * len(tokens) + 1e-6)) if isinstance(size, float) else size
        for name in SPLITS
        for size in (getattr(split, name),)
    }
    needed = sum(sizes.values())
    if len(tokens) < needed:
        raise UserError(
            f"the corpus has {len(tokens):,} tokens, but prepare.split needs {needed:,} "
            f"({', '.join(f'{name} {size:,}' for name, size in sizes.items())}): "
            "choose a longer corpus or smaller splits"
        )
    ends = np.cumsum([0, *sizes.values()])
    return {
        name: tokens[start:end]
        for name, start, end in zip(SPLITS, ends[:-1], ends[1:], strict=True)
    }
