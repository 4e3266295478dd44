"""Learn a byte-pair encoding from a corpus, and encode the splits with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import IO, Final

import numpy as np

from gru_lm.core.errors import UserError
from gru_lm.data.byte_pairs import Merge, words
from gru_lm.data.text import words_in_pieces
from gru_lm.data.vocabulary import Vocabulary

LEARNED: Final = 1 << 24  # characters, at most, from which merges are learned
BLOCK: Final = 1 << 16  # characters of a text that are used, or left out, together
READ: Final = 1 << 22  # bytes read at a time
WORDS: Final = 1 << 17  # different ones, at most, from which merges are learned
RARE: Final = 2  # two neighbours that occur together less often are not merged


def learn_merges(
    texts: Iterable[str], characters: int, alphabet: Vocabulary, vocab_size: int
) -> list[Merge]:
    """Return the merges that give ``alphabet`` up to ``vocab_size`` tokens.

    ``texts`` join to the text, of which the first ``characters`` are used. If it is longer than
    ``LEARNED``, blocks at equal distances are used. Each merge joins the two neighbours that occur
    most often within words. Words with characters outside ``alphabet`` are left out, and so are
    further words after ``WORDS`` different ones, which a text without spaces can have. There are
    fewer merges if no other neighbours occur twice.

    Raises UserError if ``vocab_size`` leaves no place for a merge.
    """
    from tokenizers import Tokenizer, models, trainers

    if vocab_size <= len(alphabet):
        raise UserError(
            f"prepare.vocab_size = {vocab_size:,}: must be over {len(alphabet):,}, the number of "
            "different characters with <unk> and the reserved tokens (prepare.min_freq leaves out "
            "rare characters)"
        )
    letters = frozenset(token for token in alphabet.tokens if len(token) == 1)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - (len(alphabet) - len(letters)),
        min_frequency=RARE,
        initial_alphabet=sorted(letters),
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE())
    known: set[str] = set()

    def of_known(found: Iterable[str]) -> Iterator[str]:
        for word in found:
            if word not in known:
                if len(known) == WORDS or not letters.issuperset(word):
                    continue
                known.add(word)
            yield word

    learned = words_in_pieces(_blocks(texts, characters), words)
    tokenizer.train_from_iterator(([*of_known(found)] for found in learned), trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _blocks(texts: Iterable[str], characters: int) -> Iterator[str]:
    """Yield every nth block of the first ``characters``, so that they are up to ``LEARNED``."""
    nth, start = -(-characters // LEARNED), 0
    for text in texts:
        text = text[: characters - start]
        for number in range(start // BLOCK, -(-(start + len(text)) // BLOCK)):
            if number % nth == 0:
                first = max(0, number * BLOCK - start)
                yield text[first : (number + 1) * BLOCK - start]
        start += len(text)
        if start == characters:
            return


def encode_splits(
    parts: Iterable[tuple[str, str]], vocabulary: Vocabulary, scratch: IO[bytes]
) -> tuple[dict[str, int], Iterator[tuple[str, np.ndarray]]]:
    """Return the number of tokens of each split, and the numbers of its tokens in pieces.

    ``parts`` are the name of a split and a part of its text, in the order of the text. No token
    reaches beyond its split. The numbers are of the type ``vocabulary.dtype``. They are kept in the
    empty file ``scratch``.

    Raises UserError if a split has fewer than 2 tokens.
    """
    sizes: dict[str, int] = {}
    for name, of_split in groupby(parts, itemgetter(0)):
        for found in words_in_pieces((text for _, text in of_split), words):
            numbers = vocabulary.encode_words(found)
            sizes[name] = sizes.get(name, 0) + len(numbers)
            scratch.write(numbers.tobytes())
    for name, size in sizes.items():
        if size < 2:
            raise UserError(
                f"the split {name} has {size} token: at least 2 are needed, one to read and one to "
                "predict; make prepare.split larger"
            )
    return sizes, _read_back(sizes, vocabulary.dtype, scratch)


def _read_back(
    sizes: dict[str, int], dtype: np.dtype, scratch: IO[bytes]
) -> Iterator[tuple[str, np.ndarray]]:
    scratch.seek(0)
    for name, size in sizes.items():
        left = size * dtype.itemsize
        while left:
            data = scratch.read(min(left, READ))
            left -= len(data)
            yield name, np.frombuffer(data, dtype)
