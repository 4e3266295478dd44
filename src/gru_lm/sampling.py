"""Text from a trained model, one token after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from gru_lm.errors import UserError
from gru_lm.model import LanguageModel
from gru_lm.vocabulary import Vocabulary


@torch.inference_mode()
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
    softmax(logits / temperature), among the ``top_k`` likeliest where that is given, with
    ``generator`` (a CPU generator). Raises UserError for a prefix without a single token, or a
    temperature that is not above zero.
    """
    if temperature is not None and not temperature > 0:
        raise UserError(f"temperature = {temperature:g}: must be greater than 0")
    numbers = vocabulary.encode(prefix).tolist()
    if not numbers:
        raise UserError(
            f"the prefix {prefix!r} holds no token under the rule "
            f"prepare.normalize = {vocabulary.normalize}: choose another prefix"
        )
    tokens = torch.tensor([numbers], device=model.device)  # (1, T)
    state = model.begin_state(1)
    for _ in range(length):
        logits, state = model(tokens, state)  # (T, 1, V), (1, H)
        tokens = _pick(logits[-1], temperature, top_k, generator)  # (1, 1)
        numbers.append(int(tokens))
    return vocabulary.decode(numbers)


def _pick(
    logits: Tensor, temperature: float | None, top_k: int | None, generator: torch.Generator | None
) -> Tensor:
    """One token (1, 1) from ``logits`` (1, V)."""
    if temperature is None:
        return logits.argmax(-1, keepdim=True)
    # Against the largest, in float64: no temperature, however small, overflows.
    scores = logits.cpu().double()
    scores = (scores - scores.max()) / temperature
    if top_k is not None and top_k < scores.shape[-1]:
        likeliest = scores.topk(top_k).indices
        scores = torch.full_like(scores, -torch.inf).scatter(
            -1, likeliest, scores.gather(-1, likeliest)
        )
    return torch.multinomial(scores.softmax(-1), 1, generator=generator).to(logits.device)
