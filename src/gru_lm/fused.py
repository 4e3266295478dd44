"""The fused variant: scratch's function, forward and backward derived by hand and made fast.

The equations are those of ``scratch.py``. Here a state is a column: H is (hidden units,
sequences), so that products read W H, and the weights are kept transposed and stacked, W_x in the
order candidate, update, reset (h, z, r) and W_h in the order z, r, h. A matrix library splits such
a product of a tall matrix with a few columns well among threads, and each gate is a contiguous
block of rows.

**Forward.** The input's part, W_x X + b, is picked for all steps before the loop; X is one-hot, so
that it is a column of W_x + b for each token. Only the products with the state remain inside.

**Backward.** Let G be the gradient of the loss with respect to the new state H': what comes from
the outputs, and what comes back from the step after. Write dA for the gradient with respect to
what stands in the brackets of A's nonlinearity, and * for the elementwise product. From
H' = Z * H + (1 - Z) * C, with C the candidate state::

    dC = G * (1 - Z) * (1 - C * C)                  as tanh' = 1 - tanh²
    dZ = G * (H - C) * Z * (1 - Z)                  as sigmoid' = sigmoid (1 - sigmoid)

With the reset gate before the product, C = tanh(W_xh X + W_hh (R * H) + b_h)::

    P  = W_hhᵀ dC                                   the gradient with respect to R * H
    dR = P * H * R * (1 - R)
    G of the step before += G * Z + P * R + W_hzᵀ dZ + W_hrᵀ dR

With the reset gate after it, C = tanh(W_xh X + b_h + R * N), N = W_hh H + b_hh::

    dN = dC * R
    dR = dC * N * R * (1 - R)
    G of the step before += G * Z + W_hzᵀ dZ + W_hrᵀ dR + W_hhᵀ dN

The gradients of all weights are sums over the steps, each one product after the loop:
dW_h[z, r] = Σ [dZ, dR] Hᵀ, dW_hh = Σ dC (R * H)ᵀ, or Σ dN Hᵀ, and dW_x adds [dC, dZ, dR] to the
column of each step's token.

The method is backpropagation through time (Werbos 1990); what is taken out of the loop is what
cuDNN takes out as well (Appleyard et al. 2016, arXiv:1604.01946).

**Between two products** all elementwise work is one compiled loop: by Numba for a CPU in float32,
by Triton for a GPU, where a launch costs more than such a loop. In other precisions on a CPU
torch's own operations do the same; what multiplies G (or P) elementwise depends on the forward pass
alone, and is then computed for all steps at once before the loop.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numba
import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gru_lm.model import LanguageModel

try:
    import triton
    import triton.language as tl
except ImportError:  # it comes with torch's builds for CUDA
    triton = None

Reset = Literal["before", "after"]


class Buffers:
    """Memory for one pass over T steps of B sequences, used again by the next one of that shape.

    Two layouts: by step, (T, rows, B), in which each step's block is contiguous for the loops; and
    by unit, (rows, T, B), in which all steps together are one matrix for the products outside them.
    ``forward_steps`` and ``backward_steps`` hold the views that the loops work on.
    """

    def __init__(
        self, like: Tensor, T: int, B: int, H: int, reset: Reset, products: torch.dtype
    ) -> None:
        rows = 3 * H if reset == "before" else 4 * H
        self.H = like.new_empty(T + 1, H, B)  # the first is the state before the first step
        self.gates = like.new_empty(T, 3 * H, B)  # Z, R, and R * H ("before") or N ("after")
        self.C = like.new_empty(T, H, B)
        self.dA = like.new_empty(T, rows, B)  # dC, dZ, dR, and dN ("after")
        self.G = like.new_empty(T + 1, H, B)
        self.P = like.new_empty(H, B)
        self.inputs_by_unit = like.new_empty(3 * H, T * B)
        self.states_by_unit = like.new_empty(H, T, B)
        self.old_by_unit = like.new_empty(H, T, B, dtype=products)  # H, then R * H
        self.dA_by_unit = like.new_empty(rows, T, B, dtype=products)

        self.ZR, self.third = self.gates.split((2 * H, H), dim=1)
        self.Z, self.R = self.ZR.split(H, dim=1)
        self.dC, self.dZ, self.dR = self.dA[:, : 3 * H].split(H, dim=1)
        self.dN = self.dA[:, 3 * H :]
        H_old, H_new, G_old, G_new = self.H[:-1], self.H[1:], self.G[:-1], self.G[1:]
        forward: tuple[Tensor, ...]
        backward: tuple[Tensor, ...]
        if reset == "before":
            forward = (H_old, H_new, self.ZR, self.Z, self.R, self.third, self.C)
            dCdZ = self.dA[:, : 2 * H].unflatten(1, (2, H))
            dZR = self.dA[:, H:]
            backward = (G_new, G_old, dCdZ, self.dC, self.dR, dZR, self.Z, self.R, H_old, self.C)
        else:
            forward = (H_old, H_new, self.gates, self.ZR, self.Z, self.R, self.third, self.C)
            dA, dZRN = self.dA.unflatten(1, (4, H)), self.dA[:, H:]
            backward = (G_new, G_old, dA, dZRN, self.Z, self.gates, H_old, self.C)
        self.forward_steps = list(zip(*(one.unbind() for one in forward), strict=True))
        self.backward_steps = list(zip(*(one.unbind() for one in backward), strict=True))[::-1]
        if loops_for(like) is CompiledLoops:  # the same memory, as NumPy's arrays
            flat = (self.gates, self.C, H_old, H_new, self.dA, G_new, G_old)
            arrays = ([step.numpy() for step in one.flatten(1)] for one in flat)
            self.flat_steps = list(zip(*arrays, strict=True))
            self.flat_P = self.P.flatten().numpy()


class Loan:
    """Buffers that go back to ``free`` as soon as nothing needs the loan any more."""

    def __init__(self, buffers: Buffers, free: list[Buffers]) -> None:
        self.buffers, self._free = buffers, free

    def __del__(self) -> None:
        self._free.append(self.buffers)


class Recurrence(torch.autograd.Function):
    """The GRU layer over all steps; see the module for the derivation.

    The buffers come from ``pool`` and go back there with the autograd graph's end, or at once where
    no gradient is asked for. The states lie in them, so that they are overwritten by the next pass
    that takes the same buffers. Under bfloat16 autocast the products that give the
    weights' gradients are in bfloat16; those with the state stay as they are, as converting it at
    each step takes the time that they would save.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        state: Tensor,
        W_x: Tensor,
        W_h: Tensor,
        b_hh: Tensor | None,
        pool: dict[Any, list[Buffers]],
    ) -> tuple[Tensor, Tensor]:
        """States (H, T, B) after each token of ``tokens`` (T, B) from ``state`` (H, B) on.

        ``W_x`` (3H, V) holds the biases too; ``b_hh`` (H,) chooses the reset gate after the
        product. The last state (H, B) is the second result.
        """
        (T, B), H, device = tokens.shape, W_h.shape[1], W_h.device.type
        reset: Reset = "before" if b_hh is None else "after"
        mixed = torch.is_autocast_enabled(device)
        products = torch.get_autocast_dtype(device) if mixed else W_h.dtype
        # What is made in inference mode cannot be written in training.
        kind = (T, B, W_h.dtype, W_h.device, products, torch.is_inference_mode_enabled())
        free = pool.setdefault(kind, [])
        loan = Loan(free.pop() if free else Buffers(W_h, T, B, H, reset, products), free)
        buffers = loan.buffers

        torch.index_select(W_x, 1, tokens.flatten(), out=buffers.inputs_by_unit)
        inputs = buffers.inputs_by_unit.view(3 * H, T, B).transpose(0, 1)
        buffers.C.copy_(inputs[:, :H])
        buffers.ZR.copy_(inputs[:, H:])
        buffers.H[0] = state
        loops = loops_for(W_h)
        if b_hh is None:
            loops.forward_before(buffers, W_h[: 2 * H], W_h[2 * H :])
        else:
            buffers.third.copy_(b_hh[:, None])
            loops.forward_after(buffers, W_h)
        states = buffers.states_by_unit.copy_(buffers.H[1:].transpose(0, 1))

        if any(ctx.needs_input_grad):
            ctx.save_for_backward(tokens, W_h)
            ctx.set_materialize_grads(False)
            ctx.loan, ctx.reset, ctx.V = loan, reset, W_x.shape[1]
        return states.detach(), buffers.H[T].clone()  # a result becomes part of the graph

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_states: Tensor | None, d_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """The gradients with respect to state, W_x, W_h and b_hh."""
        tokens, W_h = ctx.saved_tensors
        buffers: Buffers = ctx.loan.buffers
        T, H = len(tokens), W_h.shape[1]

        if d_states is None:
            buffers.G.zero_()
        else:
            buffers.G[1:].copy_(d_states.transpose(0, 1))
            buffers.G[0].zero_()
        if d_last is not None:
            buffers.G[T] += d_last
        loops = loops_for(W_h)
        dW_h, d_b_hh = torch.empty_like(W_h), None
        if ctx.reset == "before":
            W_zr, W_hh = W_h[: 2 * H].T.contiguous(), W_h[2 * H :].T.contiguous()
            loops.backward_before(buffers, W_zr, W_hh)
            dA = _by_unit(buffers.dA, buffers.dA_by_unit)  # (3H, TB)
            dW_h[: 2 * H] = dA[H:] @ _by_unit(buffers.H[:-1], buffers.old_by_unit).T
            dW_h[2 * H :] = dA[:H] @ _by_unit(buffers.third, buffers.old_by_unit).T
        else:
            loops.backward_after(buffers, W_h.T.contiguous())
            dA = _by_unit(buffers.dA, buffers.dA_by_unit)  # (4H, TB)
            dW_h.copy_(dA[H:] @ _by_unit(buffers.H[:-1], buffers.old_by_unit).T)
            d_b_hh = buffers.dN.sum((0, 2))
        columns = dA[: 3 * H].to(W_h.dtype)
        dW_x = W_h.new_zeros(3 * H, ctx.V).index_add_(1, tokens.flatten(), columns)
        return None, buffers.G[0].clone(), dW_x, dW_h, d_b_hh, None


class TorchLoops:
    """The loops over the steps, by torch's operations, with the factors taken before the loop.

    Forward: W_zr (2H, H), W_hh (H, H), W_h (3H, H). Backward: the same, transposed.
    """

    @staticmethod
    def forward_before(buffers: Buffers, W_zr: Tensor, W_hh: Tensor) -> None:
        for H, H_new, ZR, Z, R, RH, C in buffers.forward_steps:
            ZR.addmm_(W_zr, H).sigmoid_()
            torch.mul(R, H, out=RH)
            C.addmm_(W_hh, RH).tanh_()
            torch.lerp(C, H, Z, out=H_new)

    @staticmethod
    def forward_after(buffers: Buffers, W_h: Tensor) -> None:
        for H, H_new, gates, ZR, Z, R, N, C in buffers.forward_steps:
            gates.addmm_(W_h, H)
            ZR.sigmoid_()
            C.addcmul_(R, N).tanh_()
            torch.lerp(C, H, Z, out=H_new)

    @staticmethod
    def backward_before(buffers: Buffers, W_zr: Tensor, W_hh: Tensor) -> None:
        TorchLoops._factors(buffers)
        P = buffers.P
        for G, G_old, dCdZ, dC, dR, dZR, Z, R, _, _ in buffers.backward_steps:
            dCdZ.mul_(G)
            torch.mm(W_hh, dC, out=P)
            dR.mul_(P)
            G_old.addcmul_(G, Z).addcmul_(P, R).addmm_(W_zr, dZR)

    @staticmethod
    def backward_after(buffers: Buffers, W_h: Tensor) -> None:
        TorchLoops._factors(buffers)
        for G, G_old, dA, dZRN, Z, _, _, _ in buffers.backward_steps:
            dA.mul_(G)
            G_old.addcmul_(G, Z).addmm_(W_h, dZRN)

    @staticmethod
    def _factors(buffers: Buffers) -> None:
        """What G (or P) is multiplied with to give dC, dZ, dR and dN, put in their places."""
        aten = torch.ops.aten
        H, Z, R, C = buffers.H[:-1], buffers.Z, buffers.R, buffers.C
        dC, dZ, dR, dN = buffers.dC, buffers.dZ, buffers.dR, buffers.dN
        torch.sub(1, Z, out=dC)
        aten.tanh_backward.grad_input(dC, C, grad_input=dC)  # (1 - Z)(1 - C²)
        torch.sub(H, C, out=dZ)
        aten.sigmoid_backward.grad_input(dZ, Z, grad_input=dZ)  # (H - C) Z (1 - Z)
        if dN.shape[1] == 0:
            aten.sigmoid_backward.grad_input(H, R, grad_input=dR)  # H R (1 - R)
        else:
            torch.mul(dC, buffers.third, out=dR)
            aten.sigmoid_backward.grad_input(dR, R, grad_input=dR)  # (1 - Z)(1 - C²) N R (1 - R)
            torch.mul(dC, R, out=dN)


class CompiledLoops:
    """The same loops on a CPU in float32, what stands between two products compiled."""

    @staticmethod
    def forward_before(buffers: Buffers, W_zr: Tensor, W_hh: Tensor) -> None:
        for step, flat in zip(buffers.forward_steps, buffers.flat_steps, strict=True):
            (H, _, ZR, _, _, RH, C), (gates_, C_, H_, H_new_, *_) = step, flat
            ZR.addmm_(W_zr, H)
            gates_forward(gates_, H_)
            C.addmm_(W_hh, RH)
            state_forward(gates_, C_, H_, H_new_)

    @staticmethod
    def forward_after(buffers: Buffers, W_h: Tensor) -> None:
        for step, flat in zip(buffers.forward_steps, buffers.flat_steps, strict=True):
            (H, _, gates, *_), (gates_, C_, H_, H_new_, *_) = step, flat
            gates.addmm_(W_h, H)
            step_forward(gates_, C_, H_, H_new_)

    @staticmethod
    def backward_before(buffers: Buffers, W_zr: Tensor, W_hh: Tensor) -> None:
        P, P_ = buffers.P, buffers.flat_P
        for step, flat in zip(buffers.backward_steps, reversed(buffers.flat_steps), strict=True):
            (_, G_old, _, dC, _, dZR, *_), (gates_, C_, H_, _, dA_, G_, G_old_) = step, flat
            state_backward(G_, gates_, C_, H_, dA_)
            torch.mm(W_hh, dC, out=P)
            gates_backward(P_, G_, gates_, H_, dA_, G_old_)
            G_old.addmm_(W_zr, dZR)

    @staticmethod
    def backward_after(buffers: Buffers, W_h: Tensor) -> None:
        for step, flat in zip(buffers.backward_steps, reversed(buffers.flat_steps), strict=True):
            (_, G_old, _, dZRN, *_), (gates_, C_, H_, _, dA_, G_, G_old_) = step, flat
            step_backward(G_, gates_, C_, H_, dA_, G_old_)
            G_old.addmm_(W_h, dZRN)


class KernelLoops:
    """The same loops with one Triton kernel between two products."""

    @staticmethod
    def forward_before(buffers: Buffers, W_zr: Tensor, W_hh: Tensor) -> None:
        for H, H_new, ZR, _, _, RH, C in buffers.forward_steps:
            launch(_forward_gates, H.numel(), ZR.addmm_(W_zr, H), H, RH)
            launch(_forward_state, H.numel(), ZR, C.addmm_(W_hh, RH), H, H_new)

    @staticmethod
    def forward_after(buffers: Buffers, W_h: Tensor) -> None:
        for H, H_new, gates, _, _, _, _, C in buffers.forward_steps:
            launch(_forward_step, H.numel(), gates.addmm_(W_h, H), C, H, H_new)

    @staticmethod
    def backward_before(buffers: Buffers, W_zr: Tensor, W_hh: Tensor) -> None:
        P = buffers.P
        for G, G_old, dCdZ, dC, dR, dZR, Z, R, H, C in buffers.backward_steps:
            launch(_backward_state, H.numel(), G, Z, C, H, dCdZ)
            torch.mm(W_hh, dC, out=P)
            launch(_backward_gates, H.numel(), P, G, Z, R, H, dR, G_old)
            G_old.addmm_(W_zr, dZR)

    @staticmethod
    def backward_after(buffers: Buffers, W_h: Tensor) -> None:
        for G, G_old, dA, dZRN, _, gates, H, C in buffers.backward_steps:
            launch(_backward_step, H.numel(), G, gates, C, H, dA, G_old)
            G_old.addmm_(W_h, dZRN)


def loops_for(weights: Tensor) -> type[TorchLoops] | type[CompiledLoops] | type[KernelLoops]:
    """The fastest loops for where ``weights`` lie, and for their precision."""
    if weights.is_cuda and triton_works(weights.device):
        return KernelLoops
    if weights.device.type == "cpu" and weights.dtype == torch.float32:
        return CompiledLoops
    return TorchLoops


@functools.cache
def triton_works(device: torch.device) -> bool:
    """Whether a kernel runs on ``device``. Triton needs a C compiler, and a GPU not too old."""
    if triton is None:
        return False
    try:
        one = torch.ones(1, device=device)
        launch(_forward_state, 1, one, one.clone(), one, torch.empty_like(one))
    except Exception as error:  # of many kinds; fused works without Triton
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"fused goes without Triton, which fails here: {reason}", stacklevel=2)
        return False
    return True


def launch(kernel: Any, n: int, *tensors: Tensor) -> None:
    """Run ``kernel`` over the ``n`` units of one step: hidden units times sequences."""
    kernel[(triton.cdiv(n, BLOCK),)](*tensors, n, BLOCK)


# The compiled loops over the n units of one step, hidden units times sequences. A step's arrays are
# blocks of n contiguous numbers, one after the other: Z, R, RH or N in gates; dC, dZ, dR, dN in dA.
# NaN stays NaN (fastmath without "nnan"): a training that diverges must be seen to.

compiled = numba.njit(fastmath={"contract", "nsz", "arcp"}, error_model="numpy")
Array = np.ndarray[Any, np.dtype[np.float32]]
one, half, edge = np.float32(1), np.float32(0.5), np.float32(9)
# tanh(x) = x P(x²) / Q(x²) for |x| <= 9, least squares of the relative error, refitted with Q as
# weight until it settled: below 3e-8, and below 4e-7 with float32's rounding.
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
    """tanh to 4e-7; NaN where ``x`` is NaN."""
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
    """1 / (1 + exp(-x)) to 4e-7; NaN where ``x`` is NaN."""
    return half + half * fast_tanh(half * x)


@compiled
def gates_forward(gates: Array, H: Array) -> None:
    n = len(H)
    for i in range(n):
        gates[i] = fast_sigmoid(gates[i])
    for i in range(n):
        R = fast_sigmoid(gates[n + i])
        gates[n + i] = R
        gates[2 * n + i] = R * H[i]


@compiled
def state_forward(gates: Array, C: Array, H: Array, H_new: Array) -> None:
    for i in range(len(H)):
        c = fast_tanh(C[i])
        C[i] = c
        H_new[i] = c + gates[i] * (H[i] - c)


@compiled
def step_forward(gates: Array, C: Array, H: Array, H_new: Array) -> None:
    n = len(H)
    for i in range(n):
        Z, R = fast_sigmoid(gates[i]), fast_sigmoid(gates[n + i])
        c = fast_tanh(C[i] + R * gates[2 * n + i])
        gates[i], gates[n + i], C[i] = Z, R, c
        H_new[i] = c + Z * (H[i] - c)


@compiled
def state_backward(G: Array, gates: Array, C: Array, H: Array, dA: Array) -> None:
    n = len(H)
    for i in range(n):
        g, z, c = G[i], gates[i], C[i]
        dA[i] = g * (one - z) * (one - c * c)
        dA[n + i] = g * (H[i] - c) * z * (one - z)


@compiled
def gates_backward(P: Array, G: Array, gates: Array, H: Array, dA: Array, G_old: Array) -> None:
    n = len(H)
    for i in range(n):
        p, r = P[i], gates[n + i]
        dA[2 * n + i] = p * H[i] * r * (one - r)
        G_old[i] += G[i] * gates[i] + p * r


@compiled
def step_backward(G: Array, gates: Array, C: Array, H: Array, dA: Array, G_old: Array) -> None:
    n = len(H)
    for i in range(n):
        g, z, r, c = G[i], gates[i], gates[n + i], C[i]
        dC = g * (one - z) * (one - c * c)
        dA[i] = dC
        dA[n + i] = g * (H[i] - c) * z * (one - z)
        dA[2 * n + i] = dC * gates[2 * n + i] * r * (one - r)
        dA[3 * n + i] = dC * r
        G_old[i] += g * z


BLOCK = 256  # units a program of a kernel takes

if triton is not None:  # GPU only
    # The same loops once more; a step's tensors are laid out in the same way.

    @triton.jit
    def _sigmoid(x: tl.tensor) -> tl.tensor:
        return 1 / (1 + tl.exp(-x))

    @triton.jit
    def _tanh(x: tl.tensor) -> tl.tensor:
        y = 2 * _sigmoid(2 * x) - 1
        if x.dtype == tl.float32:  # near zero that loses digits; the series is exact to rounding
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


def _by_unit(steps: Tensor, out: Tensor) -> Tensor:
    """(T, rows, B) as (rows, TB), copied into ``out``."""
    return out.copy_(steps.transpose(0, 1)).flatten(1)


class FusedGRU(LanguageModel):
    """Scratch's function with stacked weights.

    Parameters: W_x (3H, V), rows h, z, r; W_h (3H, H), rows z, r, h; b (3H,), as W_x; with reset
    "after" b_hh (H,); W_q (V, H); b_q (V,). ``state_dict`` and ``load_state_dict`` speak of
    scratch's parameters instead, W_xz to b_q, so that weights go from one to the other. The
    initial weights are scratch's from the same random state.
    """

    variant = "fused"

    def __init__(self, vocab_size: int, hidden_size: int, reset: Reset = "before") -> None:
        super().__init__(vocab_size, hidden_size, reset=reset)
        if reset not in ("before", "after"):
            raise ValueError(f"reset = {reset!r}: must be 'before' or 'after'")
        self.reset = reset
        V, H = vocab_size, hidden_size
        # Drawn in scratch's order: W_xz, W_hz, W_xr, W_hr, W_xh, W_hh, W_hq.
        (x_z, h_z), (x_r, h_r), (x_h, h_h) = [
            (torch.randn(V, H) * 0.01, torch.randn(H, H) * 0.01) for _ in range(3)
        ]
        self.W_x = nn.Parameter(torch.cat([x_h, x_z, x_r], dim=1).T.contiguous())
        self.W_h = nn.Parameter(torch.cat([h_z, h_r, h_h], dim=1).T.contiguous())
        self.b = nn.Parameter(torch.zeros(3 * H))
        self.b_hh = nn.Parameter(torch.zeros(H)) if reset == "after" else None
        self.W_q = nn.Parameter((torch.randn(H, V) * 0.01).T.contiguous())
        self.b_q = nn.Parameter(torch.zeros(V))
        self._pool: dict[Any, list[Buffers]] = {}
        self.register_state_dict_post_hook(_unstack)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_stack)  # type: ignore[no-untyped-call]

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor], reset: Reset = "before") -> FusedGRU:
        """Build the model from scratch's tensors by name; the tensors are copied.

        Raises ValueError where a name is missing or unknown or a shape does not fit.
        """
        if "W_hq" not in weights:
            raise ValueError("missing or unknown weights: W_hq")
        hidden_size, vocab_size = weights["W_hq"].shape
        model = cls(vocab_size, hidden_size, reset).to(weights["W_hq"].dtype)
        model.load_weights(weights)
        return model

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LanguageModel.forward``."""
        states, last = Recurrence.apply(  # type: ignore[no-untyped-call]
            tokens.T, state.T, self.W_x + self.b[:, None], self.W_h, self.b_hh, self._pool
        )  # (H, T, B), (H, B)
        logits = torch.addmm(self.b_q, states.flatten(1).T, self.W_q.T)  # (TB, V)
        return logits.unflatten(0, tokens.T.shape), last.T


def _unstack(module: FusedGRU, state: dict[str, Any], prefix: str, metadata: object) -> None:
    """Scratch's names and shapes in place of the stacked ones, after ``state_dict``."""

    def take(name: str) -> Tensor:
        tensor: Tensor = state.pop(prefix + name)
        return tensor

    (x_h, x_z, x_r), (h_z, h_r, h_h) = take("W_x").chunk(3), take("W_h").chunk(3)
    b_h, b_z, b_r = take("b").chunk(3)
    named = {"W_xz": x_z.T, "W_hz": h_z.T, "b_z": b_z}
    named |= {"W_xr": x_r.T, "W_hr": h_r.T, "b_r": b_r}
    named |= {"W_xh": x_h.T, "W_hh": h_h.T, "b_h": b_h}
    if module.b_hh is not None:
        named["b_hh"] = take("b_hh")
    named |= {"W_hq": take("W_q").T, "b_q": take("b_q")}
    state.update({prefix + name: tensor.contiguous() for name, tensor in named.items()})


def _stack(module: FusedGRU, state: dict[str, Any], prefix: str, *_: object) -> None:
    """The stacked tensors in place of scratch's, before ``load_state_dict``."""

    def stack(kind: str, gates: str) -> Tensor:
        return torch.cat([state.pop(f"{prefix}{kind}{gate}").T for gate in gates])

    state[prefix + "b"] = torch.cat([state.pop(f"{prefix}b_{gate}") for gate in "hzr"])
    state[prefix + "W_x"], state[prefix + "W_h"] = stack("W_x", "hzr"), stack("W_h", "zrh")
    state[prefix + "W_q"] = state.pop(prefix + "W_hq").T


Model = FusedGRU
