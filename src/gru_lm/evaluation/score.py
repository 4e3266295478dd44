"""How well a model predicts a given text: in all, by line, and at the most surprising places."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from gru_lm.core.errors import UserError, require_at_least
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.text_stream import tokens_by_line
from gru_lm.models.base import LanguageModel

STEPS = 1000  # predicted at a time, or fewer with a large vocabulary
LOGITS = 1 << 24  # the most logits at a time
CONTEXT = 40  # tokens kept before and after a surprise
EXPECTED = 3  # predictions kept for a surprise
EXCERPT = 80  # characters kept of a line


@dataclass
class Line:
    """The score of one line.

    ``line`` is its number, from 1. ``bits`` is the sum over its predicted ``characters``, which are
    ``tokens`` tokens. ``text`` is its start as the model reads it.
    """

    line: int
    characters: int = 0
    tokens: int = 0
    bits: float = 0.0
    text: str = ""


class Expected(NamedTuple):
    """A token that the model predicted with ``probability``."""

    token: str
    probability: float


@dataclass
class Surprise:
    """A ``token`` that the model found improbable: ``bits`` is -log2 of its probability.

    ``line`` is its line's number, and ``position`` its place among all tokens of the text, from 0.
    ``before`` and ``after`` are the tokens around it, and ``expected`` the likeliest tokens.
    """

    position: int
    line: int
    bits: float
    token: str
    before: list[str]
    after: list[str]
    expected: list[Expected]


@dataclass
class TextScore:
    """The score of a whole text.

    ``bits`` is the sum over all predicted ``characters``, which are ``tokens`` tokens. The first
    token of the text is not predicted. ``unknown`` tokens of the text, including the first, are
    outside the vocabulary. ``lines`` have a predicted token. ``hardest`` are the most surprising
    tokens, with the largest surprise first.
    """

    characters: int = 0
    tokens: int = 0
    bits: float = 0.0
    unknown: int = 0
    lines: int = 0
    hardest: list[Surprise] = field(default_factory=list)

    @property
    def bits_per_character(self) -> float:
        """The mean of the bits over the characters."""
        return self.bits / self.characters

    @property
    def perplexity(self) -> float:
        """Two to the power of the mean bits per token, or infinity if it is too large a number."""
        mean = self.bits / self.tokens
        return 2**mean if mean < 1024 else math.inf


@torch.inference_mode()
def score(
    model: LanguageModel,
    vocabulary: Vocabulary,
    pieces: Iterable[str],
    hardest: int = 10,
    observe: Callable[[Line], object] | None = None,
) -> TextScore:
    """Predict each token of a text from all tokens before it.

    ``pieces`` join to the text, which is normalised and encoded as the corpus was. How it is cut
    does not change the result, and only some thousand tokens are in memory at a time. At word
    level the characters include one space before each word. ``hardest`` is the number of surprises
    to keep. ``observe`` is called with each line that has a predicted token, in order.

    Raises UserError if the text has fewer than two tokens or a logit is not finite, and ValueError
    if ``hardest`` is below 0.
    """
    require_at_least(0, hardest=hardest)
    found, between = TextScore(), len(vocabulary.separator)
    stream = _flat(tokens_by_line(pieces, vocabulary))
    opening = list(itertools.islice(stream, 1))
    context = [token for _, token in opening]  # the last tokens that were read
    inputs = vocabulary.encode_tokens(context).astype(np.int64)
    found.unknown = sum(token not in vocabulary for token in context)
    line = Line(opening[0][0] if opening else 1, text="".join(context))
    state = model.begin_state(1)
    steps = max(1, min(STEPS, LOGITS // len(vocabulary)))
    worst = _Worst(hardest)
    while block := list(itertools.islice(stream, steps)):
        tokens = [token for _, token in block]
        targets = vocabulary.encode_tokens(tokens).astype(np.int64)
        found.unknown += sum(token not in vocabulary for token in tokens)
        X = torch.from_numpy(np.concatenate([inputs, targets[:-1]])).to(model.device)
        logits, state = model(X[None], state)  # (T, 1, V), (1, S)
        log2 = F.log_softmax(logits[:, 0].double(), -1).cpu().numpy() / math.log(2)  # (T, V)
        bits = -log2[np.arange(len(targets)), targets]  # (T,)
        if not np.isfinite(bits).all():
            raise UserError(
                f"the {model.variant} model predicts a logit that is not finite: its weights are "
                "too large; train it again with a lower train.lr"
            )
        worst.add(block, bits, log2, context, found.tokens + 1, vocabulary)
        for (number, token), value in zip(block, bits.tolist(), strict=True):
            if number != line.line:
                _finish(line, found, observe)
                line = Line(number)
            line.characters += len(token) + between
            line.tokens += 1
            line.bits += value
            if len(line.text) < EXCERPT:
                line.text += (vocabulary.separator if line.text else "") + token[:EXCERPT]
            found.bits += value
        found.tokens += len(block)
        found.characters += sum(map(len, tokens)) + between * len(tokens)
        context, inputs = [*context, *tokens][-CONTEXT:], targets[-1:]
    if not found.tokens:
        raise UserError(
            f"the text has {len(opening)} tokens with prepare.normalize = {vocabulary.normalize}: "
            "at least 2 are needed, as the first is not predicted"
        )
    _finish(line, found, observe)
    found.hardest = worst.ordered()
    return found


def _finish(line: Line, found: TextScore, observe: Callable[[Line], object] | None) -> None:
    if line.tokens:
        found.lines += 1
        if observe:
            observe(line)


def _flat(lines: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, str]]:
    for number, tokens in lines:
        for token in tokens:
            yield number, token


class _Worst:
    """The ``most`` tokens with the most bits, and of equal ones the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, Surprise]] = []
        self._open: list[Surprise] = []  # those that still lack tokens after them

    def add(
        self,
        block: list[tuple[int, str]],
        bits: np.ndarray,
        log2: np.ndarray,
        context: list[str],
        position: int,
        vocabulary: Vocabulary,
    ) -> None:
        """Take in a ``block`` of tokens, the first of which is number ``position`` of the text.

        ``bits`` (T,) are theirs, ``log2`` (T, V) the logarithms of all probabilities, and
        ``context`` the tokens before the block.
        """
        tokens = [token for _, token in block]
        for surprise in self._open:
            surprise.after += tokens[: CONTEXT - len(surprise.after)]
        self._open = [one for one in self._open if len(one.after) < CONTEXT]
        for place in np.argsort(-bits, kind="stable")[: self._most].tolist():
            key = (float(bits[place]), -(position + place))
            if len(self._heap) == self._most and key < self._heap[0][:2]:
                break
            likeliest = np.argsort(-log2[place], kind="stable")[:EXPECTED].tolist()
            surprise = Surprise(
                position=position + place,
                line=block[place][0],
                bits=key[0],
                token=tokens[place],
                before=[*context, *tokens[:place]][-CONTEXT:],
                after=tokens[place + 1 : place + 1 + CONTEXT],
                expected=[
                    Expected(vocabulary.tokens[number], float(2 ** log2[place, number]))
                    for number in likeliest
                ],
            )
            heapq.heappush(self._heap, (*key, surprise))
            if len(self._heap) > self._most:
                heapq.heappop(self._heap)
            if len(surprise.after) < CONTEXT:
                self._open.append(surprise)

    def ordered(self) -> list[Surprise]:
        """Return the surprises, the largest first."""
        return [surprise for *_, surprise in sorted(self._heap, key=lambda one: one[:2])[::-1]]
