"""Train, validation and test splits as arrays of token numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from gru_lm.core.errors import UserError
from gru_lm.core.files import damaged, read_array, write_array
from gru_lm.core.params import Split

if TYPE_CHECKING:
    from gru_lm.data.vocabulary import Vocabulary

SPLITS: Final = ("train", "val", "test")


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


def split_path(folder: Path, name: str) -> Path:
    """Where the split ``name`` lies in the prepared data."""
    return folder / f"{name}.npy"


def save_splits(folder: Path, splits: dict[str, np.ndarray], vocabulary: Vocabulary) -> None:
    """Write one memory-mappable .npy array a split, numbers of ``vocabulary``, into ``folder``."""
    for name, tokens in splits.items():
        write_array(split_path(folder, name), tokens, owner=vocabulary.fingerprint)


def load_split(folder: Path, name: str, vocabulary: Vocabulary) -> np.ndarray:
    """The token numbers of split ``name``: (N,) unsigned, memory-mapped and read-only.

    Raises UserError where the array is missing, damaged or holds numbers of another vocabulary.
    """
    path = split_path(folder, name)
    tokens = read_array(path, "prepare", owner=vocabulary.fingerprint)
    if tokens.ndim != 1 or tokens.dtype.kind != "u" or len(tokens) < 2:
        raise damaged(path, "prepare", "it is not a row of token numbers")
    if int(tokens.max()) >= len(vocabulary):
        raise damaged(path, "prepare", f"token number {tokens.max()} is outside the vocabulary")
    return tokens
