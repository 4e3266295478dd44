"""The prepared data: a folder with a vocabulary and one array of token numbers per split."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from gru_lm.core.errors import DamagedFile
from gru_lm.core.files import array_writer, in_pieces, read_array, write_array
from gru_lm.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

SPLITS: Final = ("train", "val", "test")
PREPARED: Final = Path("data/prepared")


class Prepared:
    """The data that ``write`` wrote to ``folder``.

    Raises UnusableFile if the vocabulary is missing or damaged.
    """

    def __init__(self, folder: Path = PREPARED) -> None:
        self.folder = folder
        self.vocabulary = Vocabulary.load(folder / "vocab.json")

    @staticmethod
    def write(
        vocabulary: Vocabulary, splits: Mapping[str, np.ndarray], folder: Path = PREPARED
    ) -> None:
        """Write ``vocabulary`` as JSON and each of ``splits``, (N,) token numbers, as .npy."""
        # The vocabulary is removed first and written last. If the process stops in between, old
        # and new splits cannot be used together, even if they have the same vocabulary.
        (folder / "vocab.json").unlink(missing_ok=True)
        for split, tokens in splits.items():
            write_array(folder / f"{split}.npy", tokens, owner=vocabulary.fingerprint)
        vocabulary.save(folder / "vocab.json")

    @staticmethod
    @contextmanager
    def writer(
        vocabulary: Vocabulary, sizes: Mapping[str, int], folder: Path = PREPARED
    ) -> Iterator[Mapping[str, Callable[[np.ndarray], None]]]:
        """Open the splits for writing in pieces. ``sizes`` are their numbers of tokens.

        The block receives, for each split, the function that appends token numbers to it: (N,) of
        the type ``vocabulary.dtype``. If the block raises an exception, all earlier files stay.

        Raises UserError if the vocabulary is too large to be loaded again.
        """
        vocabulary.require_loadable()
        with ExitStack() as stack:
            writers = {  # entered in reverse, so that the files are replaced in order
                split: stack.enter_context(
                    array_writer(
                        folder / f"{split}.npy",
                        vocabulary.dtype,
                        (sizes[split],),
                        owner=vocabulary.fingerprint,
                    )
                )
                for split in reversed([*sizes])
            }
            yield writers
            (folder / "vocab.json").unlink(missing_ok=True)  # as in ``write``
        vocabulary.save(folder / "vocab.json")

    def path(self, split: str) -> Path:
        """Return the path of a split's array."""
        return self.folder / f"{split}.npy"

    def tokens(self, split: str) -> np.ndarray:
        """Return the token numbers of ``split``: (N,) unsigned, memory-mapped and read-only.

        Raises UnusableFile if the array is missing, damaged or belongs to another vocabulary.
        """
        path = self.path(split)
        tokens = read_array(path, owner=self.vocabulary.fingerprint)
        if tokens.ndim != 1 or tokens.dtype.kind != "u" or len(tokens) < 2:
            raise DamagedFile(path, "it is not a one-dimensional array of token numbers")
        highest = max(int(piece.max()) for piece in in_pieces(tokens))
        if highest >= len(self.vocabulary):
            raise DamagedFile(path, f"token number {highest} is outside the vocabulary")
        return tokens

    def tensor(self, split: str) -> Tensor:
        """Return ``tokens`` of ``split`` as a tensor (N,) of the same type, also memory-mapped.

        It must not be written to.
        """
        import torch  # some stages read tokens without torch

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*not writable")
            return torch.from_numpy(self.tokens(split))


def numbers(tokens: np.ndarray | Tensor) -> Tensor:
    """Return a piece of ``tokens``, of any type of whole numbers on the CPU, as an int64 tensor."""
    import torch

    return torch.from_numpy(np.asarray(tokens, np.int64))
