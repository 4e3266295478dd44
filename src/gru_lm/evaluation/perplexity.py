"""Exact perplexity of a model on a stream of tokens."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gru_lm.core.errors import UserError, require_at_least, require_tokens
from gru_lm.models.base import LanguageModel


@dataclass(frozen=True)
class Score:
    """Summed cross-entropy of a stream in ``nats``, and the number of ``tokens`` predicted."""

    nats: float
    tokens: int

    def as_metrics(self) -> dict[str, float | int]:
        """Return perplexity, bits per token (character or word) and the number of tokens.

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
        return {
            "perplexity": math.exp(mean),
            "bits_per_token": mean / math.log(2),
            "tokens": self.tokens,
        }


@torch.inference_mode()
def evaluate(
    model: LanguageModel,
    tokens: Tensor,
    chunk: int = 1000,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> Score:
    """Predict each token of ``tokens`` (N,) from all tokens before it, carrying the state.

    N - 1 tokens are scored exactly once; the first is not predicted. ``chunk`` is the number of
    steps computed at a time and affects only memory. The sum is in float64. ``observe`` is called
    with the logits (T, V) in float64 and the targets (T,) of each chunk in order.

    Raises ValueError if N is below 2, a token is outside the vocabulary, or ``chunk`` is below 1.
    """
    require_tokens(tokens, model.vocab_size, least=2)
    require_at_least(1, chunk=chunk)
    tokens = tokens.to(model.device)
    inputs, targets = tokens[:-1], tokens[1:]
    state = model.begin_state(1)
    nats = torch.zeros((), dtype=torch.float64, device=model.device)
    for X, Y in zip(inputs.split(chunk), targets.split(chunk), strict=True):
        logits, state = model(X[None], state)  # (T, 1, V), (1, H)
        scores = logits[:, 0].double()  # (T, V)
        nats += F.cross_entropy(scores, Y, reduction="sum")
        if observe:
            observe(scores, Y)
    return Score(nats.item(), len(targets))


@torch.inference_mode()
def evaluate_blocks(model: LanguageModel, tokens: Tensor, length: int, rows: int = 64) -> Score:
    """Predict each token of ``tokens`` (N,) after the first, in blocks of ``length`` targets.

    The model reads each block from a state of zeros. It thus predicts the first target of a block
    from one token and the last from ``length`` tokens, as a model with a limited context does
    (A. Karpathy, nanoGPT, function ``estimate_loss``, which samples such blocks at random). The
    last block may be shorter. ``rows`` is the number of blocks computed at a time and affects only
    memory. The sum is in float64.

    Raises ValueError if N is below 2, a token is outside the vocabulary, or a size is below 1.
    """
    require_tokens(tokens, model.vocab_size, least=2)
    require_at_least(1, length=length, rows=rows)
    tokens = tokens.to(model.device)
    inputs, targets = tokens[:-1], tokens[1:]
    whole, size = len(targets) // length * length, rows * length
    pieces = zip(inputs[:whole].split(size), targets[:whole].split(size), strict=True)
    nats = torch.zeros((), dtype=torch.float64, device=model.device)
    for X, Y in [*pieces, (inputs[whole:], targets[whole:])]:
        if len(X) > 0:
            blocks = X.view(-1, min(length, len(X)))  # (B, T)
            logits, _ = model(blocks, model.begin_state(len(blocks)))  # (T, B, V)
            scores = logits.transpose(0, 1).flatten(0, 1).double()  # (B T, V)
            nats += F.cross_entropy(scores, Y, reduction="sum")
    return Score(nats.item(), len(targets))
