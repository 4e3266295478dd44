"""The gates of a trained model while it reads a text.

H' = Z * H + (1 - Z) * H~ is a leaky integrator. With a constant update gate Z, its state decays to
1/e in -1 / ln Z tokens. Tallec and Ollivier (2018, arXiv:1804.11188) interpret gates as time
constants in this way. This is the memory of the leak only; information can last longer through the
recurrent weights. The module ``context`` measures how many tokens of context a model uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gru_lm.core.errors import UserError
from gru_lm.data.prepared import numbers
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.words import PLACES, WordReader
from gru_lm.models.gates import Gates
from gru_lm.results.gates import Reading

BLOCK: Final = 1 << 20  # tokens whose means are summed at a time
LIKELIEST: Final = 5  # predictions stored for each token of a passage


def surprise(scores: Tensor, tokens: Tensor) -> Tensor:
    """Return -log2 of the probability of ``tokens`` (B,) for logits (B, V), in bits and float64."""
    return F.cross_entropy(scores.double(), tokens, reduction="none") / math.log(2)


# ------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Trace:
    """Results of one pass over a split, with the state carried.

    ``mean_Z``, ``mean_R`` and ``mean_H`` (H,) are means over the tokens. ``passage`` has the gates
    of each of its tokens, the surprise -log2 of its probability given all tokens before it (NaN for
    the first of the split) and the 5 (or all V) most probable tokens in its place. ``states``
    (B, H) are the states before the requested places.
    """

    mean_Z: np.ndarray
    mean_R: np.ndarray
    mean_H: np.ndarray
    passage: Reading
    states: Tensor


@torch.inference_mode()
def read(
    gates: Gates,
    tokens: Tensor | np.ndarray,
    start: int = 0,
    length: int = 0,
    places: Tensor | None = None,
    chunk: int = 500,
    observe: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> Trace:
    """Read ``tokens`` (N,) once from a state of zeros and record the passage start:start + length.

    A passage longer than the rest of the split is cut. ``places`` (B,), ascending and above 0, are
    those whose ``states`` are recorded. ``chunk`` is the number of steps computed at a time and
    affects only memory. ``observe`` is called with the means of Z and R over the units, both (T,),
    of each chunk in order. Sums are in float64.

    Raises UserError if the passage starts beyond the split.
    """
    N = len(tokens)
    if start >= N:
        raise UserError(
            f"gate_study.start = {start:,}, but the split has only {N:,} tokens: "
            "choose a smaller one"
        )
    K = min(LIKELIEST, gates.vocab_size)
    state = gates.begin_state(1)
    sums = torch.zeros(3, state.shape[1], dtype=torch.float64)
    states = [state[:0]]
    last_read = torch.tensor([]) if places is None else places - 1  # before each place
    Z_kept, R_kept = [state[:0]], [state[:0]]
    # No logits predict the split's first token.
    bits = [torch.full((1,), math.nan, dtype=torch.float64)]
    top_tokens = [torch.zeros(1, K, dtype=torch.int64)]
    top_probabilities = [torch.full((1, K), math.nan, dtype=torch.float64)]
    for first in range(0, N, chunk):
        now = numbers(tokens[first : first + chunk + 1])
        read_now, predicted = now[:chunk], now[1:]
        rows = [torch.cat(row) for row in gates.steps(read_now[None], state)]
        Z, R, H = torch.stack(rows, dim=1)  # each (T, H)
        state = H[-1:]
        here = last_read[(last_read >= first) & (last_read < first + chunk)]
        states.append(H[(here - first).long()])
        sums += torch.stack([x.sum(0, dtype=torch.float64) for x in (Z, R, H)])
        if observe is not None:
            observe(Z.double().mean(1).numpy(), R.double().mean(1).numpy())
        if first >= start + length or first + chunk < start:
            continue
        # Copies, as a slice would keep the whole chunk in memory.
        inside = slice(max(0, start - first), max(0, start + length - first))
        Z_kept.append(Z[inside].clone())
        R_kept.append(R[inside].clone())
        # The logits after a token predict the next one.
        before = slice(max(0, start - first - 1), max(0, start + length - first - 1))
        scores = gates.logits(H[: len(predicted)])  # (T, V)
        bits.append(surprise(scores, predicted)[before])
        best = scores[before].double().softmax(-1).topk(K)
        top_tokens.append(best.indices)
        top_probabilities.append(best.values)
    skipped = 0 if start == 0 else 1  # the placeholder of the split's first token
    mean_Z, mean_R, mean_H = (sums / N).numpy()
    passage = Reading(
        tokens=numbers(tokens[start : start + length]).numpy(),
        Z=torch.cat(Z_kept).numpy(),
        R=torch.cat(R_kept).numpy(),
        surprise=torch.cat(bits)[skipped:][:length].float().numpy(),
        top_tokens=torch.cat(top_tokens)[skipped:][:length].numpy(),
        top_probabilities=torch.cat(top_probabilities)[skipped:][:length].float().numpy(),
    )
    return Trace(mean_Z, mean_R, mean_H, passage, torch.cat(states))


# ------------------------------------------------------------------------- memory and activity


def time_constants(mean_Z: np.ndarray) -> np.ndarray:
    """Return -1 / ln(mean Z) of each unit (H,) in tokens, 0 for Z = 0 and infinite for Z = 1."""
    with np.errstate(divide="ignore"):
        result: np.ndarray = -1 / np.log(np.asarray(mean_Z, np.float64))
    return np.where(result < 0, np.inf, result) + 0.0  # a Z of 1 gives -1 / 0


def describe_time_constants(values: np.ndarray) -> dict[str, float | None]:
    """Return minimum, 10th percentile, median, 90th percentile and maximum; None for infinity."""
    points = {"min": 0, "p10": 10, "median": 50, "p90": 90, "max": 100}
    # Interpolation between a finite and an infinite constant is undefined.
    found = {
        name: float(np.percentile(values, q, method="inverted_cdf")) for name, q in points.items()
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


class Activity:
    """The means of Z and R over units and tokens at each of ``PLACES``; ``add`` observes ``read``.

    ``tokens`` (N,) are those that are read, of a vocabulary of characters. Sums are of ``block``
    tokens or a few more at a time, so the memory does not grow with N.
    """

    def __init__(self, tokens: np.ndarray, vocabulary: Vocabulary, block: int = BLOCK) -> None:
        self._tokens, self._block = tokens, block
        self._words = WordReader(vocabulary)
        self._rows: list[np.ndarray] = []  # (2, T)
        self._waiting = self._done = 0
        self._sums = {place: np.zeros(2) for place in PLACES}
        self._counts = dict.fromkeys(PLACES, 0)

    def add(self, Z: np.ndarray, R: np.ndarray) -> None:
        """Add the means of the gates over the units for the next tokens, both (T,)."""
        self._rows.append(np.stack([Z, R]))
        self._waiting += len(Z)
        if self._waiting >= self._block:
            self._sum()

    def result(self) -> dict[str, Any]:
        """Return ``Z``, ``R`` and ``tokens`` by place, None for a place that does not occur."""
        if self._rows:
            self._sum()
        return {
            place: {"Z": float(Z / count), "R": float(R / count), "tokens": count}
            if (count := self._counts[place])
            else None
            for place, (Z, R) in self._sums.items()
        }

    def _sum(self) -> None:
        rows = np.concatenate(self._rows, axis=1)
        where = self._words.places(self._tokens[self._done :][: self._waiting])
        self._done += self._waiting
        self._rows, self._waiting = [], 0
        for index, place in enumerate(PLACES):
            here = where == index
            self._counts[place] += int(here.sum())
            self._sums[place] += [row[here].sum() for row in rows]
