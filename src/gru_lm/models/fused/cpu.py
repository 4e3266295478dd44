"""The fused variant's layer on a CPU in float32, with one compiled call per block of sequences.

See ``layer.py`` for the equations and the notation. Sequences are independent, so the minibatch is
split into blocks of ``LANES`` sequences. One compiled call processes a block through all steps
without Python and without waiting for other threads. The blocks are distributed over the threads.
A product W X is computed in tiles of ``ROWS`` rows of ``LANES`` numbers, which stay in vector
registers until they are complete (Goto and van de Geijn 2008, doi:10.1145/1356052.1356053). The
weights are packed in the order in which the tiles read them. Each number is summed in the order of
W's columns, so the result does not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor
from torch.nn.functional import pad

LANES = 16  # numbers per vector: one register of AVX-512, two of AVX2, four of NEON
ROWS = 8  # vectors per tile: enough independent sums to hide the latency of a multiply-add
TILE = ROWS * LANES
FEWEST_SEQUENCES = 2  # a single sequence would leave most of a block empty

# fastmath without "nnan" keeps NaN, so that divergence is detected.
compiled = numba.njit(
    nogil=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy", boundscheck=False
)
Array = np.ndarray[Any, np.dtype[np.float32]]


def add_product_(
    _: Any, out: Any, o: Any, W: Any, w: Any, X: Any, x: Any, K: Any
) -> tuple[Any, Callable[..., Any]]:
    """Add the product of ``K`` packed columns of W and K vectors of X to a tile of ``out``.

    out[o + LANES r + j] += sum over k of W[w + ROWS k + r] X[x + LANES k + j], for each row r and
    lane j. o, w and x are offsets in contiguous float32 arrays of any shape.
    """
    for array in (out, W, X):
        if array.dtype is not numba.float32 or array.layout != "C":
            raise TypeError(f"add_product takes contiguous float32 arrays, not {array}")
    number, index = ir.FloatType(), ir.IntType(64)
    vector = ir.VectorType(number, LANES)
    undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    every = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def start(array: int) -> Any:
            kind, value = signature.args[array], arguments[array]
            data = context.make_array(kind)(context, builder, value).data
            return builder.gep(data, [arguments[array + 1]])

        def at(base: Any, vectors: Any) -> Any:
            place = builder.gep(base, [builder.mul(index(LANES), vectors)])
            return builder.bitcast(place, vector.as_pointer())

        out_, W_, X_ = start(0), start(2), start(4)
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{LANES}f32"
        )
        sums = [cgutils.alloca_once(builder, vector) for _ in range(ROWS)]  # become registers
        for r, total in enumerate(sums):
            builder.store(builder.load(at(out_, index(r)), align=4), total)
        with cgutils.for_range(builder, arguments[6]) as loop:
            X_k = builder.load(at(X_, loop.index), align=4)
            W_k = builder.gep(W_, [builder.mul(index(ROWS), loop.index)])
            for r, total in enumerate(sums):
                weight = builder.load(builder.gep(W_k, [index(r)]))
                weight = builder.insert_element(undefined, weight, first)
                weight = builder.shuffle_vector(weight, undefined, every)
                builder.store(builder.call(multiply_add, [weight, X_k, builder.load(total)]), total)
        for r, total in enumerate(sums):
            builder.store(builder.load(total), at(out_, index(r)), align=4)
        return context.get_dummy_value()

    return numba.void(out, o, W, w, X, x, K), build


add_product: Callable[..., None] = intrinsic(add_product_)


# tanh(x) = x P(x²) / Q(x²) for |x| <= 9, a least-squares fit of the relative error, iterated with
# Q as weight until convergence. The error is below 3e-8, and below 4e-7 with float32's rounding.
one, half, edge = np.float32(1), np.float32(0.5), np.float32(9)
p0, p1, p2, p3, p4 = (
    np.float32(p)
    for p in (
        0.9999999770434161,
        0.13377445514823413,
        0.0034913853450579298,
        2.0542215776540286e-05,
        1.3266916341565292e-08,
    )
)
q1, q2, q3, q4 = (
    np.float32(q)
    for q in (
        0.46710759347683495,
        0.025860861864018057,
        0.00032788565880442587,
        7.73957675728503e-07,
    )
)


@compiled
def fast_tanh(x: np.float32) -> np.float32:
    """Return tanh(x) with a relative error of at most 4e-7, or NaN if ``x`` is NaN."""
    x = edge if x > edge else x
    x = -edge if x < -edge else x
    s = x * x
    return (
        x
        * ((((p4 * s + p3) * s + p2) * s + p1) * s + p0)
        / ((((q4 * s + q3) * s + q2) * s + q1) * s + one)
    )


@compiled
def fast_sigmoid(x: np.float32) -> np.float32:
    """Return 1 / (1 + exp(-x)) with an error of at most 4e-7, or NaN if ``x`` is NaN."""
    return half + half * fast_tanh(half * x)


# Below, n is a block, t a step, and row the first row of a tile. A block's array of H rows is flat,
# with LANES numbers per row. by_unit arrays are (rows, T, B), so all steps form one matrix. The
# recurrent weights are packed (Blocks._packed); the backward loops get their transposes. A loop
# processes the blocks start, start + stride, ...


@compiled
def pick_inputs(tile: Array, W_x: Array, row: int, tokens: Any, n: int, t: int) -> None:
    """Set ``tile`` to the input's part, a column of W_x per sequence's token."""
    for r in range(ROWS):
        for j in range(LANES):
            tile[r * LANES + j] = W_x[row + r, tokens[n, t, j]]


@compiled
def store(block: Array, by_unit: Array, t: int, n: int) -> None:
    """Copy ``block`` to step ``t`` of ``by_unit``."""
    left = by_unit.shape[2] - n * LANES
    if left >= LANES:
        for r in range(len(by_unit)):
            for j in range(LANES):
                by_unit[r, t, n * LANES + j] = block[r * LANES + j]
    else:
        for r in range(len(by_unit)):
            for j in range(left):
                by_unit[r, t, n * LANES + j] = block[r * LANES + j]


@compiled
def add(block: Array, by_unit: Array, t: int, n: int) -> None:
    """Add step ``t`` of ``by_unit`` to ``block``."""
    left = by_unit.shape[2] - n * LANES
    if left >= LANES:
        for r in range(len(by_unit)):
            for j in range(LANES):
                block[r * LANES + j] += by_unit[r, t, n * LANES + j]
    else:
        for r in range(len(by_unit)):
            for j in range(left):
                block[r * LANES + j] += by_unit[r, t, n * LANES + j]


@compiled
def forward_before(
    start: int,
    stride: int,
    tokens: Any,
    W_x: Array,
    W_zr: Array,
    W_hh: Array,
    gates: Array,
    states: Array,
    states_by_unit: Array,
    RH_by_unit: Array,
) -> None:
    H = len(RH_by_unit)
    S = H * LANES
    tile, RH = np.empty(TILE, np.float32), np.empty(S, np.float32)
    for n in range(start, len(tokens), stride):
        for t in range(tokens.shape[1]):
            old, new, saved = states[n, t], states[n, t + 1], gates[n, t]
            for row in range(0, 2 * H, ROWS):
                at = row * LANES
                pick_inputs(tile, W_x, H + row, tokens, n, t)
                add_product(tile, 0, W_zr, row * H, old, 0, H)
                for i in range(TILE):
                    saved[at + i] = fast_sigmoid(tile[i])
            for i in range(S):
                RH[i] = saved[S + i] * old[i]
            for row in range(0, H, ROWS):
                at = row * LANES
                pick_inputs(tile, W_x, row, tokens, n, t)
                add_product(tile, 0, W_hh, row * H, RH, 0, H)
                for i in range(TILE):
                    c = fast_tanh(tile[i])
                    saved[2 * S + at + i] = c
                    new[at + i] = c + saved[at + i] * (old[at + i] - c)
            store(RH, RH_by_unit, t, n)
            store(new, states_by_unit, t + 1, n)


@compiled
def backward_before(
    start: int,
    stride: int,
    W_zr: Array,
    W_hh: Array,
    d_states: Array,
    gates: Array,
    states: Array,
    G_blocks: Array,
    dA_by_unit: Array,
) -> None:
    T, H = gates.shape[1], dA_by_unit.shape[0] // 3
    S = H * LANES
    tile, dA = np.empty(TILE, np.float32), np.empty(3 * S, np.float32)  # dC, dZ, dR
    for n in range(start, len(gates), stride):
        G = G_blocks[n]
        for t in range(T - 1, -1, -1):
            old, saved = states[n, t], gates[n, t]
            add(G, d_states, t, n)
            for i in range(S):
                g, z, c = G[i], saved[i], saved[2 * S + i]
                dA[i] = g * (one - z) * (one - c * c)
                dA[S + i] = g * (old[i] - c) * z * (one - z)
                G[i] = g * z
            for row in range(0, H, ROWS):
                at = row * LANES
                tile[:] = 0
                add_product(tile, 0, W_hh, row * H, dA, 0, H)
                for i in range(TILE):
                    p, r = tile[i], saved[S + at + i]
                    dA[2 * S + at + i] = p * old[at + i] * r * (one - r)
                    G[at + i] += p * r
            for row in range(0, H, ROWS):
                add_product(G, row * LANES, W_zr, row * 2 * H, dA, S, 2 * H)
            store(dA, dA_by_unit, t, n)


@compiled
def forward_after(
    start: int,
    stride: int,
    tokens: Any,
    W_x: Array,
    W_h: Array,
    b_hh: Array,
    gates: Array,
    states: Array,
    states_by_unit: Array,
) -> None:
    H = len(b_hh)
    S = H * LANES
    tile = np.empty(TILE, np.float32)
    for n in range(start, len(tokens), stride):
        for t in range(tokens.shape[1]):
            old, new, saved = states[n, t], states[n, t + 1], gates[n, t]  # Z, R, C, N
            for row in range(0, 2 * H, ROWS):
                at = row * LANES
                pick_inputs(tile, W_x, H + row, tokens, n, t)
                add_product(tile, 0, W_h, row * H, old, 0, H)
                for i in range(TILE):
                    saved[at + i] = fast_sigmoid(tile[i])
            for row in range(0, H, ROWS):
                at = row * LANES
                for i in range(TILE):
                    saved[3 * S + at + i] = b_hh[row + i // LANES]
                add_product(saved, 3 * S + at, W_h, (2 * H + row) * H, old, 0, H)
                pick_inputs(tile, W_x, row, tokens, n, t)
                for i in range(TILE):
                    c = fast_tanh(tile[i] + saved[S + at + i] * saved[3 * S + at + i])
                    saved[2 * S + at + i] = c
                    new[at + i] = c + saved[at + i] * (old[at + i] - c)
            store(new, states_by_unit, t + 1, n)


@compiled
def backward_after(
    start: int,
    stride: int,
    W_h: Array,
    d_states: Array,
    gates: Array,
    states: Array,
    G_blocks: Array,
    dA_by_unit: Array,
) -> None:
    T, H = gates.shape[1], dA_by_unit.shape[0] // 4
    S = H * LANES
    dA = np.empty(4 * S, np.float32)  # dC, dZ, dR, dN
    for n in range(start, len(gates), stride):
        G = G_blocks[n]
        for t in range(T - 1, -1, -1):
            old, saved = states[n, t], gates[n, t]
            add(G, d_states, t, n)
            for i in range(S):
                g, z, r, c = G[i], saved[i], saved[S + i], saved[2 * S + i]
                dC = g * (one - z) * (one - c * c)
                dA[i] = dC
                dA[S + i] = g * (old[i] - c) * z * (one - z)
                dA[2 * S + i] = dC * saved[3 * S + i] * r * (one - r)
                dA[3 * S + i] = dC * r
                G[i] = g * z
            for row in range(0, H, ROWS):
                add_product(G, row * LANES, W_h, row * 3 * H, dA, S, 3 * H)
            store(dA, dA_by_unit, t, n)


@compiled
def add_columns(start: int, stride: int, dA: Array, tokens: Any, dW_x: Array) -> None:
    """Add column i of ``dA`` to the column of token i in ``dW_x``, ROWS rows at a time."""
    for first in range(start * ROWS, len(dW_x), stride * ROWS):
        for i in range(len(tokens)):
            for r in range(ROWS):
                dW_x[first + r, tokens[i]] += dA[first + r, i]


class Blocks:
    """One pass over T steps of B sequences. Later passes of the same shape reuse its memory.

    H is padded to whole tiles and B to whole blocks. The padding stays zero.
    """

    def __init__(
        self, like: Tensor, T: int, B: int, H: int, reset: str, products: torch.dtype
    ) -> None:
        self.H, self.T, self.B, self.products = H, T, B, products
        self.rows, self.blocks = -(-H // ROWS) * ROWS, -(-B // LANES)
        self.after = reset == "after"
        S, gates = self.rows * LANES, 4 if self.after else 3
        self.tokens = like.new_zeros(self.blocks, T, LANES, dtype=torch.int64)
        self.gates = like.new_empty(self.blocks, T, gates * S)  # Z, R, C, and N ("after")
        self.states = like.new_empty(self.blocks, T + 1, S)  # states[:, 0] is the initial state
        self.G = like.new_empty(self.blocks, S)
        self.states_by_unit = like.new_empty(self.rows, T + 1, B)
        self.RH_by_unit = like.new_empty(0 if self.after else self.rows, T, B)
        self.dA_by_unit = like.new_empty(gates * self.rows, T, B)  # dC, dZ, dR, and dN ("after")

    def forward(
        self, tokens: Tensor, state: Tensor, W_x: Tensor, W_h: Tensor, b_hh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See ``Recurrence.forward``. Raises IndexError if W_x has no column for a token."""
        H = self.H
        if tokens.numel() > 0 and not 0 <= tokens.min() <= tokens.max() < W_x.shape[1]:
            raise IndexError(f"tokens must be from 0 to {W_x.shape[1] - 1}")  # loops don't check
        self.tokens.copy_(self._in_blocks(tokens).transpose(0, 1))
        self.states[:, 0] = self._in_blocks(self._whole(state)).transpose(0, 1).flatten(1)
        self.states_by_unit[:H, 0] = state
        saved = self.gates, self.states, self.states_by_unit
        W_x = self._whole(W_x)
        if b_hh is None:
            W_zr, W_hh = self._packed(W_h[: 2 * H]), self._packed(W_h[2 * H :])
            weights = W_x, W_zr, W_hh
            share(forward_before, self.blocks, self.tokens, *weights, *saved, self.RH_by_unit)
        else:
            weights = W_x, self._packed(W_h), self._whole(b_hh)
            share(forward_after, self.blocks, self.tokens, *weights, *saved)
        return self.states_by_unit[:H, 1:], self.states_by_unit[:H, -1]

    def backward(
        self, d_states: Tensor | None, d_last: Tensor | None, tokens: Tensor, W_h: Tensor, V: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """See ``Recurrence.backward``. ``V`` is the number of columns of W_x."""
        H, rows = self.H, self.rows
        if d_states is None:
            d_states = W_h.new_zeros(H, self.T, self.B)
        if d_last is None:
            self.G.zero_()
        else:
            self.G.copy_(self._in_blocks(self._whole(d_last)).transpose(0, 1).flatten(1))
        saved = d_states.contiguous(), self.gates, self.states, self.G, self.dA_by_unit
        if self.after:
            share(backward_after, self.blocks, self._packed(W_h, transposed=True), *saved)
        else:
            W_zr, W_hh = (self._packed(W, transposed=True) for W in (W_h[: 2 * H], W_h[2 * H :]))
            share(backward_before, self.blocks, W_zr, W_hh, *saved)
        G = self.G.unflatten(1, (rows, LANES)).transpose(0, 1).flatten(1)

        dA = self.dA_by_unit.flatten(1)  # (3 or 4 rows, TB)
        dW_x = W_h.new_zeros(3 * rows, V)
        share(add_columns, 3 * rows // ROWS, dA[: 3 * rows], tokens.flatten(), dW_x)
        dW_h, d_b_hh = torch.empty_like(W_h), None
        factors = dA.to(self.products)
        old = self.states_by_unit[:, :-1].flatten(1).to(self.products)
        if self.after:
            dW_h.copy_(self._cut(factors[rows:] @ old.T)[:, :H])
            d_b_hh = dA[3 * rows : 3 * rows + H].sum(1)
        else:
            RH = self.RH_by_unit.flatten(1).to(self.products)
            dW_h[: 2 * H] = self._cut(factors[rows:] @ old.T)[:, :H]
            dW_h[2 * H :] = (factors[:rows] @ RH.T)[:H, :H]
        return G[:H, : self.B].clone(), self._cut(dW_x), dW_h, d_b_hh

    def _in_blocks(self, columns: Tensor) -> Tensor:
        """Pad ``columns`` (..., B) with zeros and return it as (..., blocks, LANES)."""
        whole: Tensor = pad(columns, (0, self.blocks * LANES - self.B))
        return whole.view(*whole.shape[:-1], self.blocks, LANES)

    def _whole(self, stacked: Tensor) -> Tensor:
        """Pad each group of H rows of ``stacked`` (k H, ...) with zeros to whole tiles."""
        if self.rows == self.H:
            return stacked.contiguous()
        parts = stacked.reshape(-1, self.H, *stacked.shape[1:])
        whole = parts.new_zeros(len(parts), self.rows, *parts.shape[2:])
        whole[:, : self.H] = parts
        return whole.flatten(0, 1)

    def _cut(self, stacked: Tensor) -> Tensor:
        """Remove the padding that ``_whole`` added."""
        return stacked.view(-1, self.rows, *stacked.shape[1:])[:, : self.H].flatten(0, 1)

    def _packed(self, W: Tensor, transposed: bool = False) -> Tensor:
        """Pad W (k H, H) or its transpose and return it as (tiles, columns, ROWS)."""
        W = pad(self._whole(W), (0, self.rows - self.H))
        whole: Tensor = W.T if transposed else W
        return whole.reshape(-1, ROWS, whole.shape[1]).mT.contiguous()


def share(loop: Callable[..., None], parts: int, *tensors: Tensor) -> None:
    """Run ``loop`` over its ``parts`` on torch's own threads, as many as torch uses.

    Separate threads would compete for cores with torch's, which spin while they wait for work.
    """
    arrays = [tensor.detach().numpy() for tensor in tensors]
    threads = min(torch.get_num_threads(), parts)
    if threads == 1 or openmp() is None:
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


@functools.cache
def openmp() -> Any:
    """Return GOMP_parallel of the OpenMP library that torch has loaded, or None."""
    try:
        return ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):  # on Windows, for example
        return None


def keep_code(function: Any) -> None:
    """Cache the machine code of a compiled ``function`` on disk for later processes.

    The folder's name contains a hash of this source file, so code of an earlier version is never
    loaded, even if a process is killed while it writes. If no folder is writable, each process
    compiles the function again.
    """
    config: Any = numba.config
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    given = config.CACHE_DIR  # NUMBA_CACHE_DIR, or empty
    config.CACHE_DIR = str(Path(given or Path(__file__).parent / "__pycache__") / f"numba-{source}")
    try:
        function.enable_caching()
    except RuntimeError:  # no writable folder
        pass
    finally:
        config.CACHE_DIR = given


for entry in (forward_before, forward_after, backward_before, backward_after, add_columns):
    keep_code(entry)
