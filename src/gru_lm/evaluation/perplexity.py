"""Exact perplexity of a model on a stream of tokens, and the baseline to beat."""

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
    """How well a stream was predicted: ``nats`` is the summed cross-entropy over ``tokens``."""

    nats: float
    tokens: int

    def as_metrics(self) -> dict[str, float | int]:
        """Perplexity, bits a token (a character, at that level) and the number of tokens.

        Raises UserError where the perplexity is not a finite number, as after a bad training, and
        ValueError without a token.
        """
        require_at_least(1, tokens=self.tokens)
        mean = self.nats / self.tokens
        if not mean < math.log(sys.float_info.max):
            raise UserError(
                f"a cross-entropy of {mean:.4g} nats a token is beyond any perplexity: the model "
                "has learnt nothing; lower train.lr or train.clip_norm and train it again"
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
    """Predict each token of ``tokens`` (N,) from all before it, the state carried throughout.

    N - 1 tokens are scored, each exactly once; the first has nothing before it. ``chunk`` is the
    number of steps worked on at a time and changes nothing but memory. The sum is in float64.
    ``observe`` is shown every chunk in turn: the logits (T, V), in float64, and the targets (T,).
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
