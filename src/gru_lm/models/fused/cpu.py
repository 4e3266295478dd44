"""The fused variant's layer on a CPU, with one compiled call per group of sequences.

See ``layer.py`` for the equations and the notation. Sequences are independent, so the minibatch is
split into groups of up to ``MOST_BLOCKS`` blocks of ``LANES`` sequences. One compiled call
(``loops.py``) processes a group through all steps without Python and without waiting for other
threads. Each weight that a tile of a product reads serves all sequences of the group. The groups
are distributed over the threads.

The products with the state are in float32 or, if the products are to be in bfloat16 and the
processor has AVX-512 BF16, in bfloat16 with float32 sums. States, gates and all sums are float32.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gru_lm.models.base import loop_threads
from gru_lm.models.fused import tiles
from gru_lm.models.fused.buffers import Gradients
from gru_lm.models.fused.loops import (
    add_columns,
    backward_after,
    backward_before,
    forward_after,
    forward_before,
    multiply,
)
from gru_lm.models.fused.tiles import LANES, ROWS

MOST_BLOCKS = 4  # per group: the group's state then fits into the L2 cache up to 1,024 units
FEWEST_SEQUENCES = 2  # a single sequence would leave most of a block empty


class Blocks:
    """One pass over T steps of B sequences. Later passes of the same shape reuse its memory.

    H is padded to whole tiles and B to whole blocks. The padding stays zero.
    """

    def __init__(
        self, like: Tensor, T: int, B: int, H: int, reset: str, products: torch.dtype
    ) -> None:
        self.H, self.T, self.B, self.products = H, T, B, products
        self.after = reset == "after"
        self.rows = -(-H // ROWS) * ROWS
        short = products == torch.bfloat16 and tiles.has_bfloat16_products()
        self.kept = products if short else like.dtype  # the type of the arrays by unit
        rows, gates, columns = self.rows, 4 if self.after else 3, -(-B // LANES) * LANES
        bounds = group_bounds(columns // LANES, loop_threads())
        self.bounds = torch.tensor(bounds)
        self.groups = len(bounds) - 1
        self.gates = like.new_empty(T * gates * rows * columns)  # Z, R, C, and N ("after")
        self.states = like.new_zeros((T + 1) * rows * columns)
        self.G = like.new_empty(rows * columns)
        self.dense = False
        self.tokens = like.new_zeros(T * columns, dtype=torch.int64)
        self.RH_by_unit = like.new_empty(0 if self.after else rows, T, B, dtype=self.kept)
        # dC, dZ, dR, and dN ("after")
        self.dA_by_unit = like.new_empty(gates * rows, T, B, dtype=self.kept)

        spans = [(LANES * a, LANES * b) for a, b in itertools.pairwise(bounds)]

        def views(flat: Tensor, steps: int, rows: int, used: int) -> list[Tensor]:
            """Return views (steps, used, sequences) of each group in ``flat``."""
            return [
                flat[a * steps * rows : b * steps * rows].view(steps, rows, b - a)[
                    :, :used, : min(b, B) - a
                ]
                for a, b in spans
            ]

        states = views(self.states, T + 1, rows, H)
        self._first, self._last = [one[0] for one in states], [one[T] for one in states]
        self._G = [one[0] for one in views(self.G, 1, rows, H)]
        self._tokens = [one[:, 0] for one in views(self.tokens, T, 1, 1)]
        self._sizes = [min(b, B) - a for a, b in spans]

    def read_tokens(
        self, tokens: Tensor, state: Tensor, W_x: Tensor, W_h: Tensor, b_hh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See ``Recurrence.forward``. Raises IndexError if W_x has no column for a token."""
        if tokens.numel() > 0 and not 0 <= tokens.min() <= tokens.max() < W_x.shape[1]:
            raise IndexError(f"tokens must be from 0 to {W_x.shape[1] - 1}")  # loops don't check
        self._split(tokens, self._tokens)
        return self._forward((self._whole(W_x), self.tokens), state, W_h, b_hh)

    def read(
        self, X: Tensor, state: Tensor, W_x: Tensor, b: Tensor, W_h: Tensor, b_hh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See ``DenseRecurrence.forward``. X (TB, I) and W_x (3H, I) have the products' type."""
        self.dense = True
        X = self._whole_pairs(X.to(self.kept))
        inputs = X.view(self.T, self.B, -1), self._tiles(self._whole(W_x)), self._whole(b)
        return self._forward(inputs, state, W_h, b_hh)

    def _forward(
        self, inputs: tuple[Tensor, ...], state: Tensor, W_h: Tensor, b_hh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        H = self.H
        self._split(state, self._first)
        # Not part of the memory that is used again: the caller may keep it.
        states_by_unit = W_h.new_empty(self.rows, self.T + 1, self.B, dtype=self.kept)
        states_by_unit[:H, 0] = state
        saved = self.gates, self.states, states_by_unit
        if b_hh is None:
            weights = self._packed(W_h[: 2 * H]), self._packed(W_h[2 * H :])
            self._share(forward_before, inputs, *weights, *saved, self.RH_by_unit)
        else:
            weights = self._packed(W_h), self._whole(b_hh)
            self._share(forward_after, inputs, *weights, *saved)
        return states_by_unit, torch.cat(self._last, dim=1)

    def backward(
        self,
        d_states: Tensor | None,
        d_last: Tensor | None,
        states: Tensor,
        W_h: Tensor,
        W_x: Tensor | None = None,
    ) -> Gradients:
        """Return the gradients. ``W_x`` (3H, I) is given if that of dense inputs is needed.

        ``states`` (rows, T + 1, B) is the result of the forward pass, ``d_states`` (H, T, B).
        """
        H, rows = self.H, self.rows
        if d_states is None:
            d_states = states.new_zeros(H, self.T, self.B)
        self.G.zero_()
        if d_last is not None:
            self._split(d_last, self._G)
        sums = self.G.new_zeros(len(self.dA_by_unit) * (len(self.G) // rows) if self.dense else 0)
        if W_x is None:
            W_x = W_h.new_zeros(3 * H, 0)
        dX = W_h.new_empty(self.T, self.B, W_x.shape[1], dtype=self.kept)
        packed = self._tiles(pad(self._whole(W_x).T, (0, 0, 0, -W_x.shape[1] % ROWS)))
        saved = self.gates, self.states, self.G, self.dA_by_unit, packed, dX, sums
        d_states = d_states.to(self.kept).contiguous()
        if self.after:
            self._share(backward_after, self._packed(W_h, transposed=True), d_states, *saved)
        else:
            W_zr, W_hh = (self._packed(W, transposed=True) for W in (W_h[: 2 * H], W_h[2 * H :]))
            self._share(backward_before, W_zr, W_hh, d_states, *saved)

        dA = self.dA_by_unit.flatten(1)  # (3 or 4 rows, TB)
        dW_h, d_b_hh = torch.empty_like(W_h), None
        old = states.flatten(1)  # (rows, (T + 1) B), whose last B columns are not used
        if self.after:
            dW_h.copy_(self.cut(self._times(dA[rows:], old))[:, :H])
            d_b_hh = dA[3 * rows : 3 * rows + H].sum(1, dtype=W_h.dtype)
        else:
            dW_h[: 2 * H] = self.cut(self._times(dA[rows:], old))[:, :H]
            dW_h[2 * H :] = self._times(dA[:rows], self.RH_by_unit.flatten(1))[:H, :H]
        d_state = torch.cat(self._G, dim=1)
        return Gradients(dX, d_state, dW_h, d_b_hh, dA[: 3 * rows], self._db(sums))

    def _db(self, sums: Tensor) -> Tensor | None:
        """Return db (3H,) from the sums over the steps of all groups' dA, or None."""
        if not self.dense:
            return None
        height = len(self.dA_by_unit)
        bounds = [LANES * bound * height for bound in self.bounds.tolist()]
        groups = [sums[a:b].view(height, -1) for a, b in itertools.pairwise(bounds)]
        lanes = torch.cat(groups, dim=1)[: 3 * self.rows, : self.B]
        return self.cut(lanes.contiguous().sum(1))

    def input_weights(self, dA: Tensor, X: Tensor) -> Tensor:
        """Return dW_x (3H, I) from ``dA`` (3 rows, TB) and the inputs X (TB, I)."""
        return self.cut(self._times(dA, X.T))

    def _times(self, dA: Tensor, factors: Tensor) -> Tensor:
        """Return the sums (M, N) over TB of ``dA`` (M, TB) times ``factors`` (N, TB or more).

        In float32, the order of torch's sums depends on the number of threads, so it is used for
        one-hot inputs only, whose results it has determined so far.
        """
        TB = self.T * self.B
        if not self.dense or self.kept != torch.float32 or self.products != torch.float32:
            factors = factors[:, :TB].to(self.products)
            return dA.to(self.products) @ factors.T
        product = dA.new_empty(len(dA), len(factors))
        tiles = -(-len(dA) // ROWS)
        share(multiply, tiles, dA, factors.contiguous(), TB, product)
        return product

    def add_columns(self, dA: Tensor, tokens: Tensor, V: int) -> Tensor:
        """Return dW_x (3H, V), the sum of the columns of ``dA`` (3 rows, TB) of each token."""
        dW_x = dA.new_zeros(len(dA), V)
        share(add_columns, len(dA) // ROWS, dA, tokens.flatten(), dW_x)
        return self.cut(dW_x)

    def cut(self, stacked: Tensor) -> Tensor:
        """Remove the padding that ``_whole`` added."""
        return stacked.view(-1, self.rows, *stacked.shape[1:])[:, : self.H].flatten(0, 1)

    def _share(self, loop: Callable[..., None], *arguments: Any) -> None:
        share(loop, self.groups, self.bounds, *arguments)

    def _split(self, columns: Tensor, groups: list[Tensor]) -> None:
        """Copy ``columns`` (..., B) to each group's own."""
        for one, group in zip(columns.split(self._sizes, -1), groups, strict=True):
            group.copy_(one)

    def _whole(self, stacked: Tensor) -> Tensor:
        """Pad each group of H rows of ``stacked`` (k H, ...) with zeros to whole tiles."""
        if self.rows == self.H:
            return stacked.contiguous()
        parts: Tensor = stacked.unflatten(0, (len(stacked) // self.H, self.H))
        whole = parts.new_zeros(len(parts), self.rows, *parts.shape[2:])
        whole[:, : self.H] = parts
        return whole.flatten(0, 1)

    def _packed(self, W: Tensor, transposed: bool = False) -> Tensor:
        """Pad W (k H, H) or its transpose and return it as (tiles, columns, ROWS).

        In bfloat16 two columns are one of int32.
        """
        W = pad(self._whole(W.to(self.kept)), (0, self.rows - self.H))
        return self._tiles(W.T if transposed else W)

    def _tiles(self, W: Tensor) -> Tensor:
        """Return W (rows, K) as (tiles, K, ROWS), or as (tiles, pairs of K, ROWS)."""
        W = self._whole_pairs(W.to(self.kept))
        return W.view(len(W) // ROWS, ROWS, W.shape[1]).mT.contiguous()

    def _whole_pairs(self, W: Tensor) -> Tensor:
        """Return the rows of W (N, K), in bfloat16 as int32, each with two numbers."""
        if self.kept == torch.bfloat16:
            W = pad(W, (0, W.shape[1] % 2))
            return W.reshape(-1).view(torch.int32).view(len(W), -(-W.shape[1] // 2))
        return W.contiguous()


def group_bounds(blocks: int, threads: int) -> list[int]:
    """Return the first block of each group, and ``blocks`` in the end.

    The groups have at most MOST_BLOCKS blocks, and each thread has as many of them, if there are
    enough blocks.
    """
    rounds = -(-blocks // (MOST_BLOCKS * threads))
    groups = min(blocks, rounds * threads)
    return [blocks * n // groups for n in range(groups)] + [blocks] if groups else [0]


def share(loop: Callable[..., None], parts: int, *arguments: Any) -> None:
    """Run ``loop`` over its ``parts`` on torch's own threads, as many as ``loop_threads`` says.

    The loop receives tensors among the ``arguments`` as arrays. Separate threads would compete for
    cores with torch's, which spin while they wait for work.
    """
    arrays = [array_of(argument) for argument in arguments]
    threads = min(loop_threads(), parts)
    if threads <= 1 or openmp() is None:
        loop(0, 1, *arrays)
        return
    starts, failures = iter(range(threads)), []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def run(_: object) -> None:
        try:
            loop(next(starts), threads, *arrays)
        except BaseException as failure:  # ctypes would drop it, even an interrupt
            failures.append(failure)

    openmp()(run, None, threads, 0)
    if failures:
        raise failures[0]


def array_of(argument: Any) -> Any:
    """Return the NumPy array of a tensor, bfloat16 as int16, or a tuple of them, or a number."""
    if isinstance(argument, int):
        return argument
    if isinstance(argument, tuple):
        return tuple(array_of(one) for one in argument)
    tensor = argument.detach()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


@functools.cache
def openmp() -> Any:
    """Return GOMP_parallel of the OpenMP library that torch has loaded, or None."""
    try:
        return ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):  # on Windows, for example
        return None
