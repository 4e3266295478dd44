"""The fused variant's loops on a GPU, with Triton kernels for the elementwise work.

See ``layer.py`` for the equations and the notation. A launch costs more than the work of such a
kernel, so there is only one kernel between two products.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor

from gru_lm.models.fused.buffers import StepBuffers

try:
    import triton
    import triton.language as tl
except ImportError:  # only torch's CUDA builds include it
    triton = None


class KernelLoops:
    """``TorchLoops`` with one Triton kernel between two products."""

    @staticmethod
    def forward_before(steps: StepBuffers, W_zr: Tensor, W_hh: Tensor) -> None:
        for H, H_new, ZR, _, _, RH, C in steps.forward_steps:
            launch(_forward_gates, H.numel(), ZR.addmm_(W_zr, H), H, RH)
            launch(_forward_state, H.numel(), ZR, C.addmm_(W_hh, RH), H, H_new)

    @staticmethod
    def forward_after(steps: StepBuffers, W_h: Tensor) -> None:
        for H, H_new, gates, _, _, _, _, C in steps.forward_steps:
            launch(_forward_step, H.numel(), gates.addmm_(W_h, H), C, H, H_new)

    @staticmethod
    def backward_before(steps: StepBuffers, W_zr: Tensor, W_hh: Tensor) -> None:
        P = steps.P
        for G, G_old, dCdZ, dC, dR, dZR, Z, R, H, C in steps.backward_steps:
            launch(_backward_state, H.numel(), G, Z, C, H, dCdZ)
            torch.mm(W_hh, dC, out=P)
            launch(_backward_gates, H.numel(), P, G, Z, R, H, dR, G_old)
            G_old.addmm_(W_zr, dZR)

    @staticmethod
    def backward_after(steps: StepBuffers, W_h: Tensor) -> None:
        for G, G_old, dA, dZRN, _, gates, H, C in steps.backward_steps:
            launch(_backward_step, H.numel(), G, gates, C, H, dA, G_old)
            G_old.addmm_(W_h, dZRN)


@functools.cache
def triton_works(device: torch.device) -> bool:
    """Return whether Triton works on ``device``. It needs a C compiler and a recent GPU."""
    if triton is None:
        return False
    try:
        one = torch.ones(1, device=device)
        launch(_forward_state, 1, one, one.clone(), one, torch.empty_like(one))
    except Exception as error:  # of many types; fused works without Triton
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"fused runs without Triton, which fails: {reason}", stacklevel=2)
        return False
    return True


def launch(kernel: Any, n: int, *tensors: Tensor) -> None:
    """Run ``kernel`` on the ``n`` elements (hidden units times sequences) of one step."""
    kernel[(triton.cdiv(n, BLOCK),)](*tensors, n, BLOCK)


BLOCK = 256  # elements per program of a kernel

if triton is not None:  # GPU only
    # The tensors of a step have the layouts of StepBuffers.

    @triton.jit
    def _sigmoid(x: tl.tensor) -> tl.tensor:
        return 1 / (1 + tl.exp(-x))

    @triton.jit
    def _tanh(x: tl.tensor) -> tl.tensor:
        y = 2 * _sigmoid(2 * x) - 1
        if x.dtype == tl.float32:  # near zero y loses digits, and the series is exact to rounding
            s = x * x
            series = x * (1 + s * (-1 / 3 + s * (2 / 15 - s * 17 / 315)))
            y = tl.where(s < 0.0225, series, y)
        return y

    @triton.jit
    def _forward_gates(
        gates: tl.tensor, H: tl.tensor, RH: tl.tensor, n: int, BLOCK: tl.constexpr
    ) -> None:
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        there = i < n
        Z = _sigmoid(tl.load(gates + i, there))
        R = _sigmoid(tl.load(gates + n + i, there))
        tl.store(gates + i, Z, there)
        tl.store(gates + n + i, R, there)
        tl.store(RH + i, R * tl.load(H + i, there), there)

    @triton.jit
    def _forward_state(
        Z: tl.tensor, C: tl.tensor, H: tl.tensor, H_new: tl.tensor, n: int, BLOCK: tl.constexpr
    ) -> None:
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        there = i < n
        candidate = _tanh(tl.load(C + i, there))
        tl.store(C + i, candidate, there)
        state = candidate + tl.load(Z + i, there) * (tl.load(H + i, there) - candidate)
        tl.store(H_new + i, state, there)

    @triton.jit
    def _forward_step(
        gates: tl.tensor, C: tl.tensor, H: tl.tensor, H_new: tl.tensor, n: int, BLOCK: tl.constexpr
    ) -> None:
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        there = i < n
        Z = _sigmoid(tl.load(gates + i, there))
        R = _sigmoid(tl.load(gates + n + i, there))
        N = tl.load(gates + 2 * n + i, there)
        candidate = _tanh(tl.load(C + i, there) + R * N)
        tl.store(gates + i, Z, there)
        tl.store(gates + n + i, R, there)
        tl.store(C + i, candidate, there)
        tl.store(H_new + i, candidate + Z * (tl.load(H + i, there) - candidate), there)

    @triton.jit
    def _backward_state(
        G: tl.tensor,
        Z: tl.tensor,
        C: tl.tensor,
        H: tl.tensor,
        dCdZ: tl.tensor,
        n: int,
        BLOCK: tl.constexpr,
    ) -> None:
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        there = i < n
        g, z, c = tl.load(G + i, there), tl.load(Z + i, there), tl.load(C + i, there)
        h = tl.load(H + i, there)
        tl.store(dCdZ + i, g * (1 - z) * (1 - c * c), there)
        tl.store(dCdZ + n + i, g * (h - c) * z * (1 - z), there)

    @triton.jit
    def _backward_gates(
        P: tl.tensor,
        G: tl.tensor,
        Z: tl.tensor,
        R: tl.tensor,
        H: tl.tensor,
        dR: tl.tensor,
        G_old: tl.tensor,
        n: int,
        BLOCK: tl.constexpr,
    ) -> None:
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        there = i < n
        p, g, z = tl.load(P + i, there), tl.load(G + i, there), tl.load(Z + i, there)
        r, h = tl.load(R + i, there), tl.load(H + i, there)
        tl.store(dR + i, p * h * r * (1 - r), there)
        tl.store(G_old + i, tl.load(G_old + i, there) + g * z + p * r, there)

    @triton.jit
    def _backward_step(
        G: tl.tensor,
        gates: tl.tensor,
        C: tl.tensor,
        H: tl.tensor,
        dA: tl.tensor,
        G_old: tl.tensor,
        n: int,
        BLOCK: tl.constexpr,
    ) -> None:
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        there = i < n
        g, c, h = tl.load(G + i, there), tl.load(C + i, there), tl.load(H + i, there)
        z, r = tl.load(gates + i, there), tl.load(gates + n + i, there)
        N = tl.load(gates + 2 * n + i, there)
        dC = g * (1 - z) * (1 - c * c)
        tl.store(dA + i, dC, there)
        tl.store(dA + n + i, g * (h - c) * z * (1 - z), there)
        tl.store(dA + 2 * n + i, dC * N * r * (1 - r), there)
        tl.store(dA + 3 * n + i, dC * r, there)
        tl.store(G_old + i, tl.load(G_old + i, there) + g * z, there)
