"""Time greedy sampling of one text with ``generate`` and ``d2l.predict_ch8``.

This runs on the CPU. The models are untrained, which does not affect their speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Final

import torch

from benchmarks.common import Corpus
from benchmarks.ours import OURS, our_model
from benchmarks.peers.textbook import TEXTBOOK, textbook_net
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.generation.sampling import generate

PREFIX: Final = "time traveller"
LENGTH: Final = 500  # characters after the prefix
CPU: Final = torch.device("cpu")


class TextbookVocabulary:
    """The part of ``d2l.Vocab`` that ``predict_ch8`` uses."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.idx_to_token = list(vocabulary.tokens)
        self._numbers = {token: number for number, token in enumerate(vocabulary.tokens)}

    def __getitem__(self, token: str) -> int:
        return self._numbers.get(token, 0)


def time_sampling(
    d2l: ModuleType | None, corpus: Corpus, hidden_size: int, alternations: int
) -> dict[str, list[float]]:
    """Return characters per second by implementation, one value per alternation."""
    sizes = corpus.vocab_size, hidden_size, CPU
    writers: dict[str, Callable[[], str]] = {}
    if d2l is not None:
        vocabulary = TextbookVocabulary(corpus.vocabulary)
        for textbook_model in TEXTBOOK:
            net = textbook_net(d2l, textbook_model, *sizes)
            writers[f"textbook-{textbook_model}"] = partial(
                d2l.predict_ch8, PREFIX, LENGTH, net, vocabulary, CPU
            )
    for variant in OURS:
        model = our_model(variant, *sizes)
        writers[variant] = partial(generate, model, corpus.vocabulary, PREFIX, LENGTH)
    speeds: dict[str, list[float]] = {name: [] for name in writers}
    for alternation in range(-1, alternations):
        for name, write in writers.items():
            start = time.perf_counter()
            write()
            if alternation >= 0:
                speeds[name].append(LENGTH / (time.perf_counter() - start))
    return speeds
