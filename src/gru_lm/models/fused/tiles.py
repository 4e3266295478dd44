"""Compiled products for the fused variant's loops on a CPU, in float32 or bfloat16.

A product W X is computed in tiles of ``ROWS`` rows and up to three vectors of ``LANES`` numbers,
which stay in vector registers until they are complete (Goto and van de Geijn 2008,
doi:10.1145/1356052.1356053). The weights are packed in the order in which the tiles read them.
Each number is summed in the order of W's columns, so it depends neither on the number of vectors in
its tile nor on the number of threads.

In bfloat16 the factors are pairs of numbers along K, two in 32 bits, with the first in the low
half. One instruction of AVX-512 BF16 multiplies two pairs and adds both products to a float32 sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

LANES = 16  # numbers per vector: one register of AVX-512, two of AVX2, four of NEON
ROWS = 8  # rows per tile: enough independent sums to hide the latency of a multiply-add

# fastmath without "nnan" keeps NaN, so that divergence is detected.
compiled = numba.njit(
    nogil=True, fastmath={"contract", "nsz", "arcp"}, error_model="numpy", boundscheck=False
)
Array = np.ndarray[Any, np.dtype[Any]]


def has_bfloat16_products() -> bool:
    """Return whether the processor has AVX-512 BF16."""
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512bf16", False))


def add_tile(vectors: int) -> Any:
    """Return an intrinsic that adds a product to a tile of ``vectors`` vectors per row."""

    def add(
        _: Any, out: Any, o: Any, W: Any, w: Any, X: Any, x: Any, L: Any, K: Any
    ) -> tuple[Any, Callable[..., Any]]:
        """Add the product of ``K`` packed columns of W and K rows of X to a tile of ``out``.

        out[o + L r + j] += sum over k of W[w + ROWS k + r] X[x + L k + j], for each row r and each
        of LANES * vectors lanes j. o, w and x are offsets in contiguous arrays of any shape. out
        is float32. W and X are float32, or int32 with two bfloat16 numbers each.
        """
        for array in (out, W, X):
            if array.layout != "C" or array.dtype not in (numba.float32, numba.int32):
                raise TypeError(f"products take contiguous float32 or int32 arrays, not {array}")
        if out.dtype is not numba.float32 or W.dtype is not X.dtype:
            raise TypeError(f"no product of {W} and {X} is added to {out}")
        number, index, bits = ir.FloatType(), ir.IntType(64), ir.IntType(32)
        vector = ir.VectorType(number, LANES)
        factor = vector if W.dtype is numba.float32 else ir.VectorType(bits, LANES)
        undefined, first = ir.Constant(factor, ir.Undefined), ir.Constant(bits, 0)
        every = ir.Constant(ir.VectorType(bits, LANES), [0] * LANES)

        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def start(array: int) -> Any:
                kind, value = signature.args[array], arguments[array]
                data = context.make_array(kind)(context, builder, value).data
                return builder.gep(data, [arguments[array + 1]])

            def at(base: Any, row: Any, v: int, kind: Any) -> Any:
                place = builder.add(builder.mul(arguments[6], row), index(LANES * v))
                return builder.bitcast(builder.gep(base, [place]), kind.as_pointer())

            out_, W_, X_ = start(0), start(2), start(4)
            name = (
                f"llvm.fmuladd.v{LANES}f32"
                if factor is vector
                else "llvm.x86.avx512bf16.dpbf16ps.512"
            )
            order = [factor, factor, vector] if factor is vector else [vector, factor, factor]
            multiply_add = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, order), name
            )
            tile = [(r, v) for r in range(ROWS) for v in range(vectors)]
            sums = {place: cgutils.alloca_once(builder, vector) for place in tile}  # registers
            for (r, v), total in sums.items():
                builder.store(builder.load(at(out_, index(r), v, vector), align=4), total)
            with cgutils.for_range(builder, arguments[7]) as loop:
                X_k = [builder.load(at(X_, loop.index, v, factor), align=4) for v in range(vectors)]
                W_k = builder.gep(W_, [builder.mul(index(ROWS), loop.index)])
                for r in range(ROWS):
                    weight = builder.load(builder.gep(W_k, [index(r)]))
                    weight = builder.insert_element(undefined, weight, first)
                    weight = builder.shuffle_vector(weight, undefined, every)
                    for v in range(vectors):
                        total = sums[r, v]
                        before = builder.load(total)
                        if factor is vector:
                            after = builder.call(multiply_add, [weight, X_k[v], before])
                        else:
                            after = builder.call(multiply_add, [before, weight, X_k[v]])
                        builder.store(after, total)
            for (r, v), total in sums.items():
                builder.store(builder.load(total), at(out_, index(r), v, vector), align=4)
            return context.get_dummy_value()

        return numba.void(out, o, W, w, X, x, L, K), build

    return intrinsic(add)


add_one, add_two, add_three = add_tile(1), add_tile(2), add_tile(3)


@compiled
def add_product(out: Array, o: int, W: Array, w: int, X: Array, L: int, K: int) -> None:
    """Add K packed columns of W times X (K, L) to the ROWS rows of ``out`` from ``o``."""
    at = 0
    if L % (3 * LANES) == 0:
        add_three(out, o, W, w, X, 0, L, K)
        return
    while L - at >= 2 * LANES:
        add_two(out, o + at, W, w, X, at, L, K)
        at += 2 * LANES
    if at < L:
        add_one(out, o + at, W, w, X, at, L, K)


# Arrays hold bfloat16 as int16, and pairs of it as int32. The functions below are chosen by the
# type of the arrays when a loop is compiled.


@compiled
def bfloat16(x: np.float32) -> np.int32:
    """Return the bits of ``x`` rounded to bfloat16, to even if halfway. NaN stays NaN."""
    bits = np.float32(x).view(np.int32)
    rounded = (bits + np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))) >> np.int32(16)
    return np.int32(0x7FC0) if x != x else rounded


def number(x: Any) -> Any:
    """Return an element ``x`` of an array as float32."""


@overload(number, strict=False)
def _number(x: Any) -> Any:
    if x == types.float32:
        return lambda x: x
    return lambda x: np.int32(np.int32(x) << np.int32(16)).view(np.float32)


def element(x: Any, array: Any) -> Any:
    """Return the float32 ``x`` as an element of ``array``."""


@overload(element, strict=False)
def _element(x: Any, array: Any) -> Any:
    if array.dtype == types.float32:
        return lambda x, array: x
    return lambda x, array: np.int16(bfloat16(x))


def factors(block: Any, pairs: Any, L: Any) -> Any:
    """Return ``block`` (K, L) as a factor of products. ``pairs`` receives it in bfloat16."""


@overload(factors, strict=False)
def _factors(block: Any, pairs: Any, L: Any) -> Any:
    def same(block: Any, pairs: Any, L: Any) -> Any:
        return block

    def packed(block: Any, pairs: Any, L: Any) -> Any:
        for k in range(len(block) // (2 * L)):
            first, second = block[2 * k * L : (2 * k + 1) * L], block[(2 * k + 1) * L :]
            out = pairs[k * L : (k + 1) * L]
            for j in range(len(out)):
                low, high = bfloat16(first[j]), bfloat16(second[j])
                out[j] = (low & np.int32(0xFFFF)) | (high << np.int32(16))
        return pairs[: len(block) // 2]

    return same if pairs.dtype == types.float32 else packed


def whole_factor(block: Any, pairs: Any) -> Any:
    """Return all of ``block`` as a factor, whose parts ``factors`` has packed into ``pairs``."""


@overload(whole_factor, strict=False)
def _whole_factor(block: Any, pairs: Any) -> Any:
    if pairs.dtype == types.float32:
        return lambda block, pairs: block
    return lambda block, pairs: pairs[: len(block) // 2]


def columns(W: Any, H: Any) -> Any:
    """Return the packed columns in a product with ``H`` rows: H, or H / 2 pairs."""


@overload(columns, strict=False)
def _columns(W: Any, H: Any) -> Any:
    if W.dtype == types.float32:
        return lambda W, H: H
    return lambda W, H: H // 2
