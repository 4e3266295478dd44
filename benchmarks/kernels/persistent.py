"""A persistent Triton kernel for fused on a GPU, which runs the loop over all steps.

A program computes ``UNITS`` hidden units for ``SEQUENCES`` sequences at every step, so their
recurrent weights stay in its multiprocessor's cache. A step needs all units of the previous state,
so the programs of the same sequences wait for each other between the phases of a step (persistent
RNNs: Diamos et al. 2016, ICML; Appleyard et al. 2016, arXiv:1604.01946). This saves launches and
reads of the weights, but costs waiting. The speed has not been measured yet. ``race.py`` measures
it on a GPU. The kernel will move to ``gru_lm.models.fused.gpu`` only if it is faster.

``PersistentLoops`` has the interface of ``gru_lm.models.fused.gpu.KernelLoops``, in float32 only.
Its phases can also be launched one by one. Triton's interpreter needs this, as it runs programs one
after the other.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from gru_lm.models.fused.gpu import _sigmoid, _tanh
from gru_lm.models.fused.steps import Steps


class PersistentLoops:
    """The four loops of ``gru_lm.models.fused.torch_loops.TorchLoops``, with one launch each.

    Forward: W_zr (2H, H), W_hh (H, H), W_h (3H, H). Backward: their transposes.
    """

    UNITS: ClassVar[int] = 16
    SEQUENCES: ClassVar[int] = 16
    TERMS: ClassVar[int] = 64  # terms of a product per iteration
    WARPS: ClassVar[int] = 8  # causes few register spills (compute capability 9.0)
    together: ClassVar[bool] = True  # all phases in one launch; False: one launch per phase

    @classmethod
    def forward_before(cls, steps: Steps, W_zr: Tensor, W_hh: Tensor) -> None:
        tensors = (W_zr, W_hh, steps.H, steps.gates, steps.C)
        cls._launch(_forward_before, 2, steps, tensors)

    @classmethod
    def forward_after(cls, steps: Steps, W_h: Tensor) -> None:
        cls._launch(_forward_after, 1, steps, (W_h, steps.H, steps.gates, steps.C))

    @classmethod
    def backward_before(cls, steps: Steps, W_zr: Tensor, W_hh: Tensor) -> None:
        tensors = (W_zr, W_hh, steps.H, steps.gates, steps.C, steps.dA, steps.G)
        cls._launch(_backward_before, 3, steps, tensors)

    @classmethod
    def backward_after(cls, steps: Steps, W_h: Tensor) -> None:
        tensors = (W_h, steps.H, steps.gates, steps.C, steps.dA, steps.G)
        cls._launch(_backward_after, 2, steps, tensors)

    @classmethod
    def _launch(cls, kernel: Any, phases: int, steps: Steps, tensors: tuple[Tensor, ...]) -> None:
        T, H, B = steps.C.shape
        groups = triton.cdiv(B, cls.SEQUENCES)
        grid = (triton.cdiv(H, cls.UNITS) * groups,)
        sizes = (T, H, B, cls.UNITS, cls.SEQUENCES, cls.TERMS)
        arrived = torch.zeros(groups, dtype=torch.int32, device=steps.C.device)
        if cls.together:
            options = {"num_warps": cls.WARPS, "launch_cooperative_grid": True}
            kernel[grid](*tensors, arrived, 0, phases * T, *sizes, **options)
        else:
            for phase in range(phases * T):
                kernel[grid](*tensors, arrived, phase, phase + 1, *sizes, num_warps=cls.WARPS)


# A kernel runs the phases from first to last - 1. A program's units are rows u, its sequences are
# columns b, and a product processes ``K`` terms per iteration. The tensors of a step are those of
# ``gru_lm.models.fused.buffers.StepBuffers``.


@triton.jit
def _meet(arrived: tl.tensor, goal: int) -> None:
    """Wait for ``goal`` arrivals. All programs then see earlier stores."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release")
    while tl.atomic_add(arrived, 0, sem="acquire") < goal:
        pass
    tl.debug_barrier()


@triton.jit
def _product(
    W: tl.tensor,
    inner: int,
    u: tl.tensor,
    X: tl.tensor,
    b: tl.tensor,
    H: int,
    B: int,
    K: tl.constexpr,
) -> tl.tensor:
    """Multiply rows ``u`` of W (H, inner) by columns ``b`` of X (inner, B).

    The weights are the same at each step and stay in the multiprocessor's cache. X is stored by all
    programs, so it is read bypassing that cache.
    """
    total = tl.full((u.shape[0], b.shape[0]), 0.0, tl.float32)
    for start in range(0, inner, K):
        k = start + tl.arange(0, K)
        w_at, w_in = u[:, None] * inner + k[None, :], (u < H)[:, None] & (k < inner)[None, :]
        x_at, x_in = k[:, None] * B + b[None, :], (k < inner)[:, None] & (b < B)[None, :]
        w = tl.load(W + w_at, w_in, 0.0, eviction_policy="evict_last")
        x = tl.load(X + x_at, x_in, 0.0, cache_modifier=".cg")
        total = tl.dot(w, x, total, input_precision="ieee")
    return total


@triton.jit
def _products(
    W: tl.tensor, u: tl.tensor, X: tl.tensor, b: tl.tensor, H: int, B: int, K: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Return ``_product`` for the first and for the second H rows of W (2H, H)."""
    first = tl.full((u.shape[0], b.shape[0]), 0.0, tl.float32)
    second = tl.full((u.shape[0], b.shape[0]), 0.0, tl.float32)
    for start in range(0, H, K):
        k = start + tl.arange(0, K)
        w_at, w_in = u[:, None] * H + k[None, :], (u < H)[:, None] & (k < H)[None, :]
        x_at, x_in = k[:, None] * B + b[None, :], (k < H)[:, None] & (b < B)[None, :]
        x = tl.load(X + x_at, x_in, 0.0, cache_modifier=".cg")
        w = tl.load(W + w_at, w_in, 0.0, eviction_policy="evict_last")
        first = tl.dot(w, x, first, input_precision="ieee")
        w = tl.load(W + H * H + w_at, w_in, 0.0, eviction_policy="evict_last")
        second = tl.dot(w, x, second, input_precision="ieee")
    return first, second


@triton.jit
def _place(
    H: int, B: int, UNITS: tl.constexpr, SEQUENCES: tl.constexpr
) -> tuple[int, int, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Return the number of programs in the group, the group, u, b, the tile's offsets and mask."""
    programs = (H + UNITS - 1) // UNITS
    group = tl.program_id(0) // programs
    u = tl.program_id(0) % programs * UNITS + tl.arange(0, UNITS)
    b = group * SEQUENCES + tl.arange(0, SEQUENCES)
    at, here = u[:, None] * B + b[None, :], (u < H)[:, None] & (b < B)[None, :]
    return programs, group, u, b, at, here


@triton.jit
def _forward_before(
    W_zr: tl.tensor,
    W_hh: tl.tensor,
    Hs: tl.tensor,
    gates: tl.tensor,
    C: tl.tensor,
    arrived: tl.tensor,
    first: int,
    last: int,
    T: int,
    H: int,
    B: int,
    UNITS: tl.constexpr,
    SEQUENCES: tl.constexpr,
    K: tl.constexpr,
) -> None:
    programs, group, u, b, at, here = _place(H, B, UNITS, SEQUENCES)
    n = H * B
    for phase in range(first, last):
        t = phase // 2
        ZR, states = gates + t * 3 * n, Hs + t * n
        if phase % 2 == 0:
            z, r = _products(W_zr, u, states, b, H, B, K)
            Z, R = _sigmoid(tl.load(ZR + at, here) + z), _sigmoid(tl.load(ZR + n + at, here) + r)
            tl.store(ZR + at, Z, here)
            tl.store(ZR + n + at, R, here)
            tl.store(ZR + 2 * n + at, R * tl.load(states + at, here), here)
        else:
            c = _product(W_hh, H, u, ZR + 2 * n, b, H, B, K)
            c = _tanh(tl.load(C + t * n + at, here) + c)
            Z = tl.load(ZR + at, here)
            tl.store(C + t * n + at, c, here)
            tl.store(states + n + at, c + Z * (tl.load(states + at, here) - c), here)
        if phase + 1 < last:
            _meet(arrived + group, (phase + 1 - first) * programs)


@triton.jit
def _forward_after(
    W_h: tl.tensor,
    Hs: tl.tensor,
    gates: tl.tensor,
    C: tl.tensor,
    arrived: tl.tensor,
    first: int,
    last: int,
    T: int,
    H: int,
    B: int,
    UNITS: tl.constexpr,
    SEQUENCES: tl.constexpr,
    K: tl.constexpr,
) -> None:
    programs, group, u, b, at, here = _place(H, B, UNITS, SEQUENCES)
    n = H * B
    for t in range(first, last):
        ZRN, states = gates + t * 3 * n, Hs + t * n
        z, r = _products(W_h, u, states, b, H, B, K)
        Z, R = _sigmoid(tl.load(ZRN + at, here) + z), _sigmoid(tl.load(ZRN + n + at, here) + r)
        N = tl.load(ZRN + 2 * n + at, here)
        N += _product(W_h + 2 * H * H, H, u, states, b, H, B, K)
        c = _tanh(tl.load(C + t * n + at, here) + R * N)
        tl.store(ZRN + at, Z, here)
        tl.store(ZRN + n + at, R, here)
        tl.store(ZRN + 2 * n + at, N, here)
        tl.store(C + t * n + at, c, here)
        tl.store(states + n + at, c + Z * (tl.load(states + at, here) - c), here)
        if t + 1 < last:
            _meet(arrived + group, (t + 1 - first) * programs)


@triton.jit
def _backward_before(
    W_zr: tl.tensor,
    W_hh: tl.tensor,
    Hs: tl.tensor,
    gates: tl.tensor,
    C: tl.tensor,
    dA: tl.tensor,
    Gs: tl.tensor,
    arrived: tl.tensor,
    first: int,
    last: int,
    T: int,
    H: int,
    B: int,
    UNITS: tl.constexpr,
    SEQUENCES: tl.constexpr,
    K: tl.constexpr,
) -> None:
    programs, group, u, b, at, here = _place(H, B, UNITS, SEQUENCES)
    n = H * B
    for phase in range(first, last):
        t = T - 1 - phase // 3
        ZR, dCZR, G, G_old = gates + t * 3 * n, dA + t * 3 * n, Gs + (t + 1) * n, Gs + t * n
        if phase % 3 == 0:  # G of this step is complete; compute dC and dZ
            g, z = tl.load(G + at, here), tl.load(ZR + at, here)
            c, h = tl.load(C + t * n + at, here), tl.load(Hs + t * n + at, here)
            tl.store(dCZR + at, g * (1 - z) * (1 - c * c), here)
            tl.store(dCZR + n + at, g * (h - c) * z * (1 - z), here)
        elif phase % 3 == 1:  # dR, and the elementwise terms of the previous step's G
            g, z = tl.load(G + at, here), tl.load(ZR + at, here)
            r, h = tl.load(ZR + n + at, here), tl.load(Hs + t * n + at, here)
            p = _product(W_hh, H, u, dCZR, b, H, B, K)
            tl.store(dCZR + 2 * n + at, p * h * r * (1 - r), here)
            tl.store(G_old + at, tl.load(G_old + at, here) + g * z + p * r, here)
        else:
            back = _product(W_zr, 2 * H, u, dCZR + n, b, H, B, K)
            tl.store(G_old + at, tl.load(G_old + at, here) + back, here)
        if phase + 1 < last:
            _meet(arrived + group, (phase + 1 - first) * programs)


@triton.jit
def _backward_after(
    W_h: tl.tensor,
    Hs: tl.tensor,
    gates: tl.tensor,
    C: tl.tensor,
    dA: tl.tensor,
    Gs: tl.tensor,
    arrived: tl.tensor,
    first: int,
    last: int,
    T: int,
    H: int,
    B: int,
    UNITS: tl.constexpr,
    SEQUENCES: tl.constexpr,
    K: tl.constexpr,
) -> None:
    programs, group, u, b, at, here = _place(H, B, UNITS, SEQUENCES)
    n = H * B
    for phase in range(first, last):
        t = T - 1 - phase // 2
        ZRN, dCZRN, G, G_old = gates + t * 3 * n, dA + t * 4 * n, Gs + (t + 1) * n, Gs + t * n
        g, z = tl.load(G + at, here), tl.load(ZRN + at, here)
        if phase % 2 == 0:
            r, N = tl.load(ZRN + n + at, here), tl.load(ZRN + 2 * n + at, here)
            c, h = tl.load(C + t * n + at, here), tl.load(Hs + t * n + at, here)
            dC = g * (1 - z) * (1 - c * c)
            tl.store(dCZRN + at, dC, here)
            tl.store(dCZRN + n + at, g * (h - c) * z * (1 - z), here)
            tl.store(dCZRN + 2 * n + at, dC * N * r * (1 - r), here)
            tl.store(dCZRN + 3 * n + at, dC * r, here)
        else:
            back = _product(W_h, 3 * H, u, dCZRN + n, b, H, B, K)
            tl.store(G_old + at, tl.load(G_old + at, here) + g * z + back, here)
        if phase + 1 < last:
            _meet(arrived + group, (phase + 1 - first) * programs)
