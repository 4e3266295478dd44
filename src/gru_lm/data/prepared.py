"""The prepared data: a vocabulary and one array of token numbers for each split, in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from gru_lm.core.errors import DamagedFile
from gru_lm.core.files import read_array, write_array
from gru_lm.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

SPLITS: Final = ("train", "val", "test")
PREPARED: Final = Path("data/prepared")


class Prepared:
    """What ``write`` has put into ``folder``. Raises UnusableFile if that cannot be used."""

    def __init__(self, folder: Path = PREPARED) -> None:
        self.folder = folder
        self.vocabulary = Vocabulary.load(folder / "vocab.json")

    @staticmethod
    def write(
        vocabulary: Vocabulary, splits: Mapping[str, np.ndarray], folder: Path = PREPARED
    ) -> None:
        """Write ``vocabulary`` and each of ``splits``, (N,) numbers of it, as a .npy array."""
        # Nothing trains without a vocabulary. If this is stopped in between, no mixture of two
        # splits is used, which may have the same vocabulary.
        (folder / "vocab.json").unlink(missing_ok=True)
        for split, tokens in splits.items():
            write_array(folder / f"{split}.npy", tokens, owner=vocabulary.fingerprint)
        vocabulary.save(folder / "vocab.json")

    def path(self, split: str) -> Path:
        """The file of a split."""
        return self.folder / f"{split}.npy"

    def tokens(self, split: str) -> np.ndarray:
        """The token numbers of ``split``: (N,) unsigned, memory-mapped and read-only.

        Raises UnusableFile if the array is missing, damaged or holds numbers of another vocabulary.
        """
        path = self.path(split)
        tokens = read_array(path, owner=self.vocabulary.fingerprint)
        if tokens.ndim != 1 or tokens.dtype.kind != "u" or len(tokens) < 2:
            raise DamagedFile(path, "it is not a row of token numbers")
        if int(tokens.max()) >= len(self.vocabulary):
            raise DamagedFile(path, f"token number {tokens.max()} is outside the vocabulary")
        return tokens

    def tensor(self, split: str) -> Tensor:
        """``tokens`` of ``split`` as int64 on the CPU, (N,)."""
        import torch  # not every stage that reads tokens computes with torch

        return torch.from_numpy(self.tokens(split).astype("int64"))
