"""Exact perplexity of a model on a stream of tokens."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gru_lm.core.errors import UserError, require_at_least, require_tokens
from gru_lm.data.prepared import numbers
from gru_lm.models.base import LanguageModel

LOGITS: Final = 1 << 22  # the most logits at a time


@dataclass(frozen=True)
class Score:
    """Summed cross-entropy of a stream in ``nats``, and the number of ``tokens`` predicted."""

    nats: float
    tokens: int

    def as_metrics(self, characters: int | None = None) -> dict[str, float | int]:
        """Return perplexity, bits per token and the number of tokens.

        With the number of ``characters`` in the tokens, also that number, and perplexity and bits
        per character.

        Raises UserError if the perplexity is not finite, as after a diverged training, and
        ValueError without tokens.
        """
        require_at_least(1, tokens=self.tokens)
        mean = self.nats / self.tokens
        if not mean < math.log(sys.float_info.max):
            raise UserError(
                f"the perplexity for a cross-entropy of {mean:.4g} nats per token is too large for "
                "a float; lower train.lr or train.clip_norm and train the model again"
            )
        metrics: dict[str, float | int] = {
            "perplexity": math.exp(mean),
            "bits_per_token": mean / math.log(2),
            "tokens": self.tokens,
        }
        if characters is not None:
            metrics["perplexity_per_character"] = math.exp(self.nats / characters)
            metrics["bits_per_character"] = self.nats / math.log(2) / characters
            metrics["characters"] = characters
        return metrics


@torch.inference_mode()
def evaluate(
    model: LanguageModel,
    tokens: Tensor | np.ndarray,
    chunk: int = 1000,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> Score:
    """Predict each token of ``tokens`` (N,) from all tokens before it, carrying the state.

    The tokens are on the CPU and of any type of whole numbers, such as those of a memory-mapped
    array. N - 1 tokens are scored exactly once; the first is not predicted. ``chunk`` is the number
    of steps computed at a time, or fewer with a large vocabulary. It affects only memory. The sum
    is in float64. ``observe`` is called with the logits (T, V) in float64 and the targets (T,) of
    each chunk in order.

    Raises ValueError if N is below 2, a token is outside the vocabulary, or ``chunk`` is below 1.
    """
    require_tokens(np.asarray(tokens), model.vocab_size, least=2)
    require_at_least(1, chunk=chunk)
    chunk = min(chunk, max(1, LOGITS // model.vocab_size))
    num_targets = len(tokens) - 1
    state = model.begin_state(1)
    nats = torch.zeros((), dtype=torch.float64, device=model.device)
    for start in range(0, num_targets, chunk):
        read = numbers(tokens[start : start + chunk + 1]).to(model.device)
        X, Y = read[:-1], read[1:]
        logits, state = model(X[None], state)  # (T, 1, V), (1, H)
        scores = logits[:, 0].double()  # (T, V)
        nats += F.cross_entropy(scores, Y, reduction="sum")
        if observe:
            observe(scores, Y)
    return Score(nats.item(), num_targets)


@torch.inference_mode()
def evaluate_blocks(
    model: LanguageModel, tokens: Tensor | np.ndarray, length: int, rows: int = 64
) -> Score:
    """Predict each token of ``tokens`` (N,) after the first, in blocks of ``length`` targets.

    The tokens are those of ``evaluate``. The model reads each block from a state of zeros. It thus
    predicts the first target of a block from one token and the last from ``length`` tokens, as a
    model with a limited context does (A. Karpathy, nanoGPT, function ``estimate_loss``, which
    samples such blocks at random). The last block may be shorter. ``rows`` is the number of blocks
    computed at a time and affects only memory. With a large vocabulary they are computed some steps
    at a time. The sum is in float64.

    Raises ValueError if N is below 2, a token is outside the vocabulary, or a size is below 1.
    """
    require_tokens(np.asarray(tokens), model.vocab_size, least=2)
    require_at_least(1, length=length, rows=rows)
    num_targets = len(tokens) - 1
    whole, size = num_targets // length * length, rows * length
    ends = [*range(size, whole, size), whole, num_targets]
    nats = torch.zeros((), dtype=torch.float64, device=model.device)
    for start, end in pairwise([0, *ends]):
        if end > start:
            read = numbers(tokens[start : end + 1]).to(model.device)
            blocks = read[:-1].view(-1, min(length, end - start))  # (B, T)
            targets = read[1:].view_as(blocks)
            state = model.begin_state(len(blocks))
            steps = max(1, LOGITS // (len(blocks) * model.vocab_size))
            for X, Y in zip(blocks.split(steps, 1), targets.split(steps, 1), strict=True):
                logits, state = model(X, state)  # (T, B, V), (B, S)
                scores = logits.transpose(0, 1).flatten(0, 1).double()  # (B T, V)
                nats += F.cross_entropy(scores, Y.flatten(), reduction="sum")
    return Score(nats.item(), num_targets)
