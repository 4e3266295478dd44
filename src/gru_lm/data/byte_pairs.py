"""Byte-pair encoding (BPE): tokens of several characters, made by merging frequent neighbours.

A text is cut into words, and each word into characters. Then the first of the merges that applies
to two neighbours joins them, again and again, until none applies. No token reaches beyond a word,
and the tokens of a text join to the text.

The units are characters and not bytes, so every token is readable text. The name is that of the
method: Sennrich, Haddow and Birch 2016, Neural Machine Translation of Rare Words with Subword
Units, arXiv:1508.07909. It is computed by the library ``tokenizers`` of Hugging Face.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final

import numpy as np

Merge = tuple[str, str]  # the two tokens that are joined

# A line break; letters, up to three digits, or other characters, with one space before them; spaces
# up to the last before a word. \p{M} are accents and vowel signs that are characters of their own.
WORD: Final = r"\n| ?[\p{L}\p{M}]+| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+|[^\S\n]+(?!\S)|[^\S\n]"
KNOWN_WORDS: Final = 1 << 18  # of which the numbers are kept


def words(text: str) -> list[str]:
    """Cut ``text`` into the words in which tokens are merged. Joined, they are the text."""
    import regex  # imported here, as in all of this module, since most runs have no byte pairs

    found: list[str] = regex.findall(WORD, text)
    return found


class BytePairs:
    """Splits text into tokens by ``merges``, the first of which come first.

    ``numbers`` are those of all tokens: the characters and the results of the merges. ``unknown``
    is the token for characters that have no number.
    """

    def __init__(self, numbers: Mapping[str, int], merges: Sequence[Merge], unknown: str) -> None:
        from tokenizers import Tokenizer, models

        self._tokenizer = Tokenizer(
            models.BPE(vocab=dict(numbers), merges=list(merges), unk_token=unknown)
        )
        self._known: dict[str, list[int]] = {}  # the numbers by word

    def split(self, found: Iterable[str]) -> list[str]:
        """Return the tokens of the words ``found``. An unknown character is a token of its own."""
        return [
            word[start:end] for word in found for start, end in self._tokenizer.encode(word).offsets
        ]

    def encode(self, found: Sequence[str], dtype: np.dtype) -> np.ndarray:
        """Return the numbers of the tokens of the words ``found``: (N,) of the type ``dtype``."""
        known = self._known
        if new := [word for word in dict.fromkeys(found) if word not in known]:
            if len(known) + len(new) > KNOWN_WORDS:
                known.clear()
                new = list(dict.fromkeys(found))
            encodings = self._tokenizer.encode_batch_fast(new)
            known.update(zip(new, (one.ids for one in encodings), strict=True))
        return np.fromiter(chain.from_iterable(map(known.__getitem__, found)), dtype)
