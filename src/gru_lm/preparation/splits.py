"""Build the vocabulary, and split the tokens for training, validation and test."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import numpy as np

from gru_lm.core.errors import UserError
from gru_lm.data.prepared import SPLITS
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.preparation.settings import Prepare, Split


def prepare(corpus: list[str], settings: Prepare) -> tuple[Vocabulary, dict[str, np.ndarray]]:
    """Return the vocabulary of ``corpus``, a list of tokens, and the token numbers of each split.

    The vocabulary has the tokens of the whole corpus or of the training split, as
    ``settings.vocabulary`` says.

    Raises UserError if the corpus has too few tokens, or if every token of the training split is
    ``<unk>``.
    """
    places = split_places(len(corpus), settings.split)
    vocabulary = Vocabulary.build(
        corpus if settings.vocabulary == "all" else corpus[places["train"]],
        settings.tokens,
        settings.normalize,
        settings.min_freq,
        settings.reserved_tokens,
    )
    splits = {name: vocabulary.encode_tokens(corpus[place]) for name, place in places.items()}
    if not splits["train"].any():
        raise UserError(
            "every token of the training split is <unk>: lower prepare.min_freq "
            f"({settings.min_freq:,}) or choose another corpus"
        )
    return vocabulary, splits


def split_places(num_tokens: int, split: Split) -> dict[str, slice]:
    """Return the slice of each split among ``num_tokens`` tokens: train, val and test in order.

    Fractions are rounded down, but each split has at least 2 tokens, one to read and one to
    predict.

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
            f"the corpus has {num_tokens:,} tokens, but prepare.split needs {needed:,} "
            f"({', '.join(f'{name} {size:,}' for name, size in sizes.items())}): "
            "choose a longer corpus or smaller splits"
        )
    ends = [0, *accumulate(sizes.values())]
    return {name: slice(*piece) for name, piece in zip(SPLITS, pairwise(ends), strict=True)}
