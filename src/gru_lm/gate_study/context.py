"""Predictions from the last k tokens only, scored by three measures.

**Calibrated bits** are the main measure of the gate study. A model that memorised its text is
overconfident after a context that it has not seen, and its bits then measure confidence more than
the use of context. So the logits are first divided by the best temperature (temperature scaling,
Guo et al. 2017, arXiv:1706.04599), one for each context length, text and intervention. The
temperature is fitted on the tokens that are scored, which lowers the mean of n tokens by about
1 / 2n nats: 0.001 bits for 600 tokens.

**Bits** are computed from the probabilities without recalibration. **Accuracy** is the share of the
tokens that were predicted as the most probable.

Only the first ``TEXT`` tokens of a split are used. The initial state is zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from gru_lm.gate_study.reading import surprise
from gru_lm.models.gates import Gates, Intervention
from gru_lm.results.gates import MEASURES, Measure

TEXT: Final = 10_000  # tokens of a split
STRIDE: Final = 4  # tokens between two that are predicted for a context curve
LENGTHS: Final = (0, 1, 2, 3, 4, 6, *range(8, 49, 4))  # tokens of context
TOLERANCE: Final = 0.05  # bits per token; context helps only if it lowers the loss by more

# The means over the tokens by measure, one per context length.
Scores = dict[Measure, list[float]]


@dataclass(frozen=True)
class Targets:
    """Targets at ``places`` (B,) of ``tokens`` (N,), each predicted from the tokens before it.

    The places are evenly spaced by ``stride``, so a single pass over the text gives all contexts
    whose length is a multiple of the stride. The rows of ``unrelated`` (at least B, U) are read
    before the contexts.
    """

    tokens: Tensor
    places: Tensor
    stride: int
    unrelated: Tensor

    @classmethod
    def of(
        cls, tokens: Tensor, longest: int, stride: int, offset: int = 0, unrelated: int = 0
    ) -> Targets:
        """Return every ``stride``-th of ``tokens`` (N,) with at least ``longest`` tokens before it.

        The first target is ``offset`` tokens later, modulo the stride. Each row of ``unrelated``
        tokens is a passage from elsewhere in the text, a quarter to three quarters of its length
        further on, modulo the length.
        """
        N = len(tokens)
        offset %= max(1, min(stride, N - longest))
        places = torch.arange(longest + offset, N, stride)
        rows = len(places) + longest // stride
        starts = places[0] - longest + stride * torch.arange(rows)
        away = np.random.default_rng(offset).integers(N // 4, 3 * N // 4 + 1, rows)
        elsewhere = (starts + torch.from_numpy(away)) % max(1, N - unrelated)
        windows = tokens[elsewhere[:, None] + torch.arange(unrelated)]
        return cls(tokens, places, stride, windows)

    def every(self, n: int) -> Targets:
        """Return the targets at every ``n``-th place."""
        return Targets(self.tokens, self.places[::n], n * self.stride, self.unrelated)

    @property
    def wanted(self) -> Tensor:
        """The tokens to predict: (B,)."""
        return self.tokens[self.places]

    def states(
        self, gates: Gates, lengths: Sequence[int], intervention: Intervention | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield each context length, in any order, and the states (B, H) after that context."""
        B, last = len(self.places), len(self.tokens) - 1
        shared = {k for k in lengths if k and k % self.stride == 0}
        longest = max(shared, default=self.stride)
        rows = B + longest // self.stride - 1
        start = gates.begin_state(rows)
        if self.unrelated.shape[1]:
            start = gates.last_state(self.unrelated[:rows], start, intervention)
        for k in set(lengths) - shared:
            windows = self.tokens[self.places[:, None] + torch.arange(-k, 0)]
            yield k, gates.last_state(windows, start[:B], intervention)
        if not shared:
            return
        # Row r starts r strides after ``longest`` tokens before the first place. Tokens beyond the
        # end of the text are clamped; the states after them are not used.
        starts = self.places[0] - longest + self.stride * torch.arange(rows)
        windows = self.tokens[(starts[:, None] + torch.arange(longest)).clamp(max=last)]
        for k, (_, _, H) in enumerate(gates.steps(windows, start, intervention), start=1):
            if k in shared:
                first = (longest - k) // self.stride
                yield k, H[first : first + B]


@torch.inference_mode()
def scores(
    gates: Gates,
    targets: Targets,
    lengths: Sequence[int],
    intervention: Intervention | None = None,
) -> Scores:
    """Score the predictions of ``targets`` from ``lengths`` tokens, by each measure."""
    found = {
        k: score(gates.logits(states), targets.wanted)
        for k, states in targets.states(gates, lengths, intervention)
    }
    return {measure: [found[k][measure] for k in lengths] for measure in MEASURES}


def score(logits: Tensor, wanted: Tensor) -> dict[Measure, float]:
    """Return the mean of each measure over the tokens ``wanted`` (B,) for ``logits`` (B, V)."""
    calibrated = logits * inverse_temperature(logits, wanted)
    return {
        "calibrated_bits": float(surprise(calibrated, wanted).mean()),
        "bits": float(surprise(logits, wanted).mean()),
        "accuracy": float((logits.argmax(-1) == wanted).double().mean()),
    }


def inverse_temperature(logits: Tensor, wanted: Tensor) -> float:
    """Return the factor of ``logits`` (B, V) that minimises the cross-entropy of ``wanted`` (B,).

    The cross-entropy is convex in the factor. Bisection between 1/64 and 4 finds it to 1 %.
    """
    low, high = -6.0, 2.0  # powers of 2
    of_wanted = logits.gather(1, wanted[:, None])[:, 0]
    for _ in range(9):
        middle = (low + high) / 2
        expected = ((logits * 2**middle).softmax(1) * logits).sum(1)
        if (expected - of_wanted).mean(dtype=torch.float64) > 0:  # the slope
            high = middle
        else:
            low = middle
    return float(2 ** ((low + high) / 2))


def lengths_for(text: Tensor) -> list[int]:
    """Return the ``LENGTHS`` that are at most half the length of ``text`` (N,)."""
    return [k for k in LENGTHS if k <= max(1, len(text) // 2)]


def reach(lengths: Sequence[int], bits: Sequence[float], whole: float) -> int | None:
    """Return the shortest context whose loss is within ``TOLERANCE`` of the lowest loss.

    ``bits`` has the loss by ``lengths``, ``whole`` the loss with the whole context. The result is
    None if the whole context is needed.
    """
    lowest = min(*bits, whole)
    return next(
        (k for k, loss in zip(lengths, bits, strict=True) if loss <= lowest + TOLERANCE), None
    )
