"""The compiled loops of the fused variant over the steps, for groups of sequences on a CPU.

See ``layer.py`` for the equations and the notation, ``tiles.py`` for the products and ``cpu.py``
for the groups. A loop processes the groups start, start + stride, ... of ``bounds``: group n has
the blocks from bounds[n] to bounds[n + 1], each of LANES sequences. Its L sequences are the columns
of all its arrays of (rows, L) numbers. Those of all groups and steps are in one flat array.

``by_unit`` arrays are (rows, steps, B), so all steps form one matrix, in float32 or bfloat16. The
recurrent weights are packed (``Blocks._packed``); the backward loops get their transposes. Their
type, float32 or pairs of bfloat16, decides in which precision the products are.

``inputs`` are X (T, B, I) in the type of the products, packed W_x and b (3H,). If the inputs are
one-hot, they are the columns to pick from (3H, V) and the tokens of all groups.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.extending import overload

from gru_lm.models.fused import tiles
from gru_lm.models.fused.tiles import (
    LANES,
    ROWS,
    Array,
    add_product,
    columns,
    compiled,
    element,
    factors,
    number,
    whole_factor,
)

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


# Loops over numbers run over the length of a slice. LLVM then knows that no index is negative (such
# an index would count from the end), and uses vectors.


def inputs_at(inputs: Any, t: int, T: int, first: int, L: int) -> Any:
    """Return the tokens of step ``t``, or its dense inputs as a factor of products (K, L)."""


@overload(inputs_at, strict=False)
def _inputs_at(inputs: Any, t: Any, T: Any, first: Any, L: Any) -> Any:
    def tokens(inputs: Any, t: Any, T: Any, first: Any, L: Any) -> Any:
        at = first * LANES * T + t * L
        return inputs[1][at : at + L]

    def factor(inputs: Any, t: Any, T: Any, first: Any, L: Any) -> Any:
        X, _, _ = inputs
        K = X.shape[2]
        rows = X[t, first * LANES : first * LANES + L]  # fewer in the last group
        out = np.empty(K * L, X.dtype)
        if len(rows) < L:
            out[:] = 0
        for j in range(len(rows)):
            row = rows[j]
            for k in range(len(row)):
                out[k * L + j] = row[k]
        return out

    return tokens if len(inputs) == 2 else factor


def set_inputs(tile: Array, inputs: Any, row: int, X: Array, L: int) -> None:
    """Set ``tile`` (ROWS, L) to the input's part of the rows from ``row``, with X of a step."""


@overload(set_inputs, strict=False)
def _set_inputs(tile: Any, inputs: Any, row: Any, X: Any, L: Any) -> Any:
    def pick(tile: Any, inputs: Any, row: Any, X: Any, L: Any) -> None:
        for r in range(ROWS):
            line, weights = tile[r * L : r * L + L], inputs[0][row + r]
            for j in range(len(line)):
                line[j] = weights[X[j]]

    def multiply(tile: Any, inputs: Any, row: Any, X: Any, L: Any) -> None:
        _, W_x, b = inputs
        for r in range(ROWS):
            tile[r * L : r * L + L] = b[row + r]
        add_product(tile, 0, W_x, row * W_x.shape[1], X, L, W_x.shape[1])

    return pick if len(inputs) == 2 else multiply


@compiled
def set_input_gradients(
    dX: Array, tile: Array, W_x: Array, X: Array, K: int, t: int, first: int, L: int
) -> None:
    """Set step ``t`` of dX (T, B, I) to the product of W_xᵀ and the factor X (K, L)."""
    for row in range(0, dX.shape[2], ROWS):
        tile[:] = 0
        add_product(tile, 0, W_x, row * K, X, L, K)
        out = dX[t, first * LANES : first * LANES + L, row : row + ROWS]
        for j in range(out.shape[0]):
            for r in range(out.shape[1]):
                out[j, r] = element(tile[r * L + j], dX)


@compiled
def store(block: Array, by_unit: Array, t: int, first: int, L: int) -> None:
    """Copy ``block`` to step ``t`` of ``by_unit``."""
    for r in range(len(by_unit)):
        line, out = block[r * L : r * L + L], by_unit[r, t, first * LANES : first * LANES + L]
        for j in range(len(out)):
            out[j] = element(line[j], by_unit)


@compiled
def add(block: Array, by_unit: Array, t: int, first: int, L: int) -> None:
    """Add step ``t`` of ``by_unit`` to ``block``."""
    for r in range(len(by_unit)):
        out, line = block[r * L : r * L + L], by_unit[r, t, first * LANES : first * LANES + L]
        for j in range(len(line)):
            out[j] += number(line[j])


@compiled
def set_sigmoid(out: Array, A: Array) -> None:
    for i in range(len(out)):
        out[i] = fast_sigmoid(A[i])


@compiled
def set_product(out: Array, R: Array, H: Array) -> None:
    for i in range(len(out)):
        out[i] = R[i] * H[i]


@compiled
def set_state(new: Array, C: Array, A: Array, Z: Array, old: Array) -> None:
    """Set the candidate state and the new state from the candidate's argument ``A``."""
    for i in range(len(new)):
        c = fast_tanh(A[i])
        C[i] = c
        new[i] = c + Z[i] * (old[i] - c)


@compiled
def set_state_after(
    new: Array, C: Array, A: Array, Z: Array, R: Array, N: Array, old: Array
) -> None:
    """As ``set_state``, with the reset gate after the product N."""
    for i in range(len(new)):
        c = fast_tanh(A[i] + R[i] * N[i])
        C[i] = c
        new[i] = c + Z[i] * (old[i] - c)


@compiled
def set_gradients(dC: Array, dZ: Array, G: Array, Z: Array, C: Array, old: Array) -> None:
    for i in range(len(G)):
        g, z, c = G[i], Z[i], C[i]
        dC[i] = g * (one - z) * (one - c * c)
        dZ[i] = g * (old[i] - c) * z * (one - z)
        G[i] = g * z


@compiled
def set_reset_gradient(dR: Array, G: Array, P: Array, R: Array, old: Array) -> None:
    for i in range(len(dR)):
        p, r = P[i], R[i]
        dR[i] = p * old[i] * r * (one - r)
        G[i] += p * r


@compiled
def set_gradients_after(
    dC: Array,
    dZ: Array,
    dR: Array,
    dN: Array,
    G: Array,
    Z: Array,
    R: Array,
    C: Array,
    N: Array,
    old: Array,
) -> None:
    for i in range(len(G)):
        g, z, r, c = G[i], Z[i], R[i], C[i]
        dc = g * (one - z) * (one - c * c)
        dC[i] = dc
        dZ[i] = g * (old[i] - c) * z * (one - z)
        dR[i] = dc * N[i] * r * (one - r)
        dN[i] = dc * r
        G[i] = g * z


@compiled
def add_to(sums: Array, block: Array) -> None:
    for i in range(len(sums)):
        sums[i] += block[i]


@compiled
def part(block: Array, number: int, size: int) -> Array:
    """Return the part ``number`` of ``block``, whose parts have ``size`` numbers."""
    return block[number * size : number * size + size]


@compiled
def forward_before(
    start: int,
    stride: int,
    bounds: Array,
    inputs: Any,
    W_zr: Array,
    W_hh: Array,
    gates: Array,
    states: Array,
    states_by_unit: Array,
    RH_by_unit: Array,
) -> None:
    H, T = len(RH_by_unit), RH_by_unit.shape[1]
    K = columns(W_hh, H)
    for n in range(start, len(bounds) - 1, stride):
        first, L = bounds[n], LANES * (bounds[n + 1] - bounds[n])
        S, width = H * L, ROWS * L
        tile, RH = np.empty(width, np.float32), np.empty(S, np.float32)
        pairs = np.empty(S, W_hh.dtype)
        all_states = states[first * LANES * (T + 1) * H :]
        all_gates = gates[first * LANES * T * 3 * H :]
        tile[:] = 0
        for t in range(T):
            old, new = part(all_states, t, S), part(all_states, t + 1, S)
            Z, R, C = (
                part(all_gates, 3 * t, S),
                part(all_gates, 3 * t + 1, S),
                part(all_gates, 3 * t + 2, S),
            )
            saved = part(all_gates, t, 3 * S)
            now = inputs_at(inputs, t, T, first, L)
            X = factors(old, pairs, L)
            for row in range(0, 2 * H, ROWS):
                set_inputs(tile, inputs, H + row, now, L)
                add_product(tile, 0, W_zr, row * K, X, L, K)
                set_sigmoid(saved[row * L : row * L + width], tile)
            set_product(RH, R, old)
            X = factors(RH, pairs, L)
            for row in range(0, H, ROWS):
                rows = slice(row * L, row * L + width)
                set_inputs(tile, inputs, row, now, L)
                add_product(tile, 0, W_hh, row * K, X, L, K)
                set_state(new[rows], C[rows], tile, Z[rows], old[rows])
            store(RH, RH_by_unit, t, first, L)
            store(new, states_by_unit, t + 1, first, L)


@compiled
def backward_before(
    start: int,
    stride: int,
    bounds: Array,
    W_zr: Array,
    W_hh: Array,
    d_states: Array,
    gates: Array,
    states: Array,
    G_groups: Array,
    dA_by_unit: Array,
    W_x: Array,
    dX: Array,
    all_sums: Array,
) -> None:
    T, H = dA_by_unit.shape[1], len(dA_by_unit) // 3
    K = columns(W_hh, H)
    for n in range(start, len(bounds) - 1, stride):
        first, L = bounds[n], LANES * (bounds[n + 1] - bounds[n])
        S, width = H * L, ROWS * L
        tile, dA = np.empty(width, np.float32), np.empty(3 * S, np.float32)
        dC, dZ, dR = part(dA, 0, S), part(dA, 1, S), part(dA, 2, S)
        pairs, sums = np.empty(3 * S, W_hh.dtype), all_sums[first * LANES * 3 * H :][: 3 * S]
        G = G_groups[first * LANES * H : first * LANES * H + S]
        all_states = states[first * LANES * (T + 1) * H :]
        all_gates = gates[first * LANES * T * 3 * H :]
        for t in range(T - 1, -1, -1):
            old = part(all_states, t, S)
            Z, R, C = (
                part(all_gates, 3 * t, S),
                part(all_gates, 3 * t + 1, S),
                part(all_gates, 3 * t + 2, S),
            )
            add(G, d_states, t, first, L)
            set_gradients(dC, dZ, G, Z, C, old)
            X = factors(dC, pairs, L)
            for row in range(0, H, ROWS):
                rows = slice(row * L, row * L + width)
                tile[:] = 0
                add_product(tile, 0, W_hh, row * K, X, L, K)
                set_reset_gradient(dR[rows], G[rows], tile, R[rows], old[rows])
            X = factors(dA[S:], pairs[K * L :], L)
            for row in range(0, H, ROWS):
                add_product(G, row * L, W_zr, row * 2 * K, X, L, 2 * K)
            set_input_gradients(dX, tile, W_x, whole_factor(dA, pairs), 3 * K, t, first, L)
            add_to(sums, dA)
            store(dA, dA_by_unit, t, first, L)


@compiled
def forward_after(
    start: int,
    stride: int,
    bounds: Array,
    inputs: Any,
    W_h: Array,
    b_hh: Array,
    gates: Array,
    states: Array,
    states_by_unit: Array,
) -> None:
    H, T = len(b_hh), states_by_unit.shape[1] - 1
    K = columns(W_h, H)
    for n in range(start, len(bounds) - 1, stride):
        first, L = bounds[n], LANES * (bounds[n + 1] - bounds[n])
        S, width = H * L, ROWS * L
        tile, pairs = np.empty(width, np.float32), np.empty(S, W_h.dtype)
        all_states = states[first * LANES * (T + 1) * H :]
        all_gates = gates[first * LANES * T * 4 * H :]
        tile[:] = 0
        for t in range(T):
            old, new = part(all_states, t, S), part(all_states, t + 1, S)
            Z, R, C, N = (
                part(all_gates, 4 * t, S),
                part(all_gates, 4 * t + 1, S),
                part(all_gates, 4 * t + 2, S),
                part(all_gates, 4 * t + 3, S),
            )
            saved = part(all_gates, t, 4 * S)
            now = inputs_at(inputs, t, T, first, L)
            X = factors(old, pairs, L)
            for row in range(0, 2 * H, ROWS):
                set_inputs(tile, inputs, H + row, now, L)
                add_product(tile, 0, W_h, row * K, X, L, K)
                set_sigmoid(saved[row * L : row * L + width], tile)
            for row in range(0, H, ROWS):
                rows = slice(row * L, row * L + width)
                for r in range(ROWS):
                    N[(row + r) * L : (row + r + 1) * L] = b_hh[row + r]
                add_product(N, row * L, W_h, (2 * H + row) * K, X, L, K)
                set_inputs(tile, inputs, row, now, L)
                set_state_after(new[rows], C[rows], tile, Z[rows], R[rows], N[rows], old[rows])
            store(new, states_by_unit, t + 1, first, L)


@compiled
def backward_after(
    start: int,
    stride: int,
    bounds: Array,
    W_h: Array,
    d_states: Array,
    gates: Array,
    states: Array,
    G_groups: Array,
    dA_by_unit: Array,
    W_x: Array,
    dX: Array,
    all_sums: Array,
) -> None:
    T, H = dA_by_unit.shape[1], len(dA_by_unit) // 4
    K = columns(W_h, H)
    for n in range(start, len(bounds) - 1, stride):
        first, L = bounds[n], LANES * (bounds[n + 1] - bounds[n])
        S = H * L
        dA, tile = np.empty(4 * S, np.float32), np.empty(ROWS * L, np.float32)
        pairs, sums = np.empty(4 * S, W_h.dtype), all_sums[first * LANES * 4 * H :][: 4 * S]
        dC, dZ, dR, dN = part(dA, 0, S), part(dA, 1, S), part(dA, 2, S), part(dA, 3, S)
        G = G_groups[first * LANES * H : first * LANES * H + S]
        all_states = states[first * LANES * (T + 1) * H :]
        all_gates = gates[first * LANES * T * 4 * H :]
        for t in range(T - 1, -1, -1):
            old = part(all_states, t, S)
            Z, R, C, N = (
                part(all_gates, 4 * t, S),
                part(all_gates, 4 * t + 1, S),
                part(all_gates, 4 * t + 2, S),
                part(all_gates, 4 * t + 3, S),
            )
            add(G, d_states, t, first, L)
            set_gradients_after(dC, dZ, dR, dN, G, Z, R, C, N, old)
            X = factors(dA, pairs, L)
            for row in range(0, H, ROWS):
                add_product(G, row * L, W_h, row * 3 * K, X[K * L :], L, 3 * K)
            set_input_gradients(dX, tile, W_x, X, 3 * K, t, first, L)
            add_to(sums, dA)
            store(dA, dA_by_unit, t, first, L)


@compiled
def add_columns(start: int, stride: int, dA: Array, tokens: Any, dW_x: Array) -> None:
    """Add column i of ``dA`` to the column of token i in ``dW_x``, ROWS rows at a time."""
    for first in range(start * ROWS, len(dW_x), stride * ROWS):
        for i in range(len(tokens)):
            for r in range(ROWS):
                dW_x[first + r, tokens[i]] += dA[first + r, i]


DEPTH = 512  # columns of both factors that ``multiply`` packs at a time, to fit into the caches


@compiled
def pack(out: Array, A: Array, row: int, width: int, k: int, depth: int) -> None:
    """Set ``out`` (depth, width) to the columns from ``k`` of rows of A, with zeros below A."""
    for r in range(width):
        if row + r < len(A):
            line = A[row + r, k : k + depth]
            for i in range(len(line)):
                out[i * width + r] = line[i]
        else:
            for i in range(depth):
                out[i * width + r] = 0


@compiled
def pack_rows(out: Array, A: Array, row: int, k: int, depth: int) -> None:
    """Set ``out`` (depth, ROWS) to the columns from ``k`` of the rows of A from ``row``."""
    lines = A[row : row + ROWS, k : k + depth]
    for i in range(lines.shape[1]):
        for r in range(ROWS):
            out[i * ROWS + r] = lines[r, i]


@compiled
def multiply(start: int, stride: int, A: Array, B: Array, K: int, out: Array) -> None:
    """Set ``out`` (M, N) to A Bᵀ, the sums over the first ``K`` columns, ROWS rows at a time.

    Each number is summed in the order of the columns, whatever the number of threads.
    """
    M, N = out.shape
    width = 2 * LANES
    size = DEPTH * width
    packed = np.empty(-(-N // width) * size, np.float32)
    left, tile = np.empty(DEPTH * ROWS, np.float32), np.empty(ROWS * width, np.float32)
    for k in range(0, K, DEPTH):
        depth = min(DEPTH, K - k)
        for n in range(0, N, width):
            pack(part(packed, n // width, size), B, n, width, k, depth)
        for row in range(start * ROWS, M, stride * ROWS):
            pack_rows(left, A, row, k, depth)
            for n in range(0, N, width):
                tile[:] = 0
                for r in range(min(ROWS, M - row) if k > 0 else 0):
                    sums, line = out[row + r, n : n + width], part(tile, r, width)
                    for j in range(len(sums)):
                        line[j] = sums[j]
                add_product(tile, 0, left, 0, part(packed, n // width, size), width, depth)
                for r in range(min(ROWS, M - row)):
                    sums, line = out[row + r, n : n + width], part(tile, r, width)
                    for j in range(len(sums)):
                        sums[j] = line[j]


def keep_code(function: Any) -> None:
    """Cache the machine code of a compiled ``function`` on disk for later processes.

    The folder's name contains a hash of the source files, so code of an earlier version is never
    loaded, even if a process is killed while it writes. If no folder is writable, each process
    compiles the function again.
    """
    config: Any = numba.config
    sources = b"".join(Path(file).read_bytes() for file in (__file__, tiles.__file__))
    source = hashlib.sha256(sources).hexdigest()[:16]
    given = config.CACHE_DIR  # NUMBA_CACHE_DIR, or empty
    config.CACHE_DIR = str(Path(given or Path(__file__).parent / "__pycache__") / f"numba-{source}")
    try:
        function.enable_caching()
    except RuntimeError:  # no writable folder
        pass
    finally:
        config.CACHE_DIR = given


for entry in (
    forward_before,
    forward_after,
    backward_before,
    backward_after,
    add_columns,
    multiply,
):
    keep_code(entry)
