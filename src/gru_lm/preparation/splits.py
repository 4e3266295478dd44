"""Build the vocabulary, and split the tokens for training, validation and test."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from gru_lm.core.errors import UserError
from gru_lm.data.prepared import PREPARED, SPLITS, Prepared
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.preparation.byte_pairs import encode_splits, learn_merges
from gru_lm.preparation.corpus import Corpus
from gru_lm.preparation.settings import Prepare, Split

Piece = TypeVar("Piece", str, np.ndarray)


@dataclass(frozen=True)
class Written:
    """What ``prepare`` has written: the vocabulary's size, and for each split the sizes.

    ``tokens`` is the number of tokens, ``unknown`` how many of them are ``<unk>``.
    """

    vocabulary: int
    tokens: dict[str, int]
    unknown: dict[str, int]


def prepare(
    corpus: Corpus, counts: Mapping[str, int], settings: Prepare, folder: Path = PREPARED
) -> Written:
    """Write the vocabulary of ``corpus`` and the token numbers of each split to ``folder``.

    ``counts`` are those of the whole corpus. The vocabulary has its tokens or those of the training
    split, as ``settings.vocabulary`` says. Byte pairs are learned from the same text.

    Raises UserError if the corpus has too few tokens, if every token of the training split is
    ``<unk>``, or if ``settings.vocab_size`` is too small for byte pairs. All earlier files stay.
    """
    byte_pairs = settings.tokens == "bpe"
    unit = "characters" if byte_pairs else "tokens"
    places = split_places(sum(counts.values()), settings.split, unit)
    if settings.vocabulary == "train":
        counts = corpus.count(places["train"].stop)
    vocabulary = Vocabulary.from_counts(
        counts,
        settings.tokens,
        settings.normalize,
        settings.min_freq,
        settings.reserved_tokens,
        settings.max_tokens,
    )
    sizes = {name: place.stop - place.start for name, place in places.items()}
    if byte_pairs:
        characters = sum(counts.values())
        merges = learn_merges(corpus.texts(), characters, vocabulary, settings.vocab_size)
        vocabulary = vocabulary.with_merges(merges)
        parts = _cut(corpus.texts(), places)
        sizes, pieces = encode_splits(parts, vocabulary, corpus.scratch)
    else:
        pieces = _cut(corpus.numbers(vocabulary), places)
    unknown = dict.fromkeys(sizes, 0)
    with Prepared.writer(vocabulary, sizes, folder) as append:
        for name, numbers in pieces:
            append[name](numbers)
            unknown[name] += len(numbers) - int(np.count_nonzero(numbers))
        if unknown["train"] == sizes["train"]:
            larger = " or raise prepare.max_tokens" if settings.max_tokens else ""
            raise UserError(
                "every token of the training split is <unk>: lower prepare.min_freq "
                f"({settings.min_freq:,}){larger} or choose another corpus"
            )
    return Written(len(vocabulary), sizes, unknown)


def _cut(pieces: Iterable[Piece], places: Mapping[str, slice]) -> Iterator[tuple[str, Piece]]:
    """Yield the parts of ``pieces`` with the name of the split that they belong to."""
    start, end = 0, max(place.stop for place in places.values())
    for piece in pieces:
        for name, place in places.items():
            part = piece[max(0, place.start - start) : max(0, place.stop - start)]
            if len(part):
                yield name, part
        start += len(piece)
        if start >= end:
            return


def split_places(num_tokens: int, split: Split, unit: str = "tokens") -> dict[str, slice]:
    """Return the slice of each split among ``num_tokens`` tokens: train, val and test in order.

    Fractions are rounded down, but each split has at least 2 tokens, one to read and one to
    predict. ``unit`` is the name of what is counted.

    Raises UserError if there are too few tokens.
    """
    sizes = {
        name: max(2, math.floor(size * num_tokens + 1e-6)) if isinstance(size, float) else size
        for name in SPLITS
        for size in (getattr(split, name),)
    }
    needed = sum(sizes.values())
    if num_tokens < needed:
        raise UserError(
            f"the corpus has {num_tokens:,} {unit}, but prepare.split needs {needed:,} "
            f"({', '.join(f'{name} {size:,}' for name, size in sizes.items())}): "
            "choose a longer corpus or smaller splits"
        )
    ends = [0, *accumulate(sizes.values())]
    return {name: slice(*piece) for name, piece in zip(SPLITS, pairwise(ends), strict=True)}
