"""Text from a trained model, one token after the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gru_lm.core.errors import UserError, require_above, require_at_least
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.base import LanguageModel


def generate(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prefix: str,
    length: int,
    temperature: float | None = None,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> str:
    """Continue ``prefix`` by ``length`` tokens; returns the prefix, as encoded, and what follows.

    ``temperature`` None is greedy: always the likeliest token. Otherwise tokens are drawn from
    softmax(logits / temperature), among the ``top_k`` likeliest if that is given, with
    ``generator`` (a CPU generator).

    Raises UserError for a prefix without tokens or a model whose logits are not finite, and
    ValueError if ``length`` is below 0, ``temperature`` not above 0 or ``top_k`` below 1.
    """
    require_at_least(0, length=length)
    if temperature is not None:
        require_above(0, temperature=temperature)
    if top_k is not None:
        require_at_least(1, top_k=top_k)
    numbers = vocabulary.encode_fragment(prefix).tolist()
    if not numbers or (prefix.strip() and not vocabulary.decode(numbers).strip()):
        raise UserError(
            f"the prefix {prefix!r} holds no token under the rule "
            f"prepare.normalize = {vocabulary.normalize}: choose another prefix"
        )
    stepper = model.stepper()
    for token in numbers:
        stepper.feed(token)
    for _ in range(length):
        logits = stepper.logits()
        if not np.isfinite(logits.max()):  # NaN if one of them is
            raise UserError(
                f"the {model.variant} model predicts a logit of {logits.max():g}: its weights are "
                "too large; train it again with a lower train.lr"
            )
        if temperature is None:
            token = int(logits.argmax())
        else:
            token = _draw(torch.from_numpy(logits), temperature, top_k, generator)
        numbers.append(token)
        stepper.feed(token)
    return vocabulary.decode(numbers)


def _draw(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None
) -> int:
    """A token drawn by ``logits`` (V,)."""
    # Against the largest, in float64: no temperature, however small, overflows.
    scores = logits.double()
    scores = (scores - scores.max()) / temperature
    if top_k is not None and top_k < len(scores):
        likeliest = scores.topk(top_k).indices
        scores = torch.full_like(scores, -torch.inf).scatter(0, likeliest, scores[likeliest])
    return int(torch.multinomial(scores.softmax(-1), 1, generator=generator))
