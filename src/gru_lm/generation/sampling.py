"""Text from a trained model, one token after the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gru_lm.core.errors import UserError
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.base import LanguageModel


class Stepper:
    """A GRU language model that reads a single sequence, token by token, on the CPU.

    One token is too little work to hide a framework's overhead. So this is NumPy, everything that
    does not depend on the state is computed once, and a step works on memory that is there
    already. ``weights`` are those of ``LanguageModel.textbook_weights``.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        w = {name: weight.detach().cpu().numpy() for name, weight in weights.items()}
        # The gates' sigmoid(x) is (1 + tanh(x / 2)) / 2, the halving of x done in the weights.
        gate_inputs = np.concatenate([w["W_xz"] + w["b_z"], w["W_xr"] + w["b_r"]], axis=1)
        self._gate_inputs = list(gate_inputs / 2)  # for each token, (2H,)
        self._candidate_inputs = list(w["W_xh"] + w["b_h"])  # for each token, (H,)
        gates = np.concatenate([w["W_hz"], w["W_hr"]], axis=1)
        self._W_zr = np.ascontiguousarray(gates.T) / 2  # (2H, H)
        self._W_hh = np.ascontiguousarray(w["W_hh"].T)
        self._W_hq = np.ascontiguousarray(w["W_hq"].T)  # (V, H)
        self._b_hh, self._b_q = w.get("b_hh"), w["b_q"]
        H = len(self._W_hh)
        self._H, self._C, self._N = np.zeros((3, H), self._W_hh.dtype)
        self._ZR = np.empty(2 * H, self._W_hh.dtype)
        self._Z, self._R = self._ZR[:H], self._ZR[H:]

    def feed(self, token: int) -> None:
        """Go on by one token; the equations are those of ``scratch.py``."""
        H, C, N, ZR = self._H, self._C, self._N, self._ZR
        np.dot(self._W_zr, H, out=ZR)
        ZR += self._gate_inputs[token]
        np.tanh(ZR, out=ZR)
        ZR *= 0.5
        ZR += 0.5
        if self._b_hh is None:
            np.multiply(self._R, H, out=N)
            np.dot(self._W_hh, N, out=C)
        else:
            np.dot(self._W_hh, H, out=C)
            C += self._b_hh
            C *= self._R
        C += self._candidate_inputs[token]
        np.tanh(C, out=C)
        H -= C  # H' = Z H + (1 - Z) C = C + Z (H - C)
        H *= self._Z
        H += C

    def logits(self) -> np.ndarray:
        """Those of the next token, (V,)."""
        logits: np.ndarray = np.dot(self._W_hq, self._H)
        logits += self._b_q
        return logits


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
    stepper = Stepper(model.textbook_weights())
    for token in numbers:
        stepper.feed(token)
    for _ in range(length):
        logits = stepper.logits()
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
