"""The fused variant's recurrent layer, with hand-derived forward and backward passes.

The equations are those of ``scratch/model.py``. A state is a column here: H is (hidden units,
sequences), and a product is W H. The weights are transposed and stacked, W_x in the order
candidate, update, reset (h, z, r) and W_h in the order z, r, h. Each gate is then a contiguous
block of rows. A matrix library splits a product of a tall matrix and a few columns well among
threads.

**Forward.** The input's part, W_x X + b, is computed for all steps before the loop. For one-hot X
this selects a column of W_x + b per token. Only the products with the state remain in the loop.

**Backward.** Let G be the gradient of the loss with respect to the new state H', the sum of the
contributions of the outputs and of the next step. Let dA be the gradient with respect to the
argument of A's nonlinearity, and * the elementwise product. From H' = Z * H + (1 - Z) * C, with C
the candidate state::

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

The gradients of the weights are sums over the steps. Each is one product after the loop:
dW_h[z, r] = Σ [dZ, dR] Hᵀ, dW_hh = Σ dC (R * H)ᵀ, or Σ dN Hᵀ, and dW_x = Σ [dC, dZ, dR] Xᵀ, which
adds to the column of each step's token if X is one-hot.

The method is backpropagation through time (Werbos 1990). cuDNN moves the same products out of the
loop (Appleyard et al. 2016, arXiv:1604.01946).

**Implementations.** On a CPU in float32 the whole loop is compiled (``cpu.py``). On a GPU a Triton
kernel does all elementwise work between two products (``gpu.py``). In all other cases torch's
operations do it (``torch_loops.py``). The factors of G (or P) depend on the forward pass alone, so
that implementation computes them for all steps before the loop.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gru_lm.models.base import loop_threads
from gru_lm.models.fused import tiles
from gru_lm.models.fused.buffers import Loan
from gru_lm.models.fused.cpu import FEWEST_SEQUENCES, Blocks
from gru_lm.models.fused.steps import Steps
from gru_lm.models.gru.family import Reset

Memory = Steps | Blocks
Pool = dict[Any, list[Memory]]  # free memory by the kind of pass that can use it


class Recurrence(torch.autograd.Function):
    """The GRU layer over all steps. The module's docstring has the derivation.

    A pass takes its memory from ``pool``. The memory is returned when the autograd graph is freed,
    or at once if no gradient is needed. It contains the states, so the next pass that takes it
    may overwrite them. Under bfloat16 autocast the products for the weights' gradients are in
    bfloat16.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        state: Tensor,
        W_x: Tensor,
        W_h: Tensor,
        b_hh: Tensor | None,
        pool: Pool,
    ) -> tuple[Tensor, Tensor]:
        """Return all states (H, T, B) and the last one (H, B).

        Read ``tokens`` (T, B) from ``state`` (H, B). ``W_x`` (3H, V) includes the biases. If
        ``b_hh`` (H,) is given, the reset gate acts after the product.
        """
        (T, B), H = tokens.shape, W_h.shape[1]
        loan = borrow(pool, T, B, W_h, b_hh, products_of(W_h))
        states, last = loan.memory.read_tokens(tokens, state, W_x, W_h, b_hh)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(tokens, W_h)
            ctx.set_materialize_grads(False)
            ctx.loan, ctx.states, ctx.V = loan, states, W_x.shape[1]
        return states[:H, 1:].detach(), last  # results become part of the graph

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_states: Tensor | None, d_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of state, W_x, W_h and b_hh, and None for tokens and pool."""
        tokens, W_h = ctx.saved_tensors
        memory = ctx.loan.memory
        found = memory.backward(d_states, d_last, ctx.states, W_h)
        dW_x = memory.add_columns(found.dA, tokens, ctx.V)
        return None, found.state, dW_x, found.W_h, found.b_hh, None


class DenseRecurrence(torch.autograd.Function):
    """The GRU layer over all steps for inputs X of any numbers, with gradients to them.

    The compiled loops compute W_x X + b and dX = W_xᵀ dA step by step, which saves writing and
    reading them for all steps. Otherwise both are one product for all steps. So are dW_x = Σ dA Xᵀ
    and dW_h. Under bfloat16 autocast these products and, on a CPU with AVX-512
    BF16, those with the state are in bfloat16. The memory is that of ``Recurrence``, but the
    caller may keep the states.
    """

    @staticmethod
    def forward(
        ctx: Any,
        X: Tensor,
        state: Tensor,
        W_x: Tensor,
        b: Tensor,
        W_h: Tensor,
        b_hh: Tensor | None,
        pool: Pool,
    ) -> tuple[Tensor, Tensor]:
        """Return all states (H, T, B), under autocast in its type, and the last one (H, B).

        Read ``X`` (T, B, I) from ``state`` (H, B). If ``b_hh`` (H,) is given, the reset gate acts
        after the product.
        """
        (T, B, _), H, products = X.shape, W_h.shape[1], products_of(W_h)
        loan = borrow(pool, T, B, W_h, b_hh, products)
        X_, W_x_ = X.flatten(0, 1).to(products), W_x.to(products)
        with torch.autocast(X.device.type, enabled=False):
            states, last = loan.memory.read(X_, state, W_x_, b, W_h, b_hh)
        outputs = states.to(products)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(X_, W_x_, W_h, outputs)
            ctx.set_materialize_grads(False)
            ctx.loan, ctx.dtype = loan, X.dtype
        return outputs[:H, 1:], last

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_states: Tensor | None, d_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of X, state, W_x, b, W_h and b_hh, and None for the pool."""
        X, W_x, W_h, states = ctx.saved_tensors
        memory = ctx.loan.memory
        needed = W_x if ctx.needs_input_grad[0] else None
        found = memory.backward(d_states, d_last, states, W_h, needed)
        dX = None if needed is None or found.dX is None else found.dX.to(ctx.dtype)
        dW_x = memory.input_weights(found.dA, X).to(W_h.dtype)
        return dX, found.state, dW_x, found.b, found.W_h, found.b_hh, None


def products_of(weights: Tensor) -> torch.dtype:
    """Return the type of matrix products with ``weights``, which is autocast's if it is enabled."""
    device = weights.device.type
    mixed = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if mixed else weights.dtype


def short_products(weights: Tensor) -> bool:
    """Return whether the products with the state of ``weights`` are in bfloat16."""
    cpu = weights.device.type == "cpu" and weights.dtype == torch.float32
    return cpu and products_of(weights) == torch.bfloat16 and tiles.has_bfloat16_products()


def borrow(
    pool: Pool, T: int, B: int, W_h: Tensor, b_hh: Tensor | None, products: torch.dtype
) -> Loan[Memory]:
    """Return memory for a pass over T steps of B sequences, from ``pool`` if it has some."""
    reset: Reset = "before" if b_hh is None else "after"
    # Blocks are grouped by threads. Tensors of inference mode cannot be written to in training.
    mode = loop_threads(), torch.is_inference_mode_enabled()
    kind = (T, B, W_h.dtype, W_h.device, products, *mode)
    free = pool.setdefault(kind, [])
    memory = free.pop() if free else memory_for(W_h, B)(W_h, T, B, W_h.shape[1], reset, products)
    return Loan(memory, free)


def memory_for(W_h: Tensor, B: int) -> type[Steps] | type[Blocks]:
    """Return the fastest implementation. ``Blocks`` would leave most lanes empty for small B."""
    cpu = W_h.device.type == "cpu" and W_h.dtype == torch.float32
    return Blocks if cpu and B >= FEWEST_SEQUENCES else Steps
