"""How well a model predicts from the last k tokens alone, by three measures.

**Calibrated bits** are the measure of the gate study. A model that knows its text by heart is sure
of what it predicts and, after a context that it has not seen, often wrong. Bits then grow with
confidence and say little about what the model gets out of the context. So the logits are first
divided by the temperature that suits them best (temperature scaling, Guo et al. 2017,
arXiv:1706.04599), one for each context length, text and intervention. It is fitted on the tokens on
which it is used. That is one number for some 600 tokens or more: it lowers the mean by about
1 / 2n nats for n tokens, 0.001 bits for 600.

**Bits** are those of the probabilities as they are, and **accuracy** is the share of the tokens
that were the likeliest. Both are reported beside.

Only the first ``TEXT`` tokens of a split are used. The model starts from a state of zeros, as it
does on every text.
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
TOLERANCE: Final = 0.05  # bits a token: context helps as far as it lowers the loss by more

# By measure, the means over the tokens, one for each context length.
Scores = dict[Measure, list[float]]


@dataclass(frozen=True)
class Targets:
    """Tokens at ``places`` (B,) of ``tokens`` (N,), each to be predicted from those before it.

    The places are evenly spaced by ``stride``. So what is read before one of them is also read
    before the next, and every context whose length is a multiple of the stride comes from a single
    pass over the text. ``unrelated`` (at least B, U) are U tokens to be read before the context.
    """

    tokens: Tensor
    places: Tensor
    stride: int
    unrelated: Tensor

    @classmethod
    def of(
        cls, tokens: Tensor, longest: int, stride: int, offset: int = 0, unrelated: int = 0
    ) -> Targets:
        """Every ``stride``-th of ``tokens`` (N,) that has ``longest`` before it.

        They start at the ``offset``-th; an offset of at least the stride begins again from 0. The
        passage of ``unrelated`` tokens lies elsewhere in the text, a quarter to three quarters of
        its length further on, round its end.
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
        """Those at every ``n``-th of the places."""
        return Targets(self.tokens, self.places[::n], n * self.stride, self.unrelated)

    @property
    def wanted(self) -> Tensor:
        """The tokens themselves: (B,)."""
        return self.tokens[self.places]

    def states(
        self, gates: Gates, lengths: Sequence[int], intervention: Intervention | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """By context length, in any order, the states (B, H) from which to predict."""
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
        # Row r starts ``longest`` tokens before the first place, and r strides. The last rows would
        # go on beyond the text's end, but they are used only as far as their places.
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
    """How well ``targets`` are predicted from ``lengths`` tokens, by each measure."""
    found = {
        k: score(gates.logits(states), targets.wanted)
        for k, states in targets.states(gates, lengths, intervention)
    }
    return {measure: [found[k][measure] for k in lengths] for measure in MEASURES}


def score(logits: Tensor, wanted: Tensor) -> dict[Measure, float]:
    """The mean of each measure over the tokens ``wanted`` (B,), by ``logits`` (B, V)."""
    calibrated = logits * inverse_temperature(logits, wanted)
    return {
        "calibrated_bits": float(surprise(calibrated, wanted).mean()),
        "bits": float(surprise(logits, wanted).mean()),
        "accuracy": float((logits.argmax(-1) == wanted).double().mean()),
    }


def inverse_temperature(logits: Tensor, wanted: Tensor) -> float:
    """The factor for ``logits`` (B, V) with which the tokens ``wanted`` (B,) cost least.

    The cross-entropy is convex in the factor: it is found by bisection between 1/64 and 4, to 1 %.
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
    """Those of ``LENGTHS`` that leave at least half of ``text`` (N,) to be predicted."""
    return [k for k in LENGTHS if k <= max(1, len(text) // 2)]


def reach(lengths: Sequence[int], bits: Sequence[float], whole: float) -> int | None:
    """The least context with which the loss is within ``TOLERANCE`` of its lowest.

    ``bits`` are by ``lengths``, ``whole`` are those with the whole context. None if the whole
    context is needed.
    """
    lowest = min(*bits, whole)
    return next(
        (k for k, loss in zip(lengths, bits, strict=True) if loss <= lowest + TOLERANCE), None
    )
