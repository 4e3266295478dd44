"""How often a training predicted each token, in ``models/<variant>/token_counts.npy``.

A vocabulary can hold tokens that the training split does not: ``<unk>``, reserved tokens, and
tokens that occur only in the rest of the corpus. Training teaches a model little about them except
that they are rare, so sampling leaves them out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gru_lm.core.errors import DamagedFile
from gru_lm.core.files import read_array, write_array

TOKEN_COUNTS = "token_counts.npy"


def write_token_counts(folder: Path, counts: np.ndarray, vocabulary_fingerprint: str) -> None:
    """Write ``counts`` (V,), for each token how often it was a target, to a model's ``folder``."""
    write_array(folder / TOKEN_COUNTS, counts.astype(np.uint64), owner=vocabulary_fingerprint)


def read_untrained(folder: Path, vocab_size: int, vocabulary_fingerprint: str) -> np.ndarray:
    """Return the numbers of the tokens that never were a target in training, (N,) in order.

    The result is empty if the model's ``folder`` has no counts, as folders written by earlier
    versions do not, or if no token was counted.

    Raises DamagedFile if the counts are damaged or belong to another vocabulary.
    """
    path = folder / TOKEN_COUNTS
    if not path.exists():
        return np.empty(0, np.intp)
    counts = read_array(path, owner=vocabulary_fingerprint)
    if counts.shape != (vocab_size,) or counts.dtype.kind != "u":
        raise DamagedFile(path, f"it is not a list of {vocab_size:,} counts")
    return np.flatnonzero(counts == 0) if counts.any() else np.empty(0, np.intp)
