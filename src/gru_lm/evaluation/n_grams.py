"""N-gram language models with interpolated modified Kneser-Ney smoothing.

Source: S. F. Chen and J. Goodman (1999), An empirical study of smoothing techniques for language
modeling, Computer Speech & Language 13, 359-394. For a token w after the context h, and h' the
same context without its oldest token::

    p(w | h) = max(c(h w) - D(c(h w)), 0) / c(h .)  +  gamma(h) p(w | h')

    gamma(h) = (D1 N1(h .) + D2 N2(h .) + D3+ N3+(h .)) / c(h .)

c(h .) is the sum of c(h w) over all w, and Nr(h .) the number of w with c(h w) = r. Of the highest
order c(g) is how often the n-gram g occurs; of the lower orders it is how many different tokens
stand before it, its continuation count (Kneser and Ney 1995). Below order 1 lies the uniform
distribution, so that no token is impossible. Where c(h .) is zero, p(w | h) is p(w | h').

The text is one unbroken stream, without symbols for its beginning or end. Where fewer than n - 1
tokens stand before, they are the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Where the counts do not allow an estimate: those of KenLM (Heafield et al. 2013, lmplz).
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)

# N-grams are numbered from 0 within their order. As an index, this finds the last entry of an
# array: each has one more than there are n-grams, for all that were never seen.
UNSEEN = -1


class KneserNey:
    """A model of order n = ``order`` >= 1, estimated from one stream of tokens.

    ``tokens`` (N,) are numbers below ``vocab_size``, as are all tokens asked about later. Memory
    grows as N times n, whatever the size of the vocabulary.
    """

    def __init__(self, tokens: Sequence[int] | np.ndarray, vocab_size: int, order: int) -> None:
        self.vocab_size = vocab_size
        last = np.asarray(tokens, np.int64)
        contexts = np.zeros(len(last), np.int64)  # order 0 has one n-gram, the empty one
        n_grams = []
        for _ in range(order):
            # An n-gram is its context's number and its last token: one integer, so that sorting
            # puts those of one context side by side. ``numbers`` has one entry a position.
            keys, first, numbers, counts = np.unique(
                contexts * vocab_size + last,
                return_index=True,
                return_inverse=True,
                return_counts=True,
            )
            n_grams.append((keys, first, numbers, counts))
            contexts, last = numbers[:-1], last[1:]

        self._levels = []
        n_contexts = 1
        for level, (keys, _, numbers, counts) in enumerate(n_grams):
            if level + 1 < order:
                # Each different n-gram one token longer is a different token before its ending.
                _, longer, _, _ = n_grams[level + 1]
                counts = np.bincount(numbers[1:][longer], minlength=len(keys))
            self._levels.append(_Level.estimate(keys, counts, n_contexts, vocab_size))
            n_contexts = len(keys)

    def distribution(self, context: Sequence[int] | np.ndarray) -> np.ndarray:
        """The probability of each token (V,) after ``context``, of any length, oldest first."""
        V = self.vocab_size
        history = np.asarray(context, np.int64)[-len(self._levels) :]
        contexts = np.zeros(len(history) + 1, np.int64)  # those of each of its tokens, and the next
        p = np.full(V, 1 / V)
        for level in self._levels:
            here = contexts[-1]
            p *= level.backoff[here]
            start, end = np.searchsorted(level.keys, [here * V, (here + 1) * V])
            p[level.keys[start:end] - here * V] += level.shares[start:end]
            numbers = level.find(contexts[:-1] * V + history)
            contexts = np.concatenate([[UNSEEN], numbers])
        return p

    def probabilities(self, stream: Sequence[int] | np.ndarray) -> np.ndarray:
        """The probability (N - 1,) of each token of ``stream`` (N,) after all those before it."""
        last = np.asarray(stream, np.int64)
        contexts = np.zeros(len(last), np.int64)
        p = np.full(len(last), 1 / self.vocab_size)
        for level in self._levels:
            numbers = level.find(contexts * self.vocab_size + last)
            p = level.shares[numbers] + level.backoff[contexts] * p
            contexts = np.concatenate([[UNSEEN], numbers[:-1]])
        return p[1:]

    def nats(self, stream: Sequence[int] | np.ndarray) -> float:
        """The summed cross-entropy of ``stream`` (N,), each token but the first scored once."""
        return float(-np.log(self.probabilities(stream)).sum())


@dataclass(frozen=True)
class _Level:
    """The n-grams of one order: M different ones, after C different contexts."""

    keys: np.ndarray  # (M + 1,) the context's number times V, plus the last token; ascending
    shares: np.ndarray  # (M + 1,) max(c(h w) - D, 0) / c(h .)
    backoff: np.ndarray  # (C + 1,) gamma(h)

    @classmethod
    def estimate(
        cls, keys: np.ndarray, counts: np.ndarray, n_contexts: int, vocab_size: int
    ) -> _Level:
        """The level of the n-grams ``keys`` (M,) with ``counts`` (M,), which may be zero."""
        contexts = keys // vocab_size
        D = np.array([0.0, *discounts(counts)])[np.minimum(counts, 3)]
        totals = np.bincount(contexts, weights=counts, minlength=n_contexts)
        freed = np.bincount(contexts, weights=D, minlength=n_contexts)
        backoff, shares = np.ones(n_contexts + 1), np.zeros(len(keys) + 1)
        np.divide(freed, totals, out=backoff[:-1], where=totals > 0)
        np.divide(counts - D, totals[contexts], out=shares[:-1], where=counts > 0)
        return cls(np.append(keys, np.iinfo(np.int64).max), shares, backoff)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The numbers of the n-grams ``keys``, or UNSEEN.

        The key of an unseen context is negative, so its n-grams are unseen too.
        """
        places = np.searchsorted(self.keys, keys)
        return np.where(self.keys[places] == keys, places, UNSEEN)


def discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """D1, D2 and D3+ for n-grams of one order that were counted ``counts`` times (M,).

    With n_r the number of those counted r times and Y = n1 / (n1 + 2 n2), D_r is
    r - (r + 1) Y n_(r+1) / n_r (Chen and Goodman, equation 26). Where one of n1 to n4 is zero or a
    D_r not positive, as on little data or with few different tokens, all three are
    ``FALLBACK_DISCOUNTS``.
    """
    n = [int((counts == r).sum()) for r in range(5)]
    if not all(n[1:]):
        return FALLBACK_DISCOUNTS
    Y = n[1] / (n[1] + 2 * n[2])
    D1, D2, D3 = (r - (r + 1) * Y * n[r + 1] / n[r] for r in (1, 2, 3))
    return (D1, D2, D3) if min(D1, D2, D3) > 0 else FALLBACK_DISCOUNTS
