"""N-gram language models with interpolated modified Kneser-Ney smoothing.

Source: S. F. Chen and J. Goodman (1999), An empirical study of smoothing techniques for language
modeling, Computer Speech & Language 13, 359-394. For a token w after the context h, with h' the
context without its oldest token::

    p(w | h) = max(c(h w) - D(c(h w)), 0) / c(h .)  +  gamma(h) p(w | h')

    gamma(h) = (D1 N1(h .) + D2 N2(h .) + D3+ N3+(h .)) / c(h .)

c(h .) is the sum of c(h w) over all w, and Nr(h .) is the number of w with c(h w) = r. For the
highest order c(g) is the number of occurrences of the n-gram g. For the lower orders it is the
number of different tokens that precede g, its continuation count (Kneser and Ney 1995). The model
below order 1 is the uniform distribution, so no probability is zero. If c(h .) is zero, p(w | h) is
p(w | h').

The text is one stream without symbols for its beginning or end. The context of the first n - 1
tokens is shorter: all tokens before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gru_lm.core.errors import require_at_least, require_tokens

# Used if the counts allow no estimate. The values are KenLM's (Heafield et al. 2013, lmplz).
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)

# The number of an unseen n-gram. Arrays have one entry more than there are n-grams, and the index
# -1 selects that last entry.
UNSEEN = -1


class KneserNey:
    """A model of order n = ``order`` >= 1, estimated from one stream of tokens.

    ``tokens`` (N,) and the tokens passed to the methods are numbers below ``vocab_size``. Memory is
    proportional to N n and does not depend on the size of the vocabulary.
    Raises ValueError for other tokens, and if ``vocab_size`` or ``order`` is below 1.
    """

    def __init__(self, tokens: Sequence[int] | np.ndarray, vocab_size: int, order: int) -> None:
        require_at_least(1, vocab_size=vocab_size, order=order)
        self.vocab_size = vocab_size
        last = self._numbers(tokens)
        contexts = np.zeros(len(last), np.int64)  # order 0 has one n-gram, the empty one
        n_grams = []
        for _ in range(order):
            # An n-gram is one integer made of its context's number and its last token, so sorting
            # groups n-grams by context. ``numbers`` has one entry per position.
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
                # Each distinct n-gram of the next order adds one distinct token before its suffix.
                _, longer, _, _ = n_grams[level + 1]
                counts = np.bincount(numbers[1:][longer], minlength=len(keys))
            self._levels.append(_Level.estimate(keys, counts, n_contexts, vocab_size))
            n_contexts = len(keys)

    def distribution(self, context: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the probability of each token (V,) after ``context`` of any length.

        The oldest token comes first.
        """
        V = self.vocab_size
        history = self._numbers(context)[-len(self._levels) :]
        contexts = np.zeros(len(history) + 1, np.int64)  # of each token in it, and of the next one
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
        """Return the probability (N - 1,) of each token of ``stream`` (N,) but the first."""
        last = self._numbers(stream)
        contexts = np.zeros(len(last), np.int64)
        p = np.full(len(last), 1 / self.vocab_size)
        for level in self._levels:
            numbers = level.find(contexts * self.vocab_size + last)
            p = level.shares[numbers] + level.backoff[contexts] * p
            contexts = np.concatenate([[UNSEEN], numbers[:-1]])
        return p[1:]

    def nats(self, stream: Sequence[int] | np.ndarray) -> float:
        """Return the summed cross-entropy in nats of all tokens of ``stream`` but the first."""
        return float(-np.log(self.probabilities(stream)).sum())

    def _numbers(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return ``tokens`` (N,) as int64. Raises ValueError for one outside the vocabulary."""
        numbers = np.asarray(tokens, np.int64)
        require_tokens(numbers, self.vocab_size)
        return numbers


@dataclass(frozen=True)
class _Level:
    """The M distinct n-grams of one order, with C distinct contexts."""

    keys: np.ndarray  # (M + 1,) the context's number times V, plus the last token; ascending
    shares: np.ndarray  # (M + 1,) max(c(h w) - D, 0) / c(h .)
    backoff: np.ndarray  # (C + 1,) gamma(h)

    @classmethod
    def estimate(
        cls, keys: np.ndarray, counts: np.ndarray, n_contexts: int, vocab_size: int
    ) -> _Level:
        """Estimate the level of the n-grams ``keys`` (M,) with ``counts`` (M,), which may be 0."""
        contexts = keys // vocab_size
        D = np.array([0.0, *discounts(counts)])[np.minimum(counts, 3)]
        totals = np.bincount(contexts, weights=counts, minlength=n_contexts)
        freed = np.bincount(contexts, weights=D, minlength=n_contexts)
        backoff, shares = np.ones(n_contexts + 1), np.zeros(len(keys) + 1)
        np.divide(freed, totals, out=backoff[:-1], where=totals > 0)
        np.divide(counts - D, totals[contexts], out=shares[:-1], where=counts > 0)
        return cls(np.append(keys, np.iinfo(np.int64).max), shares, backoff)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the numbers of the n-grams ``keys``, or UNSEEN.

        N-grams with an unseen context have negative keys, so they are unseen too.
        """
        places = np.searchsorted(self.keys, keys)
        return np.where(self.keys[places] == keys, places, UNSEEN)


def discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """Return D1, D2 and D3+ for the n-grams of one order with ``counts`` (M,).

    With n_r the number of n-grams counted r times and Y = n1 / (n1 + 2 n2), D_r is
    r - (r + 1) Y n_(r+1) / n_r (Chen and Goodman, equation 26). If one of n1 to n4 is zero or a D_r
    is not positive, which happens with little data or few distinct tokens, the result is
    ``FALLBACK_DISCOUNTS``.
    """
    n = [int((counts == r).sum()) for r in range(5)]
    if not all(n[1:]):
        return FALLBACK_DISCOUNTS
    Y = n[1] / (n[1] + 2 * n[2])
    D1, D2, D3 = (r - (r + 1) * Y * n[r + 1] / n[r] for r in (1, 2, 3))
    return (D1, D2, D3) if min(D1, D2, D3) > 0 else FALLBACK_DISCOUNTS
